//! Maps: keys on the host's side, values in guest memory.
//!
//! A program holds two kinds of addresses here: of a map's kernel object (one slot of
//! `Region::MapObjects` per map, so an address names a map without a table) and of a
//! value. A deleted value's memory is cleared and may be handed out again: a program
//! that kept its address sees another value, as in the kernel, and never host memory.
//!
//! | type | values |
//! |---|---|
//! | array, global data | one block, by index |
//! | per-CPU array | one block, by CPU, then by index |
//! | hash, per-CPU hash | one block per key |
//! | queue, stack | one block per element |
//! | LPM trie | one block per prefix |
//! | Bloom filter | none: one block of bits |
//! | task, cgroup storage | one block per owner, keyed by the owner's address |
//! | ring buffer | the ring, twice the header's positions on the host's side |
//! | map of maps, program array | none: the maps or programs |
//! | perf event array, user ring buffer | none: samples on the host's side |
//! | arena | none: an arena |
//!
//! Errors are the kernel's (`kernel/bpf/{arraymap,hashtab,queue_stack_maps}.c`, and what the
//! modules name).

mod bloom;
mod create;
mod keyed;
mod objects;
mod perf;
mod queue;
mod ringbuf;
mod trie;
mod user_ringbuf;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;

use harena_abi::{Cpu, Errno, KernAddr};
use harena_bpf::{LinkedMap, MapType, SpecialKind};

use crate::layout::{MAP_OBJECT_STRIDE, Region};
use crate::mem::{ArenaSlot, GuestMem};
use crate::owned::BtfId;

pub(crate) use bloom::Bloom;
pub(crate) use objects::{Object, Objects, fits};
pub(crate) use perf::PerfEvents;
pub use perf::{PerfCounts, PerfSample};
pub(crate) use queue::Take;
pub(crate) use ringbuf::{Commit, RingBuf};
pub(crate) use trie::Trie;
pub(crate) use user_ringbuf::UserRing;

pub(crate) use create::create;

/// Number of a map in its VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MapId(pub(crate) u32);

impl MapId {
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The map whose kernel object lies at `addr`, if `addr` is where such objects start.
    pub(crate) fn from_object(addr: KernAddr) -> Option<Self> {
        let offset = addr.offset_from(Region::MapObjects.start())?;
        if offset % MAP_OBJECT_STRIDE != 0 {
            return None;
        }
        u32::try_from(offset / MAP_OBJECT_STRIDE).ok().map(Self)
    }

    /// Where the map's kernel object lies.
    pub(crate) fn object(self) -> KernAddr {
        let offset = u64::from(self.0) * MAP_OBJECT_STRIDE;
        Region::MapObjects
            .start()
            .checked_add(offset)
            .expect("map numbers are bounded by the region")
    }
}

/// Map types that are modelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the kernel's names say it")]
pub enum MapKind {
    Hash,
    Array,
    PercpuHash,
    PercpuArray,
    LruHash,
    LpmTrie,
    BloomFilter,
    ArrayOfMaps,
    HashOfMaps,
    ProgArray,
    PerfEventArray,
    UserRingBuf,
    Queue,
    Stack,
    RingBuf,
    TaskStorage,
    CgrpStorage,
    Arena,
}

impl MapKind {
    /// The kind of this type, if it is modelled.
    #[must_use]
    pub const fn of(map_type: MapType) -> Option<Self> {
        Some(match map_type {
            MapType::HASH => Self::Hash,
            MapType::ARRAY => Self::Array,
            MapType::PERCPU_HASH => Self::PercpuHash,
            MapType::PERCPU_ARRAY => Self::PercpuArray,
            MapType::LRU_HASH => Self::LruHash,
            MapType::LPM_TRIE => Self::LpmTrie,
            MapType::BLOOM_FILTER => Self::BloomFilter,
            MapType::ARRAY_OF_MAPS => Self::ArrayOfMaps,
            MapType::HASH_OF_MAPS => Self::HashOfMaps,
            MapType::PROG_ARRAY => Self::ProgArray,
            MapType::PERF_EVENT_ARRAY => Self::PerfEventArray,
            MapType::USER_RINGBUF => Self::UserRingBuf,
            MapType::QUEUE => Self::Queue,
            MapType::STACK => Self::Stack,
            MapType::RINGBUF => Self::RingBuf,
            MapType::TASK_STORAGE => Self::TaskStorage,
            MapType::CGRP_STORAGE => Self::CgrpStorage,
            MapType::ARENA => Self::Arena,
            _ => return None,
        })
    }
}

