//! The one seam to the operating system: address ranges, memory files, messages, the signal
//! handlers.
//!
//! `linux` is the real thing. `model` stands in for it where there are no mappings and no
//! signals (Miri, other systems), or where they must be watched (shuttle): memory from the
//! allocator, a table of what a real system would have mapped, and no other process.

use harena_abi::PAGE_SIZE;

#[cfg(all(target_os = "linux", not(any(miri, shuttle))))]
mod linux;
#[cfg(all(target_os = "linux", not(any(miri, shuttle))))]
pub(crate) use linux::{
    AddressRange, AltStack, MemFile, SpareMappings, Table, install_handler, on_alt_stack,
    process_id, thread_key, uninstall_handler,
};
#[cfg(all(target_os = "linux", not(any(miri, shuttle))))]
pub(crate) use linux::{
    FILES_MAX, Patience, Tokens, Watch, end, files_have_huge_pages, packet_pair, receive,
    receive_files, send, send_files, this_process, wait,
};

#[cfg(any(not(target_os = "linux"), miri, shuttle))]
mod model;
#[cfg(any(not(target_os = "linux"), miri, shuttle))]
pub(crate) use model::{
    AddressRange, AltStack, MemFile, SpareMappings, Table, install_handler, on_alt_stack,
    process_id, thread_key, uninstall_handler,
};
#[cfg(all(unix, any(not(target_os = "linux"), miri, shuttle)))]
pub(crate) use model::{
    FILES_MAX, Patience, Tokens, Watch, end, files_have_huge_pages, packet_pair, receive,
    receive_files, send, send_files, this_process, wait,
};

/// [`PAGE_SIZE`], as lengths in memory are counted.
#[expect(clippy::cast_possible_truncation, reason = "4096 fits any usize")]
pub(crate) const PAGE: usize = PAGE_SIZE as usize;

/// A signal that a fault raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FaultSignal {
    /// Nothing is mapped there, or it is not accessible.
    Segv,
    /// The file that is mapped there has no page.
    Bus,
}

/// A system call that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{call} of {len:#x} bytes failed: errno {errno}")]
pub struct OsError {
    /// The call.
    pub call: &'static str,
    /// How many bytes it concerned.
    pub len: usize,
    /// The system's error number.
    pub errno: i32,
}

impl OsError {
    /// Whether the other end of a connection is gone.
    pub(crate) fn is_disconnect(self) -> bool {
        /// The same on all systems that we run on.
        const EPIPE: i32 = 32;
        const ECONNRESET: i32 = 104;
        [EPIPE, ECONNRESET].contains(&self.errno)
    }
}

/// What became of the handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Uninstalled {
    /// It is gone.
    Gone,
    /// Another handler is on top.
    #[cfg_attr(
        any(not(target_os = "linux"), miri, shuttle),
        expect(dead_code, reason = "there are no other handlers without signals")
    )]
    NotOnTop,
    /// An arena is alive.
    Needed,
}

/// A page-aligned part of an address range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Bytes from the start of the range.
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) len: usize,
}

/// What memory may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Any touch faults.
    None,
    /// Stores fault.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

#[cfg(all(test, shuttle))]
pub(crate) use model::{HAS_GUARD_MARKERS, Seen, access};

/// Mappings that an arena keeps in reserve: two for each page of scratch that may live while the
/// process has no other left, and some for handlers at work at the same time.
pub(crate) const SPARE_MAPPINGS: usize = 48;

/// What became of an attempt to let go of the reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LetGo {
    /// The arena has none any more: the process has had the mappings back.
    Done,
    /// Another thread is inside that system call.
    Underway,
}
