//! Per-CPU state (`struct rq`, `struct scx_rq`, `struct scx_sched_pcpu`).

use std::collections::VecDeque;

use harena_abi::{Cpu, Tid};

use crate::list::List;
use crate::task::Verdict;
use crate::{Class, CpuSet, EventStats};

/// One entry of the dispatch buffer (`struct scx_dsp_buf_ent`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufEnt {
    pub(crate) task: Tid,
    /// The task's stay with the scheduler when this was recorded; a later one is not meant.
    pub(crate) qseq: Option<u64>,
    pub(crate) verdict: Verdict,
}

/// Kicks that wait for this CPU's irq-work (`cpus_to_kick` and its kin).
#[derive(Debug, Default)]
pub(crate) struct Kicks {
    pub(crate) pending: bool,
    pub(crate) kick: CpuSet,
    pub(crate) if_idle: CpuSet,
    pub(crate) preempt: CpuSet,
    pub(crate) wait: CpuSet,
}

/// Work put off until the run queue lock can be dropped.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    /// Direct dispatches to other CPUs' local queues (`ddsp_deferred_locals`).
    pub(crate) locals: VecDeque<Tid>,
    /// A local re-enqueue is due, with these `SCX_REENQ_*` flags.
    pub(crate) reenq_local: Option<u64>,
    /// User queues to re-enqueue: id and flags.
    pub(crate) reenq_users: VecDeque<(u64, u64)>,
    /// To be run when the switch under way is over (`SCX_RQ_BAL_CB_PENDING`).
    pub(crate) after_switch: bool,
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.locals.is_empty() && self.reenq_local.is_none() && self.reenq_users.is_empty()
    }
}

#[derive(Debug)]
pub(crate) struct Rq {
    pub(crate) curr: Option<Tid>,
    /// Highest class queued since the last pick (`rq->next_class`).
    pub(crate) next_class: Class,
    /// A switch is under way; `resched` of this CPU would be cleared by it.
    pub(crate) in_schedule: bool,
    pub(crate) in_dispatch: bool,
    pub(crate) in_wakeup: bool,
    pub(crate) cpu_released: bool,
    pub(crate) bypassing: bool,
    /// `ops.update_idle` was suppressed by bypass and is owed (`*_IDLE_RENOTIFY`).
    pub(crate) idle_renotify: bool,
    pub(crate) nr_running: u32,
    pub(crate) nr_immed: u32,
    pub(crate) ops_qseq: u64,
    pub(crate) kick_sync: u64,
    pub(crate) runnable: List,
    pub(crate) fair: List,
    pub(crate) buf: Vec<BufEnt>,
    pub(crate) nr_dispatched: u32,
    pub(crate) deferred: Deferred,
    pub(crate) kicks: Kicks,
    pub(crate) events: EventStats,
    /// Flags for the enqueue half of a move to this run queue.
    pub(crate) remote_activate_enq_flags: u64,
    /// `distribute_cpu_mask_prev`.
    pub(crate) distribute_prev: Option<Cpu>,
    pub(crate) cpuperf_target: u32,
}

impl Rq {
    pub(crate) fn new() -> Self {
        Self {
            curr: None,
            next_class: Class::Idle,
            in_schedule: false,
            in_dispatch: false,
            in_wakeup: false,
            cpu_released: false,
            bypassing: false,
            idle_renotify: false,
            nr_running: 0,
            nr_immed: 0,
            ops_qseq: 0,
            kick_sync: 0,
            runnable: List::default(),
            fair: List::default(),
            buf: Vec::new(),
            nr_dispatched: 0,
            deferred: Deferred::default(),
            kicks: Kicks::default(),
            events: EventStats::default(),
            remote_activate_enq_flags: 0,
            distribute_prev: None,
            cpuperf_target: 1024,
        }
    }
}
