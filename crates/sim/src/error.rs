//! Why a simulation cannot begin, or has no outcome.

use harena_abi::{Cpu, SimTime};
use harena_scx::EnableError;

use crate::check::Violation;

/// Settings that do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A task is pinned to a CPU that does not exist.
    #[error("task `{task}` names CPU {cpu}, the machine has {nr_cpus} (0 to {})", nr_cpus - 1)]
    NoSuchCpu {
        /// The task.
        task: String,
        /// The CPU it names.
        cpu: Cpu,
        /// CPUs of the machine.
        nr_cpus: u32,
    },
    /// A run without time.
    #[error("the duration is zero")]
    NoDuration,
    /// No tick, or more than one per nanosecond.
    #[error("{hz} ticks per second are not in 1 to 1000000")]
    Hz {
        /// What was asked for.
        hz: u32,
    },
    /// A CPU that executes nothing.
    #[error("a CPU needs to execute at least 1 instruction per microsecond")]
    NoInsns,
}

/// Why a run has no outcome.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SimError {
    /// The scheduler was refused before anything ran.
    #[error("failed to attach the scheduler")]
    Enable(#[from] EnableError),
    /// The core or the machine broke a rule.
    #[error("internal error")]
    Check(#[from] Violation),
    /// Events follow each other without time passing.
    #[error("time stands still at {} ns: {events} events, the last `{last}` (seed {seed})", now.as_ns())]
    Stuck {
        /// When.
        now: SimTime,
        /// How many.
        events: u64,
        /// The last of them.
        last: String,
        /// The run's seed.
        seed: u64,
    },
    /// A task's program loops without using time.
    #[error("task `{task}` takes {steps} steps of its program without using any time")]
    EndlessProgram {
        /// The task's name in the workload.
        task: String,
        /// How many it took.
        steps: u32,
    },
    /// `run` was called twice.
    #[error("this simulation has run already")]
    Finished,
}
