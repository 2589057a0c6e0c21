//! `cargo xtask bench SUITE …`: builds the benchmarks with all peers and runs a suite.
//!
//! They have a target folder of their own, for their loops are aligned to 64 bytes: on some
//! machines alignment alone moves a short loop by 40 %.

use crate::objects::CLANG;
use crate::run::{cargo, is_installed, root, run};

#[cfg(target_arch = "x86_64")]
const FLAGS: &str = "-C llvm-args=-x86-experimental-pref-innermost-loop-alignment=6";
#[cfg(not(target_arch = "x86_64"))]
const FLAGS: &str = "-C llvm-args=-align-all-nofallthru-blocks=6";

/// Runs the suite that `arguments` name, with the options that follow.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "harena-bench",
        "--features",
        "cranelift",
        "--",
    ]);
    // Native peers are made by the compiler that makes the BPF programs, where it is there.
    if is_installed(CLANG) {
        command.env("CC", CLANG);
    }
    run(command
        .args(arguments)
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", root().join("target/bench")))
}
