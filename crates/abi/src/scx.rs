//! sched_ext constants (`SCX_*`), with the kernel's names, values and enum types.
//!
//! One table gives both the Rust constants and [`ENUMS`], from which the kernel image's
//! BTF is described and the `__SCX_*` rodata of an object is filled by name: a value
//! cannot be right in one place and wrong in the other. Members that exist only in
//! trees later than v7.3 are left out, since a program tests for them by name.

/// One enum type of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnumTable {
    /// The type's name.
    pub name: &'static str,
    /// Size of the type in bytes.
    pub size: u32,
    /// Members in the kernel's order.
    pub members: &'static [(&'static str, u64)],
}

macro_rules! enums {
    ($($ename:ident: $ty:ident { $($name:ident = $value:expr,)* })*) => {
        $($(
            #[doc = concat!("`enum ", stringify!($ename), "`.")]
            pub const $name: $ty = $value;
        )*)*

        /// Every enum type of sched_ext.
        pub const ENUMS: &[EnumTable] = &[$(EnumTable {
            name: stringify!($ename),
            size: $ty::BITS / 8,
            members: &[$((stringify!($name), widen::$ty($name)),)*],
        },)*];
    };
}

/// Const widening, which `From` cannot do.
mod widen {
    pub(super) const fn u32(v: u32) -> u64 {
        v as u64
    }
    pub(super) const fn u64(v: u64) -> u64 {
        v
    }
}

