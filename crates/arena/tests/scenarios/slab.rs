//! The slab allocator: what it gives is disjoint and aligned; what it refuses it leaves alone.

use std::collections::BTreeMap;

use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{
    AllocError, Arena, ArenaSpec, EntryState, SLAB_SIZE_MAX, SlabAllocError, SlabCache,
    SlabCacheError, SlabFreeError, SlabUsage,
};
use proptest::prelude::*;

use crate::common::{ARENA_AT, arena, arena_with, offset, scope, spec, user};

fn cache(arena: &Arena, cpu: u32) -> SlabCache<'_> {
    arena.slab_cache(Cpu::new(cpu)).expect("nobody uses it")
}

/// What an object of `size` bytes takes.
fn footprint(size: u32) -> u32 {
    if size > SLAB_SIZE_MAX {
        size.next_multiple_of(4096)
    } else {
        size.next_power_of_two().max(8)
    }
}

#[test]
fn every_size_class_gives_aligned_objects_that_can_be_used() {
    let arena = arena(256);
    let mut cache = cache(&arena, 0);
    let mut objects = Vec::new();
    for size in [
        1, 8, 9, 16, 100, 128, 500, 1024, 2000, 4095, 4096, 4097, 20_000,
    ] {
        let at = cache.alloc(size).unwrap();
        assert!(at.raw().is_multiple_of(footprint(size).min(4096)), "{size}");
        for byte in 0..size {
            arena.ptr::<u8>(at.wrapping_add(byte)).write(1);
        }
        objects.push(at);
    }
    assert_eq!(arena.faults_recovered(), 0);
    for at in objects {
        cache.free(at).unwrap();
    }
    drop(cache);
    assert_eq!(arena.slab_usage().objects, 0);
}

#[test]
fn nothing_is_not_allocated() {
    let arena = arena(16);
    assert_eq!(cache(&arena, 0).alloc(0), Err(SlabAllocError::Empty));
    assert_eq!(arena.slab_usage().pages, 0);
}

#[test]
fn a_free_that_is_not_of_an_object_is_refused_and_changes_nothing() {
    let arena = arena(64);
    let page = arena.alloc_pages(None, 1, 0).unwrap();
    let mut cache = cache(&arena, 0);
    let small = cache.alloc(64).unwrap();
    let large = cache.alloc(3 * 4096).unwrap();
    let before = arena.slab_usage();
    let inside = |at, size| SlabFreeError::Inside { at, size };
    let missing = |at| SlabFreeError::NotAllocated { at };
    let cases = [
        (small.wrapping_add(8), inside(small.wrapping_add(8), 64)),
        (small.wrapping_add(1), inside(small.wrapping_add(1), 64)),
        (large.wrapping_add(8), inside(large.wrapping_add(8), 12_288)),
        (
            large.wrapping_add(4096),
            inside(large.wrapping_add(4096), 12_288),
        ),
        (ArenaOffset::of(page), missing(ArenaOffset::of(page))),
        (offset(63, 0), missing(offset(63, 0))),
        (offset(64, 0), missing(offset(64, 0))),
        (offset(0xf_ffff, 8), missing(offset(0xf_ffff, 8))),
    ];
    for (at, refused) in cases {
        assert_eq!(cache.free(at), Err(refused));
    }
    let never = small.wrapping_add(128);
    assert_eq!(
        cache.free(never),
        Err(SlabFreeError::DoubleFree { at: never })
    );
    assert_eq!(arena.slab_usage(), before);
    cache.free(small).unwrap();
    cache.free(large).unwrap();
    assert_eq!(
        cache.free(small),
        Err(SlabFreeError::DoubleFree { at: small })
    );
    assert_eq!(cache.free(large), Err(missing(large)));
}

#[test]
fn a_pointer_of_another_arena_is_refused() {
    let other_at = ARENA_AT + (1 << 32);
    let (arena, other) = (
        arena(64),
        arena_with(ArenaSpec {
            map_extra: other_at,
            ..spec(64)
        }),
    );
    let (mut mine, mut theirs) = (cache(&arena, 0), cache(&other, 0));
    let (at, same) = (mine.alloc(32).unwrap(), theirs.alloc(32).unwrap());
    assert_eq!(at, same);
    let address = other.user_addr(same);
    assert_eq!(address, UserAddr::new(other_at));
    assert_eq!(
        mine.free_at(address),
        Err(SlabFreeError::Foreign { address })
    );
    mine.free_at(arena.user_addr(at)).unwrap();
    theirs.free_at(UserAddr::new(same.raw().into())).unwrap();
}

