//! The process has no mapping left (`vm.max_map_count`): host faults are still recovered, and
//! alloc and free fail without losing a page.
//!
//! Each scenario runs in children that really reach the limit, at both of its levels, with
//! guard markers and without.

use core::ffi::c_void;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use harena_abi::{ArenaOffset, UserAddr};
use harena_arena::{
    AllocError, Arena, ArenaSpec, EntryState, FreeError, SCRATCH_MAX, SCRATCH_SHORT, UserMapError,
    WINDOW_PAGES,
};

use crate::children::{
    self, DONE, GUARD_MARKERS, Level, UsedUp, assert_exit, assert_segv, case, child, exit, forbid,
    peek,
};
use crate::common::{
    UserMemory, arena, arena_with, mapping_count, offset, page, scope, spec, user,
};

/// Eight regions of 512.
const PAGES: u32 = 4096;
/// In a region that no test opens.
const CLOSED: u32 = 3000;

/// How the pages of a child's arenas are hidden, and how far the limit is.
fn setting() -> Level {
    let case = case();
    let (scheme, level) = case.split_once(' ').expect("two words");
    if scheme == "protect" {
        forbid(GUARD_MARKERS);
    }
    match level {
        "split" => Level::Split,
        "full" => Level::Full,
        _ => panic!("unknown level {level}"),
    }
}

fn in_all_settings(name: &str) {
    for case in ["guard split", "guard full", "protect split", "protect full"] {
        let (status, shown) = children::run_case(&format!("shortage::{name}"), case);
        assert_eq!(
            status.code(),
            Some(DONE),
            "{name}, {case}: {status}\n{shown}"
        );
    }
}

/// An arena whose first region is open, with a page that must never change.
fn opened() -> Arena {
    let arena = arena(PAGES);
    arena.alloc_pages(Some(user(0)), 1, 0).expect("it is free");
    arena.ptr::<u64>(offset(0, 0)).write(0x1234);
    arena
}

/// Every page that should be free can be had, and the others cannot.
fn assert_no_page_was_lost(arena: &Arena) {
    let free = PAGES - arena.pages_in_use();
    for _ in 0..free {
        arena.alloc_pages(None, 1, 0).expect("a page is free");
    }
    let none = Err(AllocError::NoSpace { page_cnt: 1 });
    assert_eq!(arena.alloc_pages(None, 1, 0), none);
    assert_eq!(arena.pages_in_use(), PAGES);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 0x1234);
}

child!(child_recovers_everywhere, {
    let level = setting();
    let arena = opened();
    let _scope = scope(&arena);
    assert!(!arena.is_short_of_mappings());
    let used_up = UsedUp::to(level);
    let places = [
        ("an open region", offset(7, 0)),
        ("a region never opened", offset(CLOSED, 0)),
        ("outside the user window", ArenaOffset::new(0x8000_0000)),
        ("the end of the window", ArenaOffset::new(0xffff_f000)),
        ("the upper guard", ArenaOffset::new(0xffff_fffc)),
    ];
    for (faults, (place, at)) in (1..).zip(places) {
        let word = arena.ptr::<u64>(at);
        word.write(faults);
        assert_eq!(word.read(), faults, "{place}");
        assert_eq!(arena.faults_recovered(), faults, "{place}");
        assert_eq!(arena.faults_recovered_short(), faults, "{place}");
        assert!(arena.is_short_of_mappings());
    }
    assert_eq!(arena.scratch_count(), 5);
    assert_eq!(arena.drain_reports().count(), 5);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 0x1234);
    drop(used_up);
    // With mappings again, the allocator makes a new reserve, and faults are as ever.
    arena.alloc_pages(Some(user(1)), 1, 0).expect("it is free");
    assert!(!arena.is_short_of_mappings());
    arena.ptr::<u64>(offset(CLOSED + 1, 0)).write(1);
    let counts = (arena.faults_recovered(), arena.faults_recovered_short());
    assert_eq!(counts, (6, 5));
    assert_no_page_was_lost(&arena);
    exit(DONE);
});

#[test]
fn host_faults_are_recovered_wherever_no_mapping_is_left() {
    in_all_settings("child_recovers_everywhere");
}

