//! A scheduler as the core sees it: both forms of `struct sched_ext_ops` in one trait.
//!
//! CPUs are `Cpu` here in both forms. A cid-form scheduler's adapter translates at its
//! own edge (`Core::cids`), as the kernel's two helpers do.

use harena_abi::{Cpu, DsqId, Errno, Nanos, SimTime, Tid};

use crate::{Core, CpuSet, Machine, Moment, MomentSet};

/// Which of the two interfaces a scheduler was written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `struct sched_ext_ops`: raw CPU numbers.
    Cpu,
    /// `struct sched_ext_ops_cid`: dense topology-ordered ids, cmasks in an arena.
    Cid,
}

macro_rules! ops {
    ($($variant:ident $cpu_name:literal $cid_name:literal;)*) => {
        /// A callback of a scheduler, in the order of the ops table.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[expect(missing_docs, reason = "each is the ops member of that name")]
        pub enum Op { $($variant,)* }

        impl Op {
            /// Every callback, in the order of the ops table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The member's name in the given form.
            #[must_use]
            pub const fn name(self, form: Form) -> &'static str {
                match (self, form) {
                    $((Self::$variant, Form::Cpu) => $cpu_name,
                      (Self::$variant, Form::Cid) => $cid_name,)*
                }
            }
        }
    };
}

ops! {
    SelectCpu "select_cpu" "select_cid";
    Enqueue "enqueue" "enqueue";
    Dequeue "dequeue" "dequeue";
    Dispatch "dispatch" "dispatch";
    Tick "tick" "tick";
    Runnable "runnable" "runnable";
    Running "running" "running";
    Stopping "stopping" "stopping";
    Quiescent "quiescent" "quiescent";
    Yield "yield" "yield";
    CoreSchedBefore "core_sched_before" "core_sched_before";
    SetWeight "set_weight" "set_weight";
    SetCpumask "set_cpumask" "set_cmask";
    UpdateIdle "update_idle" "update_idle";
    InitTask "init_task" "init_task";
    ExitTask "exit_task" "exit_task";
    Enable "enable" "enable";
    Disable "disable" "disable";
    Dump "dump" "dump";
    DumpCpu "dump_cpu" "dump_cid";
    DumpTask "dump_task" "dump_task";
    InitCids "init_cids" "init_cids";
    Init "init" "init";
    Exit "exit" "exit";
    CpuAcquire "cpu_acquire" "cpu_acquire";
    CpuRelease "cpu_release" "cpu_release";
}

/// The scalar members of the ops table, and which callbacks are set.
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// `name`.
    pub name: String,
    /// Which table this is.
    pub form: Form,
    /// `flags` (`SCX_OPS_*`).
    pub flags: u64,
    /// `timeout_ms`; 0 means 30 s.
    pub timeout_ms: u32,
    /// `dispatch_max_batch`; 0 means 32.
    pub dispatch_max_batch: u32,
    /// `exit_dump_len`; 0 means 32768.
    pub exit_dump_len: u32,
    /// `hotplug_seq`; 0 means unchecked.
    pub hotplug_seq: u64,
    /// `cid_shard_size`; 0 means 24.
    pub cid_shard_size: u32,
    /// Callbacks that are set.
    pub has: std::collections::BTreeSet<Op>,
}

/// What an event of the core needs beside the core: the attached scheduler, and the machine.
///
/// Also what a kfunc needs that may run another callback; inside a callback it is made
/// with [`Cx::with`].
pub struct Env<'a> {
    /// The scheduler. Ignored while none is attached.
    pub ops: &'a mut dyn SchedOps,
    /// The machine.
    pub machine: &'a mut dyn Machine,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

impl Cx<'_> {
    /// The core, and the environment for a kfunc that may call back into `ops`.
    pub fn with<'b>(&'b mut self, ops: &'b mut dyn SchedOps) -> (&'b mut Core, Env<'b>) {
        (
            self.core,
            Env {
                ops,
                machine: self.machine,
            },
        )
    }
}

