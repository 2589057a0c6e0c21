//! Other parties' SIGSEGV actions, installed before ours or after it: each fault ends as it
//! would without us, and arena faults are recovered wherever they reach us.
//!
//! [`MATRIX`] is the contract. Each cell is a child process; a cell about a fault that is not
//! ours also runs without any arena, and must end in the same way.
//!
//! Not tested here, since it cannot be had in a test of this crate: the Go runtime (needs
//! `SA_ONSTACK`, which ours sets), `HotSpot` (installs its handler first, or needs its own
//! chaining library), `ASan` (its handler is put in before `main`, so it is the "before" column),
//! rr (records signals as the kernel delivers them).

use core::ffi::{c_int, c_void};
use core::{mem, ptr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;

use crash_handler::{CrashEventResult, CrashHandler, make_crash_event};
use harena_arena::{UninstallError, uninstall_fault_handler};

use crate::children::{self, HANDLED, WRONG, assert_exit, case, child, exit, null, peek};
use crate::common::{arena, offset, scope};

/// Exit codes that tell how far a child came, beside those of all children.
const SURVIVED: i32 = 43;
const RECOVERED: i32 = 46;

/// Who else has an opinion about SIGSEGV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Party {
    /// `SIG_DFL`.
    Nobody,
    /// `SIG_IGN`.
    Ignoring,
    /// A function of one argument. It cannot pass a fault on but by putting the action back that
    /// it found, and returning.
    Plain,
    /// `SA_SIGINFO`; so are the next two. They call the action that they found.
    Info,
    /// `SA_RESETHAND`.
    Once,
    /// `SA_NODEFER`.
    NoDefer,
    /// Rust's own handler, which looks for stack overflows: nobody installs anything.
    RustStd,
    /// The crate `crash-handler`: puts the former actions back and lets the fault happen again.
    CrashHandler,
}

/// Whether the party came before us, and then ends the process (or returns, if it is to run
/// only once), or after us, and then passes every fault on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Before,
    After,
}

/// What happens to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stimulus {
    Null,
    Sent,
    ArenaFault,
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Killed by SIGSEGV.
    Segv,
    /// The party's handler ended it.
    Handled,
    /// It went on.
    Survived,
    /// The arena fault was recovered.
    Recovered,
}

use End::{Handled, Recovered, Segv, Survived};
use Order::{After, Before};
use Party::{CrashHandler as Crate, Ignoring, Info, NoDefer, Nobody, Once, Plain, RustStd};

/// A cell: what the party's handler noted, and the end. The notes are the letter of the
/// handler, `b` if SIGSEGV was blocked in it, `u` if SIGUSR1 was, and the address of a fault
/// at [`null`]. The handler of `Info` wants SIGUSR1 blocked.
type Cell = (&'static str, End);

/// Party, order, null dereference, sent signal, arena fault.
///
/// The standard library's handler is there from the start, so parties that come after us stand
/// on it. It takes a signal that was sent for a fault that will come again, so it swallows it.
#[rustfmt::skip]
const MATRIX: [(Party, Order, [Cell; 3]); 15] = [
    (Nobody,   Before, [("", Segv),          ("", Segv),        ("", Recovered)]),
    (Ignoring, Before, [("", Segv),          ("", Survived),    ("", Recovered)]),
    (Plain,    Before, [("pb", Handled),     ("pb", Handled),   ("", Recovered)]),
    (Info,     Before, [("ibu8", Handled),    ("ibu", Handled),   ("", Recovered)]),
    (Once,     Before, [("ob8", Segv),       ("ob", Survived),  ("", Recovered)]),
    (NoDefer,  Before, [("n8", Handled),     ("n", Handled),    ("", Recovered)]),
    (Crate,    Before, [("cb8", Segv),       ("cb", Survived),  ("", Recovered)]),
    (RustStd,  Before, [("", Segv),          ("", Survived),    ("", Recovered)]),
    // Who does not forward, takes our place.
    (Nobody,   After,  [("", Segv),          ("", Segv),        ("", Segv)]),
    (Ignoring, After,  [("", Segv),          ("", Survived),    ("", Segv)]),
    (Plain,    After,  [("pb", Segv),        ("pb", Survived),  ("pb", Recovered)]),
    (Info,     After,  [("ibu8", Segv),       ("ibu", Survived),  ("ibu", Recovered)]),
    (Once,     After,  [("ob8", Segv),       ("ob", Survived),  ("ob", Recovered)]),
    (NoDefer,  After,  [("n8", Segv),        ("n", Survived),   ("n", Recovered)]),
    (Crate,    After,  [("cb8", Segv),       ("cb", Survived),  ("cb", Recovered)]),
];

const STIMULI: [Stimulus; 3] = [Stimulus::Null, Stimulus::Sent, Stimulus::ArenaFault];

// ---- the parties ---------------------------------------------------------------------------

/// What the party found when it was installed, if it came after us.
static FOUND: OnceLock<libc::sigaction> = OnceLock::new();

fn letter(party: Party) -> &'static str {
    match party {
        Plain => "p",
        Info => "i",
        Once => "o",
        NoDefer => "n",
        Crate => "c",
        Nobody | Ignoring | RustStd => "",
    }
}

