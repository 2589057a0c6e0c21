//! Page alloc, free and reserve, and typed access to the pages (spec section 4).

use std::sync::atomic::Ordering;

use harena_abi::{ArenaOffset, Errno, PAGE_SIZE, UserAddr};
use harena_arena::{AllocError, ArenaSpec, EntryState, ReservePagesError};

use crate::common::{ARENA_AT, arena, arena_with, mapping_count, offset, page, scope, spec, user};

#[test]
fn freed_pages_fault_again_and_come_back_zeroed() {
    let arena = arena(16);
    let _scope = scope(&arena);
    let at = arena.alloc_pages(None, 2, 0).unwrap();
    let (first, second) = (
        arena.ptr::<u64>(offset(0, 0)),
        arena.ptr::<u64>(offset(1, 0)),
    );
    first.write(1);
    second.write(2);
    // The high half of the pointer does not count, nor do the low 12 bits.
    arena
        .free_pages(UserAddr::new((at.raw() & 0xffff_ffff) | 0x123), 1)
        .unwrap();
    assert_eq!(arena.entry_state(page(0)), EntryState::Empty);
    assert_eq!(arena.pages_in_use(), 1);
    first.write(3);
    assert_eq!(arena.entry_state(page(0)), EntryState::Scratch);
    assert_eq!(second.read(), 2);
    assert_eq!(arena.alloc_pages(Some(user(0)), 1, 0), Ok(user(0)));
    assert_eq!(first.read(), 0);
}

#[test]
fn free_of_a_range_with_scratch_clears_the_entries_only() {
    let arena = arena(16);
    let _scope = scope(&arena);
    arena.alloc_pages(Some(user(4)), 1, 0).unwrap();
    for at in [3, 5, 9] {
        arena.ptr::<u8>(offset(at, 0)).write(0x77);
    }
    arena.free_pages(user(2), 5).unwrap();
    assert_eq!((arena.scratch_count(), arena.pages_in_use()), (1, 0));
    assert_eq!(
        arena.ptr::<u8>(offset(9, 0)).read(),
        0x77,
        "the scratch page itself lives on"
    );
    assert_eq!(
        arena.alloc_pages(None, 16, 0),
        Ok(user(0)),
        "all pages are free"
    );
}

#[test]
fn frees_are_clipped_to_the_window() {
    let start = 0x1_0000_4000;
    let arena = arena_with(ArenaSpec {
        map_extra: start,
        ..spec(4)
    });
    arena.alloc_pages(None, 4, 0).unwrap();
    arena.free_pages(UserAddr::new(start - 0x2000), 3).unwrap();
    assert_eq!(arena.pages_in_use(), 3);
    arena
        .free_pages(UserAddr::new(start + 0x3000), u32::MAX)
        .unwrap();
    assert_eq!(arena.pages_in_use(), 2);
    for (address, page_cnt) in [(start + 0x4000, 5), (start, 0), (0, 3), (u64::MAX, 7)] {
        arena.free_pages(UserAddr::new(address), page_cnt).unwrap();
        arena.free_pages_deferred(UserAddr::new(address), page_cnt);
    }
    arena.drain_deferred().unwrap();
    assert_eq!(arena.pages_in_use(), 2);
}

#[test]
fn alloc_refuses_what_the_kfunc_refuses() {
    let arena = arena(16);
    assert_eq!(
        arena.alloc_pages(None, 1, 1),
        Err(AllocError::Flags { flags: 1 })
    );
    for page_cnt in [0, 17, u32::MAX] {
        let refused = Err(AllocError::Count {
            page_cnt,
            max_entries: 16,
        });
        assert_eq!(arena.alloc_pages(None, page_cnt, 0), refused);
    }
    for (address, page_cnt) in [
        (user(16), 1),
        (user(15), 2),
        (UserAddr::new(ARENA_AT + 1), 1),
    ] {
        let refused = Err(AllocError::Address { address, page_cnt });
        assert_eq!(arena.alloc_pages(Some(address), page_cnt, 0), refused);
    }
    arena.alloc_pages(Some(user(3)), 1, 0).unwrap();
    let taken = Err(AllocError::NoSpace { page_cnt: 2 });
    assert_eq!(arena.alloc_pages(Some(user(2)), 2, 0), taken);
    assert_eq!(arena.pages_in_use(), 1);
    assert_eq!(
        arena.alloc_pages(None, 13, 0),
        Err(AllocError::NoSpace { page_cnt: 13 })
    );
    assert_eq!(arena.alloc_pages(None, 12, 0), Ok(user(4)));
    assert_eq!(arena.alloc_pages(None, 2, 0), Ok(user(0)));
}

#[test]
fn the_smallest_range_that_fits_is_used() {
    let arena = arena(16);
    arena.alloc_pages(None, 16, 0).unwrap();
    for (at, page_cnt) in [(0, 4), (6, 2), (10, 3)] {
        arena.free_pages(user(at), page_cnt).unwrap();
    }
    assert_eq!(arena.alloc_pages(None, 2, 0), Ok(user(6)));
    assert_eq!(arena.alloc_pages(None, 2, 0), Ok(user(10)));
    assert_eq!(arena.alloc_pages(None, 1, 0), Ok(user(12)));
    assert_eq!(arena.alloc_pages(None, 4, 0), Ok(user(0)));
}

#[test]
fn the_byte_limit_makes_alloc_and_first_touch_fail() {
    let arena = arena_with(ArenaSpec {
        byte_limit: Some(3 * PAGE_SIZE + 1),
        ..spec(16)
    });
    arena.alloc_pages(None, 2, 0).unwrap();
    assert_eq!(
        arena.alloc_pages(None, 2, 0),
        Err(AllocError::Limit { page_cnt: 2 })
    );
    arena.touch_user(user(9)).unwrap();
    assert!(arena.touch_user(user(10)).is_err());
    assert_eq!(arena.pages_in_use(), 3);
    arena.free_pages(user(0), 1).unwrap();
    arena.touch_user(user(10)).unwrap();
}

