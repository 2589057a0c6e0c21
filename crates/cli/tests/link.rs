//! Goal: several objects are one scheduler, linked by the command or on the way to a run.
//! Method: start the built binary with the parts of an example, and with the example.

mod harena;

use std::fs;
use std::path::PathBuf;

use harena::{harena, json, object};

const PARTS: [&str; 2] = ["tests/link_table", "tests/link_callbacks"];

/// A path for a file of a test's.
fn path(name: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("link");
    fs::create_dir_all(&dir).expect("cargo gives a writable directory");
    let path = dir.join(name).into_os_string();
    path.into_string()
        .expect("the workspace has a path in UTF-8")
}

fn digest(objects: &[&str]) -> String {
    let options = ["run", "-d", "200ms", "--format", "json"];
    let run = harena(&[&options, objects].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    json(&run)["digest"].as_str().expect("text").to_owned()
}

/// The table of callbacks is in one object, the callbacks are in another one.
#[test]
fn parts_run_as_the_whole_does() {
    let whole = digest(&[&object("fifo")]);
    let [table, callbacks] = PARTS.map(object);
    assert_eq!(digest(&[&table, &callbacks]), whole);
    assert_eq!(digest(&[&callbacks, &table]), whole);
    let linked = path("fifo.bpf.o");
    let run = harena(&["link", &table, &callbacks, "-o", &linked]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "", "")
    );
    assert_eq!(digest(&[&linked]), whole);
    let run = harena(&["inspect", &table, &callbacks]);
    assert!(run.stdout.contains("fifo_enqueue"), "{}", run.stdout);
}

#[test]
fn a_part_on_its_own_says_what_it_lacks() {
    let run = harena(&["run", "-d", "1ms", &object(PARTS[0])]);
    assert_eq!(run.code, 2);
    run.complains_in_one_line(&["link_table.bpf.o"]);
}

#[test]
fn conflicts_and_unwritable_results_are_named() {
    let [fifo, vtime] = ["fifo", "vtime"].map(object);
    let output = path("never.bpf.o");
    for args in [
        vec!["run", &fifo, &vtime],
        vec!["link", &fifo, &vtime, "-o", &output],
    ] {
        let run = harena(&args);
        assert_eq!(run.code, 2, "{args:?}");
        run.complains_in_one_line(&["`slice_ns`", "fifo.bpf.o", "vtime.bpf.o"]);
    }
    assert!(!PathBuf::from(&output).exists());
    let nowhere = path("missing/all.bpf.o");
    let run = harena(&["link", &fifo, "-o", &nowhere]);
    assert_eq!(run.code, 2);
    run.complains_in_one_line(&["cannot write", "missing/all.bpf.o"]);
}
