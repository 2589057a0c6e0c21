//! The SIGSEGV handler: read the frame, classify, act or forward.
//!
//! Order matters: `classify` decides with loads of a few atomics; only a fault that is ours
//! goes on to change mappings; all others go to whoever was there before, untouched. While
//! the handler runs, all signals are blocked on its thread: a fault inside it makes the kernel
//! apply the default action instead of entering it again, and another party's handler, which
//! may touch the arena itself, waits.
//!
//! What it never does: allocate, take a lock, touch a lazily set-up thread-local, log, panic.
//!
//! Faults in *system calls* on arena pointers never get here: the kernel returns EFAULT.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use harena_arena_fault::{
    Access, Action, ActionWords, Cause, Fault, HostFault, Pin, REGISTRY, classify,
};

use crate::shared::{Outcome, Shared};
use crate::sys::OsError;
use crate::sys::linux::{chain, thread_key};

/// Page fault error code of x86-64: the access was a write, an instruction fetch.
#[cfg(target_arch = "x86_64")]
const PF_WRITE: i64 = 1 << 1;
#[cfg(target_arch = "x86_64")]
const PF_INSTR: i64 = 1 << 4;

/// Installs the handler unless it is installed.
pub(crate) fn install_handler() -> Result<(), OsError> {
    match begin_change() {
        true => {
            REGISTRY.saved.end_change(true);
            Ok(())
        }
        false => {
            let done = install();
            REGISTRY.saved.end_change(done.is_ok());
            done
        }
    }
}

fn install() -> Result<(), OsError> {
    // Saved before ours goes in: another thread may fault at once.
    REGISTRY.saved.save(current_action()?);
    let action = chain::to_sigaction(ours());
    let mut former = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `on_fault` is an SA_SIGINFO handler that only makes async-signal-safe calls, and
    // code is never unmapped.
    let set = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, former.as_mut_ptr()) };
    if set != 0 {
        return Err(failed("sigaction"));
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let former = unsafe { former.assume_init() };
    REGISTRY.saved.save(chain::from_sigaction(&former));
    Ok(())
}

/// Puts the former action back: true if ours is gone. It stays if another handler was put on
/// top, since that one may forward to it.
pub(crate) fn uninstall_handler() -> Result<bool, OsError> {
    if !begin_change() {
        REGISTRY.saved.end_change(false);
        return Ok(true);
    }
    let done = current_action().and_then(|top| {
        if top.handler != ours().handler {
            return Ok(false);
        }
        let former = chain::to_sigaction(REGISTRY.saved.load());
        // SAFETY: this action was installed before ours, by its owner.
        let set = unsafe { libc::sigaction(libc::SIGSEGV, &raw const former, ptr::null_mut()) };
        if set == 0 {
            Ok(true)
        } else {
            Err(failed("sigaction"))
        }
    });
    REGISTRY.saved.end_change(!matches!(done, Ok(true)));
    done
}

/// Waits for its turn to install or uninstall; whether the handler is installed now.
fn begin_change() -> bool {
    loop {
        if let Some(installed) = REGISTRY.saved.begin_change() {
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

fn current_action() -> Result<ActionWords, OsError> {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null second argument only asks; the third is valid for a write.
    let asked = unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), current.as_mut_ptr()) };
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
        errno: libc::EINVAL,
    }
}

/// The handler itself: all unsafety of the signal frame is shed here.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the address of this thread's errno, valid while the thread runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; the interrupted code must find its errno unchanged.
    let saved_errno = unsafe { errno.read() };
    // SAFETY: the kernel passes a valid frame to an SA_SIGINFO handler.
    let fault = unsafe { read_frame(info, context) };
    let outcome = act(fault);
    // SAFETY: as for the read.
    unsafe { errno.write(saved_errno) };
    match outcome {
        Outcome::Retry => {}
        // SAFETY: the arguments are those that the kernel passed.
        Outcome::Forward => unsafe { chain::forward(signal, info, context) },
    }
}

fn act(fault: Fault) -> Outcome {
    match classify(&REGISTRY, thread_key(), fault) {
        Action::Forward => Outcome::Forward,
        Action::Recover(host) => recover(&host),
        Action::UserTouch { arena, offset } => shared_of(&arena).user_touch(offset),
        // Nobody makes such a view yet.
        Action::RemoteTouch { .. } => Outcome::Forward,
    }
}

fn recover(fault: &HostFault<'_>) -> Outcome {
    shared_of(&fault.arena).recover(fault)
}

fn shared_of<'a>(pin: &'a Pin<'_>) -> &'a Shared {
    // SAFETY: the payload of a published slot is a `Shared` (see `Arena::publish`), which is only
    // freed after `retire`, and `retire` waits for this pin.
    unsafe { &*pin.payload().cast::<Shared>() }
}

/// What the frame says about the fault.
///
/// # Safety
///
/// 1. `info` and `context` are what the kernel passed to an `SA_SIGINFO` handler.
unsafe fn read_frame(info: *mut libc::siginfo_t, context: *mut c_void) -> Fault {
    // SAFETY: valid by the caller's promise.
    let info = unsafe { &*info };
    // SAFETY: for codes that carry no address the field is other plain bytes of the same
    // union, and `cause` then says `Other`.
    let address = unsafe { info.si_addr() }.addr();
    let cause = match info.si_code {
        SEGV_MAPERR | SEGV_ACCERR => {
            // SAFETY: valid by the caller's promise.
            unsafe { access(context.cast::<libc::ucontext_t>()) }
        }
        _ => Cause::Other,
    };
    Fault { address, cause }
}

/// No mapping at the address; and a mapping that forbids the access.
const SEGV_MAPERR: c_int = 1;
const SEGV_ACCERR: c_int = 2;

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
