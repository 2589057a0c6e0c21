//! Child processes: this binary again, with one ignored test, for what must crash or changes
//! what a process has once (signal actions, limits, system call filters).
//!
//! A body ends by a signal, by an exit code that tells what happened, or by passing. An alarm
//! ends a child that hangs; one that a test does not wait for is [`Running`], and ends with it.

use core::ptr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Exit code of a signal handler that a child has of its own.
pub(crate) const HANDLED: i32 = 42;
/// Exit code of a child that found something amiss and cannot panic.
pub(crate) const WRONG: i32 = 44;
/// Exit code of a child whose body went as it should.
pub(crate) const DONE: i32 = 45;

/// Seconds after which a child is taken to hang.
const ALARM_S: libc::c_uint = 60;

/// Defines the body of a child process as an ignored test.
macro_rules! child {
    ($(#[$doc:meta])* $name:ident, $body:block) => {
        $(#[$doc])*
        #[test]
        #[ignore = "the body of a child process"]
        fn $name() {
            $crate::children::arm_alarm();
            $body
        }
    };
}
pub(crate) use child;

pub(crate) fn arm_alarm() {
    // SAFETY: the function has no preconditions.
    unsafe { libc::alarm(ALARM_S) };
}

/// For a child that becomes another program, which has its own limits.
pub(crate) fn disarm_alarm() {
    // SAFETY: the function has no preconditions.
    unsafe { libc::alarm(0) };
}

/// Starts the child test with this full name.
pub(crate) fn command(name: &str) -> Command {
    let program = std::env::current_exe().expect("this binary has a path");
    let mut command = Command::new(program);
    command.args([
        "--exact",
        name,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Runs the child test with this full name; what it printed, and how it ended.
pub(crate) fn run(name: &str) -> (ExitStatus, String) {
    output(&mut command(name))
}

/// As [`run`], with a case for the child to ask for.
pub(crate) fn run_case(name: &str, case: &str) -> (ExitStatus, String) {
    output(command(name).env("HARENA_CASE", case))
}

fn output(command: &mut Command) -> (ExitStatus, String) {
    let output = command.output().expect("this binary runs");
    let shown = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&shown).into_owned())
}

/// The case that [`run_case`] was given.
#[expect(clippy::disallowed_methods, reason = "the harness takes no arguments")]
pub(crate) fn case() -> String {
    std::env::var("HARENA_CASE").expect("run by run_case")
}

pub(crate) fn assert_signal(name: &str, signal: i32) {
    let (status, shown) = run(name);
    assert_eq!(status.signal(), Some(signal), "{name}: {status}\n{shown}");
}

pub(crate) fn assert_segv(name: &str) {
    assert_signal(name, libc::SIGSEGV);
}

pub(crate) fn assert_exit(name: &str, code: i32) {
    let (status, shown) = run(name);
    assert_eq!(status.code(), Some(code), "{name}: {status}\n{shown}");
}

pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: async-signal-safe, and ends the process.
    unsafe { libc::_exit(code) }
}

/// Forks; the child ends with the code that `body` gives.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child only does what the callers' bodies do: calls on an arena or a view,
    // which allocate nothing and take no lock there, and the exit.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            // A child inherits no alarm.
            arm_alarm();
            exit(body())
        }
        -1 => panic!("no process left"),
        _ => pid,
    }
}

/// Waits for a child made by [`fork`]: its status.
pub(crate) fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the child exists, and the status is valid for a write.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    status
}

/// A process that does not outlive the test that started it.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("this binary runs"))
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is our child")
    }

    /// What it will print, if that was piped.
    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it is our child");
    }

    /// Waits for its end: how it came, and what was printed that nobody has taken.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let mut shown = String::new();
        if let Some(mut stderr) = self.stderr() {
            stderr.read_to_string(&mut shown).expect("text");
        }
        (self.0.wait().expect("it is our child"), shown)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both succeed at once where it has ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn peek(address: *const u8) -> u8 {
    // SAFETY: none is claimed: the callers want the fault.
    unsafe { address.read_volatile() }
}

