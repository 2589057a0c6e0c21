//! Faults on threads of every kind and in every state: foreign, without a signal stack, on a
//! fiber, at the end of the stack, interrupted by somebody else's handler.

use core::ffi::{c_int, c_void};
use core::{mem, ptr};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use harena_arena::{AltStack, Arena};

use crate::children::{self, DONE, Level, UsedUp, WRONG, assert_exit, child, exit, null, peek};
use crate::common::{arena, offset, scope};

/// Faults, and finds in `errno` what was there before.
fn keeps_errno(arena: &Arena) {
    let _scope = scope(arena);
    // SAFETY: the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { errno.write(77) };
    arena.ptr::<u8>(offset(5, 0)).write(1);
    // SAFETY: as above.
    assert_eq!(unsafe { errno.read() }, 77);
}

child!(child_errno_of_a_failing_call, {
    let arena = arena(600);
    let _used_up = UsedUp::to(Level::Split);
    keeps_errno(&arena);
    assert_eq!(arena.faults_recovered_short(), 1, "a call had failed");
    exit(DONE);
});

#[test]
fn recovery_leaves_errno_alone_whether_its_calls_succeed_or_fail() {
    keeps_errno(&arena(600));
    assert_exit("threads::child_errno_of_a_failing_call", DONE);
}

#[test]
fn a_thread_gets_a_big_alternate_stack_and_its_own_one_back() {
    let current = || {
        let stack = alt_stack();
        (stack.ss_sp.addr(), stack.ss_size)
    };
    let before = current();
    let stack = AltStack::for_this_thread().expect("memory is there");
    assert!(current().1 >= 64 * 1024);
    let nested = AltStack::for_this_thread().expect("memory is there");
    let arena = arena(4);
    let host = scope(&arena);
    arena.ptr::<u8>(offset(1, 0)).write(1);
    drop(host);
    drop(nested);
    assert!(current().1 >= 64 * 1024, "the nested one had nothing to do");
    drop(stack);
    assert_eq!(current(), before);
    // Guards may go in any order: the last one takes the stack away.
    let first = AltStack::for_this_thread().expect("memory is there");
    let second = AltStack::for_this_thread().expect("memory is there");
    drop(first);
    assert!(current().1 >= 64 * 1024, "the second one keeps it");
    drop(second);
    assert_eq!(current(), before);
}

fn alt_stack() -> libc::stack_t {
    // SAFETY: plain data, for which zero is a valid value.
    let mut stack: libc::stack_t = unsafe { mem::zeroed() };
    // SAFETY: a null first argument only asks.
    unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
    stack
}

fn set_alt_stack(base: *mut c_void, len: usize, flags: c_int) -> bool {
    let stack = libc::stack_t {
        ss_sp: base,
        ss_flags: flags,
        ss_size: len,
    };
    // SAFETY: the memory, if any, outlives the thread that calls this.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0 }
}

fn without_alt_stack() {
    assert!(set_alt_stack(ptr::null_mut(), 0, libc::SS_DISABLE));
}

/// Memory between two pages that nobody can touch.
fn guarded_memory(len: usize) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let size = len + 2 * 4096;
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    let base = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    let middle = base.wrapping_byte_add(4096);
    // SAFETY: inside the mapping just made.
    let done = unsafe { libc::mprotect(middle, len, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(done, 0);
    middle
}

/// One fault in the arena that must be recovered.
fn fault_once(arena: &Arena, at: u32) {
    let _scope = scope(arena);
    let before = arena.faults_recovered();
    let word = arena.ptr::<u64>(offset(at, 0));
    word.write(7);
    assert_eq!(word.read(), 7);
    assert_eq!(arena.faults_recovered(), before + 1);
}

// ---- foreign threads -----------------------------------------------------------------------

/// Runs `body` on a thread that only the C library knows of.
fn on_foreign_thread(arena: &Arena, body: extern "C" fn(*mut c_void) -> *mut c_void) {
    let argument = ptr::from_ref(arena).cast_mut().cast();
    let mut thread = mem::MaybeUninit::uninit();
    // SAFETY: the arena outlives the thread, which is joined below.
    let made = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), body, argument) };
    assert_eq!(made, 0);
    // SAFETY: the call above succeeded.
    let thread = unsafe { thread.assume_init() };
    let mut result = ptr::null_mut();
    // SAFETY: the thread was just made, and nobody else joins it.
    let joined = unsafe { libc::pthread_join(thread, &raw mut result) };
    assert_eq!((joined, result.addr()), (0, 1));
}

