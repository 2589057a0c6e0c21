//! No page is handed out twice, whatever else goes on: real threads and a checker.
//!
//! Each page of the first half of the window has an owner word beside the arena. A thread that
//! is given a page must find it without owner; it writes to the page, and must find what it
//! wrote. In the second half, threads alloc, free (twice, overlapping, what was never
//! allocated), and touch the same few pages without any discipline: it must stay consistent.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;

use harena_abi::{ArenaOffset, UserAddr};
use harena_arena::{AllocError, Arena, EntryState, LockError};

use crate::common::{arena, offset, page, scope, user};

const HALF: u32 = 1024;
const PAGES: u32 = 2 * HALF;
/// Pages of the second half that all threads fight for.
const CONTESTED: u32 = 40;

/// A small generator, one for each thread, all from one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(bound)).expect("below a u32")
    }
}

fn random(seed: u64, thread: u64) -> Random {
    Random((seed + thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

struct Checker {
    owners: Vec<AtomicU32>,
}

impl Checker {
    fn take(&self, at: u32, me: u32) {
        let former = self.owners[at as usize].swap(me, Ordering::AcqRel);
        assert_eq!(former, 0, "page {at} was given to {me}, but is {former}'s");
    }

    fn give_back(&self, at: u32, me: u32) {
        let former = self.owners[at as usize].swap(0, Ordering::AcqRel);
        assert_eq!(former, me, "page {at}");
    }
}

/// Pages that a thread was given, and what it wrote to each.
struct Given {
    first: u32,
    count: u32,
    stamp: u64,
}

/// Allocates, checks and frees in the first half.
fn disciplined(arena: &Arena, checker: &Checker, me: u32, random: &mut Random) {
    const HELD_MAX: usize = 20;
    let _scope = scope(arena);
    let mut held: Vec<Given> = Vec::new();
    for round in 0..1_000u32 {
        let count = 1 + random.below(8);
        let first = random.below(HALF - count);
        let stamp = (u64::from(me) << 32) | u64::from(round);
        match arena.alloc_pages(Some(user(first)), count, 0) {
            Ok(_) => held.push(take(
                arena,
                checker,
                me,
                Given {
                    first,
                    count,
                    stamp,
                },
            )),
            Err(error) => assert_eq!(error, AllocError::NoSpace { page_cnt: count }),
        }
        if held.len() > HELD_MAX {
            let index = random.below(u32::try_from(held.len()).expect("few"));
            let given = held.swap_remove(index as usize);
            give_back(arena, checker, me, &given, random);
        }
    }
    for given in held {
        give_back(arena, checker, me, &given, random);
    }
}

fn take(arena: &Arena, checker: &Checker, me: u32, given: Given) -> Given {
    for at in given.first..given.first + given.count {
        checker.take(at, me);
        let word = arena.ptr::<u64>(offset(at, 0));
        assert_eq!(word.read(), 0, "page {at} is zeroed");
        word.write(given.stamp);
    }
    given
}

fn give_back(arena: &Arena, checker: &Checker, me: u32, given: &Given, random: &mut Random) {
    for at in given.first..given.first + given.count {
        let seen = arena.ptr::<u64>(offset(at, 0)).read();
        assert_eq!(seen, given.stamp, "page {at}");
        checker.give_back(at, me);
    }
    if random.below(3) == 0 {
        arena.free_pages_deferred(user(given.first), given.count);
    } else {
        let freed = arena.free_pages(user(given.first), given.count);
        freed.expect("never refused");
    }
}

/// Does anything at all in the contested pages.
fn undisciplined(arena: &Arena, stop: &AtomicBool, random: &mut Random) {
    let _scope = scope(arena);
    while !stop.load(Ordering::Relaxed) {
        let count = 1 + random.below(8);
        let first = HALF + random.below(CONTESTED - count);
        match random.below(6) {
            0 => _ = arena.alloc_pages(Some(user(first)), count, 0),
            1 => arena.free_pages(user(first), count).expect("never refused"),
            2 => {
                arena.free_pages(user(first), count).expect("never refused");
                arena.free_pages(user(first), count).expect("twice is fine");
            }
            3 => arena.free_pages_deferred(user(first), count),
            4 => _ = arena.touch_user(user(first)),
            _ => arena.ptr::<u64>(offset(first, 8)).write(u64::MAX),
        }
    }
}

/// Faults all over the window: a recovered page must not end up in anybody's hands.
fn faulting(arena: &Arena, stop: &AtomicBool, random: &mut Random) {
    let _scope = scope(arena);
    while !stop.load(Ordering::Relaxed) {
        arena
            .ptr::<u64>(offset(random.below(PAGES), 2048))
            .write(u64::MAX);
    }
}

#[test]
fn no_page_is_handed_out_twice() {
    for seed in [1, 0x5eed, 0x9abc_def0] {
        hands_out_no_page_twice(seed);
    }
}

fn hands_out_no_page_twice(seed: u64) {
    let arena = arena(PAGES);
    let checker = Checker {
        owners: (0..HALF).map(|_| AtomicU32::new(0)).collect(),
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (arena, checker, stop) = (&arena, &checker, &stop);
        for thread in 0..2 {
            threads.spawn(move || undisciplined(arena, stop, &mut random(seed, thread)));
        }
        threads.spawn(move || faulting(arena, stop, &mut random(seed, 2)));
        let owners = [1, 2, 3].map(|me| {
            let mut random = random(seed, 10 + u64::from(me));
            threads.spawn(move || disciplined(arena, checker, me, &mut random))
        });
        let ends = owners.map(|owner| owner.join());
        stop.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "seed {seed}");
    });
    // Afterwards all of it can be freed, and all of it be had, once.
    arena.drain_deferred().expect("never refused");
    arena.free_pages(user(HALF), HALF).expect("never refused");
    assert_eq!(arena.pages_in_use(), 0, "seed {seed}");
    let mut seen = vec![false; PAGES as usize];
    for _ in 0..PAGES {
        let at = arena.alloc_pages(None, 1, 0).expect("all are free");
        let at = ArenaOffset::of(at).page().raw() as usize;
        assert!(!std::mem::replace(&mut seen[at], true), "seed {seed}");
    }
    assert_eq!(
        arena.alloc_pages(None, 1, 0),
        Err(AllocError::NoSpace { page_cnt: 1 })
    );
}

#[test]
fn freeing_what_was_never_allocated_or_was_freed_changes_nothing() {
    let arena = arena(16);
    arena.free_pages(user(0), 16).expect("nothing there");
    arena.alloc_pages(Some(user(4)), 4, 0).expect("free");
    for _ in 0..2 {
        arena.free_pages(user(6), 4).expect("half of it there");
        arena.free_pages(user(5), 2).expect("overlapping");
    }
    arena.free_pages_deferred(user(6), 2);
    arena.free_pages_deferred(user(6), 1);
    assert_eq!(arena.pages_in_use(), 1);
    arena.drain_deferred().expect("never refused");
    assert_eq!(arena.pages_in_use(), 1);
    let rest: Vec<UserAddr> = (0..15)
        .map(|_| arena.alloc_pages(None, 1, 0).expect("free"))
        .collect();
    assert!(!rest.contains(&user(4)));
    assert!(arena.alloc_pages(None, 1, 0).is_err());
}

#[test]
fn faults_under_the_lock_of_the_same_thread_never_deadlock() {
    let arena = arena(64);
    let _scope = scope(&arena);
    for round in 0..5_000u32 {
        let at = round % 64;
        let got = arena.alloc_pages_traced(Some(user(at)), 1, || {
            // The page to be allocated, and one more.
            arena.ptr::<u64>(offset(at, 8)).write(1);
            arena.ptr::<u64>(offset((at + 1) % 64, 8)).write(1);
            let again = arena.alloc_pages(None, 1, 0);
            assert_eq!(again, Err(AllocError::Lock(LockError::Reentered)));
        });
        assert_eq!(got, Ok(user(at)));
        assert_eq!(arena.ptr::<u64>(offset(at, 8)).read(), 0);
        arena.free_pages(user(at), 1).expect("never refused");
    }
}

#[test]
fn faults_are_recovered_while_another_thread_holds_the_lock() {
    const PAGES: u32 = 64;
    let arena = arena(PAGES);
    // No capacity: each side waits for the other, and is told if it has panicked.
    let (locked, is_locked) = sync_channel(0);
    let (faulted, has_faulted) = sync_channel(0);
    std::thread::scope(|threads| {
        let arena = &arena;
        threads.spawn(move || {
            let _scope = scope(arena);
            for at in is_locked {
                // The page that is about to be handed out, and its neighbour.
                for at in [at, (at + 1) % PAGES] {
                    arena.ptr::<u64>(offset(at, 0)).write(1);
                    assert!(arena.touch_user(user(at)).is_err(), "scratch is there");
                }
                // Frees from any context do not wait either.
                arena.free_pages_deferred(user(at), 1);
                faulted.send(()).expect("the holder waits");
            }
        });
        for at in 0..PAGES {
            let hook = || {
                locked.send(at).expect("the other thread runs");
                has_faulted.recv().expect("the other thread runs");
            };
            let got = arena.alloc_pages_traced(Some(user(at)), 1, hook);
            assert_eq!(got, Ok(user(at)));
            assert_eq!(arena.entry_state(page(at)), EntryState::Page);
            assert_eq!(arena.ptr::<u64>(offset(at, 0)).read(), 0, "scratch is gone");
            // Empty again, for the neighbour's turn.
            arena.free_pages(user(0), PAGES).expect("never refused");
        }
        drop(locked);
    });
    assert_eq!(arena.faults_recovered(), 2 * u64::from(PAGES));
    assert_eq!(arena.pages_in_use(), 0);
}
