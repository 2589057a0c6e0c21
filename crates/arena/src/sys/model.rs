//! A stand-in without mappings and signals: memory from the allocator, and for each page a
//! note of what a real system would have mapped there.
//!
//! For Miri, for shuttle, and so that the crate builds on other systems. A range is backed by
//! memory in its first megabyte only; a touch further on is out of bounds, which Miri reports.
//! The memory of a file's page lies where the page is first mapped, so that plain pointers find
//! it; scratch has memory of its own. There is one process: views in others are refused.
//!
//! ```text
//!  reserved ──► hidden ──► page          page: it can be touched, and is the file's own
//!                 ▲ ▲ ◄───── │           scratch: it can be touched, and is scratch
//!                 │ └──── scratch ◄── hidden, scratch
//! ```
//!
//! Every other edge is a bug of the caller, and panics: scratch or anything else mapped over a
//! page that can be touched, scratch made a page without being lifted, a page shown that
//! nobody hid, memory given back that can still be reached. Nothing keeps a plain pointer from
//! a hidden page: only [`AddressRange::touch`] faults.

use core::num::NonZeroUsize;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harena_abi::Errno;
use harena_arena_fault::ThreadKey;

#[cfg(not(shuttle))]
use crate::mem::Zeroable;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::{FaultSignal, LetGo, OsError, PAGE, Protection, Span, Uninstalled};

const BACKED_MAX: usize = if cfg!(shuttle) { 1 << 17 } else { 1 << 20 };

/// Reserved addresses, backed at their start.
#[derive(Debug)]
pub(crate) struct AddressRange {
    memory: Arc<Memory>,
    len: usize,
    /// By page number; a page that is missing is reserved. The model's own lock, not shuttle's:
    /// a system call is one step.
    places: Mutex<BTreeMap<usize, Place>>,
    /// Calls so far. Counting them gives shuttle a point to run another thread at.
    calls: AtomicU32,
}

/// What is mapped at a page.
#[derive(Debug, Clone)]
struct Place {
    file: Arc<FileState>,
    page: usize,
    protection: Protection,
    guarded: bool,
}

/// What a page is to who touches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// A fault.
    Hidden,
    /// The scratch file's page.
    Scratch,
    /// A page of the arena's file.
    Page,
}

impl Place {
    fn seen(&self) -> Seen {
        if self.guarded || self.protection == Protection::None {
            Seen::Hidden
        } else if self.is_scratch() {
            Seen::Scratch
        } else {
            Seen::Page
        }
    }

    fn is_scratch(&self) -> bool {
        self.file.is_scratch
    }
}

impl AddressRange {
    pub(crate) fn reserve(len: usize) -> Result<Self, OsError> {
        Ok(Self {
            memory: Arc::new(Memory::new(len)?),
            len,
            places: Mutex::new(BTreeMap::new()),
            calls: AtomicU32::new(0),
        })
    }

