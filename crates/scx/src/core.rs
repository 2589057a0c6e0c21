//! The core's state, its queries, and how it calls a scheduler.
//!
//! Events are in the file of their notion (`schedule` in `pick.rs`, `wakeup` in
//! `wakeup.rs`, ...). All of them take an [`Env`]; the core never calls anything else.

use harena_abi::{Cpu, DsqId, Nanos, SimTime, Tid, scx};

use crate::dsq::{DsqRef, Dsqs};
use crate::idle::IdleMasks;
use crate::list::Links;
use crate::rq::Rq;
use crate::sched::{EnableState, Sched};
use crate::task::{RunState, Task, Tasks};
use crate::{
    CidMap, Class, CoreConfig, CpuSet, Cx, Env, Event, EventStats, ExitInfo, Image, Machine,
    MomentSet, Op, SchedOps, TaskView, Topology,
};

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(crate) topology: Topology,
    pub(crate) config: CoreConfig,
    pub(crate) image: Box<dyn Image>,
    pub(crate) online: CpuSet,
    pub(crate) tasks: Tasks,
    pub(crate) rqs: Vec<Rq>,
    pub(crate) dsqs: Dsqs,
    /// Links of the runnable lists, and of the fair queues.
    pub(crate) runnable_links: Links,
    pub(crate) fair_links: Links,
    pub(crate) sched: Sched,
    pub(crate) cids: CidMap,
    pub(crate) idle: IdleMasks,
    /// The callback that runs now, innermost.
    pub(crate) op: Option<OpCx>,
    pub(crate) exit_info: Option<ExitInfo>,
    pub(crate) hotplug_seq: u64,
    /// The moments to tell.
    pub(crate) traced: MomentSet,
    /// A switch under way: the CPU, and who is still `current` there.
    pub(crate) switching_from: Option<(Cpu, Option<Tid>)>,
}

/// What the core knows of a running callback.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpCx {
    pub(crate) op: Op,
    /// The locked run queue (`scx_locked_rq()`).
    pub(crate) rq: Option<Cpu>,
    /// Tasks the callback is about (`current->scx.kf_tasks`).
    pub(crate) tasks: [Option<Tid>; 2],
    pub(crate) ddsp: DirectDispatch,
}

/// `direct_dispatch_task`: whether an insert is a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DirectDispatch {
    /// Not in `select_cpu` or `enqueue`.
    No,
    /// For this task.
    Of(Tid),
    /// There was one already.
    Spoiled,
}

impl Core {
    /// A machine without a scheduler and without tasks; every CPU is online and idle.
    #[must_use]
    pub fn new(topology: Topology, config: CoreConfig, image: Box<dyn Image>) -> Self {
        let mut image = image;
        let nr_cpus = topology.nr_cpus();
        let online: CpuSet = topology.cpus().collect();
        for cpu in topology.cpus() {
            image.set_mask_bit(crate::MaskKind::Online, None, cpu, true);
            image.set_mask_bit(crate::MaskKind::Possible, None, cpu, true);
            image.set_curr(cpu, None);
        }
        Self {
            dsqs: Dsqs::new(nr_cpus, topology.nr_nodes()),
            idle: IdleMasks::new(&topology),
            rqs: (0..nr_cpus).map(|_| Rq::new()).collect(),
            cids: CidMap::assign(&topology, &online, 24),
            tasks: Tasks::default(),
            runnable_links: Links::default(),
            fair_links: Links::default(),
            sched: Sched::none(),
            op: None,
            exit_info: None,
            hotplug_seq: 0,
            traced: MomentSet::NONE,
            switching_from: None,
            topology,
            config,
            image,
            online,
        }
    }

    /// Why the scheduler left, once it has.
    #[must_use]
    pub fn exit_info(&self) -> Option<&ExitInfo> {
        self.exit_info.as_ref()
    }

