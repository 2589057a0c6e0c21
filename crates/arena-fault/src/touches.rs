//! Users' touches that find their page there: how many in a row, by thread.
//!
//! Such a touch is a race (another thread filled the page first) and is simply repeated. But a
//! user can also make its own view unreadable, and would then fault for ever where it should
//! get its SIGSEGV. User threads have no record of their own, so they share a small table,
//! indexed by their key: two threads in one place disturb each other's counts, which makes a
//! crash late, not wrong.

use harena_abi::PageIndex;

use crate::classify::SPURIOUS_MAX;
use crate::sync::{AtomicU64, Ordering};
use crate::thread::ThreadKey;

const SLOTS: usize = 64;

/// See the module's comment.
#[derive(Debug)]
pub struct TouchCounts {
    /// Page plus one in the upper half, the count in the lower.
    slots: [AtomicU64; SLOTS],
}

impl TouchCounts {
    /// No touches yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: [(); SLOTS].map(|()| AtomicU64::new(0)),
        }
    }

    /// Notes that a touch found its page there; false if that happened too often in a row to
    /// be a race.
    #[must_use]
    pub fn spurious(&self, key: ThreadKey, page: PageIndex) -> bool {
        let Some(slot) = self.slots.get(key.hash(SLOTS)) else {
            return false;
        };
        let tag = u64::from(page.raw()).saturating_add(1) << 32;
        // Relaxed throughout: a statistic, which publishes nothing.
        let seen = slot.load(Ordering::Relaxed);
        let next = if seen >> 32 == tag >> 32 {
            seen.saturating_add(1)
        } else {
            tag
        };
        slot.store(next, Ordering::Relaxed);
        next.wrapping_sub(tag) < u64::from(SPURIOUS_MAX)
    }

    /// Notes that the thread got on.
    pub fn progressed(&self, key: ThreadKey) {
        if let Some(slot) = self.slots.get(key.hash(SLOTS)) {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for TouchCounts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use core::num::NonZeroUsize;

    use super::*;

    #[test]
    fn only_touches_in_a_row_of_one_page_are_too_many() {
        let counts = TouchCounts::new();
        let key = ThreadKey::new(NonZeroUsize::new(0x7000).unwrap());
        let touch = |page| counts.spurious(key, PageIndex::new(page).unwrap());
        for _ in 0..SPURIOUS_MAX {
            assert!(touch(0));
        }
        assert!(!touch(0));
        assert!(touch(1), "another page");
        assert!(touch(0));
        for _ in 0..2 * SPURIOUS_MAX {
            assert!(touch(0));
            counts.progressed(key);
        }
    }
}
