//! Cmasks in arena memory: what `set_cmask` hands to programs.
//!
//! One per possible CPU, from the arena's pool, alive while the scheduler is attached. The
//! core writes the task's affinity into the calling CPU's cmask from the host side and
//! the program reads it in place, through an arena pointer: no copy. Its contents hold
//! until that CPU's next `set_cmask`.

use harena_abi::{ArenaOffset, Cid, Cpu, KernAddr};
use harena_arena::{Arena, HALF_GUARD, Pool, ProgramScope, ProgramTag, ScopeError};
use harena_scx::{CidMap, CpuSet};
use harena_vm::ProgId;

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

// A whole cmask may be written unchecked.
const _: () = assert!(size(crate::types::mask::NR_CPUS) <= HALF_GUARD);

/// Writes a whole cmask with base 0: its header, and the cids that `test` names. As host code
/// does: unchecked, and if a page is not there, the fault is recovered and reported to the
/// program whose scope the thread is in.
pub(crate) fn write(arena: &Arena, at: ArenaOffset, nr_cids: u32, test: impl Fn(Cid) -> bool) {
    const HEADER_WORDS: u32 = 2;
    const _: () = assert!(HEADER == HEADER_WORDS as u64 * 8);
    let header = arena.ptr::<u32>(at);
    header.write(0);
    header.index(1).write(nr_cids);
    header.index(2).write(nr_words(nr_cids));
    for word in 0..nr_words(nr_cids) {
        let first = word * 64;
        let bits = (first..nr_cids.min(first + 64))
            .filter(|cid| test(Cid::new(*cid)))
            .fold(0u64, |bits, cid| bits | 1 << (cid % 64));
        let place = arena.ptr::<u64>(at).index(HEADER_WORDS + word);
        place.write(bits);
    }
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Cmasks {
    pool: Box<Pool>,
    /// Host side address of each CPU's cmask.
    slots: Vec<KernAddr>,
}

impl Cmasks {
    /// Takes one cmask per CPU from the pool; gives the pool back if it has too few.
    pub(crate) fn new(pool: Box<Pool>, nr_cpus: u32) -> Result<Self, Box<Pool>> {
        let mut slots = Vec::new();
        for _ in 0..nr_cpus {
            let Ok(slot) = pool.alloc(size(nr_cpus)) else {
                free_all(&pool, &slots, nr_cpus);
                return Err(pool);
            };
            slots.push(slot);
        }
        Ok(Self { pool, slots })
    }

    /// Writes `allowed` into the cmask of `cpu` for `prog`, which is to get it; gives the address
    /// that it gets. A program may have freed the page, which is its own loss.
    pub(crate) fn write(
        &self,
        prog: ProgId,
        cids: &CidMap,
        cpu: Cpu,
        allowed: &CpuSet,
    ) -> Result<u64, ScopeError> {
        let slot = self.slots[cpu.index()];
        let nr_cids = u32::try_from(self.slots.len()).expect("one per CPU");
        let arena = self.pool.arena();
        let offset = arena.offset_of(slot).expect("the pool lies in its arena");
        let _scope = ProgramScope::enter(ProgramTag::new(prog.raw()), Some(arena), cpu)?;
        write(arena, offset, nr_cids, |cid| {
            cids.cpu_of(cid).is_some_and(|cpu| allowed.contains(cpu))
        });
        Ok(arena.user_addr(offset).raw())
    }

    /// Gives all of them back; what is left is the pool with its pages.
    pub(crate) fn release(self) -> Box<Pool> {
        let nr_cids = u32::try_from(self.slots.len()).expect("one per CPU");
        free_all(&self.pool, &self.slots, nr_cids);
        assert_eq!(self.pool.outstanding(), 0, "nobody else allocates here");
        self.pool
    }
}

fn free_all(pool: &Pool, slots: &[KernAddr], nr_cids: u32) {
    for slot in slots {
        pool.free(*slot, size(nr_cids))
            .expect("allocated by `new` with this size");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use harena_abi::bpf::BPF_F_MMAPABLE;
    use harena_arena::ArenaSpec;

    use super::*;

    fn arena(max_entries: u32) -> Arc<Arena> {
        let spec = ArenaSpec {
            max_entries,
            map_flags: BPF_F_MMAPABLE,
            map_extra: 0x1000_0000_0000,
            ..ArenaSpec::default()
        };
        Arc::new(Arena::create(&spec).unwrap())
    }

    #[test]
    fn a_pool_that_has_too_few_comes_back_whole() {
        let arena = arena(4);
        let pool = Box::new(Pool::new(Arc::clone(&arena)));
        let nr_cpus = 2048;
        let pool = Cmasks::new(pool, nr_cpus).expect_err("four pages are too few");
        assert_eq!(pool.outstanding(), 0);
        assert!(
            Cmasks::new(pool, 8).is_ok(),
            "its pages serve a smaller machine"
        );
    }

    #[test]
    fn attaching_again_takes_no_more_pages() {
        let arena = arena(64);
        let mut pool = Box::new(Pool::new(Arc::clone(&arena)));
        let mut pages = Vec::new();
        for _ in 0..3 {
            pool = Cmasks::new(pool, 8).unwrap().release();
            pages.push(arena.pages_in_use());
        }
        assert_eq!(pages, [4, 4, 4]);
    }
}