#[test]
fn page_free_leaves_slab_pages_alone() {
    let arena = arena(64);
    let _scope = scope(&arena);
    let mut cache = cache(&arena, 0);
    let small = cache.alloc(64).unwrap();
    let large = cache.alloc(5 * 4096).unwrap();
    for at in [small, large] {
        arena.ptr::<u64>(at).write(7);
    }
    arena.free_pages(user(0), 64).unwrap();
    arena.free_pages_deferred(user(0), 64);
    arena.drain_deferred().unwrap();
    for at in [small, large] {
        assert_eq!(arena.ptr::<u64>(at).read(), 7);
    }
    assert_eq!(arena.faults_recovered(), 0);
    assert_eq!(arena.pages_in_use(), 6);
    cache.free(large).unwrap();
    cache.free(small).unwrap();
    assert!(
        arena.alloc_pages(None, 63, 0).is_ok(),
        "the large one's pages are back"
    );
}

#[test]
fn programs_that_scribble_over_free_memory_hurt_only_themselves() {
    let arena = arena(64);
    let mut cache = cache(&arena, 0);
    let objects: Vec<ArenaOffset> = (0..200).map(|_| cache.alloc(32).unwrap()).collect();
    for at in &objects {
        cache.free(*at).unwrap();
    }
    for at in &objects {
        for word in 0..4 {
            arena
                .ptr::<u64>(at.wrapping_add(word * 8))
                .write(0xffff_ffff_ffff_ff00);
        }
    }
    // Their marks are gone: these double frees pass for frees, and are found out later.
    let again = objects.iter().filter(|at| cache.free(**at).is_ok()).count();
    assert!(again > 0);
    for _ in 0..1000 {
        if let Ok(at) = cache.alloc(32) {
            assert!(at.raw() < 64 * 4096);
            assert!(at.raw().is_multiple_of(32));
        }
    }
    drop(cache);
    assert!(arena.slab_usage().pages <= 64);
}

#[test]
fn at_the_limit_allocation_fails_and_unused_slabs_of_other_sizes_are_given_back() {
    let limited = ArenaSpec {
        byte_limit: Some(8 * 4096),
        ..spec(64)
    };
    let arena = arena_with(limited);
    let mut cache = cache(&arena, 0);
    let fill = |cache: &mut SlabCache<'_>, size| -> Vec<ArenaOffset> {
        std::iter::from_fn(|| cache.alloc(size).ok()).collect()
    };
    let small = fill(&mut cache, 64);
    assert_eq!(small.len(), 8 * 64);
    assert_eq!(
        cache.alloc(1000),
        Err(SlabAllocError::Pages {
            size: 1000,
            source: AllocError::Limit { page_cnt: 1 }
        })
    );
    for at in small {
        cache.free(at).unwrap();
    }
    assert_eq!(fill(&mut cache, 1000).len(), 8 * 4);
    assert!(cache.alloc(8).is_err());
}

#[test]
fn objects_of_idle_cpus_are_used_before_allocation_fails() {
    let arena = arena(1);
    let mut first = cache(&arena, 0);
    let at = first.alloc(64).unwrap();
    drop(first);
    let mut second = cache(&arena, 1);
    let others: Vec<ArenaOffset> = std::iter::from_fn(|| second.alloc(64).ok()).collect();
    assert_eq!(others.len(), 63);
    assert!(!others.contains(&at));
    for at in others {
        second.free(at).unwrap();
    }
}

#[test]
fn a_cache_has_one_user_and_lasts() {
    let arena = arena(16);
    let mut first = cache(&arena, 3);
    let busy = arena.slab_cache(Cpu::new(3)).err();
    assert_eq!(busy, Some(SlabCacheError::Busy { cpu: Cpu::new(3) }));
    assert!(arena.any_slab_cache().is_ok());
    let at = first.alloc(16).unwrap();
    first.free(at).unwrap();
    drop(first);
    assert_eq!(cache(&arena, 3).alloc(16), Ok(at), "the latest one freed");
}

#[test]
fn another_cpu_may_free_and_a_second_time_it_is_refused() {
    let arena = arena(16);
    let mut owner = cache(&arena, 0);
    let mut other = cache(&arena, 1);
    let objects: Vec<ArenaOffset> = (0..64).map(|_| owner.alloc(64).unwrap()).collect();
    for at in &objects {
        other.free(*at).unwrap();
        let twice = SlabFreeError::DoubleFree { at: *at };
        assert_eq!(other.free(*at), Err(twice));
        assert_eq!(owner.free(*at), Err(twice));
    }
    let again: Vec<ArenaOffset> = (0..64).map(|_| owner.alloc(64).unwrap()).collect();
    assert_eq!(
        again, objects,
        "they were collected before new pages were taken"
    );
    assert_eq!(arena.pages_in_use(), 1);
    assert_eq!(arena.slab_usage().late_violations, 0);
}

