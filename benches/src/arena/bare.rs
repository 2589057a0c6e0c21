//! The bare loops that recovery is compared with: a memory file, a window, and a signal handler
//! that makes one system call (or two) and returns.
//!
//! One handler serves all mechanisms. What it does and where is in statics, set while no fault
//! is under way; a race runs on one thread.

use core::ffi::{c_int, c_void};
use core::{mem, ptr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::common::PAGE;
use crate::harness::BenchError;

pub(super) const MADV_GUARD_INSTALL: c_int = 102;
pub(super) const MADV_GUARD_REMOVE: c_int = 103;

/// What the handler does with a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Mechanism {
    /// Resumes behind the instruction, which must be that of [`touch_skippable`].
    Skip,
    /// Maps the file's last page over the page.
    MapPage,
    /// The same, and hides the page of `LIVE_MAX` faults ago.
    MapPageHideOldest,
    /// Makes the page readable and writable.
    Protect,
    /// Removes the page's guard marker.
    Unguard,
    /// Fills the page through userfaultfd.
    UffdZero,
    /// Maps the page that the file has already, through userfaultfd.
    UffdContinue,
}

/// Pages that `MapPageHideOldest` keeps mapped, as many as an arena does.
pub(super) const LIVE_MAX: usize = harena_arena::SCRATCH_MAX;

static MECHANISM: AtomicU32 = AtomicU32::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static FILE: AtomicI32 = AtomicI32::new(-1);
static FILE_LAST_PAGE: AtomicU64 = AtomicU64::new(0);
static WINDOW: AtomicUsize = AtomicUsize::new(0);
static LIVE: [AtomicUsize; LIVE_MAX] = [const { AtomicUsize::new(0) }; LIVE_MAX];

/// While it lives, faults go to the bare handler; then to the former one again.
#[derive(Debug)]
pub(super) struct BareHandler {
    former: [(c_int, SavedAction); 2],
}

struct SavedAction(libc::sigaction);

impl core::fmt::Debug for SavedAction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SavedAction(flags {:#x})", self.0.sa_flags)
    }
}

impl BareHandler {
    /// For faults in `window`, by `mechanism`; `fd` is what the mechanism works with.
    #[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
    pub(super) fn install(mechanism: Mechanism, window: &Mapping, fd: &OwnedFd) -> Self {
        // Relaxed throughout: handler and caller are one thread.
        MECHANISM.store(mechanism as u32, Ordering::Relaxed);
        FAULTS.store(0, Ordering::Relaxed);
        FILE.store(fd.as_raw_fd(), Ordering::Relaxed);
        FILE_LAST_PAGE.store((window.len - PAGE) as u64, Ordering::Relaxed);
        WINDOW.store(window.base().expose_provenance(), Ordering::Relaxed);
        for page in &LIVE {
            page.store(0, Ordering::Relaxed);
        }
        let former = [libc::SIGSEGV, libc::SIGBUS].map(|signal| {
            // SAFETY: plain integers, for which zero is a valid value.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: plain integers, as above.
            let mut former: libc::sigaction = unsafe { mem::zeroed() };
            // SAFETY: the handler makes async-signal-safe calls only.
            let done = unsafe { libc::sigaction(signal, &raw const action, &raw mut former) };
            assert_eq!(done, 0, "a valid signal and action");
            (signal, SavedAction(former))
        });
        Self { former }
    }

    /// Faults handled so far.
    pub(super) fn faults(&self) -> u64 {
        FAULTS.load(Ordering::Relaxed)
    }
}

impl Drop for BareHandler {
    fn drop(&mut self) {
        for (signal, former) in &self.former {
            // SAFETY: puts back what was there.
            let done = unsafe { libc::sigaction(*signal, &raw const former.0, ptr::null_mut()) };
            assert_eq!(done, 0, "a valid signal and action");
        }
    }
}

extern "C" fn on_fault(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid frame to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: a fault carries an address.
    let address = unsafe { info.si_addr() }.addr();
    let page = address & !(PAGE - 1);
    let count = FAULTS.fetch_add(1, Ordering::Relaxed);
    let mechanism = MECHANISM.load(Ordering::Relaxed);
    if mechanism == Mechanism::Skip as u32 {
        // SAFETY: as above.
        unsafe { skip(context.cast()) };
    } else if mechanism == Mechanism::MapPage as u32 {
        map_last_page(page);
    } else if mechanism == Mechanism::MapPageHideOldest as u32 {
        map_last_page(page);
        let slot = usize::try_from(count).unwrap_or(0) % LIVE_MAX;
        let oldest = LIVE[slot].swap(page, Ordering::Relaxed);
        if oldest != 0 {
            hide_own_page(oldest);
        }
    } else if mechanism == Mechanism::Protect as u32 {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the page lies in the window, into which no reference exists.
        check(unsafe { libc::mprotect(at(page), PAGE, prot) });
    } else if mechanism == Mechanism::Unguard as u32 {
        // SAFETY: as above.
        check(unsafe { libc::madvise(at(page), PAGE, MADV_GUARD_REMOVE) });
    } else {
        let zero = mechanism == Mechanism::UffdZero as u32;
        check(super::uffd::fill(FILE.load(Ordering::Relaxed), page, zero));
    }
}

fn at(page: usize) -> *mut c_void {
    ptr::with_exposed_provenance_mut(page)
}

/// The fault would come again for ever.
fn check(result: c_int) {
    if result != 0 {
        // SAFETY: async-signal-safe, and ends the process.
        unsafe { libc::abort() }
    }
}

fn map_last_page(page: usize) {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let last = FILE_LAST_PAGE.load(Ordering::Relaxed);
    map_over(page, prot, last);
}