child!(child_storm, {
    let level = setting();
    let arena = opened();
    let _scope = scope(&arena);
    // Scratch that is there when the limit is met is given up for new scratch.
    for at in 1..=300 {
        arena.ptr::<u64>(offset(at, 0)).write(1);
    }
    assert_eq!(arena.scratch_count(), SCRATCH_MAX);
    let _used_up = UsedUp::to(level);
    let mut before = 0;
    for (number, at) in (0..2_000u32).map(|n| (n, 1 + n * 523 % (WINDOW_PAGES - 1))) {
        // Across a page border: two pages must hold scratch at the same time.
        let word = arena.ptr::<u64>(ArenaOffset::new((at % (1 << 20)) * 4096).wrapping_add(4092));
        word.write(u64::from(number));
        assert_eq!(word.read(), u64::from(number));
        if number == 100 {
            before = mapping_count(&arena);
        }
    }
    let scratch = arena.scratch_count();
    assert!(scratch <= SCRATCH_SHORT, "{scratch} pages of scratch");
    assert!(arena.faults_recovered_short() >= 2_000);
    assert!(mapping_count(&arena) <= before + 2 * SCRATCH_SHORT);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 0x1234);
    exit(DONE);
});

#[test]
fn a_fault_storm_without_mappings_keeps_few_scratch_pages() {
    in_all_settings("child_storm");
}

child!(child_threads, {
    let level = setting();
    let arena = opened();
    // At the limit no thread can be made.
    let limit = Barrier::new(4);
    std::thread::scope(|threads| {
        let (arena, limit) = (&arena, &limit);
        for n in 0..3u32 {
            threads.spawn(move || {
                let _scope = scope(arena);
                limit.wait();
                for round in 0..700u32 {
                    let at = 1 + (round * 31 + n * 1_000) % (PAGES - 2);
                    arena.ptr::<u64>(offset(at, 4092)).write(u64::from(n));
                }
            });
        }
        let used_up = UsedUp::to(level);
        limit.wait();
        used_up
    });
    assert!(arena.faults_recovered_short() > 0);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 0x1234);
    exit(DONE);
});

#[test]
fn threads_share_the_few_mappings_that_are_left() {
    in_all_settings("child_threads");
}

child!(child_alloc_and_free, {
    let level = setting();
    let arena = opened();
    let _scope = scope(&arena);
    let markers = arena.has_guard_markers();
    arena.alloc_pages(Some(user(10)), 5, 0).expect("free");
    (10..15).for_each(|at| arena.ptr::<u64>(offset(at, 0)).write(at.into()));
    let used_up = UsedUp::to(level);
    // No mapping for a page in the midst of others, or for a region.
    let midst = if markers { CLOSED } else { 20 };
    for (at, page_cnt) in [(midst, 1), (midst, 40)] {
        let refused = arena.alloc_pages(Some(user(at)), page_cnt, 0);
        assert!(matches!(refused, Err(AllocError::Os(_))), "{refused:?}");
    }
    assert_eq!(arena.pages_in_use(), 6);
    assert_eq!(arena.entry_state(page(midst)), EntryState::Empty);
    // A free in the midst works with markers; else the page stays, and stays usable.
    let freed = arena.free_pages(user(12), 1);
    if markers {
        assert_eq!(freed, Ok(()));
        assert_eq!(arena.alloc_pages(Some(user(12)), 1, 0), Ok(user(12)));
        assert_eq!(arena.ptr::<u64>(offset(12, 0)).read(), 0);
    } else {
        assert!(matches!(freed, Err(FreeError::Os(_))), "{freed:?}");
        assert_eq!(arena.entry_state(page(12)), EntryState::Page);
        assert_eq!(arena.ptr::<u64>(offset(12, 0)).read(), 12);
    }
    assert_eq!(arena.ptr::<u64>(offset(13, 0)).read(), 13);
    assert_eq!(arena.pages_in_use(), 6);
    drop(used_up);
    arena.free_pages(user(12), 1).expect("mappings are back");
    arena.alloc_pages(Some(user(midst)), 40, 0).expect("too");
    assert_eq!(arena.pages_in_use(), 45);
    assert_no_page_was_lost(&arena);
    exit(DONE);
});