#[test]
fn with_the_page_lock_held_objects_at_hand_are_given_and_then_none() {
    let arena = arena(16);
    let mut cache = cache(&arena, 0);
    let first = cache.alloc(64).unwrap();
    let traced = || {
        let at: Vec<ArenaOffset> = std::iter::from_fn(|| cache.alloc(64).ok()).collect();
        assert_eq!(at.len(), 63, "the rest of the page");
        assert!(matches!(
            cache.alloc(8192),
            Err(SlabAllocError::Pages {
                source: AllocError::Lock(_),
                ..
            })
        ));
        for at in at {
            cache.free(at).expect("no lock is needed");
        }
    };
    arena.alloc_pages_traced(None, 1, traced).unwrap();
    cache.free(first).unwrap();
}

#[test]
fn large_objects_freed_under_the_page_lock_come_back_later() {
    let arena = arena(16);
    let mut cache = cache(&arena, 0);
    let large = cache.alloc(10 * 4096).unwrap();
    arena
        .alloc_pages_traced(None, 1, || cache.free(large).unwrap())
        .unwrap();
    // The program frees the same range: it is not freed twice.
    arena.free_pages(arena.user_addr(large), 10).unwrap();
    assert_eq!(arena.pages_in_use(), 1);
    assert_eq!(cache.alloc(10 * 4096), Ok(large));
    assert_eq!(arena.pages_in_use(), 11);
}

#[test]
fn bins_give_unused_pages_back_when_they_have_enough_of_them() {
    let arena = arena(4096);
    let mut cache = cache(&arena, 0);
    let objects: Vec<ArenaOffset> = (0..4000).map(|_| cache.alloc(1024).unwrap()).collect();
    assert!(arena.pages_in_use() >= 1000);
    for at in objects {
        cache.free(at).unwrap();
    }
    assert!(arena.pages_in_use() < 300, "{}", arena.pages_in_use());
}

#[test]
fn an_arena_goes_with_all_that_was_never_freed() {
    let arena = arena(256);
    let mut cache = cache(&arena, 0);
    for size in [8, 64, 4096, 40_000] {
        cache.alloc(size).unwrap();
    }
    drop(cache);
    let usage = arena.slab_usage();
    assert_eq!((usage.objects, usage.late_violations), (4, 0));
    assert_eq!(usage.pages, u64::from(arena.pages_in_use()));
    drop(arena);
    let again = crate::common::arena(256);
    assert_eq!(again.slab_usage(), SlabUsage::default());
}

// ---- a model, and threads ---------------------------------------------------------------

