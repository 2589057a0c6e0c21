//! `task_struct` and what hangs off it, as far as it is filled.
//!
//! A field stands here only if the image keeps it true: a program that reads anything
//! else is told the field's name when it gets there, instead of being handed a zero.

use super::cgroups::{css_set, task_group};
use super::ctype::{Const, Ptr, ctypes, named};
use super::mask::cpumask;

/// `comm`'s size, the final NUL included.
pub const TASK_COMM_LEN: usize = 16;

named! {
    /// A user task's address space, of which only the presence means something.
    Struct mm_struct;
    /// A NUMA policy; tasks have none.
    Struct mempolicy;
}

ctypes! {
    /// Architecture part of a task.
    struct thread_info {
        cpu: u32,
    }
    /// The fair class's part of a task; sched_ext uses its runtime counters.
    struct sched_entity {
        sum_exec_runtime: u64,
    }
    /// sched_ext's part of a task, in the kernel's order.
    struct sched_ext_entity {
        ddsp_dsq_id: u64,
        ddsp_enq_flags: u64,
        dsq_vtime: u64,
        flags: u32,
        weight: u32,
        sticky_cpu: i32,
        holding_cpu: i32,
        runnable_at: u64,
        tid: u64,
        slice: u64,
        disallow: bool,
    }
    /// A task.
    struct task_struct {
        thread_info: thread_info,
        __state: u32,
        flags: u32,
        on_cpu: i32,
        prio: i32,
        static_prio: i32,
        normal_prio: i32,
        rt_priority: u32,
        se: sched_entity,
        scx: sched_ext_entity,
        sched_task_group: Ptr<task_group>,
        policy: u32,
        nr_cpus_allowed: i32,
        cpus_ptr: Ptr<Const<cpumask>>,
        cpus_mask: cpumask,
        migration_disabled: u16,
        mm: Ptr<mm_struct>,
        pid: i32,
        tgid: i32,
        real_parent: Ptr<task_struct>,
        parent: Ptr<task_struct>,
        group_leader: Ptr<task_struct>,
        utime: u64,
        stime: u64,
        nvcsw: u64,
        nivcsw: u64,
        comm: [i8; TASK_COMM_LEN],
        cgroups: Ptr<css_set>,
        mempolicy: Ptr<mempolicy>,
    }
}
