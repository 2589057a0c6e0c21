//! Creating maps: what the kernel's `map_alloc_check` callbacks refuse, with their errors.

use std::collections::{BTreeMap, VecDeque};

use harena_abi::{ArenaOffset, Errno, PAGE_SIZE, UserAddr};
use harena_arena::{Arena, ArenaSpec, Injection};
use harena_bpf::{Contents, LinkedMap, MapType, SpecialKind};

use super::bloom::{self, Bloom, HASH_FUNCS_MASK, Seed};
use super::ringbuf::RingBuf;
use super::trie::{LENGTH_SIZE, Trie};
use super::{Map, MapId, MapKind, Objects, PerfEvents, Storage, UserRing};
use crate::error::VmLoadError;
use crate::layout::Region;
use crate::mem::{ArenaSlot, CreateArenaError, GuestMem};
use crate::owned::BtfId;
use crate::vm::VmConfig;

const BPF_F_NO_PREALLOC: u32 = 1 << 0;
const BPF_F_NO_COMMON_LRU: u32 = 1 << 1;
const BPF_F_NUMA_NODE: u32 = 1 << 2;
const BPF_F_RDONLY_WRONLY: u32 = (1 << 3) | (1 << 4) | (1 << 7) | (1 << 8);
/// `BPF_F_RDONLY_PROG` and `BPF_F_WRONLY_PROG`.
const BPF_F_PROG_ACCESS: u32 = (1 << 7) | (1 << 8);
const BPF_F_ZERO_SEED: u32 = 1 << 6;
const BPF_F_CLONE: u32 = 1 << 9;
const BPF_F_MMAPABLE: u32 = harena_abi::bpf::BPF_F_MMAPABLE;
const BPF_F_PRESERVE_ELEMS: u32 = 1 << 11;
pub(super) const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Largest allocation of `kmalloc` on x86-64 with 4 KiB pages.
const KMALLOC_MAX_SIZE: u64 = 1 << 22;
/// `PCPU_MIN_UNIT_SIZE`: largest per-CPU value.
const PCPU_MIN_UNIT_SIZE: u64 = 32 << 10;
/// `BPF_LOCAL_STORAGE_MAX_VALUE_SIZE`, rounded down.
const LOCAL_STORAGE_MAX: u64 = 65_536 - 256;

