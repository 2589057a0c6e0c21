//! Address ranges and memory files.
//!
//! An [`AddressRange`] is reserved once and unmapped once; between the two it is only ever
//! *replaced* by `MAP_FIXED` mappings inside itself. Nothing is unmapped in between, so no
//! other thread's `mmap` can slip into a hole. Its methods are safe because a range is handed
//! out as a raw pointer only: no reference into it exists that a new mapping could invalidate.

// As in `harena_arena_fault`: this is the handler, or called by it, and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use harena_abi::PAGE_SIZE;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::Resource;

use crate::mem::Zeroable;
use crate::sys::linux::last_errno;
use crate::sys::{OsError, Protection, Span};

/// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE` (Linux 6.13; on shared memory since 6.15).
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// A reserved range of this process's addresses.
#[derive(Debug)]
pub(crate) struct AddressRange {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the range is plain addresses; every method is a system call, which may come from
// any thread, and memory inside is only reached through raw pointers.
unsafe impl Send for AddressRange {}
// SAFETY: as above; the methods take `&self` and the kernel serialises them.
unsafe impl Sync for AddressRange {}

impl AddressRange {
    /// Reserves `len` bytes somewhere; every touch faults.
    pub(crate) fn reserve(len: usize) -> Result<Self, OsError> {
        // SAFETY: without MAP_FIXED the kernel picks unused addresses.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        Self::new(base, len)
    }

    /// Reserves `len` bytes at `address`, which must be unused.
    pub(crate) fn reserve_at(address: usize, len: usize) -> Result<Self, OsError> {
        // SAFETY: MAP_FIXED_NOREPLACE fails where anything is mapped, and harms nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::with_exposed_provenance_mut(address),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
            )
        };
        let range = Self::new(base, len)?;
        // Kernels before 4.17 take the address for a hint.
        if range.base.addr().get() == address {
            Ok(range)
        } else {
            Err(OsError {
                call: "mmap",
                len,
                errno: libc::EEXIST,
            })
        }
    }

    fn new(base: rustix::io::Result<*mut c_void>, len: usize) -> Result<Self, OsError> {
        let base = base.map_err(|error| os_error("mmap", len, error))?;
        let base = NonNull::new(base.cast::<u8>());
        let base = base.ok_or(OsError {
            call: "mmap",
            len,
            errno: libc::ENOMEM,
        })?;
        Ok(Self { base, len })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Replaces a span by fresh zero memory (or by nothing, with [`Protection::None`]).
    pub(crate) fn map_anonymous(&self, span: Span, prot: Protection) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        // SAFETY: `pointer` has shown that the span lies in this range, which nobody else owns
        // and into which no reference exists.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                at,
                span.len,
                prot_flags(prot),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
        mapped
            .map(drop)
            .map_err(|error| os_error("mmap", span.len, error))
    }

    /// Replaces a span by a part of `file`.
    pub(crate) fn map_file(
        &self,
        span: Span,
        file: &MemFile,
        file_offset: u64,
        prot: Protection,
    ) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        // SAFETY: `pointer` has shown that the span lies in this range, which nobody else owns
        // and into which no reference exists. The file is sealed, so it cannot shrink below it.
        let mapped = unsafe {
            rustix::mm::mmap(
                at,
                span.len,
                prot_flags(prot),
                MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
                &file.fd,
                file_offset,
            )
        };
        mapped
            .map(drop)
            .map_err(|error| os_error("mmap", span.len, error))
    }

    /// Changes what a span may be used for.
    pub(crate) fn protect(&self, span: Span, prot: Protection) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        let flags = match prot {
            Protection::None => MprotectFlags::empty(),
            Protection::ReadOnly => MprotectFlags::READ,
            Protection::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        // SAFETY: the span lies in this range (`pointer`), into which no reference exists.
        let done = unsafe { rustix::mm::mprotect(at, span.len, flags) };
        done.map_err(|error| os_error("mprotect", span.len, error))
    }

    /// Makes every touch of the span fault, whatever its protection.
    pub(crate) fn guard(&self, span: Span) -> Result<(), OsError> {
        self.advise_guard(span, MADV_GUARD_INSTALL)
    }

    /// Undoes [`AddressRange::guard`].
    pub(crate) fn unguard(&self, span: Span) -> Result<(), OsError> {
        self.advise_guard(span, MADV_GUARD_REMOVE)
    }

    fn advise_guard(&self, span: Span, advice: i32) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        // SAFETY: the span lies in this range (`pointer`), into which no reference exists.
        let done = unsafe { libc::madvise(at, span.len, advice) };
        if done == 0 {
            return Ok(());
        }
        Err(OsError {
            call: "madvise",
            len: span.len,
            errno: last_errno(),
        })
    }

    /// Undoes `mlock` and `mlockall` for the span; the memory stays as it is.
    pub(crate) fn unlock(&self, span: Span) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        // SAFETY: the span lies in this range (`pointer`); what it holds does not change.
        let done = unsafe { rustix::mm::munlock(at, span.len) };
        done.map_err(|error| os_error("munlock", span.len, error))
    }

    /// Keeps the span out of children made by fork.
    pub(crate) fn dont_fork(&self, span: Span) -> Result<(), OsError> {
        let at = self.pointer(span)?;
        // SAFETY: the advice changes nothing in this process.
        let done = unsafe { rustix::mm::madvise(at, span.len, Advice::LinuxDontFork) };
        done.map_err(|error| os_error("madvise", span.len, error))
    }

    fn pointer(&self, span: Span) -> Result<*mut c_void, OsError> {
        let end = span.offset.checked_add(span.len);
        if span.len == 0 || end.is_none_or(|end| end > self.len) {
            return Err(OsError {
                call: "range check",
                len: span.len,
                errno: libc::EINVAL,
            });
        }
        Ok(self.base.as_ptr().wrapping_add(span.offset).cast())
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        // SAFETY: the range is ours as a whole, and its owner lets go of every pointer into it
        // together with `self`.
        let done = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(done.is_ok(), "munmap of a range that mmap gave: {done:?}");
    }
}

