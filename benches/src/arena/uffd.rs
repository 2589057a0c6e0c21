//! userfaultfd in SIGBUS mode, where the kernel lets us: one of the mechanisms not chosen.

use core::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::bare::Mapping;
use super::common::PAGE;

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFDIO_CONTINUE: u64 = 0xc020_aa07;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const UFFD_USER_MODE_ONLY: c_int = 1;

/// Which faults are ours to resolve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The file has no page there.
    Missing,
    /// The file has the page, the mapping has not.
    Minor,
}

/// Faults of the mapping become SIGBUS. Or why not.
pub(super) fn register(mapping: &Mapping, len: usize, kind: Kind) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
    // SAFETY: makes a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
    let features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM;
    let mode = match kind {
        Kind::Missing => 1,
        Kind::Minor => 4,
    };
    let start = mapping.base().expose_provenance() as u64;
    for (request, mut argument) in [
        (UFFDIO_API, [UFFD_API, features, 0, 0]),
        (UFFDIO_REGISTER, [start, len as u64, mode, 0]),
    ] {
        // SAFETY: the argument is at least as long as the requests' structures.
        let done = unsafe { libc::ioctl(uffd.as_raw_fd(), request, argument.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(uffd)
}

/// Resolves a fault; called by the handler.
pub(super) fn fill(uffd: c_int, page: usize, zero: bool) -> c_int {
    let request = if zero {
        UFFDIO_ZEROPAGE
    } else {
        UFFDIO_CONTINUE
    };
    let mut argument = [page as u64, PAGE as u64, 0, 0];
    // SAFETY: the argument is as long as the requests' structures.
    unsafe { libc::ioctl(uffd, request, argument.as_mut_ptr()) }
}