#[test]
fn alloc_and_free_at_the_limit_are_all_or_nothing() {
    in_all_settings("child_alloc_and_free");
}

child!(child_free_around_scratch, {
    let level = setting();
    let arena = opened();
    let _scope = scope(&arena);
    for at in [20, 22] {
        arena.alloc_pages(Some(user(at)), 1, 0).expect("free");
        arena.ptr::<u64>(offset(at, 0)).write(at.into());
    }
    arena.ptr::<u64>(offset(21, 0)).write(1);
    let used_up = UsedUp::to(level);
    // At the hard level scratch cannot be replaced, so its entry stays; nothing stays busy.
    let freed = arena.free_pages(user(19), 5);
    assert_eq!(freed.is_ok(), level == Level::Split, "{freed:?}");
    for at in 19..24 {
        arena.ptr::<u64>(offset(at, 8)).write(7);
        assert_ne!(arena.entry_state(page(at)), EntryState::Page);
    }
    assert_eq!(arena.pages_in_use(), 1);
    drop(used_up);
    assert_no_page_was_lost(&arena);
    exit(DONE);
});

#[test]
fn a_free_that_meets_stuck_scratch_frees_the_rest() {
    in_all_settings("child_free_around_scratch");
}

/// The reserve is gone, and so is what it gave.
fn nothing_left(arena: &Arena) -> [UsedUp; 2] {
    let first = UsedUp::to(Level::Split);
    arena.ptr::<u64>(offset(1, 0)).write(1);
    arena.free_pages_deferred(UserAddr::new(0), u32::MAX);
    arena
        .alloc_pages(Some(user(1)), 1, 0)
        .expect("its mappings are there");
    assert_eq!(arena.scratch_count(), 0);
    [first, UsedUp::to(Level::Split)]
}

child!(child_real_page, {
    let arena = opened();
    let _scope = scope(&arena);
    let _used_up = nothing_left(&arena);
    arena.ptr::<u64>(offset(7, 0)).write(7);
    assert_eq!(arena.entry_state(page(7)), EntryState::Page);
    assert_eq!(arena.ptr::<u64>(offset(7, 0)).read(), 7);
    assert_eq!(arena.faults_recovered_short(), 2);
    // The allocator learns of the page.
    let at = arena.alloc_pages(Some(user(7)), 1, 0);
    assert_eq!(at, Err(AllocError::NoSpace { page_cnt: 1 }));
    exit(DONE);
});

child!(child_nothing_helps, {
    let arena = opened();
    let _scope = scope(&arena);
    let _used_up = nothing_left(&arena);
    peek(arena.host_ptr(offset(CLOSED, 0)));
});

#[test]
fn without_reserve_and_scratch_a_page_of_an_open_region_becomes_real() {
    // Without guard markers every exposed page needs a mapping.
    if !arena(1).has_guard_markers() {
        return eprintln!("skipped: this kernel has no guard markers");
    }
    assert_exit("shortage::child_real_page", DONE);
}

#[test]
fn a_fault_that_nothing_helps_is_forwarded() {
    assert_segv("shortage::child_nothing_helps");
}

child!(child_creation, {
    let level = setting();
    let used_up = UsedUp::to(level);
    let refused = Arena::create(&spec(16)).expect_err("no mapping is left");
    assert_eq!(refused.errno(), harena_abi::Errno::ENOMEM);
    drop(used_up);
    drop(arena(16));
    exit(DONE);
});

#[test]
fn creation_without_mappings_is_an_error() {
    in_all_settings("child_creation");
}

