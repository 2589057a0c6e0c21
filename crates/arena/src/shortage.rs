//! Recovery in a process that has no mapping left (`vm.max_map_count`).
//!
//! A page of scratch costs up to two mappings, and a fault of host code must be recovered all
//! the same. Each arena therefore holds some mappings in reserve. What a handler tries, in this
//! order, until one works:
//!
//! 1. map scratch, as always; while the reserve is gone, the oldest scratch pages are taken back
//!    first, so that the number of mappings does not grow;
//! 2. let go of the reserve, take the oldest back until [`SCRATCH_SHORT`] are left, and map;
//! 3. take one more back and map, until no scratch is left;
//! 4. make the page real, which guard markers can do without a mapping where a region is open;
//! 5. fault again, often, since other threads may give mappings back;
//! 6. forward the fault.
//!
//! Each recovery in this state is counted. The allocator, which may wait and fail, makes the
//! reserve anew as soon as there are mappings again.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use harena_arena_fault::{HostFault, WindowPage};

use crate::shared::{Outcome, SCRATCH_MAX, Shared};
use crate::sync::Ordering;
use crate::sys::{LetGo, OsError, SPARE_MAPPINGS};

/// Scratch pages that may live at a time while the process is short of mappings. One instruction
/// can need four (a string copy from one page border to another).
pub const SCRATCH_SHORT: usize = if cfg!(shuttle) { 1 } else { 16 };

const _: () = assert!(2 * SCRATCH_SHORT <= SPARE_MAPPINGS);
const _: () = assert!(SCRATCH_SHORT < SCRATCH_MAX);

impl Shared {
    /// Called by the handler: whether the reserve is gone.
    pub(crate) fn is_short(&self) -> bool {
        !self.spare.held()
    }

    /// Called by the handler: takes the oldest scratch pages back if the reserve is gone.
    pub(crate) fn keep_scratch_short(&self) {
        if self.is_short() {
            self.shrink_scratch(SCRATCH_SHORT - 1);
        }
    }

    /// Called by the handler when a page of scratch could not be mapped (steps 2 and 3).
    pub(crate) fn map_scratch_short(
        &self,
        page: WindowPage,
        error: OsError,
    ) -> Result<(), OsError> {
        if self.spare.let_go() == LetGo::Underway {
            // The other thread's call makes room: this one's next fault finds it.
            return Err(error);
        }
        let mut mapped = Err(error);
        for keep in (0..SCRATCH_SHORT).rev() {
            self.shrink_scratch(keep);
            mapped = self.map_scratch(page);
            if mapped.is_ok() {
                break;
            }
        }
        mapped
    }

    /// Called by the handler when neither scratch nor a real page could be had (steps 5 and 6).
    pub(crate) fn try_again_later(fault: &HostFault<'_>) -> Outcome {
        if fault.spurious() {
            Outcome::Retry
        } else {
            Outcome::Forward
        }
    }

    /// Called by the handler: counts a recovery in this state.
    pub(crate) fn count_short(&self) {
        self.faults_short.fetch_add(1, Ordering::Relaxed);
    }

    /// Called by the handler: remembers a page that holds scratch, and takes the oldest back if
    /// there are too many.
    pub(crate) fn remember_scratch(&self, page: WindowPage) {
        let Some(oldest) = self.scratch.push(page).filter(|oldest| *oldest != page) else {
            return;
        };
        if self.take_back(oldest).is_err() && self.spare.let_go() != LetGo::Underway {
            // Should it fail again, the page costs its mappings until it is allocated, freed or
            // faults anew.
            let _ = self.take_back(oldest);
        }
    }

    fn shrink_scratch(&self, keep: usize) {
        // Ends whatever other handlers push meanwhile.
        for _ in 0..SCRATCH_MAX {
            let Some(page) = self.scratch.pop_beyond(keep) else {
                return;
            };
            if self.take_back(page).is_err() {
                // Still there: remember it, lest nobody ever take it back. More cannot be had.
                self.remember_scratch(page);
                return;
            }
        }
    }

    /// Called by the allocator, under its lock: makes the reserve anew if there are mappings.
    pub(crate) fn restore_spare(&self) {
        // Short until it works; who needs more than the reserve's mappings fails on its own.
        let _ = self.spare.hold(&self.file);
    }
}
