//! Forwarding a fault that is not ours, as if our handler had never been there.
//!
//! | former action | what happens |
//! |---|---|
//! | `SIG_DFL` | put back; the instruction runs again and faults into it, so a core dump shows the true place |
//! | `SIG_IGN`, raised by the kernel | as `SIG_DFL`: the kernel does not let a real fault be ignored |
//! | `SIG_IGN`, sent by a process | ignored |
//! | a function | called with its own arguments, mask, `SA_NODEFER` and `SA_RESETHAND` honoured |

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use harena_arena_fault::{ActionWords, REGISTRY};

/// Signals that a mask word has room for.
const SIGNALS: c_int = 64;

type PlainHandler = extern "C" fn(c_int);
type InfoHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Does what the former action would have done.
///
/// # Safety
///
/// 1. Called from our SIGSEGV handler with the arguments the kernel gave it.
/// 2. The caller holds nothing: a former handler may leave by `longjmp`.
pub(super) unsafe fn forward(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let former = REGISTRY.saved.load();
    // SAFETY: valid by the caller's promise.
    let raised_by_kernel = unsafe { (*info).si_code } > 0;
    match former.handler {
        libc::SIG_DFL => take_default(signal, raised_by_kernel),
        libc::SIG_IGN if raised_by_kernel => take_default(signal, raised_by_kernel),
        libc::SIG_IGN => {}
        _ => {
            // SAFETY: valid by the caller's promise.
            unsafe { call(former, signal, info, context) };
        }
    }
}

/// Puts the default action in place; a real fault then happens again, a sent signal is sent
/// again (it is delivered when this handler returns).
fn take_default(signal: c_int, raised_by_kernel: bool) {
    let default = to_sigaction(ActionWords {
        handler: libc::SIG_DFL,
        flags: 0,
        mask: 0,
    });
    // SAFETY: the default action has no preconditions.
    unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
    if !raised_by_kernel {
        // SAFETY: `raise` is async-signal-safe and has no preconditions.
        unsafe { libc::raise(signal) };
    }
}

/// # Safety
///
/// 1. `former` was saved from a working `sigaction`, its handler being a function.
/// 2. The other arguments are what the kernel gave to our handler.
unsafe fn call(
    former: ActionWords,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let has = |flag: c_int| former.flags & u64::from(flag.cast_unsigned()) != 0;
    if has(libc::SA_RESETHAND) {
        REGISTRY.saved.save(ActionWords {
            handler: libc::SIG_DFL,
            ..former
        });
    }
    // What would be blocked, had the kernel called it: what was blocked at the fault, its mask,
    // and the signal itself unless NODEFER. Ours blocks all signals meanwhile.
    // SAFETY: the kernel's frame (promise 2).
    let mut mask = former.mask | unsafe { blocked_at_fault(context) };
    if !has(libc::SA_NODEFER) {
        mask |= 1u64 << (signal - 1);
    }
    let mask = to_sigset(mask);
    // SAFETY: async-signal-safe; the kernel restores the interrupted mask on return.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) };
    let handler = &raw const former.handler;
    if has(libc::SA_SIGINFO) {
        // SAFETY: with SA_SIGINFO the word is the address of such a function (promise 1).
        let function = unsafe { handler.cast::<InfoHandler>().read() };
        function(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the word is the address of such a function (promise 1).
        let function = unsafe { handler.cast::<PlainHandler>().read() };
        function(signal);
    }
}

/// The signal mask of the interrupted code.
///
/// # Safety
///
/// 1. `context` is what the kernel passed to an `SA_SIGINFO` handler.
unsafe fn blocked_at_fault(context: *const c_void) -> u64 {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: a field of the frame (the caller's promise).
    let mask = unsafe { &raw const (*context).uc_sigmask };
    // SAFETY: as above; the kernel writes 64 bits, fewer than the C library's type has.
    unsafe { mask.cast::<u64>().read() }
}

/// A `sigaction` with these words.
pub(super) fn to_sigaction(words: ActionWords) -> libc::sigaction {
    // SAFETY: `sigaction` is plain integers (and a restorer that the C library fills in), for
    // which zero is a valid value.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = words.handler;
    action.sa_mask = to_sigset(words.mask);
    action.sa_flags = u32::try_from(words.flags).unwrap_or(0).cast_signed();
    action
}

/// The words of a `sigaction`.
pub(super) fn from_sigaction(action: &libc::sigaction) -> ActionWords {
    let mut mask = 0;
    for signal in 1..=SIGNALS {
        // SAFETY: the set comes from the kernel; numbers it does not know give 0 or -1.
        if unsafe { libc::sigismember(&raw const action.sa_mask, signal) } == 1 {
            mask |= 1u64 << (signal - 1);
        }
    }
    ActionWords {
        handler: action.sa_sigaction,
        flags: u64::from(action.sa_flags.cast_unsigned()),
        mask,
    }
}

fn to_sigset(mask: u64) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: valid for a write.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` has initialised it.
    let mut set = unsafe { set.assume_init() };
    for signal in (1..=SIGNALS).filter(|signal| mask & (1u64 << (signal - 1)) != 0) {
        // SAFETY: the set is initialised; a number it does not know is refused.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
