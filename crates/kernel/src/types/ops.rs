//! The ops tables of both forms.
//!
//! The tables have equal offsets: the cid form renames members, hands `set_cmask` an
//! arena pointer and ends before `cpu_acquire`. One list writes both, so that they
//! cannot drift apart.

use super::ctype::{FnPtr, Ptr, Void, ctypes};

/// `SCX_OPS_NAME_LEN`.
pub const OPS_NAME_LEN: usize = 128;

/// Per row: the member's name in the cpu form and in the cid form, its type, and for
/// callbacks the prototype in each form.
macro_rules! ops_tables {
    (
        both { $($cpu:ident $cid:ident: $ty:ty $(= $cpu_proto:literal $cid_proto:literal)?;)* }
        cpu_only { $($only:ident: $only_ty:ty = $only_proto:literal;)* }
    ) => {
        pub use cid_form::sched_ext_ops_cid;
        pub use cpu_form::sched_ext_ops;

        pub(crate) mod cpu_form {
            //! `sched_ext_ops`.
            use super::{FnPtr, OPS_NAME_LEN, Ptr, Void, ctypes};
            ctypes! {
                /// A scheduler of the cpu form.
                struct sched_ext_ops {
                    $($cpu: $ty $(= $cpu_proto)?,)*
                    $($only: $only_ty = $only_proto,)*
                }
            }
        }
        pub(crate) mod cid_form {
            //! `sched_ext_ops_cid`.
            use super::{FnPtr, OPS_NAME_LEN, Ptr, Void, ctypes};
            ctypes! {
                /// A scheduler of the cid form.
                struct sched_ext_ops_cid { $($cid: $ty $(= $cid_proto)?,)* }
            }
        }
    };
}

