//! Views of an arena in other processes.
//!
//! ```text
//!  owner: Arena, PeerLink                         peer: UserView
//!        │   Hello: geometry, memory file, pidfd         │
//!        │ ────────────────────────────────────────────► │ maps the file at user_vm_start,
//!        │   Welcome: slots, pidfd                       │ watched for touches of holes
//!        │ ◄──────────────────────────────────────────── │
//!        │                                               │
//!        │   slot: Touch(page)                           │ SIGBUS: a page that the file
//!        │ ◄──────────────────────────────────────────── │ does not have
//!  try_set, charge, put the page into the file           │
//!        │   slot: Ready, Again or Segv                  │
//!        │ ────────────────────────────────────────────► │ runs the instruction again, or
//!        │                                               │ gets a SIGSEGV
//!  free: PUNCH_HOLE ── the kernel takes the page ──────► │ next touch: SIGBUS
//! ```
//!
//! **The file is the truth.** A peer reaches exactly the pages that the memory file has, and the
//! kernel enforces it: a page freed by the owner is gone from the file, and so from every
//! process's page tables, when the call that frees it returns. Nothing here relies on the peer
//! doing anything. What a hostile peer can and cannot do is listed in
//! `docs/design/0002-arena-mapping.md`.
//!
//! **A touch is a page fault that another process serves.** The thread waits in its signal
//! handler, all signals blocked, as it would wait in the kernel. Up to [`SLOTS`] threads wait
//! at a time, each on a connection of its own, so that answers need no sorting and no thread
//! ever depends on another one to read for it. Slot numbers lie in a pipe: who finds none
//! sleeps in the kernel until one is put back. There is no lock that a handler could find
//! held by its own thread, since a thread that has a slot waits for the owner alone, in a
//! handler that nothing can interrupt; and when the owner dies, all waits end.
//!
//! **Death is seen through pidfds**, not by the end of a connection alone: a child made by fork
//! keeps connections open. Such a child has no view (`MADV_DONTFORK`) and sends nothing.

#![cfg_attr(
    any(not(target_os = "linux"), miri, shuttle),
    expect(
        dead_code,
        unused_imports,
        reason = "without signals nobody calls what the handler calls"
    )
)]

mod owner;
mod peer;
#[cfg(all(test, target_os = "linux", not(any(miri, shuttle))))]
mod tests;
mod wire;

pub use owner::{LinkCloser, LinkError, PEERS_MAX, PeerLink, ShareError};
pub use peer::{AttachError, UserView};
pub(crate) use peer::{Remote, Touched};
pub use wire::WireError;

/// Touches of one peer that may wait for the owner at a time; further ones wait for a slot.
pub(crate) const SLOT_COUNT: u8 = 8;
/// The same, as a length.
pub(crate) const SLOTS: usize = SLOT_COUNT as usize;
