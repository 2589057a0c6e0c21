//! Which program runs on which thread, innermost first.
//!
//! The fault handler asks this before anything else, so it must be readable at any
//! instruction of any thread: no lock, no allocation, and no thread-local variable (in a
//! library that is loaded late, the first access to one may allocate). A thread is
//! known by its [`ThreadKey`], which the caller derives from the thread pointer. A record
//! is claimed by a thread's outermost program and given back when that ends, so keys of
//! dead threads do not pile up.
//!
//! Only the owner of a record writes it, and only the owner (perhaps from its own signal
//! handler) reads it; the key is the only word that several threads race for. A handler that
//! interrupts `enter` or `leave` must do neither itself.

use core::num::NonZeroUsize;

use harena_abi::Cpu;

use crate::geometry::WindowPage;
use crate::registry::ArenaId;
use crate::report::ProgramTag;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Threads that may run programs at the same time.
pub const THREADS_MAX: usize = if cfg!(shuttle) { 16 } else { 256 };
/// Programs that may be nested on one thread.
pub const DEPTH_MAX: usize = if cfg!(shuttle) { 4 } else { 16 };

/// A number that no other living thread has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadKey(NonZeroUsize);

impl ThreadKey {
    /// Wraps a number that is unique among living threads.
    #[must_use]
    pub const fn new(raw: NonZeroUsize) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> usize {
        self.0.get()
    }

    /// A number below `places`, which is a power of two above 1. Multiplicative hashing: thread
    /// pointers differ in their middle bits.
    pub(crate) const fn hash(self, places: usize) -> usize {
        const GOLDEN: usize = usize::MAX / 1000 * 618;
        let shift = usize::BITS.saturating_sub(places.trailing_zeros());
        self.raw().wrapping_mul(GOLDEN | 1).wrapping_shr(shift)
    }
}

/// A program that runs on a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    /// What the program's owner calls it; reports carry the tag.
    pub program: ProgramTag,
    /// The arena that the program uses.
    pub arena: Option<ArenaId>,
    /// The CPU that it runs on.
    pub cpu: Cpu,
}

/// Why a program could not be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnterError {
    /// [`THREADS_MAX`] other threads run programs.
    TooManyThreads,
    /// [`DEPTH_MAX`] programs run on this thread.
    TooDeep,
}

/// Where a program stands: the record, the frame in it, and which use of the frame it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Depth {
    record: u16,
    frame: u32,
    stamp: u32,
}

#[derive(Debug)]
pub(crate) struct ThreadTable {
    records: [Record; THREADS_MAX],
}

#[derive(Debug)]
pub(crate) struct Record {
    key: AtomicUsize,
    depth: AtomicU32,
    /// Programs entered so far; wraps.
    entered: AtomicU32,
    /// Faults in a row that found their page mapped already, and that page's number.
    spurious: AtomicU32,
    spurious_page: AtomicU32,
    frames: [Frame; DEPTH_MAX],
}

#[derive(Debug)]
struct Frame {
    arena: AtomicU64,
    program: AtomicU32,
    cpu: AtomicU32,
    /// Of the program that stands here; 0 if it has ended before one that stands above it.
    stamp: AtomicU32,
}

impl ThreadTable {
    #[cfg(not(loom))]
    #[expect(clippy::large_stack_frames, reason = "only evaluated for a static")]
    pub(crate) const fn new() -> Self {
        Self {
            records: [const { Record::new() }; THREADS_MAX],
        }
    }

    /// Pushes a program on the first record, in the thread's probe order, that is its own or
    /// free. So of two records of one thread (another thread may have given one back that lies
    /// nearer) the newer one is found first, as it must be.
    #[inline]
    pub(crate) fn enter(&self, key: ThreadKey, running: Running) -> Result<Depth, EnterError> {
        let (number, record) = self
            .from(key)
            .find(|(_, record)| record.is_of(key) || record.claim(key))
            .ok_or(EnterError::TooManyThreads)?;
        let (frame, stamp) = record.push(running)?;
        Ok(Depth {
            record: number,
            frame,
            stamp,
        })
    }

    #[inline]
    pub(crate) fn leave(&self, key: ThreadKey, depth: Depth) {
        let record = self.records.get(usize::from(depth.record));
        if let Some(record) = record.filter(|record| record.is_of(key)) {
            record.end(depth.frame, depth.stamp);
        }
    }