ops_tables! {
    both {
        select_cpu select_cid: FnPtr =
            "s32 (struct task_struct *p, s32 prev_cpu, u64 wake_flags)"
            "s32 (struct task_struct *p, s32 prev_cid, u64 wake_flags)";
        enqueue enqueue: FnPtr =
            "void (struct task_struct *p, u64 enq_flags)"
            "void (struct task_struct *p, u64 enq_flags)";
        dequeue dequeue: FnPtr =
            "void (struct task_struct *p, u64 deq_flags)"
            "void (struct task_struct *p, u64 deq_flags)";
        dispatch dispatch: FnPtr =
            "void (s32 cpu, struct task_struct *prev)"
            "void (s32 cid, struct task_struct *prev)";
        tick tick: FnPtr =
            "void (struct task_struct *p)"
            "void (struct task_struct *p)";
        runnable runnable: FnPtr =
            "void (struct task_struct *p, u64 enq_flags)"
            "void (struct task_struct *p, u64 enq_flags)";
        running running: FnPtr =
            "void (struct task_struct *p)"
            "void (struct task_struct *p)";
        stopping stopping: FnPtr =
            "void (struct task_struct *p, bool runnable)"
            "void (struct task_struct *p, bool runnable)";
        quiescent quiescent: FnPtr =
            "void (struct task_struct *p, u64 deq_flags)"
            "void (struct task_struct *p, u64 deq_flags)";
        r#yield r#yield: FnPtr =
            "bool (struct task_struct *from, struct task_struct *to)"
            "bool (struct task_struct *from, struct task_struct *to)";
        core_sched_before core_sched_before: FnPtr =
            "bool (struct task_struct *a, struct task_struct *b)"
            "bool (struct task_struct *a, struct task_struct *b)";
        set_weight set_weight: FnPtr =
            "void (struct task_struct *p, u32 weight)"
            "void (struct task_struct *p, u32 weight)";
        set_cpumask set_cmask: FnPtr =
            "void (struct task_struct *p, const struct cpumask *cpumask)"
            "void (struct task_struct *p, const struct scx_cmask *cmask)";
        update_idle update_idle: FnPtr =
            "void (s32 cpu, bool idle)"
            "void (s32 cid, bool idle)";
        init_task init_task: FnPtr =
            "s32 (struct task_struct *p, struct scx_init_task_args *args)"
            "s32 (struct task_struct *p, struct scx_init_task_args *args)";
        exit_task exit_task: FnPtr =
            "void (struct task_struct *p, struct scx_exit_task_args *args)"
            "void (struct task_struct *p, struct scx_exit_task_args *args)";
        enable enable: FnPtr =
            "void (struct task_struct *p)"
            "void (struct task_struct *p)";
        disable disable: FnPtr =
            "void (struct task_struct *p)"
            "void (struct task_struct *p)";
        dump dump: FnPtr =
            "void (struct scx_dump_ctx *ctx)"
            "void (struct scx_dump_ctx *ctx)";
        dump_cpu dump_cid: FnPtr =
            "void (struct scx_dump_ctx *ctx, s32 cpu, bool idle)"
            "void (struct scx_dump_ctx *ctx, s32 cid, bool idle)";
        dump_task dump_task: FnPtr =
            "void (struct scx_dump_ctx *ctx, struct task_struct *p)"
            "void (struct scx_dump_ctx *ctx, struct task_struct *p)";
        cgroup_init cpuctl_init: FnPtr =
            "s32 (struct cgroup *cgrp, struct scx_cgroup_init_args *args)"
            "s32 (struct cgroup *cgrp, struct scx_cgroup_init_args *args)";
        cgroup_exit cpuctl_exit: FnPtr =
            "void (struct cgroup *cgrp)"
            "void (struct cgroup *cgrp)";
        cgroup_prep_move cpuctl_prep_move: FnPtr =
            "s32 (struct task_struct *p, struct cgroup *from, struct cgroup *to)"
            "s32 (struct task_struct *p, struct cgroup *from, struct cgroup *to)";
        cgroup_move cpuctl_move: FnPtr =
            "void (struct task_struct *p, struct cgroup *from, struct cgroup *to)"
            "void (struct task_struct *p, struct cgroup *from, struct cgroup *to)";
        cgroup_cancel_move cpuctl_cancel_move: FnPtr =
            "void (struct task_struct *p, struct cgroup *from, struct cgroup *to)"
            "void (struct task_struct *p, struct cgroup *from, struct cgroup *to)";
        cgroup_set_weight cpuctl_set_weight: FnPtr =
            "void (struct cgroup *cgrp, u32 weight)"
            "void (struct cgroup *cgrp, u32 weight)";
        cgroup_set_bandwidth cpuctl_set_bandwidth: FnPtr =
            "void (struct cgroup *cgrp, u64 period_us, u64 quota_us, u64 burst_us)"
            "void (struct cgroup *cgrp, u64 period_us, u64 quota_us, u64 burst_us)";
        cgroup_set_idle cpuctl_set_idle: FnPtr =
            "void (struct cgroup *cgrp, bool idle)"
            "void (struct cgroup *cgrp, bool idle)";
        sub_attach sub_attach: FnPtr =
            "s32 (struct scx_sub_attach_args *args)"
            "s32 (struct scx_sub_attach_args *args)";
        sub_detach sub_detach: FnPtr =
            "void (struct scx_sub_detach_args *args)"
            "void (struct scx_sub_detach_args *args)";
        sub_caps_updated sub_caps_updated: FnPtr =
            "void (const struct scx_cmask *cmask, u64 caps)"
            "void (const struct scx_cmask *cmask, u64 caps)";
        sub_ecaps_updated sub_ecaps_updated: FnPtr =
            "void (s32 cid, u64 old_ecaps, u64 new_ecaps)"
            "void (s32 cid, u64 old_ecaps, u64 new_ecaps)";
        cpu_online cid_online: FnPtr =
            "void (s32 cpu)"
            "void (s32 cid)";
        cpu_offline cid_offline: FnPtr =
            "void (s32 cpu)"
            "void (s32 cid)";
        init_cids init_cids: FnPtr =
            "s32 (void)"
            "s32 (void)";
        init init: FnPtr =
            "s32 (void)"
            "s32 (void)";
        exit exit: FnPtr =
            "void (struct scx_exit_info *info)"
            "void (struct scx_exit_info *info)";
        dispatch_max_batch dispatch_max_batch: u32;
        flags flags: u64;
        timeout_ms timeout_ms: u32;
        exit_dump_len exit_dump_len: u32;
        hotplug_seq hotplug_seq: u64;
        cid_shard_size cid_shard_size: u32;
        rescue_bandwidth_ppt rescue_bandwidth_ppt: u32;
        rescue_quantum_us rescue_quantum_us: u32;
        sub_cgroup_id sub_cgroup_id: u64;
        name name: [i8; OPS_NAME_LEN];
        r#priv r#priv: Ptr<Void>;
    }
    cpu_only {
        cpu_acquire: FnPtr = "void (s32 cpu, struct scx_cpu_acquire_args *args)";
        cpu_release: FnPtr = "void (s32 cpu, struct scx_cpu_release_args *args)";
    }
}

const _: () = assert!(size_of::<sched_ext_ops>() == size_of::<sched_ext_ops_cid>() + 16);