#[test]
fn a_hundred_thousand_scattered_pages_and_as_many_faults() {
    const COUNT: u32 = 100_000;
    let arena = arena(1 << 20);
    if !arena.has_guard_markers() {
        // Two mappings a page: at most half the limit's number of scattered pages.
        return eprintln!("skipped: this kernel has no guard markers");
    }
    let _scope = scope(&arena);
    let before = mapping_count(&arena);
    for at in (0..COUNT).map(|n| n * 10) {
        arena.alloc_pages(Some(user(at)), 1, 0).expect("it is free");
        arena.ptr::<u32>(offset(at, 0)).write(at);
    }
    let pages = mapping_count(&arena) - before;
    for at in (0..COUNT).map(|n| n * 10 + 5) {
        arena.ptr::<u32>(offset(at, 0)).write(at);
    }
    let faults = mapping_count(&arena) - before;
    println!("{COUNT} pages: {pages} mappings more; and {COUNT} faults: {faults}");
    assert!(pages <= 16, "{pages}");
    assert!(faults <= pages + 2 * SCRATCH_MAX, "{faults}");
    let counts = (arena.faults_recovered(), arena.faults_recovered_short());
    assert_eq!(counts, (COUNT.into(), 0));
    assert!((0..COUNT).all(|n| arena.ptr::<u32>(offset(n * 10, 0)).read() == n * 10));
}

// ---- half of two views -------------------------------------------------------------------

/// Without guard markers, so that every page of a view needs mappings.
fn arena_with_window(start: u64) -> Arena {
    forbid(GUARD_MARKERS);
    let arena = arena_with(ArenaSpec {
        map_extra: start,
        ..spec(64)
    });
    assert!(!arena.has_guard_markers());
    arena
}

child!(child_user_view, {
    const START: u64 = 0x2000_0000_0000;
    let arena = arena_with_window(START);
    for page in 0..32 {
        let at = UserAddr::new(START + page * 8192);
        arena.alloc_pages(Some(at), 1, 0).expect("it is free");
    }
    for page in 0..32 {
        arena.ptr::<u32>(offset(2 * page, 0)).write(page);
    }
    let used_up = UsedUp::to(Level::Split);
    // Room for the view, but not for 32 pages that are each a mapping of their own.
    used_up.give_back(10);
    assert!(matches!(arena.map_user(), Err(UserMapError::Os(_))));
    drop(used_up);
    let view = UserMemory::new(arena.map_user().expect("there is room now"), 64 * 4096);
    for page in 0..32 {
        assert_eq!(view.read(page * 8192) & 0xffff_ffff, page as u64);
    }
    view.write(4096, 7);
    assert_eq!(arena.ptr::<u64>(offset(1, 0)).read(), 7);
    assert!(matches!(arena.map_user(), Err(UserMapError::Busy { .. })));
    exit(DONE);
});

#[test]
fn a_user_view_that_failed_half_way_can_be_mapped_again() {
    assert_exit("shortage::child_user_view", DONE);
}

child!(child_half_exposed_page, {
    const START: u64 = 0x2000_0000_0000;
    let at = UserAddr::new(START + 9 * 4096);
    let arena = arena_with_window(START);
    arena.map_user().expect("the address is free");
    let this = std::fs::File::open("/proc/self/exe").expect("procfs is mounted");
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let used_up = std::thread::scope(|threads| {
        threads.spawn(|| {
            started.store(true, Ordering::Relaxed);
            let target = arena.host_ptr(offset(9, 0)).cast::<c_void>();
            while !done.load(Ordering::Relaxed) {
                // SAFETY: arena memory; the kernel fails where it is not there.
                unsafe { libc::pread(this.as_raw_fd(), target, 8, 0) };
            }
        });
        while !started.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        let used_up = UsedUp::to(Level::Split);
        // A page in the middle of a view costs two mappings: enough for the host's.
        used_up.give_back(1);
        for _ in 0..50_000 {
            let got = arena.alloc_pages_non_sleepable(Some(at), 1, 0);
            assert!(matches!(got, Err(AllocError::Os(_))), "{got:?}");
        }
        done.store(true, Ordering::Relaxed);
        used_up
    });
    drop(used_up);
    assert_eq!(arena.alloc_pages(Some(at), 1, 0), Ok(at));
    assert_eq!(arena.ptr::<u64>(offset(9, 0)).read(), 0);
    exit(DONE);
});

/// Between the host's view and the user's a page can be written. If the user's fails, that must
/// not be seen by the page's next owner.
#[test]
fn a_page_that_was_half_exposed_is_zeroed() {
    assert_exit("shortage::child_half_exposed_page", DONE);
}