    /// A user's view has addresses of its own, which only [`AddressRange::touch`] understands.
    pub(crate) fn reserve_at(_address: usize, len: usize) -> Result<Self, OsError> {
        if cfg!(shuttle) {
            Self::reserve(len)
        } else {
            Err(refused("reserve_at", len))
        }
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.memory.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn map_anonymous(&self, span: Span, _prot: Protection) -> Result<(), OsError> {
        let mut places = self.call(span)?;
        let mut behind = places.split_off(&(span.offset / PAGE));
        places.append(&mut behind.split_off(&((span.offset + span.len) / PAGE)));
        behind
            .values()
            .for_each(|place| place.file.shown(place, -1));
        drop(places);
        self.memory.zero(span);
        Ok(())
    }

    pub(crate) fn map_file(
        &self,
        span: Span,
        file: &MemFile,
        file_offset: u64,
        protection: Protection,
    ) -> Result<(), OsError> {
        let first = usize::try_from(file_offset).map_err(|_too_big| refused("mmap", span.len))?;
        let mut places = self.call(span)?;
        for (number, page) in pages(span).zip(first / PAGE..) {
            let place = Place {
                file: Arc::clone(&file.0),
                page,
                protection,
                guarded: false,
            };
            let was = places.get(&number).map_or(Seen::Hidden, Place::seen);
            assert!(
                was != Seen::Page,
                "page {number}: mapped over by {:?}",
                place.seen()
            );
            assert!(
                place.seen() != Seen::Page,
                "page {number}: mapped and shown at once"
            );
            if !place.is_scratch() {
                file.0.settle_at(page, &self.memory, number);
            }
            places.insert(number, place);
        }
        Ok(())
    }

    pub(crate) fn protect(&self, span: Span, protection: Protection) -> Result<(), OsError> {
        self.change(span, |number, place| {
            let was = place.seen();
            place.protection = protection;
            if has_guard_markers() {
                let exposed = was == Seen::Hidden && place.seen() == Seen::Page;
                assert!(!exposed, "page {number}: shown by opening its region");
            } else {
                assert!(
                    !place.is_scratch(),
                    "page {number}: {protection:?} on {was:?}"
                );
            }
        })
    }

    pub(crate) fn guard(&self, span: Span) -> Result<(), OsError> {
        if !has_guard_markers() {
            return Err(refused("madvise", span.len));
        }
        self.change(span, |_, place| place.guarded = true)
    }

    pub(crate) fn unguard(&self, span: Span) -> Result<(), OsError> {
        if !has_guard_markers() {
            return Err(refused("madvise", span.len));
        }
        self.change(span, |number, place| {
            assert!(place.guarded, "page {number}: shown, but nobody hid it");
            place.guarded = false;
            assert!(
                place.seen() != Seen::Hidden,
                "page {number}: its region is closed"
            );
        })
    }

    pub(crate) fn unlock(&self, span: Span) -> Result<(), OsError> {
        self.check(span)
    }

    pub(crate) fn dont_fork(&self, span: Span) -> Result<(), OsError> {
        self.check(span)
    }

    /// One system call: a step that no other thread sees half done.
    fn call(&self, span: Span) -> Result<MutexGuard<'_, BTreeMap<usize, Place>>, OsError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.check(span)?;
        Ok(unpoisoned(&self.places))
    }

    fn change(&self, span: Span, change: impl Fn(usize, &mut Place)) -> Result<(), OsError> {
        let mut places = self.call(span)?;
        for number in pages(span) {
            let place = places.get_mut(&number);
            let place = place.unwrap_or_else(|| panic!("page {number}: nothing is mapped there"));
            place.file.shown(place, -1);
            change(number, place);
            place.file.shown(place, 1);
        }
        Ok(())
    }

    fn check(&self, span: Span) -> Result<(), OsError> {
        let end = span.offset.checked_add(span.len);
        let inside = end.is_some_and(|end| end <= self.len);
        if span.len == 0 || !inside {
            return Err(refused("range check", span.len));
        }
        Ok(())
    }
}

