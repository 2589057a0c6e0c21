//! Goal: `harena prog run` runs one `syscall` program and says all that came of it.
//! Method: start the built binary on test programs; look at output, files and exit code.

mod harena;

use std::fs;
use std::path::PathBuf;

use harena::{harena, json, object};
use serde_json::json;

/// The documented keys (`docs/json.md`), in alphabetical order.
const KEYS: [&str; 9] = [
    "aborted",
    "context",
    "insns",
    "object",
    "output",
    "program",
    "returned",
    "violations",
    "violations_dropped",
];

fn path(name: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("prog");
    fs::create_dir_all(&dir).expect("cargo gives a writable directory");
    let path = dir.join(name);
    path.to_str()
        .expect("the workspace has a path in UTF-8")
        .to_owned()
}

/// A file with these bytes.
fn file(name: &str, bytes: &[u8]) -> String {
    let path = path(name);
    fs::write(&path, bytes).expect("cargo gives a writable directory");
    path
}

fn syscalls() -> String {
    object("tests/syscall")
}

#[test]
fn a_program_reads_and_writes_its_context() {
    let (of, given) = (syscalls(), file("given", &[5; 16]));
    for engine in ["jit", "interp"] {
        let args = ["prog", "run", &of, "add", "--data-in", &given];
        let more = ["--set", "step=2", "--engine", engine, "--format", "json"];
        let run = harena(&[&args[..], &more].concat());
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        let result = json(&run);
        let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
        assert_eq!(keys, KEYS);
        assert_eq!(result["context"], "05050505050505050705050505050505");
        assert_eq!(result["returned"], -22);
        assert_eq!(result["aborted"], json!(null));
        let printed = json!([{"program": "", "stream": "trace", "text": "added 2"}]);
        assert_eq!(result["output"], printed);
    }
}

#[test]
fn the_context_goes_to_a_file() {
    let (given, made) = (file("given2", &[0; 16]), path("made"));
    let args = ["prog", "run", &syscalls(), "add", "--data-in", &given];
    let run = harena(&[&args[..], &["--data-out", &made]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let said = format!("context     16 bytes, written to {made}\n");
    assert!(run.stdout.contains(&said), "{}", run.stdout);
    assert!(run.stdout.ends_with("returned    -22 (0xffffffea)\n"));
    assert_eq!(
        fs::read(&made).unwrap(),
        [&[0; 8][..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat()
    );
}

#[test]
fn without_a_context_there_is_none() {
    let run = harena(&["prog", "run", &syscalls(), "absent", "--format", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let result = json(&run);
    assert_eq!(
        (&result["context"], &result["returned"]),
        (&json!(""), &json!(1))
    );
    assert_eq!(result["violations"], json!([]));
}

#[test]
fn a_context_that_is_too_small_is_refused_before_anything_runs() {
    let of = syscalls();
    for (bytes, size) in [(&[][..], 0), (&[0; 15], 15)] {
        let given = file(&format!("small{size}"), bytes);
        let run = harena(&["prog", "run", &of, "add", "--data-in", &given]);
        let why = format!("program `add`: a context of {size} bytes, the program needs 16");
        run.ends_saying(2, &why);
        assert_eq!(run.stdout, "");
    }
    harena(&["prog", "run", &of, "add"]).ends_saying(
        2,
        "program `add`: a context of 0 bytes, the program needs 16",
    );
    // All of it, and more than it looks at.
    for size in [16, 17] {
        let given = file(&format!("fits{size}"), &vec![0; size]);
        let run = harena(&["prog", "run", &of, "add", "--data-in", &given]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}

#[test]
fn faults_are_reported_and_change_no_exit_code() {
    let (of, given) = (object("tests/arena_fault"), file("given4", &[0; 104]));
    let run = harena(&["prog", "run", &of, "load_empty", "--data-in", &given]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    for part in [
        "READ of an empty arena page, address 0x100000008000, in load_empty, insn 5\n",
        "output      stderr of load_empty\n  | ERROR: Arena READ access",
        "returned    0\n",
    ] {
        assert!(run.stdout.contains(part), "{}", run.stdout);
    }
}

#[test]
fn a_run_that_is_stopped_says_where_and_why() {
    let (of, given) = (syscalls(), file("given3", &[0; 16]));
    let endless = "program `endless`, insn 1 (for (;;) @ syscall.bpf.c:31): instruction budget of \
        134217728 used up";
    let question = "program `question`, insn 0 (return scx_bpf_nr_cids(); @ syscall.bpf.c:40): \
        there is no kernel that has this kfunc";
    for (name, why, out) in [("endless", endless, 1), ("question", question, 0)] {
        let args = ["prog", "run", &of, name, "--data-in", &given];
        let run = harena(&[&args[..], &["--format", "json"]].concat());
        run.ends_saying(43, &format!("object `{of}`: {why}"));
        let result = json(&run);
        assert_eq!(result["returned"], json!(null));
        assert_eq!(result["aborted"], why);
        let context = result["context"].as_str().unwrap();
        assert_eq!(
            context,
            format!("{}{out:02x}{}", "00".repeat(8), "00".repeat(7))
        );
    }
}

#[test]
fn what_cannot_be_run_is_named_with_what_can() {
    let of = syscalls();
    let refused = |args: &[&str], line: &str| {
        let run = harena(&[&["prog", "run"], args].concat());
        run.ends_saying(2, line);
        assert_eq!(run.stdout, "");
    };
    refused(
        &[&of, "sub"],
        &format!(
            "object `{of}`: the object has no program `sub`; those that can be run: add, \
            endless, question, absent"
        ),
    );
    refused(
        &[&of, "syscall_enqueue"],
        &format!(
            "object `{of}`: program `syscall_enqueue` is of type `struct_ops`, and only \
            `syscall` programs can be run: add, endless, question, absent"
        ),
    );
    let fifo = object("fifo");
    refused(
        &[&fifo, "add"],
        &format!("object `{fifo}`: the object has no program `add`; those that can be run: none"),
    );
    let large = file("large", &[0; 65536]);
    refused(
        &[&of, "add", "--data-in", &large],
        "program `add`: a context of 65536 bytes, allowed are 65535",
    );
    refused(
        &[&of, "add", "--data-in", "missing"],
        "cannot read context `missing`: No such file or directory (os error 2)",
    );
    refused(
        &[&of, "add", "--data-out", "missing/out"],
        "cannot write `missing/out`: No such file or directory (os error 2)",
    );
    refused(
        &[&of, "add", "--set", "stop=1"],
        &format!(
            "object `{of}`: cannot set `stop`: no global variable `stop`; there are add.format, \
            step, syscall_ops"
        ),
    );
}
