//! Maps as an object defines them and as an engine creates them.

use crate::btf::TypeId;
use std::fmt;

/// The kernel's number of a map type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MapType(pub u32);

macro_rules! map_types {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl MapType {
            $(#[doc = concat!("`BPF_MAP_TYPE_", stringify!($name), "`")]
            pub const $name: Self = Self($number);)*

            /// The kernel's name without `BPF_MAP_TYPE_`, in lower case.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

map_types! {
    HASH = 1, "hash";
    ARRAY = 2, "array";
    PROG_ARRAY = 3, "prog_array";
    PERF_EVENT_ARRAY = 4, "perf_event_array";
    PERCPU_HASH = 5, "percpu_hash";
    PERCPU_ARRAY = 6, "percpu_array";
    STACK_TRACE = 7, "stack_trace";
    CGROUP_ARRAY = 8, "cgroup_array";
    LRU_HASH = 9, "lru_hash";
    LRU_PERCPU_HASH = 10, "lru_percpu_hash";
    LPM_TRIE = 11, "lpm_trie";
    ARRAY_OF_MAPS = 12, "array_of_maps";
    HASH_OF_MAPS = 13, "hash_of_maps";
    DEVMAP = 14, "devmap";
    SOCKMAP = 15, "sockmap";
    CPUMAP = 16, "cpumap";
    XSKMAP = 17, "xskmap";
    SOCKHASH = 18, "sockhash";
    CGROUP_STORAGE = 19, "cgroup_storage";
    REUSEPORT_SOCKARRAY = 20, "reuseport_sockarray";
    PERCPU_CGROUP_STORAGE = 21, "percpu_cgroup_storage";
    QUEUE = 22, "queue";
    STACK = 23, "stack";
    SK_STORAGE = 24, "sk_storage";
    DEVMAP_HASH = 25, "devmap_hash";
    STRUCT_OPS = 26, "struct_ops";
    RINGBUF = 27, "ringbuf";
    INODE_STORAGE = 28, "inode_storage";
    TASK_STORAGE = 29, "task_storage";
    BLOOM_FILTER = 30, "bloom_filter";
    USER_RINGBUF = 31, "user_ringbuf";
    CGRP_STORAGE = 32, "cgrp_storage";
    ARENA = 33, "arena";
    INSN_ARRAY = 34, "insn_array";
}

impl fmt::Display for MapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "map type {}", self.0),
        }
    }
}

/// Index of a map in its object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MapIndex(pub u32);

impl MapIndex {
    /// As an index of `maps`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Index of a program in its (linked) object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ProgramIndex(pub u32);

impl ProgramIndex {
    /// As an index of `programs`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Where a map comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapOrigin {
    /// A definition in `.maps`.
    Explicit,
    /// A `.data*` section.
    Data,
    /// A `.rodata*` section.
    Rodata,
    /// A `.bss*` section.
    Bss,
    /// The `.kconfig` externs.
    Kconfig,
}

/// Bytes that a map starts with. What lies behind them, up to `len`, is zero.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Contents {
    /// The first bytes.
    pub bytes: Vec<u8>,
    /// Length with the zeroes behind.
    pub len: u64,
}

impl Contents {
    /// `len` zeroes.
    #[must_use]
    pub const fn zeroed(len: u64) -> Self {
        Self {
            bytes: Vec::new(),
            len,
        }
    }

    /// Exactly these bytes.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { bytes, len }
    }

    /// `N` bytes at `offset`, if they lie inside.
    #[must_use]
    pub fn get(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len)?;
        let (offset, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        let mut out = self
            .bytes
            .get(offset.min(self.bytes.len())..end.min(self.bytes.len()))?
            .to_vec();
        out.resize(end.checked_sub(offset)?, 0);
        Some(out)
    }

    /// Overwrites bytes at `offset`; `None`, and nothing done, if they do not lie inside.
    #[must_use]
    pub fn put(&mut self, offset: u64, value: &[u8]) -> Option<()> {
        let len = u64::try_from(value.len()).ok()?;
        let end = offset.checked_add(len).filter(|end| *end <= self.len)?;
        let (offset, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(offset..end)?.copy_from_slice(value);
        Some(())
    }
}

/// What the kernel (and an engine) treats specially inside a map's value, or an object that a
/// program allocates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpecialKind {
    /// `struct bpf_spin_lock`
    SpinLock,
    /// `struct bpf_res_spin_lock`
    ResSpinLock,
    /// `struct bpf_timer`
    Timer,
    /// `struct bpf_wq`
    Wq,
    /// `struct bpf_task_work`
    TaskWork,
    /// `struct bpf_list_head`
    ListHead,
    /// `struct bpf_list_node`
    ListNode,
    /// `struct bpf_rb_root`
    RbRoot,
    /// `struct bpf_rb_node`
    RbNode,
    /// `struct bpf_refcount`
    Refcount,
    /// A pointer tagged `kptr_untrusted`.
    KptrUntrusted,
    /// A pointer tagged `kptr`.
    KptrRef,
    /// A pointer tagged `percpu_kptr`.
    KptrPercpu,
    /// A pointer tagged `uptr`.
    Uptr,
}

/// A special field of a map's value or of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpecialField {
    /// What it is.
    pub kind: SpecialKind,
    /// Bytes from the start of the value.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// For pointers, the type pointed to, in the object's BTF.
    pub target: Option<TypeId>,
    /// For roots, what they hold, if they say so.
    pub contains: Option<Contained>,
}

/// What a list or tree holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contained {
    /// The struct, in the object's BTF.
    pub type_id: TypeId,
    /// Bytes from its start to its node.
    pub node_offset: u32,
}

/// What an entry of a map of maps or of a program array starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitialSlot {
    /// A map.
    Map(MapIndex),
    /// A program (index in the linked object).
    Program(ProgramIndex),
}
