//! Accesses of every width around every edge: page starts, the end of the window, the guards.
//!
//! What an access that straddles a real and an empty page does is defined: the instruction runs
//! again until both are there, so the real page gets its bytes whole, the others go to scratch,
//! and each empty page is reported once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use harena_abi::{ArenaOffset, KernAddr, PAGE_SIZE, PageIndex};
use harena_arena::{
    ARENA_AREA, Arena, ArenaPtr, EntryState, HALF_GUARD, Plain, Reservation, WindowPage,
};

use crate::children::{assert_segv, child};
use crate::common::{arena, offset, scope, spec, user};

/// Around which bytes, as offsets in the window, and which of its pages are real.
struct Edge {
    name: &'static str,
    at: u32,
    real: &'static [u32],
}

const LAST: u32 = PageIndex::COUNT - 1;

const EDGES: [Edge; 6] = [
    Edge {
        name: "two empty pages",
        at: 5 << 12,
        real: &[],
    },
    Edge {
        name: "real, then empty",
        at: 5 << 12,
        real: &[4],
    },
    Edge {
        name: "empty, then real",
        at: 5 << 12,
        real: &[5],
    },
    Edge {
        name: "two real pages",
        at: 5 << 12,
        real: &[4, 5],
    },
    Edge {
        name: "the end of the window, empty",
        at: 0,
        real: &[],
    },
    Edge {
        name: "the end of the window, real",
        at: 0,
        real: &[LAST, 0],
    },
];

/// Host code reaches on behind the window: there is no wrap inside an access.
fn pages_of(first: ArenaOffset, width: u64) -> Vec<WindowPage> {
    let start = u64::from(first.raw());
    let bytes = [start, start + width - 1];
    let mut pages: Vec<_> = bytes.into_iter().filter_map(WindowPage::of_byte).collect();
    pages.dedup();
    pages
}

fn reported(page: WindowPage) -> u64 {
    user(0).raw() + page.byte_offset()
}

/// Writes and reads `value` at each distance from the edge.
fn check<T: Plain + PartialEq + core::fmt::Debug>(arena: &Arena, edge: &Edge, value: T) {
    for distance in -9i32..=8 {
        let first = ArenaOffset::new(edge.at).wrapping_add(distance.cast_unsigned());
        let pages = pages_of(first, size_of::<T>() as u64);
        let before: Vec<_> = pages.iter().map(|page| arena.window_state(*page)).collect();
        let faults = arena.faults_recovered();
        let what = || format!("{}, {distance}, {} bytes", edge.name, size_of::<T>());

        let place: ArenaPtr<'_, T> = arena.ptr(first);
        place.write(value);
        assert_eq!(place.read(), value, "{}", what());

        let mut expected = Vec::new();
        for (page, before) in pages.iter().zip(before) {
            let real = before == EntryState::Page;
            let after = if real {
                EntryState::Page
            } else {
                EntryState::Scratch
            };
            assert_eq!(arena.window_state(*page), after, "{}", what());
            if before == EntryState::Empty {
                expected.push(reported(*page));
            }
        }
        let mut got: Vec<_> = arena.drain_reports().map(|r| r.address.raw()).collect();
        got.sort_unstable();
        assert_eq!(got, expected, "{}", what());
        assert_eq!(arena.faults_recovered() - faults, got.len() as u64);
        // The scratch pages of the window go; what the real ones hold stays.
        for page in pages.iter().filter_map(|page| page.in_window()) {
            if !edge.real.contains(&page.raw()) {
                arena
                    .free_pages(user(page.raw()), 1)
                    .expect("never refused");
            }
        }
    }
}

#[test]
fn accesses_around_every_edge_end_as_defined() {
    for edge in &EDGES {
        let arena = arena(PageIndex::COUNT);
        for at in edge.real {
            arena
                .alloc_pages(Some(user(*at)), 1, 0)
                .expect("it is free");
        }
        let _scope = scope(&arena);
        check(&arena, edge, 0x5au8);
        check(&arena, edge, 0x5a6bu16);
        check(&arena, edge, 0x5a6b_7c8du32);
        check(&arena, edge, 0x5a6b_7c8d_9eaf_b0c1u64);
        assert_eq!(arena.pages_in_use() as usize, edge.real.len());
    }
}

