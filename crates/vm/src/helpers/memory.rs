//! Helpers that read, write and lock memory.

use harena_abi::{Errno, KernAddr};
use harena_bpf::SpecialKind;
use harena_bpf::btf::strip_flavor;

use super::{Answer, Ctx, Fail};
use crate::error::AbortCause;
use crate::held::{self, Object};
use crate::layout::PERCPU_STRIDE;
use crate::owned::{Home, LocalType};

/// `bpf_probe_read_kernel`: an unreadable source clears the destination.
pub(super) fn probe_read(ctx: &mut Ctx<'_>, [dst, size, src, ..]: [u64; 5]) -> Answer {
    let size = size & 0xffff_ffff;
    let (to, from) = (KernAddr::new(dst), KernAddr::new(src));
    ctx.charge_argument(size)?;
    if ctx.vm.mem.readable(from, size) {
        let copied = ctx.vm.mem.copy_as_program(to, from, size);
        copied.map_err(|fault| ctx.fault(fault))?;
        return Ok(0);
    }
    clear(ctx, dst, size)?;
    Err(Errno::EFAULT.into())
}

/// There is no user memory besides arenas, which programs reach directly.
pub(super) fn probe_read_user(ctx: &mut Ctx<'_>, [dst, size, ..]: [u64; 5]) -> Answer {
    let size = size & 0xffff_ffff;
    ctx.charge_argument(size)?;
    clear(ctx, dst, size)?;
    Err(Errno::EFAULT.into())
}

fn clear(ctx: &Ctx<'_>, dst: u64, size: u64) -> Answer {
    let cleared = ctx.vm.mem.zero_as_program(KernAddr::new(dst), size);
    cleared.map_err(|fault| ctx.fault(fault))?;
    Ok(0)
}

/// `bpf_probe_read_kernel_str`: bytes copied, with the terminating NUL that is always there.
pub(super) fn probe_read_str(ctx: &mut Ctx<'_>, [dst, size, src, ..]: [u64; 5]) -> Answer {
    let size = size & 0xffff_ffff;
    let Some(room) = size.checked_sub(1) else {
        return Ok(0);
    };
    ctx.charge_argument(size)?;
    let Ok(mut text) = ctx.vm.mem.cstr(KernAddr::new(src), room) else {
        clear(ctx, dst, size)?;
        return Err(Errno::EFAULT.into());
    };
    text.push(0);
    ctx.put(dst, &text)?;
    Ok(text.len() as u64)
}

/// `bpf_strncmp(s1, size, s2)`.
pub(super) fn strncmp(ctx: &mut Ctx<'_>, [s1, size, s2, ..]: [u64; 5]) -> Answer {
    let size = size & 0xffff_ffff;
    ctx.charge_argument(size)?;
    let read = |addr| {
        let text = ctx.vm.mem.cstr(KernAddr::new(addr), size);
        text.map_err(|fault| ctx.fault(fault))
    };
    let (a, b) = (read(s1)?, read(s2)?);
    Ok(match a.cmp(&b) {
        std::cmp::Ordering::Less => Errno::EPERM.as_reg(),
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => 1,
    })
}

/// `bpf_per_cpu_ptr`: another CPU's copy of a kernel variable, NULL for no CPU.
pub(super) fn per_cpu_ptr(ctx: &mut Ctx<'_>, [ptr, cpu, ..]: [u64; 5]) -> Answer {
    let cpu = cpu & 0xffff_ffff;
    if cpu >= u64::from(ctx.vm.config.nr_cpus) {
        return Ok(0);
    }
    Ok(ptr.wrapping_add(cpu * PERCPU_STRIDE))
}

/// `bpf_this_cpu_ptr`.
pub(super) fn this_cpu_ptr(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    Ok(ptr.wrapping_add(u64::from(ctx.host.cpu().raw()) * PERCPU_STRIDE))
}

/// `bpf_kptr_xchg`.
pub(super) fn kptr_xchg(ctx: &mut Ctx<'_>, [field, ptr, ..]: [u64; 5]) -> Answer {
    let addr = KernAddr::new(field);
    check_kptr(ctx, addr, ptr)?;
    let mem = &ctx.vm.mem;
    let writable = mem.writable_by_program(addr, 8);
    let swapped = writable.and_then(|()| mem.swap_u64(addr, ptr));
    swapped.map_err(|fault| ctx.fault(fault))
}