fn pages(span: Span) -> core::ops::Range<usize> {
    span.offset / PAGE..(span.offset + span.len) / PAGE
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Zeroed memory at the start of a range.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is only reached through raw pointers, like a mapping.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(len: usize) -> Result<Self, OsError> {
        let layout = Layout::from_size_align(len.clamp(PAGE, BACKED_MAX), PAGE);
        let layout = layout.map_err(|_layout| refused("reserve", len))?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Ok(Self { base, layout })
    }

    fn zero(&self, span: Span) {
        let end = (span.offset + span.len).min(self.layout.size());
        if let Some(len) = end.checked_sub(span.offset) {
            let start = self.base.as_ptr().wrapping_add(span.offset);
            // SAFETY: `end` lies in the memory, and no reference into it exists.
            unsafe { start.write_bytes(0, len) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// A table of zeroes.
#[derive(Debug)]
pub(crate) struct Table<T>(Box<[T]>);

/// Enough for what is backed.
#[cfg(shuttle)]
const TABLE_LEN_MAX: usize = 32;

#[cfg(shuttle)]
impl<T: Default> Table<T> {
    /// Shuttle's atomics are more than their bytes, and none too many of them are affordable.
    pub(crate) fn zeroed(len: usize) -> Result<Self, OsError> {
        let items = std::iter::repeat_with(T::default);
        Ok(Self(items.take(len.min(TABLE_LEN_MAX)).collect()))
    }
}

#[cfg(not(shuttle))]
impl<T: Zeroable> Table<T> {
    pub(crate) fn zeroed(len: usize) -> Result<Self, OsError> {
        let items = Box::new_zeroed_slice(len);
        // SAFETY: all-zero bytes are a valid `T`, as `Zeroable` promises.
        Ok(Self(unsafe { items.assume_init() }))
    }
}

impl<T> AsRef<[T]> for Table<T> {
    fn as_ref(&self) -> &[T] {
        &self.0
    }
}

/// A file whose pages lie in the memory of the ranges that map them.
#[derive(Debug)]
pub(crate) struct MemFile(Arc<FileState>);

#[derive(Debug)]
struct FileState {
    /// Whether it is an arena's scratch, of which any page may be mapped anywhere.
    is_scratch: bool,
    #[cfg_attr(
        not(all(test, shuttle)),
        expect(dead_code, reason = "without faults nobody sees scratch")
    )]
    scratch: Memory,
    /// By page number.
    homes: Mutex<BTreeMap<usize, Home>>,
}

/// Where a page of a file lies, and how many places show it.
#[derive(Debug)]
struct Home {
    memory: Arc<Memory>,
    number: usize,
    shown: i32,
}

impl MemFile {
    pub(crate) fn create(_len: u64) -> Result<Self, OsError> {
        Self::new(false)
    }

    pub(crate) fn create_scratch() -> Result<Self, OsError> {
        Self::new(true)
    }

    fn new(is_scratch: bool) -> Result<Self, OsError> {
        Ok(Self(Arc::new(FileState {
            is_scratch,
            scratch: Memory::new(PAGE)?,
            homes: Mutex::new(BTreeMap::new()),
        })))
    }

    pub(crate) fn resident(&self) -> Result<u64, OsError> {
        Ok(0)
    }

    #[cfg(unix)]
    pub(crate) fn populate(&self, _offset: u64, _len: u64) -> Result<(), OsError> {
        Err(refused("fallocate", 0))
    }

    #[cfg(unix)]
    pub(crate) fn adopt(_fd: OwnedFd, _len: u64) -> Result<Self, OsError> {
        Err(refused("memory file", 0))
    }

    /// Gives memory back, which reads as zeroes afterwards. Nobody may be able to reach it.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<(), OsError> {
        let as_usize = |n: u64| usize::try_from(n).map_err(|_too_big| refused("fallocate", 0));
        let (offset, len) = (as_usize(offset)?, as_usize(len)?);
        let homes = unpoisoned(&self.0.homes);
        for page in pages(Span { offset, len }) {
            let home = homes.get(&page);
            let home = home.unwrap_or_else(|| panic!("page {page} of the file was never mapped"));
            assert_eq!(
                home.shown, 0,
                "page {page} of the file is given back, but can be reached"
            );
            let (offset, len) = (home.number * PAGE, PAGE);
            home.memory.zero(Span { offset, len });
        }
        Ok(())
    }
}

impl FileState {
    fn settle_at(&self, page: usize, memory: &Arc<Memory>, number: usize) {
        unpoisoned(&self.homes).entry(page).or_insert_with(|| Home {
            memory: Arc::clone(memory),
            number,
            shown: 0,
        });
    }

    /// Counts a place that begins or ceases to show a page.
    fn shown(&self, place: &Place, by: i32) {
        if place.seen() == Seen::Page
            && let Some(home) = unpoisoned(&self.homes).get_mut(&place.page)
        {
            home.shown += by;
        }
    }
}

/// Never asked for: `files_have_huge_pages` comes first, and refuses.
#[cfg(unix)]
impl AsFd for MemFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("sharing is refused before")
    }
}

#[cfg(unix)]
pub(crate) use links::*;

/// What links between processes need: all of it is refused.
#[cfg(unix)]
mod links {
    use std::os::fd::{BorrowedFd, OwnedFd};

    use super::{AddressRange, refused};
    use crate::sys::OsError;

    pub(crate) const FILES_MAX: usize = 16;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Patience {
        Wait,
        DontWait,
    }

    pub(crate) fn files_have_huge_pages() -> Result<bool, OsError> {
        Err(refused("memory file", 0))
    }

