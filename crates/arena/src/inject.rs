//! Failures on purpose: which page allocations fail, and which pages cannot be mapped.
//!
//! Programs have died of the first NULL under load; this makes that first NULL come in a test,
//! at a place that a seed decides. An *allocation* is a call that fills pages: page alloc in
//! all its forms, growth of a pool or of the slab allocator, a user's first touch, and a host's
//! touch that makes a page real for want of mappings. They are counted from 1 in the order in
//! which they happen, so that equal runs fail equally.
//!
//! Read by the fault handler: plain words, no lock. Set it while nobody allocates.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use core::num::{NonZeroU32, NonZeroU64};

use harena_abi::{Errno, PageIndex};
use harena_arena_fault::PageRange;

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{OsError, PAGE};

/// What is to fail in an arena; nothing by default.
///
/// ```
/// # use harena_abi::bpf::BPF_F_MMAPABLE;
/// # use harena_arena::{AllocError, Arena, ArenaSpec, FailedAllocs, Injection};
/// # let arena = Arena::create(&ArenaSpec {
/// #     max_entries: 64,
/// #     map_flags: BPF_F_MMAPABLE,
/// #     map_extra: 0x1000_0000_0000,
/// #     ..ArenaSpec::default()
/// # })?;
/// arena.inject(&Injection {
///     allocs: FailedAllocs::Nth(2.try_into().expect("not 0")),
///     ..Injection::default()
/// });
/// assert!(arena.alloc_pages(None, 1, 0).is_ok());
/// assert_eq!(arena.alloc_pages(None, 1, 0), Err(AllocError::Injected { number: 2 }));
/// assert!(arena.alloc_pages(None, 1, 0).is_ok());
/// # Ok::<(), harena_arena::CreateError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Injection {
    /// Which allocations fail.
    pub allocs: FailedAllocs,
    /// Pages that the system seems to refuse to map.
    pub unmappable: Option<PageRange>,
    /// Pages that the system seems to refuse to unmap.
    pub unremovable: Option<PageRange>,
}

/// Which allocations fail, counted from 1 since [`crate::Arena::inject`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FailedAllocs {
    /// None.
    #[default]
    None,
    /// This one.
    Nth(NonZeroU64),
    /// This one and all that follow.
    From(NonZeroU64),
    /// Those whose number this divides.
    Every(NonZeroU64),
    /// One in so many on average, as the seed decides.
    OneIn {
        /// 1 fails all of them.
        count: NonZeroU32,
        /// Equal seeds fail equal numbers.
        seed: u64,
    },
}

impl FailedAllocs {
    /// Whether the allocation with this number fails.
    #[must_use]
    pub const fn fails(self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::Nth(nth) => number == nth.get(),
            Self::From(first) => number >= first.get(),
            Self::Every(count) => number.is_multiple_of(count.get()),
            Self::OneIn { count, seed } => {
                mix(seed ^ mix(number)).is_multiple_of(count.get() as u64)
            }
        }
    }

    const fn encode(self) -> (u32, u64, u64) {
        match self {
            Self::None => (NONE, 0, 0),
            Self::Nth(number) => (NTH, number.get(), 0),
            Self::From(number) => (FROM, number.get(), 0),
            Self::Every(count) => (EVERY, count.get(), 0),
            Self::OneIn { count, seed } => (ONE_IN, count.get() as u64, seed),
        }
    }

    fn decode(kind: u32, number: u64, seed: u64) -> Self {
        let decoded = NonZeroU64::new(number).and_then(|number| match kind {
            NTH => Some(Self::Nth(number)),
            FROM => Some(Self::From(number)),
            EVERY => Some(Self::Every(number)),
            ONE_IN => {
                let count = NonZeroU32::try_from(number).ok()?;
                Some(Self::OneIn { count, seed })
            }
            _ => None,
        });
        decoded.unwrap_or(Self::None)
    }
}

const NONE: u32 = 0;
const NTH: u32 = 1;
const FROM: u32 = 2;
const EVERY: u32 = 3;
const ONE_IN: u32 = 4;

/// The finaliser of splitmix64: every bit of the result depends on every bit of the argument.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One arena's injection. Relaxed throughout: it is set while nobody allocates.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    kind: AtomicU32,
    number: AtomicU64,
    seed: AtomicU64,
    allocs: AtomicU64,
    failures: AtomicU64,
    unmappable: Refusal,
    unremovable: Refusal,
}

