//! Maps as user space sees them: `bpf(2)`'s map commands, and what ends with a map's owner.

use std::sync::Arc;

use harena_abi::{Cpu, Errno, KernAddr, UserAddr};
use harena_arena::Arena;

use crate::host::Host;
use crate::layout::Region;
use crate::maps::{
    Map, MapId, MapKind, Object, PerfCounts, PerfEvents, PerfSample, Storage, UpdateFlags, fits,
};
use crate::mem::GuestMem;
use crate::program::ProgId;
use crate::vm::Vm;

impl Vm {
    /// The arena of an arena map.
    #[must_use]
    pub fn arena(&self, map: MapId) -> Option<&Arc<Arena>> {
        let Storage::Arena { slot } = &self.maps.get(map.index())?.storage else {
            return None;
        };
        self.mem.arena(*slot)
    }

    /// Kernel address of an arena's 32-bit offset 0 (`bpf_arena_get_kern_vm_start()`).
    #[must_use]
    pub fn map_kern_vm_start(&self, map: MapId) -> Option<KernAddr> {
        Some(self.arena(map)?.kern_vm_start())
    }

    /// User address of an arena's first page (`bpf_arena_get_user_vm_start()`).
    #[must_use]
    pub fn map_user_vm_start(&self, map: MapId) -> Option<UserAddr> {
        self.arena(map)?.user_vm_start()
    }

    /// Where the value of a key lies; on a per-CPU map that of `cpu`, on a map of maps the map's
    /// kernel object.
    pub fn map_lookup(&mut self, map: MapId, key: &[u8], cpu: Cpu) -> Option<KernAddr> {
        let map = &mut self.maps[map.index()];
        (key.len() == map.key_len()).then(|| map.lookup(key, cpu))?
    }

    /// Sets the value of a key; on a per-CPU map that of the current CPU. What the kernel's fields
    /// in the old value own is dropped, as if it were another element.
    pub fn map_update(
        &mut self,
        map: MapId,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
        host: &mut dyn Host,
    ) -> Result<(), Errno> {
        let found = &mut self.maps[map.index()];
        if key.len() != found.key_len() || value.len() != found.spec.value_size as usize {
            return Err(Errno::EINVAL);
        }
        let victim = found.victim(key, flags);
        if let Some(oldest) = victim {
            self.map_delete(map, &oldest, host)?;
        }
        let cpu = host.cpu();
        let found = &mut self.maps[map.index()];
        found.update(&self.mem, key, value, flags, cpu)?;
        if !found.spec.special_fields.is_empty()
            && let Some(at) = found.lookup(key, cpu)
        {
            let fields = found.spec.special_fields.clone();
            self.free_fields(&fields, at, host);
        }
        Ok(())
    }

    /// Removes a key; what its value owns is dropped, and timers in it are cancelled.
    pub fn map_delete(&mut self, map: MapId, key: &[u8], host: &mut dyn Host) -> Result<(), Errno> {
        let found = &mut self.maps[map.index()];
        let size = found.block_size();
        if let Some(block) = found.delete(key)? {
            self.free_block(map, block, host);
            self.cancel_timers(block, size, host);
            self.mem.free(Region::Maps, block, size, 8);
        }
        Ok(())
    }

    /// Drops what the values of all maps own, as when nobody uses the maps any more.
    pub fn free_map_fields(&mut self, host: &mut dyn Host) {
        for index in 0..self.maps.len() {
            let map = &self.maps[index];
            let id = map.id;
            if map.spec.special_fields.is_empty() {
                continue;
            }
            let mut next = map.next_key(None);
            while let Some(key) = next {
                let map = &mut self.maps[index];
                let block = map.lookup(&key, Cpu::new(0));
                next = map.next_key(Some(&key));
                if let Some(block) = block {
                    self.free_block(id, block, host);
                }
            }
        }
        self.objects.free_dying(&self.mem, self.config.nr_cpus);
    }

    /// Drops what all copies of a value own.
    fn free_block(&mut self, map: MapId, block: KernAddr, host: &mut dyn Host) {
        let map = &self.maps[map.index()];
        if map.spec.special_fields.is_empty() {
            return;
        }
        let fields = map.spec.special_fields.clone();
        for copy in map.copies(block) {
            self.free_fields(&fields, copy, host);
        }
    }

    /// Every key, in the order programs walk them.
    #[must_use]
    pub fn map_keys(&self, map: MapId) -> Vec<Box<[u8]>> {
        self.maps[map.index()].keys()
    }

    /// Sets an entry of a map of maps.
    pub fn map_set_inner(
        &mut self,
        map: MapId,
        key: &[u8],
        inner: MapId,
        flags: UpdateFlags,
    ) -> Result<(), Errno> {
        let outer = &self.maps[map.index()];
        if !matches!(outer.kind, MapKind::ArrayOfMaps | MapKind::HashOfMaps) {
            return Err(Errno::EINVAL);
        }
        let template = outer.spec.inner.as_ref().expect("checked at creation");
        if !fits(template, &self.maps[inner.index()]) {
            return Err(Errno::EINVAL);
        }
        self.maps[map.index()].set_object(key, Object::Map(inner), flags)
    }

    /// The map in an entry of a map of maps.
    #[must_use]
    pub fn map_inner(&self, map: MapId, key: &[u8]) -> Option<MapId> {
        self.maps[map.index()].object_at(key)?.map()
    }

