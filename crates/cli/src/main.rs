//! The `harena` command: arguments, then a plan, then a run.
//!
//! ```text
//! argv ──clap──► LowArgs ──► Plan ──► run, inspect, link … ──► report ──► stdout
//!      what was typed   what it means                      failure line ──► stderr, exit code
//! ```
//!
//! Everything the outside world has a say in happens in this crate: files, the clock, the
//! terminal. The libraries below get values.
#![forbid(unsafe_code)]

mod args;
mod disasm;
mod duration;
mod failures;
mod inspect;
mod link;
mod object;
mod output;
mod perf_map;
mod plan;
mod prog;
mod progress;
mod results;
mod run;
mod size;
mod stats;
mod status;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{LowArgs, LowCommand, ProgCommand};
use crate::plan::{InspectPlan, LinkPlan, ProgRunPlan, RunPlan};
use crate::status::Status;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let args = LowArgs::parse();
    let result = match args.command {
        LowCommand::Run(args) => RunPlan::new(args)
            .map_err(Failure::from)
            .and_then(|plan| run::run(&plan)),
        LowCommand::Inspect(args) => InspectPlan::new(&args)
            .map_err(Failure::from)
            .and_then(|plan| inspect::inspect(&plan)),
        LowCommand::Prog(args) => match args.command {
            ProgCommand::Run(args) => ProgRunPlan::new(args)
                .map_err(Failure::from)
                .and_then(prog::run),
        },
        LowCommand::Vmlinux => vmlinux(),
        LowCommand::Link(args) => LinkPlan::new(args)
            .map_err(Failure::from)
            .and_then(|plan| link::link(&plan)),
    };
    let status = result.unwrap_or_else(|failure| {
        output::complain(&format!("{:#}", failure.cause));
        failure.status
    });
    status.into()
}

/// Prints the modelled types as a C header.
fn vmlinux() -> Result<Status, Failure> {
    output::print(&harena_kernel::vmlinux_h())?;
    Ok(Status::Fine)
}

/// Why a command came to no result.
#[derive(Debug)]
struct Failure {
    status: Status,
    cause: anyhow::Error,
}

impl Failure {
    /// The user can do something about it.
    fn bad_input(
        what: impl Display + Send + Sync + 'static,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::from(anyhow::Error::new(error).context(what))
    }

    /// Only a developer can.
    fn internal(
        what: impl Display + Send + Sync + 'static,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            status: Status::Internal,
            cause: anyhow::Error::new(error).context(what),
        }
    }
}

/// Whatever stands in the way before anything runs came from the command line.
impl From<anyhow::Error> for Failure {
    fn from(cause: anyhow::Error) -> Self {
        Self {
            status: Status::BadInput,
            cause,
        }
    }
}

/// The only I/O outside of plans is printing.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal("cannot print the report", error)
    }
}
