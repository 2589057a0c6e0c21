//! A mapping of the arena's file: the host's in its 4 GiB window, or the user's.
//!
//! Pages are hidden until they are exposed. Two schemes, probed when the view is made (see
//! `docs/design/0002-arena-mapping.md`):
//!
//! | | hidden | exposed | mappings |
//! |---|---|---|---|
//! | `Guard` | guard marker in the page table | none | one, whatever is exposed |
//! | `Protect` | `PROT_NONE` | read and write | up to two per exposed page |
//!
//! Guard markers cost page tables, so a region of 512 pages gets them when its first page is
//! used; until then it is `PROT_NONE`:
//!
//! ```text
//! Closed (PROT_NONE) ──► Opening (one thread: guard all, then read/write) ──► Open
//!   ▲ │
//!   └─┘ kept closed, by threads that lift scratch in it
//! ```
//!
//! Who changes a page here owns its entry (see `harena_arena_fault::Entry`). Opening a region
//! is the one change to pages of others. It is harmless: an empty page stays hidden, a real
//! page is never in a region that is not open, and a scratch page may get a marker on top,
//! which its next fault repairs. The one thing that must not happen meanwhile is that scratch
//! is replaced by a page without a marker, which the opener would then show: who lifts scratch
//! keeps a closed region closed until he is done. All calls may come from the fault handler.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::ops::Range;

use harena_abi::{PAGE_SIZE, PageIndex};
use harena_arena_fault::PageRange;

use crate::reservation::Reservation;
use crate::sync::{Arc, AtomicU32, Ordering, spin_loop};
use crate::sys::{MemFile, OsError, PAGE, Protection, Span};

/// Pages of a region: what one page of a page table covers.
const REGION_PAGES: u32 = if cfg!(shuttle) { 4 } else { 512 };

/// `EINVAL`, for pages that are not of this view.
const OUTSIDE: i32 = harena_abi::Errno::EINVAL as i32;

/// A region's state. Below `OPENING` it is closed, and kept so by as many threads as it says.
const CLOSED: u32 = 0;
const OPENING: u32 = u32::MAX - 1;
const OPEN: u32 = u32::MAX;

const REGION_SIZE: usize = (REGION_PAGES as usize).saturating_mul(PAGE);

/// How pages are hidden.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    /// By guard markers.
    Guard,
    /// By protection.
    Protect,
}

/// One mapping of an arena's pages.
#[derive(Debug)]
pub(crate) struct View {
    reservation: Arc<Reservation>,
    file: Arc<MemFile>,
    /// Offset in the reservation at which page `window.first()` lies.
    start: usize,
    window: PageRange,
    scheme: Scheme,
    regions: Box<[AtomicU32]>,
}

impl View {
    /// Maps the pages of `window`, all hidden, at offset `start` of the reservation.
    pub(crate) fn new(
        reservation: Arc<Reservation>,
        file: Arc<MemFile>,
        start: usize,
        window: PageRange,
    ) -> Result<Self, OsError> {
        let regions = window.len().div_ceil(REGION_PAGES);
        let regions = (0..regions).map(|_| AtomicU32::new(CLOSED)).collect();
        let mut view = Self {
            reservation,
            file,
            start,
            window,
            scheme: Scheme::Protect,
            regions,
        };
        view.map_hidden(window)?;
        // The probe leaves a marker on a page that is hidden anyway.
        let first = Span {
            offset: start,
            len: PAGE,
        };
        if view.guard(first).is_ok() {
            view.scheme = Scheme::Guard;
        }
        Ok(view)
    }

    /// Where page `window.first()` lies.
    pub(crate) fn base(&self) -> *mut u8 {
        self.reservation.base().wrapping_add(self.start)
    }

    /// How this view hides pages.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Makes pages accessible. The caller owns their entries; they hold no scratch.
    pub(crate) fn expose(&self, pages: PageRange) -> Result<(), OsError> {
        let range = self.reservation.range();
        match self.scheme {
            Scheme::Protect => range.protect(self.span(pages)?, Protection::ReadWrite),
            Scheme::Guard => {
                let span = self.span(pages)?;
                self.regions_of(pages)
                    .try_for_each(|region| self.open(region))?;
                range.unguard(span)
            }
        }
    }

    /// Makes pages inaccessible, whatever their state. The caller owns their entries.
    pub(crate) fn hide(&self, pages: PageRange) -> Result<(), OsError> {
        let range = self.reservation.range();
        match self.scheme {
            Scheme::Protect => range.protect(self.span(pages)?, Protection::None),
            Scheme::Guard => self.guard(self.span(pages)?),
        }
    }

