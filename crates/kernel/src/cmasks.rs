//! Cmasks in arena memory: what `set_cmask` hands to programs.
//!
//! One per possible CPU, from the arena's pool, alive while the scheduler is attached. The
//! core writes the task's affinity into the calling CPU's cmask from the host side and
//! the program reads it in place, through an arena pointer: no copy. Its contents hold
//! until that CPU's next `set_cmask`.

use std::sync::Arc;

use harena_abi::{Cid, Cpu, Errno, KernAddr};
use harena_arena::{Arena, Pool};
use harena_scx::{CidMap, CpuSet};
use harena_vm::{GuestMem, MemFault};

use crate::types::scx::scx_cmask;

const HEADER: u64 = size_of::<scx_cmask>() as u64;

/// Words that a cmask of `nr_cids` cids has: one more than needed, for an unaligned base.
#[must_use]
pub(crate) const fn nr_words(nr_cids: u32) -> u32 {
    nr_cids.div_ceil(64) + 1
}

/// Bytes of a cmask of `nr_cids` cids.
#[must_use]
pub(crate) const fn size(nr_cids: u32) -> u64 {
    HEADER + nr_words(nr_cids) as u64 * 8
}

/// Writes a whole cmask with base 0: its header, and the cids that `test` names.
pub(crate) fn write(
    mem: &GuestMem,
    at: KernAddr,
    nr_cids: u32,
    test: impl Fn(Cid) -> bool,
) -> Result<(), MemFault> {
    let place = |offset: u64| KernAddr::new(at.raw().wrapping_add(offset));
    mem.write_u32(place(0), 0)?;
    mem.write_u32(place(4), nr_cids)?;
    mem.write_u32(place(8), nr_words(nr_cids))?;
    for word in 0..nr_words(nr_cids) {
        let first = word * 64;
        let bits = (first..nr_cids.min(first + 64))
            .filter(|cid| test(Cid::new(*cid)))
            .fold(0u64, |bits, cid| bits | 1 << (cid % 64));
        mem.write_u64(place(HEADER + u64::from(word) * 8), bits)?;
    }
    Ok(())
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Cmasks {
    pool: Pool,
    /// Host side address of each CPU's cmask.
    slots: Vec<KernAddr>,
}

impl Cmasks {
    /// Takes one cmask per CPU from the arena.
    pub(crate) fn new(arena: Arc<Arena>, nr_cpus: u32) -> Result<Self, Errno> {
        let pool = Pool::new(arena);
        let slots = (0..nr_cpus)
            .map(|_| pool.alloc(size(nr_cpus)).map_err(|_full| Errno::ENOMEM))
            .collect::<Result<_, _>>()?;
        Ok(Self { pool, slots })
    }

    /// Writes `allowed` into the cmask of `cpu`; gives the address that the program gets.
    pub(crate) fn write(
        &self,
        mem: &GuestMem,
        cids: &CidMap,
        cpu: Cpu,
        allowed: &CpuSet,
    ) -> Result<u64, MemFault> {
        let slot = self.slots[cpu.index()];
        let nr_cids = u32::try_from(self.slots.len()).expect("one per CPU");
        write(mem, slot, nr_cids, |cid| {
            cids.cpu_of(cid).is_some_and(|cpu| allowed.contains(cpu))
        })?;
        let arena = self.pool.arena();
        let offset = arena.offset_of(slot).expect("the pool lies in its arena");
        Ok(arena.user_addr(offset).raw())
    }

    /// Gives all of them back.
    pub(crate) fn release(self) {
        let nr_cids = u32::try_from(self.slots.len()).expect("one per CPU");
        for slot in &self.slots {
            self.pool
                .free(*slot, size(nr_cids))
                .expect("allocated by `new` with this size");
        }
        assert_eq!(self.pool.destroy(), 0, "nobody else allocates here");
    }
}