/// A range of pages, or none (`len` 0).
#[derive(Debug, Default)]
struct Refusal {
    first: AtomicU32,
    len: AtomicU32,
}

impl Refusal {
    fn set(&self, pages: Option<PageRange>) {
        let words = pages.map_or((0, 0), |pages| (pages.first().raw(), pages.len()));
        self.first.store(words.0, Ordering::Relaxed);
        self.len.store(words.1, Ordering::Relaxed);
    }

    fn get(&self) -> Option<PageRange> {
        let first = PageIndex::new(self.first.load(Ordering::Relaxed))?;
        PageRange::new(first, self.len.load(Ordering::Relaxed))
    }
}

impl Injected {
    pub(crate) fn set(&self, injection: &Injection) {
        let (kind, number, seed) = injection.allocs.encode();
        self.kind.store(kind, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        self.seed.store(seed, Ordering::Relaxed);
        self.allocs.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.unmappable.set(injection.unmappable);
        self.unremovable.set(injection.unremovable);
    }

    /// Counts an allocation; an error, its number, if it is to fail.
    pub(crate) fn alloc(&self) -> Result<(), u64> {
        let kind = self.kind.load(Ordering::Relaxed);
        if kind == NONE {
            return Ok(());
        }
        let number = self.number.load(Ordering::Relaxed);
        let allocs = FailedAllocs::decode(kind, number, self.seed.load(Ordering::Relaxed));
        let number = self.allocs.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if !allocs.fails(number) {
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        Err(number)
    }

    /// Allocations that failed on purpose.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether pages may be mapped.
    pub(crate) fn map(&self, pages: PageRange) -> Result<(), OsError> {
        refuse(
            "mapping that was injected to fail",
            self.unmappable.get(),
            pages,
        )
    }

    /// Whether pages may be unmapped.
    pub(crate) fn unmap(&self, pages: PageRange) -> Result<(), OsError> {
        refuse(
            "unmapping that was injected to fail",
            self.unremovable.get(),
            pages,
        )
    }
}

fn refuse(call: &'static str, refused: Option<PageRange>, pages: PageRange) -> Result<(), OsError> {
    let overlap = refused.is_some_and(|refused| {
        refused.first().raw() < pages.end() && pages.first().raw() < refused.end()
    });
    if !overlap {
        return Ok(());
    }
    Err(OsError {
        call,
        len: (pages.len() as usize).saturating_mul(PAGE),
        errno: Errno::ENOMEM as i32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(allocs: FailedAllocs) -> Vec<u64> {
        (1..=12).filter(|number| allocs.fails(*number)).collect()
    }

    #[test]
    fn the_numbers_that_fail_are_those_that_were_asked_for() {
        let three = NonZeroU64::new(3).unwrap();
        assert_eq!(failing(FailedAllocs::None), []);
        assert_eq!(failing(FailedAllocs::Nth(three)), [3]);
        assert_eq!(failing(FailedAllocs::Every(three)), [3, 6, 9, 12]);
        assert_eq!(
            failing(FailedAllocs::From(NonZeroU64::new(10).unwrap())),
            [10, 11, 12]
        );
    }

    #[test]
    fn a_seed_decides_and_hits_about_as_often_as_it_should() {
        let allocs = |seed| FailedAllocs::OneIn {
            count: NonZeroU32::new(10).unwrap(),
            seed,
        };
        assert_eq!(failing(allocs(7)), failing(allocs(7)));
        let hits = |seed| (1..=10_000).filter(|n| allocs(seed).fails(*n)).count();
        for seed in 0..20 {
            assert!((850..1150).contains(&hits(seed)), "{seed}: {}", hits(seed));
        }
    }

    #[test]
    fn what_is_set_is_what_is_asked() {
        let injected = Injected::default();
        assert_eq!(injected.alloc(), Ok(()));
        let page = PageRange::from(PageIndex::new(7).unwrap());
        let allocs = FailedAllocs::Every(NonZeroU64::new(2).unwrap());
        injected.set(&Injection {
            allocs,
            unmappable: Some(page),
            unremovable: None,
        });
        let seen: Vec<bool> = (0..4).map(|_| injected.alloc().is_err()).collect();
        assert_eq!(seen, [false, true, false, true]);
        assert_eq!(injected.failures(), 2);
        assert!(injected.map(page).is_err());
        assert!(injected.unmap(page).is_ok());
        injected.set(&Injection::default());
        assert_eq!((injected.map(page), injected.failures()), (Ok(()), 0));
    }
}
