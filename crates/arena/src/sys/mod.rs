//! The one seam to the operating system: address ranges, memory files, the signal handler.
//!
//! `linux` is the real thing. `miri` stands in for it where there are no mappings and no
//! signals (Miri, other systems): memory from the allocator, no recovery, so that the
//! allocators and their arithmetic can be checked there.

#[cfg(all(target_os = "linux", not(miri)))]
mod linux;
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) use linux::{
    AddressRange, AltStack, MemFile, Table, install_handler, on_alt_stack, process_id, thread_key,
    uninstall_handler,
};

#[cfg(any(not(target_os = "linux"), miri))]
mod miri;
#[cfg(any(not(target_os = "linux"), miri))]
pub(crate) use miri::{
    AddressRange, AltStack, MemFile, Table, install_handler, on_alt_stack, process_id, thread_key,
    uninstall_handler,
};

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

/// A page-aligned part of an address range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Bytes from the start of the range.
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) len: usize,
}

/// How a mapping may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protection {
    /// Any touch faults.
    None,
    /// Loads and stores.
    ReadWrite,
}