#[test]
fn a_straddling_store_writes_its_bytes_to_the_real_page_whole() {
    const VALUE: u64 = 0x0807_0605_0403_0201;
    for split in 1..8u32 {
        let arena = arena(4);
        arena.alloc_pages(Some(user(1)), 1, 0).expect("it is free");
        let _scope = scope(&arena);
        // Its end is real, then its start.
        arena.ptr::<u64>(offset(0, 4096 - split)).write(VALUE);
        arena.ptr::<u64>(offset(1, 4096 - split)).write(VALUE);
        let bytes = VALUE.to_le_bytes();
        for (index, byte) in (0..8u32).zip(bytes) {
            let at = offset(1, 0).wrapping_add(index.wrapping_sub(split));
            if index >= split {
                assert_eq!(arena.ptr::<u8>(at).read(), byte, "split at {split}");
            }
            let at = offset(1, 4095)
                .wrapping_add(index + 1)
                .wrapping_add(0u32.wrapping_sub(split));
            if index < split {
                assert_eq!(arena.ptr::<u8>(at).read(), byte, "split at {split}");
            }
        }
        // Nothing else of the real page changed.
        let rest = 8 - split..4096 - split;
        assert!(
            rest.clone()
                .all(|at| arena.ptr::<u8>(offset(1, at)).read() == 0)
        );
        assert_eq!(arena.drain_reports().count(), 2);
    }
}

#[test]
fn atomics_on_empty_pages_work_on_scratch_and_misaligned_ones_touch_nothing() {
    let arena = arena(8);
    let _scope = scope(&arena);
    for distance in -9i32..=8 {
        let at = offset(5, 0).wrapping_add(distance.cast_unsigned());
        let page = WindowPage::from(at.page());
        arena.free_pages(user(4), 2).expect("never refused");
        let (word, long) = (arena.ptr::<u32>(at), arena.ptr::<u64>(at));
        if !at.raw().is_multiple_of(4) {
            assert_eq!(word.fetch_add(1, Ordering::Relaxed), None);
            assert_eq!(long.compare_exchange(0, 1), None);
            assert_eq!(arena.window_state(page), EntryState::Empty);
            continue;
        }
        let faults = arena.faults_recovered();
        let old = word.load(Ordering::Relaxed).expect("aligned");
        assert_eq!(word.fetch_add(5, Ordering::Relaxed), Some(old));
        assert_eq!(word.compare_exchange(old + 5, 9), Some(old + 5));
        assert_eq!(word.swap(1, Ordering::AcqRel), Some(9));
        assert_eq!(word.fetch_or(6, Ordering::Relaxed), Some(1));
        assert_eq!(word.fetch_and(3, Ordering::Relaxed), Some(7));
        if at.raw().is_multiple_of(8) {
            long.write(1 << 40);
            assert_eq!(long.fetch_add(1, Ordering::Relaxed), Some(1 << 40));
        }
        word.write(0);
        assert_eq!(arena.faults_recovered(), faults + 1, "one fault a page");
        assert_eq!(arena.window_state(page), EntryState::Scratch);
    }
    // Scratch holds nothing back: a page that is allocated now is zero.
    arena.alloc_pages(None, 8, 0).expect("all are free");
    assert!((0..8 * 512).all(|at| arena.ptr::<u64>(ArenaOffset::new(at * 8)).read() == 0));
}

#[test]
fn the_upper_guard_is_recovered_to_its_last_byte() {
    let arena = arena(1);
    let _scope = scope(&arena);
    let end = arena.host_ptr(ArenaOffset::new(u32::MAX)).wrapping_add(1);
    let guard = usize::try_from(HALF_GUARD).expect("32 KiB");
    for at in (0..guard).step_by(4096).chain([guard - 8]) {
        let word = end.wrapping_add(at).cast::<u64>();
        // SAFETY: the guard is the arena's; a touch of it is recovered.
        unsafe { word.write_volatile(at as u64) };
    }
    assert_eq!(arena.faults_recovered(), HALF_GUARD / PAGE_SIZE);
}

/// Eight bytes at any address.
fn peek_word(address: *const u8) -> u64 {
    // SAFETY: none is claimed: the callers want the fault.
    unsafe { address.cast::<u64>().read_unaligned() }
}

fn straddle(at: usize) {
    let reservation = Arc::new(Reservation::new(3 * ARENA_AREA).expect("addresses are free"));
    let guest = KernAddr::new(0xffff_c900_0000_0000);
    let arena = Arena::create_in(&reservation, ARENA_AREA, guest, &spec(1 << 20)).expect("valid");
    arena.alloc_pages(Some(user(0)), 1, 0).expect("it is free");
    let _scope = scope(&arena);
    std::hint::black_box(peek_word(
        reservation.base().wrapping_add(ARENA_AREA.wrapping_add(at)),
    ));
}

child!(child_across_the_start, {
    // Four bytes in the lower guard, four in page 0, which is real.
    straddle(32 * 1024 - 4);
});

child!(child_across_the_end, {
    // Four bytes in the upper guard, four behind it.
    straddle(ARENA_AREA - 4);
});

child!(child_before_the_reservation, {
    straddle(0usize.wrapping_sub(8));
});

#[test]
fn an_access_across_the_outer_edges_crashes() {
    assert_segv("edges::child_across_the_start");
    assert_segv("edges::child_across_the_end");
    assert_segv("edges::child_before_the_reservation");
}
