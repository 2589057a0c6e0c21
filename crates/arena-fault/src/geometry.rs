//! The fixed shape of an arena's host window, and pages of it.
//!
//! ```text
//! reservation                                       KERN_VM_SIZE
//! |<- half guard ->|<--------- 4 GiB --------->|<- half guard ->|
//!                  ^ kern_vm_start             ^ pages 2^20 .. 2^20 + 8
//!    never ours      entries 0 .. 2^20           entries too
//! ```
//!
//! The lower half guard has no entries: well-behaved code only reaches forward, so a
//! fault there is another bug and must crash as usual.

use harena_abi::{PAGE_SIZE, PageIndex};

/// Reach of a 16-bit instruction offset; half lies below the window, half above.
pub const GUARD_SIZE: u64 = 1 << 16;
/// Bytes that a 32-bit offset can name.
pub const WINDOW_SIZE: u64 = 1 << 32;
/// Host-side reservation of every arena, whatever its `max_entries`.
pub const KERN_VM_SIZE: u64 = WINDOW_SIZE + GUARD_SIZE;
/// Bytes of the reservation before `kern_vm_start`, and after the window.
pub const HALF_GUARD: u64 = GUARD_SIZE / 2;
/// Entries of an arena: the window and the upper half guard.
pub const WINDOW_PAGES: u32 = PageIndex::COUNT + UPPER_GUARD_PAGES;
const UPPER_GUARD_PAGES: u32 = 8;

const _: () = assert!(GUARD_SIZE.is_multiple_of(2 * PAGE_SIZE));
const _: () = assert!(UPPER_GUARD_PAGES as u64 * PAGE_SIZE == HALF_GUARD);
const _: () = assert!(PageIndex::COUNT as u64 * PAGE_SIZE == WINDOW_SIZE);

/// A page that has an entry: one of the 4 GiB window or of the upper half guard.
///
/// Invariant: the number is below [`WINDOW_PAGES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WindowPage(u32);

impl WindowPage {
    /// The page with this number, or `None` past the upper guard.
    #[must_use]
    pub const fn new(raw: u32) -> Option<Self> {
        if raw < WINDOW_PAGES {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The page that holds the byte `offset` bytes after `kern_vm_start`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the quotient is below WINDOW_PAGES, as the comparison has just shown"
    )]
    pub const fn of_byte(offset: u64) -> Option<Self> {
        let page = offset / PAGE_SIZE;
        if page < WINDOW_PAGES as u64 {
            Some(Self(page as u32))
        } else {
            None
        }
    }

    /// The page number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The page number as an index of the entry table.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bytes from `kern_vm_start` to the page.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        (self.0 as u64).saturating_mul(PAGE_SIZE)
    }

    /// The page as one of the 4 GiB window, or `None` if it lies in the upper guard.
    #[must_use]
    pub const fn in_window(self) -> Option<PageIndex> {
        PageIndex::new(self.0)
    }
}

impl From<PageIndex> for WindowPage {
    fn from(page: PageIndex) -> Self {
        Self(page.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_guard_has_pages_and_what_follows_has_not() {
        let last = WindowPage::of_byte(WINDOW_SIZE + HALF_GUARD - 1);
        assert_eq!(last, WindowPage::new(WINDOW_PAGES - 1));
        assert!(last.is_some_and(|p| p.in_window().is_none()));
        assert_eq!(WindowPage::of_byte(WINDOW_SIZE + HALF_GUARD), None);
        assert_eq!(WindowPage::of_byte(u64::MAX), None);
    }
}
