//! All that harena's fault handler may call.
//!
//! A fault handler interrupts its thread at any instruction, perhaps inside the allocator
//! or with the arena's lock held. So this crate has no `alloc` and no `std`: a handler path
//! that allocates or locks does not compile. Nothing here waits, except for a thread that
//! is inside system calls (see [`Entry`]); `retire` waits for handlers.
//!
//! * [`Entry`]: the page table entry with `try_set` and `get_and_clear`;
//! * [`Registry`]: the live arenas, views of others' arenas, compiled code, and what runs on
//!   which thread; [`REGISTRY`] is the one global of the project;
//! * [`classify`]: what a fault is, decided before anything is done;
//! * [`ReportRing`], [`ScratchRing`], [`PageList`]: bounded or intrusive queues out of it.
//!
//! ```
//! use harena_arena_fault::{Entry, EntryState, Filled};
//!
//! let entry = Entry::new();
//! entry.try_set().expect("it is empty").settle(Filled::Scratch);
//! assert_eq!(entry.try_set().unwrap_err(), EntryState::Scratch);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(shuttle)]
extern crate std;

mod classify;
mod entry;
mod extable;
mod geometry;
mod page_list;
mod registry;
mod report;
mod scratch;
mod sync;
mod thread;
mod touches;

pub use classify::{
    Action, ActionWords, Cause, Fault, HostFault, ProgramFault, SavedAction, SavedVersion, classify,
};
pub use entry::{Claim, ClaimError, Cleared, Entry, EntryState, Filled};
pub use extable::{ExtableEntry, lookup};
pub use geometry::{GUARD_SIZE, HALF_GUARD, KERN_VM_SIZE, WINDOW_PAGES, WINDOW_SIZE, WindowPage};
pub use page_list::{Link, PageList, PageRange};
#[cfg(not(loom))]
pub use registry::REGISTRY;
pub use registry::{ARENAS_MAX, ArenaId, CODES_MAX, CodeId, Pin, Registry, Slot, ViewOf};
pub use report::{Access, ProgramTag, Report, ReportRing};
pub use scratch::ScratchRing;
pub use thread::{DEPTH_MAX, Depth, EnterError, Running, THREADS_MAX, ThreadKey};
pub use touches::TouchCounts;