/// A table of zeroes that costs memory only where it is used. Not from the allocator: a C
/// library may answer even large zeroed requests with recycled memory that it clears.
#[derive(Debug)]
pub(crate) struct Table<T> {
    range: AddressRange,
    len: usize,
    items: PhantomData<T>,
}

impl<T: Zeroable> Table<T> {
    /// `len` zeroes; `len` is not 0.
    pub(crate) fn zeroed(len: usize) -> Result<Self, OsError> {
        let bytes = len.saturating_mul(size_of::<T>());
        let range = AddressRange::reserve(bytes)?;
        range.map_anonymous(
            Span {
                offset: 0,
                len: bytes,
            },
            Protection::ReadWrite,
        )?;
        Ok(Self {
            range,
            len,
            items: PhantomData,
        })
    }
}

impl<T: Zeroable> AsRef<[T]> for Table<T> {
    fn as_ref(&self) -> &[T] {
        let first = self.range.base().cast::<T>();
        // SAFETY: the range is `len` items of zero memory, which are valid items as `Zeroable`
        // promises; nobody else has the range; it lives as long as `self`; changes go through
        // the items' own interior mutability.
        unsafe { core::slice::from_raw_parts(first, self.len) }
    }
}

/// Memory that can be mapped at several addresses.
#[derive(Debug)]
pub(crate) struct MemFile {
    fd: OwnedFd,
}

impl MemFile {
    /// A zero file of exactly `len` bytes, for ever: it is sealed, so that no truncation can
    /// turn an access into a SIGBUS.
    pub(crate) fn create(len: u64) -> Result<Self, OsError> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(c"harena", flags | MemfdFlags::NOEXEC_SEAL)
            // Kernels before 6.3 do not know the flag.
            .or_else(|_| rustix::fs::memfd_create(c"harena", flags))
            .map_err(|error| os_error("memfd_create", size, error))?;
        // Beyond this limit the call would raise SIGXFSZ, which ends the process.
        if rustix::process::getrlimit(Resource::Fsize)
            .current
            .is_some_and(|limit| len > limit)
        {
            return Err(os_error("ftruncate", size, rustix::io::Errno::FBIG));
        }
        rustix::fs::ftruncate(&fd, len).map_err(|error| os_error("ftruncate", size, error))?;
        rustix::fs::fcntl_add_seals(&fd, SIZE_SEALS | SealFlags::SEAL)
            .map_err(|error| os_error("fcntl", size, error))?;
        Ok(Self { fd })
    }

    /// Bytes of memory that the file holds.
    pub(crate) fn resident(&self) -> Result<u64, OsError> {
        const BLOCK: u64 = 512;
        let stat = rustix::fs::fstat(&self.fd).map_err(|error| os_error("fstat", 0, error))?;
        Ok(u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(BLOCK))
    }

    /// A file of the one page that stands in for all empty ones.
    pub(crate) fn create_scratch() -> Result<Self, OsError> {
        Self::create(PAGE_SIZE)
    }

    /// Takes over a file that another process made, if it is one of `len` bytes for ever.
    pub(crate) fn adopt(fd: OwnedFd, len: u64) -> Result<Self, OsError> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let seals = rustix::fs::fcntl_get_seals(&fd);
        let seals = seals.map_err(|error| os_error("fcntl", size, error))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| os_error("fstat", size, error))?;
        if !seals.contains(SIZE_SEALS) || u64::try_from(stat.st_size) != Ok(len) {
            return Err(OsError {
                call: "size check",
                len: size,
                errno: libc::EINVAL,
            });
        }
        Ok(Self { fd })
    }

    /// Puts pages where the file has none; what is there stays.
    pub(crate) fn populate(&self, offset: u64, len: u64) -> Result<(), OsError> {
        self.allocate(FallocateFlags::KEEP_SIZE, offset, len)
    }

    /// Gives the memory of a part back; it reads as zeroes afterwards.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<(), OsError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, offset, len)
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), OsError> {
        loop {
            match rustix::fs::fallocate(self.fd.as_fd(), flags, offset, len) {
                Ok(()) => return Ok(()),
                // What was done stays done, so this ends.
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let len = usize::try_from(len).unwrap_or(usize::MAX);
                    return Err(os_error("fallocate", len, error));
                }
            }
        }
    }
}

impl AsFd for MemFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the system backs memory files with more than the page that was asked for, found
/// out by asking for one.
pub(crate) fn files_have_huge_pages() -> Result<bool, OsError> {
    /// Two of the largest that there are on x86-64 and, with pages of 4 KiB, on aarch64.
    const LEN: u64 = 4 << 20;
    let file = MemFile::create(LEN)?;
    file.populate(0, PAGE_SIZE)?;
    Ok(file.resident()? > PAGE_SIZE)
}

/// The file keeps its size.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn prot_flags(prot: Protection) -> ProtFlags {
    match prot {
        Protection::None => ProtFlags::empty(),
        Protection::ReadOnly => ProtFlags::READ,
        Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    }
}

pub(super) fn os_error(call: &'static str, len: usize, error: rustix::io::Errno) -> OsError {
    OsError {
        call,
        len,
        errno: error.raw_os_error(),
    }
}