    pub(crate) fn this_process() -> Result<OwnedFd, OsError> {
        Err(refused("pidfd_open", 0))
    }

    pub(crate) fn packet_pair() -> Result<(OwnedFd, OwnedFd), OsError> {
        Err(refused("socketpair", 0))
    }

    pub(crate) fn end(_socket: BorrowedFd<'_>) {}

    pub(crate) fn send(
        _to: BorrowedFd<'_>,
        bytes: &[u8],
        _patience: Patience,
    ) -> Result<(), OsError> {
        Err(refused("send", bytes.len()))
    }

    pub(crate) fn receive(
        _from: BorrowedFd<'_>,
        bytes: &mut [u8],
        _patience: Patience,
    ) -> Result<usize, OsError> {
        Err(refused("recv", bytes.len()))
    }

    pub(crate) fn send_files(
        _to: BorrowedFd<'_>,
        bytes: &[u8],
        _files: &[BorrowedFd<'_>],
    ) -> Result<(), OsError> {
        Err(refused("sendmsg", bytes.len()))
    }

    pub(crate) fn receive_files(
        _from: BorrowedFd<'_>,
        bytes: &mut [u8],
        _files: &mut Vec<OwnedFd>,
    ) -> Result<usize, OsError> {
        Err(refused("recvmsg", bytes.len()))
    }

    pub(crate) fn wait<const N: usize>(_files: [BorrowedFd<'_>; N]) -> Result<[bool; N], OsError> {
        Err(refused("poll", N))
    }

    #[derive(Debug)]
    pub(crate) struct Tokens;

    impl Tokens {
        pub(crate) fn new(_count: u8) -> Result<Self, OsError> {
            Err(refused("pipe2", 0))
        }

        pub(crate) fn take(&self) -> Result<u8, OsError> {
            Err(refused("read", 1))
        }

        pub(crate) fn put_back(&self, _token: u8) -> Result<(), OsError> {
            Err(refused("write", 1))
        }
    }

    #[derive(Debug)]
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new(range: &AddressRange) -> Result<Self, OsError> {
            Err(refused("userfaultfd", range.len()))
        }
    }
}

/// Nothing: there is no limit of mappings.
#[derive(Debug)]
pub(crate) struct SpareMappings;

impl SpareMappings {
    pub(crate) const fn none() -> Self {
        Self
    }

    pub(crate) fn held(&self) -> bool {
        true
    }

    pub(crate) fn hold(&self, _file: &MemFile) -> Result<(), OsError> {
        Ok(())
    }

    pub(crate) fn let_go(&self) -> LetGo {
        LetGo::Done
    }
}

/// Nothing to restore.
#[derive(Debug)]
pub(crate) struct AltStack;

pub(crate) fn on_alt_stack() -> Result<Option<AltStack>, OsError> {
    Ok(None)
}

pub(crate) fn install_handler(_signal: FaultSignal) -> Result<(), OsError> {
    Ok(())
}

pub(crate) fn uninstall_handler(_signal: FaultSignal) -> Result<Uninstalled, OsError> {
    if harena_arena_fault::REGISTRY.any_live() {
        return Ok(Uninstalled::Needed);
    }
    Ok(Uninstalled::Gone)
}

#[cfg(not(shuttle))]
thread_local! {
    /// Its address names the thread; there is no handler that could read it too early.
    static NAME: u8 = const { 0 };
}

#[cfg(not(shuttle))]
pub(crate) fn thread_key() -> ThreadKey {
    let address = NAME.with(|name| core::ptr::from_ref(name).addr());
    ThreadKey::new(NonZeroUsize::new(address).unwrap_or(NonZeroUsize::MAX))
}

/// Shuttle's threads are coroutines of one thread of the system.
#[cfg(shuttle)]
pub(crate) fn thread_key() -> ThreadKey {
    let number: usize = shuttle::current::me().into();
    ThreadKey::new(NonZeroUsize::MIN.saturating_add(number))
}

#[cfg(not(all(test, shuttle)))]
fn has_guard_markers() -> bool {
    true
}

#[cfg(all(test, shuttle))]
use watched::has_guard_markers;
#[cfg(all(test, shuttle))]
pub(crate) use watched::{HAS_GUARD_MARKERS, access};

/// What only shuttle's tests use: faults, and the choice of the scheme.
#[cfg(all(test, shuttle))]
mod watched {
    use core::cell::Cell;

    use harena_arena_fault::{Access, Action, Cause, Fault, REGISTRY, classify};

    use super::{AddressRange, Memory, PAGE, Place, Seen, thread_key, unpoisoned};
    use crate::shared::{Outcome, Shared};

    thread_local! {
        /// Whether this system knows guard markers. All threads of an execution are coroutines
        /// of one thread of the system, so it holds for the execution.
        pub(crate) static HAS_GUARD_MARKERS: Cell<bool> = const { Cell::new(true) };
    }

    pub(super) fn has_guard_markers() -> bool {
        HAS_GUARD_MARKERS.get()
    }

    impl AddressRange {
        /// What a touch of the page at `offset` meets.
        pub(crate) fn seen(&self, offset: usize) -> Seen {
            let places = unpoisoned(&self.places);
            places
                .get(&(offset / PAGE))
                .map_or(Seen::Hidden, Place::seen)
        }

        /// One load or store of a word: `touch` gets the word, unless that faults.
        fn touch<R>(&self, offset: usize, touch: impl FnOnce(&mut u64) -> R) -> Option<R> {
            let places = unpoisoned(&self.places);
            let place = places.get(&(offset / PAGE))?;
            let byte = offset % PAGE;
            match place.seen() {
                Seen::Hidden => None,
                Seen::Scratch => Some(place.file.scratch.word(byte, touch)),
                Seen::Page => {
                    let homes = unpoisoned(&place.file.homes);
                    let home = homes.get(&place.page)?;
                    Some(home.memory.word(home.number * PAGE + byte, touch))
                }
            }
        }
    }

    impl Memory {
        fn word<R>(&self, offset: usize, touch: impl FnOnce(&mut u64) -> R) -> R {
            assert!(
                offset + 8 <= self.layout.size(),
                "{offset:#x} is not backed"
            );
            assert!(offset.is_multiple_of(8), "words are aligned");
            let place = self.base.as_ptr().wrapping_add(offset).cast::<u64>();
            // SAFETY: inside the memory and aligned; it was zeroed and any bytes are a `u64`.
            let mut word = unsafe { place.read_volatile() };
            let result = touch(&mut word);
            // SAFETY: as above, and no reference into the memory exists.
            unsafe { place.write_volatile(word) };
            result
        }
    }

    /// An instruction that touches a word of `range`, again and again until it is through;
    /// `None` if its fault is not ours, which is a SIGSEGV.
    pub(crate) fn access<R>(
        range: &AddressRange,
        (offset, address): (usize, usize),
        access: Access,
        touch: impl Fn(&mut u64) -> R,
    ) -> Option<R> {
        /// More often no schedule lets an instruction fault.
        const FAULTS_MAX: u32 = 10_000;
        for _ in 0..FAULTS_MAX {
            if let Some(result) = range.touch(offset, &touch) {
                return Some(result);
            }
            let cause = Cause::Data(access);
            // Host code: no compiled code is modelled.
            let pc = 0;
            let fault = Fault { address, pc, cause };
            let outcome = match classify(&REGISTRY, thread_key(), fault) {
                Action::Forward | Action::Program(_) => Outcome::Forward,
                Action::Recover(host) => shared(host.arena.payload()).recover(&host),
                Action::UserTouch { arena, offset } => {
                    shared(arena.payload()).user_touch(thread_key(), offset)
                }
                // There is one process.
                Action::RemoteTouch { .. } => Outcome::Forward,
            };
            if outcome == Outcome::Forward {
                return None;
            }
            // It waits for another thread, which PCT does not run of its own accord. Not if the
            // page is there now: more threads than may hold scratch would wait for each other.
            if range.seen(offset) == Seen::Hidden {
                shuttle::thread::yield_now();
            }
        }
        panic!("an instruction at {address:#x} faults for ever");
    }

    fn shared<'a>(payload: *mut ()) -> &'a Shared {
        // SAFETY: the payload of a published slot is a `Shared`, which is only freed after
        // `retire`, and the tests' arenas outlive their threads.
        unsafe { &*payload.cast::<Shared>() }
    }
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