    /// Replaces a scratch page by the hidden page that belongs there. The caller owns its entry.
    pub(crate) fn lift_scratch(&self, page: PageIndex) -> Result<(), OsError> {
        let pages = PageRange::from(page);
        if self.scheme == Scheme::Protect {
            return self.map_hidden(pages);
        }
        let Some(region) = self.regions.get(self.regions_of(pages).start) else {
            return self.map_hidden(pages);
        };
        if keep_closed(region) {
            let done = self.map_hidden(pages);
            // Release: pairs with the Acquire of the exchange in `open`.
            region.fetch_sub(1, Ordering::Release);
            return done;
        }
        // Nobody opens the region any more: what hides the page now goes on hiding it.
        self.map_hidden(pages)?;
        let range = self.reservation.range();
        self.guard(self.span(pages)?)?;
        range.protect(self.span(pages)?, Protection::ReadWrite)
    }

    /// Whether the page lies in this view.
    pub(crate) fn holds(&self, page: PageIndex) -> bool {
        page >= self.window.first() && page.raw() < self.window.end()
    }

    /// Where a page of this view lies: the range, and the offset in it.
    #[cfg(all(test, shuttle))]
    pub(crate) fn place(&self, page: PageIndex) -> (&crate::sys::AddressRange, usize) {
        let span = self
            .span(PageRange::from(page))
            .expect("a page of the view");
        (self.reservation.range(), span.offset)
    }

    fn map_hidden(&self, pages: PageRange) -> Result<(), OsError> {
        let span = self.span(pages)?;
        let range = self.reservation.range();
        range.map_file(
            span,
            &self.file,
            self.file_offset(pages.first()),
            Protection::None,
        )?;
        // A child made by fork must not write into its parent's arena.
        range.dont_fork(span)
    }

    /// Lays guard markers. The kernel refuses them in locked memory (`mlockall`), so a view that
    /// was locked meanwhile is unlocked as a whole: that costs no mapping.
    fn guard(&self, span: Span) -> Result<(), OsError> {
        let range = self.reservation.range();
        range.guard(span).or_else(|_| {
            range.unlock(self.span(self.window)?)?;
            range.guard(span)
        })
    }

    fn open(&self, region: usize) -> Result<(), OsError> {
        let Some(state) = self.regions.get(region) else {
            return Ok(());
        };
        loop {
            // Acquire on success: pairs with the Release of who kept it closed. Acquire on
            // failure: who finds the region open comes after the calls that opened it.
            match state.compare_exchange(CLOSED, OPENING, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                Err(OPEN) => return Ok(()),
                // Other threads are inside two system calls at most. It cannot be this one:
                // there it touches no arena memory.
                Err(_) => spin_loop(),
            }
        }
        let span = self.region_span(region);
        let range = self.reservation.range();
        let done = self
            .guard(span)
            .and_then(|()| range.protect(span, Protection::ReadWrite));
        // Release: pairs with the Acquire above.
        state.store(if done.is_ok() { OPEN } else { CLOSED }, Ordering::Release);
        done
    }

    /// The caller has shown by `span` that the pages lie in this view.
    fn regions_of(&self, pages: PageRange) -> Range<usize> {
        let start = self.window.first().raw();
        let first = pages.first().raw().saturating_sub(start) / REGION_PAGES;
        let end = pages.end().saturating_sub(start).div_ceil(REGION_PAGES);
        first as usize..end as usize
    }

    /// Of a region that exists, so nothing here overflows.
    fn region_span(&self, region: usize) -> Span {
        let offset = region.wrapping_mul(REGION_SIZE);
        let size = (self.window.len() as usize).wrapping_mul(PAGE);
        Span {
            offset: self.start.wrapping_add(offset),
            len: size.saturating_sub(offset).min(REGION_SIZE),
        }
    }

    /// No assertion, but an error: the fault handler must not panic.
    fn span(&self, pages: PageRange) -> Result<Span, OsError> {
        let len = (pages.len() as usize).saturating_mul(PAGE);
        if !self.holds(pages.first()) || pages.end() > self.window.end() {
            return Err(OsError {
                call: "window check",
                len,
                errno: OUTSIDE,
            });
        }
        let index = pages.first().raw().wrapping_sub(self.window.first().raw());
        // The view lies in its reservation, so this cannot overflow.
        let offset = (index as usize).wrapping_mul(PAGE);
        Ok(Span {
            offset: self.start.wrapping_add(offset),
            len,
        })
    }

    /// Where the file holds a page: the file begins with the window's first page.
    pub(crate) fn file_offset(&self, page: PageIndex) -> u64 {
        let index = page.raw().saturating_sub(self.window.first().raw());
        u64::from(index).saturating_mul(PAGE_SIZE)
    }
}

/// Keeps a region from being opened, until the caller takes one from its state; false if it is
/// open already.
fn keep_closed(region: &AtomicU32) -> bool {
    loop {
        // Acquire: who finds the region open comes after the calls that opened it.
        match region.load(Ordering::Acquire) {
            OPEN => return false,
            // Another thread is inside two system calls.
            OPENING => spin_loop(),
            keepers => {
                // Relaxed: the opener's exchange fails while the count is not 0.
                let kept = region.compare_exchange(
                    keepers,
                    keepers.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                if kept.is_ok() {
                    return true;
                }
            }
        }
    }
}
