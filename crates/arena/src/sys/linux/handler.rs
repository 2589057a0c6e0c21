//! The handler of SIGSEGV and SIGBUS: read the frame, classify, act or forward.
//!
//! | signal | installed with | of interest |
//! |---|---|---|
//! | SIGSEGV | the first arena | touches of hidden pages of arenas of this process |
//! | SIGBUS | the first view of another process's arena | touches of pages that its file lacks |
//!
//! Order matters: `classify` decides with loads of a few atomics; only a fault that is ours
//! goes on to change mappings; all others go to whoever was there before, untouched. While
//! the handler runs, all signals are blocked on its thread: a fault inside it makes the kernel
//! apply the default action instead of entering it again, and another party's handler, which
//! may touch the arena itself, waits. (A handler that was installed later and calls ours has
//! to see to that itself: see the crate's documentation.)
//!
//! A touch in a view of another process's arena waits for that process, as a page fault waits
//! for a disk. A handler that ran in between could leave by `longjmp` with the answer still to
//! come.
//!
//! What it never does: allocate, take a lock, touch a lazily set-up thread-local, log, panic.
//!
//! Faults in *system calls* on arena pointers never get here: the kernel returns EFAULT.

// As in `harena_arena_fault`: this is the handler, or called by it, and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use harena_arena_fault::{
    Access, Action, ActionWords, Cause, Fault, HostFault, Pin, ProgramFault, REGISTRY, SavedAction,
    ThreadKey, classify,
};

use crate::code::FaultTable;
use crate::remote::{Remote, Touched};
use crate::shared::{Outcome, Shared};
use crate::sys::linux::{chain, last_errno, thread_key};
use crate::sys::{FaultSignal, OsError, Uninstalled};

/// Page fault error code of x86-64: the access was a write, an instruction fetch.
#[cfg(target_arch = "x86_64")]
const PF_WRITE: i64 = 1 << 1;
#[cfg(target_arch = "x86_64")]
const PF_INSTR: i64 = 1 << 4;

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Run the instruction again.
    Retry,
    /// Not ours: the previous action decides.
    Forward,
    /// A SIGSEGV, whatever signal the kernel raised.
    Segv,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Retry => Self::Retry,
            Outcome::Forward => Self::Forward,
        }
    }
}

const fn number(signal: FaultSignal) -> c_int {
    match signal {
        FaultSignal::Segv => libc::SIGSEGV,
        FaultSignal::Bus => libc::SIGBUS,
    }
}

/// Installs the handler for a signal unless it is installed.
pub(crate) fn install_handler(signal: FaultSignal) -> Result<(), OsError> {
    let saved = chain::saved(number(signal));
    match begin_change(saved) {
        true => {
            saved.end_change(true);
            Ok(())
        }
        false => {
            let done = install(number(signal));
            saved.end_change(done.is_ok());
            done
        }
    }
}

