//! What a fault is, decided before anything is done about it.
//!
//! | asked, in this order | answer |
//! |---|---|
//! | does a file lack the page (`SIGBUS`), in a view of another process? | remote touch |
//! | did the kernel raise it for a missing page (`SIGSEGV`)? | else forward |
//! | which program runs on this thread, innermost first? with an arena? | |
//! | is the pc in compiled code, and the address in reach of that code or of that arena's pointers? | program |
//! | is the address in that arena's window or upper half guard? | recover |
//! | is it in the view that a user of this process has of an arena? | user touch |
//! | none of these | forward |
//!
//! Whether the exception table of that code (`extable.rs`) really names the pc is for the
//! handler to see: only it may follow the pointer to the table. If not, it forwards.

use harena_abi::Cpu;

use crate::geometry::{HALF_GUARD, WINDOW_SIZE, WindowPage};
use crate::registry::{Pin, Registry, ViewOf};
use crate::report::{Access, ProgramTag};
use crate::sync::{AtomicU64, AtomicUsize, Ordering, const_unless_loom, fence};
use crate::thread::{Record, ThreadKey};

/// Faults in a row on mapped pages before one is taken for a real crash. Such faults are
/// rare races; a page that stays out of reach must not loop for ever.
pub(crate) const SPURIOUS_MAX: u32 = 1 << 16;

/// A fault, as the signal frame describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address that was touched.
    pub address: usize,
    /// The instruction that did it.
    pub pc: usize,
    /// How it was touched.
    pub cause: Cause,
}

/// How a fault came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A load or store met a page that is not there, or not accessible.
    Data(Access),
    /// A load or store met a mapping whose file has no page there (`SIGBUS`).
    NoFilePage,
    /// Anything else: an instruction fetch, a protection key, a signal that was sent.
    Other,
}

/// What to do about a fault.
#[derive(Debug)]
pub enum Action<'a> {
    /// Not ours: the previous action decides.
    Forward,
    /// An instruction of compiled code touched its program's arena, or what else it reaches.
    Program(ProgramFault<'a>),
    /// Host code under a program touched its arena's window.
    Recover(HostFault<'a>),
    /// A user's touch of the page at this offset of its view.
    UserTouch {
        /// Keeps the arena alive.
        arena: Pin<'a>,
        /// Bytes from `user_vm_start`.
        offset: usize,
    },
    /// A touch of the page at this offset of a view of another process's arena: that process
    /// decides.
    RemoteTouch {
        /// Keeps the view alive.
        view: Pin<'a>,
        /// Bytes from `user_vm_start`.
        offset: usize,
    },
}

/// A fault of a program's own instruction.
#[derive(Debug)]
pub struct ProgramFault<'a> {
    /// Keeps the code's exception table alive; its payload leads there.
    pub code: Pin<'a>,
    /// Bytes from the start of the code to the instruction.
    pub pc: usize,
}

/// A fault of host code, with all that its report needs.
#[derive(Debug)]
pub struct HostFault<'a> {
    /// Keeps the arena alive.
    pub arena: Pin<'a>,
    /// The page that was touched.
    pub page: WindowPage,
    /// How it was touched.
    pub access: Access,
    /// The innermost program on this thread.
    pub program: ProgramTag,
    /// The CPU that it runs on.
    pub cpu: Cpu,
    record: &'a Record,
}

impl HostFault<'_> {
    /// Notes that the page was mapped all the time; false if that happened too often in a
    /// row to be the race that it usually is.
    #[must_use]
    pub fn spurious(&self) -> bool {
        self.record.count_spurious(self.page) < SPURIOUS_MAX
    }

    /// Notes that the fault found something to do.
    pub fn progressed(&self) {
        self.record.clear_spurious();
    }
}

/// Decides what to do about `fault` on the thread `key`.
#[must_use]
pub fn classify(registry: &Registry, key: ThreadKey, fault: Fault) -> Action<'_> {
    match fault.cause {
        Cause::Data(access) => data_fault(registry, key, fault, access),
        Cause::NoFilePage => remote_touch(registry, fault.address),
        Cause::Other => Action::Forward,
    }
}

