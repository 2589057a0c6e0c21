//! Small types of the core's interface.

use harena_abi::{Cpu, DsqId, Nanos, Tid};

use crate::CpuSet;

/// Settings of the simulated kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreConfig {
    /// Ticks per second (`CONFIG_HZ`).
    pub hz: u32,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self { hz: 1000 }
    }
}

/// How the current task leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// It would go on running: preemption, yield, or a mere reschedule.
    Runnable,
    /// It sleeps.
    Sleeping,
    /// It is dead after this.
    Exiting,
}

/// What a reschedule did; `None` is the idle task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switched {
    /// Who was current.
    pub prev: Option<Tid>,
    /// Who is now; may be the same.
    pub next: Option<Tid>,
}

/// Scheduling classes in increasing order of rank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// The idle task.
    Idle,
    /// sched_ext.
    Ext,
    /// Everything that is not sched_ext's: all tasks while no scheduler is attached.
    /// A plain round robin per CPU stands for it.
    Fair,
    /// The stopper, which moves tasks off CPUs they may no longer use.
    Stop,
}

/// `p->scx.flags & SCX_TASK_STATE_MASK`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    /// `SCX_TASK_NONE`.
    None,
    /// `SCX_TASK_INIT_BEGIN`.
    InitBegin,
    /// `SCX_TASK_INIT`.
    Init,
    /// `SCX_TASK_READY`.
    Ready,
    /// `SCX_TASK_ENABLED`.
    Enabled,
    /// `SCX_TASK_DEAD`.
    Dead,
}

/// What the core says of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskView<'a> {
    /// `comm`.
    pub comm: &'a str,
    /// Its thread group: the number of the task that leads it.
    pub tgid: Tid,
    /// `task_cpu(p)`.
    pub cpu: Cpu,
    /// Its class.
    pub class: Class,
    /// Its sched_ext state.
    pub state: TaskState,
    /// `p->scx.flags`.
    pub scx_flags: u32,
    /// Whether it is runnable, running or queued.
    pub runnable: bool,
    /// Whether it is current on its CPU.
    pub running: bool,
    /// The queue it is linked on; local ones as `SCX_DSQ_LOCAL_ON | cpu`.
    pub dsq: Option<DsqId>,
    /// CPUs it may run on.
    pub allowed: &'a CpuSet,
    /// `p->scx.weight`.
    pub weight: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// -20 ..= 19.
    pub nice: i32,
    /// `PF_*`.
    pub flags: u32,
    /// Time it ran so far, without the slice now running.
    pub sum_exec_runtime: Nanos,
    /// Cgroup id.
    pub cgroup: u64,
}

/// `ops` refused before anything was touched: what loading the struct_ops map returns.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnableError {
    /// A scheduler is attached already (-EBUSY).
    #[error("a sched_ext scheduler is already attached")]
    Busy,
    /// -EINVAL.
    #[error("ops.name is empty")]
    NoName,
    /// -ENAMETOOLONG.
    #[error("ops.name is {len} bytes long; at most 127 fit")]
    NameTooLong {
        /// Its length.
        len: usize,
    },
    /// -EINVAL.
    #[error("ops.flags has unknown bits {unknown:#x} (flags {flags:#x})")]
    UnknownFlags {
        /// All flags.
        flags: u64,
        /// The unknown ones.
        unknown: u64,
    },
    /// -EINVAL.
    #[error("ops.dispatch_max_batch {batch} is above {max}")]
    MaxBatch {
        /// What was asked.
        batch: u32,
        /// `INT_MAX`.
        max: u32,
    },
    /// -E2BIG.
    #[error("ops.timeout_ms {timeout_ms} is above {max}")]
    Timeout {
        /// What was asked.
        timeout_ms: u32,
        /// 30000.
        max: u32,
    },
}

/// One of the event counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    /// The kernel's name.
    pub(crate) name: &'static str,
    pub(crate) of: fn(&mut EventStats) -> &mut i64,
}