fn install(signal: c_int) -> Result<(), OsError> {
    let saved = chain::saved(signal);
    // Saved before ours goes in: another thread may fault at once.
    saved.save(current_action(signal)?);
    let action = chain::to_sigaction(ours());
    let mut former = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `on_fault` is an SA_SIGINFO handler that only makes async-signal-safe calls, and
    // code is never unmapped.
    let set = unsafe { libc::sigaction(signal, &raw const action, former.as_mut_ptr()) };
    if set != 0 {
        return Err(failed("sigaction"));
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let former = unsafe { former.assume_init() };
    saved.save(chain::from_sigaction(&former));
    Ok(())
}

/// Puts the former action back. It stays if another handler was put on top, since that one may
/// forward to it, and if an arena or a view is alive.
pub(crate) fn uninstall_handler(signal: FaultSignal) -> Result<Uninstalled, OsError> {
    let signal = number(signal);
    let saved = chain::saved(signal);
    if !begin_change(saved) {
        saved.end_change(false);
        return Ok(Uninstalled::Gone);
    }
    // Asked after `begin_change`: an arena is published before its handler is installed. So it
    // either installed before this, and is seen here, or it will install after this.
    if REGISTRY.any_live() {
        saved.end_change(true);
        return Ok(Uninstalled::Needed);
    }
    let done = current_action(signal).and_then(|top| {
        if top.handler != ours().handler {
            return Ok(Uninstalled::NotOnTop);
        }
        let former = chain::to_sigaction(chain::remaining_action(saved));
        // SAFETY: this action was installed before ours, by its owner.
        let set = unsafe { libc::sigaction(signal, &raw const former, ptr::null_mut()) };
        if set == 0 {
            Ok(Uninstalled::Gone)
        } else {
            Err(failed("sigaction"))
        }
    });
    saved.end_change(!matches!(done, Ok(Uninstalled::Gone)));
    done
}

/// Waits for its turn to install or uninstall; whether the handler is installed now.
fn begin_change(saved: &SavedAction) -> bool {
    loop {
        if let Some(installed) = saved.begin_change() {
            return installed;
        }
        // Another thread is between two system calls.
        std::thread::yield_now();
    }
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
fn ours() -> ActionWords {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    ActionWords {
        handler: handler as usize,
        flags: u64::from(flags.cast_unsigned()),
        // All: a handler of others must not run in the midst of ours, where a fault of its own
        // would find SIGSEGV blocked.
        mask: u64::MAX,
    }
}

fn current_action(signal: c_int) -> Result<ActionWords, OsError> {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null second argument only asks; the third is valid for a write.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) };
    if asked != 0 {
        return Err(failed("sigaction"));
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let current = unsafe { current.assume_init() };
    Ok(chain::from_sigaction(&current))
}

fn failed(call: &'static str) -> OsError {
    OsError {
        call,
        len: 0,
        errno: last_errno(),
    }
}

/// The handler itself: all unsafety of the signal frame is shed here.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the address of this thread's errno, valid while the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; the interrupted code must find its errno unchanged.
    let saved_errno = unsafe { errno.read() };
    // SAFETY: the kernel passes a valid frame to an SA_SIGINFO handler.
    let fault = unsafe { read_frame(signal, info, context) };
    let key = thread_key();
    let verdict = match classify(&REGISTRY, key, fault) {
        // SAFETY: `context` is what the kernel passed.
        Action::Program(program) => unsafe { resume_program(&program, fault.pc, context) },
        action @ (Action::Forward
        | Action::Recover(_)
        | Action::UserTouch { .. }
        | Action::RemoteTouch { .. }) => act(key, action),
    };
    // SAFETY: as for the read.
    unsafe { errno.write(saved_errno) };
    match verdict {
        Verdict::Retry => {}
        // SAFETY: the arguments are those that the kernel passed.
        Verdict::Forward => unsafe { chain::forward(signal, info, context) },
        // SAFETY: as above.
        Verdict::Segv => unsafe { become_segv(signal, info, context) },
    }
}

fn act(key: ThreadKey, action: Action<'_>) -> Verdict {
    match action {
        Action::Forward | Action::Program(_) => Verdict::Forward,
        Action::Recover(host) => recover(&host).into(),
        Action::UserTouch { arena, offset } => shared_of(&arena).user_touch(key, offset).into(),
        Action::RemoteTouch { view, offset } => {
            // A handler that forwards to ours may have left signals open. One that came while
            // this waits could leave by `longjmp`.
            chain::block_all();
            match remote_of(&view).touch(offset) {
                Touched::Again => Verdict::Retry,
                Touched::Segv => Verdict::Segv,
                Touched::NoOwner => Verdict::Forward,
            }
        }
    }
}

/// Makes a program go on where its code's exception table says, if the table names the very
/// instruction that faulted.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
unsafe fn resume_program(fault: &ProgramFault<'_>, pc: usize, context: *mut c_void) -> Verdict {
    // SAFETY: the payload of published code is a `FaultTable` (see `CompiledCode::register`),
    // which is only freed after `retire_code`, and that waits for this pin.
    let table = unsafe { &*fault.code.payload().cast::<FaultTable>() };
    let found = u32::try_from(fault.pc)
        .ok()
        .and_then(|offset| table.find(offset));
    let Some(entry) = found else {
        return Verdict::Forward;
    };
    let start = pc.wrapping_sub(fault.pc);
    let resume = start.wrapping_add(entry.resume_pc as usize);
    // SAFETY: valid by the caller's promise.
    unsafe { set_pc(context.cast::<libc::ucontext_t>(), resume) };
    Verdict::Retry
}