fn data_fault(registry: &Registry, key: ThreadKey, fault: Fault, access: Access) -> Action<'_> {
    if let Some(record) = registry.threads.find(key) {
        if let Some(program) = program_fault(registry, record, fault) {
            return Action::Program(program);
        }
        if let Some(host) = host_fault(registry, record, fault.address, access) {
            return Action::Recover(host);
        }
    }
    user_touch(registry, fault.address)
}

fn user_touch(registry: &Registry, address: usize) -> Action<'_> {
    match registry.pin_user_view(address, ViewOf::OwnArena) {
        Some((arena, offset)) => Action::UserTouch { arena, offset },
        None => Action::Forward,
    }
}

fn remote_touch(registry: &Registry, address: usize) -> Action<'_> {
    match registry.pin_user_view(address, ViewOf::OtherProcess) {
        Some((view, offset)) => Action::RemoteTouch { view, offset },
        None => Action::Forward,
    }
}

/// Bytes that one access may have, which begins at the last byte an arena pointer reaches.
const ACCESS_MAX: u64 = 8;

fn program_fault<'a>(
    registry: &'a Registry,
    record: &Record,
    fault: Fault,
) -> Option<ProgramFault<'a>> {
    let (code, pc) = registry.pin_code(fault.pc)?;
    let running = record.innermost()?;
    let reached = code.reaches(fault.address)
        || running
            .arena
            .and_then(|arena| registry.pin(arena))
            .is_some_and(|arena| in_reach(&arena, fault.address));
    reached.then_some(ProgramFault { code, pc })
}

/// Whether pointers into an arena lead to an address: its window and its guards.
fn in_reach(arena: &Pin<'_>, address: usize) -> bool {
    // A 32-bit pointer and a 16-bit offset reach as far as the guards.
    let reach = WINDOW_SIZE
        .saturating_add(2 * HALF_GUARD)
        .saturating_add(ACCESS_MAX);
    usize::try_from(HALF_GUARD)
        .ok()
        .and_then(|lowest| address.checked_add(lowest))
        .and_then(|address| arena.host_offset(address))
        .is_some_and(|offset| offset < reach)
}

fn host_fault<'a>(
    registry: &'a Registry,
    record: &'a Record,
    address: usize,
    access: Access,
) -> Option<HostFault<'a>> {
    let running = record.innermost()?;
    let arena = registry.pin(running.arena?)?;
    let page = WindowPage::of_byte(arena.host_offset(address)?)?;
    let (program, cpu) = (running.program, running.cpu);
    Some(HostFault {
        arena,
        page,
        access,
        program,
        cpu,
        record,
    })
}

/// The signal action that was installed before ours, in words that a handler can read.
///
/// Two copies, so that a reader that interrupts the writer finds one that is whole: version `n`
/// is copy `n % 2`, and `n + 1` is written to the other.
#[derive(Debug)]
pub struct SavedAction {
    /// 0: nothing saved. 1: being changed. 2: saved and installed.
    phase: AtomicUsize,
    version: AtomicUsize,
    copies: [SavedWords; 2],
    /// The version whose handler was a one-shot one and has been called.
    spent: AtomicUsize,
}

#[derive(Debug)]
struct SavedWords {
    handler: AtomicUsize,
    flags: AtomicU64,
    mask: AtomicU64,
}

/// Which of the actions that were saved an action is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedVersion(usize);

/// A signal action in plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActionWords {
    /// `SIG_DFL`, `SIG_IGN` or a function's address.
    pub handler: usize,
    /// The `SA_*` flags.
    pub flags: u64,
    /// Signals to block while it runs.
    pub mask: u64,
}

impl SavedWords {
    const_unless_loom! {
        fn new() -> Self {
            Self {
                handler: AtomicUsize::new(0),
                flags: AtomicU64::new(0),
                mask: AtomicU64::new(0),
            }
        }
    }
}

impl SavedAction {
    const_unless_loom! {
        /// Nothing is saved.
        #[must_use]
        pub fn new() -> Self {
            Self {
                phase: AtomicUsize::new(0),
                version: AtomicUsize::new(0),
                copies: [SavedWords::new(), SavedWords::new()],
                // No version is this one.
                spent: AtomicUsize::new(usize::MAX),
            }
        }
    }

