//! Which pages hold scratch, so that the oldest can be taken back.
//!
//! Each scratch page costs the process up to two mappings, of which a kernel allows 65,530;
//! a fault storm must not use them up. Every page that becomes scratch is pushed *after*
//! its entry is settled; the page that falls out is the caller's to take back. So at any
//! time at most `N` settled scratch entries exist, plus one per handler at work.

use harena_abi::PageIndex;

use crate::geometry::WindowPage;
use crate::sync::{AtomicU32, Ordering};

/// The last `N` pages that became scratch.
#[derive(Debug)]
pub struct ScratchRing<const N: usize> {
    next: AtomicU32,
    /// Page number plus one; 0 is an unused slot.
    pages: [AtomicU32; N],
}

impl<const N: usize> ScratchRing<N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two());
        assert!(N < PageIndex::COUNT as usize);
        !(u32::MAX << N.trailing_zeros())
    };

    /// A ring that holds no page.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            pages: [(); N].map(|()| AtomicU32::new(0)),
        }
    }

    /// Remembers `page`; gives the page that it displaced, which may have been allocated,
    /// cleared or pushed again since.
    pub fn push(&self, page: WindowPage) -> Option<WindowPage> {
        // Relaxed: a ticket; the counter wraps, and N divides 2^32.
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = self.pages.get(Self::index(ticket)?)?;
        // AcqRel: who gets a page out sees its entry as it was when the page went in.
        let old = slot.swap(page.raw().saturating_add(1), Ordering::AcqRel);
        WindowPage::new(old.checked_sub(1)?)
    }

    /// Takes the oldest page out if more than `keep` are remembered. Looks at every slot: for a
    /// process that is short of mappings.
    pub fn pop_beyond(&self, keep: usize) -> Option<WindowPage> {
        // Relaxed: where to begin is a matter of age only.
        let next = self.next.load(Ordering::Relaxed);
        let (newer, older) = self.pages.split_at_checked(Self::index(next)?)?;
        let used = |slot: &&AtomicU32| slot.load(Ordering::Relaxed) != 0;
        let by_age = || older.iter().chain(newer).filter(used);
        if by_age().count() <= keep {
            return None;
        }
        by_age().find_map(|slot| {
            // AcqRel: as in `push`.
            let page = slot.swap(0, Ordering::AcqRel);
            WindowPage::new(page.checked_sub(1)?)
        })
    }

    fn index(ticket: u32) -> Option<usize> {
        usize::try_from(ticket & Self::MASK).ok()
    }
}

impl<const N: usize> Default for ScratchRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_page_falls_out() {
        let ring = ScratchRing::<4>::new();
        let page = |n| WindowPage::new(n).unwrap();
        for n in 0..4 {
            assert_eq!(ring.push(page(n)), None);
        }
        for n in 4..20 {
            assert_eq!(ring.push(page(n)), Some(page(n - 4)));
        }
    }

    #[test]
    fn the_oldest_pages_are_popped_down_to_those_to_keep() {
        let ring = ScratchRing::<4>::new();
        let page = |n| WindowPage::new(n).unwrap();
        assert_eq!(ring.pop_beyond(0), None);
        for n in 0..6 {
            let _ = ring.push(page(n));
        }
        assert_eq!(ring.pop_beyond(2), Some(page(2)));
        assert_eq!(ring.pop_beyond(2), Some(page(3)));
        assert_eq!(ring.pop_beyond(2), None);
        // A gap does not hide what is older than it.
        assert_eq!(ring.push(page(6)), None);
        assert_eq!(ring.pop_beyond(0), Some(page(4)));
        assert_eq!(ring.pop_beyond(0), Some(page(5)));
        assert_eq!(ring.pop_beyond(0), Some(page(6)));
        assert_eq!(ring.pop_beyond(0), None);
    }
}