enums! {
    scx_public_consts: u64 {
        SCX_OPS_NAME_LEN = 128,
        SCX_SLICE_DFL = 20_000_000,
        SCX_SLICE_BYPASS = 5_000_000,
        SCX_SLICE_INF = u64::MAX,
    }
    scx_consts: u64 {
        SCX_DSP_DFL_MAX_BATCH = 32,
        SCX_DSP_MAX_LOOPS = 32,
        SCX_WATCHDOG_MAX_TIMEOUT = 30_000,
        SCX_EXIT_BT_LEN = 64,
        SCX_EXIT_MSG_LEN = 1024,
        SCX_EXIT_DUMP_DFL_LEN = 32_768,
        SCX_CPUPERF_ONE = 1024,
        SCX_TASK_ITER_BATCH = 32,
        SCX_BYPASS_HOST_NTH = 2,
        SCX_BYPASS_LB_DFL_INTV_US = 500_000,
        SCX_BYPASS_LB_DONOR_PCT = 125,
        SCX_BYPASS_LB_MIN_DELTA_DIV = 4,
        SCX_BYPASS_LB_BATCH = 256,
        SCX_REENQ_MAX_REPEAT = 256,
        SCX_SUB_MAX_DEPTH = 4,
        SCX_TID_CHUNK = 1024,
        SCX_CID_SHARD_SIZE_DFL = 24,
        SCX_CID_SHARD_MAX_CPUS = 512,
        SCX_ARENA_MIN_ORDER = 3,
        SCX_ARENA_GROW_PAGES = 4,
    }
    scx_dsq_id_flags: u64 {
        SCX_DSQ_FLAG_BUILTIN = 1 << 63,
        SCX_DSQ_FLAG_LOCAL_ON = 1 << 62,
        SCX_DSQ_INVALID = 1 << 63,
        SCX_DSQ_GLOBAL = 1 << 63 | 1,
        SCX_DSQ_LOCAL = 1 << 63 | 2,
        SCX_DSQ_BYPASS = 1 << 63 | 3,
        SCX_DSQ_REJECT = 1 << 63 | 4,
        SCX_DSQ_RESCUE = 1 << 63 | 5,
        SCX_DSQ_LOCAL_ON = 1 << 63 | 1 << 62,
        SCX_DSQ_LOCAL_CPU_MASK = 0xffff_ffff,
    }
    scx_ent_flags: u32 {
        SCX_TASK_QUEUED = 1 << 0,
        SCX_TASK_IN_CUSTODY = 1 << 1,
        SCX_TASK_RESET_RUNNABLE_AT = 1 << 2,
        SCX_TASK_DEQD_FOR_SLEEP = 1 << 3,
        SCX_TASK_SUB_INIT = 1 << 4,
        SCX_TASK_IMMED = 1 << 5,
        SCX_TASK_PROTECTED = 1 << 6,
        SCX_TASK_STATE_SHIFT = 8,
        SCX_TASK_STATE_BITS = 3,
        SCX_TASK_STATE_MASK = 0x700,
        SCX_TASK_NONE = 0 << 8,
        SCX_TASK_INIT_BEGIN = 1 << 8,
        SCX_TASK_INIT = 2 << 8,
        SCX_TASK_READY = 3 << 8,
        SCX_TASK_ENABLED = 4 << 8,
        SCX_TASK_DEAD = 5 << 8,
        SCX_TASK_REENQ_REASON_SHIFT = 12,
        SCX_TASK_REENQ_REASON_BITS = 3,
        SCX_TASK_REENQ_REASON_MASK = 0x7000,
        SCX_TASK_REENQ_NONE = 0 << 12,
        SCX_TASK_REENQ_KFUNC = 1 << 12,
        SCX_TASK_REENQ_IMMED = 2 << 12,
        SCX_TASK_REENQ_PREEMPTED = 3 << 12,
        SCX_TASK_REENQ_CAP = 4 << 12,
        SCX_TASK_CURSOR = 1 << 31,
    }
    scx_ent_dsq_flags: u32 {
        SCX_TASK_DSQ_ON_PRIQ = 1 << 0,
    }
    scx_dsq_lnode_flags: u32 {
        SCX_DSQ_LNODE_ITER_CURSOR = 1 << 0,
        __SCX_DSQ_LNODE_PRIV_SHIFT = 16,
    }
    scx_dsq_iter_flags: u32 {
        SCX_DSQ_ITER_REV = 1 << 16,
        __SCX_DSQ_ITER_HAS_SLICE = 1 << 30,
        __SCX_DSQ_ITER_HAS_VTIME = 1 << 31,
        __SCX_DSQ_ITER_USER_FLAGS = 1 << 16,
        __SCX_DSQ_ITER_ALL_FLAGS = 1 << 16 | 1 << 30 | 1 << 31,
    }
    scx_exit_kind: u32 {
        SCX_EXIT_NONE = 0,
        SCX_EXIT_DONE = 1,
        SCX_EXIT_UNREG = 64,
        SCX_EXIT_UNREG_BPF = 65,
        SCX_EXIT_UNREG_KERN = 66,
        SCX_EXIT_SYSRQ = 67,
        SCX_EXIT_PARENT = 68,
        SCX_EXIT_PARENT_KILL = 69,
        SCX_EXIT_ERROR = 1024,
        SCX_EXIT_ERROR_BPF = 1025,
        SCX_EXIT_ERROR_STALL = 1026,
        SCX_EXIT_ERROR_REENQ = 1027,
        SCX_EXIT_ERROR_RESCUE = 1028,
    }
    scx_exit_code: u64 {
        SCX_ECODE_RSN_HOTPLUG = 1 << 32,
        SCX_ECODE_RSN_CGROUP_OFFLINE = 2 << 32,
        SCX_ECODE_ACT_RESTART = 1 << 48,
    }
    scx_exit_flags: u64 {
        SCX_EFLAG_INITIALIZED = 1 << 0,
    }
    scx_ops_flags: u64 {
        SCX_OPS_KEEP_BUILTIN_IDLE = 1 << 0,
        SCX_OPS_ENQ_LAST = 1 << 1,
        SCX_OPS_ENQ_EXITING = 1 << 2,
        SCX_OPS_SWITCH_PARTIAL = 1 << 3,
        SCX_OPS_ENQ_MIGRATION_DISABLED = 1 << 4,
        SCX_OPS_ALLOW_QUEUED_WAKEUP = 1 << 5,
        SCX_OPS_BUILTIN_IDLE_PER_NODE = 1 << 6,
        SCX_OPS_ALWAYS_ENQ_IMMED = 1 << 7,
        SCX_OPS_TID_TO_TASK = 1 << 8,
        SCX_OPS_ALL_FLAGS = 0x1ff,
        __SCX_OPS_INTERNAL_MASK = 0xff << 56,
        SCX_OPS_HAS_CPU_PREEMPT = 1 << 56,
    }
    scx_wake_flags: u64 {
        SCX_WAKE_FORK = 4,
        SCX_WAKE_TTWU = 8,
        SCX_WAKE_SYNC = 16,
    }
    scx_enq_flags: u64 {
        SCX_ENQ_WAKEUP = 1,
        SCX_ENQ_HEAD = 0x1_0000,
        SCX_ENQ_CPU_SELECTED = 0x10_0000,
        SCX_ENQ_PREEMPT = 1 << 32,
        SCX_ENQ_IMMED = 1 << 33,
        SCX_ENQ_RESCUE = 1 << 34,
        SCX_ENQ_REENQ = 1 << 40,
        SCX_ENQ_LAST = 1 << 41,
        __SCX_ENQ_INTERNAL_MASK = 0xff << 56,
        SCX_ENQ_CLEAR_OPSS = 1 << 56,
        SCX_ENQ_DSQ_PRIQ = 1 << 57,
        SCX_ENQ_NESTED = 1 << 58,
        SCX_ENQ_GDSQ_FALLBACK = 1 << 59,
        SCX_ENQ_IGNORE_CAPS = 1 << 60,
        SCX_ENQ_APPLY_SLICE = 1 << 61,
        SCX_ENQ_SLICE_DFL = 1 << 62,
    }
    scx_deq_flags: u64 {
        SCX_DEQ_SLEEP = 1,
        SCX_DEQ_CORE_SCHED_EXEC = 1 << 32,
        SCX_DEQ_SCHED_CHANGE = 1 << 33,
    }
    scx_reenq_flags: u64 {
        SCX_REENQ_ANY = 1 << 0,
        SCX_REENQ_CAP_REVOKE = 1 << 1,
        __SCX_REENQ_FILTER_MASK = 0xffff,
        __SCX_REENQ_USER_MASK = 1 << 0,
        SCX_REENQ_TSR_RQ_OPEN = 1 << 32,
        SCX_REENQ_TSR_NOT_FIRST = 1 << 33,
        __SCX_REENQ_TSR_MASK = 0xf << 32,
    }
    scx_pick_idle_cpu_flags: u64 {
        SCX_PICK_IDLE_CORE = 1 << 0,
        SCX_PICK_IDLE_IN_NODE = 1 << 1,
    }
    scx_kick_flags: u64 {
        SCX_KICK_IDLE = 1 << 0,
        SCX_KICK_PREEMPT = 1 << 1,
        SCX_KICK_WAIT = 1 << 2,
    }
    scx_tg_flags: u32 {
        SCX_TG_ONLINE = 1 << 0,
        SCX_TG_INITED = 1 << 1,
        SCX_TG_SUB_INIT = 1 << 2,
    }
    scx_cpu_preempt_reason: u32 {
        SCX_CPU_PREEMPT_RT = 0,
        SCX_CPU_PREEMPT_DL = 1,
        SCX_CPU_PREEMPT_STOP = 2,
        SCX_CPU_PREEMPT_UNKNOWN = 3,
    }
    scx_enable_state: u32 {
        SCX_ENABLING = 0,
        SCX_ENABLED = 1,
        SCX_DISABLING = 2,
        SCX_DISABLED = 3,
    }
    scx_ops_state: u32 {
        SCX_OPSS_NONE = 0,
        SCX_OPSS_QUEUEING = 1,
        SCX_OPSS_QUEUED = 2,
        SCX_OPSS_DISPATCHING = 3,
        SCX_OPSS_QSEQ_SHIFT = 2,
    }
    scx_rq_flags: u32 {
        SCX_RQ_ONLINE = 1 << 0,
        SCX_RQ_CAN_STOP_TICK = 1 << 1,
        SCX_RQ_CLK_VALID = 1 << 5,
        SCX_RQ_BAL_CB_PENDING = 1 << 6,
        SCX_RQ_SUB_IDLE_RENOTIFY = 1 << 7,
        SCX_RQ_ROOT_IDLE_RENOTIFY = 1 << 8,
        SCX_RQ_IN_WAKEUP = 1 << 16,
        SCX_RQ_IN_DISPATCH = 1 << 17,
    }
    scx_caps: u64 {
        SCX_CAP_ENQ_IMMED = 1 << 0,
        SCX_CAP_ENQ = 1 << 1,
        SCX_CAP_PREEMPT = 1 << 2,
        SCX_CAP_PERF = 1 << 3,
    }
}

