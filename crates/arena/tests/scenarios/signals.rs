//! What is not ours crashes, or reaches its handler, as if our handler had never been there.
//!
//! Each `child_*` test is the body of a child process and ends by a signal, by an exit code
//! that tells which handler ran, or by passing.

use core::ffi::{c_int, c_void};
use core::{mem, ptr};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_SEGV_ON_FAULT};
use harena_abi::{ArenaOffset, Cpu, KernAddr};
use harena_arena::{
    ARENA_AREA, AllocError, AltStack, Arena, ArenaSpec, EntryState, ProgramScope, ProgramTag,
    Reservation, UninstallError, uninstall_fault_handler,
};

use crate::common::{self, UserMemory, arena, arena_with, offset, scope};

/// Exit codes of the handlers below.
const PLAIN_RAN: i32 = 42;
const INFO_RAN: i32 = 43;
const WRONG: i32 = 44;
const SURVIVED: i32 = 45;

fn child(name: &str) -> ExitStatus {
    let program = std::env::current_exe().expect("this binary has a path");
    let mut command = Command::new(program);
    command.args([
        "--exact",
        &format!("signals::child_{name}"),
        "--ignored",
        "--test-threads=1",
    ]);
    command.output().expect("this binary runs").status
}

fn assert_segv(name: &str) {
    let status = child(name);
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{name}: {status}");
}

fn assert_exit(name: &str, code: i32) {
    let status = child(name);
    assert_eq!(status.code(), Some(code), "{name}: {status}");
}

fn exit(code: i32) -> ! {
    // SAFETY: async-signal-safe, and ends the process.
    unsafe { libc::_exit(code) }
}

fn peek(address: *const u8) -> u8 {
    // SAFETY: none is claimed: the callers want the fault.
    unsafe { address.read_volatile() }
}

fn null() -> *const u8 {
    std::hint::black_box(ptr::without_provenance(8))
}

/// What is there before ours.
#[derive(Clone, Copy)]
enum Former {
    Default,
    Ignored,
    Plain(extern "C" fn(c_int)),
    Info(extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)),
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "sigaction wants the address")]
fn set_action(former: Former, flags: c_int) {
    // SAFETY: plain integers, for which zero is a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = match former {
        Former::Default => (libc::SIG_DFL, flags),
        Former::Ignored => (libc::SIG_IGN, flags),
        Former::Plain(handler) => (handler as usize, flags),
        Former::Info(handler) => (handler as usize, flags | libc::SA_SIGINFO),
    };
    // SAFETY: a valid action; its handlers only exit or return.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn segv_is_blocked() -> bool {
    // SAFETY: a signal set is plain integers.
    let mut mask: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: with a null set the call only asks.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut mask) };
    // SAFETY: the set was filled above.
    unsafe { libc::sigismember(&raw const mask, libc::SIGSEGV) == 1 }
}

extern "C" fn plain(signal: c_int) {
    exit(if signal == libc::SIGSEGV && segv_is_blocked() {
        PLAIN_RAN
    } else {
        WRONG
    })
}

extern "C" fn plain_nodefer(_signal: c_int) {
    exit(if segv_is_blocked() { WRONG } else { PLAIN_RAN })
}

extern "C" fn returns(_signal: c_int) {}

extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's argument, passed on.
    let info = unsafe { &*info };
    // SAFETY: a SIGSEGV carries an address.
    let address = unsafe { info.si_addr() };
    let right = signal == libc::SIGSEGV && address.addr() == 8 && !context.is_null();
    exit(if right { INFO_RAN } else { WRONG })
}

