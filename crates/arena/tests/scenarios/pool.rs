//! The pool of host-owned structures (spec section 6), checked against a model.

use std::sync::Arc;

use harena_abi::{KernAddr, PAGE_SIZE};
use harena_arena::{AllocError, ArenaSpec, POOL_GROWTH_PAGES, Pool, PoolError};
use proptest::prelude::*;

use crate::common::{self, arena, arena_with};

#[test]
fn a_pool_grows_by_four_pages_or_by_what_is_needed() {
    let pool = Pool::new(Arc::new(arena(64)));
    let first = pool.alloc(1).unwrap();
    assert_eq!(pool.arena().pages_in_use(), POOL_GROWTH_PAGES);
    let second = pool.alloc(9).unwrap();
    assert_eq!(second.offset_from(first), Some(8), "8-byte granules");
    pool.alloc(5 * PAGE_SIZE + 1).unwrap();
    assert_eq!(pool.arena().pages_in_use(), POOL_GROWTH_PAGES + 6);
    let whole = pool.alloc(4 * PAGE_SIZE).unwrap();
    let ptr = pool
        .arena()
        .ptr::<u64>(pool.arena().offset_of(whole).unwrap());
    ptr.write(5);
    assert_eq!(ptr.read(), 5, "memory is there");
    let outstanding = 8 + 16 + (5 * PAGE_SIZE + 8) + 4 * PAGE_SIZE;
    assert_eq!(pool.outstanding(), outstanding);
    let arena = Arc::clone(pool.arena());
    assert_eq!(pool.destroy(), outstanding);
    assert!(arena.pages_in_use() > 0, "the pages go with the arena");
}

/// A program may free pages of the pool; the arena then gives them to whoever asks next.
#[test]
fn a_pool_survives_that_its_pages_are_freed_under_it() {
    let pool = Pool::new(Arc::new(arena(64)));
    let first = pool.alloc(64).unwrap();
    let arena = Arc::clone(pool.arena());
    let user = arena.user_addr(arena.offset_of(first).unwrap());
    arena.free_pages(user, POOL_GROWTH_PAGES).unwrap();
    let large = pool.alloc(5 * PAGE_SIZE).unwrap();
    let distance = large.offset_from(first).unwrap();
    assert!(distance >= 64, "memory given twice");
    let page_of = |at| arena.ptr::<u64>(arena.offset_of(at).unwrap());
    page_of(large).write(5);
    assert_eq!(page_of(large).read(), 5);
    pool.free(first, 64).unwrap();
    pool.free(large, 5 * PAGE_SIZE).unwrap();
    assert_eq!(pool.destroy(), 0);
}

#[test]
fn what_is_not_allocated_cannot_be_freed() {
    let pool = Pool::new(Arc::new(arena(16)));
    let address = pool.alloc(64).unwrap();
    let behind = address.checked_add(64).unwrap();
    let inside = address.checked_add(4).unwrap();
    let below = KernAddr::new(pool.arena().kern_vm_start().raw() - 8);
    let at_end = address.checked_add(5 * PAGE_SIZE).unwrap();
    for (address, size) in [
        (address, 72),
        (behind, 8),
        (inside, 8),
        (below, 8),
        (at_end, 8),
        (address, 0),
    ] {
        let error = pool.free(address, size).unwrap_err();
        assert_eq!((error.address, error.size), (address, size));
    }
    assert!(pool.free(address, u64::MAX).is_err());
    pool.free(address, 64).unwrap();
    assert!(pool.free(address, 64).is_err(), "a double free");
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn a_pool_without_room_says_so_and_goes_on() {
    let pool = Pool::new(Arc::new(arena(4)));
    assert_eq!(pool.alloc(0), Err(PoolError::Size { size: 0 }));
    assert_eq!(
        pool.alloc(u64::MAX),
        Err(PoolError::Size { size: u64::MAX })
    );
    pool.alloc(3 * PAGE_SIZE).unwrap();
    let refused = AllocError::NoSpace { page_cnt: 4 };
    assert_eq!(pool.alloc(2 * PAGE_SIZE), Err(PoolError::Grow(refused)));
    pool.alloc(PAGE_SIZE).unwrap();
    let limited = ArenaSpec {
        byte_limit: Some(PAGE_SIZE),
        ..common::spec(16)
    };
    let pool = Pool::new(Arc::new(arena_with(limited)));
    let refused = AllocError::Limit { page_cnt: 4 };
    assert_eq!(pool.alloc(8), Err(PoolError::Grow(refused)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn allocations_are_disjoint_and_inside(
        ops in prop::collection::vec((1u64..9000, any::<prop::sample::Index>(), any::<bool>()), 1..80)
    ) {
        let pool = Pool::new(Arc::new(arena(256)));
        let mut live: Vec<(KernAddr, u64)> = Vec::new();
        for (size, pick, free) in ops {
            if free && !live.is_empty() {
                let (address, size) = live.swap_remove(pick.index(live.len()));
                prop_assert!(pool.free(address, size).is_ok());
                prop_assert!(pool.free(address, size).is_err());
                continue;
            }
            let address = pool.alloc(size).expect("256 pages are enough");
            prop_assert!(address.raw().is_multiple_of(8));
            let end = address.raw() + size;
            for (other, other_size) in &live {
                prop_assert!(end <= other.raw() || other.raw() + other_size <= address.raw());
            }
            let offset = pool.arena().offset_of(address).expect("in the window");
            prop_assert!(pool.arena().copy_in(offset, &vec![1; usize::try_from(size)?]).is_ok());
            live.push((address, size));
        }
        let outstanding: u64 = live.iter().map(|(_, size)| size.next_multiple_of(8)).sum();
        prop_assert_eq!(pool.outstanding(), outstanding);
    }
}
