//! The allocators that small objects are allocated from, behind one trait.
//!
//! All are called through their own functions; none is the process's allocator, but for glibc.

use core::ffi::c_void;

use harena_abi::{ArenaOffset, Cpu};
use harena_arena::{Arena, SlabCache};

use super::common::arena;
use crate::harness::BenchError;

/// What one thread allocates from.
pub(super) trait Heap {
    /// Where an object lies.
    type Place: Copy;
    /// At least `size` bytes, aligned to 8.
    fn alloc(&mut self, size: u32) -> Self::Place;
    /// What `alloc` gave for this size.
    fn free(&mut self, place: Self::Place, size: u32);
    /// Writes an object's first 8 bytes.
    fn write(&self, place: Self::Place, value: u64);
    /// Reads an object's first 8 bytes.
    fn read(&self, place: Self::Place) -> u64;
}

/// Pages of our arena; the same size as the memory of peers that are given some.
const PAGES: u32 = 1 << 14;

/// What the heaps of all threads share.
pub(super) struct Heaps {
    arena: Arena,
    #[cfg(feature = "peers")]
    given: peers::Given,
}

impl Heaps {
    pub(super) fn new() -> Result<Self, BenchError> {
        Ok(Self {
            arena: arena(PAGES)?,
            #[cfg(feature = "peers")]
            given: peers::Given::new(PAGES as usize * super::common::PAGE)?,
        })
    }

    /// The cache of one CPU of our arena.
    pub(super) fn ours(&self, thread: u32) -> Result<Ours<'_>, BenchError> {
        let cache = self.arena.slab_cache(Cpu::new(thread));
        Ok(Ours {
            arena: &self.arena,
            cache: cache.map_err(BenchError::setup("a slab cache"))?,
        })
    }

    #[cfg(feature = "peers")]
    pub(super) fn talc(&self) -> impl Heap + use<'_> {
        peers::Shared(&self.given.talc)
    }

    #[cfg(feature = "peers")]
    pub(super) fn buddy(&self) -> impl Heap + use<'_> {
        peers::Shared(&self.given.buddy)
    }
}

/// Our slab allocator.
pub(super) struct Ours<'a> {
    arena: &'a Arena,
    cache: SlabCache<'a>,
}

impl Heap for Ours<'_> {
    type Place = ArenaOffset;

    #[inline(always)]
    fn alloc(&mut self, size: u32) -> ArenaOffset {
        self.cache.alloc(size).expect("the arena is big enough")
    }

    #[inline(always)]
    fn free(&mut self, place: ArenaOffset, _size: u32) {
        self.cache.free(place).expect("it was allocated here");
    }

    #[inline(always)]
    fn write(&self, place: ArenaOffset, value: u64) {
        self.arena.ptr::<u64>(place).write(value);
    }

    #[inline(always)]
    fn read(&self, place: ArenaOffset) -> u64 {
        self.arena.ptr::<u64>(place).read()
    }
}

/// Reading and writing an object at a plain address.
macro_rules! plain_access {
    () => {
        #[inline(always)]
        fn write(&self, place: *mut u64, value: u64) {
            // SAFETY: an object of at least 8 bytes, aligned to 8, that is live.
            unsafe { place.write_volatile(value) }
        }

        #[inline(always)]
        fn read(&self, place: *mut u64) -> u64 {
            // SAFETY: as in `write`, which came before.
            unsafe { place.read_volatile() }
        }
    };
}

/// An allocator of the C library's form.
macro_rules! c_heap {
    ($(#[$attribute:meta])* $name:ident, $alloc:path, $free:path) => {
        $(#[$attribute])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        $(#[$attribute])*
        impl Heap for $name {
            type Place = *mut u64;

            #[inline(always)]
            fn alloc(&mut self, size: u32) -> *mut u64 {
                // SAFETY: any size may be asked for.
                let place = unsafe { $alloc(size as usize) };
                assert!(!place.is_null(), "memory is there");
                place.cast()
            }

            #[inline(always)]
            fn free(&mut self, place: *mut u64, _size: u32) {
                // SAFETY: `alloc` gave it, and each object is freed once.
                unsafe { $free(place.cast::<c_void>()) }
            }

            plain_access!();
        }
    };
}

c_heap!(Glibc, libc::malloc, libc::free);
c_heap!(
    #[cfg(feature = "peers")]
    Mimalloc,
    libmimalloc_sys::mi_malloc,
    libmimalloc_sys::mi_free
);
c_heap!(
    #[cfg(feature = "peers")]
    Jemalloc,
    tikv_jemalloc_sys::malloc,
    tikv_jemalloc_sys::free
);

/// Allocators of one lock, over memory that they are given.
#[cfg(feature = "peers")]
mod peers {
    use core::alloc::{GlobalAlloc, Layout};

    use buddy_system_allocator::LockedHeap;
    use talc::TalcLock;
    use talc::source::Manual;

    use super::super::bare::Mapping;
    use super::Heap;
    use crate::harness::BenchError;

    /// Powers of two that the buddy allocator knows.
    const ORDERS: usize = 32;

    pub(in super::super) struct Given {
        pub(super) talc: TalcLock<spin::Mutex<()>, Manual>,
        pub(super) buddy: LockedHeap<ORDERS>,
        /// Behind the allocators, which let go of it first.
        _memory: [Mapping; 2],
    }

    impl Given {
        pub(in super::super) fn new(bytes: usize) -> Result<Self, BenchError> {
            let (for_talc, for_buddy) = (Mapping::anonymous(bytes)?, Mapping::anonymous(bytes)?);
            let talc = TalcLock::new(Manual);
            // SAFETY: the mapping is used for nothing else and lives as long as the allocator.
            let claimed = unsafe { talc.lock().claim(for_talc.base(), bytes) };
            assert!(claimed.is_some(), "it is big enough");
            let buddy = LockedHeap::new();
            let start = for_buddy.base().expose_provenance();
            // SAFETY: as above.
            unsafe { buddy.lock().init(start, bytes) };
            Ok(Self {
                talc,
                buddy,
                _memory: [for_talc, for_buddy],
            })
        }
    }

    /// An allocator of Rust's form, shared by all threads.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Shared<'a, A>(pub(super) &'a A);

    fn layout(size: u32) -> Layout {
        Layout::from_size_align(size as usize, 8).expect("a small size")
    }

    impl<A: GlobalAlloc> Heap for Shared<'_, A> {
        type Place = *mut u64;

        #[inline(always)]
        fn alloc(&mut self, size: u32) -> *mut u64 {
            // SAFETY: no size is 0.
            let place = unsafe { self.0.alloc(layout(size)) };
            assert!(!place.is_null(), "memory is there");
            place.cast()
        }

        #[inline(always)]
        fn free(&mut self, place: *mut u64, size: u32) {
            // SAFETY: `alloc` gave it for this size, and each object is freed once.
            unsafe { self.0.dealloc(place.cast(), layout(size)) }
        }

        plain_access!();
    }
}
