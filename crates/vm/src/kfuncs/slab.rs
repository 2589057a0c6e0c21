//! Small objects: `bpf_arena_alloc` and `bpf_arena_free`, over the arena's slab allocator.
//!
//! The slab cache is that of the CPU on which the program runs. A free that is not of an object
//! is a violation of the program: it is reported like a bad access, and nothing happens.

use std::sync::Arc;

use harena_abi::{ArenaOffset, PAGE_SIZE, UserAddr};
use harena_arena::{Arena, SLAB_SIZE_MAX, SlabCache, SlabCacheError, SlabFreeError};

use super::{arena, charge_pages, u32_of};
use crate::helpers::{Answer, Ctx, Fail};

/// What an object costs that is allocated or freed, in instructions.
const INSNS_PER_OBJECT: u64 = 16;

/// This CPU's cache, or another one if a program that this one interrupts is inside it.
fn cache<'a>(ctx: &Ctx<'_>, arena: &'a Arena) -> Result<SlabCache<'a>, SlabCacheError> {
    match arena.slab_cache(ctx.host.cpu()) {
        Err(SlabCacheError::Busy { .. }) => arena.any_slab_cache(),
        done => done,
    }
}

/// Counts the work on an object of `size` bytes.
fn charge_object(ctx: &mut Ctx<'_>, size: u32) -> Result<(), Fail> {
    if size > SLAB_SIZE_MAX {
        let pages = u64::from(size).div_ceil(PAGE_SIZE);
        return charge_pages(ctx, u32::try_from(pages).unwrap_or(u32::MAX));
    }
    Ok(ctx.vm.charge(INSNS_PER_OBJECT)?)
}

/// The user address of the object, or NULL. From any context.
pub(super) fn arena_alloc(ctx: &mut Ctx<'_>, [map, size, ..]: [u64; 5]) -> Answer {
    let arena = arena(ctx, map)?;
    charge_object(ctx, u32_of(size))?;
    let object = cache(ctx, &arena).ok();
    let object = object.and_then(|mut cache| cache.alloc(u32_of(size)).ok());
    Ok(object.map_or(0, |at| arena.user_addr(at).raw()))
}

/// Frees an object; NULL is fine. From any context.
pub(super) fn arena_free(ctx: &mut Ctx<'_>, [map, ptr, ..]: [u64; 5]) -> Answer {
    let arena: Arc<Arena> = arena(ctx, map)?;
    charge_object(ctx, 0)?;
    if ptr == 0 {
        return Ok(0);
    }
    let address = UserAddr::new(ptr);
    let done = match cache(ctx, &arena) {
        Ok(mut cache) => cache.free_at(address),
        // The allocator has no tables, so it never gave anything.
        Err(SlabCacheError::NoWindow | SlabCacheError::Os(_)) => {
            let at = ArenaOffset::of(address);
            Err(SlabFreeError::NotAllocated { at })
        }
        // A child made by fork has no arena to free from. All caches are in use by other threads
        // at this moment: the object is lost, until the arena goes.
        Err(SlabCacheError::Forked | SlabCacheError::Busy { .. }) => Ok(()),
    };
    if let Err(refused) = done {
        crate::report::bad_free(ctx.vm, ctx.host, ctx.program, address, refused);
    }
    // Pages that could not be given back at once wait for the worker.
    let id = ctx.map_id(map)?;
    ctx.vm.deferred_frees.insert(id);
    Ok(0)
}
