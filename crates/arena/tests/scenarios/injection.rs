//! Allocations that fail on purpose, and calls that the system refuses: nothing is lost.

use core::num::{NonZeroU32, NonZeroU64};

use harena_abi::Cpu;
use harena_arena::{
    AllocError, EntryState, FailedAllocs, FreeError, Injection, PageRange, Pool, PoolError,
    SlabAllocError,
};
use std::sync::Arc;

use crate::common::{arena, offset, page, scope, user};

fn pages(first: u32, count: u32) -> Option<PageRange> {
    PageRange::new(page(first), count)
}

fn nth(number: u64) -> FailedAllocs {
    FailedAllocs::Nth(NonZeroU64::new(number).expect("not 0"))
}

#[test]
fn the_nth_allocation_fails_whatever_kind_it_is() {
    let arena = Arc::new(arena(64));
    let fail = |allocs| {
        arena.inject(&Injection {
            allocs,
            ..Injection::default()
        });
    };
    fail(nth(1));
    let injected = AllocError::Injected { number: 1 };
    assert_eq!(arena.alloc_pages(None, 2, 0), Err(injected));
    assert_eq!(arena.injected_failures(), 1);
    fail(nth(1));
    assert!(arena.touch_user(user(9)).is_err());
    fail(nth(1));
    let mut cache = arena.slab_cache(Cpu::new(0)).expect("nobody uses it");
    let refused = SlabAllocError::Pages {
        size: 64,
        source: injected,
    };
    assert_eq!(cache.alloc(64), Err(refused));
    fail(nth(1));
    let pool = Pool::new(Arc::clone(&arena));
    assert_eq!(pool.alloc(64), Err(PoolError::Grow(injected)));
    assert_eq!(arena.pages_in_use(), 0);
    assert!(arena.alloc_pages(None, 64, 0).is_ok());
}

#[test]
fn after_a_failure_at_every_place_all_pages_are_still_there() {
    let arena = arena(32);
    for number in 1..20 {
        arena.inject(&Injection {
            allocs: nth(number),
            ..Injection::default()
        });
        let mut held = Vec::new();
        for count in [1, 3, 2, 7, 1, 4, 1, 2] {
            held.extend(arena.alloc_pages(None, count, 0).map(|at| (at, count)));
        }
        assert_eq!(arena.injected_failures(), u64::from(number <= 8));
        for (at, count) in held {
            arena.free_pages(at, count).unwrap();
        }
        assert_eq!(arena.pages_in_use(), 0);
    }
    arena.inject(&Injection::default());
    assert!(arena.alloc_pages(None, 32, 0).is_ok());
}

#[test]
fn equal_seeds_fail_equal_allocations() {
    let failing = |seed| -> Vec<u32> {
        let arena = arena(256);
        let count = NonZeroU32::new(5).expect("not 0");
        arena.inject(&Injection {
            allocs: FailedAllocs::OneIn { count, seed },
            ..Injection::default()
        });
        let failed = (0..100).filter(|_| arena.alloc_pages(None, 1, 0).is_err());
        failed.collect()
    };
    assert_eq!(failing(3), failing(3));
    assert_ne!(failing(3), failing(4));
}

#[test]
fn a_range_that_cannot_be_mapped_leaves_no_page_behind() {
    let arena = arena(16);
    let _scope = scope(&arena);
    arena.ptr::<u64>(offset(2, 0)).write(1);
    arena.inject(&Injection {
        unmappable: pages(3, 1),
        ..Injection::default()
    });
    let refused = arena.alloc_pages(Some(user(0)), 8, 0);
    assert!(matches!(refused, Err(AllocError::Os(_))), "{refused:?}");
    assert_eq!(arena.pages_in_use(), 0);
    for number in 0..8 {
        assert_eq!(arena.entry_state(page(number)), EntryState::Empty);
    }
    assert!(arena.touch_user(user(3)).is_err());
    arena.inject(&Injection::default());
    assert_eq!(arena.alloc_pages(Some(user(0)), 16, 0), Ok(user(0)));
}

#[test]
fn a_free_goes_on_behind_pages_that_cannot_be_unmapped() {
    let arena = arena(16);
    let _scope = scope(&arena);
    arena.alloc_pages(Some(user(0)), 16, 0).unwrap();
    arena.ptr::<u64>(offset(5, 0)).write(5);
    // Two runs of pages, between them an empty one; the second cannot be unmapped.
    arena.free_pages(user(3), 1).unwrap();
    arena.inject(&Injection {
        unremovable: pages(5, 2),
        ..Injection::default()
    });
    let refused = arena.free_pages(user(0), 10);
    assert!(matches!(refused, Err(FreeError::Os(_))), "{refused:?}");
    // What was emptied is free, what was refused is as it was, and nothing is busy.
    assert_eq!(arena.alloc_pages(Some(user(0)), 4, 0), Ok(user(0)));
    for number in 4..10 {
        assert_eq!(arena.entry_state(page(number)), EntryState::Page);
    }
    assert_eq!(arena.ptr::<u64>(offset(5, 0)).read(), 5);
    assert_eq!((arena.pages_in_use(), arena.faults_recovered()), (16, 0));
    arena.inject(&Injection::default());
    arena.free_pages(user(0), 16).unwrap();
    assert_eq!(arena.pages_in_use(), 0);
}

#[test]
fn memory_use_is_what_was_touched() {
    let arena = arena(64);
    let _scope = scope(&arena);
    arena.alloc_pages(Some(user(0)), 10, 0).unwrap();
    assert_eq!(arena.memory_use().unwrap().resident_bytes, 0);
    for number in 0..3 {
        arena.ptr::<u64>(offset(number, 0)).write(1);
    }
    let used = arena.memory_use().unwrap();
    assert_eq!((used.pages, used.pages_max), (10, 64));
    assert_eq!(used.resident_bytes, 3 * 4096);
    arena.free_pages(user(0), 10).unwrap();
    assert_eq!(arena.memory_use().unwrap().resident_bytes, 0);
    // Scratch is one page, however many entries hold it.
    arena.ptr::<u64>(offset(20, 0)).write(1);
    arena.ptr::<u64>(offset(30, 0)).write(1);
    assert_eq!(arena.memory_use().unwrap().resident_bytes, 4096);
}