    /// Begins to install or remove the handler: whether it is installed now, or `None` while
    /// another thread is at it.
    #[must_use]
    pub fn begin_change(&self) -> Option<bool> {
        [(0, false), (2, true)]
            .into_iter()
            .find_map(|(phase, installed)| {
                // Acquire: pairs with the Release in `end_change`.
                self.phase
                    .compare_exchange(phase, 1, Ordering::Acquire, Ordering::Relaxed)
                    .ok()?;
                Some(installed)
            })
    }

    /// Ends what `begin_change` began.
    pub fn end_change(&self, installed: bool) {
        // Release: pairs with the Acquire in `begin_change`.
        self.phase
            .store(if installed { 2 } else { 0 }, Ordering::Release);
    }

    /// Saves an action. Only between `begin_change` and `end_change`.
    pub fn save(&self, words: ActionWords) {
        let version = self.version.load(Ordering::Relaxed).wrapping_add(1);
        let [even, odd] = &self.copies;
        let copy = if version.is_multiple_of(2) { even } else { odd };
        // Release: a reader that sees one of these words sees the version before this one, at
        // least; pairs with the fence in `load`.
        copy.handler.store(words.handler, Ordering::Release);
        copy.flags.store(words.flags, Ordering::Release);
        copy.mask.store(words.mask, Ordering::Release);
        // Release: publishes the words; pairs with the Acquire in `load`.
        self.version.store(version, Ordering::Release);
    }

    /// The saved action. Waits for nobody: it looks again only if another one was saved
    /// meanwhile.
    #[must_use]
    pub fn load(&self) -> (ActionWords, SavedVersion) {
        loop {
            // Acquire: pairs with the Release in `save`.
            let version = self.version.load(Ordering::Acquire);
            let [even, odd] = &self.copies;
            let copy = if version.is_multiple_of(2) { even } else { odd };
            let words = ActionWords {
                handler: copy.handler.load(Ordering::Relaxed),
                flags: copy.flags.load(Ordering::Relaxed),
                mask: copy.mask.load(Ordering::Relaxed),
            };
            // Acquire: a word of a later version makes the look below see that there is one.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return (words, SavedVersion(version));
            }
        }
    }

    /// Takes the one call of a one-shot handler; false if it was taken before.
    #[must_use]
    pub fn spend(&self, version: SavedVersion) -> bool {
        // Relaxed: one winner is all that is asked for.
        self.spent.swap(version.0, Ordering::Relaxed) != version.0
    }

    /// Whether the one call of a one-shot handler is over.
    #[must_use]
    pub fn is_spent(&self, version: SavedVersion) -> bool {
        self.spent.load(Ordering::Relaxed) == version.0
    }
}

#[cfg(not(loom))]
impl Default for SavedAction {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use core::num::NonZeroUsize;

    use super::*;
    use crate::thread::Running;

    #[test]
    fn a_saved_action_comes_back_whole_and_its_one_shot_is_taken_once() {
        let saved = SavedAction::new();
        let words = |handler| ActionWords {
            handler,
            flags: handler as u64 + 1,
            mask: handler as u64 + 2,
        };
        for handler in [0x1000, 0x2000, 0x3000] {
            saved.save(words(handler));
            let (loaded, version) = saved.load();
            assert_eq!(loaded, words(handler));
            assert!(!saved.is_spent(version));
            assert!(saved.spend(version));
            assert!(!saved.spend(version));
            assert!(saved.is_spent(version));
        }
    }

    const HOST: usize = 0x100_0000;
    const LOCAL_VIEW: usize = 0x20_0000_0000;
    const REMOTE_VIEW: usize = 0x30_0000_0000;
    const SIZE: usize = 0x4000;

    /// What `classify` says, without the pins.
    #[derive(PartialEq, Eq, Debug)]
    enum Verdict {
        Forward,
        Program(usize),
        Recover(u32),
        User(usize),
        Remote(usize),
    }