    /// Whether a scheduler is attached and not leaving.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.sched.state == EnableState::Enabled && self.sched.exit.is_none()
    }

    /// Whether the scheduler is bypassed.
    #[must_use]
    pub fn is_bypassing(&self) -> bool {
        self.sched.bypass_depth > 0
    }

    /// What the kernel would have logged since the scheduler was attached.
    #[must_use]
    pub fn log(&self) -> &[String] {
        &self.sched.log
    }

    /// The machine's CPUs.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Settings.
    #[must_use]
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Online CPUs.
    #[must_use]
    pub fn online(&self) -> &CpuSet {
        &self.online
    }

    /// CPUs that built-in idle tracking holds idle, over all nodes.
    #[must_use]
    pub fn idle_cpus(&self) -> CpuSet {
        self.idle.all_idle()
    }

    /// The current task of `cpu`; `None` is the idle task.
    #[must_use]
    pub fn curr(&self, cpu: Cpu) -> Option<Tid> {
        self.rqs[cpu.index()].curr
    }

    /// A task's state, or `None` if there is none of this number (any more).
    #[must_use]
    pub fn task(&self, p: Tid) -> Option<TaskView<'_>> {
        let t = self.tasks.get(p)?;
        Some(TaskView {
            comm: &t.comm,
            tgid: t.tgid.unwrap_or(p),
            cpu: t.cpu,
            class: t.class,
            state: t.state(),
            scx_flags: t.scx_flags,
            runnable: t.run == RunState::Runnable,
            running: self.is_current(p),
            dsq: self.dsqs.dsq_of(p).map(|r| self.dsqs.id(r)),
            allowed: &t.allowed,
            weight: t.weight,
            policy: t.policy,
            nice: t.nice,
            flags: t.flags,
            sum_exec_runtime: Nanos::new(t.sum_exec),
            cgroup: t.cgroup,
        })
    }

    /// Live tasks in order of creation.
    pub fn tasks(&self) -> impl Iterator<Item = Tid> + '_ {
        self.tasks.tids()
    }

    /// Live tasks created after `p`, which may be gone or 0, in that order.
    pub fn tasks_after(&self, p: Tid) -> impl Iterator<Item = Tid> + '_ {
        self.tasks.tids_after(p)
    }

    /// Runnable tasks of `cpu`, the current one included.
    #[must_use]
    pub fn nr_running(&self, cpu: Cpu) -> u32 {
        self.rqs[cpu.index()].nr_running
    }

    /// Every dispatch queue with its length; local ones as `SCX_DSQ_LOCAL_ON | cpu`, bypass
    /// and global ones once per CPU and node.
    pub fn dsqs(&self) -> impl Iterator<Item = (DsqId, u32)> + '_ {
        self.dsqs.all()
    }

    /// Tasks of the local queue of `cpu`, in order.
    pub fn local_dsq(&self, cpu: Cpu) -> impl Iterator<Item = Tid> + '_ {
        self.dsqs.tasks(DsqRef::Local(cpu))
    }

    /// Tasks of a user queue in order, or `None` if there is no such queue.
    #[must_use]
    pub fn user_dsq(&self, dsq: DsqId) -> Option<Vec<Tid>> {
        let r = self.dsqs.find_user(dsq.raw())?;
        Some(self.dsqs.tasks(r).collect())
    }

    /// Event counters, summed over CPUs.
    #[must_use]
    pub fn event_stats(&self) -> EventStats {
        let mut sum = EventStats::default();
        for rq in &self.rqs {
            sum.add(&rq.events);
        }
        sum
    }

    /// The cid tables.
    #[must_use]
    pub fn cids(&self) -> &CidMap {
        &self.cids
    }

    /// The memory image.
    #[must_use]
    pub fn image(&self) -> &dyn Image {
        &*self.image
    }

    /// The memory image, for a scheduler that writes live cells.
    pub fn image_mut(&mut self) -> &mut dyn Image {
        &mut *self.image
    }

    /// Jiffies at `now`.
    pub(crate) fn jiffies(&self, now: SimTime) -> u64 {
        now.as_ns() / self.tick_ns()
    }

    /// Length of a jiffy.
    pub(crate) fn tick_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.config.hz.max(1))
    }

    pub(crate) fn rq(&self, cpu: Cpu) -> &Rq {
        &self.rqs[cpu.index()]
    }

    pub(crate) fn rq_mut(&mut self, cpu: Cpu) -> &mut Rq {
        &mut self.rqs[cpu.index()]
    }

    pub(crate) fn t(&self, p: Tid) -> &Task {
        &self.tasks[p]
    }

    /// `task_current()`.
    pub(crate) fn is_current(&self, p: Tid) -> bool {
        self.rqs[self.tasks[p].cpu.index()].curr == Some(p)
    }

    /// The class of the current task of `cpu`.
    pub(crate) fn curr_class(&self, cpu: Cpu) -> Class {
        self.rq(cpu)
            .curr
            .map_or(Class::Idle, |p| self.tasks[p].class)
    }

    /// `scx_bypassing()`.
    pub(crate) fn bypassing(&self, cpu: Cpu) -> bool {
        self.rq(cpu).bypassing
    }

    pub(crate) fn has_op(&self, op: Op) -> bool {
        self.sched.has.has(op)
    }

    /// Changes `p->scx.flags`: first `clear`, then `set`.
    pub(crate) fn set_flags(&mut self, p: Tid, clear: u32, set: u32) {
        let t = &mut self.tasks[p];
        let flags = t.scx_flags & !clear | set;
        if flags != t.scx_flags {
            t.scx_flags = flags;
            self.image.set_scx_flags(p, flags);
        }
    }

    pub(crate) fn set_state(&mut self, p: Tid, state: u32) {
        self.set_flags(p, scx::SCX_TASK_STATE_MASK, state);
    }

    /// `resched_curr()`. A switch under way clears the request, as the kernel's does.
    pub(crate) fn resched(&mut self, machine: &mut dyn Machine, cpu: Cpu) {
        if !self.rq(cpu).in_schedule {
            machine.resched(cpu);
        }
    }

    /// Runs a callback that is about one task (`SCX_CALL_OP_TASK`).
    pub(crate) fn call_task<R>(
        &mut self,
        env: &mut Env<'_>,
        op: Op,
        p: Tid,
        f: impl FnOnce(&mut dyn SchedOps, &mut Cx<'_>) -> R,
    ) -> R {
        let cx = OpCx {
            op,
            rq: Some(self.tasks[p].cpu),
            tasks: [Some(p), None],
            ddsp: DirectDispatch::No,
        };
        self.call(env, cx, f)
    }

    /// Runs a callback without tasks and, unless `rq` says so, without locks.
    pub(crate) fn call_bare<R>(
        &mut self,
        env: &mut Env<'_>,
        op: Op,
        rq: Option<Cpu>,
        f: impl FnOnce(&mut dyn SchedOps, &mut Cx<'_>) -> R,
    ) -> R {
        let cx = OpCx {
            op,
            rq,
            tasks: [None, None],
            ddsp: DirectDispatch::No,
        };
        self.call(env, cx, f)
    }

    /// Runs a callback.
    pub(crate) fn call<R>(
        &mut self,
        env: &mut Env<'_>,
        cx: OpCx,
        f: impl FnOnce(&mut dyn SchedOps, &mut Cx<'_>) -> R,
    ) -> R {
        env.machine.note(Event::Callback {
            op: cx.op,
            task: cx.tasks[0],
        });
        let outer = self.op.replace(cx);
        let ret = f(
            &mut *env.ops,
            &mut Cx {
                core: self,
                machine: &mut *env.machine,
            },
        );
        self.op = outer;
        ret
    }
}
