//! Starting the built binary, for the tests beside this folder.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::{Command, Stdio};

/// What one start gave.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Run {
    /// The exit code is this, and standard error this line of harena's and nothing else.
    pub(crate) fn ends_saying(&self, code: i32, line: &str) {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (code, &*format!("harena: {line}\n"))
        );
    }

    /// Standard error is one line of harena's that holds these parts.
    pub(crate) fn complains_in_one_line(&self, parts: &[&str]) {
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("harena: "), "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "`{part}` is missing in: {}",
                self.stderr
            );
        }
    }
}

/// Runs the binary with these arguments.
pub(crate) fn harena(args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_harena"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    Run {
        code: output.status.code().expect("no signal ends harena"),
        stdout: String::from_utf8(output.stdout).expect("harena prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("harena prints UTF-8"),
    }
}

/// The exit code of a start whose standard output nobody reads.
pub(crate) fn with_closed_stdout(args: &[&str]) -> i32 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_harena"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let status = child.wait().expect("the child is ours");
    status.code().expect("no signal ends harena")
}

/// Path of one of our objects.
pub(crate) fn object(name: &str) -> String {
    format!("{}/../../bpf/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"))
}

/// Standard output as JSON.
pub(crate) fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).expect("standard output is JSON")
}

/// A time in the results as messages print it.
pub(crate) fn seconds(ns: &serde_json::Value) -> String {
    let ns = ns.as_u64().expect("a time");
    format!("{}.{:09} s", ns / 1_000_000_000, ns % 1_000_000_000)
}