/// The argument of the bodies below.
fn arena_of<'a>(argument: *mut c_void) -> &'a Arena {
    // SAFETY: what `on_foreign_thread` passed, alive until it has joined the thread.
    unsafe { &*argument.cast::<Arena>() }
}

const FINE: *mut c_void = ptr::without_provenance_mut(1);

extern "C" fn no_alt_stack(argument: *mut c_void) -> *mut c_void {
    without_alt_stack();
    fault_once(arena_of(argument), 1);
    FINE
}

/// Too small for a signal frame with wide vector registers: a kernel refuses it, or (older ones)
/// kills the process at the first signal. With [`AltStack`] neither matters.
extern "C" fn tiny_alt_stack(argument: *mut c_void) -> *mut c_void {
    let tiny = guarded_memory(4096);
    without_alt_stack();
    let accepted = set_alt_stack(tiny, 2048, 0);
    let before = alt_stack().ss_sp;
    let big = AltStack::for_this_thread().expect("memory is there");
    fault_once(arena_of(argument), 2);
    drop(big);
    assert_eq!(alt_stack().ss_sp == tiny, accepted);
    assert_eq!(alt_stack().ss_sp, before);
    FINE
}

#[test]
fn foreign_threads_recover_without_and_with_a_tiny_signal_stack() {
    let arena = arena(4);
    on_foreign_thread(&arena, no_alt_stack);
    on_foreign_thread(&arena, tiny_alt_stack);
}

child!(child_tiny_alt_stack, {
    let arena = arena(4);
    without_alt_stack();
    if !set_alt_stack(guarded_memory(4096), 2048, 0) {
        // Refused: signals go to the thread's own stack.
        assert_eq!(alt_stack().ss_flags, libc::SS_DISABLE);
    }
    fault_once(&arena, 1);
    exit(DONE);
});

#[test]
fn a_tiny_signal_stack_alone_ends_in_recovery_or_in_a_clean_crash() {
    use std::os::unix::process::ExitStatusExt;
    let (status, shown) = children::run("threads::child_tiny_alt_stack");
    let clean = status.code() == Some(DONE) || status.signal() == Some(libc::SIGSEGV);
    assert!(clean, "{status}\n{shown}");
}

// ---- fibers --------------------------------------------------------------------------------

static FIBER_ARENA: AtomicPtr<Arena> = AtomicPtr::new(ptr::null_mut());
static FIBER_RAN: AtomicU32 = AtomicU32::new(0);

extern "C" fn fiber() {
    let arena = arena_of(FIBER_ARENA.load(Ordering::Relaxed).cast());
    let runs = FIBER_RAN.fetch_add(1, Ordering::Relaxed);
    fault_once(arena, 1 + runs);
}

/// Runs `fiber` on a stack of its own, and returns.
fn run_fiber() {
    const STACK: usize = 64 * 1024;
    let mut here = mem::MaybeUninit::<libc::ucontext_t>::uninit();
    let mut there = mem::MaybeUninit::<libc::ucontext_t>::uninit();
    // SAFETY: valid for a write.
    assert_eq!(unsafe { libc::getcontext(there.as_mut_ptr()) }, 0);
    // SAFETY: the call above has filled it.
    let there = unsafe { there.assume_init_mut() };
    there.uc_stack.ss_sp = guarded_memory(STACK);
    there.uc_stack.ss_size = STACK;
    there.uc_link = here.as_mut_ptr();
    // SAFETY: the context has a stack, and goes back to `here`.
    unsafe { libc::makecontext(there, fiber, 0) };
    // SAFETY: both contexts live on this frame, which waits.
    let done = unsafe { libc::swapcontext(here.as_mut_ptr(), there) };
    assert_eq!(done, 0);
}

#[test]
fn a_fault_on_a_fiber_is_recovered_with_and_without_a_signal_stack() {
    let arena = arena(4);
    FIBER_ARENA.store(ptr::from_ref(&arena).cast_mut(), Ordering::Relaxed);
    std::thread::scope(|threads| {
        let with = threads.spawn(run_fiber).join();
        let without = threads.spawn(|| {
            without_alt_stack();
            run_fiber();
        });
        assert!(with.is_ok() && without.join().is_ok());
    });
    assert_eq!(FIBER_RAN.load(Ordering::Relaxed), 2);
}

// ---- the end of the stack ------------------------------------------------------------------

/// Touches the arena at every depth, until the stack ends.
#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(arena: &Arena, depth: u32) -> u64 {
    let filler = std::hint::black_box([u64::from(depth); 64]);
    let word = arena.ptr::<u64>(offset(depth % 600, 0));
    word.write(filler[0]);
    overflow(arena, depth + 1) + std::hint::black_box(filler)[1]
}

