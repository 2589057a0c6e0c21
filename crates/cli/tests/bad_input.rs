//! Goal: whatever is wrong with a command line or a file, the exit code is 2 and one line
//! names the thing.
//! Method: start the built binary with one wrong thing at a time.

mod harena;

use std::fs;
use std::path::PathBuf;

use harena::{harena, object};

/// A file that lives as long as the test's process.
fn file(name: &str, bytes: &[u8]) -> String {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bad_input");
    fs::create_dir_all(&dir).expect("cargo gives a writable directory");
    let path = dir.join(name);
    fs::write(&path, bytes).expect("cargo gives a writable directory");
    path.to_str()
        .expect("the workspace has a path in UTF-8")
        .to_owned()
}

fn refuses(args: &[&str], parts: &[&str]) {
    let run = harena(args);
    assert_eq!(run.code, 2, "{args:?}: {}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout, "", "{args:?}");
    run.complains_in_one_line(parts);
}

#[test]
fn missing_files_are_named() {
    refuses(
        &["run", "missing.bpf.o"],
        &["object `missing.bpf.o`", "No such file"],
    );
    refuses(&["inspect", "missing.bpf.o"], &["object `missing.bpf.o`"]);
    refuses(&["run", "-w", "missing.json"], &["workload `missing.json`"]);
    refuses(&["run", "-t", "./missing"], &["topology `./missing`"]);
    refuses(&["run", "/"], &["object `/`", "directory"]);
}

#[test]
fn the_input_at_fault_is_blamed() {
    refuses(&["run", "-t", "1025c"], &["topology `1025c`", "1025 CPUs"]);
    let nothing = file(
        "nothing.json",
        br#"{ "tasks": { "idler": { "loop": -1, "run": 0 } } }"#,
    );
    refuses(&["run", "-w", &nothing], &["nothing.json`", "idler"]);
}

#[test]
fn objects_that_are_none_are_named() {
    let text = file("text.bpf.o", b"not an ELF file\n");
    refuses(&["run", &text], &["text.bpf.o"]);
    refuses(&["inspect", &text], &["text.bpf.o"]);
    let empty = file("empty.bpf.o", b"");
    refuses(&["run", &empty], &["empty.bpf.o"]);
}

#[test]
fn truncated_objects_are_refused_wherever_they_end() {
    let whole = fs::read(object("fifo")).unwrap();
    for part in 1..8 {
        let truncated = file(
            &format!("part{part}.bpf.o"),
            &whole[..whole.len() * part / 8],
        );
        refuses(
            &["run", "-d", "1ms", &truncated],
            &[&format!("part{part}.bpf.o")],
        );
    }
}

#[test]
fn settings_that_do_not_exist_or_fit_are_named() {
    refuses(&["run", "--set", "slice_nss=1"], &["slice_nss"]);
    refuses(&["run", "--set", "slice_ns"], &["slice_ns", "="]);
    refuses(&["run", "--set", "slice_ns=fast"], &["slice_ns", "fast"]);
    refuses(
        &["run", "--set", "ops.no_such_member=1"],
        &["no_such_member"],
    );
    refuses(
        &["run", "--set", "ops.timeout_ms=4294967296"],
        &["timeout_ms"],
    );
}

#[test]
fn topologies_that_are_none_are_named() {
    refuses(&["run", "-t", "8x"], &["8x"]);
    refuses(&["run", "-t", "0c"], &["0c"]);
    refuses(&["run", "-t", "9999n9999l"], &["9999n9999l"]);
    let bad = file("topology.json", b"{\"cpus\": [{\"code\": 1}]}");
    refuses(&["run", "-t", &bad], &["topology.json", "code"]);
}

#[test]
fn workloads_with_unknown_words_are_refused() {
    let typo = file("typo.json", br#"{"tasks": {"a": {"rum": 100}}}"#);
    refuses(&["run", "-w", &typo], &["typo.json", "rum"]);
    let none = file("none.json", b"[]");
    refuses(&["run", "-w", &none], &["none.json"]);
}

#[test]
fn usage_errors_say_what_to_do() {
    for (args, part) in [
        (&["run", "-d", "10"][..], "has no unit"),
        (&["run", "-d", "0s"], "above zero"),
        (&["run", "--seed", "x"], "--seed"),
        (&["run", "--fromat", "json"], "--format"),
        (&["fly"], "fly"),
    ] {
        let run = harena(args);
        assert_eq!(run.code, 2, "{args:?}");
        assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr);
    }
}