const CPUS: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Op {
    Alloc { cpu: u32, size: u32 },
    Free { cpu: u32, nth: usize },
    FreeAgain { cpu: u32 },
    FreeAnywhere { cpu: u32, at: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![6 => 1..200u32, 2 => 200..4097u32, 1 => 4097..40_000u32];
    prop_oneof![
        5 => (0..CPUS, size).prop_map(|(cpu, size)| Op::Alloc { cpu, size }),
        4 => (0..CPUS, any::<usize>()).prop_map(|(cpu, nth)| Op::Free { cpu, nth }),
        1 => (0..CPUS).prop_map(|cpu| Op::FreeAgain { cpu }),
        1 => (0..CPUS, 0..300 * 4096u32).prop_map(|(cpu, at)| Op::FreeAnywhere { cpu, at }),
    ]
}

/// Does `op` to both, and says whether they agree.
fn apply(
    caches: &mut [SlabCache<'_>],
    live: &mut BTreeMap<u32, u32>,
    last: &mut Option<ArenaOffset>,
    op: Op,
) -> bool {
    match op {
        Op::Alloc { cpu, size } => {
            let Ok(at) = caches[cpu as usize].alloc(size) else {
                // 256 pages, far fewer in use.
                return false;
            };
            let (start, end) = (at.raw(), at.raw() + footprint(size));
            let before = live.range(..end).next_back();
            let apart = before.is_none_or(|(other, size)| other + footprint(*size) <= start);
            live.insert(start, size);
            apart && end <= 256 * 4096
        }
        Op::Free { cpu, nth } => {
            let Some((&at, _)) = live.iter().nth(nth % live.len().max(1)) else {
                return true;
            };
            live.remove(&at);
            *last = Some(ArenaOffset::new(at));
            caches[cpu as usize].free(ArenaOffset::new(at)).is_ok()
        }
        Op::FreeAgain { cpu } => {
            let freed = last.filter(|at| !live.contains_key(&at.raw()));
            freed.is_none_or(|at| caches[cpu as usize].free(at).is_err())
        }
        Op::FreeAnywhere { cpu, at } => {
            let is_object = live.remove(&at).is_some();
            caches[cpu as usize].free(ArenaOffset::new(at)).is_ok() == is_object
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_on_several_cpus_agrees_with_the_model(
        ops in prop::collection::vec(op(), 1..200)
    ) {
        let arena = arena(256);
        let mut caches: Vec<SlabCache<'_>> = (0..CPUS).map(|cpu| cache(&arena, cpu)).collect();
        let (mut live, mut last) = (BTreeMap::new(), None);
        for op in ops {
            let held: u32 = live.values().map(|size| footprint(*size)).sum();
            if matches!(op, Op::Alloc { .. }) && held > 100 * 4096 {
                continue;
            }
            prop_assert!(apply(&mut caches, &mut live, &mut last, op), "{op:?} differs: {live:?}");
        }
        caches.clear();
        let usage = arena.slab_usage();
        prop_assert_eq!(usage.objects, live.len() as u64);
        prop_assert_eq!(usage.late_violations, 0);
        prop_assert_eq!(usage.pages, u64::from(arena.pages_in_use()));
    }
}

#[test]
fn threads_that_free_each_others_objects_never_share_one() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 20_000;
    let arena = arena(4096);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| std::sync::mpsc::sync_channel(100))
        .unzip();
    std::thread::scope(|threads| {
        for (cpu, receiver) in (0..THREADS).zip(receivers) {
            let (arena, senders) = (&arena, senders.clone());
            threads.spawn(move || {
                let mut cache = cache(arena, cpu);
                let word = |at| arena.ptr::<u64>(at);
                for round in 0..ROUNDS {
                    let size = 8 << ((round * 7 + cpu) % 10);
                    let at = cache.alloc(size).expect("far fewer pages are in use");
                    let ours = u64::from(cpu) << 32 | u64::from(round);
                    word(at).write(ours);
                    let other = (cpu + round) % THREADS;
                    // Full, perhaps because the other thread does not run just now.
                    if other == cpu || senders[other as usize].try_send((at, ours)).is_err() {
                        assert_eq!(word(at).read(), ours, "ours alone");
                        cache.free(at).expect("allocated above");
                    }
                    for (at, theirs) in receiver.try_iter() {
                        assert_eq!(word(at).read(), theirs, "nobody else got it");
                        cache.free(at).expect("handed over, allocated");
                    }
                }
                drop(senders);
                for (at, _) in receiver {
                    cache.free(at).expect("handed over, allocated");
                }
            });
        }
        drop(senders);
    });
    assert_eq!(arena.slab_usage().late_violations, 0);
    assert_eq!(arena.slab_usage().objects, 0);
}

#[test]
fn a_hidden_double_free_does_not_outlive_its_page() {
    let arena = arena(256);
    let mut cache = cache(&arena, 0);
    let objects: Vec<ArenaOffset> = (0..200).map(|_| cache.alloc(4096).unwrap()).collect();
    let mut objects = objects.into_iter();
    for at in objects.by_ref().take(97) {
        cache.free(at).unwrap();
    }
    let twice = objects.next().unwrap();
    cache.free(twice).unwrap();
    for at in objects.by_ref().take(35) {
        cache.free(at).unwrap();
    }
    // The program hides that it is free. Now it is at hand twice.
    arena.ptr::<u64>(twice).write(1);
    cache.free(twice).unwrap();
    // The first of the two gets into stock, and the page goes back.
    let is_there = || arena.entry_state(twice.page()) == EntryState::Page;
    while is_there() {
        cache.free(objects.next().expect("it goes back")).unwrap();
    }
    // It becomes a slab of small objects.
    let mut small = Vec::new();
    while !is_there() {
        small.push(cache.alloc(8).unwrap());
    }
    // The second must not come out there.
    let large: Vec<ArenaOffset> = (0..64).map(|_| cache.alloc(4096).unwrap()).collect();
    assert!(large.iter().all(|at| at.page() != twice.page()));
    for at in large.into_iter().chain(small).chain(objects) {
        cache.free(at).unwrap();
    }
    drop(cache);
    let usage = arena.slab_usage();
    assert_eq!((usage.objects, usage.late_violations), (0, 1));
}
