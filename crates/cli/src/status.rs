//! How the process ends.
//!
//! Scripts decide by these numbers, so they are an interface (`docs/exit-codes.md`). 42
//! and 43 are what people who test schedulers already use for these two outcomes.

use std::process::ExitCode;

use harena_abi::scx::{
    SCX_EXIT_DONE, SCX_EXIT_ERROR, SCX_EXIT_ERROR_STALL, SCX_EXIT_NONE, SCX_EXIT_UNREG,
};

/// The table of exit codes as `--help` shows it.
pub(crate) const HELP: &str = "\
Exit codes:
  0   fine
  1   internal error: a bug in harena
  2   bad usage or input
  42  the watchdog found a task that did not get to run (stall)
  43  scheduler error
  44  the scheduler left for another reason";

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// It did what it was asked for.
    Fine,
    /// A bug in harena.
    Internal,
    /// The command line or a file it names is wrong.
    BadInput,
    /// `SCX_EXIT_ERROR_STALL`.
    Stall,
    /// Any other error of the scheduler.
    SchedulerError,
    /// The scheduler left before the end without an error.
    OtherExit,
}

impl Status {
    /// The outcome of a run whose scheduler left with this `SCX_EXIT_*` kind.
    pub(crate) const fn of_exit_kind(kind: u32) -> Self {
        match kind {
            SCX_EXIT_NONE | SCX_EXIT_DONE | SCX_EXIT_UNREG => Self::Fine,
            SCX_EXIT_ERROR_STALL => Self::Stall,
            SCX_EXIT_ERROR.. => Self::SchedulerError,
            _ => Self::OtherExit,
        }
    }

    /// The process's exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Internal => 1,
            Self::BadInput => 2,
            Self::Stall => 42,
            Self::SchedulerError => 43,
            Self::OtherExit => 44,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use harena_abi::scx::{
        SCX_EXIT_ERROR, SCX_EXIT_ERROR_BPF, SCX_EXIT_ERROR_REENQ, SCX_EXIT_ERROR_STALL,
        SCX_EXIT_NONE, SCX_EXIT_SYSRQ, SCX_EXIT_UNREG, SCX_EXIT_UNREG_BPF, SCX_EXIT_UNREG_KERN,
    };

    use super::{HELP, Status};

    #[test]
    fn exit_kinds_map_to_the_documented_codes() {
        for (kind, code) in [
            (SCX_EXIT_NONE, 0),
            (SCX_EXIT_UNREG, 0),
            (SCX_EXIT_UNREG_BPF, 44),
            (SCX_EXIT_UNREG_KERN, 44),
            (SCX_EXIT_SYSRQ, 44),
            (SCX_EXIT_ERROR, 43),
            (SCX_EXIT_ERROR_BPF, 43),
            (SCX_EXIT_ERROR_STALL, 42),
            (SCX_EXIT_ERROR_REENQ, 43),
            (u32::MAX, 43),
        ] {
            assert_eq!(Status::of_exit_kind(kind).code(), code, "kind {kind}");
        }
    }

    #[test]
    fn help_lists_every_code() {
        use Status::{BadInput, Fine, Internal, OtherExit, SchedulerError, Stall};
        for status in [Fine, Internal, BadInput, Stall, SchedulerError, OtherExit] {
            let line = format!("\n  {:<2}  ", status.code());
            assert!(HELP.contains(&line), "{status:?}");
        }
    }
}
