//! Objects of a program's own types: `bpf_obj_new` and what ends it.
//!
//! A type is named by its number in the program's BTF, which the loader puts into the call. The
//! `_impl` variants have a last argument that a verifier fills in; here nothing looks at it.

use harena_abi::KernAddr;
use harena_bpf::btf::TypeId;
use harena_bpf::{Record, SpecialKind};
use std::sync::Arc;

use super::u32_of;
use crate::helpers::{Answer, Ctx, Fail};
use crate::owned::{Home, INSNS_PER_OBJECT, LocalType};

/// Largest object, with the word that the kernel's allocator adds.
const ALLOC_SIZE_MAX: u64 = 4096;
const ALLOC_WORD: u64 = 8;
/// `BPF_GLOBAL_PERCPU_MA_MAX_SIZE`.
const PERCPU_SIZE_MAX: u64 = 512;

/// The struct that an argument names.
fn record(ctx: &mut Ctx<'_>, id: u64) -> Result<(LocalType, Arc<Record>), Fail> {
    ctx.vm.charge(INSNS_PER_OBJECT)?;
    let id = TypeId::new(u32_of(id));
    let ty = LocalType {
        btf: ctx.program.btf,
        id,
    };
    match ctx.vm.types.record(ty) {
        Ok(record) => Ok((ty, record)),
        Err(error) => Err(ctx.bad(error.to_string())),
    }
}

fn allocate(ctx: &mut Ctx<'_>, ty: LocalType, size: u64, home: Home) -> Answer {
    ctx.vm.charge_bytes(size)?;
    let object = ctx.vm.new_object(ty, size, home);
    Ok(object.map_or(0, KernAddr::raw))
}

/// `bpf_obj_new(type)`: NULL without memory, or if the type is too large.
pub(super) fn new(ctx: &mut Ctx<'_>, [id, ..]: [u64; 5]) -> Answer {
    let (ty, record) = record(ctx, id)?;
    let size = u64::from(record.size);
    if size == 0 || size > ALLOC_SIZE_MAX - ALLOC_WORD {
        return Ok(0);
    }
    allocate(ctx, ty, size, Home::Kernel)
}

/// `bpf_percpu_obj_new(type)`.
pub(super) fn new_percpu(ctx: &mut Ctx<'_>, [id, ..]: [u64; 5]) -> Answer {
    let (ty, record) = record(ctx, id)?;
    let size = u64::from(record.size);
    let name = &record.name;
    if !record.fields.is_empty() {
        return Err(ctx.bad(format!(
            "struct `{name}` has special fields, which a per-CPU object cannot have"
        )));
    }
    if !record.is_scalar {
        return Err(ctx.bad(format!("struct `{name}` is no struct of scalars")));
    }
    if size > PERCPU_SIZE_MAX {
        return Err(ctx.bad(format!(
            "struct `{name}` has {size} bytes, more than {PERCPU_SIZE_MAX}"
        )));
    }
    if size == 0 {
        return Ok(0);
    }
    allocate(ctx, ty, size, Home::PerCpu)
}

/// `bpf_obj_drop(object)`, and the same for a per-CPU object.
pub(super) fn drop(ctx: &mut Ctx<'_>, [object, ..]: [u64; 5]) -> Answer {
    let at = KernAddr::new(object);
    if ctx.vm.objects.get(at).is_none() {
        return Err(ctx.bad(format!("{at} is no object")));
    }
    ctx.vm.drop_object(at, ctx.host);
    Ok(0)
}

/// `bpf_refcount_acquire(object)`: NULL if the object has lost its last owner.
pub(super) fn refcount_acquire(ctx: &mut Ctx<'_>, [object, ..]: [u64; 5]) -> Answer {
    let at = KernAddr::new(object);
    let Some(ty) = ctx.vm.objects.get(at).map(|own| own.ty) else {
        if ctx.vm.objects.is_dying(at) {
            return Ok(0);
        }
        return Err(ctx.bad(format!("{at} is no object")));
    };
    let record = ctx.vm.types.record(ty);
    let record = record.map_err(|error| ctx.bad(error.to_string()))?;
    let mut fields = record.fields.iter();
    if !fields.any(|field| field.kind == SpecialKind::Refcount) {
        let name = &record.name;
        return Err(ctx.bad(format!("struct `{name}` has no `bpf_refcount`")));
    }
    if !ctx.vm.objects.own_again(at) {
        return Err(ctx.bad(format!("{at} has too many owners")));
    }
    Ok(object)
}