    fn verdict(registry: &Registry, address: usize, cause: Cause) -> Verdict {
        let pc = 0;
        match classify(registry, key(), Fault { address, pc, cause }) {
            Action::Forward => Verdict::Forward,
            Action::Program(program) => Verdict::Program(program.pc),
            Action::Recover(host) => Verdict::Recover(host.page.raw()),
            Action::UserTouch { offset, .. } => Verdict::User(offset),
            Action::RemoteTouch { offset, .. } => Verdict::Remote(offset),
        }
    }

    fn key() -> ThreadKey {
        ThreadKey::new(NonZeroUsize::MIN)
    }

    #[test]
    fn each_kind_of_fault_finds_its_own_kind_of_memory() {
        static ALL: Registry = Registry::new();
        let none = core::ptr::null_mut();
        let arena = ALL.publish(HOST, none).expect("slots are free");
        ALL.set_user_view(arena, LOCAL_VIEW, SIZE);
        ALL.publish_view(REMOTE_VIEW, SIZE, none)
            .expect("slots are free");
        let running = Running {
            program: ProgramTag::new(1),
            arena: Some(arena),
            cpu: Cpu::new(0),
        };
        let data = Cause::Data(Access::Read);
        assert_eq!(
            verdict(&ALL, HOST + 0x1008, data),
            Verdict::Forward,
            "no program"
        );
        ALL.enter(key(), running).expect("not too deep");
        assert_eq!(verdict(&ALL, HOST + 0x1008, data), Verdict::Recover(1));
        assert_eq!(verdict(&ALL, LOCAL_VIEW + 8, data), Verdict::User(8));
        assert_eq!(
            verdict(&ALL, REMOTE_VIEW + 8, Cause::NoFilePage),
            Verdict::Remote(8)
        );
        // A page that a file lacks is nobody's but a remote view's, and a page that is not
        // mapped is never a remote view's.
        for address in [
            HOST + 0x1008,
            LOCAL_VIEW + 8,
            REMOTE_VIEW + SIZE,
            REMOTE_VIEW - 1,
            8,
        ] {
            assert_eq!(verdict(&ALL, address, Cause::NoFilePage), Verdict::Forward);
        }
        assert_eq!(verdict(&ALL, REMOTE_VIEW + 8, data), Verdict::Forward);
        for address in [HOST + 0x1008, LOCAL_VIEW + 8, REMOTE_VIEW + 8] {
            assert_eq!(verdict(&ALL, address, Cause::Other), Verdict::Forward);
        }
    }

    #[test]
    fn compiled_code_is_asked_for_first_within_its_reach() {
        static ALL: Registry = Registry::new();
        const CODE: usize = 0x7000_0000;
        let none = core::ptr::null_mut();
        let arena = ALL.publish(HOST, none).expect("slots are free");
        const OWN: usize = 0x7000_0000_0000;
        ALL.publish_code(CODE..CODE + 0x100, OWN..OWN + 0x1000, none)
            .expect("slots are free");
        let running = Running {
            program: ProgramTag::new(1),
            arena: Some(arena),
            cpu: Cpu::new(0),
        };
        let is_program = |address: u64, pc| {
            let address = usize::try_from(address).expect("64 bits");
            let cause = Cause::Data(Access::Write);
            let action = classify(&ALL, key(), Fault { address, pc, cause });
            matches!(action, Action::Program(program) if program.pc == pc - CODE)
        };
        let window = HOST as u64;
        assert!(!is_program(window, CODE + 8), "no program");
        ALL.enter(key(), running).expect("not too deep");
        let end = window + WINDOW_SIZE + HALF_GUARD + 7;
        for address in [window, window - HALF_GUARD, end] {
            assert!(is_program(address, CODE + 0xff), "{address:#x}");
            assert!(!is_program(address, CODE + 0x100), "{address:#x}");
        }
        let own = OWN as u64;
        for address in [own, own + 0xfff] {
            assert!(is_program(address, CODE), "{address:#x}");
        }
        for address in [window - HALF_GUARD - 1, end + 1, 8, own - 1, own + 0x1000] {
            assert!(!is_program(address, CODE), "{address:#x}");
        }
    }
}
