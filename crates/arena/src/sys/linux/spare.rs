//! Mappings kept in reserve for the fault handler.
//!
//! At `vm.max_map_count` a kernel refuses every call that would split a mapping, and one
//! mapping further it refuses `mmap` altogether, even of what would replace a whole one.
//! `munmap` of whole mappings still works. So the reserve is a run of pages of which no two
//! neighbours can be merged; to let go of it is one call that no limit forbids.
//!
//! ```text
//! none ──hold (allocator, under its lock)──► held ──let_go (any handler)──► letting go ──► none
//! ```

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use core::ptr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::memory::{MemFile, os_error};
use crate::sys::{LetGo, OsError, PAGE, SPARE_MAPPINGS};

const LEN: usize = SPARE_MAPPINGS * PAGE;
/// No mapping begins at the last byte of all addresses.
const LETTING_GO: *mut u8 = ptr::without_provenance_mut(usize::MAX);

/// [`SPARE_MAPPINGS`] mappings, or none.
#[derive(Debug)]
pub(crate) struct SpareMappings {
    /// Start of the run; null while there is none.
    base: AtomicPtr<u8>,
}

impl SpareMappings {
    /// None yet.
    pub(crate) const fn none() -> Self {
        Self {
            base: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether the mappings are there.
    pub(crate) fn held(&self) -> bool {
        let base = self.base.load(Ordering::Relaxed);
        !base.is_null() && base != LETTING_GO
    }

    /// Makes the mappings unless they are there: all, or none. One thread at a time.
    pub(crate) fn hold(&self, file: &MemFile) -> Result<(), OsError> {
        // Null only changes here, and another state is none of ours.
        if !self.base.load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let base = map_inaccessible(file)?;
        if let Err(error) = split(base) {
            unmap(base);
            return Err(error);
        }
        // Release: who lets go of the run comes after the calls that made it.
        self.base.store(base, Ordering::Release);
        Ok(())
    }

    /// Gives the mappings back to the process.
    pub(crate) fn let_go(&self) -> LetGo {
        let base = self.base.load(Ordering::Relaxed);
        if base.is_null() {
            return LetGo::Done;
        }
        // Acquire: pairs with the Release in `hold`.
        let ours = self
            .base
            .compare_exchange(base, LETTING_GO, Ordering::Acquire, Ordering::Relaxed)
            .is_ok_and(|base| base != LETTING_GO);
        if !ours {
            return LetGo::Underway;
        }
        unmap(base);
        // Release: who sees none finds the mappings gone.
        self.base.store(ptr::null_mut(), Ordering::Release);
        LetGo::Done
    }
}

impl Drop for SpareMappings {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

/// A run that faults at every touch. Of the arena's own file, so that it never merges with a
/// neighbour: there is no mapping of the file at the offset that would follow or precede it.
fn map_inaccessible(file: &MemFile) -> Result<*mut u8, OsError> {
    let flags = MapFlags::SHARED | MapFlags::NORESERVE;
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    let base = unsafe {
        rustix::mm::mmap(
            ptr::null_mut(),
            LEN,
            ProtFlags::empty(),
            flags,
            file.as_fd(),
            0,
        )
    };
    base.map(<*mut _>::cast)
        .map_err(|error| os_error("mmap", LEN, error))
}

/// Makes each page a mapping of its own: every other one differs in an advice that has no
/// meaning for memory that nobody can touch.
fn split(base: *mut u8) -> Result<(), OsError> {
    advise(base, LEN, Advice::LinuxDontFork)?;
    (0..SPARE_MAPPINGS).step_by(2).try_for_each(|page| {
        advise(
            base.wrapping_add(page.wrapping_mul(PAGE)),
            PAGE,
            Advice::Random,
        )
    })
}

fn advise(at: *mut u8, len: usize, advice: Advice) -> Result<(), OsError> {
    // SAFETY: the pages are ours, and the advice changes no memory.
    let done = unsafe { rustix::mm::madvise(at.cast(), len, advice) };
    done.map_err(|error| os_error("madvise", len, error))
}

fn unmap(base: *mut u8) {
    // SAFETY: the run is ours as a whole, and nobody has a pointer into it.
    let done = unsafe { rustix::mm::munmap(base.cast(), LEN) };
    // Of whole mappings it cannot fail; no assertion, since the handler must not panic.
    let _ = done;
}
