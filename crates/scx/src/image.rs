//! What a scheduler can read of the core's state, as memory.
//!
//! A BPF scheduler reads `p->scx.weight` or the idle cpumask with plain loads, and writes
//! `p->scx.slice` with a plain store. The core therefore keeps three members in the
//! image only ("live cells": the image is their one true place) and writes all others
//! through whenever they change.

use harena_abi::{Cpu, Tid};

use crate::CpuSet;

/// A new task, as fork sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskSpec {
    /// `comm`, at most 15 bytes count.
    pub comm: String,
    /// Thread group; `None` makes the task its own leader.
    pub tgid: Option<Tid>,
    /// `real_parent`; `None` is init.
    pub parent: Option<Tid>,
    /// `PF_*` bits, such as `PF_KTHREAD`.
    pub flags: u32,
    /// `SCHED_*` policy.
    pub policy: u32,
    /// -20 ..= 19.
    pub nice: i32,
    /// CPUs the task may run on; never empty.
    pub allowed: CpuSet,
    /// CPU the task is forked on.
    pub cpu: Cpu,
    /// Cgroup id; 1 is the root.
    pub cgroup: u64,
}

/// The per-kernel CPU masks that schedulers read live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MaskKind {
    /// Idle CPUs.
    IdleCpu,
    /// CPUs of wholly idle cores.
    IdleSmt,
    /// Online CPUs.
    Online,
    /// Possible CPUs.
    Possible,
}

/// The memory image of the kernel.
pub trait Image: std::fmt::Debug + Send {
    /// A task exists from here on; its live cells are zero but `slice` (`SCX_SLICE_DFL`).
    fn task_created(&mut self, p: Tid, spec: &TaskSpec);
    /// The task is gone; its memory may be reused.
    fn task_gone(&mut self, p: Tid);

    /// Live cell `p->scx.slice`.
    fn slice(&self, p: Tid) -> u64;
    /// Sets `p->scx.slice`.
    fn set_slice(&mut self, p: Tid, slice: u64);
    /// Live cell `p->scx.dsq_vtime`.
    fn dsq_vtime(&self, p: Tid) -> u64;
    /// Sets `p->scx.dsq_vtime`.
    fn set_dsq_vtime(&mut self, p: Tid, vtime: u64);
    /// Live cell `p->scx.disallow`.
    fn disallow(&self, p: Tid) -> bool;
    /// Sets `p->scx.disallow`.
    fn set_disallow(&mut self, p: Tid, disallow: bool);

    /// `p->scx.flags`.
    fn set_scx_flags(&mut self, p: Tid, flags: u32);
    /// `p->scx.weight`.
    fn set_weight(&mut self, p: Tid, weight: u32);
    /// `p->scx.{ddsp_dsq_id,ddsp_enq_flags}`.
    fn set_ddsp(&mut self, p: Tid, dsq_id: u64, enq_flags: u64);
    /// `p->scx.{sticky_cpu,holding_cpu,selected_cpu}`-independent `task_cpu(p)`.
    fn set_cpu(&mut self, p: Tid, cpu: Cpu);
    /// `p->on_cpu`.
    fn set_on_cpu(&mut self, p: Tid, on_cpu: bool);
    /// `p->nvcsw` or `p->nivcsw`: the task is switched away, asleep or not.
    fn count_switch(&mut self, p: Tid);
    /// `p->__state`.
    fn set_state(&mut self, p: Tid, state: u32);
    /// `p->flags` (`PF_*`).
    fn set_task_flags(&mut self, p: Tid, flags: u32);
    /// `p->cpus_mask`, `p->cpus_ptr`, `p->nr_cpus_allowed`.
    fn set_allowed(&mut self, p: Tid, allowed: &CpuSet);
    /// `p->policy`, `p->static_prio`, `p->prio`.
    fn set_prio(&mut self, p: Tid, policy: u32, nice: i32);
    /// `p->se.sum_exec_runtime`.
    fn set_sum_exec_runtime(&mut self, p: Tid, ns: u64);
    /// `p->scx.runnable_at`, in jiffies.
    fn set_runnable_at(&mut self, p: Tid, jiffies: u64);

    /// `rq(cpu)->curr`; `None` is the idle task.
    fn set_curr(&mut self, cpu: Cpu, p: Option<Tid>);
    /// One bit of a mask; `node` is set for per-node masks.
    fn set_mask_bit(&mut self, kind: MaskKind, node: Option<u32>, cpu: Cpu, set: bool);
}

/// The live cells of a scheduler that is not BPF: nothing else is ever read.
#[derive(Debug, Default)]
pub struct PlainImage {
    cells: Vec<Cells>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cells {
    slice: u64,
    dsq_vtime: u64,
    disallow: bool,
}

impl PlainImage {
    fn cell(&mut self, p: Tid) -> &mut Cells {
        if self.cells.len() <= p.index() {
            self.cells.resize(p.index() + 1, Cells::default());
        }
        &mut self.cells[p.index()]
    }
}

impl Image for PlainImage {
    fn task_created(&mut self, p: Tid, _spec: &TaskSpec) {
        *self.cell(p) = Cells {
            slice: harena_abi::scx::SCX_SLICE_DFL,
            ..Cells::default()
        };
    }
    fn task_gone(&mut self, p: Tid) {
        *self.cell(p) = Cells::default();
    }
    fn slice(&self, p: Tid) -> u64 {
        self.cells.get(p.index()).map_or(0, |c| c.slice)
    }
    fn set_slice(&mut self, p: Tid, slice: u64) {
        self.cell(p).slice = slice;
    }
    fn dsq_vtime(&self, p: Tid) -> u64 {
        self.cells.get(p.index()).map_or(0, |c| c.dsq_vtime)
    }
    fn set_dsq_vtime(&mut self, p: Tid, vtime: u64) {
        self.cell(p).dsq_vtime = vtime;
    }
    fn disallow(&self, p: Tid) -> bool {
        self.cells.get(p.index()).is_some_and(|c| c.disallow)
    }
    fn set_disallow(&mut self, p: Tid, disallow: bool) {
        self.cell(p).disallow = disallow;
    }
    fn set_scx_flags(&mut self, _p: Tid, _flags: u32) {}
    fn set_weight(&mut self, _p: Tid, _weight: u32) {}
    fn set_ddsp(&mut self, _p: Tid, _dsq_id: u64, _enq_flags: u64) {}
    fn set_cpu(&mut self, _p: Tid, _cpu: Cpu) {}
    fn set_on_cpu(&mut self, _p: Tid, _on_cpu: bool) {}
    fn count_switch(&mut self, _p: Tid) {}
    fn set_state(&mut self, _p: Tid, _state: u32) {}
    fn set_task_flags(&mut self, _p: Tid, _flags: u32) {}
    fn set_allowed(&mut self, _p: Tid, _allowed: &CpuSet) {}
    fn set_prio(&mut self, _p: Tid, _policy: u32, _nice: i32) {}
    fn set_sum_exec_runtime(&mut self, _p: Tid, _ns: u64) {}
    fn set_runnable_at(&mut self, _p: Tid, _jiffies: u64) {}
    fn set_curr(&mut self, _cpu: Cpu, _p: Option<Tid>) {}
    fn set_mask_bit(&mut self, _kind: MaskKind, _node: Option<u32>, _cpu: Cpu, _set: bool) {}
}
