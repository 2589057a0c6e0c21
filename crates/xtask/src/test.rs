//! `cargo xtask test`: everything that must hold before a change is accepted.
//!
//! On a bare machine with cargo it installs what it lacks, which is the compiler for the BPF
//! objects and what peers of the benchmarks and libbpf are built with, and says so. Steps run in
//! the order cheap to dear; the first that fails ends the run.

use std::process::{Command, Stdio};

use anyhow::bail;

use crate::objects::{CLANG, STRIP};
use crate::run::{cargo, is_installed, root, run};
use crate::{objects, scx_headers, tidy};

/// What benchmarks and tests compare with, which is C in part. By default it is left out; tests see
/// to it that the benchmarks' peers have rows.
const PEERS: &str = "harena-bench/peers,harena-testkit/libbpf";
/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 4] = [
    (CLANG, "clang-22"),
    (STRIP, "llvm-22"),
    ("make", "make"),
    (PKG_CONFIG, "pkg-config"),
];
const PKG_CONFIG: &str = "pkg-config";
/// Libraries to compile against.
const LIBRARIES: [(&str, &str); 2] = [("libelf", "libelf-dev"), ("zlib", "zlib1g-dev")];

/// Runs all checks and tests.
pub(crate) fn test() -> anyhow::Result<()> {
    step("tools");
    install_tools()?;
    step("format");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    step("tidy");
    tidy::tidy()?;
    step("clippy");
    // The C of the peers takes longest, and is compiled beside the rest.
    clippy(&["--features", PEERS])?;
    clippy(&[])?;
    step("objects");
    objects::check()?;
    step("tests");
    if is_installed("cargo-nextest") {
        run(&mut cargo(&[
            "nextest",
            "run",
            "--workspace",
            "--features",
            PEERS,
            "--no-fail-fast",
        ]))?;
    } else {
        run(&mut cargo(&[
            "test",
            "--quiet",
            "--workspace",
            "--features",
            PEERS,
            "--all-targets",
            "--no-fail-fast",
        ]))?;
    }
    step("doctests");
    run(&mut cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
    step("loom models");
    run(cargo(&[
        "test",
        "--quiet",
        "--release",
        "--package",
        "harena-arena-fault",
        "--test",
        "loom",
    ])
    .env("RUSTFLAGS", "--cfg loom")
    .env("CARGO_TARGET_DIR", root().join("target/loom")))?;
    step("schedules");
    run(cargo(&[
        "test",
        "--quiet",
        "--release",
        "--package",
        "harena-arena",
        "--lib",
        "--",
        "schedules",
        "plain_use",
    ])
    .env("RUSTFLAGS", "--cfg shuttle")
    .env("CARGO_TARGET_DIR", root().join("target/shuttle")))?;
    step("miri");
    miri()?;
    step("scx headers");
    scx_headers::check()
}

/// Of the whole workspace: what `features` do not change is not looked at again.
fn clippy(features: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo(&["clippy", "--quiet", "--workspace", "--all-targets"]);
    run(command.args(features).args(["--", "-D", "warnings"]))
}

/// The unit tests of what makes no system call, in Miri, where a nightly toolchain has it.
fn miri() -> anyhow::Result<()> {
    let found = cargo(&["+nightly", "miri", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: no nightly toolchain with the component miri");
        return Ok(());
    }
    run(cargo(&[
        "+nightly",
        "miri",
        "test",
        "--quiet",
        "--lib",
        "--package",
        "harena-abi",
        "--package",
        "harena-arena-fault",
        "--package",
        "harena-arena",
    ])
    // The registry knows host memory by integers.
    .env("MIRIFLAGS", "-Zmiri-permissive-provenance")
    .env("CARGO_TARGET_DIR", root().join("target/miri")))
}

fn step(name: &str) {
    println!("==> {name}");
}

/// What of these programs and libraries is not there.
fn missing() -> Vec<(&'static str, &'static str)> {
    let programs = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_installed(program));
    let libraries = LIBRARIES
        .iter()
        .filter(|(library, _)| !has_library(library));
    programs.chain(libraries).copied().collect()
}

fn has_library(name: &str) -> bool {
    let found = Command::new(PKG_CONFIG).args(["--exists", name]).status();
    found.is_ok_and(|status| status.success())
}

/// Installs what is missing from the distribution.
fn install_tools() -> anyhow::Result<()> {
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = wanted.iter().map(|(_, package)| *package).collect();
    let is_root = is_installed("apt-get") && user_id()? == "0";
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.args(["--non-interactive", "apt-get"]);
        }
        command.args(arguments);
        command
    };
    if !is_installed("apt-get") || !(is_root || is_installed("sudo")) {
        bail!(
            "the Debian packages {packages:?} are needed, or what is in them, and cannot be \
             installed from here: that takes apt-get, and root or sudo"
        );
    }
    println!("installing {}", packages.join(" and "));
    run(&mut apt_get(&["update", "--quiet"]))?;
    let mut install = apt_get(&["install", "--quiet", "--yes", "--no-install-recommends"]);
    run(install.args(&packages))?;
    if let Some((wanted, package)) = missing().first() {
        bail!("the package {package} brought no {wanted}");
    }
    Ok(())
}

fn user_id() -> anyhow::Result<String> {
    let id = crate::run::output(Command::new("id").arg("-u"))?;
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}
