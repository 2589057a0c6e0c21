//! Several threads allocate, free, fault and destroy at once.

use std::sync::atomic::{AtomicBool, Ordering};

use harena_abi::ArenaOffset;
use harena_arena::{Arena, SCRATCH_MAX};

use crate::common::{arena, offset, scope, user};

const PAGES: u32 = 1100;

#[test]
fn alloc_free_and_faults_from_several_threads_agree() {
    let arena = arena(PAGES);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (arena, stop) = (&arena, &stop);
        for seed in 0..3 {
            threads.spawn(move || fault_until(arena, stop, seed));
        }
        let allocators = [0, 1].map(|n| threads.spawn(move || allocate_and_free(arena, n)));
        let ends = allocators.map(|allocator| allocator.join());
        stop.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    arena.drain_deferred().unwrap();
    assert_eq!(arena.pages_in_use(), 0);
    assert!(arena.scratch_count() <= SCRATCH_MAX);
    arena.alloc_pages(None, PAGES, 0).unwrap();
    assert!((0..PAGES).all(|at| arena.ptr::<u64>(offset(at, 0)).read() == 0));
}

fn fault_until(arena: &Arena, stop: &AtomicBool, seed: u32) {
    let _scope = scope(arena);
    let mut at = seed * 97;
    while !stop.load(Ordering::Relaxed) {
        at = (at * 5 + 7) % PAGES;
        // Behind the bytes that the allocators use.
        arena.ptr::<u64>(offset(at, 2048)).write(u64::MAX);
    }
}

fn allocate_and_free(arena: &Arena, n: u32) {
    let _scope = scope(arena);
    for round in 0..1500u32 {
        let count = 1 + (round * 7 + n) % 9;
        let at = arena
            .alloc_pages(None, count, 0)
            .expect("far fewer pages are in use");
        let first = ArenaOffset::of(at);
        let word = |index: u32| arena.ptr::<u64>(first.wrapping_add(index * 4096));
        for index in 0..count {
            assert_eq!(word(index).read(), 0, "zeroed, and not scratch");
            word(index).write(u64::from(round));
        }
        assert!(
            (0..count).all(|index| word(index).read() == u64::from(round)),
            "ours alone"
        );
        if round % 3 == 0 {
            arena.free_pages_deferred(at, count);
        } else {
            arena
                .free_pages(at, count)
                .expect("the lock is never held for long");
        }
    }
}

#[test]
fn arenas_come_and_go_while_others_fault() {
    let steady = arena(64);
    std::thread::scope(|threads| {
        let churn = threads.spawn(|| {
            for _ in 0..100 {
                let arena = arena(64);
                let _scope = scope(&arena);
                arena.ptr::<u8>(offset(1, 0)).write(1);
                assert_eq!(arena.faults_recovered(), 1);
            }
        });
        let _scope = scope(&steady);
        loop {
            steady.ptr::<u8>(offset(2, 0)).write(1);
            steady.free_pages(user(2), 1).unwrap();
            if churn.is_finished() {
                break;
            }
        }
    });
    assert!(steady.faults_recovered() > 0);
}
