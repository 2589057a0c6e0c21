//! What the core reports of itself, for traces and checkers.

use harena_abi::{Cpu, DsqId, Tid};

use crate::{ExitInfo, Op};

/// One step of the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A callback is about to run on the current CPU.
    Callback {
        /// Which.
        op: Op,
        /// Its subject, if it has one.
        task: Option<Tid>,
    },
    /// A task became runnable on `cpu`.
    Runnable {
        /// The task.
        task: Tid,
        /// Its run queue.
        cpu: Cpu,
    },
    /// A task stopped being runnable.
    Quiescent {
        /// The task.
        task: Tid,
        /// Its run queue.
        cpu: Cpu,
    },
    /// A task was linked into a queue.
    Inserted {
        /// The task.
        task: Tid,
        /// The queue; local ones as `SCX_DSQ_LOCAL_ON | cpu`.
        dsq: DsqId,
    },
    /// A task left a queue.
    Removed {
        /// The task.
        task: Tid,
        /// The queue; local ones as `SCX_DSQ_LOCAL_ON | cpu`.
        dsq: DsqId,
    },
    /// A task moved between run queues.
    Migrated {
        /// The task.
        task: Tid,
        /// From here.
        from: Cpu,
        /// To here.
        to: Cpu,
    },
    /// `cpu` switched tasks; `None` is the idle task.
    Switched {
        /// The CPU.
        cpu: Cpu,
        /// Who ran.
        prev: Option<Tid>,
        /// Who runs now.
        next: Option<Tid>,
    },
    /// The scheduler is leaving.
    Exit(ExitInfo),
}
