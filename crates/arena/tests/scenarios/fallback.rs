//! The same scenarios where the kernel has no guard markers.
//!
//! A child process forbids itself the system call by a seccomp filter, which survives exec,
//! and then runs the other scenarios.

use std::process::Command;

use crate::common::{arena, offset, scope};

/// `MADV_GUARD_INSTALL`.
const GUARD_INSTALL: u32 = 102;
/// Where `struct seccomp_data` keeps the call's number and the low half of its third argument.
const DATA_NR: u32 = 0;
const DATA_ARG_2: u32 = 16 + 2 * 8;

/// Makes `madvise(.., MADV_GUARD_INSTALL)` fail with EINVAL, as on kernels before 6.13.
fn forbid_guard_markers() {
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let skip_unless = |value, skipped| libc::sock_filter {
        jf: skipped,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    let madvise = u32::try_from(libc::SYS_madvise).expect("a small number");
    let einval = u32::try_from(libc::EINVAL).expect("a small number");
    let mut filter = [
        load(DATA_NR),
        skip_unless(madvise, 3),
        load(DATA_ARG_2),
        skip_unless(GUARD_INSTALL, 1),
        answer(libc::SECCOMP_RET_ERRNO | einval),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes integers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
    // SAFETY: the program points to `filter`, which outlives the call.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(done, 0, "an unprivileged process may filter itself");
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).expect("codes have 16 bits");
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

#[test]
#[ignore = "the body of a child process"]
fn child_without_guard_markers() {
    forbid_guard_markers();
    let arena = arena(4);
    assert!(!arena.has_guard_markers());
    let _scope = scope(&arena);
    arena.ptr::<u8>(offset(1, 0)).write(1);
    assert_eq!(arena.faults_recovered(), 1);
    let mut scenarios = Command::new(std::env::current_exe().expect("this binary has a path"));
    let status = scenarios
        .args(["--skip", "signals::", "--skip", "fallback::"])
        .status();
    assert!(status.expect("this binary runs").success());
}

#[test]
fn all_scenarios_pass_without_guard_markers() {
    let mut child = Command::new(std::env::current_exe().expect("this binary has a path"));
    child.args([
        "--exact",
        "fallback::child_without_guard_markers",
        "--ignored",
        "--nocapture",
    ]);
    let output = child.output().expect("this binary runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(!shown.contains(" 0 passed"), "the scenarios ran: {shown}");
}