/// An address at which nothing is.
pub(crate) fn null() -> *const u8 {
    std::hint::black_box(ptr::without_provenance(8))
}

// ---- system calls that fail --------------------------------------------------------------

/// A system call that is to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forbidden {
    /// Its number.
    pub(crate) call: libc::c_long,
    /// Which argument, under a mask, must have which value for it to fail; always, if `None`.
    pub(crate) only: Option<Argument>,
    /// The error number.
    pub(crate) errno: i32,
}

/// An argument of a call, compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    pub(crate) index: u8,
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

/// `madvise(.., MADV_GUARD_INSTALL)` fails as on kernels before 6.13.
pub(crate) const GUARD_MARKERS: Forbidden = Forbidden {
    call: libc::SYS_madvise,
    only: Some(Argument {
        index: 2,
        mask: u32::MAX as u64,
        value: 102,
    }),
    errno: libc::EINVAL,
};

/// Makes a call fail in this thread and what it starts, for good.
pub(crate) fn forbid(what: Forbidden) {
    let rules = what.only.map(|argument| {
        let is = SeccompCmpOp::MaskedEq(argument.mask);
        let condition =
            SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, is, argument.value)
                .expect("an argument that calls have");
        SeccompRule::new(vec![condition]).expect("a condition")
    });
    let filter = SeccompFilter::new(
        [(what.call, rules.into_iter().collect())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(what.errno.cast_unsigned()),
        std::env::consts::ARCH
            .try_into()
            .expect("a known processor"),
    )
    .expect("a filter of one call");
    let program: BpfProgram = filter.try_into().expect("a short filter");
    seccompiler::apply_filter(&program).expect("an unprivileged process may filter itself");
}

// ---- mappings ------------------------------------------------------------------------------

/// How near to `vm.max_map_count` a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// No call may split a mapping.
    Split,
    /// One further: `mmap` always fails, even where it would replace a whole mapping.
    Full,
}

/// All mappings that the kernel allows, until this is dropped.
#[derive(Debug)]
pub(crate) struct UsedUp {
    base: *mut libc::c_void,
}

const PAGE: usize = 4096;
/// Pages to split: some distributions allow a million mappings.
const PAGES: usize = 4_000_000;

impl UsedUp {
    /// Splits anonymous memory until the kernel refuses another mapping.
    pub(crate) fn to(level: Level) -> Self {
        let base = map_one(PAGES * PAGE, libc::PROT_NONE);
        assert_ne!(base, libc::MAP_FAILED);
        let every_other = (0..PAGES)
            .step_by(2)
            .map(|page| base.wrapping_byte_add(page * PAGE));
        let mut refused = every_other.map(|page| {
            // SAFETY: inside the mapping made above.
            unsafe { libc::mprotect(page, PAGE, libc::PROT_READ) }
        });
        assert!(refused.any(|done| done != 0), "the kernel has a limit");
        if level == Level::Full {
            // Neighbours of different protection do not merge. These few are not given back.
            let prots = [libc::PROT_READ, libc::PROT_WRITE].into_iter().cycle();
            let full = prots.map(|prot| map_one(PAGE, prot)).take(16);
            assert!(full.into_iter().any(|made| made == libc::MAP_FAILED));
        }
        Self { base }
    }

    /// Gives twice `pages` mappings back: a page merges with both its neighbours.
    pub(crate) fn give_back(&self, pages: usize) {
        for page in (1..=pages).map(|nth| 2 * nth) {
            let at = self.base.wrapping_byte_add(page * PAGE);
            // SAFETY: inside the mapping that `to` made, where nothing else lies.
            let done = unsafe { libc::mprotect(at, PAGE, libc::PROT_NONE) };
            assert_eq!(done, 0);
        }
    }
}

fn map_one(len: usize, prot: libc::c_int) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) }
}

impl Drop for UsedUp {
    fn drop(&mut self) {
        // SAFETY: made by `to`, and nothing else lies there.
        let done = unsafe { libc::munmap(self.base, PAGES * PAGE) };
        assert_eq!(done, 0);
    }
}
