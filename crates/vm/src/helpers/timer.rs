//! `bpf_timer_*`.

use harena_abi::{Errno, KernAddr, Nanos, SimTime};

use super::callback::callback_slot;
use super::{Answer, Ctx};
use crate::host::TimerArm;
use crate::maps::MapKind;

const BPF_F_TIMER_ABS: u64 = 1;
const BPF_F_TIMER_CPU_PIN: u64 = 2;
/// `CLOCK_REALTIME`, `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`: one clock here.
const CLOCKS: [u64; 3] = [0, 1, 7];

/// Elements that are looked at in the time of one instruction.
const ELEMENTS_PER_INSN: u64 = 4;

/// `bpf_timer_init(timer, map, flags)`.
pub(super) fn init(ctx: &mut Ctx<'_>, [timer, map, flags, ..]: [u64; 5]) -> Answer {
    if !CLOCKS.contains(&flags) {
        return Err(Errno::EINVAL.into());
    }
    let id = ctx.map_id(map)?;
    let addr = KernAddr::new(timer);
    ctx.vm
        .charge(ctx.vm.map(id).search_len() / ELEMENTS_PER_INSN)?;
    let map = ctx.vm.map(id);
    let holds_timers = matches!(
        map.kind(),
        MapKind::Array | MapKind::Hash | MapKind::LruHash
    );
    let element = map.element_of(addr).filter(|_| holds_timers);
    let element = element
        .ok_or_else(|| ctx.bad(format!("{addr} lies in no value of map `{}`", map.name())))?;
    ctx.vm.timers.init(addr, id, element)?;
    Ok(0)
}

/// `bpf_timer_set_callback(timer, callback)`.
pub(super) fn set_callback(ctx: &mut Ctx<'_>, [timer, callback, ..]: [u64; 5]) -> Answer {
    let slot = callback_slot(ctx, callback)?;
    let prog = ctx.program.id;
    let (_, timer) = ctx
        .vm
        .timers
        .at(KernAddr::new(timer))
        .ok_or(Errno::EINVAL)?;
    timer.callback = Some((prog, slot));
    Ok(0)
}

/// `bpf_timer_start(timer, nsecs, flags)`.
pub(super) fn start(ctx: &mut Ctx<'_>, [timer, nsecs, flags, ..]: [u64; 5]) -> Answer {
    if flags & !(BPF_F_TIMER_ABS | BPF_F_TIMER_CPU_PIN) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let found = ctx.vm.timers.at(KernAddr::new(timer));
    let (id, timer) = found
        .filter(|(_, t)| t.callback.is_some())
        .ok_or(Errno::EINVAL)?;
    timer.armed = true;
    let now = ctx.host.now();
    let at = if flags & BPF_F_TIMER_ABS != 0 {
        SimTime::from_ns(nsecs.max(now.as_ns()))
    } else {
        now.after(Nanos::new(nsecs))
    };
    let cpu = ctx.host.cpu();
    ctx.host.timer_arm(TimerArm { timer: id, at, cpu });
    Ok(0)
}

/// `bpf_timer_cancel(timer)`: 1 if it was armed; a timer cannot cancel itself.
pub(super) fn cancel(ctx: &mut Ctx<'_>, [timer, ..]: [u64; 5]) -> Answer {
    let found = ctx.vm.timers.at(KernAddr::new(timer));
    let (id, _) = found.ok_or(Errno::EINVAL)?;
    if ctx.vm.runs.iter().any(|run| run.timer == Some(id)) {
        return Err(Errno::EDEADLK.into());
    }
    let timer = ctx.vm.timers.get_mut(id).ok_or(Errno::EINVAL)?;
    let was_armed = std::mem::replace(&mut timer.armed, false);
    ctx.host.timer_cancel(id);
    Ok(u64::from(was_armed))
}
