//! Tasks as the core keeps them (`struct task_struct`, `struct sched_ext_entity`).
//!
//! ```text
//!  NONE ─► INIT_BEGIN ─► INIT ─► READY ◄─► ENABLED      the sched_ext state
//!                                  └──► NONE / DEAD
//!  New ─► Runnable ◄─► Sleeping                          the core's own
//!             └──► Dead
//! ```
//!
//! `p->scx.slice`, `.dsq_vtime` and `.disallow` are not here: the image is their one
//! true place, because programs write them with plain stores.

use std::sync::Arc;

use harena_abi::{Cpu, SimTime, Tid, scx};

use crate::{Class, CpuSet, TaskSpec, TaskState};

/// `p->scx.ops_state`: who may say where the task goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpsState {
    /// The core.
    None,
    /// On its way to the scheduler, in `ops.enqueue`.
    Queueing,
    /// The scheduler; the number brands this stay.
    Queued(u64),
    /// On its way back.
    Dispatching,
}

/// What an insert brings along, to be committed when the task is linked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Carry {
    /// 0 keeps the slice.
    pub(crate) slice: u64,
    /// Counts only with `SCX_ENQ_DSQ_PRIQ`.
    pub(crate) vtime: u64,
    pub(crate) enq_flags: u64,
}

impl Carry {
    /// Flags alone: slice and vtime stay as they are.
    pub(crate) fn flags(enq_flags: u64) -> Self {
        Self {
            enq_flags,
            ..Self::default()
        }
    }

    pub(crate) fn with(self, enq_flags: u64) -> Self {
        Self {
            enq_flags: self.enq_flags | enq_flags,
            ..self
        }
    }
}

/// A pending direct dispatch (`p->scx.ddsp_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) dsq_id: u64,
    pub(crate) carry: Carry,
}

/// Where the task is between fork and death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RunState {
    /// Forked, never woken.
    New,
    /// Running or waiting for a CPU.
    Runnable,
    Sleeping,
    Dead,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) comm: String,
    /// Thread group; `None` is the task itself.
    pub(crate) tgid: Option<Tid>,
    pub(crate) flags: u32,
    pub(crate) policy: u32,
    pub(crate) nice: i32,
    /// Shared, so that a search over it need not copy it.
    pub(crate) allowed: Arc<CpuSet>,
    pub(crate) nr_allowed: u32,
    pub(crate) cgroup: u64,
    pub(crate) cpu: Cpu,
    pub(crate) class: Class,
    pub(crate) run: RunState,
    /// `task_on_rq_migrating()`.
    pub(crate) migrating: bool,
    /// The task's CPU is outside its mask and the stopper is on its way.
    pub(crate) migration_pending: Option<Cpu>,
    pub(crate) migration_disabled: bool,
    pub(crate) scx_flags: u32,
    pub(crate) weight: u32,
    pub(crate) ops_state: OpsState,
    pub(crate) ddsp: Option<Verdict>,
    /// Set while the core itself moves the task to this CPU.
    pub(crate) sticky_cpu: Option<Cpu>,
    pub(crate) selected_cpu: Option<Cpu>,
    pub(crate) runnable_at: u64,
    pub(crate) reenq_cnt: u32,
    pub(crate) slice_oob: Option<u64>,
    pub(crate) exec_start: SimTime,
    pub(crate) sum_exec: u64,
    pub(crate) fair_slice: u64,
}

impl Task {
    pub(crate) fn new(spec: &TaskSpec, class: Class, jiffies: u64) -> Self {
        Self {
            comm: spec.comm.chars().take(15).collect(),
            tgid: spec.tgid,
            flags: spec.flags,
            policy: spec.policy,
            nice: spec.nice,
            allowed: Arc::new(spec.allowed.clone()),
            nr_allowed: spec.allowed.len(),
            cgroup: spec.cgroup,
            cpu: spec.cpu,
            class,
            run: RunState::New,
            migrating: false,
            migration_pending: None,
            migration_disabled: false,
            scx_flags: 0,
            weight: 0,
            ops_state: OpsState::None,
            ddsp: None,
            sticky_cpu: None,
            selected_cpu: None,
            runnable_at: jiffies,
            reenq_cnt: 0,
            slice_oob: None,
            exec_start: SimTime::ZERO,
            sum_exec: 0,
            fair_slice: 0,
        }
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.scx_flags & flag != 0
    }

    pub(crate) fn state(&self) -> TaskState {
        match self.scx_flags & scx::SCX_TASK_STATE_MASK {
            scx::SCX_TASK_INIT_BEGIN => TaskState::InitBegin,
            scx::SCX_TASK_INIT => TaskState::Init,
            scx::SCX_TASK_READY => TaskState::Ready,
            scx::SCX_TASK_ENABLED => TaskState::Enabled,
            scx::SCX_TASK_DEAD => TaskState::Dead,
            _ => TaskState::None,
        }
    }
}

/// Tasks by number. Numbers are never reused; a dead task leaves an empty slot.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Vec<Option<Box<Task>>>);

impl Tasks {
    /// Adds a task under the next number, counting from 1.
    pub(crate) fn add(&mut self, task: Task) -> Option<Tid> {
        if self.0.is_empty() {
            self.0.push(None);
        }
        let p = Tid::from_s32(i32::try_from(self.0.len()).ok()?)?;
        self.0.push(Some(Box::new(task)));
        Some(p)
    }

    pub(crate) fn remove(&mut self, p: Tid) {
        if let Some(slot) = self.0.get_mut(p.index()) {
            *slot = None;
        }
    }

    pub(crate) fn get(&self, p: Tid) -> Option<&Task> {
        self.0.get(p.index())?.as_deref()
    }

    /// Those with a number above `p`.
    pub(crate) fn tids_after(&self, p: Tid) -> impl Iterator<Item = Tid> + '_ {
        let first = p.raw().saturating_add(1);
        let slots = self.0.get(first as usize..).unwrap_or_default();
        let tids = (first..).map(Tid::new);
        tids.zip(slots)
            .filter_map(|(p, slot)| slot.as_ref().map(|_| p))
    }

    pub(crate) fn tids(&self) -> impl Iterator<Item = Tid> + '_ {
        let tids = (0u32..).map(Tid::new);
        tids.zip(&self.0)
            .filter_map(|(p, slot)| slot.as_ref().map(|_| p))
    }
}

impl std::ops::Index<Tid> for Tasks {
    type Output = Task;

    fn index(&self, p: Tid) -> &Task {
        self.get(p)
            .expect("the core keeps no number of a dead task")
    }
}

impl std::ops::IndexMut<Tid> for Tasks {
    fn index_mut(&mut self, p: Tid) -> &mut Task {
        self.0[p.index()]
            .as_deref_mut()
            .expect("the core keeps no number of a dead task")
    }
}
