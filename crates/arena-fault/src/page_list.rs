//! Lock-free lists of page ranges, threaded through a table with one word a page.
//!
//! Two of them per arena: ranges whose free was put off (a program may free in any
//! context), and pages that a user's touch filled inside the fault handler, which the range
//! tree must learn of. Pushing never waits for a lock and never allocates; only the whole
//! list can be taken, so there is no ABA problem.
//!
//! A link word is 0 while its page starts no listed range. A range pushed again before it
//! was taken is merged: the longer count wins. So a double free cannot tie a knot.

use harena_abi::PageIndex;

use crate::sync::{AtomicU32, AtomicU64, Ordering, const_unless_loom};

const QUEUED: u64 = 1 << 63;
const NEXT_MASK: u64 = (1 << 21) - 1;
const COUNT_SHIFT: u32 = 32;

/// A run of pages. Invariant: not empty, and it ends inside the 4 GiB window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    first: PageIndex,
    count: u32,
}

impl PageRange {
    /// `count` pages from `first`, or `None` if that is empty or leaves the window.
    #[must_use]
    pub const fn new(first: PageIndex, count: u32) -> Option<Self> {
        match first.raw().checked_add(count) {
            Some(end) if count > 0 && end <= PageIndex::COUNT => Some(Self { first, count }),
            Some(_) | None => None,
        }
    }

    /// The first page.
    #[must_use]
    pub const fn first(self) -> PageIndex {
        self.first
    }

    /// The number of pages; not 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u32 {
        self.count
    }

    /// The number of the page behind the last one.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.first.raw().saturating_add(self.count)
    }

    /// Both ranges as one, if `next` begins where this one ends.
    #[must_use]
    pub const fn joined(self, next: Self) -> Option<Self> {
        if self.end() == next.first.raw() {
            Self::new(self.first, self.count.saturating_add(next.count))
        } else {
            None
        }
    }

    /// The pages, in order.
    pub fn pages(self) -> impl DoubleEndedIterator<Item = PageIndex> + Clone {
        (self.first.raw()..self.end()).filter_map(PageIndex::new)
    }
}

impl From<PageIndex> for PageRange {
    fn from(first: PageIndex) -> Self {
        Self { first, count: 1 }
    }
}

/// One word of the table behind a list. All-zero bytes are a valid, unlisted link.
#[derive(Debug)]
#[repr(transparent)]
pub struct Link(AtomicU64);

impl Link {
    const_unless_loom! {
        /// A link that is in no list.
        #[must_use]
        pub fn new() -> Self {
            Self(AtomicU64::new(0))
        }
    }
}

#[cfg(not(loom))]
impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

/// A list of page ranges over a table of links, which it owns.
#[derive(Debug)]
pub struct PageList<T> {
    /// First page of the newest range plus one; 0 is the empty list.
    head: AtomicU32,
    links: T,
}

const fn word(count: u32, next: u32) -> u64 {
    QUEUED | ((count as u64) << COUNT_SHIFT) | next as u64
}

const fn next_of(word: u64) -> u32 {
    (word & NEXT_MASK) as u32
}

const fn count_of(word: u64) -> u32 {
    ((word & !QUEUED) >> COUNT_SHIFT) as u32
}

impl<T: AsRef<[Link]>> PageList<T> {
    /// An empty list. Pages past the end of `links` cannot be pushed.
    #[must_use]
    pub fn new(links: T) -> Self {
        Self {
            head: AtomicU32::new(0),
            links,
        }
    }

    /// Whether nothing waits; a hint while others push.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == 0
    }

    /// Adds a range; false if the table has no link for its first page.
    #[must_use]
    pub fn push(&self, range: PageRange) -> bool {
        let Some(link) = self.link(range.first.raw()) else {
            return false;
        };
        let mut seen = link.0.load(Ordering::Relaxed);
        loop {
            let longer = count_of(seen).max(range.count);
            let new = word(longer, next_of(seen));
            // AcqRel: pairs with the swap in `take`; a count merged before it is taken with it.
            match link
                .0
                .compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if seen == 0 => break,
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        self.hang_in(range.first, link);
        true
    }

    /// Puts a link that this thread has just claimed at the head.
    fn hang_in(&self, first: PageIndex, link: &Link) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let mut seen = link.0.load(Ordering::Relaxed);
            // Others may only raise the count meanwhile; keep what they wrote.
            while let Err(now) = link.0.compare_exchange_weak(
                seen,
                word(count_of(seen), head),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                seen = now;
            }
            let new = first.raw().saturating_add(1);
            // Release: publishes the link; pairs with the Acquire in `take`.
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the whole list, newest first. To drop the iterator early loses the rest.
    pub fn take(&self) -> impl Iterator<Item = PageRange> + '_ {
        // Acquire: pairs with the Release in `hang_in`.
        let mut at = self.head.swap(0, Ordering::Acquire);
        core::iter::from_fn(move || {
            let first = at.checked_sub(1)?;
            // AcqRel: pairs with the exchange in `push`; from here the page may be listed anew.
            let taken = self.link(first)?.0.swap(0, Ordering::AcqRel);
            at = next_of(taken);
            PageRange::new(PageIndex::new(first)?, count_of(taken))
        })
    }

    fn link(&self, page: u32) -> Option<&Link> {
        self.links.as_ref().get(usize::try_from(page).ok()?)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> PageRange {
        let first = PageIndex::new(first).expect("in the window");
        PageRange::new(first, count).expect("a valid range")
    }

    #[test]
    fn ranges_come_out_newest_first_and_once() {
        let list = PageList::new([const { Link::new() }; 8]);
        assert!(list.is_empty());
        assert!(list.push(range(3, 2)));
        assert!(list.push(range(0, 1)));
        let taken: [Option<PageRange>; 3] = {
            let mut it = list.take();
            [it.next(), it.next(), it.next()]
        };
        assert_eq!(taken, [Some(range(0, 1)), Some(range(3, 2)), None]);
        assert!(list.is_empty());
    }

    #[test]
    fn a_range_pushed_twice_is_listed_once_with_the_longer_count() {
        let list = PageList::new([const { Link::new() }; 8]);
        for count in [2, 5, 1] {
            assert!(list.push(range(1, count)));
        }
        assert_eq!(list.take().count(), 1);
        assert!(list.push(range(1, 3)));
        assert_eq!(list.take().next(), Some(range(1, 3)));
    }

    #[test]
    fn a_page_without_link_is_refused() {
        let list = PageList::new([const { Link::new() }; 2]);
        assert!(!list.push(range(2, 1)));
    }
}
