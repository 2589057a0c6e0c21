//! `cargo xtask tidy`: the house style that neither the compiler nor clippy checks.
//!
//! | rule | why |
//! |---|---|
//! | a Rust file begins with `//!` | it must say what it is for |
//! | `forbid(unsafe_code)` where the design says so | the `unsafe` boundary is a crate boundary |
//! | a crate uses only the crates of its row | the layers stay layers |
//! | comments and C of 100 characters a line, files of 1,000 lines at most | they can be read |
//! | no markers of unfinished work without an issue | they are forgotten |

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::run::{cargo, output, root};

const LINE_CHARS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 1000;

/// A crate of the design, and what it may be.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
    forbids_unsafe: bool,
}

const fn layer(
    name: &'static str,
    forbids_unsafe: bool,
    may_use: &'static [&'static str],
) -> Layer {
    Layer {
        name,
        may_use,
        forbids_unsafe,
    }
}

const EVERYTHING_AND_TESTKIT: &[&str] = &[
    "abi",
    "arena-fault",
    "arena",
    "bpf",
    "jit",
    "vm",
    "scx",
    "kernel",
    "sim",
    "trace",
    "report",
    "testkit",
];

const EVERYTHING: &[&str] = match EVERYTHING_AND_TESTKIT {
    [everything @ .., _testkit] => everything,
    [] => &[],
};

/// The table of the design document, the conformance plugin and the benchmarks.
const LAYERS: [Layer; 16] = [
    layer("abi", true, &[]),
    layer("arena-fault", false, &["abi"]),
    layer("arena", false, &["abi", "arena-fault"]),
    layer("bpf", true, &["abi"]),
    layer("jit", true, &["abi", "bpf"]),
    layer("vm", false, &["abi", "arena-fault", "arena", "bpf", "jit"]),
    layer("scx", true, &["abi"]),
    layer("kernel", false, &["abi", "arena", "bpf", "vm", "scx"]),
    layer("sim", true, &["abi", "scx", "trace"]),
    layer("trace", true, &["abi"]),
    layer("report", true, &["abi", "trace"]),
    layer("cli", true, EVERYTHING),
    layer("conformance", true, &["abi", "bpf", "vm"]),
    layer("testkit", false, EVERYTHING),
    layer("bench", false, EVERYTHING_AND_TESTKIT),
    layer("xtask", true, &[]),
];

/// Prints every breach of the rules, and fails if there is one.
pub(crate) fn tidy() -> anyhow::Result<()> {
    let mut breaches = Vec::new();
    let root = root();
    for file in files(&root)? {
        let text =
            fs::read_to_string(root.join(&file)).with_context(|| file.display().to_string())?;
        check_text(&file, &text, &mut breaches);
    }
    check_crates(&root, &mut breaches)?;
    for breach in &breaches {
        println!("{breach}");
    }
    if !breaches.is_empty() {
        bail!("tidy found {} breaches of the house style", breaches.len());
    }
    Ok(())
}

/// Sources that git knows, relative to the root.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listing = output(
        std::process::Command::new("git")
            .current_dir(root)
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "--",
            ])
            .args(["*.rs", "*.c", "*.h", ".ci/run"]),
    )?;
    let listing = String::from_utf8(listing).context("a file name is not UTF-8")?;
    Ok(listing
        .lines()
        .map(PathBuf::from)
        .filter(|file| root.join(file).exists())
        .collect())
}

fn check_text(file: &Path, text: &str, breaches: &mut Vec<String>) {
    let name = file.display();
    if file.extension() == Some("rs".as_ref()) && !text.starts_with("//!") {
        breaches.push(format!("{name}:1: does not begin with `//!`"));
    }
    let nr_lines = text.lines().count();
    if nr_lines > FILE_LINES_MAX {
        breaches.push(format!(
            "{name}: {nr_lines} lines, {FILE_LINES_MAX} are enough"
        ));
    }
    for (line, number) in text.lines().zip(1..) {
        let chars = line.replace('\t', "        ").chars().count();
        if chars > LINE_CHARS_MAX && !is_unbreakable(file, line) {
            breaches.push(format!("{name}:{number}: {chars} characters"));
        }
        if line.contains(concat!("FIX", "ME")) || line.contains(concat!("XX", "X")) {
            breaches.push(format!("{name}:{number}: unfinished work"));
        }
        if line.contains(concat!("TO", "DO")) && !line.contains(concat!("TO", "DO(#")) {
            breaches.push(format!("{name}:{number}: unfinished work without an issue"));
        }
    }
}

/// rustfmt looks after Rust code, and a row of a table is one line.
fn is_unbreakable(file: &Path, line: &str) -> bool {
    let is_rust = file.extension() == Some("rs".as_ref());
    let comment = line.trim_start().trim_start_matches(['/', '!', ' ']);
    is_rust && (comment == line.trim_start() || comment.starts_with('|'))
}

fn check_crates(root: &Path, breaches: &mut Vec<String>) -> anyhow::Result<()> {
    let metadata = output(&mut cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let short = name.strip_prefix("harena-").unwrap_or(name);
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == short) else {
            breaches.push(format!("crates/{short}: not in the design's table"));
            continue;
        };
        if layer.forbids_unsafe && !forbids_unsafe(&root.join("crates").join(short))? {
            breaches.push(format!("crates/{short}: lacks #![forbid(unsafe_code)]"));
        }
        let dependencies = package["dependencies"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for dependency in dependencies
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
        {
            let used = dependency["name"].as_str().unwrap_or_default();
            let is_allowed = match used.strip_prefix("harena-") {
                Some(used) => layer.may_use.contains(&used),
                None => used != "anyhow" || ["cli", "xtask"].contains(&layer.name),
            };
            if !is_allowed {
                breaches.push(format!("crates/{short}: may not use {used}"));
            }
        }
    }
    Ok(())
}

fn forbids_unsafe(folder: &Path) -> anyhow::Result<bool> {
    for crate_root in ["src/lib.rs", "src/main.rs"] {
        let path = folder.join(crate_root);
        if path.exists() && !fs::read_to_string(&path)?.contains("#![forbid(unsafe_code)]") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches_of(file: &str, text: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        check_text(Path::new(file), text, &mut breaches);
        breaches
    }

    #[test]
    fn a_tidy_file_has_no_breach() {
        assert!(breaches_of("a.rs", "//! Why.\nfn f() {}\n").is_empty());
        assert!(breaches_of("a.bpf.c", "// Why.\n").is_empty());
    }

    #[test]
    fn a_missing_header_and_unfinished_work_are_found() {
        let text = format!(
            "fn f() {{}}\n// {}: finish\n// {}(#7): later\n",
            concat!("TO", "DO"),
            concat!("TO", "DO")
        );
        let breaches = breaches_of("a.rs", &text);
        assert_eq!(
            breaches,
            [
                "a.rs:1: does not begin with `//!`",
                "a.rs:2: unfinished work without an issue",
            ]
        );
    }

    #[test]
    fn long_comments_are_found_but_rows_of_tables_are_not() {
        let long = "x".repeat(LINE_CHARS_MAX);
        let text = format!("//! Why.\n//! {long}\n//! | {long} |\nlet s = \"{long}\";\n");
        assert_eq!(breaches_of("a.rs", &text), ["a.rs:2: 104 characters"]);
    }

    #[test]
    fn a_layer_may_use_only_layers_before_it() {
        for layer in &LAYERS {
            for used in layer.may_use {
                assert!(LAYERS.iter().any(|other| other.name == *used), "{used}");
                assert_ne!(layer.name, *used);
            }
        }
    }
}
