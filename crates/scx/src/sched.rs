//! The attached scheduler (`struct scx_sched`).
//!
//! ```text
//! Disabled ──enable──► Enabling ──► Enabled ──exit claimed, next event──► Disabling ──► Disabled
//!                          └───────── any failure ────────────────────────────┘
//! ```

use harena_abi::{SimTime, scx};

use crate::{ExitInfo, Form, Op, OpsConfig};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EnableState {
    Disabled,
    Enabling,
    Enabled,
    Disabling,
}

/// A set of callbacks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpSet(u64);

impl OpSet {
    pub(crate) const fn has(self, op: Op) -> bool {
        self.0 >> (op as u32) & 1 == 1
    }

    pub(crate) fn insert(&mut self, op: Op) {
        self.0 |= 1 << (op as u32);
    }
}

impl FromIterator<Op> for OpSet {
    fn from_iter<I: IntoIterator<Item = Op>>(ops: I) -> Self {
        let mut set = Self::default();
        for op in ops {
            set.insert(op);
        }
        set
    }
}

#[derive(Debug)]
pub(crate) struct Sched {
    pub(crate) state: EnableState,
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) flags: u64,
    /// Callbacks that may be called now; fewer than are set while enabling.
    pub(crate) has: OpSet,
    /// Callbacks that are set.
    pub(crate) set: OpSet,
    /// `ops.init` succeeded.
    pub(crate) initialized: bool,
    pub(crate) has_cpu_preempt: bool,
    pub(crate) max_batch: u32,
    pub(crate) exit_dump_len: usize,
    pub(crate) shard_size: u32,
    /// `p->scx.slice` of a default refill.
    pub(crate) slice_dfl: u64,
    pub(crate) bypass_depth: u32,
    pub(crate) bypass_since: SimTime,
    /// An exit was claimed: queues but the bypass ones yield nothing.
    pub(crate) aborting: bool,
    /// The claimed exit.
    pub(crate) exit: Option<ExitInfo>,
    /// `scx_enabled()`: the ext class is picked from.
    pub(crate) enabled: bool,
    /// `scx_switched_all()` or on the way there: all normal tasks are ext.
    pub(crate) switching_all: bool,
    pub(crate) init_task_enabled: bool,
    /// In jiffies.
    pub(crate) watchdog_timeout: u64,
    pub(crate) watchdog_checked: u64,
    pub(crate) builtin_idle: bool,
    pub(crate) idle_per_node: bool,
    pub(crate) prepared: bool,
    pub(crate) nr_rejected: u64,
    /// Log lines of the kernel that a user would see (`dmesg`).
    pub(crate) log: Vec<String>,
    pub(crate) warned_zero_slice: bool,
    pub(crate) dump: Option<crate::dump::DumpBuf>,
}

impl Sched {
    /// No scheduler.
    pub(crate) fn none() -> Self {
        Self {
            state: EnableState::Disabled,
            name: String::new(),
            form: Form::Cpu,
            flags: 0,
            has: OpSet::default(),
            set: OpSet::default(),
            initialized: false,
            has_cpu_preempt: false,
            max_batch: 0,
            exit_dump_len: 0,
            shard_size: 0,
            slice_dfl: scx::SCX_SLICE_DFL,
            bypass_depth: 0,
            bypass_since: SimTime::ZERO,
            aborting: false,
            exit: None,
            enabled: false,
            switching_all: false,
            init_task_enabled: false,
            watchdog_timeout: 0,
            watchdog_checked: 0,
            builtin_idle: false,
            idle_per_node: false,
            prepared: false,
            nr_rejected: 0,
            log: Vec::new(),
            warned_zero_slice: false,
            dump: None,
        }
    }

    /// What `config` asks for, with the kernel's defaults filled in.
    pub(crate) fn new(config: &OpsConfig, hz: u32) -> Self {
        let or_dfl = |v: u32, dfl: u64| if v == 0 { dfl } else { u64::from(v) };
        let timeout_ms = or_dfl(config.timeout_ms, scx::SCX_WATCHDOG_MAX_TIMEOUT);
        let has_idle_op = config.has.contains(&Op::UpdateIdle);
        Self {
            state: EnableState::Enabling,
            name: config.name.clone(),
            form: config.form,
            flags: config.flags,
            set: config.has.iter().copied().collect(),
            max_batch: match config.dispatch_max_batch {
                0 => 32,
                batch => batch,
            },
            exit_dump_len: usize::try_from(or_dfl(
                config.exit_dump_len,
                scx::SCX_EXIT_DUMP_DFL_LEN,
            ))
            .expect("a u32 fits"),
            shard_size: match config.cid_shard_size {
                0 => 24,
                size => size,
            },
            watchdog_timeout: (timeout_ms * u64::from(hz)).div_ceil(1000),
            builtin_idle: !has_idle_op || config.flags & scx::SCX_OPS_KEEP_BUILTIN_IDLE != 0,
            idle_per_node: config.flags & scx::SCX_OPS_BUILTIN_IDLE_PER_NODE != 0,
            ..Self::none()
        }
    }

    pub(crate) fn has_flag(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}