fn recover(fault: &HostFault<'_>) -> Outcome {
    shared_of(&fault.arena).recover(fault)
}

fn shared_of<'a>(pin: &'a Pin<'_>) -> &'a Shared {
    // SAFETY: the payload of a published slot is a `Shared` (see `Arena::create_in`), which is only
    // freed after `retire`, and `retire` waits for this pin.
    unsafe { &*pin.payload().cast::<Shared>() }
}

fn remote_of<'a>(pin: &'a Pin<'_>) -> &'a Remote {
    // SAFETY: the payload of a slot that `publish_view` filled is a `Remote` (see
    // `UserView::attach`), which is only freed after `retire`, and `retire` waits for this pin.
    unsafe { &*pin.payload().cast::<Remote>() }
}

/// Raises a SIGSEGV at the interrupted instruction, with the address that it touched: what the
/// kernel would do about a user's touch of a page that an arena refuses. It comes when the
/// handler returns, before the instruction runs again. As the kernel does for real faults, it
/// ends the process where the signal is blocked or ignored.
///
/// # Safety
///
/// 1. The arguments are what the kernel passed to our handler.
unsafe fn become_segv(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: valid by the caller's promise, plain integers.
    let mut segv = unsafe { info.read() };
    segv.si_signo = libc::SIGSEGV;
    segv.si_code = SEGV_ACCERR;
    // SAFETY: the caller's promise 1.
    let mask = unsafe { chain::interrupted_mask(context) };
    // SAFETY: the word lies in the frame.
    let blocked = unsafe { mask.read() };
    let is_blocked = blocked & chain::mask_of(libc::SIGSEGV) != 0;
    let is_ignored = current_action(libc::SIGSEGV).is_ok_and(|now| now.handler == libc::SIG_IGN);
    if is_blocked || is_ignored {
        chain::set_default(libc::SIGSEGV);
        // SAFETY: as for the read; the kernel takes the mask from here on return.
        unsafe { mask.write(blocked & !chain::mask_of(libc::SIGSEGV)) };
    }
    // It must not come before the handler returns, which a handler that forwards to ours may
    // not have seen to.
    chain::block_all();
    // SAFETY: the structure outlives the call.
    if !unsafe { chain::queue_again(libc::SIGSEGV, &raw const segv) } {
        // SAFETY: the caller's promise 1.
        unsafe { chain::forward(signal, info, context) };
    }
}

/// What the frame says about the fault.
///
/// # Safety
///
/// 1. `info` and `context` are what the kernel passed to an `SA_SIGINFO` handler.
unsafe fn read_frame(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) -> Fault {
    // SAFETY: valid by the caller's promise.
    let info = unsafe { &*info };
    // SAFETY: for codes that carry no address the field is other plain bytes of the same
    // union, and `cause` then says `Other`.
    let address = unsafe { info.si_addr() }.addr();
    let cause = match (signal, info.si_code) {
        (libc::SIGBUS, BUS_ADRERR) => Cause::NoFilePage,
        (libc::SIGSEGV, SEGV_MAPERR | SEGV_ACCERR) => {
            // SAFETY: valid by the caller's promise.
            unsafe { access(context.cast::<libc::ucontext_t>()) }
        }
        _ => Cause::Other,
    };
    // SAFETY: valid by the caller's promise.
    let pc = unsafe { pc(context.cast::<libc::ucontext_t>()) };
    Fault { address, pc, cause }
}