    /// Sets an entry of a program array; `map_delete` clears it.
    pub fn map_set_program(&mut self, map: MapId, index: u32, prog: ProgId) -> Result<(), Errno> {
        let shape = self.program(prog).shape();
        let array = &mut self.maps[map.index()];
        if array.kind != MapKind::ProgArray {
            return Err(Errno::EINVAL);
        }
        if index >= array.spec.max_entries {
            return Err(Errno::E2BIG);
        }
        array.claim(shape)?;
        let program = Object::Program(prog);
        array.set_object(&index.to_le_bytes(), program, UpdateFlags::Any)
    }

    /// The program in an entry of a program array.
    #[must_use]
    pub fn map_program(&self, map: MapId, index: u32) -> Option<ProgId> {
        let map = &self.maps[map.index()];
        map.object_at(&index.to_le_bytes())?.program()
    }

    /// Adds an element to a map without keys: a queue, a stack, or a Bloom filter.
    pub fn map_push(&mut self, map: MapId, value: &[u8], flags: UpdateFlags) -> Result<(), Errno> {
        let map = &mut self.maps[map.index()];
        if value.len() != map.spec.value_size as usize {
            return Err(Errno::EINVAL);
        }
        map.push(&self.mem, value, flags.raw())
    }

    /// Whether a value may be in a Bloom filter. A wrong yes is possible.
    pub fn bloom_holds(&self, map: MapId, value: &[u8]) -> Result<bool, Errno> {
        match self.maps[map.index()].peek_bloom(&self.mem, value) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// The key behind `after` (`BPF_MAP_GET_NEXT_KEY`), or the first one. As in the kernel, a key
    /// that is not there means the first one, too.
    pub fn map_next_key(&self, map: MapId, after: Option<&[u8]>) -> Result<Box<[u8]>, Errno> {
        let map = &self.maps[map.index()];
        if after.is_some_and(|key| key.len() != map.key_len()) {
            return Err(Errno::EINVAL);
        }
        map.key_after(after)
    }

    /// Takes the complete records of a ring buffer.
    pub fn ringbuf_drain(&mut self, map: MapId) -> Vec<Vec<u8>> {
        let ring = self.maps[map.index()].ring();
        ring.map_or_else(Vec::new, |ring| ring.drain(&self.mem))
    }

    /// Takes the samples that programs wrote to a perf event array, on all CPUs, oldest first.
    pub fn perf_drain(&mut self, map: MapId) -> Vec<PerfSample> {
        let events = self.maps[map.index()].perf();
        events.map_or_else(Vec::new, PerfEvents::drain)
    }

    /// How many samples programs have written to a perf event array, and how many were lost.
    pub fn perf_counts(&mut self, map: MapId) -> PerfCounts {
        let events = self.maps[map.index()].perf();
        events.map_or_else(PerfCounts::default, |events| events.counts())
    }

    /// Submits a sample to a user ring buffer: `E2BIG` if it can never fit, `ENOSPC` if it does
    /// not now.
    pub fn user_ringbuf_submit(&mut self, map: MapId, sample: &[u8]) -> Result<(), Errno> {
        let ring = self.maps[map.index()].user_ring();
        ring.ok_or(Errno::EINVAL)?.submit(sample)
    }

    /// A task or cgroup is gone: so is its local storage in all maps.
    pub fn storage_owner_gone(&mut self, owner: KernAddr, host: &mut dyn Host) {
        let key = owner.raw().to_le_bytes();
        for index in 0..self.maps.len() {
            let map = &self.maps[index];
            if matches!(map.kind, MapKind::TaskStorage | MapKind::CgrpStorage) {
                // Most maps hold nothing of this owner.
                let _absent = self.map_delete(map.id, &key, host);
            }
        }
    }

    /// Forgets all timers, as when a scheduler is unloaded.
    pub fn cancel_all_timers(&mut self, host: &mut dyn Host) {
        self.cancel_timers(Region::Maps.start(), u64::MAX, host);
    }

    pub(crate) fn cancel_timers(&mut self, start: KernAddr, len: u64, host: &mut dyn Host) {
        for timer in self.timers.remove_range(start, len) {
            host.timer_cancel(timer);
        }
    }
}

impl Map {
    /// Bytes of a key as it is looked up: local storage goes by the owner's address.
    fn key_len(&self) -> usize {
        match self.kind {
            MapKind::TaskStorage | MapKind::CgrpStorage => size_of::<u64>(),
            MapKind::Hash
            | MapKind::Array
            | MapKind::PercpuHash
            | MapKind::PercpuArray
            | MapKind::LruHash
            | MapKind::LpmTrie
            | MapKind::BloomFilter
            | MapKind::ArrayOfMaps
            | MapKind::HashOfMaps
            | MapKind::ProgArray
            | MapKind::PerfEventArray
            | MapKind::UserRingBuf
            | MapKind::Queue
            | MapKind::Stack
            | MapKind::RingBuf
            | MapKind::Arena => self.spec.key_size as usize,
        }
    }

    /// Copies a value over an existing one, around the fields that belong to the kernel (timers,
    /// locks, kptrs).
    pub(crate) fn write_value(
        &self,
        mem: &GuestMem,
        at: KernAddr,
        value: &[u8],
    ) -> Result<(), Errno> {
        let mut fields: Vec<(usize, usize)> = self
            .spec
            .special_fields
            .iter()
            .map(|f| (f.offset as usize, f.size as usize))
            .collect();
        fields.sort_unstable();
        let mut next = 0;
        for (start, size) in fields.into_iter().chain([(value.len(), 0)]) {
            if let Some(plain) = value.get(next..start) {
                let to = at.checked_add(next as u64).ok_or(Errno::EFAULT)?;
                mem.write_bytes(to, plain).map_err(|_fault| Errno::EFAULT)?;
            }
            next = start.saturating_add(size);
        }
        Ok(())
    }
}
