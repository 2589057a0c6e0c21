//! Forwarding a fault that is not ours, as if our handler had never been there.
//!
//! | former action | what happens |
//! |---|---|
//! | `SIG_DFL` | put back, and the signal sent again as it came: a core dump shows the true place |
//! | `SIG_IGN`, raised by the kernel | as `SIG_DFL`: the kernel does not let a real fault be ignored |
//! | `SIG_IGN`, sent by a process | ignored |
//! | a function | called with its own arguments, mask, `SA_NODEFER` and `SA_RESETHAND` honoured |

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

use harena_arena_fault::{ActionWords, REGISTRY, SavedAction};

use crate::sys::linux::process_id;

/// Signals that a mask word has room for.
const SIGNALS: c_int = 64;

type PlainHandler = extern "C" fn(c_int);
type InfoHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Does what the former action would have done.
///
/// # Safety
///
/// 1. Called from our handler of the signal with the arguments the kernel gave it.
/// 2. The caller holds nothing: a former handler may leave by `longjmp`.
pub(super) unsafe fn forward(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let former = former_action(saved(signal));
    // SAFETY: valid by the caller's promise.
    let raised_by_kernel = unsafe { (*info).si_code } > 0;
    match former.handler {
        libc::SIG_IGN if !raised_by_kernel => {}
        // SAFETY: the arguments are the caller's.
        libc::SIG_DFL | libc::SIG_IGN => unsafe { take_default(signal, info) },
        _ => {
            // SAFETY: valid by the caller's promise.
            unsafe { call(former, signal, info, context) };
        }
    }
}

/// The action that was there before ours.
pub(super) fn saved(signal: c_int) -> &'static SavedAction {
    match signal {
        libc::SIGBUS => &REGISTRY.saved_bus,
        _ => &REGISTRY.saved,
    }
}

/// The action that was there before ours; after the one call of a one-shot handler the default.
fn former_action(saved: &SavedAction) -> ActionWords {
    let (former, version) = saved.load();
    if !has_flag(former, libc::SA_RESETHAND) || is_no_function(former) {
        return former;
    }
    if saved.spend(version) {
        former
    } else {
        reset(former)
    }
}

/// What to put back: the action, or what is left of a one-shot one.
pub(super) fn remaining_action(saved: &SavedAction) -> ActionWords {
    let (former, version) = saved.load();
    if saved.is_spent(version) {
        reset(former)
    } else {
        former
    }
}

fn reset(former: ActionWords) -> ActionWords {
    ActionWords {
        handler: libc::SIG_DFL,
        ..former
    }
}

fn is_no_function(former: ActionWords) -> bool {
    matches!(former.handler, libc::SIG_DFL | libc::SIG_IGN)
}

fn has_flag(former: ActionWords, flag: c_int) -> bool {
    former.flags & u64::from(flag.cast_unsigned()) != 0
}

/// Puts the default action in place and queues the signal for this thread once more, as it
/// came. It is delivered when this handler returns, at the instruction that faulted. To let
/// that instruction fault again would not do: if another thread makes the page accessible
/// meanwhile, the process would live on without our handler.
///
/// # Safety
///
/// 1. `info` is what the kernel passed to our handler.
unsafe fn take_default(signal: c_int, info: *mut libc::siginfo_t) {
    set_default(signal);
    // SAFETY: valid by the caller's promise.
    if !unsafe { queue_again(signal, info) } {
        // SAFETY: `raise` is async-signal-safe and has no preconditions.
        unsafe { libc::raise(signal) };
    }
}

/// Queues a signal with this information for this thread; false if the system refuses.
///
/// # Safety
///
/// 1. `info` is valid for a read.
pub(super) unsafe fn queue_again(signal: c_int, info: *const libc::siginfo_t) -> bool {
    let process = process_id();
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let call = libc::SYS_rt_tgsigqueueinfo;
    // SAFETY: reads one `siginfo_t`, which is valid by the caller's promise. A process may queue
    // any signal information for itself.
    let queued = unsafe { libc::syscall(call, process, thread, signal, info) };
    queued == 0
}

/// Puts the default action in place.
pub(super) fn set_default(signal: c_int) {
    let default = to_sigaction(ActionWords {
        handler: libc::SIG_DFL,
        flags: 0,
        mask: 0,
    });
    // SAFETY: the default action has no preconditions.
    unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
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
    let has = |flag| has_flag(former, flag);
    // What would be blocked, had the kernel called it: what was blocked at the fault, its mask,
    // and the signal itself unless NODEFER.
    // SAFETY: what the kernel gave to our handler (promise 2).
    let interrupted = unsafe { interrupted_mask(context) };
    // SAFETY: valid by the same promise; the kernel fills the first word.
    let mut blocked = former.mask | unsafe { interrupted.read() };
    if !has(libc::SA_NODEFER) {
        blocked |= mask_of(signal);
    }
    set_mask(blocked);
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

/// Blocks all signals on this thread until the handler returns.
pub(super) fn block_all() {
    set_mask(u64::MAX);
}

fn set_mask(blocked: u64) {
    let mask = to_sigset(blocked);
    // SAFETY: async-signal-safe; the kernel restores the interrupted mask when the handler that
    // it called returns.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) };
}

/// The word of the frame that holds the mask of the interrupted code, which returning from
/// the handler restores. The kernel fills only this much of the C library's larger set.
///
/// # Safety
///
/// 1. `context` is what the kernel gave to our handler.
pub(super) unsafe fn interrupted_mask(context: *mut c_void) -> *mut u64 {
    // SAFETY: valid by the caller's promise.
    let set = unsafe { &raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask };
    set.cast()
}

/// The mask word with one signal.
pub(super) const fn mask_of(signal: c_int) -> u64 {
    1u64.rotate_left(signal.wrapping_sub(1).cast_unsigned())
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
            mask |= mask_of(signal);
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
    for signal in (1..=SIGNALS).filter(|signal| mask & mask_of(*signal) != 0) {
        // SAFETY: the set is initialised; a number it does not know is refused.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
