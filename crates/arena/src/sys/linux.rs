//! Linux: mappings, memory files, messages, threads' names, the signal handlers.
//!
//! The memory calls are used by the fault handler too: they go straight to the kernel,
//! allocate nothing, and report errors by value.

mod altstack;
mod chain;
mod handler;
mod memory;
mod socket;
mod spare;
mod watch;

use core::num::NonZeroUsize;

use harena_arena_fault::ThreadKey;

pub(crate) use altstack::{AltStack, on_alt_stack};
pub(crate) use handler::{install_handler, uninstall_handler};
pub(crate) use memory::{AddressRange, MemFile, Table, files_have_huge_pages};
pub(crate) use socket::{
    FILES_MAX, Patience, Tokens, end, packet_pair, receive, receive_files, send, send_files,
    this_process, wait,
};
pub(crate) use spare::SpareMappings;
pub(crate) use watch::Watch;

/// The calling thread's key: the address of its `errno`, which is thread-local in the C
/// library's own block and so needs no lazy set-up; reading it is safe in a signal handler.
pub(crate) fn thread_key() -> ThreadKey {
    // SAFETY: the function has no preconditions and returns a thread-local's address.
    let errno = unsafe { libc::__errno_location() };
    ThreadKey::new(NonZeroUsize::new(errno.addr()).unwrap_or(NonZeroUsize::MAX))
}

/// This process's id, asked anew each time: it differs after a fork.
pub(crate) fn process_id() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Why the C library's last call on this thread failed.
fn last_errno() -> i32 {
    // SAFETY: the function has no preconditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own; the handler saves and restores it.
    unsafe { errno.read() }
}