macro_rules! event_stats {
    ($($doc:literal $field:ident $kernel:literal;)*) => {
        /// `struct scx_event_stats`.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct EventStats {
            $(#[doc = $doc] pub $field: i64,)*
        }

        impl EventStats {
            /// Counters with the kernel's names, in its order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, i64)> + use<> {
                [$(($kernel, self.$field),)*].into_iter()
            }

            /// Adds another CPU's counters.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }
        }

        /// The counters, for whoever counts.
        #[expect(
            dead_code,
            non_upper_case_globals,
            reason = "those of what is not modelled; named as the fields"
        )]
        pub(crate) mod counter {
            use super::{Counter, EventStats};

            $(pub(crate) const $field: Counter = Counter {
                name: $kernel,
                of: |stats: &mut EventStats| &mut stats.$field,
            };)*
        }
    };
}

event_stats! {
    "Enqueued on another CPU than the selected one." select_cpu_fallback "SCX_EV_SELECT_CPU_FALLBACK";
    "Dispatched to the local DSQ of an offline CPU." dispatch_local_dsq_offline "SCX_EV_DISPATCH_LOCAL_DSQ_OFFLINE";
    "The last task was kept." dispatch_keep_last "SCX_EV_DISPATCH_KEEP_LAST";
    "An exiting task skipped `ops.enqueue`." enq_skip_exiting "SCX_EV_ENQ_SKIP_EXITING";
    "A migration-disabled task skipped `ops.enqueue`." enq_skip_migration_disabled "SCX_EV_ENQ_SKIP_MIGRATION_DISABLED";
    "Re-enqueued for `SCX_ENQ_IMMED`." reenq_immed "SCX_EV_REENQ_IMMED";
    "Re-enqueued again without running." reenq_repeat "SCX_EV_REENQ_REPEAT";
    "Slice set to the default." refill_slice_dfl "SCX_EV_REFILL_SLICE_DFL";
    "Out-of-band slice clamped." slice_clamped "SCX_EV_SLICE_CLAMPED";
    "Slice write refused." slice_denied "SCX_EV_SLICE_DENIED";
    "Time in bypass, ns." bypass_duration "SCX_EV_BYPASS_DURATION";
    "Tasks that went through the bypass DSQ." bypass_dispatch "SCX_EV_BYPASS_DISPATCH";
    "Times bypass began." bypass_activate "SCX_EV_BYPASS_ACTIVATE";
    "Inserts of tasks of another scheduler." insert_not_owned "SCX_EV_INSERT_NOT_OWNED";
    "Sub-scheduler bypass dispatches." sub_bypass_dispatch "SCX_EV_SUB_BYPASS_DISPATCH";
    "Sub-scheduler forced admissions." sub_forced_admit "SCX_EV_SUB_FORCED_ADMIT";
    "Sub-scheduler preemptions refused." sub_preempt_denied "SCX_EV_SUB_PREEMPT_DENIED";
    "Sub-scheduler kicks refused." sub_kick_denied "SCX_EV_SUB_KICK_DENIED";
    "Sub-scheduler re-enqueues refused." sub_reenq_denied "SCX_EV_SUB_REENQ_DENIED";
    "Sub-scheduler cidperf refused." sub_cidperf_denied "SCX_EV_SUB_CIDPERF_DENIED";
    "Rescued tasks." sub_rescue "SCX_EV_SUB_RESCUE";
}

/// Arguments of an insert (`scx_bpf_dsq_insert`, `__scx_bpf_dsq_insert_vtime`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insert {
    /// Target; `SCX_DSQ_LOCAL_ON | cpu` or `| cid` by the scheduler's form.
    pub dsq: DsqId,
    /// Slice; 0 keeps the current one.
    pub slice: u64,
    /// Vtime; `None` for a FIFO insert.
    pub vtime: Option<u64>,
    /// `SCX_ENQ_*`.
    pub enq_flags: u64,
}

/// A live DSQ iterator (`bpf_iter_scx_dsq`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IterId(pub u32);