macro_rules! child {
    ($(#[$doc:meta])* $name:ident, $body:block) => {
        $(#[$doc])*
        #[test]
        #[ignore = "the body of a child process"]
        fn $name() $body
    };
}

// ---- faults that are bugs of host code -------------------------------------------------

child!(child_lower_guard, {
    let arena = arena(4);
    let _scope = scope(&arena);
    peek(arena.host_ptr(ArenaOffset::new(0)).wrapping_sub(8));
});

child!(child_behind_upper_guard, {
    // Room behind the arena, lest something else be mapped there.
    let reservation = Arc::new(Reservation::new(2 * ARENA_AREA).expect("addresses are free"));
    let guest = KernAddr::new(0xffff_c900_0000_0000);
    let arena = Arena::create_in(&reservation, 0, guest, &common::spec(4)).expect("a valid arena");
    let _scope = scope(&arena);
    // The last byte of the guard is recovered; one further it is another bug.
    peek(reservation.base().wrapping_add(ARENA_AREA - 1));
    assert_eq!(arena.faults_recovered(), 1);
    peek(reservation.base().wrapping_add(ARENA_AREA));
});

child!(child_no_program, {
    let arena = arena(4);
    drop(scope(&arena));
    peek(arena.host_ptr(offset(1, 0)));
});

child!(child_program_without_arena, {
    let arena = arena(4);
    let _outer = scope(&arena);
    let _inner = ProgramScope::enter(ProgramTag::new(2), None, Cpu::new(0)).expect("not deep");
    peek(arena.host_ptr(offset(1, 0)));
});

child!(child_other_arena, {
    let (arena, other) = (arena(4), arena(4));
    let _scope = scope(&arena);
    peek(other.host_ptr(offset(1, 0)));
});

child!(child_call_into_arena, {
    let arena = arena(4);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    let _scope = scope(&arena);
    let target = arena.host_ptr(offset(0, 0));
    // SAFETY: none is claimed: arena memory is not executable, and the jump must crash.
    let function = unsafe { (&raw const target).cast::<extern "C" fn()>().read() };
    function();
});

#[test]
fn what_is_not_an_arena_fault_crashes() {
    for name in [
        "lower_guard",
        "behind_upper_guard",
        "no_program",
        "program_without_arena",
        "other_arena",
        "call_into_arena",
    ] {
        assert_segv(name);
    }
}

// ---- a user's faults --------------------------------------------------------------------

fn arena_with_view(flags: u32) -> (Arena, UserMemory) {
    let map_extra = 0x2000_0000_0000;
    let map_flags = BPF_F_MMAPABLE | flags;
    let arena = arena_with(ArenaSpec {
        map_flags,
        map_extra,
        ..common::spec(16)
    });
    let view = UserMemory::new(arena.map_user().expect("the address is free"), 16 * 4096);
    (arena, view)
}

child!(child_user_on_scratch, {
    let (arena, view) = arena_with_view(0);
    let host = scope(&arena);
    arena.ptr::<u64>(offset(3, 0)).write(1);
    drop(host);
    view.write(4 * 4096, 1);
    assert_eq!(arena.pages_in_use(), 1);
    view.write(3 * 4096, 1);
});

child!(child_user_segv_on_fault, {
    let (arena, view) = arena_with_view(BPF_F_SEGV_ON_FAULT);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    view.write(0, 1);
    view.write(4096, 1);
});

child!(child_user_at_the_limit, {
    let map_extra = 0x2000_0000_0000;
    let spec = ArenaSpec {
        map_extra,
        byte_limit: Some(4096),
        ..common::spec(16)
    };
    let arena = arena_with(spec);
    let view = UserMemory::new(arena.map_user().expect("the address is free"), 16 * 4096);
    view.write(0, 1);
    view.write(4096, 1);
});

#[test]
fn a_users_bad_touch_is_a_segv() {
    for name in ["user_on_scratch", "user_segv_on_fault", "user_at_the_limit"] {
        assert_segv(name);
    }
}

// ---- forwarding -------------------------------------------------------------------------

child!(child_default, {
    set_action(Former::Default, 0);
    let _arena = arena(4);
    peek(null());
});

child!(child_ignored, {
    set_action(Former::Ignored, 0);
    let _arena = arena(4);
    peek(null());
});

child!(child_plain, {
    set_action(Former::Plain(plain), 0);
    let _arena = arena(4);
    peek(null());
});

child!(child_nodefer, {
    set_action(Former::Plain(plain_nodefer), libc::SA_NODEFER);
    let _arena = arena(4);
    peek(null());
});

child!(child_info, {
    set_action(Former::Info(with_info), 0);
    let arena = arena(4);
    // Our own faults do not reach it.
    let host = scope(&arena);
    arena.ptr::<u64>(offset(1, 0)).write(1);
    drop(host);
    peek(null());
});

child!(child_resethand, {
    set_action(Former::Plain(returns), libc::SA_RESETHAND);
    let _arena = arena(4);
    // The handler returns, the load faults again, and the default action ends the process.
    peek(null());
});

child!(child_sent_default, {
    set_action(Former::Default, 0);
    let _arena = arena(4);
    // SAFETY: `raise` has no preconditions.
    unsafe { libc::raise(libc::SIGSEGV) };
    exit(SURVIVED);
});

child!(child_sent_ignored, {
    set_action(Former::Ignored, 0);
    let _arena = arena(4);
    // SAFETY: `raise` has no preconditions.
    unsafe { libc::raise(libc::SIGSEGV) };
    exit(SURVIVED);
});

#[test]
fn other_faults_meet_the_action_that_was_there_before() {
    for name in ["default", "ignored", "resethand", "sent_default"] {
        assert_segv(name);
    }
    assert_exit("plain", PLAIN_RAN);
    assert_exit("nodefer", PLAIN_RAN);
    assert_exit("info", INFO_RAN);
    assert_exit("sent_ignored", SURVIVED);
}

child!(child_uninstall, {
    set_action(Former::Plain(plain), 0);
    let first = arena(4);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::LiveArenas));
    drop(first);
    uninstall_fault_handler().expect("ours is on top");
    uninstall_fault_handler().expect("nothing to do");
    // A later arena installs it anew; another handler on top then keeps it in place.
    drop(arena(4));
    set_action(Former::Plain(plain_nodefer), libc::SA_NODEFER);
    assert_eq!(uninstall_fault_handler(), Err(UninstallError::NotOnTop));
    peek(null());
});

