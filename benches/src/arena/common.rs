//! Arenas and places in them, as several cases need them.

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{Arena, ArenaSpec, ProgramScope, ProgramTag};

use crate::harness::BenchError;

pub(super) const PAGE: usize = 4096;
/// `user_vm_start` of the arenas; its low half is 0, so page 0 has offset 0.
pub(super) const ARENA_AT: u64 = 0x1000_0000_0000;

/// An arena of `pages` pages.
pub(super) fn arena(pages: u32) -> Result<Arena, BenchError> {
    arena_at(pages, ARENA_AT)
}

/// An arena whose user window begins at `user_vm_start`.
pub(super) fn arena_at(pages: u32, user_vm_start: u64) -> Result<Arena, BenchError> {
    let spec = ArenaSpec {
        max_entries: pages,
        map_flags: BPF_F_MMAPABLE,
        map_extra: user_vm_start,
        ..ArenaSpec::default()
    };
    Arena::create(&spec).map_err(BenchError::setup("creating an arena"))
}

/// A program that runs on this thread and uses `arena`.
pub(super) fn scope(arena: &Arena) -> Result<ProgramScope<'_>, BenchError> {
    ProgramScope::enter(ProgramTag::new(1), Some(arena), Cpu::new(0))
        .map_err(BenchError::setup("entering a program"))
}

/// The first byte of a page.
pub(super) fn page_offset(page: u32) -> ArenaOffset {
    ArenaOffset::new(page << 12)
}

/// The user address of a page.
pub(super) fn page_addr(page: u32) -> UserAddr {
    UserAddr::new(ARENA_AT + (u64::from(page) << 12))
}
