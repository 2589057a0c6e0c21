//! Helpers that call back into the program, and timers that are due.

use harena_abi::{Errno, KernAddr};

use super::{Answer, Ctx, Fail, dynptr};
use crate::error::{Abort, AbortCause};
use crate::exec;
use crate::held;
use crate::host::{ContextSet, Host, Sleepable};
use crate::layout::Region;
use crate::load::text_slot;
use crate::maps::MapId;
use crate::timer::TimerId;
use crate::vm::{RunResult, Vm};

/// `BPF_MAX_LOOPS`.
const BPF_MAX_LOOPS: u64 = 8 * 1024 * 1024;

/// `BPF_MAX_USER_RINGBUF_SAMPLES`.
const BPF_MAX_USER_RINGBUF_SAMPLES: u64 = 128 * 1024;

/// The first slot of the callback that an argument names.
pub(crate) fn callback_slot(ctx: &Ctx<'_>, addr: u64) -> Result<u32, Fail> {
    text_slot(ctx.program.id, addr)
        .filter(|slot| {
            let func = ctx.program.linked.func_at(*slot);
            func.is_some_and(|f| f.start == *slot)
        })
        .ok_or_else(|| ctx.vm.abort_here(AbortCause::BadCallback { addr }).into())
}

/// Calls a callback, which gives back what it acquires.
pub(crate) fn call_back(ctx: &mut Ctx<'_>, slot: u32, args: [u64; 5]) -> Result<u64, Abort> {
    let program = ctx.program;
    held::in_callback(ctx.vm, ctx.host, |vm, host| {
        exec::call_function(vm, host, program, slot, args)
    })
}

/// `bpf_loop(nr_loops, callback, ctx, flags)`: rounds done.
pub(super) fn bpf_loop(ctx: &mut Ctx<'_>, [rounds, callback, data, flags, _]: [u64; 5]) -> Answer {
    let rounds = rounds & 0xffff_ffff;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    if rounds > BPF_MAX_LOOPS {
        return Err(Errno::E2BIG.into());
    }
    let slot = callback_slot(ctx, callback)?;
    for i in 0..rounds {
        let args = [i, data, 0, 0, 0];
        if call_back(ctx, slot, args)? != 0 {
            return Ok(i + 1);
        }
    }
    Ok(rounds)
}

/// `bpf_for_each_map_elem(map, callback, ctx, flags)`: elements visited.
pub(super) fn for_each_map_elem(
    ctx: &mut Ctx<'_>,
    [map, callback, data, flags, _]: [u64; 5],
) -> Answer {
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = ctx.map_id(map)?;
    ctx.check_walk(id)?;
    let slot = callback_slot(ctx, callback)?;
    let key_size = u64::from(ctx.vm.map(id).spec().key_size);
    let key_at = ctx.vm.mem.alloc(Region::Contexts, key_size, 8)?;
    let result = walk(ctx, id, key_at, slot, data);
    ctx.vm.mem.free(Region::Contexts, key_at, key_size, 8);
    result
}

fn walk(ctx: &mut Ctx<'_>, id: MapId, key_at: KernAddr, slot: u32, data: u64) -> Answer {
    let cpu = ctx.host.cpu();
    let mut visited = 0;
    // Step by step: the callback may add and delete what is still to come, and a list of all
    // keys may be larger than the map.
    let mut next = ctx.vm.map(id).next_key(None);
    while let Some(key) = next {
        let Some(value) = ctx.vm.maps[id.index()].lookup(&key, cpu) else {
            break;
        };
        ctx.vm.charge_bytes(key.len() as u64)?;
        ctx.put(key_at.raw(), &key)?;
        visited += 1;
        let args = [id.object().raw(), key_at.raw(), value.raw(), data, 0];
        if call_back(ctx, slot, args)? != 0 {
            break;
        }
        next = ctx.vm.map(id).next_key(Some(&key));
    }
    Ok(visited)
}

/// `bpf_user_ringbuf_drain(map, callback, ctx, flags)`: samples drained.
pub(super) fn user_ringbuf_drain(
    ctx: &mut Ctx<'_>,
    [map, callback, data, flags, _]: [u64; 5],
) -> Answer {
    /// `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP`.
    const WAKEUP_FLAGS: u64 = 3;
    let id = ctx.map_id(map)?;
    let slot = callback_slot(ctx, callback)?;
    let Some(ring) = ctx.vm.maps[id.index()].user_ring() else {
        return Err(ctx.unfit(id));
    };
    if flags & !WAKEUP_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    ring.begin()?;
    let drained = drain(ctx, id, slot, data);
    let ring = ctx.vm.maps[id.index()].user_ring();
    ring.expect("it does not change").end();
    drained
}

fn drain(ctx: &mut Ctx<'_>, id: MapId, slot: u32, data: u64) -> Answer {
    let mut drained = 0;
    while drained < BPF_MAX_USER_RINGBUF_SAMPLES {
        let ring = ctx.vm.maps[id.index()].user_ring();
        let ring = ring.expect("checked by the caller");
        let Some(sample) = ring.peek().map(<[u8]>::to_vec) else {
            break;
        };
        let len = sample.len() as u64;
        if len > dynptr::SIZE_MAX {
            return Err(Errno::E2BIG.into());
        }
        ctx.vm.charge_bytes(len)?;
        // The dynptr, and behind it the sample.
        let size = dynptr::DYNPTR_SIZE + len;
        let at = ctx.vm.mem.alloc(Region::Contexts, size, 8)?;
        let sample_at = at.checked_add(dynptr::DYNPTR_SIZE);
        let sample_at = sample_at.expect("it lies in the region");
        ctx.put(sample_at.raw(), &sample)?;
        dynptr::lend(ctx, at, sample_at, len)?;
        let args = [at.raw(), data, 0, 0, 0];
        let answer = call_back(ctx, slot, args);
        ctx.vm.on_stacks.dynptrs.remove(&at);
        ctx.vm.mem.free(Region::Contexts, at, size, 8);
        let answer = answer?;
        let ring = ctx.vm.maps[id.index()].user_ring();
        ring.expect("checked by the caller").release();
        drained += 1;
        if answer != 0 {
            break;
        }
    }
    Ok(drained)
}

/// Runs the callback of a timer that is due. `None`: the timer is gone or was never armed.
pub(crate) fn run_timer(
    vm: &mut Vm,
    timer: TimerId,
    contexts: ContextSet,
    host: &mut dyn Host,
) -> Result<Option<RunResult>, Abort> {
    let Some(found) = vm.timers.get_mut(timer).filter(|t| t.armed) else {
        return Ok(None);
    };
    found.armed = false;
    let (map, key, value) = (found.map, found.key.clone(), found.value);
    let Some((prog, slot)) = found.callback else {
        return Ok(None);
    };
    let full = |vm: &Vm, what: String| vm.abort_here(AbortCause::Host { message: what });
    let size = key.len() as u64;
    let key_at = vm
        .mem
        .alloc(Region::Contexts, size, 8)
        .map_err(|e| full(vm, e.to_string()))?;
    let written = vm.mem.write_bytes(key_at, &key);
    written.expect("an allocated block is backed");
    let entry = exec::Entry {
        prog,
        slot,
        args: [map.object().raw(), key_at.raw(), value.raw(), 0, 0],
        contexts,
        sleepable: Sleepable::No,
        timer: Some(timer),
    };
    let result = exec::enter(vm, entry, host);
    vm.mem.free(Region::Contexts, key_at, size, 8);
    result.map(Some)
}
