//! Goal: what an embedder does without a single fault works over `sys/model.rs` as over Linux:
//! an arena, its pages, slab and pool, read and written through plain pointers.
//!
//! Method: one thread, and a few pages. Miri, for which these tests are, runs them over the
//! model and looks at each access; shuttle runs one schedule of each; else Linux is below.

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};

use crate::alloc::AllocError;
use crate::arena::Arena;
use crate::pool::Pool;
use crate::slab::{SLAB_SIZE_MAX, SlabFreeError};
use crate::spec::ArenaSpec;
use crate::sync::Arc;

const PAGES: u32 = 10;
const START: u64 = 0x1000_0000_0000;

fn arena() -> Arena {
    let arena = Arena::create(&ArenaSpec {
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra: START,
        ..ArenaSpec::default()
    });
    arena.expect("a valid arena")
}

#[cfg(shuttle)]
fn check(body: fn()) {
    let mut config = shuttle::Config::new();
    // The registry is built on a thread's stack.
    config.stack_size = 1 << 18;
    let scheduler = shuttle::scheduler::RandomScheduler::new(1);
    let run = move || {
        crate::sys::HAS_GUARD_MARKERS.set(true);
        body();
    };
    shuttle::Runner::new(scheduler, config).run(run);
}

#[cfg(not(shuttle))]
fn check(body: fn()) {
    body();
}

#[test]
fn pages_are_read_and_written_and_come_back_zeroed() {
    check(|| {
        let arena = arena();
        let at = arena.alloc_pages(None, 2, 0).expect("pages are free");
        let slice = arena
            .slice::<u64>(ArenaOffset::of(at), 1024)
            .expect("two pages");
        assert!(slice.iter().all(|word| word == 0));
        slice.fill(7);
        let mut bytes = [0; 24];
        let copied = arena.copy_out(ArenaOffset::of(at), &mut bytes);
        copied.expect("the pages are there");
        assert_eq!(bytes[16..], 7u64.to_ne_bytes());
        arena.free_pages(at, 2).expect("nobody holds the lock");
        assert!(arena.copy_in(ArenaOffset::of(at), &bytes).is_err());
        assert_eq!(arena.alloc_pages(None, 2, 0), Ok(at));
        assert!(slice.iter().all(|word| word == 0));
        assert_eq!(arena.pages_in_use(), 2);
    });
}

#[test]
fn all_pages_are_given_once_and_frees_of_the_middle_leave_holes() {
    check(|| {
        let arena = arena();
        let page = |number: u32| UserAddr::new(START + u64::from(number) * 4096);
        assert_eq!(arena.alloc_pages(None, PAGES, 0), Ok(page(0)));
        let full = AllocError::NoSpace { page_cnt: 1 };
        assert_eq!(arena.alloc_pages(None, 1, 0), Err(full));
        for number in 0..PAGES {
            let word = arena.ptr::<u64>(ArenaOffset::of(page(number)));
            word.write(u64::from(number));
        }
        arena.free_pages(page(4), 2).expect("nobody holds the lock");
        arena.free_pages_deferred(page(8), 1);
        arena.drain_deferred().expect("nobody holds the lock");
        assert_eq!(arena.pages_in_use(), PAGES - 3);
        for number in [0, 3, 6, 7, 9] {
            let word = arena.ptr::<u64>(ArenaOffset::of(page(number)));
            assert_eq!(word.read(), u64::from(number));
        }
        assert_eq!(arena.alloc_pages(Some(page(5)), 1, 0), Ok(page(5)));
        assert_eq!(arena.alloc_pages(None, 1, 0), Ok(page(4)));
    });
}

#[test]
fn small_and_large_objects_are_apart_and_each_is_freed_once() {
    check(|| {
        let arena = arena();
        let mut cache = arena.slab_cache(Cpu::new(0)).expect("nobody uses it");
        let sizes = [8, 48, 48, 1024, SLAB_SIZE_MAX + 1];
        let objects = sizes.map(|size| cache.alloc(size).expect("pages are free"));
        for (object, value) in objects.into_iter().zip(1u64..) {
            arena.ptr::<u64>(object).write(value);
        }
        for (object, value) in objects.into_iter().zip(1u64..) {
            assert_eq!(arena.ptr::<u64>(object).read(), value);
            cache.free(object).expect("it was allocated");
        }
        let again = cache.free(objects[1]);
        assert_eq!(again, Err(SlabFreeError::DoubleFree { at: objects[1] }));
        drop(cache);
        assert_eq!(arena.slab_usage().objects, 0);
    });
}

#[test]
fn a_pool_gives_addresses_and_takes_them_back() {
    check(|| {
        let pool = Pool::new(Arc::new(arena()));
        let first = pool.alloc(24).expect("pages are free");
        let second = pool.alloc(8).expect("pages are free");
        assert_eq!(second.offset_from(first), Some(24));
        pool.free(first, 24).expect("it was allocated");
        assert_eq!(pool.destroy(), 8);
    });
}
