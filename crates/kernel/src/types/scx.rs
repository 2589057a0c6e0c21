//! What callbacks and scx kfuncs take and give as memory.
#![expect(non_snake_case, reason = "the kernel's names of the event counters")]

use super::cgroups::cgroup;
use super::ctype::{Const, Ptr, ctypes, named};
use super::task::task_struct;

named! {
    /// Why a scheduler left.
    Enum scx_exit_kind;
    /// Who took a CPU.
    Enum scx_cpu_preempt_reason;
}

ctypes! {
    /// Arguments of `ops.init_task`.
    struct scx_init_task_args {
        fork: bool,
        cgroup: Ptr<cgroup>,
    }
    /// Arguments of `ops.exit_task`.
    struct scx_exit_task_args {
        cancelled: bool,
    }
    /// Arguments of `ops.cgroup_init`.
    struct scx_cgroup_init_args {
        weight: u32,
        bw_period_us: u64,
        bw_quota_us: u64,
        bw_burst_us: u64,
    }
    /// Arguments of `ops.cpu_release`.
    struct scx_cpu_release_args {
        reason: scx_cpu_preempt_reason,
        task: Ptr<task_struct>,
    }
    /// What a dump callback knows of the exit that caused it.
    struct scx_dump_ctx {
        kind: scx_exit_kind,
        exit_code: i64,
        reason: Ptr<Const<i8>>,
        at_ns: u64,
        at_jiffies: u64,
    }
    /// Why the scheduler leaves, for `ops.exit`.
    struct scx_exit_info {
        kind: scx_exit_kind,
        exit_cpu: i32,
        exit_code: i64,
        flags: u64,
        reason: Ptr<Const<i8>>,
        bt: Ptr<u64>,
        bt_len: u32,
        msg: Ptr<i8>,
        dump: Ptr<i8>,
    }
    /// A set of cids; the words follow the header.
    struct scx_cmask {
        base: u32,
        nr_cids: u32,
        alloc_words: u32,
        bits: [u64; 0],
    }
    /// Where a cid sits.
    struct scx_cid_topo {
        core_cid: i32,
        core_idx: i32,
        llc_cid: i32,
        llc_idx: i32,
        node_cid: i32,
        node_idx: i32,
        shard_cid: i32,
        shard_idx: i32,
    }
    /// Arguments of `__scx_bpf_dsq_insert_vtime`.
    struct scx_bpf_dsq_insert_vtime_args {
        dsq_id: u64,
        slice: u64,
        vtime: u64,
        enq_flags: u64,
    }
    /// Arguments of `__scx_bpf_select_cpu_and`.
    struct scx_bpf_select_cpu_and_args {
        prev_cpu: i32,
        wake_flags: u64,
        flags: u64,
    }
    /// The core's event counters.
    struct scx_event_stats {
        SCX_EV_SELECT_CPU_FALLBACK: i64,
        SCX_EV_DISPATCH_LOCAL_DSQ_OFFLINE: i64,
        SCX_EV_DISPATCH_KEEP_LAST: i64,
        SCX_EV_ENQ_SKIP_EXITING: i64,
        SCX_EV_ENQ_SKIP_MIGRATION_DISABLED: i64,
        SCX_EV_REENQ_IMMED: i64,
        SCX_EV_REENQ_REPEAT: i64,
        SCX_EV_REFILL_SLICE_DFL: i64,
        SCX_EV_SLICE_CLAMPED: i64,
        SCX_EV_SLICE_DENIED: i64,
        SCX_EV_BYPASS_DURATION: i64,
        SCX_EV_BYPASS_DISPATCH: i64,
        SCX_EV_BYPASS_ACTIVATE: i64,
        SCX_EV_INSERT_NOT_OWNED: i64,
        SCX_EV_SUB_BYPASS_DISPATCH: i64,
        SCX_EV_SUB_FORCED_ADMIT: i64,
        SCX_EV_SUB_PREEMPT_DENIED: i64,
        SCX_EV_SUB_KICK_DENIED: i64,
        SCX_EV_SUB_REENQ_DENIED: i64,
        SCX_EV_SUB_CIDPERF_DENIED: i64,
        SCX_EV_SUB_RESCUE: i64,
    }
}

const _: () = assert!(core::mem::offset_of!(scx_cmask, bits) == 16);
const _: () = assert!(size_of::<scx_event_stats>() == 21 * 8);