/// What a callback may use: the core it was called from, and the machine.
pub struct Cx<'a> {
    /// The core; kfuncs are its `kf_*` methods.
    pub core: &'a mut Core,
    /// The machine.
    pub machine: &'a mut dyn Machine,
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

/// A scheduler. Absent callbacks (`OpsConfig::has`) are never called, so their default
/// bodies here only spare a Rust scheduler from spelling them out.
///
/// Callbacks run inside the core: they may call its kfuncs through `cx`, and such a
/// kfunc may call another callback (`dequeue` while `dispatch` moves a task).
pub trait SchedOps {
    /// Scalar members and the set of callbacks; constant while attached.
    fn config(&self) -> &OpsConfig;

    /// Called when the cid tables are published and before `init`: the moment at which
    /// the kernel sets up the arena pool and the per-CPU cmasks.
    fn prepare(&mut self, cx: &mut Cx<'_>) -> Result<(), Errno> {
        let _ = cx;
        Ok(())
    }

    /// The counterpart of `prepare`, after `exit`. Always called once if `prepare` was.
    fn release(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// `ops.select_cpu`; `Err` carries a number that is no CPU, as the scheduler gave it.
    fn select_cpu(
        &mut self,
        cx: &mut Cx<'_>,
        p: Tid,
        prev: Cpu,
        wake_flags: u64,
    ) -> Result<Cpu, i32> {
        let _ = (cx, p, wake_flags);
        Ok(prev)
    }
    /// `ops.enqueue`.
    fn enqueue(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        let _ = (cx, p, enq_flags);
    }
    /// `ops.dequeue`.
    fn dequeue(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        let _ = (cx, p, deq_flags);
    }
    /// `ops.dispatch`.
    fn dispatch(&mut self, cx: &mut Cx<'_>, cpu: Cpu, prev: Option<Tid>) {
        let _ = (cx, cpu, prev);
    }
    /// `ops.tick`.
    fn tick(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let _ = (cx, p);
    }
    /// `ops.runnable`.
    fn runnable(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        let _ = (cx, p, enq_flags);
    }
    /// `ops.running`.
    fn running(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let _ = (cx, p);
    }
    /// `ops.stopping`.
    fn stopping(&mut self, cx: &mut Cx<'_>, p: Tid, runnable: bool) {
        let _ = (cx, p, runnable);
    }
    /// `ops.quiescent`.
    fn quiescent(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        let _ = (cx, p, deq_flags);
    }
    /// `ops.yield`; `to` is `None` for `sched_yield()`.
    fn yield_to(&mut self, cx: &mut Cx<'_>, from: Tid, to: Option<Tid>) -> bool {
        let _ = (cx, from, to);
        false
    }
    /// `ops.set_weight`.
    fn set_weight(&mut self, cx: &mut Cx<'_>, p: Tid, weight: u32) {
        let _ = (cx, p, weight);
    }
    /// `ops.set_cpumask` or `ops.set_cmask`.
    fn set_cpumask(&mut self, cx: &mut Cx<'_>, p: Tid, allowed: &CpuSet) {
        let _ = (cx, p, allowed);
    }
    /// `ops.update_idle`.
    fn update_idle(&mut self, cx: &mut Cx<'_>, cpu: Cpu, idle: bool) {
        let _ = (cx, cpu, idle);
    }
    /// `ops.init_task`: 0 or the callback's raw return value.
    fn init_task(&mut self, cx: &mut Cx<'_>, p: Tid, args: InitTask) -> i32 {
        let _ = (cx, p, args);
        0
    }
    /// `ops.exit_task`.
    fn exit_task(&mut self, cx: &mut Cx<'_>, p: Tid, args: ExitTask) {
        let _ = (cx, p, args);
    }
    /// `ops.enable`.
    fn enable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let _ = (cx, p);
    }
    /// `ops.disable`.
    fn disable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let _ = (cx, p);
    }
    /// `ops.init_cids`: 0 or the callback's raw return value.
    fn init_cids(&mut self, cx: &mut Cx<'_>) -> i32 {
        let _ = cx;
        0
    }
    /// `ops.init`: 0 or the callback's raw return value.
    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        let _ = cx;
        0
    }
    /// `ops.exit`.
    fn exit(&mut self, cx: &mut Cx<'_>, info: &ExitInfo) {
        let _ = (cx, info);
    }
    /// `ops.dump`: start of a debug dump; text goes through `Core::kf_dump`.
    fn dump(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx) {
        let _ = (cx, ctx);
    }
    /// `ops.dump_cpu` or `ops.dump_cid`.
    fn dump_cpu(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx, cpu: Cpu, idle: bool) {
        let _ = (cx, ctx, cpu, idle);
    }
    /// `ops.dump_task`.
    fn dump_task(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx, p: Tid) {
        let _ = (cx, ctx, p);
    }
    /// `ops.cpu_acquire`: the CPU is back from a higher class.
    fn cpu_acquire(&mut self, cx: &mut Cx<'_>, cpu: Cpu) {
        let _ = (cx, cpu);
    }
    /// `ops.cpu_release`: a higher class takes the CPU; `reason` is `SCX_CPU_PREEMPT_*`.
    fn cpu_release(&mut self, cx: &mut Cx<'_>, cpu: Cpu, reason: u32, next: Option<Tid>) {
        let _ = (cx, cpu, reason, next);
    }
    /// The moments that are to be told; the embedder hands them to [`Core::set_traced`].
    fn traces(&self) -> MomentSet {
        MomentSet::NONE
    }
    /// A moment that was asked for ([`Core::set_traced`]); a scheduler may be attached or not.
    fn trace(&mut self, cx: &mut Cx<'_>, moment: &Moment<'_>) {
        let _ = (cx, moment);
    }
    /// A timer of the scheduler's own fired (`Machine::timer_arm`).
    fn timer(&mut self, cx: &mut Cx<'_>, key: u64) {
        let _ = (cx, key);
    }
}

