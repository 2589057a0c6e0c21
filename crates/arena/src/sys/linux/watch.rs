//! Being told of touches of pages that a mapping's file does not have.
//!
//! `userfaultfd` in its simplest form: no second thread reads events; the touching thread
//! gets a `SIGBUS` in place of the zero page that the kernel would put into the file. Pages
//! that the file has are mapped by the kernel as ever. Linux 5.11, unprivileged.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mm::UserfaultfdFlags;

use crate::sys::OsError;
use crate::sys::linux::last_errno;
use crate::sys::linux::memory::{AddressRange, os_error};

/// `UFFD_USER_MODE_ONLY`: faults inside system calls are not ours to serve (they give
/// `EFAULT`), so no privilege is needed.
const USER_MODE_ONLY: u32 = 1;
const API: u64 = 0xaa;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_SIGBUS: u64 = 1 << 7;
const MODE_MISSING: u64 = 1;

/// `struct uffdio_api`.
#[repr(C)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Registration {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const fn request<T>(number: u64) -> u64 {
    const READ_AND_WRITE: u64 = 3 << 30;
    READ_AND_WRITE | (size_of::<T>() as u64) << 16 | API << 8 | number
}
const UFFDIO_API: u64 = request::<Handshake>(0x3f);
const UFFDIO_REGISTER: u64 = request::<Registration>(0x00);

/// While this lives, touches of absent pages of a range are a `SIGBUS`.
#[derive(Debug)]
pub(crate) struct Watch {
    _fd: OwnedFd,
}

impl Watch {
    /// Watches a range, all of which is one mapping of a memory file.
    pub(crate) fn new(range: &AddressRange) -> Result<Self, OsError> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: the descriptor does nothing until a range is registered with it.
        let fd = unsafe { rustix::mm::userfaultfd(flags) };
        let fd = fd.map_err(|error| os_error("userfaultfd", range.len(), error))?;
        let mut handshake = Handshake {
            api: API,
            features: FEATURE_SIGBUS | FEATURE_MISSING_SHMEM,
            ioctls: 0,
        };
        // SAFETY: the request takes such a structure, which is valid for reads and writes.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut handshake) };
        check(done, "userfaultfd handshake", range)?;
        let mut registration = Registration {
            start: range.base().addr() as u64,
            len: range.len() as u64,
            mode: MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: as above; the range is this caller's own, and no reference into it exists.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut registration) };
        check(done, "userfaultfd register", range)?;
        Ok(Self { _fd: fd })
    }
}

fn check(done: i32, call: &'static str, range: &AddressRange) -> Result<(), OsError> {
    if done == 0 {
        return Ok(());
    }
    Err(OsError {
        call,
        len: range.len(),
        errno: last_errno(),
    })
}
