//! The fault handler as the embedding program sees it.
//!
//! It is installed with the first arena (for `SIGSEGV`) and with the first view of another
//! process's arena (for `SIGBUS`), and stays. Faults that are not ours go to the action
//! that was there before, as if ours were not (see `sys/linux/chain.rs`). The crate's
//! documentation says what an embedder has to know of it.

use core::marker::PhantomData;

use crate::sys::{self, FaultSignal, OsError, Uninstalled};

/// Why the handler was not removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UninstallError {
    /// Arenas, views or compiled code that need it are alive.
    #[error("arenas, views of arenas or compiled code are alive")]
    InUse,
    /// Another handler was installed after ours and may forward to it.
    #[error("another handler of SIGSEGV or SIGBUS was installed later")]
    NotOnTop,
    /// The system refused.
    #[error("signal handler")]
    Os(#[source] OsError),
}

/// Puts the actions back that were there before the first arena, view or compiled code.
pub fn uninstall_fault_handler() -> Result<(), UninstallError> {
    // Each goes if it can: whether the other one does makes no difference to it.
    let segv = sys::uninstall_handler(FaultSignal::Segv).map_err(UninstallError::Os)?;
    let bus = sys::uninstall_handler(FaultSignal::Bus).map_err(UninstallError::Os)?;
    match (segv, bus) {
        (Uninstalled::Gone, Uninstalled::Gone) => Ok(()),
        (Uninstalled::Needed, _) | (_, Uninstalled::Needed) => Err(UninstallError::InUse),
        (Uninstalled::NotOnTop, _) | (_, Uninstalled::NotOnTop) => Err(UninstallError::NotOnTop),
    }
}

/// Gives the calling thread an alternate signal stack of at least 64 KiB while this lives, so
/// that the handler can run wherever the thread's own stack stands. Threads of Rust have a
/// smaller one, threads of other languages may have none.
#[must_use = "the stack goes when this is dropped"]
#[derive(Debug)]
pub struct AltStack {
    _stack: Option<sys::AltStack>,
    /// A signal stack belongs to its thread.
    not_send: PhantomData<*mut ()>,
}

impl AltStack {
    /// Installs it on the calling thread, unless there is one that is big enough.
    pub fn for_this_thread() -> Result<Self, OsError> {
        Ok(Self {
            _stack: sys::on_alt_stack()?,
            not_send: PhantomData,
        })
    }
}
