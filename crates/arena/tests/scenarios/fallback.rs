//! The same scenarios where the kernel has no guard markers.
//!
//! A child process forbids itself the system call by a seccomp filter, which survives exec,
//! and then becomes the harness with the other scenarios.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::children::{self, GUARD_MARKERS, child, disarm_alarm, forbid};
use crate::common::{arena, offset, scope};

/// Modules whose children choose the scheme themselves, or do not care.
const SKIPPED: [&str; 4] = ["chaining::", "fallback::", "shortage::", "walls::"];

/// The full names of the scenarios to run again.
fn scenarios(program: &std::path::Path) -> Vec<String> {
    let listed = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .expect("this binary runs");
    let listed = String::from_utf8(listed.stdout).expect("names are text");
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names
        .filter(|name| !SKIPPED.iter().any(|module| name.starts_with(module)))
        .map(str::to_owned)
        .collect()
}

child!(child_without_guard_markers, {
    forbid(GUARD_MARKERS);
    {
        let arena = arena(4);
        assert!(!arena.has_guard_markers());
        let _scope = scope(&arena);
        arena.ptr::<u8>(offset(1, 0)).write(1);
        assert_eq!(arena.faults_recovered(), 1);
    }
    let program = std::env::current_exe().expect("this binary has a path");
    // Full names, since libtest takes any part of a name elsewhere: `signals::` is a part of
    // `remote::signals::`.
    let names = scenarios(&program);
    // An alarm survives exec, and a whole suite takes longer.
    disarm_alarm();
    let failed = Command::new(program).arg("--exact").args(names).exec();
    panic!("this binary does not run: {failed}");
});

#[test]
fn all_scenarios_pass_without_guard_markers() {
    let (status, shown) = children::run("fallback::child_without_guard_markers");
    assert!(status.success(), "{status}\n{shown}");
    for module in [
        "allocation",
        "recovery",
        "remote::signals",
        "signals",
        "users",
    ] {
        let ran = |line: &str| {
            let name = line.strip_prefix("test ")?.strip_suffix(" ... ok")?;
            name.rsplit_once("::").map(|(within, _)| within == module)
        };
        let ran = shown.lines().any(|line| ran(line) == Some(true));
        assert!(ran, "no scenario of {module} ran: {shown}");
    }
}
