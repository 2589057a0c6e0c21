//! Helpers that call back into the program, and timers that are due.

use harena_abi::{Errno, KernAddr};

use super::{Answer, Ctx, Fail};
use crate::error::{Abort, AbortCause};
use crate::exec;
use crate::host::{ContextSet, Host, Sleepable};
use crate::layout::Region;
use crate::load::text_slot;
use crate::maps::MapId;
use crate::timer::TimerId;
use crate::vm::{RunResult, Vm};

/// `BPF_MAX_LOOPS`.
const BPF_MAX_LOOPS: u64 = 8 * 1024 * 1024;

/// The first slot of the callback that an argument names.
pub(super) fn callback_slot(ctx: &Ctx<'_>, addr: u64) -> Result<u32, Fail> {
    text_slot(ctx.program.id, addr)
        .filter(|slot| {
            let func = ctx.program.linked.func_at(*slot);
            func.is_some_and(|f| f.start == *slot)
        })
        .ok_or_else(|| ctx.vm.abort_here(AbortCause::BadCallback { addr }).into())
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
        if exec::call_function(ctx.vm, ctx.host, ctx.program, slot, args)? != 0 {
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
        if exec::call_function(ctx.vm, ctx.host, ctx.program, slot, args)? != 0 {
            break;
        }
        next = ctx.vm.map(id).next_key(Some(&key));
    }
    Ok(visited)
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
