//! What tracing programs are given as memory: records of trace events, and registers.
//!
//! Layouts are those of v7.3: a `__data_loc_x` is where a string lies in the record (low half)
//! and its length with the NUL (high half).

use super::ctype::ctypes;
use super::task::TASK_COMM_LEN;

ctypes! {
    /// Head of every record; programs may not read it.
    struct trace_entry {
        r#type: u16,
        flags: u8,
        preempt_count: u8,
        pid: i32,
    }
    /// Record of `sched_switch`.
    struct trace_event_raw_sched_switch {
        ent: trace_entry,
        prev_comm: [i8; TASK_COMM_LEN],
        prev_pid: i32,
        prev_prio: i32,
        prev_state: i64,
        next_comm: [i8; TASK_COMM_LEN],
        next_pid: i32,
        next_prio: i32,
        __data: [i8; 0],
    }
    /// Record of `sched_waking`, `sched_wakeup` and `sched_wakeup_new`.
    struct trace_event_raw_sched_wakeup_template {
        ent: trace_entry,
        comm: [i8; TASK_COMM_LEN],
        pid: i32,
        prio: i32,
        target_cpu: i32,
        __data: [i8; 0],
    }
    /// Record of `sched_migrate_task`.
    struct trace_event_raw_sched_migrate_task {
        ent: trace_entry,
        __data_loc_comm: u32,
        pid: i32,
        prio: i32,
        orig_cpu: i32,
        dest_cpu: i32,
        __data: [i8; 0],
    }
    /// Record of `sched_process_fork`.
    struct trace_event_raw_sched_process_fork {
        ent: trace_entry,
        __data_loc_parent_comm: u32,
        parent_pid: i32,
        __data_loc_child_comm: u32,
        child_pid: i32,
        __data: [i8; 0],
    }
    /// Record of `sched_process_exit`.
    struct trace_event_raw_sched_process_exit {
        ent: trace_entry,
        comm: [i8; TASK_COMM_LEN],
        pid: i32,
        prio: i32,
        group_dead: bool,
        __data: [i8; 0],
    }
    /// Record of `sched_process_free`.
    struct trace_event_raw_sched_process_template {
        ent: trace_entry,
        __data_loc_comm: u32,
        pid: i32,
        prio: i32,
        __data: [i8; 0],
    }
    /// Record of `cpu_idle`.
    struct trace_event_raw_cpu {
        ent: trace_entry,
        state: u32,
        cpu_id: u32,
        __data: [i8; 0],
    }
    /// Record of `sched_stat_runtime`.
    struct trace_event_raw_sched_stat_runtime {
        ent: trace_entry,
        __data_loc_comm: u32,
        pid: i32,
        runtime: u64,
        __data: [i8; 0],
    }
    /// Record of an interrupt's begin and end.
    struct trace_event_raw_x86_irq_vector {
        ent: trace_entry,
        vector: i32,
        __data: [i8; 0],
    }
    /// Record of a softirq's begin and end.
    struct trace_event_raw_softirq {
        ent: trace_entry,
        vec: u32,
        __data: [i8; 0],
    }
    /// Record of `sched_ext_event`.
    struct trace_event_raw_sched_ext_event {
        ent: trace_entry,
        __data_loc_name: u32,
        delta: i64,
        __data: [i8; 0],
    }
    /// Record of `sched_ext_dump`.
    struct trace_event_raw_sched_ext_dump {
        ent: trace_entry,
        __data_loc_line: u32,
        __data: [i8; 0],
    }
    /// Context of a `raw_tp` program.
    struct bpf_raw_tracepoint_args {
        args: [u64; 0],
    }
    /// Registers of x86-64 where a function is entered or has returned.
    struct pt_regs {
        r15: u64,
        r14: u64,
        r13: u64,
        r12: u64,
        bp: u64,
        bx: u64,
        r11: u64,
        r10: u64,
        r9: u64,
        r8: u64,
        ax: u64,
        cx: u64,
        dx: u64,
        si: u64,
        di: u64,
        orig_ax: u64,
        ip: u64,
        cs: u64,
        flags: u64,
        sp: u64,
        ss: u64,
    }
}

const _: () = assert!(size_of::<pt_regs>() == 168);