/// A flag of lookups and updates: hold the value's lock meanwhile.
pub(crate) const BPF_F_LOCK: u64 = 4;

/// `flags` of an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateFlags {
    /// `BPF_ANY`.
    Any,
    /// `BPF_NOEXIST`.
    NoExist,
    /// `BPF_EXIST`.
    Exist,
}

impl UpdateFlags {
    /// The flags in a helper's argument; `BPF_F_LOCK` changes nothing here.
    pub fn from_raw(raw: u64) -> Result<Self, Errno> {
        match raw & !BPF_F_LOCK {
            0 => Ok(Self::Any),
            1 => Ok(Self::NoExist),
            2 => Ok(Self::Exist),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `BPF_ANY`, `BPF_NOEXIST` or `BPF_EXIST`.
    pub(crate) const fn raw(self) -> u64 {
        match self {
            Self::Any => 0,
            Self::NoExist => 1,
            Self::Exist => 2,
        }
    }
}

/// Where a map keeps its values.
#[derive(Debug)]
pub(crate) enum Storage {
    /// `stride * max_entries` bytes, once per CPU if per-CPU.
    Array { values: KernAddr },
    /// A block per key.
    Keyed {
        blocks: BTreeMap<Box<[u8]>, Entry>,
        /// Keys by the stamp of their last use, if the oldest makes room.
        order: Option<BTreeMap<u64, Box<[u8]>>>,
        /// Keys by the address of their values, if something in these is looked up by address.
        by_addr: Option<BTreeMap<KernAddr, Box<[u8]>>>,
        next_stamp: u64,
    },
    /// A block per element, oldest first.
    Queue { blocks: VecDeque<KernAddr> },
    /// A block per prefix.
    Trie(Trie),
    /// Bits.
    Bloom(Bloom),
    /// What each entry names.
    Objects(Objects),
    /// Samples for the host.
    Perf(PerfEvents),
    /// Samples from the host.
    UserRing(UserRing),
    /// A ring of records.
    RingBuf(RingBuf),
    /// The pages of an arena.
    Arena { slot: ArenaSlot },
}

/// One element of a keyed map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) value: KernAddr,
    pub(crate) stamp: u64,
}

/// One map.
#[derive(Debug)]
pub struct Map {
    pub(crate) id: MapId,
    pub(crate) spec: LinkedMap,
    pub(crate) kind: MapKind,
    /// The types of the object file it is from.
    pub(crate) btf: BtfId,
    pub(crate) nr_cpus: u32,
    pub(crate) storage: Storage,
}

impl Map {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> MapId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was created from.
    #[must_use]
    pub fn spec(&self) -> &LinkedMap {
        &self.spec
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> MapKind {
        self.kind
    }

    /// Address of its kernel object: [`MAP_OBJECT_STRIDE`] bytes that the kernel crate may fill
    /// with a `struct bpf_map`.
    #[must_use]
    pub fn object(&self) -> KernAddr {
        self.id.object()
    }

    /// Address of the value of global data (or of element 0 of an array).
    #[must_use]
    pub fn value_addr(&self) -> Option<KernAddr> {
        if let Storage::Array { values } = &self.storage {
            Some(*values)
        } else {
            None
        }
    }

    /// The ring of a ring buffer.
    pub(crate) fn ring(&mut self) -> Option<&mut RingBuf> {
        if let Storage::RingBuf(ring) = &mut self.storage {
            Some(ring)
        } else {
            None
        }
    }

    /// The events of a perf event array.
    pub(crate) fn perf(&mut self) -> Option<&mut PerfEvents> {
        if let Storage::Perf(events) = &mut self.storage {
            Some(events)
        } else {
            None
        }
    }

    fn close_perf(&mut self, key: &[u8]) -> Result<(), Errno> {
        let entry = key.try_into().map_err(|_short| Errno::EINVAL)?;
        let events = self.perf().ok_or(Errno::EINVAL)?;
        events.close(u32::from_le_bytes(entry))
    }

    /// The ring of a user ring buffer.
    pub(crate) fn user_ring(&mut self) -> Option<&mut UserRing> {
        if let Storage::UserRing(ring) = &mut self.storage {
            Some(ring)
        } else {
            None
        }
    }

    /// Whether keys are array indices.
    pub(crate) fn is_array(&self) -> bool {
        matches!(self.storage, Storage::Array { .. })
    }

    /// Where `ldimm64` of a byte in the value points, for maps whose value has one address.
    pub(crate) fn direct_value_addr(&self) -> Option<u64> {
        let values = self.value_addr().filter(|_| self.kind == MapKind::Array);
        values.map(KernAddr::raw)
    }

    /// Bytes from one value to the next.
    pub(crate) fn stride(&self) -> u64 {
        u64::from(self.spec.value_size).next_multiple_of(8)
    }

    pub(crate) fn is_percpu(&self) -> bool {
        matches!(self.kind, MapKind::PercpuArray | MapKind::PercpuHash)
    }

    /// Bytes one element takes over all CPUs.
    pub(crate) fn block_size(&self) -> u64 {
        let copies = if self.is_percpu() {
            u64::from(self.nr_cpus)
        } else {
            1
        };
        self.stride() * copies
    }

    /// Bytes that an update or a delete of one element may go over.
    pub(crate) fn element_size(&self) -> u64 {
        let key_size = u64::from(self.spec.key_size);
        match &self.storage {
            Storage::Array { .. } => self.stride(),
            Storage::Keyed { .. } | Storage::Queue { .. } | Storage::Trie(_) => {
                self.block_size() + key_size
            }
            Storage::Bloom(_) => u64::from(self.spec.value_size),
            Storage::Objects(_) => key_size,
            Storage::Perf(_)
            | Storage::UserRing(_)
            | Storage::RingBuf(_)
            | Storage::Arena { .. } => 0,
        }
    }

    /// `bpf_map_lookup_elem` (`cpu`: whose copy, for per-CPU maps).
    pub(crate) fn lookup(&mut self, key: &[u8], cpu: Cpu) -> Option<KernAddr> {
        if self.is_percpu() && cpu.raw() >= self.nr_cpus {
            return None;
        }
        let offset = if self.is_percpu() {
            u64::from(cpu.raw())
        } else {
            0
        };
        match &mut self.storage {
            Storage::Array { values } => {
                let index = u32::from_le_bytes(key.try_into().ok()?);
                let base = *values;
                if index >= self.spec.max_entries {
                    return None;
                }
                base.checked_add(u64::from(index) * self.block_size() + offset * self.stride())
            }
            Storage::Keyed {
                blocks,
                order,
                next_stamp,
                ..
            } => {
                let entry = blocks.get_mut(key)?;
                if let Some(order) = order
                    && let Some(key) = order.remove(&entry.stamp)
                {
                    order.insert(*next_stamp, key);
                }
                entry.stamp = *next_stamp;
                *next_stamp += 1;
                let value = entry.value;
                value.checked_add(offset * self.stride())
            }
            Storage::Trie(trie) => trie.lookup(key).value,
            Storage::Objects(objects) => objects.get(key)?.map().map(MapId::object),
            Storage::Queue { .. }
            | Storage::Bloom(_)
            | Storage::Perf(_)
            | Storage::UserRing(_)
            | Storage::RingBuf(_)
            | Storage::Arena { .. } => None,
        }
    }

    /// `bpf_map_update_elem`; the value is copied from guest memory. See [`Map::victim`].
    pub(crate) fn update(
        &mut self,
        mem: &GuestMem,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
        cpu: Cpu,
    ) -> Result<(), Errno> {
        match self.kind {
            MapKind::Array | MapKind::PercpuArray => self.update_array(mem, key, value, flags, cpu),
            MapKind::Hash | MapKind::PercpuHash | MapKind::LruHash => {
                self.update_keyed(mem, key, value, flags, cpu)
            }
            MapKind::LpmTrie => self.update_trie(mem, key, value, flags),
            MapKind::Queue | MapKind::Stack | MapKind::BloomFilter => Err(Errno::EINVAL),
            // A value from user space is a file descriptor, and there are none.
            MapKind::ArrayOfMaps
            | MapKind::HashOfMaps
            | MapKind::ProgArray
            | MapKind::PerfEventArray => Err(Errno::EBADF),
            MapKind::RingBuf | MapKind::UserRingBuf => Err(Errno::ENOTSUPP),
            MapKind::Arena | MapKind::TaskStorage | MapKind::CgrpStorage => Err(Errno::EOPNOTSUPP),
        }
    }

    fn update_array(
        &mut self,
        mem: &GuestMem,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
        cpu: Cpu,
    ) -> Result<(), Errno> {
        let at = self.lookup(key, cpu).ok_or(Errno::E2BIG)?;
        if flags == UpdateFlags::NoExist {
            return Err(Errno::EEXIST);
        }
        if value.len() as u64 > self.stride() {
            return Err(Errno::EINVAL);
        }
        self.write_value(mem, at, value)
    }

    /// `bpf_map_delete_elem`. Gives the block of the value, to be freed once it owns nothing.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<Option<KernAddr>, Errno> {
        match self.kind {
            MapKind::Array | MapKind::PercpuArray | MapKind::Queue | MapKind::Stack => {
                Err(Errno::EINVAL)
            }
            MapKind::Hash
            | MapKind::PercpuHash
            | MapKind::LruHash
            | MapKind::TaskStorage
            | MapKind::CgrpStorage => self.delete_keyed(key).map(Some),
            MapKind::LpmTrie => self.delete_trie(key).map(Some),
            MapKind::ArrayOfMaps | MapKind::HashOfMaps | MapKind::ProgArray => {
                self.clear_object(key).map(|()| None)
            }
            MapKind::PerfEventArray => self.close_perf(key).map(|()| None),
            MapKind::UserRingBuf => Err(Errno::ENOTSUPP),
            MapKind::BloomFilter | MapKind::RingBuf | MapKind::Arena => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Every key, in the order a walk visits them.
    pub(crate) fn keys(&self) -> Vec<Box<[u8]>> {
        match &self.storage {
            Storage::Array { .. } => self.indices(),
            Storage::Objects(objects) if self.kind == MapKind::HashOfMaps => objects.keys(),
            Storage::Objects(_) | Storage::Perf(_) => self.indices(),
            Storage::Keyed { blocks, .. } => blocks.keys().cloned().collect(),
            Storage::Trie(trie) => trie.keys(),
            Storage::Queue { .. }
            | Storage::Bloom(_)
            | Storage::UserRing(_)
            | Storage::RingBuf(_)
            | Storage::Arena { .. } => Vec::new(),
        }
    }

    /// The keys of an array.
    fn indices(&self) -> Vec<Box<[u8]>> {
        let indices = 0..self.spec.max_entries;
        indices.map(|i| Box::from(i.to_le_bytes())).collect()
    }

    /// The index behind this one in an array.
    fn next_index(&self, after: Option<&[u8]>) -> Option<Box<[u8]>> {
        let index = match after {
            Some(key) => u32::from_le_bytes(key.try_into().ok()?).checked_add(1)?,
            None => 0,
        };
        (index < self.spec.max_entries).then(|| Box::from(index.to_le_bytes()))
    }

    /// `BPF_MAP_GET_NEXT_KEY`: a key that is not there starts again.
    pub(crate) fn key_after(&self, after: Option<&[u8]>) -> Result<Box<[u8]>, Errno> {
        let found = match &self.storage {
            Storage::Objects(objects) if self.kind == MapKind::HashOfMaps => {
                self.next_key(after.filter(|key| objects.get(key).is_some()))
            }
            Storage::Array { .. } | Storage::Objects(_) | Storage::Perf(_) => {
                let index = |key: &[u8]| Some(u32::from_le_bytes(key.try_into().ok()?));
                let known = |key: &&[u8]| index(key).is_some_and(|i| i < self.spec.max_entries);
                self.next_key(after.filter(known))
            }
            Storage::Keyed { blocks, .. } => {
                self.next_key(after.filter(|key| blocks.contains_key(*key)))
            }
            Storage::Trie(trie) => trie.next_key(after),
            Storage::Queue { .. } => return Err(Errno::EINVAL),
            Storage::RingBuf(_) | Storage::UserRing(_) => return Err(Errno::ENOTSUPP),
            Storage::Bloom(_) | Storage::Arena { .. } => return Err(Errno::EOPNOTSUPP),
        };
        found.ok_or(Errno::ENOENT)
    }

    /// The first key behind `after` in the order of [`Map::keys`], which need not be there
    /// any more; the very first without.
    pub(crate) fn next_key(&self, after: Option<&[u8]>) -> Option<Box<[u8]>> {
        match &self.storage {
            Storage::Objects(objects) if self.kind == MapKind::HashOfMaps => {
                objects.next_key(after)
            }
            Storage::Array { .. } | Storage::Objects(_) | Storage::Perf(_) => {
                self.next_index(after)
            }
            Storage::Keyed { blocks, .. } => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let mut rest = blocks.range::<[u8], _>((from, Bound::Unbounded));
                rest.next().map(|(key, _)| key.clone())
            }
            Storage::Trie(trie) => trie.next_key(after),
            Storage::Queue { .. }
            | Storage::Bloom(_)
            | Storage::UserRing(_)
            | Storage::RingBuf(_)
            | Storage::Arena { .. } => None,
        }
    }

    /// Elements that a search for an address goes over.
    pub(crate) fn search_len(&self) -> u64 {
        if let Storage::Keyed {
            blocks,
            by_addr: None,
            ..
        } = &self.storage
        {
            blocks.len() as u64
        } else {
            1
        }
    }

    /// Whether there are locks, lists, trees or kptrs in its values.
    pub(crate) fn owns_things(&self) -> bool {
        self.spec.special_fields.iter().any(|field| {
            matches!(
                field.kind,
                SpecialKind::SpinLock
                    | SpecialKind::ResSpinLock
                    | SpecialKind::ListHead
                    | SpecialKind::RbRoot
                    | SpecialKind::KptrRef
                    | SpecialKind::KptrPercpu
            )
        })
    }

    /// The copies of a value in its block: one, or one per CPU.
    pub(crate) fn copies(&self, block: KernAddr) -> impl Iterator<Item = KernAddr> + use<> {
        let (stride, size) = (self.stride(), self.block_size());
        let offsets = (0..size).step_by(usize::try_from(stride.max(1)).unwrap_or(usize::MAX));
        offsets.filter_map(move |offset| block.checked_add(offset))
    }

    /// Where the block of the value starts that holds `addr`, in a map of which that is known.
    pub(crate) fn block_of(&self, addr: KernAddr) -> Option<KernAddr> {
        if let Storage::Keyed {
            by_addr: Some(by_addr),
            ..
        } = &self.storage
        {
            let (block, _) = by_addr.range(..=addr).next_back()?;
            let offset = addr.offset_from(*block)?;
            return (offset < self.block_size()).then_some(*block);
        }
        self.element_of(addr).map(|(_, block)| block)
    }

    /// The key of the element whose value holds `addr`, and where that value starts.
    pub(crate) fn element_of(&self, addr: KernAddr) -> Option<(Box<[u8]>, KernAddr)> {
        match &self.storage {
            Storage::Array { values } => {
                let offset = addr.offset_from(*values)?;
                let index = u32::try_from(offset / self.block_size()).ok()?;
                if index >= self.spec.max_entries {
                    return None;
                }
                let value = values.checked_add(u64::from(index) * self.block_size())?;
                Some((Box::from(index.to_le_bytes()), value))
            }
            Storage::Keyed {
                by_addr: Some(by_addr),
                ..
            } => {
                let (value, key) = by_addr.range(..=addr).next_back()?;
                let offset = addr.offset_from(*value)?;
                (offset < self.block_size()).then(|| (key.clone(), *value))
            }
            Storage::Keyed { blocks, .. } => blocks.iter().find_map(|(key, entry)| {
                let offset = addr.offset_from(entry.value)?;
                (offset < self.block_size()).then(|| (key.clone(), entry.value))
            }),
            Storage::Queue { .. }
            | Storage::Trie(_)
            | Storage::Bloom(_)
            | Storage::Objects(_)
            | Storage::Perf(_)
            | Storage::UserRing(_)
            | Storage::RingBuf(_)
            | Storage::Arena { .. } => None,
        }
    }
}
