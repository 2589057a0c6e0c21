//! `cargo xtask fuzz engines`: random programs by both engines, and by the kernel that this runs on
//! where `bpf(2)` works, as many as are asked for.
//!
//! Generators and comparisons are those of the engine's own tests, which always run some
//! (`crates/vm/tests/it/engines.rs` and `live.rs`); here they are built with optimisations and told
//! how many, and from which seed.

use std::process::Stdio;

use anyhow::{Context, bail};

use crate::run::cargo;

/// The tests, and what they say when they have compared all programs.
const ENGINES: &str = "engines::random_programs_end_the_same_in_both_engines";
const AGREED: &str = "0 disagreements";
const KERNEL: &str = "live::programs_that_the_kernel_verifies_end_the_same_in_it";
const AGREED_WITH_KERNEL: [&str; 2] = [
    "0 disagreements with the kernel",
    "skipped: no kernel to compare with",
];

/// Compares the ends of `count` programs; without a seed, they are the ones that the test begins
/// with.
pub(crate) fn engines(count: u64, seed: Option<&str>) -> anyhow::Result<()> {
    let mut command = cargo(&[
        "test",
        "--quiet",
        "--release",
        "--package",
        "harena-vm",
        "--test",
        "it",
        "--",
        "--nocapture",
        "--test-threads=1",
        "--exact",
        ENGINES,
        KERNEL,
    ]);
    command.env("HARENA_CASES", count.to_string());
    match seed {
        Some(seed) => command.env("HARENA_SEED", seed),
        None => command.env_remove("HARENA_SEED"),
    };
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    if !output.status.success() {
        bail!("engines or kernel disagree, or could not be compared: see above");
    }
    // A test that was renamed is no test, and no failure.
    let engines = text.lines().any(|line| line.ends_with(AGREED));
    let is_agreed = |line: &str| AGREED_WITH_KERNEL.iter().any(|text| line.contains(text));
    if !engines || !text.lines().any(is_agreed) {
        bail!("nothing was compared: are there still tests `{ENGINES}` and `{KERNEL}`?");
    }
    Ok(())
}