/// The instruction that a frame was interrupted at.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "x86_64")]
unsafe fn pc(context: *const libc::ucontext_t) -> usize {
    const RIP: usize = libc::REG_RIP.cast_unsigned() as usize;
    // SAFETY: valid by the caller's promise.
    let rip = unsafe { (*context).uc_mcontext.gregs[RIP] };
    usize::from_ne_bytes(rip.to_ne_bytes())
}

/// Makes the interrupted code go on elsewhere.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
/// 2. The interrupted code expects to go on at `pc`.
#[cfg(target_arch = "x86_64")]
unsafe fn set_pc(context: *mut libc::ucontext_t, pc: usize) {
    const RIP: usize = libc::REG_RIP.cast_unsigned() as usize;
    // SAFETY: valid by the caller's promise.
    unsafe { (*context).uc_mcontext.gregs[RIP] = i64::from_ne_bytes(pc.to_ne_bytes()) };
}

/// The instruction that a frame was interrupted at.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "aarch64")]
unsafe fn pc(context: *const libc::ucontext_t) -> usize {
    // SAFETY: valid by the caller's promise.
    let pc = unsafe { (*context).uc_mcontext.pc };
    usize::from_ne_bytes(pc.to_ne_bytes())
}

/// Makes the interrupted code go on elsewhere.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
/// 2. The interrupted code expects to go on at `pc`.
#[cfg(target_arch = "aarch64")]
unsafe fn set_pc(context: *mut libc::ucontext_t, pc: usize) {
    // SAFETY: valid by the caller's promise.
    unsafe { (*context).uc_mcontext.pc = u64::from_ne_bytes(pc.to_ne_bytes()) };
}

/// No mapping at the address; and a mapping that forbids the access.
const SEGV_MAPERR: c_int = 1;
const SEGV_ACCERR: c_int = 2;
/// The file behind a mapping has no page there.
const BUS_ADRERR: c_int = 2;

/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "x86_64")]
unsafe fn access(context: *const libc::ucontext_t) -> Cause {
    const ERR: usize = libc::REG_ERR.cast_unsigned() as usize;
    // SAFETY: valid by the caller's promise; the kernel stores the page fault's error code.
    let error = unsafe { (*context).uc_mcontext.gregs[ERR] };
    if error & PF_INSTR != 0 {
        Cause::Other
    } else if error & PF_WRITE != 0 {
        Cause::Data(Access::Write)
    } else {
        Cause::Data(Access::Read)
    }
}

/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
#[cfg(target_arch = "aarch64")]
unsafe fn access(context: *const libc::ucontext_t) -> Cause {
    /// The record of `struct esr_context`: magic, size, then the syndrome register.
    const ESR_MAGIC: u32 = 0x4553_5201;
    const RECORDS_SIZE: usize = 4096;
    const CLASS_DATA_ABORT_EL0: u64 = 0x24;
    const WRITE_NOT_READ: u64 = 1 << 6;
    // SAFETY: valid by the caller's promise.
    let mcontext = unsafe { &raw const (*context).uc_mcontext };
    // The records follow the fixed part, at the structure's own alignment of 16.
    let fixed = size_of::<libc::mcontext_t>() - RECORDS_SIZE;
    let records = mcontext.cast::<u8>().wrapping_add(fixed);
    let mut offset = 0;
    while offset + 16 <= RECORDS_SIZE {
        let record = records.wrapping_add(offset);
        // SAFETY: inside the 4 KiB of records that every frame has.
        let magic = unsafe { record.cast::<u32>().read() };
        // SAFETY: as above.
        let size = unsafe { record.wrapping_add(4).cast::<u32>().read() } as usize;
        if magic == ESR_MAGIC {
            // SAFETY: as above; the record is 16 bytes long.
            let esr = unsafe { record.wrapping_add(8).cast::<u64>().read() };
            return match (esr >> 26 == CLASS_DATA_ABORT_EL0, esr & WRITE_NOT_READ != 0) {
                (true, true) => Cause::Data(Access::Write),
                (true, false) => Cause::Data(Access::Read),
                (false, _) => Cause::Other,
            };
        }
        if magic == 0 || size == 0 {
            break;
        }
        offset += size;
    }
    Cause::Other
}
