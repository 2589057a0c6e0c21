//! Host faults end on the scratch page, and are reported (spec section 3).

use harena_abi::{ArenaOffset, Cpu, Errno, PageIndex, UserAddr};
use harena_arena::{
    Access, AllocError, Arena, ArenaSpec, EntryState, LockError, ProgramScope, ProgramTag,
    REPORTS_MAX, Report, SCRATCH_MAX, ScopeError, WindowPage,
};

use crate::common::{ARENA_AT, arena, arena_with, mapping_count, offset, page, scope, spec, user};

#[test]
fn host_read_and_write_of_empty_pages_are_recovered_and_reported() {
    let arena = arena(16);
    let _scope = ProgramScope::enter(ProgramTag::new(77), Some(&arena), Cpu::new(3)).unwrap();
    assert_eq!(arena.ptr::<u64>(offset(7, 16)).read(), 0);
    arena.ptr::<u8>(offset(9, 4095)).write(1);
    arena.ptr::<u8>(offset(9, 0)).write(1);
    let reports: Vec<_> = arena.drain_reports().collect();
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_eq!(
        (reports[0].address, reports[0].access),
        (user(7), Access::Read)
    );
    assert_eq!(
        (reports[1].address, reports[1].access),
        (user(9), Access::Write)
    );
    assert!(
        reports
            .iter()
            .all(|r| r.program == ProgramTag::new(77) && r.cpu == Cpu::new(3))
    );
    assert_eq!((arena.faults_recovered(), arena.scratch_count()), (2, 2));
    assert_eq!(arena.pages_in_use(), 0);
}

#[test]
fn recovery_reaches_the_whole_window_and_the_upper_guard() {
    let arena = arena(16);
    let _scope = scope(&arena);
    // Outside the user window, at the end of 4 GiB, and across it into the guard.
    for at in [0x1_0000, 0x8000_0000, 0xffff_f000, 0xffff_fffc] {
        assert_eq!(arena.ptr::<u64>(ArenaOffset::new(at)).read(), 0);
    }
    let guard = WindowPage::new(PageIndex::COUNT).unwrap();
    assert_eq!(arena.window_state(guard), EntryState::Scratch);
    let beyond = arena.drain_reports().last().unwrap();
    assert_eq!(beyond.address, UserAddr::new(ARENA_AT + (1 << 32)));
}

#[test]
fn a_pointer_one_past_the_window_leads_into_the_upper_guard() {
    let arena = arena(16);
    let _scope = scope(&arena);
    arena.alloc_pages(Some(user(0)), 1, 0).unwrap();
    let last = arena.ptr::<u64>(ArenaOffset::new(0xffff_fff8));
    let past = last.index(1);
    past.write(0xbad);
    assert_eq!(past.read(), 0xbad);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 0, "nothing wrapped");
    assert_eq!(
        (last.offset().raw(), past.user_addr(&arena)),
        (0xffff_fff8, UserAddr::new(ARENA_AT + 0x1_0000_0000))
    );
    // What reaches further than the guard stays in it.
    last.index(u32::MAX).write(1);
    last.index(4096).index(1).index(1).write(1);
    let reported: Vec<_> = arena.drain_reports().map(|r| r.address.raw()).collect();
    assert_eq!(
        reported,
        [ARENA_AT + 0x1_0000_0000, ARENA_AT + 0x1_0000_7000]
    );
}

#[test]
fn recovery_reaches_the_upper_guard_of_the_highest_window() {
    const HIGHEST: u64 = 0xffff_ffff_0000_0000;
    let arena = arena_with(ArenaSpec {
        map_extra: HIGHEST,
        ..spec(16)
    });
    let _scope = scope(&arena);
    assert_eq!(arena.ptr::<u64>(ArenaOffset::new(0xffff_fffc)).read(), 0);
    // The guard has no user address; what is reported wraps.
    let reported: Vec<_> = arena.drain_reports().map(|r| r.address.raw()).collect();
    assert_eq!(reported, [HIGHEST + 0xffff_f000, 0]);
}

#[test]
fn alloc_over_scratch_page_succeeds_and_is_zeroed() {
    let arena = arena(16);
    let _scope = scope(&arena);
    let word = arena.ptr::<u64>(offset(2, 8));
    word.write(u64::MAX);
    assert_eq!(arena.entry_state(page(2)), EntryState::Scratch);
    assert_eq!(arena.alloc_pages(Some(user(2)), 1, 0), Ok(user(2)));
    assert_eq!(arena.entry_state(page(2)), EntryState::Page);
    assert_eq!(word.read(), 0, "a real page, and zeroed");
    word.write(5);
    // Another page still shows scratch, with what was written to it.
    assert_eq!(arena.ptr::<u64>(offset(3, 8)).read(), u64::MAX);
    assert_eq!(word.read(), 5);
    assert_eq!((arena.scratch_count(), arena.pages_in_use()), (1, 1));
}