#[test]
fn reserved_pages_are_not_handed_out_but_fault() {
    let arena = arena(8);
    let _scope = scope(&arena);
    arena.reserve_pages(user(2), 3).unwrap();
    arena.reserve_pages(user(0), 0).unwrap();
    let error = |at, page_cnt| arena.reserve_pages(user(at), page_cnt).unwrap_err().errno();
    assert_eq!((error(7, 2), error(8, 1)), (Errno::EINVAL, Errno::EINVAL));
    assert_eq!((error(4, 1), error(1, 2)), (Errno::EBUSY, Errno::EBUSY));
    assert_eq!(arena.pages_in_use(), 0);
    assert_eq!(
        arena.alloc_pages(Some(user(3)), 1, 0),
        Err(AllocError::NoSpace { page_cnt: 1 })
    );
    assert_eq!(
        arena.alloc_pages(None, 4, 0),
        Err(AllocError::NoSpace { page_cnt: 4 })
    );
    arena.ptr::<u32>(offset(3, 0)).write(1);
    assert_eq!(arena.drain_reports().count(), 1);
    arena.touch_user(user(6)).unwrap();
    let taken = Err(ReservePagesError::Taken {
        address: user(6),
        page_cnt: 1,
    });
    assert_eq!(arena.reserve_pages(user(6), 1), taken);
    arena.free_pages(user(2), 3).unwrap();
    assert_eq!(arena.alloc_pages(None, 6, 0), Ok(user(0)));
}

#[test]
fn deferred_frees_wait_for_the_worker() {
    let arena = arena(4);
    arena.alloc_pages(None, 4, 0).unwrap();
    arena.free_pages_deferred(user(1), 1);
    arena.free_pages_deferred(user(1), 2);
    assert_eq!(arena.pages_in_use(), 4);
    let refused = Err(AllocError::NoSpace { page_cnt: 1 });
    assert_eq!(arena.alloc_pages_non_sleepable(None, 1, 0), refused);
    arena.drain_deferred().unwrap();
    assert_eq!(arena.pages_in_use(), 2);
    assert_eq!(arena.alloc_pages_non_sleepable(None, 1, 0), Ok(user(1)));
    arena.free_pages_deferred(user(0), 2);
    // A sleepable allocation does the worker's work itself.
    assert_eq!(arena.alloc_pages(None, 3, 0), Ok(user(0)));
}

#[test]
fn ten_thousand_scattered_pages_live_at_once() {
    let arena = arena(1 << 20);
    let before = mapping_count(&arena);
    let scattered = || (0..10_000u32).map(|n| n * 103);
    for at in scattered() {
        arena.alloc_pages(Some(user(at)), 1, 0).unwrap();
        arena.ptr::<u32>(offset(at, 0)).write(at);
    }
    assert_eq!(arena.pages_in_use(), 10_000);
    assert!(scattered().all(|at| arena.ptr::<u32>(offset(at, 0)).read() == at));
    let grown = mapping_count(&arena) - before;
    let bound = if arena.has_guard_markers() {
        16
    } else {
        20_002
    };
    assert!(grown <= bound, "{grown} mappings more");
    for at in scattered().step_by(2) {
        arena.free_pages(user(at), 1).unwrap();
    }
    assert_eq!(arena.pages_in_use(), 5_000);
    let _scope = scope(&arena);
    assert_eq!(arena.ptr::<u32>(offset(0, 0)).read(), 0);
    assert_eq!(arena.faults_recovered(), 1);
}

#[test]
fn checked_copies_refuse_empty_pages() {
    let arena = arena(4);
    arena.alloc_pages(Some(user(1)), 2, 0).unwrap();
    let data: Vec<u8> = (0..=255).cycle().take(5001).collect();
    arena.copy_in(offset(1, 3), &data).unwrap();
    let mut back = vec![0; data.len()];
    arena.copy_out(offset(1, 3), &mut back).unwrap();
    assert_eq!(back, data);
    let error = arena.copy_in(offset(2, 4090), &[0; 16]).unwrap_err();
    assert_eq!((error.bad, error.errno()), (0x3000, Errno::EFAULT));
    assert!(
        arena
            .copy_out(ArenaOffset::new(u32::MAX), &mut [0; 2])
            .is_err()
    );
    arena.copy_out(offset(0, 0), &mut []).unwrap();
}

#[test]
fn typed_access_is_volatile_of_any_alignment_and_atomic_where_aligned() {
    let arena = arena(2);
    arena.alloc_pages(None, 2, 0).unwrap();
    let across = arena.ptr::<u64>(offset(0, 4093));
    across.write(0x0102_0304_0506_0708);
    assert_eq!(across.read(), 0x0102_0304_0506_0708);
    assert_eq!(arena.ptr::<u8>(offset(0, 4093)).read(), 8);
    let word = arena.ptr::<u32>(offset(0, 8));
    assert_eq!(word.fetch_add(5, Ordering::Relaxed), Some(0));
    assert_eq!(word.compare_exchange(5, 6), Some(5));
    assert_eq!(word.swap(9, Ordering::Relaxed), Some(6));
    assert_eq!(word.load(Ordering::Relaxed), Some(9));
    assert_eq!(arena.ptr::<u32>(offset(0, 9)).load(Ordering::Relaxed), None);
    let last = arena.ptr::<u16>(ArenaOffset::new(0)).index(0x7fff_ffff);
    assert_eq!(last.offset(), ArenaOffset::new(0xffff_fffe));
}
