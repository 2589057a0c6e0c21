//! The same scenarios where the kernel has no guard markers.
//!
//! A child process forbids itself the system call by a seccomp filter, which survives exec,
//! and then runs the other scenarios.

use std::process::Command;

use crate::children::{self, DONE, GUARD_MARKERS, child, exit, forbid};
use crate::common::{arena, offset, scope};

/// Scenarios whose children choose the scheme themselves, or do not care.
const SKIPPED: [&str; 5] = [
    "chaining::",
    "fallback::",
    "shortage::",
    "signals::",
    "walls::",
];

child!(child_without_guard_markers, {
    forbid(GUARD_MARKERS);
    let arena = arena(4);
    assert!(!arena.has_guard_markers());
    let _scope = scope(&arena);
    arena.ptr::<u8>(offset(1, 0)).write(1);
    assert_eq!(arena.faults_recovered(), 1);
    let mut scenarios = Command::new(std::env::current_exe().expect("this binary has a path"));
    let skipped = SKIPPED.into_iter().flat_map(|name| ["--skip", name]);
    let status = scenarios.args(skipped).status();
    assert!(status.expect("this binary runs").success());
    exit(DONE);
});

#[test]
fn all_scenarios_pass_without_guard_markers() {
    let (status, shown) = children::run("fallback::child_without_guard_markers");
    assert_eq!(status.code(), Some(DONE), "{shown}");
    assert!(!shown.contains(" 0 passed"), "the scenarios ran: {shown}");
}