#[test]
fn scratch_is_never_laid_over_a_real_page() {
    let arena = arena(600);
    let _scope = scope(&arena);
    arena.alloc_pages(Some(user(1)), 1, 0).unwrap();
    arena.ptr::<u64>(offset(1, 0)).write(11);
    // Neighbours fault, in the same region and in one that opens later.
    for at in [0, 2, 599] {
        arena.ptr::<u64>(offset(at, 0)).write(99);
    }
    arena.alloc_pages(Some(user(598)), 1, 0).unwrap();
    assert_eq!(arena.ptr::<u64>(offset(1, 0)).read(), 11);
    assert_eq!(arena.ptr::<u64>(offset(598, 0)).read(), 0);
    // Opening its region put a marker over the scratch page there; no second report.
    assert_eq!(arena.ptr::<u64>(offset(599, 0)).read(), 99);
    assert_eq!(arena.drain_reports().count(), 3);
    assert_eq!(arena.scratch_count(), 3);
}

#[test]
fn a_kfunc_faults_under_the_lock_that_its_own_thread_holds() {
    let arena = arena(16);
    let _outer = ProgramScope::enter(ProgramTag::new(1), Some(&arena), Cpu::new(0)).unwrap();
    let mut ran = false;
    let hook = || {
        // The second program, run by a hook while the first one's alloc holds the lock.
        let _inner = ProgramScope::enter(ProgramTag::new(2), Some(&arena), Cpu::new(0)).unwrap();
        // A kfunc gets a pointer one element past an array that ends with page 4.
        let past = arena.ptr::<u64>(offset(4, 4088)).index(1);
        past.write(1);
        assert_eq!(past.read(), 1);
        // Its own page alloc must fail rather than wait for itself; its frees are put off.
        let refused = Err(AllocError::Lock(LockError::Reentered));
        assert_eq!(arena.alloc_pages(None, 1, 0), refused);
        assert_eq!(arena.alloc_pages_non_sleepable(None, 1, 0), refused);
        assert!(arena.free_pages(user(0), 1).is_err());
        assert_eq!(
            arena.reserve_pages(user(0), 1).unwrap_err().errno(),
            Errno::EBUSY
        );
        arena.free_pages_deferred(user(0), 1);
        ran = true;
    };
    // The page that faults is the very one that the allocator is about to hand out.
    let got = arena.alloc_pages_traced(Some(user(5)), 1, hook);
    assert!(ran);
    assert_eq!(got, Ok(user(5)));
    assert_eq!(
        arena.ptr::<u64>(offset(5, 0)).read(),
        0,
        "scratch was replaced"
    );
    let reports: Vec<_> = arena.drain_reports().collect();
    assert_eq!(reports.len(), 1);
    assert_eq!(
        (reports[0].program, reports[0].address),
        (ProgramTag::new(2), user(5))
    );
}

#[test]
fn only_the_innermost_program_counts() {
    let (first, second) = (arena(4), arena(4));
    let _outer = scope(&first);
    let inner = ProgramScope::enter(ProgramTag::new(5), Some(&second), Cpu::new(1)).unwrap();
    second.ptr::<u8>(offset(0, 0)).write(1);
    assert_eq!(
        second.drain_reports().next().map(|r| r.program),
        Some(ProgramTag::new(5))
    );
    drop(inner);
    first.ptr::<u8>(offset(0, 0)).write(1);
    assert_eq!(first.drain_reports().count(), 1);
}

#[test]
fn each_arena_has_scratch_and_reports_of_its_own() {
    const OTHER_AT: u64 = 0x2000_0000_0000;
    let first = arena(16);
    let second = arena_with(ArenaSpec {
        map_extra: OTHER_AT,
        ..spec(16)
    });
    let outer = ProgramScope::enter(ProgramTag::new(1), Some(&first), Cpu::new(0)).unwrap();
    first.ptr::<u64>(offset(3, 16)).write(0xa);
    let inner = ProgramScope::enter(ProgramTag::new(2), Some(&second), Cpu::new(5)).unwrap();
    let theirs = second.ptr::<u64>(offset(3, 16));
    assert_eq!(theirs.read(), 0, "not the first one's scratch");
    theirs.write(0xb);
    // What is mapped needs no recovery, whoever runs.
    assert_eq!(first.ptr::<u64>(offset(3, 16)).read(), 0xa);
    drop(inner);
    // Another page of the first one: the same scratch.
    assert_eq!(first.ptr::<u64>(offset(4, 16)).read(), 0xa);
    assert_eq!(theirs.read(), 0xb);
    drop(outer);
    let reported = |arena: &Arena| -> Vec<_> {
        let reports = arena.drain_reports();
        reports.map(|r| (r.program, r.cpu, r.address)).collect()
    };
    let (tag, cpu) = (ProgramTag::new(1), Cpu::new(0));
    assert_eq!(reported(&first), [(tag, cpu, user(3)), (tag, cpu, user(4))]);
    let at_3 = UserAddr::new(OTHER_AT + 3 * 4096);
    let expected = (ProgramTag::new(2), Cpu::new(5), at_3);
    assert_eq!(reported(&second), [expected]);
    assert_eq!(
        (first.faults_recovered(), second.faults_recovered()),
        (2, 1)
    );
    assert_eq!((first.scratch_count(), second.scratch_count()), (2, 1));
}

