//! Children of this process: the parent's arena does not change, and a child has none.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use harena_abi::UserAddr;
use harena_arena::{AllocError, Arena, UserMapError};

use crate::children::{DONE, WRONG, arm_alarm, assert_exit, child, exit, fork, peek, wait};
use crate::common::{arena, offset, scope, user};

const PAGES: u32 = 600;

/// What the calling process, a child made by fork, may do with its parent's arena: nothing.
fn refuses_everything(arena: &Arena) -> bool {
    let here = user(0);
    arena.free_pages_deferred(here, PAGES);
    arena.alloc_pages(None, 1, 0) == Err(AllocError::Forked)
        && arena.alloc_pages_non_sleepable(None, 1, 0) == Err(AllocError::Forked)
        && arena.free_pages(here, PAGES) == Ok(())
        && arena.drain_deferred() == Ok(())
        && arena.reserve_pages(here, 1).is_err()
        && arena.touch_user(user(1)).is_err()
        && arena
            .map_user()
            .is_err_and(|error| error == UserMapError::Forked)
        && arena.set_user_window(here) == Err(UserMapError::Forked)
}

fn assert_exited(pid: libc::pid_t, code: i32) {
    let status = wait(pid);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), code);
}

child!(child_fork, {
    let arena = arena(PAGES);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    arena.ptr::<u64>(offset(0, 0)).write(7);
    let before = arena.pages_in_use();
    let refused = fork(|| {
        if refuses_everything(&arena) {
            DONE
        } else {
            WRONG
        }
    });
    assert_exited(refused, DONE);
    // Its memory is not there, and nothing is put there.
    for at in [offset(0, 0), offset(1, 0)] {
        let crashed = fork(|| {
            let _scope = scope(&arena);
            arena.ptr::<u64>(at).write(8);
            WRONG
        });
        let status = wait(crashed);
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
    }
    assert_eq!(arena.ptr::<u64>(offset(0, 0)).read(), 7);
    assert_eq!(arena.pages_in_use(), before);
    exit(DONE);
});

#[test]
fn a_forked_child_cannot_reach_its_parents_arena() {
    assert_exit("forks::child_fork", DONE);
}

child!(child_own_arena, {
    let parents = arena(PAGES);
    let pid = fork(|| {
        // The child may have one of its own.
        let own = arena(PAGES);
        let scope = scope(&own);
        own.ptr::<u64>(offset(3, 0)).write(1);
        let at = own.alloc_pages(None, 1, 0);
        let fine = at == Ok(user(0)) && own.faults_recovered() == 1;
        drop(scope);
        if fine { DONE } else { WRONG }
    });
    assert_exited(pid, DONE);
    assert_eq!(parents.faults_recovered(), 0);
    exit(DONE);
});

#[test]
fn a_forked_child_may_create_an_arena_of_its_own() {
    assert_exit("forks::child_own_arena", DONE);
}

// ---- a run that others interrupt -----------------------------------------------------------