#[test]
fn the_handler_can_be_removed_if_it_is_on_top() {
    assert_exit("uninstall", PLAIN_RAN);
}

// ---- threads, errno, fork ----------------------------------------------------------------

#[test]
fn recovery_leaves_errno_alone() {
    let arena = arena(600);
    let _scope = scope(&arena);
    // SAFETY: the address of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { errno.write(77) };
    arena.ptr::<u8>(offset(5, 0)).write(1);
    // SAFETY: as above.
    assert_eq!(unsafe { errno.read() }, 77);
}

#[test]
fn a_thread_gets_a_big_alternate_stack_and_its_own_one_back() {
    let current = || {
        // SAFETY: plain data, for which zero is a valid value.
        let mut stack: libc::stack_t = unsafe { mem::zeroed() };
        // SAFETY: a null first argument only asks.
        unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
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
}

child!(child_fork, {
    let arena = arena(4);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    arena.ptr::<u64>(offset(0, 0)).write(7);
    // SAFETY: the child only makes the calls below and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _scope = scope(&arena);
        let poisoned = arena.alloc_pages(None, 1, 0) == Err(AllocError::Forked);
        arena.free_pages_deferred(arena.user_addr(ArenaOffset::new(0)), 1);
        if !poisoned {
            exit(WRONG);
        }
        // Its memory is not there, and nothing is put there.
        arena.ptr::<u64>(offset(0, 0)).write(8);
        exit(SURVIVED);
    }
    let mut status = 0;
    // SAFETY: the child exists, and the status is valid for a write.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
    assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 7);
    exit(PLAIN_RAN);
});

#[test]
fn a_forked_child_cannot_write_into_its_parents_arena() {
    assert_exit("fork", PLAIN_RAN);
}

// ---- no mapping left -------------------------------------------------------------------

/// Splits anonymous memory until the kernel refuses another mapping. Some distributions allow
/// a million.
fn use_up_mappings() {
    const PAGES: usize = 4_000_000;
    let (none, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGES * 4096,
            none,
            flags | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert_ne!(base, libc::MAP_FAILED);
    let every_other = (0..PAGES)
        .step_by(2)
        .map(|page| base.wrapping_byte_add(page * 4096));
    let refused = every_other.map(|page| {
        // SAFETY: inside the mapping made above.
        unsafe { libc::mprotect(page, 4096, libc::PROT_READ) }
    });
    assert!(
        refused.into_iter().any(|done| done != 0),
        "the kernel has a limit"
    );
}

child!(child_no_mapping_left, {
    let arena = arena(600);
    let _scope = scope(&arena);
    // Opens the region.
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    use_up_mappings();
    arena.ptr::<u64>(offset(7, 0)).write(7);
    assert_eq!(arena.entry_state(common::page(7)), EntryState::Page);
    assert_eq!(arena.ptr::<u64>(offset(7, 0)).read(), 7);
    assert_eq!(
        (arena.faults_recovered(), arena.drain_reports().count()),
        (1, 1)
    );
    // The allocator learns of the page.
    let at = arena.alloc_pages(Some(common::user(7)), 1, 0);
    assert_eq!(at, Err(AllocError::NoSpace { page_cnt: 1 }));
    exit(SURVIVED);
});

#[test]
fn a_host_fault_is_recovered_even_if_no_mapping_is_left() {
    // Without guard markers every exposed page needs a mapping.
    if arena(1).has_guard_markers() {
        assert_exit("no_mapping_left", SURVIVED);
    }
}
