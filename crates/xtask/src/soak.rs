//! `cargo xtask soak arena`: builds the soak with optimisations and starts it.
//!
//! It is an example of `harena-arena` (`crates/arena/examples/soak`), for it uses the public
//! interface only.

use crate::run::{cargo, run};

/// Runs the soak with the options given, which it checks itself.
pub(crate) fn soak(options: &[String]) -> anyhow::Result<()> {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "harena-arena",
        "--example",
        "soak",
        "--",
    ]);
    run(command.args(options))
}