/// Counts the work of finding the map that an address is in.
fn charge_search(ctx: &mut Ctx<'_>) -> Result<(), Fail> {
    /// Maps that are looked at in the time of one instruction.
    const MAPS_PER_INSN: u64 = 64;
    let maps = ctx.vm.owning_maps.len() as u64;
    Ok(ctx.vm.charge(maps / MAPS_PER_INSN)?)
}

/// Refuses what is no lock of this kind.
pub(crate) fn check_lock(ctx: &mut Ctx<'_>, lock: u64, kind: SpecialKind) -> Result<(), Fail> {
    charge_search(ctx)?;
    let at = KernAddr::new(lock);
    let is_lock = ctx
        .vm
        .fields_around(at, |fields| fields.at(at, |found| found == kind).is_some());
    if is_lock == Some(true) {
        return Ok(());
    }
    let name = if kind == SpecialKind::SpinLock {
        "bpf_spin_lock"
    } else {
        "bpf_res_spin_lock"
    };
    Err(ctx.bad(format!("{at} is no {name} in a map value or an object")))
}

/// Refuses what is no kptr, or one to another type.
fn check_kptr(ctx: &mut Ctx<'_>, field: KernAddr, ptr: u64) -> Result<(), Fail> {
    charge_search(ctx)?;
    let found = ctx.vm.fields_around(field, |fields| {
        let is_kptr = |kind| matches!(kind, SpecialKind::KptrRef | SpecialKind::KptrPercpu);
        Some((fields.btf, *fields.at(field, is_kptr)?))
    });
    let Some((btf, kptr)) = found.flatten() else {
        return Err(ctx.bad(format!("{field} is no kptr in a map value or an object")));
    };
    let (Some(target), Some(held)) = (kptr.target, held::reference(ctx.vm, ptr)) else {
        return Ok(());
    };
    let types = ctx.vm.types.btf(btf);
    let wanted = types.resolve(target).unwrap_or(target);
    let wanted_name = strip_flavor(types.name_of(wanted));
    let local = ctx.vm.objects.get(KernAddr::new(ptr));
    let fits = match (held, local) {
        (Object::Reference(name), _) => name == wanted_name,
        (Object::Local | Object::LocalPercpu, Some(own)) => {
            let is_percpu = own.home == Home::PerCpu;
            let same = own.ty == LocalType { btf, id: wanted };
            same && is_percpu == (kptr.kind == SpecialKind::KptrPercpu)
        }
        // It came out of a map, where nobody said what it is.
        _ => true,
    };
    if fits {
        return Ok(());
    }
    let name = match (held, local) {
        (Object::Reference(name), _) => name,
        (_, Some(own)) => ctx.vm.types.name(own.ty),
        _ => "",
    };
    let copies = if kptr.kind == SpecialKind::KptrPercpu {
        "per-CPU "
    } else {
        ""
    };
    Err(ctx.bad(format!(
        "{ptr:#x} is a `{name}`, the kptr is for a {copies}`{wanted_name}`"
    )))
}

/// `bpf_spin_lock`: one thread runs all programs, so a held lock is held by an outer one.
pub(super) fn spin_lock(ctx: &mut Ctx<'_>, [lock, ..]: [u64; 5]) -> Answer {
    check_lock(ctx, lock, SpecialKind::SpinLock)?;
    let addr = KernAddr::new(lock);
    let mem = &ctx.vm.mem;
    let writable = mem.writable_by_program(addr, 4);
    let taken = writable.and_then(|()| mem.cmpxchg_u32(addr, 0, 1));
    match taken.map_err(|fault| ctx.fault(fault))? {
        0 => Ok(0),
        _ => Err(ctx.vm.abort_here(AbortCause::Deadlock { addr }).into()),
    }
}

/// `bpf_spin_unlock`.
pub(super) fn spin_unlock(ctx: &mut Ctx<'_>, [lock, ..]: [u64; 5]) -> Answer {
    ctx.put(lock, &0u32.to_le_bytes())?;
    Ok(0)
}
