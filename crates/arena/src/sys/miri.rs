//! A stand-in without mappings and signals: memory from the allocator, no recovery.
//!
//! For Miri, and so that the crate builds on other systems. A range is backed by memory in
//! its first megabyte only; a touch further on is out of bounds, which Miri reports. Nothing
//! can be hidden, so a freed page is zeroed instead: what the next owner sees is the same.
//! There is one view of a page: a user's view is refused.

use core::num::NonZeroUsize;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use harena_abi::Errno;
use harena_arena_fault::ThreadKey;

use crate::mem::Zeroable;
use crate::sys::{OsError, Protection, Span};

const BACKED_MAX: usize = 1 << 20;
const PAGE: usize = 4096;

/// Reserved addresses, backed at their start.
#[derive(Debug)]
pub(crate) struct AddressRange {
    base: NonNull<u8>,
    backing: Layout,
    len: usize,
}

// SAFETY: the memory is only reached through raw pointers, like a mapping.
unsafe impl Send for AddressRange {}
// SAFETY: as above.
unsafe impl Sync for AddressRange {}

impl AddressRange {
    pub(crate) fn reserve(len: usize) -> Result<Self, OsError> {
        let backing = Layout::from_size_align(len.clamp(PAGE, BACKED_MAX), PAGE);
        let backing = backing.map_err(|_layout| refused("reserve", len))?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(backing) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(backing));
        Ok(Self { base, backing, len })
    }

    pub(crate) fn reserve_at(_address: usize, len: usize) -> Result<Self, OsError> {
        Err(refused("reserve_at", len))
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn map_anonymous(&self, span: Span, _prot: Protection) -> Result<(), OsError> {
        self.zero(span)
    }

    pub(crate) fn map_file(
        &self,
        span: Span,
        _file: &MemFile,
        _file_offset: u64,
        _prot: Protection,
    ) -> Result<(), OsError> {
        self.zero(span)
    }

    pub(crate) fn protect(&self, span: Span, _prot: Protection) -> Result<(), OsError> {
        self.check(span)
    }

    pub(crate) fn guard(&self, span: Span) -> Result<(), OsError> {
        self.zero(span)
    }

    pub(crate) fn unguard(&self, span: Span) -> Result<(), OsError> {
        self.check(span)
    }

    pub(crate) fn dont_fork(&self, span: Span) -> Result<(), OsError> {
        self.check(span)
    }

    fn check(&self, span: Span) -> Result<(), OsError> {
        let end = span
            .offset
            .checked_add(span.len)
            .filter(|end| *end <= self.len);
        end.map(drop).ok_or(refused("range check", span.len))
    }

    fn zero(&self, span: Span) -> Result<(), OsError> {
        self.check(span)?;
        let end = (span.offset + span.len).min(self.backing.size());
        if let Some(len) = end.checked_sub(span.offset) {
            let start = self.base.as_ptr().wrapping_add(span.offset);
            // SAFETY: `end` lies in the backing, and no reference into it exists.
            unsafe { start.write_bytes(0, len) };
        }
        Ok(())
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        // SAFETY: allocated in `reserve` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.backing) };
    }
}

/// A table of zeroes.
#[derive(Debug)]
pub(crate) struct Table<T>(Box<[T]>);

impl<T: Zeroable> Table<T> {
    pub(crate) fn zeroed(len: usize) -> Result<Self, OsError> {
        let items = Box::new_zeroed_slice(len);
        // SAFETY: all-zero bytes are a valid `T`, as `Zeroable` promises.
        Ok(Self(unsafe { items.assume_init() }))
    }
}

impl<T: Zeroable> AsRef<[T]> for Table<T> {
    fn as_ref(&self) -> &[T] {
        &self.0
    }
}

/// Nothing: ranges have their own memory.
#[derive(Debug)]
pub(crate) struct MemFile;

impl MemFile {
    pub(crate) fn create(_len: u64) -> Result<Self, OsError> {
        Ok(Self)
    }

    pub(crate) fn resident(&self) -> Result<u64, OsError> {
        Ok(0)
    }

    pub(crate) fn punch(&self, _offset: u64, _len: u64) -> Result<(), OsError> {
        Ok(())
    }
}

/// Nothing to restore.
#[derive(Debug)]
pub(crate) struct AltStack;

pub(crate) fn on_alt_stack() -> Result<Option<AltStack>, OsError> {
    Ok(None)
}

pub(crate) fn install_handler() -> Result<(), OsError> {
    Ok(())
}

pub(crate) fn uninstall_handler() -> Result<bool, OsError> {
    Ok(true)
}

thread_local! {
    /// Its address names the thread; there is no handler that could read it too early.
    static NAME: u8 = const { 0 };
}

pub(crate) fn thread_key() -> ThreadKey {
    let address = NAME.with(|name| core::ptr::from_ref(name).addr());
    ThreadKey::new(NonZeroUsize::new(address).unwrap_or(NonZeroUsize::MAX))
}

pub(crate) fn process_id() -> i32 {
    0
}

fn refused(call: &'static str, len: usize) -> OsError {
    OsError {
        call,
        len,
        errno: Errno::EOPNOTSUPP as i32,
    }
}