/// Writes a note to the standard output, with marks around it.
fn note(party: Party, address: Option<usize>) {
    let mut text = [0; 32];
    let mut rest = &mut text[..];
    let mut add = |part: &str| {
        let (here, behind) = mem::take(&mut rest).split_at_mut(part.len());
        here.copy_from_slice(part.as_bytes());
        rest = behind;
    };
    add("<");
    add(letter(party));
    if is_blocked(libc::SIGSEGV) {
        add("b");
    }
    if is_blocked(libc::SIGUSR1) {
        add("u");
    }
    if address == Some(null().addr()) {
        add("8");
    }
    add(">");
    let len = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    // SAFETY: that many bytes are there; the call is async-signal-safe.
    unsafe { libc::write(1, text.as_ptr().cast(), len) };
}

fn is_blocked(signal: c_int) -> bool {
    // SAFETY: a signal set is plain integers.
    let mut mask: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: with a null set the call only asks.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut mask) };
    // SAFETY: the set was filled above.
    unsafe { libc::sigismember(&raw const mask, signal) == 1 }
}

extern "C" fn plain(signal: c_int) {
    note(Plain, None);
    match FOUND.get() {
        // SAFETY: an action that was in place.
        Some(found) => _ = unsafe { libc::sigaction(signal, found, ptr::null_mut()) },
        None => exit(HANDLED),
    }
}

/// The body of the handlers with three arguments.
fn with_info(party: Party, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's argument, passed on by ours.
    let info_ref = unsafe { &*info };
    let code = info_ref.si_code;
    // SAFETY: for codes that carry no address the field is other plain bytes.
    let address = unsafe { info_ref.si_addr() };
    assert!(!context.is_null());
    note(party, (code > 0).then_some(address.addr()));
    let Some(found) = FOUND.get() else {
        if party == Once {
            return;
        }
        exit(HANDLED)
    };
    assert_ne!(found.sa_flags & libc::SA_SIGINFO, 0);
    let handler = &raw const found.sa_sigaction;
    // SAFETY: ours, or the standard library's: an `SA_SIGINFO` handler.
    let found = unsafe { handler.cast::<InfoHandler>().read() };
    found(signal, info, context);
}

type InfoHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    with_info(Info, signal, info, context);
}

extern "C" fn once(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    with_info(Once, signal, info, context);
}

extern "C" fn no_defer(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    with_info(NoDefer, signal, info, context);
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
fn install(party: Party, order: Order) {
    let (handler, flags) = match party {
        Nobody => (libc::SIG_DFL, 0),
        Ignoring => (libc::SIG_IGN, 0),
        Plain => (plain as *const () as usize, 0),
        Info => (info as *const () as usize, libc::SA_SIGINFO),
        Once => (
            once as *const () as usize,
            libc::SA_SIGINFO | libc::SA_RESETHAND,
        ),
        NoDefer => (
            no_defer as *const () as usize,
            libc::SA_SIGINFO | libc::SA_NODEFER,
        ),
        Crate => return install_crash_handler(),
        RustStd => return,
    };
    // SAFETY: plain integers, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    if party == Info {
        // SAFETY: an all-zero set is an empty one.
        unsafe { libc::sigaddset(&raw mut action.sa_mask, libc::SIGUSR1) };
    }
    // SAFETY: as above.
    let mut found: libc::sigaction = unsafe { mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: a valid action.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, &raw mut found) };
    assert_eq!(done, 0);
    if order == After {
        FOUND.set(found).expect("one party");
    }
}

