//! The `harena` command: arguments, then a plan, then a run.
//!
//! ```text
//! argv ──clap──► LowArgs ──► Plan ──► run or inspect ──► report ──► stdout
//!      what was typed   what it means                      failure line ──► stderr, exit code
//! ```
//!
//! Everything the outside world has a say in happens in this crate: files, the clock, the
//! terminal. The libraries below get values.
#![forbid(unsafe_code)]
#![expect(
    dead_code,
    reason = "the libraries that a plan is carried out with are not there yet"
)]

mod args;
mod duration;
mod output;
mod plan;
mod status;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{LowArgs, LowCommand};
use crate::plan::{InspectPlan, RunPlan};
use crate::status::Status;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let args = LowArgs::parse();
    let plan = match args.command {
        LowCommand::Run(args) => RunPlan::new(args).map(|_plan| ()),
        LowCommand::Inspect(args) => InspectPlan::new(&args).map(|_plan| ()),
    };
    if let Err(error) = plan {
        output::complain(&format!("{error:#}"));
        return Status::BadInput.into();
    }
    output::complain("the input is fine, but this version cannot run it yet");
    Status::Internal.into()
}