type Refusal = (Errno, &'static str);

/// Checks a spec, allocates its values and writes their first content.
pub(crate) fn create(
    mem: &GuestMem,
    (id, btf): (MapId, BtfId),
    spec: &LinkedMap,
    config: &VmConfig,
) -> Result<Map, VmLoadError> {
    let mut spec = spec.clone();
    if spec.map_type == MapType::PERF_EVENT_ARRAY && spec.max_entries == 0 {
        // As libbpf does.
        spec.max_entries = config.nr_cpus;
    }
    // The template of the maps in a map is created, too, before the map.
    if let Some(inner) = spec.inner.as_deref() {
        checked(inner)?;
    }
    let kind = checked(&spec)?;
    let contents = std::mem::take(&mut spec.contents);
    let mut map = Map {
        id,
        spec,
        kind,
        btf,
        nr_cpus: config.nr_cpus,
        storage: Storage::Queue {
            blocks: VecDeque::new(),
        },
    };
    map.storage = storage(mem, &map, config)?;
    initialise(mem, &map, &contents)?;
    Ok(map)
}

fn storage(mem: &GuestMem, map: &Map, config: &VmConfig) -> Result<Storage, VmLoadError> {
    let spec = &map.spec;
    let entries = u64::from(spec.max_entries);
    Ok(match map.kind {
        MapKind::Array | MapKind::PercpuArray => {
            let region = if spec.frozen {
                Region::Rodata
            } else {
                Region::Maps
            };
            let size = map.block_size().saturating_mul(entries);
            let values = mem.alloc(region, size, if size < PAGE_SIZE { 8 } else { PAGE_SIZE })?;
            Storage::Array { values }
        }
        MapKind::Hash
        | MapKind::PercpuHash
        | MapKind::LruHash
        | MapKind::TaskStorage
        | MapKind::CgrpStorage => Storage::Keyed {
            blocks: BTreeMap::new(),
            order: (map.kind == MapKind::LruHash).then(BTreeMap::new),
            by_addr: (!spec.special_fields.is_empty()).then(BTreeMap::new),
            next_stamp: 0,
        },
        MapKind::Queue | MapKind::Stack => Storage::Queue {
            blocks: VecDeque::new(),
        },
        MapKind::BloomFilter => {
            let count = bloom::bit_count(spec.max_entries, spec.map_extra);
            let bits = mem.alloc(Region::Maps, count / 8, 8)?;
            let seed = if spec.map_flags & BPF_F_ZERO_SEED != 0 {
                Seed::Zero
            } else {
                Seed::Of(map.id)
            };
            Storage::Bloom(Bloom::new(bits, count, spec.map_extra, seed))
        }
        MapKind::ArrayOfMaps | MapKind::HashOfMaps | MapKind::ProgArray => {
            Storage::Objects(Objects::default())
        }
        MapKind::PerfEventArray => Storage::Perf(PerfEvents::new(spec.max_entries, config.nr_cpus)),
        MapKind::UserRingBuf => Storage::UserRing(UserRing::new(entries)),
        MapKind::LpmTrie => Storage::Trie(Trie::new(spec.key_size)),
        MapKind::RingBuf => {
            let data = mem.alloc(Region::Maps, entries, PAGE_SIZE)?;
            Storage::RingBuf(RingBuf::new(data, entries))
        }
        MapKind::Arena => Storage::Arena {
            slot: create_arena(mem, map, config)?,
        },
    })
}

/// User address of the first arena without `map_extra`; the next one lies 8 GiB further.
const ARENA_USER_BASE: u64 = 1 << 44;

/// Creates an arena and, where `map_extra` does not, fixes its user window, as the loader's
/// `mmap` does.
fn create_arena(mem: &GuestMem, map: &Map, config: &VmConfig) -> Result<ArenaSlot, VmLoadError> {
    let spec = &map.spec;
    let refuse = |errno, reason: String| VmLoadError::Map {
        map: spec.name.clone(),
        errno,
        reason,
    };
    let arena_spec = ArenaSpec {
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        map_flags: spec.map_flags,
        map_extra: spec.map_extra,
        byte_limit: config.arena_limit,
    };
    let slot = mem.create_arena(&arena_spec).map_err(|error| {
        let errno = match &error {
            CreateArenaError::TooMany { .. } => Errno::ENOSPC,
            CreateArenaError::Create(error) => error.errno(),
        };
        refuse(errno, error.to_string())
    })?;
    let arena = mem.arena(slot).expect("just created");
    arena.inject(&Injection {
        allocs: config.arena_fail,
        ..Injection::default()
    });
    if arena.user_vm_start().is_none() {
        let start = UserAddr::new(ARENA_USER_BASE + (u64::from(map.id.raw()) << 33));
        let placed = arena.set_user_window(start);
        placed.map_err(|error| refuse(error.errno(), error.to_string()))?;
    }
    Ok(slot)
}

/// Writes an arena's globals, on pages that are allocated for them.
fn initialise_arena(
    mem: &GuestMem,
    arena: &Arena,
    map: &Map,
    contents: &Contents,
) -> Result<(), VmLoadError> {
    let refuse = |reason: String| VmLoadError::Map {
        map: map.spec.name.clone(),
        errno: Errno::E2BIG,
        reason,
    };
    let too_long = || refuse(format!("{} bytes of globals do not fit", contents.len));
    let start = map.spec.contents_offset;
    let end = start.checked_add(contents.len).ok_or_else(too_long)?;
    let user_start = arena.user_vm_start().expect("placed at creation");
    let first = user_start.checked_add(start - start % PAGE_SIZE);
    let pages = end.div_ceil(PAGE_SIZE) - start / PAGE_SIZE;
    let pages = u32::try_from(pages).map_err(|_too_many| too_long())?;
    let allocated = arena.alloc_pages(first, pages, 0);
    allocated.map_err(|error| refuse(format!("globals: {error}")))?;
    let user = user_start.checked_add(start).ok_or_else(too_long)?;
    let at = arena.kern_addr(ArenaOffset::of(user));
    mem.write_bytes(at, &contents.bytes)
        .map_err(|fault| refuse(fault.to_string()))
}

/// Writes the first content of global data.
fn initialise(mem: &GuestMem, map: &Map, contents: &Contents) -> Result<(), VmLoadError> {
    if let Storage::Arena { slot } = &map.storage {
        if contents.len == 0 {
            return Ok(());
        }
        let arena = mem.arena(*slot).expect("just created");
        return initialise_arena(mem, arena, map, contents);
    }
    let Some(values) = map.value_addr().filter(|_| !contents.bytes.is_empty()) else {
        return Ok(());
    };
    let refuse = |errno, reason: &str| VmLoadError::Map {
        map: map.spec.name.clone(),
        errno,
        reason: reason.to_owned(),
    };
    if contents.bytes.len() as u64 > u64::from(map.spec.value_size) {
        return Err(refuse(
            Errno::E2BIG,
            "initial data is larger than the value",
        ));
    }
    mem.write_bytes(values, &contents.bytes)
        .map_err(|fault| refuse(Errno::EFAULT, &fault.to_string()))
}

fn ensure(ok: bool, errno: Errno, reason: &'static str) -> Result<(), Refusal> {
    if ok { Ok(()) } else { Err((errno, reason)) }
}

/// The kind of a map that a kernel would create.
fn checked(spec: &LinkedMap) -> Result<MapKind, VmLoadError> {
    let kind = MapKind::of(spec.map_type).ok_or_else(|| VmLoadError::MapType {
        map: spec.name.clone(),
        map_type: spec.map_type.to_string(),
    })?;
    let checked = check_extra(kind, spec)
        .and_then(|()| check(kind, spec))
        .and_then(|()| check_fields(kind, spec));
    checked.map_err(|(errno, reason)| VmLoadError::Map {
        map: spec.name.clone(),
        errno,
        reason: reason.to_owned(),
    })?;
    Ok(kind)
}

/// What `map_create()` itself looks at.
fn check_extra(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    let may = matches!(kind, MapKind::BloomFilter | MapKind::Arena);
    ensure(
        may || spec.map_extra == 0,
        Errno::EINVAL,
        "map_extra is not 0",
    )
}

/// What values of each map type may hold: `map_check_btf()`.
fn check_fields(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    use MapKind::{Array, CgrpStorage, Hash, LruHash, PercpuArray, PercpuHash, TaskStorage};
    let fields = &spec.special_fields;
    ensure(
        fields.is_empty() || spec.map_flags & BPF_F_PROG_ACCESS == 0,
        Errno::EACCES,
        "values with special fields, which programs may not read or write",
    )?;
    for field in fields {
        let may = match field.kind {
            SpecialKind::SpinLock | SpecialKind::ResSpinLock => {
                matches!(kind, Hash | Array | TaskStorage | CgrpStorage)
            }
            SpecialKind::Timer
            | SpecialKind::Wq
            | SpecialKind::TaskWork
            | SpecialKind::ListHead
            | SpecialKind::RbRoot => matches!(kind, Hash | LruHash | Array),
            SpecialKind::KptrUntrusted
            | SpecialKind::KptrRef
            | SpecialKind::KptrPercpu
            | SpecialKind::Refcount => matches!(
                kind,
                Hash | PercpuHash | LruHash | Array | PercpuArray | TaskStorage | CgrpStorage
            ),
            SpecialKind::Uptr => kind == TaskStorage,
            // Bytes like any others, outside of objects.
            SpecialKind::ListNode | SpecialKind::RbNode => true,
        };
        ensure(may, Errno::EOPNOTSUPP, "values with such a special field")?;
    }
    Ok(())
}

fn check(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    match kind {
        MapKind::Array | MapKind::PercpuArray => check_array(kind, spec),
        MapKind::Hash | MapKind::PercpuHash | MapKind::LruHash => check_hash(kind, spec),
        MapKind::Queue | MapKind::Stack => check_queue(spec),
        MapKind::LpmTrie => check_trie(spec),
        MapKind::BloomFilter => check_bloom(spec),
        MapKind::ProgArray | MapKind::PerfEventArray => check_fd_array(kind, spec),
        MapKind::UserRingBuf => check_ringbuf(spec),
        MapKind::ArrayOfMaps | MapKind::HashOfMaps => check_of_maps(kind, spec),
        MapKind::RingBuf => check_ringbuf(spec),
        MapKind::TaskStorage | MapKind::CgrpStorage => check_storage(spec),
        MapKind::Arena => Ok(()),
    }
}

fn check_sizes(spec: &LinkedMap) -> Result<(), Refusal> {
    ensure(spec.max_entries != 0, Errno::EINVAL, "max_entries is 0")?;
    ensure(spec.value_size != 0, Errno::EINVAL, "value_size is 0")
}

fn check_percpu(spec: &LinkedMap) -> Result<(), Refusal> {
    ensure(
        u64::from(spec.value_size).next_multiple_of(8) <= PCPU_MIN_UNIT_SIZE,
        Errno::E2BIG,
        "value_size is above the per-CPU limit",
    )
}

fn check_flags(spec: &LinkedMap, known: u32) -> Result<(), Refusal> {
    let unknown = spec.map_flags & !known;
    ensure(unknown == 0, Errno::EINVAL, "unknown map_flags")
}

fn check_array(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    const KNOWN: u32 = BPF_F_NUMA_NODE
        | BPF_F_MMAPABLE
        | BPF_F_RDONLY_WRONLY
        | BPF_F_PRESERVE_ELEMS
        | BPF_F_INNER_MAP;
    check_sizes(spec)?;
    ensure(spec.key_size == 4, Errno::EINVAL, "key_size is not 4")?;
    check_flags(spec, KNOWN)?;
    ensure(
        u64::from(spec.value_size) <= u64::from(i32::MAX.cast_unsigned()),
        Errno::E2BIG,
        "value_size is above 2^31",
    )?;
    ensure(
        kind == MapKind::Array || spec.map_flags & (BPF_F_MMAPABLE | BPF_F_INNER_MAP) == 0,
        Errno::EINVAL,
        "map_flags are for plain arrays",
    )?;
    ensure(
        kind == MapKind::PerfEventArray || spec.map_flags & BPF_F_PRESERVE_ELEMS == 0,
        Errno::EINVAL,
        "BPF_F_PRESERVE_ELEMS is for arrays of perf events",
    )?;
    if kind == MapKind::PercpuArray {
        check_percpu(spec)?;
    }
    Ok(())
}

fn check_hash(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    const KNOWN: u32 = BPF_F_NO_PREALLOC
        | BPF_F_NO_COMMON_LRU
        | BPF_F_NUMA_NODE
        | BPF_F_RDONLY_WRONLY
        | BPF_F_ZERO_SEED;
    check_sizes(spec)?;
    ensure(spec.key_size != 0, Errno::EINVAL, "key_size is 0")?;
    check_flags(spec, KNOWN)?;
    let lru = kind == MapKind::LruHash;
    ensure(
        lru || spec.map_flags & BPF_F_NO_COMMON_LRU == 0,
        Errno::EINVAL,
        "BPF_F_NO_COMMON_LRU without an LRU map",
    )?;
    ensure(
        !(lru && spec.map_flags & BPF_F_NO_PREALLOC != 0),
        Errno::ENOTSUPP,
        "BPF_F_NO_PREALLOC with an LRU map",
    )?;
    ensure(
        u64::from(spec.key_size) + u64::from(spec.value_size) < KMALLOC_MAX_SIZE - 64,
        Errno::E2BIG,
        "key_size and value_size are above the limit",
    )?;
    if kind == MapKind::PercpuHash {
        check_percpu(spec)?;
    }
    Ok(())
}

fn check_queue(spec: &LinkedMap) -> Result<(), Refusal> {
    check_sizes(spec)?;
    ensure(spec.key_size == 0, Errno::EINVAL, "key_size is not 0")?;
    check_flags(spec, BPF_F_NUMA_NODE | BPF_F_RDONLY_WRONLY)?;
    ensure(
        u64::from(spec.value_size) <= KMALLOC_MAX_SIZE,
        Errno::E2BIG,
        "value_size is above the limit",
    )
}

fn check_bloom(spec: &LinkedMap) -> Result<(), Refusal> {
    const KNOWN: u32 = BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | BPF_F_RDONLY_WRONLY;
    ensure(
        u64::from(spec.value_size) <= KMALLOC_MAX_SIZE,
        Errno::E2BIG,
        "value_size is above the limit",
    )?;
    check_sizes(spec)?;
    ensure(spec.key_size == 0, Errno::EINVAL, "key_size is not 0")?;
    check_flags(spec, KNOWN)?;
    ensure(
        spec.map_extra & !HASH_FUNCS_MASK == 0,
        Errno::EINVAL,
        "map_extra is no number of hash functions",
    )
}

fn check_of_maps(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    if kind == MapKind::ArrayOfMaps {
        check_fd_array(kind, spec)?;
    } else {
        ensure(spec.value_size == 4, Errno::EINVAL, "value_size is not 4")?;
        check_hash(kind, spec)?;
    }
    let inner = spec.inner.as_deref();
    let inner = inner.and_then(|inner| MapKind::of(inner.map_type));
    ensure(inner.is_some(), Errno::EBADF, "there is no inner map")?;
    ensure(
        !matches!(inner, Some(MapKind::ArrayOfMaps | MapKind::HashOfMaps)),
        Errno::EINVAL,
        "the inner map is a map of maps",
    )?;
    ensure(
        inner != Some(MapKind::ProgArray),
        Errno::ENOTSUPP,
        "the inner map is a program array",
    )
}

/// An array whose values are file descriptors for user space.
fn check_fd_array(kind: MapKind, spec: &LinkedMap) -> Result<(), Refusal> {
    ensure(spec.value_size == 4, Errno::EINVAL, "value_size is not 4")?;
    ensure(
        spec.map_flags & BPF_F_PROG_ACCESS == 0,
        Errno::EINVAL,
        "map_flags do not fit an array of objects",
    )?;
    check_array(kind, spec)
}

fn check_trie(spec: &LinkedMap) -> Result<(), Refusal> {
    /// `LPM_DATA_SIZE_MAX`.
    const DATA_SIZE_MAX: u64 = 256;
    /// `sizeof(struct lpm_trie_node)`.
    const NODE_SIZE: u64 = 40;
    const KNOWN: u32 = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY_WRONLY;
    check_sizes(spec)?;
    ensure(
        spec.map_flags & BPF_F_NO_PREALLOC != 0,
        Errno::EINVAL,
        "map_flags lack BPF_F_NO_PREALLOC",
    )?;
    check_flags(spec, KNOWN)?;
    let length_size = LENGTH_SIZE as u64;
    ensure(
        (length_size + 1..=length_size + DATA_SIZE_MAX).contains(&spec.key_size.into()),
        Errno::EINVAL,
        "key_size is not 4 and 1 to 256 bytes of data",
    )?;
    ensure(
        u64::from(spec.value_size) <= KMALLOC_MAX_SIZE - DATA_SIZE_MAX - NODE_SIZE,
        Errno::EINVAL,
        "value_size is above the limit",
    )
}

fn check_ringbuf(spec: &LinkedMap) -> Result<(), Refusal> {
    ensure(spec.key_size == 0, Errno::EINVAL, "key_size is not 0")?;
    ensure(spec.value_size == 0, Errno::EINVAL, "value_size is not 0")?;
    check_flags(spec, BPF_F_NUMA_NODE)?;
    let size = u64::from(spec.max_entries);
    ensure(
        size.is_power_of_two() && size.is_multiple_of(PAGE_SIZE),
        Errno::EINVAL,
        "max_entries is no power of two of whole pages",
    )
}

fn check_storage(spec: &LinkedMap) -> Result<(), Refusal> {
    ensure(
        spec.map_flags & !BPF_F_CLONE == BPF_F_NO_PREALLOC,
        Errno::EINVAL,
        "map_flags must be BPF_F_NO_PREALLOC",
    )?;
    ensure(spec.max_entries == 0, Errno::EINVAL, "max_entries is not 0")?;
    ensure(spec.key_size == 4, Errno::EINVAL, "key_size is not 4")?;
    ensure(spec.value_size != 0, Errno::EINVAL, "value_size is 0")?;
    ensure(
        u64::from(spec.value_size) <= LOCAL_STORAGE_MAX,
        Errno::E2BIG,
        "value_size is above the limit",
    )
}
