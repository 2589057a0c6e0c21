//! What the scenarios share: arenas of one shape, places in them, a user's memory.

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena::{Arena, ArenaSpec, ProgramScope, ProgramTag, WINDOW_SIZE};

/// `user_vm_start` of most tests; its low half is 0.
pub(crate) const ARENA_AT: u64 = 0x1000_0000_0000;

pub(crate) fn spec(max_entries: u32) -> ArenaSpec {
    ArenaSpec {
        max_entries,
        map_flags: BPF_F_MMAPABLE,
        map_extra: ARENA_AT,
        ..ArenaSpec::default()
    }
}

pub(crate) fn arena_with(spec: ArenaSpec) -> Arena {
    Arena::create(&spec).expect("a valid arena")
}

pub(crate) fn arena(max_entries: u32) -> Arena {
    arena_with(spec(max_entries))
}

/// A program that runs on this thread and uses `arena`.
pub(crate) fn scope(arena: &Arena) -> ProgramScope<'_> {
    ProgramScope::enter(ProgramTag::new(1), Some(arena), Cpu::new(0)).expect("not too deep")
}

pub(crate) fn page(number: u32) -> PageIndex {
    PageIndex::new(number).expect("in the window")
}

/// User address of a page of the window at [`ARENA_AT`].
pub(crate) fn user(page: u32) -> UserAddr {
    UserAddr::new(ARENA_AT + u64::from(page) * PAGE_SIZE)
}

/// A byte of a page.
pub(crate) fn offset(page: u32, byte: u32) -> ArenaOffset {
    assert!(byte < 4096);
    ArenaOffset::new(page * 4096 + byte)
}

/// Mappings that lie in the arena's window: other tests may run in this process.
pub(crate) fn mapping_count(arena: &Arena) -> usize {
    let start = arena.host_ptr(ArenaOffset::new(0)).addr() as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
    let begins = maps.lines().filter_map(|line| line.split('-').next());
    let begins = begins.filter_map(|begin| u64::from_str_radix(begin, 16).ok());
    begins
        .filter(|begin| (start..start + WINDOW_SIZE).contains(begin))
        .count()
}

/// Memory as a user thread sees it: plain volatile words.
#[derive(Clone, Copy)]
pub(crate) struct UserMemory {
    base: *mut u8,
    len: usize,
}

// SAFETY: only reached through volatile accesses.
unsafe impl Send for UserMemory {}
// SAFETY: as above.
unsafe impl Sync for UserMemory {}

impl UserMemory {
    pub(crate) fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len }
    }

    pub(crate) fn base(&self) -> usize {
        self.base.addr()
    }

    fn word(&self, offset: usize) -> *mut u64 {
        assert!(offset + 8 <= self.len);
        self.base.wrapping_add(offset).cast()
    }

    pub(crate) fn read(&self, offset: usize) -> u64 {
        // SAFETY: inside the view, which lives as long as the test's arena.
        unsafe { self.word(offset).read_volatile() }
    }

    pub(crate) fn write(&self, offset: usize, value: u64) {
        // SAFETY: as in `read`.
        unsafe { self.word(offset).write_volatile(value) }
    }
}
