//! Compiled code, as far as the fault handler must know it.
//!
//! A program's own instruction that touches an empty page of its arena is not made to run
//! again: the handler finds it in the code's exception table and goes on at the place that
//! the table names. That place makes the access the slow way and reports it.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use core::mem::ManuallyDrop;
use core::ops::Range;
use std::sync::Arc;

#[cfg(all(target_os = "linux", not(any(miri, shuttle))))]
use harena_arena_fault::lookup;
use harena_arena_fault::{CODES_MAX, CodeId, ExtableEntry, REGISTRY};

use crate::sys::{FaultSignal, OsError, install_handler, process_id};

/// The instructions of one image that may fault.
#[derive(Debug)]
#[cfg_attr(
    any(not(target_os = "linux"), miri, shuttle),
    expect(dead_code, reason = "only a real handler asks")
)]
pub(crate) struct FaultTable {
    entries: Box<[ExtableEntry]>,
}

#[cfg(all(target_os = "linux", not(any(miri, shuttle))))]
impl FaultTable {
    /// The entry of the instruction at an offset. Called in the handler.
    pub(crate) fn find(&self, offset: u32) -> Option<&ExtableEntry> {
        lookup(&self.entries, offset)
    }
}

/// An image of compiled code that the fault handler knows, as long as this lives.
#[must_use = "the code is forgotten when this is dropped"]
#[derive(Debug)]
pub struct CompiledCode {
    id: CodeId,
    table: Arc<FaultTable>,
    /// The process that made it known.
    owner: i32,
}

/// Why compiled code cannot be made known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodeError {
    /// Too much of it.
    #[error("{CODES_MAX} images of compiled code are known already")]
    TooMany,
    /// The fault handler cannot be installed.
    #[error("fault handler")]
    Os(#[source] OsError),
}

impl CompiledCode {
    /// Makes code known, by its addresses. Its faults in the running program's arena, and in
    /// `reach` (which may be empty), go on where `entries` say, which are sorted by `fault_pc`.
    ///
    /// # Safety
    ///
    /// 1. The code at `code.start + resume_pc` of each entry expects to be reached, with all
    ///    registers as they are, from the instruction at `code.start + fault_pc`, as long as this
    ///    lives.
    #[expect(unsafe_code, reason = "a promise about machine code, not about memory")]
    pub unsafe fn register(
        code: Range<usize>,
        reach: Range<usize>,
        entries: Vec<ExtableEntry>,
    ) -> Result<Self, CodeError> {
        assert!(entries.is_sorted_by_key(|entry| entry.fault_pc));
        let table = Arc::new(FaultTable {
            entries: entries.into_boxed_slice(),
        });
        let payload = Arc::as_ptr(&table).cast_mut().cast();
        let id = REGISTRY
            .publish_code(code, reach, payload)
            .ok_or(CodeError::TooMany)?;
        let known = Self {
            id,
            table,
            owner: process_id(),
        };
        // Published before: see `uninstall_handler`.
        install_handler(FaultSignal::Segv).map_err(CodeError::Os)?;
        Ok(known)
    }
}

impl Drop for CompiledCode {
    fn drop(&mut self) {
        if self.owner != process_id() {
            // A child made by fork, where a thread that was in the handler never gives its pin
            // back: as for an arena, only memory is lost.
            REGISTRY.abandon_code(self.id);
            let _ = ManuallyDrop::new(Arc::clone(&self.table));
            return;
        }
        // Waits for handlers that look at the table.
        REGISTRY.retire_code(self.id);
    }
}
