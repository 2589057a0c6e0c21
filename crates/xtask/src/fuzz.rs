//! `cargo xtask fuzz engines`: random programs by both engines, as many as are asked for.
//!
//! Generator and comparison are those of the engine's own test, which always runs some thousands
//! (`crates/vm/tests/it/engines.rs`); here it is built with optimisations and told how many, and
//! from which seed.

use std::process::Stdio;

use anyhow::{Context, bail};

use crate::run::cargo;

/// The test, and what it says when it has compared all programs.
const TEST: &str = "engines::random_programs_end_the_same_in_both_engines";
const AGREED: &str = "0 disagreements";

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
        "--exact",
        TEST,
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
        bail!("the engines disagree, or could not be compared: see above");
    }
    // A test that was renamed is no test, and no failure.
    if !text.lines().any(|line| line.ends_with(AGREED)) {
        bail!("nothing was compared: is there still a test `{TEST}`?");
    }
    Ok(())
}