child!(child_overflow, {
    let arena = arena(600);
    let _big = AltStack::for_this_thread().expect("memory is there");
    let _scope = scope(&arena);
    overflow(&arena, 0);
});

child!(child_overflow_without_alt_stack, {
    let arena = arena(600);
    without_alt_stack();
    let _scope = scope(&arena);
    overflow(&arena, 0);
});

#[test]
fn a_stack_overflow_is_reported_as_such_or_crashes() {
    use std::os::unix::process::ExitStatusExt;
    let (status, shown) = children::run("threads::child_overflow");
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{shown}");
    assert!(shown.contains("has overflowed its stack"), "{shown}");
    children::assert_segv("threads::child_overflow_without_alt_stack");
}

// ---- other signals -------------------------------------------------------------------------

static INTERRUPTED_ARENA: AtomicPtr<Arena> = AtomicPtr::new(ptr::null_mut());
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
/// Faults of the interrupted thread before an access that is under way; [`BETWEEN`] if none is.
static FAULTS_BEFORE: AtomicU64 = AtomicU64::new(BETWEEN);
const BETWEEN: u64 = u64::MAX;
/// Interrupts that came while a fault was being recovered: our handler blocks signals, so they
/// wait, and come before the instruction is tried again.
static IN_RECOVERY: AtomicU32 = AtomicU32::new(0);

/// Another party's handler, which touches the arena itself. The interrupted thread runs a
/// program.
extern "C" fn touches_the_arena(_signal: c_int) {
    let arena = arena_of(INTERRUPTED_ARENA.load(Ordering::Relaxed).cast());
    let before = FAULTS_BEFORE.load(Ordering::Relaxed);
    if before != BETWEEN && arena.faults_recovered() > before {
        IN_RECOVERY.fetch_add(1, Ordering::Relaxed);
    }
    let at = 1 + INTERRUPTS.fetch_add(1, Ordering::Relaxed) % 599;
    let word = arena.ptr::<u64>(offset(at, 0));
    word.write(word.read() + 1);
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
fn on_signal(signal: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: plain integers, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler makes async-signal-safe calls only.
    let done = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(done, 0);
}

child!(child_interrupted, {
    const INTERRUPTS_MIN: u32 = 2_000;
    const IN_RECOVERY_MIN: u32 = 100;
    let arena = arena(600);
    INTERRUPTED_ARENA.store(ptr::from_ref(&arena).cast_mut(), Ordering::Relaxed);
    on_signal(libc::SIGUSR1, touches_the_arena);
    // Opened before: who opens a region must not be interrupted by such a handler.
    arena.alloc_pages(None, 1, 0).expect("it is free");
    arena
        .alloc_pages(Some(crate::common::user(599)), 1, 0)
        .expect("too");
    // To the very end: a signal may come late.
    let _scope = scope(&arena);
    let stop = AtomicBool::new(false);
    // SAFETY: the function has no preconditions.
    let victim = unsafe { libc::pthread_self() };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let enough = || {
                INTERRUPTS.load(Ordering::Relaxed) >= INTERRUPTS_MIN
                    && IN_RECOVERY.load(Ordering::Relaxed) >= IN_RECOVERY_MIN
            };
            while !enough() {
                // SAFETY: the victim waits for this thread at the end of the scope.
                let sent = unsafe { libc::pthread_kill(victim, libc::SIGUSR1) };
                if sent != 0 {
                    exit(WRONG);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut at = 0;
        while !stop.load(Ordering::Relaxed) {
            at = at % 598 + 1;
            FAULTS_BEFORE.store(arena.faults_recovered(), Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            arena.ptr::<u64>(offset(at, 2048)).write(u64::MAX);
            compiler_fence(Ordering::SeqCst);
            FAULTS_BEFORE.store(BETWEEN, Ordering::Relaxed);
        }
    });
    assert!(arena.faults_recovered() > 600);
    exit(DONE);
});

#[test]
fn handlers_of_others_may_touch_the_arena_and_interrupt_recovery() {
    assert_exit("threads::child_interrupted", DONE);
}

child!(child_null_in_anothers_handler, {
    extern "C" fn bad(_signal: c_int) {
        peek(null());
    }
    let arena = arena(4);
    let _scope = scope(&arena);
    on_signal(libc::SIGALRM, bad);
    // SAFETY: `raise` has no preconditions.
    unsafe { libc::raise(libc::SIGALRM) };
});

#[test]
fn a_bug_in_anothers_handler_crashes() {
    children::assert_segv("threads::child_null_in_anothers_handler");
}
