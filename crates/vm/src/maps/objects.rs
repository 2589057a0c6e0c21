//! Maps whose entries are kernel objects: maps of maps, and program arrays.
//!
//! Which object an entry names stays on the host's side; a program gets the address of a map's
//! kernel object. Entries are set from user space or declared in the object file. Mirrors the
//! fd arrays of `kernel/bpf/arraymap.c` and `kernel/bpf/map_in_map.c`.

use std::collections::BTreeMap;
use std::ops::Bound;

use harena_abi::Errno;
use harena_bpf::LinkedMap;

use super::keyed::ELEMENTS_MAX;
use super::{Map, MapId, MapKind, Storage, UpdateFlags};
use crate::program::{ProgId, ProgramShape};

/// What an entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Object {
    /// A map.
    Map(MapId),
    /// A program.
    Program(ProgId),
}

impl Object {
    pub(crate) const fn map(self) -> Option<MapId> {
        match self {
            Self::Map(map) => Some(map),
            Self::Program(_) => None,
        }
    }

    pub(crate) const fn program(self) -> Option<ProgId> {
        match self {
            Self::Program(prog) => Some(prog),
            Self::Map(_) => None,
        }
    }
}

/// The entries of one map.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    by_key: BTreeMap<Box<[u8]>, Object>,
    /// What the programs of a program array have in common, once there was one.
    owner: Option<ProgramShape>,
}

impl Objects {
    pub(crate) fn get(&self, key: &[u8]) -> Option<Object> {
        self.by_key.get(key).copied()
    }

    /// The first key behind `after`, which need not be there.
    pub(super) fn next_key(&self, after: Option<&[u8]>) -> Option<Box<[u8]>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_key.range::<[u8], _>((from, Bound::Unbounded));
        rest.next().map(|(key, _)| key.clone())
    }

    pub(super) fn keys(&self) -> Vec<Box<[u8]>> {
        self.by_key.keys().cloned().collect()
    }
}

/// Whether a map may stand where this one was declared (`bpf_map_meta_equal()`).
pub(crate) fn fits(template: &LinkedMap, map: &Map) -> bool {
    let (a, b) = (template, map.spec());
    let equal = a.map_type == b.map_type
        && a.key_size == b.key_size
        && a.value_size == b.value_size
        && a.map_flags == b.map_flags
        && a.special_fields == b.special_fields;
    match map.kind() {
        // The verifier knows the length of an array, unless it was told not to.
        MapKind::Array | MapKind::PercpuArray => {
            let any_length = a.map_flags & super::create::BPF_F_INNER_MAP != 0;
            equal && (any_length || a.max_entries == b.max_entries)
        }
        MapKind::Hash
        | MapKind::PercpuHash
        | MapKind::LruHash
        | MapKind::LpmTrie
        | MapKind::BloomFilter
        | MapKind::Queue
        | MapKind::Stack
        | MapKind::RingBuf
        | MapKind::TaskStorage
        | MapKind::CgrpStorage
        | MapKind::PerfEventArray
        | MapKind::UserRingBuf
        | MapKind::Arena => equal,
        MapKind::ArrayOfMaps | MapKind::HashOfMaps | MapKind::ProgArray => false,
    }
}

impl Map {
    /// What the entry of a key names.
    pub(crate) fn object_at(&self, key: &[u8]) -> Option<Object> {
        if let Storage::Objects(objects) = &self.storage {
            objects.get(key)
        } else {
            None
        }
    }

    /// Ties a program array to programs like this one, which uses it or is to be put in
    /// (`bpf_prog_map_compatible()`). The first one decides.
    pub(crate) fn claim(&mut self, shape: ProgramShape) -> Result<(), Errno> {
        let Storage::Objects(objects) = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        if *objects.owner.get_or_insert(shape) == shape {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Sets an entry; what it names was found to fit.
    pub(crate) fn set_object(
        &mut self,
        key: &[u8],
        object: Object,
        flags: UpdateFlags,
    ) -> Result<(), Errno> {
        let is_hash = self.kind == MapKind::HashOfMaps;
        let max_entries = self.spec.max_entries;
        let key_size = self.spec.key_size as usize;
        let Storage::Objects(objects) = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        if key.len() != key_size {
            return Err(Errno::EINVAL);
        }
        let there = objects.by_key.contains_key(key);
        if !is_hash {
            if flags != UpdateFlags::Any {
                return Err(Errno::EINVAL);
            }
            index_below(key, max_entries)?;
        } else if there && flags == UpdateFlags::NoExist {
            return Err(Errno::EEXIST);
        } else if !there && flags == UpdateFlags::Exist {
            return Err(Errno::ENOENT);
        } else if !there && objects.by_key.len() >= max_entries as usize {
            return Err(Errno::E2BIG);
        }
        if !there && objects.by_key.len() >= ELEMENTS_MAX {
            return Err(Errno::ENOMEM);
        }
        objects.by_key.insert(Box::from(key), object);
        Ok(())
    }

    /// Clears an entry.
    pub(crate) fn clear_object(&mut self, key: &[u8]) -> Result<(), Errno> {
        let is_hash = self.kind == MapKind::HashOfMaps;
        let max_entries = self.spec.max_entries;
        let Storage::Objects(objects) = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        if !is_hash {
            index_below(key, max_entries)?;
        }
        let gone = objects.by_key.remove(key);
        gone.map(|_| ()).ok_or(Errno::ENOENT)
    }
}

fn index_below(key: &[u8], max_entries: u32) -> Result<(), Errno> {
    let index = key.try_into().map_err(|_short| Errno::EINVAL)?;
    if u32::from_le_bytes(index) < max_entries {
        Ok(())
    } else {
        Err(Errno::E2BIG)
    }
}
