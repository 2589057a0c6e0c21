//! Kfuncs and helpers that copy from elsewhere: from a user's memory, and into dynptrs.
//!
//! There is no user memory besides arenas, which programs reach directly, so copies from there fail
//! as the kernel's do where nothing is mapped.

use harena_abi::{Errno, KernAddr};

use super::{may_sleep, u32_of};
use crate::error::AbortCause;
use crate::helpers::{Answer, Ctx, Fail, dynptr};

/// `BPF_F_PAD_ZEROS`.
const PAD_ZEROS: u64 = 1;

fn check_sleepable(ctx: &Ctx<'_>) -> Result<(), Fail> {
    if may_sleep(ctx) {
        return Ok(());
    }
    let name = ctx.name.to_owned();
    Err(ctx.vm.abort_here(AbortCause::KfuncContext { name }).into())
}

/// Clears what the copy would have filled.
fn clear(ctx: &mut Ctx<'_>, dst: u64, size: u64) -> Result<(), Fail> {
    ctx.charge_argument(size)?;
    let cleared = ctx.vm.mem.zero_as_program(KernAddr::new(dst), size);
    cleared.map_err(|fault| ctx.fault(fault))
}

/// `bpf_copy_from_user(dst, size, user_ptr)`.
pub(crate) fn copy(ctx: &mut Ctx<'_>, [dst, size, ..]: [u64; 5]) -> Answer {
    check_sleepable(ctx)?;
    let size = u64::from(u32_of(size));
    if size == 0 {
        return Ok(0);
    }
    clear(ctx, dst, size)?;
    Err(Errno::EFAULT.into())
}

/// `bpf_copy_from_user_task(dst, size, user_ptr, task, flags)`.
pub(crate) fn copy_task(ctx: &mut Ctx<'_>, [dst, size, _, _, flags]: [u64; 5]) -> Answer {
    check_sleepable(ctx)?;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    copy(ctx, [dst, size, 0, 0, 0])
}

fn copy_string(ctx: &mut Ctx<'_>, dst: u64, size: u64, flags: u64) -> Answer {
    check_sleepable(ctx)?;
    let size = u64::from(u32_of(size));
    if flags & !PAD_ZEROS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if size == 0 {
        return Ok(0);
    }
    if flags & PAD_ZEROS != 0 {
        clear(ctx, dst, size)?;
    }
    Err(Errno::EFAULT.into())
}

/// `bpf_copy_from_user_str(dst, size, user_ptr, flags)`.
pub(super) fn copy_str(ctx: &mut Ctx<'_>, [dst, size, _, flags, _]: [u64; 5]) -> Answer {
    copy_string(ctx, dst, size, flags)
}

/// `bpf_copy_from_user_task_str(dst, size, user_ptr, task, flags)`.
pub(super) fn copy_task_str(ctx: &mut Ctx<'_>, [dst, size, _, _, flags]: [u64; 5]) -> Answer {
    copy_string(ctx, dst, size, flags)
}

/// `bpf_copy_from_user_dynptr(ptr, offset, size, user_ptr)`, and from a task's memory.
pub(super) fn copy_dynptr(ctx: &mut Ctx<'_>, [ptr, offset, size, ..]: [u64; 5]) -> Answer {
    check_sleepable(ctx)?;
    let to = dynptr::room(ctx, ptr, offset, size)?;
    if size == 0 {
        return Ok(0);
    }
    clear(ctx, to.raw(), size)?;
    Err(Errno::EFAULT.into())
}

/// `bpf_copy_from_user_str_dynptr`, and from a task's memory.
pub(super) fn copy_str_dynptr(ctx: &mut Ctx<'_>, args: [u64; 5]) -> Answer {
    check_sleepable(ctx)?;
    probe_user_dynptr(ctx, args)
}

/// `bpf_probe_read_user_dynptr(ptr, offset, size, user_ptr)`, and the same for a string. Clears
/// nothing.
pub(super) fn probe_user_dynptr(ctx: &mut Ctx<'_>, [ptr, offset, size, ..]: [u64; 5]) -> Answer {
    dynptr::room(ctx, ptr, offset, size)?;
    if size == 0 {
        return Ok(0);
    }
    Err(Errno::EFAULT.into())
}

/// `bpf_probe_read_kernel_dynptr(ptr, offset, size, from)`.
pub(super) fn probe_dynptr(ctx: &mut Ctx<'_>, [ptr, offset, size, from, _]: [u64; 5]) -> Answer {
    let to = dynptr::room(ctx, ptr, offset, size)?;
    let from = KernAddr::new(from);
    if !ctx.vm.mem.readable(from, size) {
        return Err(Errno::EFAULT.into());
    }
    ctx.charge_argument(size)?;
    let copied = ctx.vm.mem.copy_as_program(to, from, size);
    copied.map_err(|fault| ctx.fault(fault))?;
    Ok(0)
}

/// `bpf_probe_read_kernel_str_dynptr(ptr, offset, size, from)`: bytes with the NUL.
pub(super) fn probe_str_dynptr(
    ctx: &mut Ctx<'_>,
    [ptr, offset, size, from, _]: [u64; 5],
) -> Answer {
    let to = dynptr::room(ctx, ptr, offset, size)?;
    let Some(room) = size.checked_sub(1) else {
        return Ok(0);
    };
    ctx.charge_argument(size)?;
    let Ok(mut text) = ctx.vm.mem.cstr(KernAddr::new(from), room) else {
        ctx.put(to.raw(), &[0])?;
        return Err(Errno::EFAULT.into());
    };
    text.push(0);
    ctx.put(to.raw(), &text)?;
    Ok(text.len() as u64)
}