fn hide_own_page(page: usize) {
    let own = (page - WINDOW.load(Ordering::Relaxed)) as u64;
    map_over(page, libc::PROT_NONE, own);
}

fn map_over(page: usize, prot: c_int, offset: u64) {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let offset = libc::off_t::try_from(offset).unwrap_or(0);
    let file = FILE.load(Ordering::Relaxed);
    // SAFETY: the page lies in the window, which is replaced there, and into which no reference
    // exists.
    let mapped = unsafe { libc::mmap(at(page), PAGE, prot, flags, file, offset) };
    check(c_int::from(mapped == libc::MAP_FAILED));
}

/// Moves the interrupted code behind the instruction of [`touch_skippable`].
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "x86_64")]
unsafe fn skip(context: *mut libc::ucontext_t) {
    const RIP: usize = libc::REG_RIP.cast_unsigned() as usize;
    // SAFETY: valid by the caller's promise; the load has two bytes.
    unsafe { (*context).uc_mcontext.gregs[RIP] += 2 };
}

/// As on the other architecture.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "aarch64")]
unsafe fn skip(context: *mut libc::ucontext_t) {
    // SAFETY: valid by the caller's promise; every instruction has four bytes.
    unsafe { (*context).uc_mcontext.pc += 4 };
}

/// Loads from an address with an instruction whose length the handler knows.
pub(super) fn touch_skippable(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: loads into a register that is given up, or faults and is skipped.
    unsafe {
        core::arch::asm!("mov eax, dword ptr [rdi]", in("rdi") address, out("eax") _,
            options(nostack, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("ldr w1, [x0]", in("x0") address, out("w1") _,
            options(nostack, readonly));
    }
}

/// A memory file of `len` bytes.
pub(super) fn memory_file(len: usize) -> Result<OwnedFd, BenchError> {
    let make = || {
        // SAFETY: a valid name; the call makes a new descriptor or fails.
        let fd = unsafe { libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = libc::off_t::try_from(len).unwrap_or(libc::off_t::MAX);
        // SAFETY: changes the length of our own file.
        match unsafe { libc::ftruncate(file.as_raw_fd(), size) } {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    };
    make().map_err(BenchError::setup("a memory file"))
}

/// A range of addresses that is ours.
#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the range is plain addresses; memory inside is only reached through raw pointers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Ordinary memory in pages of the base size.
    pub(super) fn anonymous(len: usize) -> Result<Self, BenchError> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let mapping = Self::map(len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // Refused where there are no huge pages, and then not needed.
        let _refused = mapping.advise(0, len, libc::MADV_NOHUGEPAGE);
        Ok(mapping)
    }

    /// A file from its beginning.
    pub(super) fn of(file: &OwnedFd, len: usize, prot: c_int) -> Result<Self, BenchError> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        Self::map(len, prot, flags, file.as_raw_fd())
    }

    fn map(len: usize, prot: c_int, flags: c_int, file: c_int) -> Result<Self, BenchError> {
        // SAFETY: without MAP_FIXED the kernel picks unused addresses.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, file, 0) };
        if base == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(BenchError::setup("a mapping")(error));
        }
        Ok(Self {
            base: base.cast(),
            len,
        })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    /// The first byte of a page.
    pub(super) fn page(&self, page: usize) -> *mut u8 {
        assert!((page + 1) * PAGE <= self.len, "a page of the mapping");
        self.base.wrapping_add(page * PAGE)
    }

    /// Writes a word at the start of a page; a fault is for the handler.
    pub(super) fn touch(&self, page: usize) {
        let word = self.page(page).cast::<u64>();
        // SAFETY: in the mapping, which lives as long as `self`, and into which no reference
        // exists; a fault is handled, or ends the process.
        unsafe { word.write_volatile(1) }
    }

    /// Maps pages of a file over pages of the mapping: the same ones, as it was at first.
    pub(super) fn replace(&self, page: usize, len: usize, prot: c_int, file: &OwnedFd) {
        assert!(page * PAGE + len <= self.len, "pages of the mapping");
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let offset = libc::off_t::try_from(page * PAGE).unwrap_or(0);
        let place = self.page(page).cast();
        // SAFETY: replaces a part of our own mapping, into which no reference exists.
        let mapped = unsafe { libc::mmap(place, len, prot, flags, file.as_raw_fd(), offset) };
        assert_ne!(mapped, libc::MAP_FAILED, "a part of a mapping is replaced");
    }

    pub(super) fn protect(&self, page: usize, len: usize, prot: c_int) {
        // SAFETY: our own mapping, into which no reference exists.
        let done = unsafe { libc::mprotect(self.page(page).cast(), len, prot) };
        assert_eq!(done, 0, "a mapping is protected");
    }

    /// False if the kernel does not know the advice.
    pub(super) fn advise(&self, page: usize, len: usize, advice: c_int) -> bool {
        assert!(page * PAGE + len <= self.len, "pages of the mapping");
        // SAFETY: our own mapping, into which no reference exists.
        unsafe { libc::madvise(self.page(page).cast(), len, advice) == 0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: as a whole ours; its owner lets go of every pointer into it with `self`.
        let done = unsafe { libc::munmap(self.base.cast(), self.len) };
        debug_assert_eq!(done, 0, "munmap of what mmap gave");
    }
}

/// Gives the memory of a part of a file back.
pub(super) fn punch(file: &OwnedFd, page: usize, len: usize) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let to_offset = |bytes: usize| libc::off_t::try_from(bytes).unwrap_or(0);
    let (offset, len) = (to_offset(page * PAGE), to_offset(len));
    // SAFETY: the file is ours; its mappings read zeroes there from now on.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    assert_eq!(done, 0, "a memory file can be punched");
}