#[test]
fn arenas_that_fault_at_once_do_not_mix_what_they_recover() {
    const ROUNDS: u32 = 3_000;
    let arenas = [arena(600), arena(600)];
    std::thread::scope(|threads| {
        for (mark, arena) in (1..).zip(&arenas) {
            threads.spawn(move || {
                let program = ProgramTag::new(mark);
                let _scope = ProgramScope::enter(program, Some(arena), Cpu::new(mark)).unwrap();
                for round in 0..ROUNDS {
                    let word = arena.ptr::<u64>(offset(round * 7 % 600, 16));
                    word.write(mark.into());
                    assert_eq!(word.read(), u64::from(mark), "somebody else's scratch");
                }
            });
        }
    });
    for (mark, arena) in (1..).zip(&arenas) {
        let reports: Vec<_> = arena.drain_reports().collect();
        let own = |r: &Report| (r.program, r.cpu) == (ProgramTag::new(mark), Cpu::new(mark));
        assert!(reports.iter().all(own), "{reports:?}");
        let told = reports.len() as u64 + arena.reports_dropped();
        assert_eq!(told, arena.faults_recovered());
        assert!(told >= 600, "each page has faulted");
    }
}

#[test]
fn scopes_that_end_out_of_order_leave_the_others_their_recovery() {
    let (first, second) = (arena(4), arena(4));
    let scopes = (scope(&first), scope(&second), scope(&first));
    drop(scopes.0);
    first.ptr::<u8>(offset(0, 0)).write(1);
    let later = scope(&first);
    drop(scopes.2);
    first.ptr::<u8>(offset(1, 0)).write(1);
    drop(later);
    second.ptr::<u8>(offset(0, 0)).write(1);
    drop(scopes.1);
    assert_eq!(
        (first.faults_recovered(), second.faults_recovered()),
        (2, 1)
    );
}

#[test]
fn nesting_has_a_limit_and_unwinds() {
    let arena = arena(1);
    let mut scopes = Vec::new();
    let refused = loop {
        match ProgramScope::enter(ProgramTag::new(0), Some(&arena), Cpu::new(0)) {
            Ok(scope) => scopes.push(scope),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, scopes.len()), (ScopeError::TooDeep, 16));
    while let Some(innermost) = scopes.pop() {
        drop(innermost);
    }
    let _again = scope(&arena);
    assert_eq!(arena.ptr::<u8>(offset(0, 0)).read(), 0);
}

#[test]
fn a_fault_storm_keeps_mappings_and_reports_bounded() {
    const PAGES: u32 = 6_000;
    let arena = arena(PAGES);
    let _scope = scope(&arena);
    let before = mapping_count(&arena);
    for at in 0..PAGES {
        arena.ptr::<u64>(offset(at, 0)).write(u64::from(at));
    }
    assert_eq!(arena.faults_recovered(), u64::from(PAGES));
    assert_eq!(arena.scratch_count(), SCRATCH_MAX);
    assert_eq!(arena.drain_reports().count(), REPORTS_MAX);
    assert_eq!(
        arena.reports_dropped(),
        u64::from(PAGES) - REPORTS_MAX as u64
    );
    assert_eq!(arena.pages_in_use(), 0);
    let grown = mapping_count(&arena) - before;
    assert!(grown <= 2 * SCRATCH_MAX + 2, "{grown} mappings more");
    // The oldest was taken back and faults again; and pages can still be allocated anywhere.
    arena.ptr::<u64>(offset(0, 0)).write(1);
    assert_eq!(arena.drain_reports().count(), 1);
    arena.alloc_pages(None, PAGES, 0).unwrap();
    assert_eq!(arena.scratch_count(), 0);
    assert!((0..PAGES).all(|at| arena.ptr::<u64>(offset(at, 0)).read() == 0));
}
