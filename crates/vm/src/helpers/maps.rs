//! Helpers on maps.

use harena_abi::{Cpu, Errno, KernAddr};

use super::{Answer, Ctx, Fail};
use crate::maps::{
    BPF_F_LOCK, Commit, Map, MapId, MapKind, PerfEvents, RingBuf, Storage, Take, UpdateFlags,
};

fn key(ctx: &mut Ctx<'_>, map: MapId, key: u64) -> Result<Vec<u8>, Fail> {
    let size = ctx.vm.map(map).spec().key_size;
    ctx.bytes(key, u64::from(size))
}

/// Counts the work on all copies of an element, one of which may be cleared.
fn charge_element(ctx: &mut Ctx<'_>, map: MapId) -> Result<(), Fail> {
    let bytes = ctx.vm.map(map).element_size();
    Ok(ctx.vm.charge_bytes(bytes)?)
}

fn pointer(addr: Option<KernAddr>) -> u64 {
    addr.unwrap_or(KernAddr::NULL).raw()
}

/// `bpf_map_lookup_elem(map, key)`.
pub(super) fn lookup(ctx: &mut Ctx<'_>, [map, key_at, ..]: [u64; 5]) -> Answer {
    let cpu = ctx.host.cpu();
    lookup_on(ctx, map, key_at, cpu)
}

/// `bpf_map_lookup_percpu_elem(map, key, cpu)`.
pub(super) fn lookup_percpu(ctx: &mut Ctx<'_>, [map, key_at, cpu, ..]: [u64; 5]) -> Answer {
    let cpu = u32::try_from(cpu & 0xffff_ffff).expect("masked");
    if cpu >= ctx.vm.config.nr_cpus {
        return Ok(0);
    }
    lookup_on(ctx, map, key_at, Cpu::new(cpu))
}

/// A map whose elements have keys.
fn keyed(ctx: &Ctx<'_>, map: u64) -> Result<MapId, Fail> {
    let id = ctx.map_id(map)?;
    if matches!(
        ctx.vm.map(id).kind(),
        MapKind::BloomFilter | MapKind::ProgArray | MapKind::PerfEventArray | MapKind::UserRingBuf
    ) {
        return Err(ctx.unfit(id));
    }
    Ok(id)
}

/// A map whose elements programs may set and delete by key.
fn writable(ctx: &Ctx<'_>, map: u64) -> Result<MapId, Fail> {
    let id = keyed(ctx, map)?;
    if matches!(
        ctx.vm.map(id).kind(),
        MapKind::ArrayOfMaps | MapKind::HashOfMaps
    ) {
        return Err(ctx.unfit(id));
    }
    Ok(id)
}

fn lookup_on(ctx: &mut Ctx<'_>, map: u64, key_at: u64, cpu: Cpu) -> Answer {
    let id = keyed(ctx, map)?;
    if ctx.vm.map(id).is_array() {
        // Arrays are looked up most: no allocation for their keys.
        let index = ctx.vm.mem.read_u32(KernAddr::new(key_at));
        let index = index.map_err(|fault| ctx.fault(fault))?;
        let found = ctx.vm.maps[id.index()].lookup(&index.to_le_bytes(), cpu);
        return Ok(pointer(found));
    }
    let key = key(ctx, id, key_at)?;
    if let Storage::Trie(trie) = &ctx.vm.map(id).storage {
        let found = trie.lookup(&key);
        ctx.vm.charge(found.steps)?;
        return Ok(pointer(found.value));
    }
    Ok(pointer(ctx.vm.maps[id.index()].lookup(&key, cpu)))
}

/// `bpf_map_update_elem(map, key, value, flags)`.
pub(super) fn update(ctx: &mut Ctx<'_>, [map, key_at, value, flags, _]: [u64; 5]) -> Answer {
    let id = writable(ctx, map)?;
    let key = key(ctx, id, key_at)?;
    let value = ctx.bytes(value, u64::from(ctx.vm.map(id).spec().value_size))?;
    let takes_lock = ctx.vm.map(id).kind() != MapKind::LpmTrie;
    if !takes_lock && flags & BPF_F_LOCK != 0 {
        return Err(Errno::EINVAL.into());
    }
    let flags = UpdateFlags::from_raw(flags)?;
    charge_element(ctx, id)?;
    ctx.vm.map_update(id, &key, &value, flags, ctx.host)?;
    Ok(0)
}