/// `struct scx_init_task_args`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitTask {
    /// Whether this is a fork (and not the scheduler being enabled).
    pub fork: bool,
    /// The task's cgroup.
    pub cgroup: CgroupRef,
}

/// `struct scx_exit_task_args`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitTask {
    /// Whether the task never ran because its fork failed.
    pub cancelled: bool,
}

/// `struct scx_dump_ctx`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpCtx {
    /// `SCX_EXIT_*`.
    pub kind: u32,
    /// The exit code.
    pub exit_code: i64,
    /// The kernel's text for `kind`.
    pub reason: &'static str,
    /// When the dump was taken.
    pub at: SimTime,
    /// The same in jiffies.
    pub at_jiffies: u64,
}

/// A cgroup by id; 1 is the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CgroupRef(pub u64);

/// `struct scx_exit_info`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExitInfo {
    /// `SCX_EXIT_*`.
    pub kind: u32,
    /// The code given by the scheduler or the kernel.
    pub code: i64,
    /// `SCX_EFLAG_*`.
    pub flags: u64,
    /// CPU on which the exit was claimed.
    pub cpu: Option<Cpu>,
    /// The kernel's text for `kind`.
    pub reason: String,
    /// What went wrong.
    pub message: String,
    /// The debug dump; empty unless `kind` is an error.
    pub dump: String,
    /// The task behind `SCX_EXIT_ERROR_STALL`.
    pub stall: Option<Stall>,
}

/// A task that waited longer than the watchdog allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stall {
    /// The task.
    pub task: Tid,
    /// Its name.
    pub comm: String,
    /// Its run queue.
    pub cpu: Cpu,
    /// The queue it waits on; local ones as `SCX_DSQ_LOCAL_ON | cpu`. `None`: the
    /// scheduler has the task and never dispatched it.
    pub dsq: Option<DsqId>,
    /// For how long.
    pub waited: Nanos,
}