    /// The record of the innermost program of a thread, if it runs one.
    pub(crate) fn find(&self, key: ThreadKey) -> Option<&Record> {
        self.from(key)
            .map(|(_, record)| record)
            .find(|record| record.is_of(key))
    }

    /// All records with their numbers, beginning where this key would like to be.
    fn from(&self, key: ThreadKey) -> impl Iterator<Item = (u16, &Record)> {
        const RECORDS: u16 = 1 << THREADS_MAX.trailing_zeros();
        const _: () = assert!(RECORDS as usize == THREADS_MAX);
        let home = u16::try_from(key.hash(THREADS_MAX)).unwrap_or(0);
        let order = (home..RECORDS).chain(0..home);
        order.filter_map(|number| Some((number, self.records.get(usize::from(number))?)))
    }
}

impl Record {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            key: AtomicUsize::new(0),
            depth: AtomicU32::new(0),
            entered: AtomicU32::new(0),
            spurious: AtomicU32::new(0),
            spurious_page: AtomicU32::new(0),
            frames: [const { Frame::new() }; DEPTH_MAX],
        }
    }

    fn is_of(&self, key: ThreadKey) -> bool {
        // Relaxed: a thread finds its own key, which it wrote itself.
        self.key.load(Ordering::Relaxed) == key.raw()
    }

    fn claim(&self, key: ThreadKey) -> bool {
        // Looked at first: a failing exchange would take the line from its owner.
        // Acquire: pairs with the Release of the thread that gave the record back.
        self.key.load(Ordering::Relaxed) == 0
            && self
                .key
                .compare_exchange(0, key.raw(), Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    #[inline]
    fn push(&self, running: Running) -> Result<(u32, u32), EnterError> {
        let depth = self.depth.load(Ordering::Relaxed);
        let index = usize::try_from(depth).unwrap_or(DEPTH_MAX);
        let frame = self.frames.get(index).ok_or(EnterError::TooDeep)?;
        let arena = running.arena.map_or(0, ArenaId::raw);
        frame.arena.store(arena, Ordering::Relaxed);
        frame
            .program
            .store(running.program.raw(), Ordering::Relaxed);
        frame.cpu.store(running.cpu.raw(), Ordering::Relaxed);
        // Relaxed: only this thread writes and reads it. Never 0.
        let stamp = self.entered.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.entered.store(stamp, Ordering::Relaxed);
        frame.stamp.store(stamp, Ordering::Relaxed);
        // Release: a handler on this thread that sees the depth sees the frame; pairs with
        // the Acquire in `innermost`.
        self.depth.store(depth.saturating_add(1), Ordering::Release);
        Ok((depth, stamp))
    }

    /// Ends one program. What stands above it lives on, and so does its frame meanwhile.
    #[inline]
    fn end(&self, frame: u32, stamp: u32) {
        let at = |index: u32| self.frames.get(usize::try_from(index).ok()?);
        let Some(ended) = at(frame).filter(|f| f.stamp.load(Ordering::Relaxed) == stamp) else {
            return;
        };
        ended.stamp.store(0, Ordering::Relaxed);
        let mut depth = self.depth.load(Ordering::Relaxed);
        while let Some(top) = depth.checked_sub(1) {
            if at(top).is_some_and(|f| f.stamp.load(Ordering::Relaxed) != 0) {
                break;
            }
            depth = top;
        }
        // Release: pairs with the Acquire in `innermost`.
        self.depth.store(depth, Ordering::Release);
        if depth == 0 {
            self.spurious.store(0, Ordering::Relaxed);
            // Release: the record is clean for its next owner; pairs with `claim`.
            self.key.store(0, Ordering::Release);
        }
    }

    /// The program that runs now.
    pub(crate) fn innermost(&self) -> Option<Running> {
        // Acquire: pairs with the Release in `push` (same thread, perhaps in a handler).
        let depth = self.depth.load(Ordering::Acquire);
        let frame = self
            .frames
            .get(usize::try_from(depth.checked_sub(1)?).ok()?)?;
        Some(Running {
            program: ProgramTag::new(frame.program.load(Ordering::Relaxed)),
            arena: ArenaId::from_raw(frame.arena.load(Ordering::Relaxed)),
            cpu: Cpu::new(frame.cpu.load(Ordering::Relaxed)),
        })
    }

    /// Counts a fault on a page that was mapped; gives how many there were in a row. A fault
    /// on another page shows that the thread got on in between.
    pub(crate) fn count_spurious(&self, page: WindowPage) -> u32 {
        // Relaxed: only the record's thread comes here.
        if self.spurious_page.swap(page.raw(), Ordering::Relaxed) != page.raw() {
            self.spurious.store(0, Ordering::Relaxed);
        }
        self.spurious
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    pub(crate) fn clear_spurious(&self) {
        self.spurious.store(0, Ordering::Relaxed);
    }
}

impl Frame {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            arena: AtomicU64::new(0),
            program: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            stamp: AtomicU32::new(0),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    static TABLE: ThreadTable = ThreadTable::new();

    fn key(raw: usize) -> ThreadKey {
        ThreadKey::new(NonZeroUsize::new(raw).expect("not 0"))
    }

    fn running(tag: u32) -> Running {
        Running {
            program: ProgramTag::new(tag),
            arena: None,
            cpu: Cpu::new(3),
        }
    }

    #[test]
    fn the_innermost_program_is_seen_until_the_record_is_given_back() {
        let me = key(0x7000);
        assert!(TABLE.find(me).is_none());
        let outer = TABLE.enter(me, running(1)).unwrap();
        let inner = TABLE.enter(me, running(2)).unwrap();
        assert_eq!(TABLE.find(me).unwrap().innermost(), Some(running(2)));
        TABLE.leave(me, inner);
        assert_eq!(TABLE.find(me).unwrap().innermost(), Some(running(1)));
        TABLE.leave(me, outer);
        assert!(TABLE.find(me).is_none());
    }

    #[test]
    fn programs_that_end_out_of_order_leave_the_others_running() {
        static TABLE: ThreadTable = ThreadTable::new();
        let me = key(0x7000);
        let seen = || TABLE.find(me).and_then(Record::innermost);
        let [first, second, third] = [1, 2, 3].map(|n| TABLE.enter(me, running(n)).unwrap());
        TABLE.leave(me, first);
        assert_eq!(seen(), Some(running(3)));
        TABLE.leave(me, third);
        assert_eq!(seen(), Some(running(2)));
        let fourth = TABLE.enter(me, running(4)).unwrap();
        TABLE.leave(me, third);
        assert_eq!(seen(), Some(running(4)), "its frame is another's now");
        TABLE.leave(me, second);
        assert_eq!(seen(), Some(running(4)));
        TABLE.leave(me, fourth);
        assert_eq!(seen(), None);
    }

    #[test]
    fn only_faults_in_a_row_on_one_page_are_spurious() {
        static TABLE: ThreadTable = ThreadTable::new();
        let me = key(0x7000);
        TABLE.enter(me, running(1)).unwrap();
        let record = TABLE.find(me).unwrap();
        let count = |page| record.count_spurious(WindowPage::new(page).unwrap());
        assert_eq!([count(0), count(0), count(5), count(0)], [1, 2, 1, 1]);
        assert_eq!(count(0), 2);
        record.clear_spurious();
        assert_eq!(count(0), 1);
    }

    #[test]
    fn a_displaced_thread_finds_its_newer_record_first() {
        static SHARED: ThreadTable = ThreadTable::new();
        let home = |key| SHARED.from(key).next().map(|(number, _)| number);
        let first = key(0x1000);
        let mut others = (0x1001..).map(key);
        let second = others.find(|other| home(*other) == home(first)).unwrap();
        let near = SHARED.enter(first, running(1)).unwrap();
        let outer = SHARED.enter(second, running(2)).unwrap();
        // The nearer record becomes free, and the second thread's next program takes it.
        SHARED.leave(first, near);
        let inner = SHARED.enter(second, running(3)).unwrap();
        assert_ne!(inner.record, outer.record);
        assert_eq!(SHARED.find(second).unwrap().innermost(), Some(running(3)));
        SHARED.leave(second, inner);
        assert_eq!(SHARED.find(second).unwrap().innermost(), Some(running(2)));
        SHARED.leave(second, outer);
        assert!(SHARED.find(second).is_none());
    }

    #[test]
    fn depth_and_threads_have_limits() {
        static FULL: ThreadTable = ThreadTable::new();
        for n in 1..=THREADS_MAX {
            FULL.enter(key(n * 0x1000), running(0)).unwrap();
        }
        assert_eq!(
            FULL.enter(key(1), running(0)),
            Err(EnterError::TooManyThreads)
        );
        for _ in 1..DEPTH_MAX {
            FULL.enter(key(0x1000), running(0)).unwrap();
        }
        assert_eq!(
            FULL.enter(key(0x1000), running(0)),
            Err(EnterError::TooDeep)
        );
    }
}
