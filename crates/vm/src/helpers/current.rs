//! Helpers about time, the CPU and `current`.

use super::{Answer, Ctx};

/// Nanoseconds of a jiffy at `CONFIG_HZ=1000`.
const JIFFY_NS: u64 = 1_000_000;
/// `INITIAL_JIFFIES`: the counter starts five minutes before it wraps 32 bits.
const INITIAL_JIFFIES: u64 = (300u32 * 1000).wrapping_neg() as u64;

pub(super) fn ktime(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(ctx.host.now().as_ns())
}

pub(super) fn jiffies64(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(INITIAL_JIFFIES + ctx.host.now().as_ns() / JIFFY_NS)
}

pub(super) fn random(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(u64::from(ctx.host.random()))
}

pub(super) fn cpu(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(u64::from(ctx.host.cpu().raw()))
}

pub(super) fn numa_node(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(u64::from(ctx.host.numa_node()))
}

pub(super) fn task(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    Ok(ctx.host.current_task().raw())
}

pub(super) fn pid_tgid(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    let task = ctx.host.current();
    Ok(u64::from(task.tgid.raw()) << 32 | u64::from(task.pid.raw()))
}

pub(super) fn uid_gid(ctx: &mut Ctx<'_>, _: [u64; 5]) -> Answer {
    let task = ctx.host.current();
    Ok(u64::from(task.gid) << 32 | u64::from(task.uid))
}

/// Fills the buffer with the name, cut so that a NUL follows, and zeroes.
pub(super) fn comm(ctx: &mut Ctx<'_>, [buf, size, ..]: [u64; 5]) -> Answer {
    const TASK_COMM_LEN: u64 = 16;
    let mut bytes = vec![0; usize::try_from(size.min(TASK_COMM_LEN)).unwrap_or(0)];
    let name = ctx.host.current().comm;
    let room = bytes.len().saturating_sub(1);
    for (to, from) in bytes.iter_mut().take(room).zip(name.bytes()) {
        *to = from;
    }
    ctx.put(buf, &bytes)?;
    Ok(0)
}