fn install_crash_handler() {
    // SAFETY: the closure makes async-signal-safe calls only.
    let event = unsafe {
        make_crash_event(|context| {
            let fault = context.siginfo.ssi_code > 0;
            // The crate copies the signal's data bit by bit: the address lies in this field.
            let address = context.siginfo.ssi_uid as usize;
            note(Crate, fault.then_some(address));
            CrashEventResult::Handled(false)
        })
    };
    let _ = mem::ManuallyDrop::new(CrashHandler::attach(event).expect("no other one is attached"));
}

// ---- the cells -----------------------------------------------------------------------------

fn cell_name(party: Party, order: Order, stimulus: Stimulus) -> String {
    format!("{party:?} {order:?} {stimulus:?}")
}

fn all_cells() -> impl Iterator<Item = (Party, Order, Stimulus, Cell)> {
    MATRIX.into_iter().flat_map(|(party, order, cells)| {
        let row = STIMULI.into_iter().zip(cells);
        row.map(move |(stimulus, cell)| (party, order, stimulus, cell))
    })
}

child!(child_cell, {
    let case = case();
    let (party, order, stimulus, _) = all_cells()
        .find(|(party, order, stimulus, _)| case.starts_with(&cell_name(*party, *order, *stimulus)))
        .expect("a cell of the matrix");
    if order == Before {
        install(party, order);
    }
    let arena = case.ends_with("with arena").then(|| arena(4));
    if order == After {
        install(party, order);
    }
    match stimulus {
        Stimulus::Null => _ = peek(null()),
        Stimulus::Sent => {
            // To this thread, which no other can take it from: it acts before the call returns.
            // SAFETY: `raise` has no preconditions.
            let sent = unsafe { libc::raise(libc::SIGSEGV) };
            assert_eq!(sent, 0);
            exit(SURVIVED);
        }
        Stimulus::ArenaFault => {
            let arena = arena.expect("the case says so");
            let _scope = scope(&arena);
            let word = arena.ptr::<u64>(offset(1, 0));
            word.write(7);
            let recovered = word.read() == 7 && arena.faults_recovered() == 1;
            exit(if recovered { RECOVERED } else { WRONG });
        }
    }
});

fn end_of(status: ExitStatus) -> Option<End> {
    match (status.signal(), status.code()) {
        (Some(libc::SIGSEGV), None) => Some(Segv),
        (None, Some(HANDLED)) => Some(Handled),
        (None, Some(SURVIVED)) => Some(Survived),
        (None, Some(RECOVERED)) => Some(Recovered),
        _ => None,
    }
}

/// What the handlers noted: the parts between marks.
fn notes(shown: &str) -> String {
    let parts = shown.split('<').skip(1);
    parts
        .filter_map(|part| Some(part.split_once('>')?.0))
        .collect()
}

fn run(cell: &str, setting: &str) -> (String, Option<End>, String) {
    let case = format!("{cell} {setting}");
    let (status, shown) = children::run_case("chaining::child_cell", &case);
    (
        notes(&shown),
        end_of(status),
        format!("{case}: {status}\n{shown}"),
    )
}

#[test]
fn every_party_sees_what_it_would_see_without_us() {
    for (party, order, stimulus, (noted, end)) in all_cells() {
        let name = cell_name(party, order, stimulus);
        let (notes, with_us, shown) = run(&name, "with arena");
        assert_eq!((notes.as_str(), with_us), (noted, Some(end)), "{shown}");
        if stimulus != Stimulus::ArenaFault {
            let (notes, without_us, shown) = run(&name, "without");
            assert_eq!((notes.as_str(), without_us), (noted, Some(end)), "{shown}");
        }
    }
}

child!(child_uninstall, {
    install(Info, Before);
    let first = arena(4);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::InUse));
    drop(first);
    uninstall_fault_handler().expect("ours is on top");
    uninstall_fault_handler().expect("nothing to do");
    // A later arena installs it anew; another handler on top then keeps it in place.
    drop(arena(4));
    install(Plain, Before);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::NotOnTop));
    peek(null());
});

#[test]
fn the_handler_can_be_removed_if_it_is_on_top() {
    assert_exit("chaining::child_uninstall", HANDLED);
}