/// Allocates, frees and faults in a fixed order; a digest of the memory and the counters.
fn run(arena: &Arena) -> (u64, u32, u64, u64) {
    let _scope = scope(arena);
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |value: u64| digest = (digest ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    for round in 0..3_000u32 {
        let at = round * 37 % PAGES;
        match round % 4 {
            0 => mix(arena
                .alloc_pages(Some(user(at)), 1, 0)
                .map_or(1, UserAddr::raw)),
            1 => mix(arena.free_pages(user(at), 2).map_or(1, |()| 0)),
            _ => arena.ptr::<u64>(offset(at, 8)).write(round.into()),
        }
    }
    (0..PAGES).for_each(|at| mix(arena.ptr::<u64>(offset(at, 8)).read()));
    let reported = arena.drain_reports().count() as u64 + arena.reports_dropped();
    (
        digest,
        arena.pages_in_use(),
        arena.faults_recovered(),
        reported,
    )
}

/// The run above is equal to one that nobody interrupts while `disturb` is called over and over
/// on another thread. How often it was called.
fn assert_undisturbed(disturb: impl Fn(&Arena) + Sync) {
    const TIMES_MIN: u32 = 60;
    let expected = run(&arena(PAGES));
    let mut times = 0;
    while times < TIMES_MIN {
        let arena = arena(PAGES);
        let stop = AtomicBool::new(false);
        let got = std::thread::scope(|threads| {
            let disturbing = threads.spawn(|| {
                let mut times = 0;
                while !stop.load(Ordering::Relaxed) {
                    disturb(&arena);
                    times += 1;
                }
                times
            });
            let got = run(&arena);
            stop.store(true, Ordering::Relaxed);
            times += disturbing.join().expect("it does not panic");
            got
        });
        assert_eq!(got, expected);
    }
}

child!(child_fork_in_a_storm, {
    assert_undisturbed(|arena| {
        let pid = fork(|| {
            let refused = refuses_everything(arena);
            // The other thread may have been inside the handler: this must not wait for it.
            // SAFETY: the parent's arena is a copy here, and the child uses it no more.
            drop(unsafe { ptr::from_ref(arena).read() });
            if refused { DONE } else { WRONG }
        });
        assert_exited(pid, DONE);
    });
    exit(DONE);
});

#[test]
fn forks_during_a_fault_storm_change_nothing_in_the_parent() {
    assert_exit("forks::child_fork_in_a_storm", DONE);
}

child!(child_exec, {
    // The fast path of the standard library: `posix_spawn`, which shares the memory until exec.
    assert_undisturbed(|_arena| {
        let mut list = Command::new("/bin/ls");
        let output = list
            .args(["-l", "/proc/self/fd"])
            .output()
            .expect("it runs");
        assert!(output.status.success());
        let files = String::from_utf8_lossy(&output.stdout);
        assert!(!files.contains("harena"), "{files}");
    });
    // Fork, then exec.
    assert_undisturbed(|_arena| {
        let argv = [c"/bin/true".as_ptr(), ptr::null()];
        let pid = fork(|| {
            // SAFETY: a path and a list that ends with null.
            unsafe { libc::execv(argv[0], argv.as_ptr()) };
            WRONG
        });
        assert_exited(pid, 0);
    });
    exit(DONE);
});

#[test]
fn spawns_and_execs_change_nothing_in_the_parent() {
    assert_exit("forks::child_exec", DONE);
}

/// What a child does that shares its parent's memory: its exit code.
extern "C" fn shares_the_memory(argument: *mut c_void) -> c_int {
    arm_alarm();
    // SAFETY: what the parent passed, which waits for this child's end.
    let arena = unsafe { &*argument.cast::<Arena>() };
    if refuses_everything(arena) {
        DONE
    } else {
        WRONG
    }
}

/// As `vfork` does, but on a stack of the child's own, since it makes calls.
fn vfork(arena: &Arena) -> libc::pid_t {
    const STACK: usize = 64 * 1024;
    let mut stack = vec![0_u128; STACK / 16];
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = ptr::from_ref(arena).cast_mut().cast();
    // SAFETY: this thread waits until the child has ended, so stack and arena outlive it.
    let pid = unsafe { libc::clone(shares_the_memory, top, flags, argument) };
    assert!(pid > 0);
    pid
}

child!(child_vfork, {
    // It has its parent's window and words, so nothing but its number keeps it out.
    assert_undisturbed(|arena| assert_exited(vfork(arena), DONE));
    exit(DONE);
});

#[test]
fn a_child_that_shares_the_memory_is_refused_and_changes_nothing() {
    assert_exit("forks::child_vfork", DONE);
}

child!(child_of_a_child, {
    let arena = arena(PAGES);
    arena.alloc_pages(None, 1, 0).expect("pages are free");
    let pid = fork(|| {
        let grandchild = fork(|| {
            let _scope = scope(&arena);
            peek(arena.host_ptr(offset(0, 0)));
            WRONG
        });
        libc::WTERMSIG(wait(grandchild))
    });
    assert_exited(pid, libc::SIGSEGV);
    exit(DONE);
});

#[test]
fn a_grandchild_has_no_arena_either() {
    assert_exit("forks::child_of_a_child", DONE);
}