/// All four capabilities, which the root scheduler holds on every cid.
pub const SCX_CAPS_ALL: u64 = SCX_CAP_ENQ_IMMED | SCX_CAP_ENQ | SCX_CAP_PREEMPT | SCX_CAP_PERF;

macro_rules! core_bits {
    ($($doc:literal $name:ident: $ty:ty = $value:expr;)*) => {
        $(#[doc = $doc] pub const $name: $ty = $value;)*
    };
}

core_bits! {
    "Wakeup (core bit of `enq_flags`)." ENQUEUE_WAKEUP: u64 = 0x1;
    "Matches `DEQUEUE_SAVE`." ENQUEUE_RESTORE: u64 = 0x2;
    "Matches `DEQUEUE_MOVE`." ENQUEUE_MOVE: u64 = 0x4;
    "The rq clock is up to date." ENQUEUE_NOCLOCK: u64 = 0x8;
    "Internal migration." ENQUEUE_MIGRATING: u64 = 0x10;
    "The wakeup changed the CPU." ENQUEUE_MIGRATED: u64 = 0x4_0000;
    "First enqueue of a new task." ENQUEUE_INITIAL: u64 = 0x8_0000;
    "`select_task_rq()` ran." ENQUEUE_RQ_SELECTED: u64 = 0x10_0000;
    "The task sleeps (core bit of `deq_flags`)." DEQUEUE_SLEEP: u64 = 0x1;
    "Property change, to be restored." DEQUEUE_SAVE: u64 = 0x2;
    "Property change that may move the task." DEQUEUE_MOVE: u64 = 0x4;
    "The rq clock is up to date." DEQUEUE_NOCLOCK: u64 = 0x8;
    "Internal migration." DEQUEUE_MIGRATING: u64 = 0x10;

    "`p->flags`: idle task." PF_IDLE: u32 = 0x2;
    "`p->flags`: exiting." PF_EXITING: u32 = 0x4;
    "`p->flags`: workqueue worker." PF_WQ_WORKER: u32 = 0x20;
    "`p->flags`: kernel thread." PF_KTHREAD: u32 = 0x20_0000;

    "Default policy." SCHED_NORMAL: u32 = 0;
    "Real time, FIFO." SCHED_FIFO: u32 = 1;
    "Real time, round robin." SCHED_RR: u32 = 2;
    "Batch." SCHED_BATCH: u32 = 3;
    "Idle priority." SCHED_IDLE: u32 = 5;
    "Deadline." SCHED_DEADLINE: u32 = 6;
    "sched_ext." SCHED_EXT: u32 = 7;

    "`p->__state`: running or runnable." TASK_RUNNING: u32 = 0x0;
    "`p->__state`: sleeping." TASK_INTERRUPTIBLE: u32 = 0x1;
    "`p->__state`: dead." TASK_DEAD: u32 = 0x80;
    "`p->__state`: forked, not yet woken." TASK_NEW: u32 = 0x800;
}