/// `bpf_map_delete_elem(map, key)`.
pub(super) fn delete(ctx: &mut Ctx<'_>, [map, key_at, ..]: [u64; 5]) -> Answer {
    let id = writable(ctx, map)?;
    let key = key(ctx, id, key_at)?;
    charge_element(ctx, id)?;
    ctx.vm.map_delete(id, &key, ctx.host)?;
    Ok(0)
}

/// `bpf_map_push_elem(map, value, flags)`.
pub(super) fn push(ctx: &mut Ctx<'_>, [map, value, flags, ..]: [u64; 5]) -> Answer {
    let id = ctx.map_id(map)?;
    let value = ctx.bytes(value, u64::from(ctx.vm.map(id).spec().value_size))?;
    charge_element(ctx, id)?;
    ctx.vm.maps[id.index()].push(&ctx.vm.mem, &value, flags)?;
    Ok(0)
}

/// `bpf_map_pop_elem(map, value)`.
pub(super) fn pop(ctx: &mut Ctx<'_>, [map, to, ..]: [u64; 5]) -> Answer {
    take(ctx, map, to, Take::Pop)
}

/// `bpf_map_peek_elem(map, value)`.
pub(super) fn peek(ctx: &mut Ctx<'_>, [map, to, ..]: [u64; 5]) -> Answer {
    take(ctx, map, to, Take::Peek)
}

fn take(ctx: &mut Ctx<'_>, map: u64, to: u64, take: Take) -> Answer {
    let id = ctx.map_id(map)?;
    let size = u64::from(ctx.vm.map(id).spec().value_size);
    if ctx.vm.map(id).kind() == MapKind::BloomFilter {
        if take == Take::Pop {
            return Err(ctx.unfit(id));
        }
        let value = ctx.bytes(to, size)?;
        ctx.vm.map(id).peek_bloom(&ctx.vm.mem, &value)?;
        return Ok(0);
    }
    let to = KernAddr::new(to);
    charge_element(ctx, id)?;
    // The destination is the program's: it must be memory that programs may write.
    let cleared = ctx.vm.mem.zero_as_program(to, size);
    cleared.map_err(|fault| ctx.fault(fault))?;
    ctx.vm.maps[id.index()].take(&ctx.vm.mem, to, take)?;
    Ok(0)
}

/// `bpf_task_storage_get(map, task, value, flags)`, and the same for cgroups.
pub(super) fn task_storage_get(
    ctx: &mut Ctx<'_>,
    [map, owner, value, flags, _]: [u64; 5],
) -> Answer {
    const BPF_LOCAL_STORAGE_GET_F_CREATE: u64 = 1;
    let id = ctx.map_id(map)?;
    let map = &mut ctx.vm.maps[id.index()];
    if !matches!(map.kind(), MapKind::TaskStorage | MapKind::CgrpStorage) {
        return Err(ctx.bad("the map holds no local storage"));
    }
    if owner == 0 || flags & !BPF_LOCAL_STORAGE_GET_F_CREATE != 0 {
        return Ok(0);
    }
    let key = owner.to_le_bytes();
    if let Some(found) = map.lookup(&key, Cpu::new(0)) {
        return Ok(found.raw());
    }
    if flags == 0 {
        return Ok(0);
    }
    charge_element(ctx, id)?;
    let Ok(created) = ctx.vm.maps[id.index()].insert(&ctx.vm.mem, &key) else {
        return Ok(0);
    };
    if value != 0 {
        let size = u64::from(ctx.vm.map(id).spec().value_size);
        let bytes = ctx.bytes(value, size)?;
        let map = &ctx.vm.maps[id.index()];
        map.write_value(&ctx.vm.mem, created, &bytes)?;
    }
    Ok(created.raw())
}

/// `bpf_task_storage_delete(map, task)`, and the same for cgroups.
pub(super) fn task_storage_delete(ctx: &mut Ctx<'_>, [map, owner, ..]: [u64; 5]) -> Answer {
    let id = ctx.map_id(map)?;
    if owner == 0 {
        return Err(Errno::EINVAL.into());
    }
    charge_element(ctx, id)?;
    ctx.vm.map_delete(id, &owner.to_le_bytes(), ctx.host)?;
    Ok(0)
}

/// The perf event array behind a map argument.
fn perf(ctx: &Ctx<'_>, map: u64) -> Result<MapId, Fail> {
    let id = ctx.map_id(map)?;
    if ctx.vm.map(id).kind() != MapKind::PerfEventArray {
        return Err(ctx.unfit(id));
    }
    Ok(id)
}

fn events<'a>(ctx: &'a mut Ctx<'_>, id: MapId) -> &'a mut PerfEvents {
    let events = ctx.vm.maps[id.index()].perf();
    events.expect("a perf event array holds events")
}

/// `bpf_perf_event_output(ctx, map, flags, data, size)`.
pub(super) fn perf_event_output(
    ctx: &mut Ctx<'_>,
    [_, map, flags, data, size]: [u64; 5],
) -> Answer {
    let id = perf(ctx, map)?;
    let bytes = ctx.bytes(data, size)?;
    let cpu = ctx.host.cpu();
    events(ctx, id).output(flags, cpu, bytes)?;
    Ok(0)
}

/// `bpf_perf_event_read_value(map, flags, buf, buf_size)`: there are no counters to read.
pub(super) fn perf_event_read_value(
    ctx: &mut Ctx<'_>,
    [map, flags, buf, size, _]: [u64; 5],
) -> Answer {
    /// `sizeof(struct bpf_perf_event_value)`.
    const VALUE_SIZE: u64 = 24;
    let id = perf(ctx, map)?;
    let size = size & 0xffff_ffff;
    ctx.charge_argument(size)?;
    let cleared = ctx.vm.mem.zero_as_program(KernAddr::new(buf), size);
    cleared.map_err(|fault| ctx.fault(fault))?;
    if size != VALUE_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let cpu = ctx.host.cpu();
    events(ctx, id).entry(flags, cpu)?;
    Err(Errno::ENOENT.into())
}

/// The ring buffer behind a map argument.
fn ring<'a>(ctx: &'a mut Ctx<'_>, map: u64) -> Result<&'a mut RingBuf, Fail> {
    let id = ctx.map_id(map)?;
    if ctx.vm.map(id).kind() != MapKind::RingBuf {
        return Err(ctx.bad("the map is no ring buffer"));
    }
    let found = ctx.vm.maps[id.index()].ring();
    Ok(found.expect("a ring buffer map holds a ring"))
}

/// `bpf_ringbuf_reserve(map, size, flags)`.
pub(super) fn ringbuf_reserve(ctx: &mut Ctx<'_>, [map, size, flags, ..]: [u64; 5]) -> Answer {
    let ring = ring(ctx, map)?;
    if flags != 0 {
        return Ok(0);
    }
    Ok(pointer(ring.reserve(size)))
}

/// A record of the ring buffer behind a map argument; `None` if it does not fit.
pub(super) fn reserve_record(
    ctx: &mut Ctx<'_>,
    map: u64,
    size: u64,
) -> Result<Option<KernAddr>, Fail> {
    Ok(ring(ctx, map)?.reserve(size))
}

/// `bpf_ringbuf_output(map, data, size, flags)`.
pub(super) fn ringbuf_output(ctx: &mut Ctx<'_>, [map, data, size, flags, _]: [u64; 5]) -> Answer {
    /// `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP`.
    const WAKEUP_FLAGS: u64 = 3;
    if flags & !WAKEUP_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = ctx.bytes(data, size)?;
    let ring = ring(ctx, map)?;
    let at = ring.reserve(size).ok_or(Errno::EAGAIN)?;
    ring.commit(at, Commit::Submit)?;
    ctx.put(at.raw(), &bytes)?;
    Ok(0)
}

/// `bpf_ringbuf_submit(data, flags)`.
pub(super) fn ringbuf_submit(ctx: &mut Ctx<'_>, [data, ..]: [u64; 5]) -> Answer {
    commit_record(ctx, data, Commit::Submit)
}

/// `bpf_ringbuf_discard(data, flags)`.
pub(super) fn ringbuf_discard(ctx: &mut Ctx<'_>, [data, ..]: [u64; 5]) -> Answer {
    commit_record(ctx, data, Commit::Discard)
}

/// Submits or discards the record at an address.
pub(super) fn commit_record(ctx: &mut Ctx<'_>, data: u64, commit: Commit) -> Answer {
    let addr = KernAddr::new(data);
    let mut rings = ctx.vm.maps.iter_mut().filter_map(Map::ring);
    let done = rings.any(|ring| ring.commit(addr, commit).is_ok());
    if done {
        Ok(0)
    } else {
        Err(ctx.bad(format!("{addr} is no reserved record")))
    }
}

/// `bpf_ringbuf_query(map, flags)`.
pub(super) fn ringbuf_query(ctx: &mut Ctx<'_>, [map, flags, ..]: [u64; 5]) -> Answer {
    Ok(ring(ctx, map)?.query(flags))
}
