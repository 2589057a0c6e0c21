//! Where the simulated kernel's objects lie in guest memory.
//!
//! A task's address is arithmetic: `tasks + tid * TASK_STRIDE`. So a pointer that a
//! program gives is checked exactly, with no table to look it up in: it either names a
//! `task_struct`'s first byte, or it is refused.

use harena_abi::{Cpu, KernAddr, Tid};
use harena_scx::{MaskKind, Topology};
use harena_vm::{GuestMem, OutOfGuestMemory, Region, layout::PERCPU_STRIDE};

use crate::types::cgroups::{cgroup, css_set, kernfs_node, task_group};
use crate::types::mask::cpumask;
use crate::types::runqueue::rq;
use crate::types::task::task_struct;

/// Distance of two tasks.
pub(crate) const TASK_STRIDE: u64 = (size_of::<task_struct>() as u64).next_multiple_of(64);

/// `runqueues`, CPU 0's copy: the first per-CPU variable.
pub(crate) const RUNQUEUES: KernAddr = Region::PerCpu.start();

/// Task numbers that fit.
const TASKS_MAX: u32 = {
    let tasks = (Region::Tasks.end().raw() - Region::Tasks.start().raw()) / TASK_STRIDE;
    assert!(tasks <= u32::MAX as u64);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        tasks as u32
    }
};

const MASK_SIZE: u64 = size_of::<cpumask>() as u64;

/// What a task pointer of a program names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TaskRef {
    /// A task, alive or not.
    Task(Tid),
    /// The idle task of a CPU.
    Idle(Cpu),
}

/// The addresses of one machine's kernel objects. Constant over its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Places {
    nr_cpus: u32,
    nr_nodes: u32,
    idle_tasks: KernAddr,
    masks: KernAddr,
    root: KernAddr,
    root_kn: KernAddr,
    css_set: KernAddr,
    task_group: KernAddr,
    mm: KernAddr,
}

impl Places {
    /// Takes the memory of all objects but tasks, which have a region of their own.
    pub(crate) fn new(mem: &GuestMem, topology: &Topology) -> Result<Self, OutOfGuestMemory> {
        let nr_cpus = topology.nr_cpus();
        let nodes = topology
            .cpus()
            .filter_map(|cpu| topology.get(cpu))
            .map(|t| t.node);
        let nr_nodes = nodes.max().map_or(1, |node| node + 1);
        let runqueues = mem.alloc(Region::PerCpu, size_of::<rq>() as u64, 64)?;
        assert_eq!(runqueues, RUNQUEUES, "linked programs know this address");
        let kernel = |size: u64| mem.alloc(Region::Kernel, size, 64);
        let nr_masks = 3 + 2 + 2 * u64::from(nr_nodes);
        Ok(Self {
            nr_cpus,
            nr_nodes,
            idle_tasks: kernel(TASK_STRIDE * u64::from(nr_cpus))?,
            masks: kernel(MASK_SIZE * nr_masks)?,
            root: kernel(size_of::<cgroup>() as u64)?,
            root_kn: kernel(size_of::<kernfs_node>() as u64)?,
            css_set: kernel(size_of::<css_set>() as u64)?,
            task_group: kernel(size_of::<task_group>() as u64)?,
            mm: kernel(64)?,
        })
    }

    /// Possible CPUs.
    #[must_use]
    pub(crate) const fn nr_cpus(&self) -> u32 {
        self.nr_cpus
    }

    /// `task_struct` of a task; NULL for a number that has no place.
    #[must_use]
    pub(crate) const fn task(&self, tid: Tid) -> KernAddr {
        if tid.raw() >= TASKS_MAX {
            return KernAddr::NULL;
        }
        KernAddr::new(Region::Tasks.start().raw() + tid.raw() as u64 * TASK_STRIDE)
    }

    /// `task_struct` of a CPU's idle task.
    #[must_use]
    pub(crate) const fn idle_task(&self, cpu: Cpu) -> KernAddr {
        assert!(cpu.raw() < self.nr_cpus, "the machine has this CPU");
        KernAddr::new(self.idle_tasks.raw() + cpu.raw() as u64 * TASK_STRIDE)
    }

    /// What a pointer names, if it is exactly a task's.
    #[must_use]
    pub(crate) fn task_at(&self, ptr: KernAddr) -> Option<TaskRef> {
        if let Some(tid) = index_of(ptr, Region::Tasks.start(), TASKS_MAX) {
            return Some(TaskRef::Task(Tid::new(tid)));
        }
        index_of(ptr, self.idle_tasks, self.nr_cpus).map(|cpu| TaskRef::Idle(Cpu::new(cpu)))
    }

    /// `rq` of a CPU.
    #[must_use]
    pub(crate) const fn rq(&self, cpu: Cpu) -> KernAddr {
        assert!(cpu.raw() < self.nr_cpus, "the machine has this CPU");
        KernAddr::new(RUNQUEUES.raw() + cpu.raw() as u64 * PERCPU_STRIDE)
    }

    /// A live mask; the node is one that the core named.
    #[must_use]
    pub(crate) fn mask(&self, kind: MaskKind, node: Option<u32>) -> KernAddr {
        assert!(
            node.is_none_or(|node| node < self.nr_nodes),
            "the machine has this node"
        );
        let pair = 3 + 2 * u64::from(node.map_or(0, |node| node + 1));
        self.nth_mask(match kind {
            MaskKind::Online => 1,
            MaskKind::Possible => 2,
            MaskKind::IdleCpu => pair,
            MaskKind::IdleSmt => pair + 1,
        })
    }

    /// A mask without CPUs.
    #[must_use]
    pub(crate) const fn empty_mask(&self) -> KernAddr {
        self.nth_mask(0)
    }

    const fn nth_mask(&self, n: u64) -> KernAddr {
        KernAddr::new(self.masks.raw() + n * MASK_SIZE)
    }

    /// The root cgroup.
    #[must_use]
    pub(crate) const fn root_cgroup(&self) -> KernAddr {
        self.root
    }

    pub(crate) const fn root_kn(&self) -> KernAddr {
        self.root_kn
    }

    pub(crate) const fn css_set(&self) -> KernAddr {
        self.css_set
    }

    pub(crate) const fn task_group(&self) -> KernAddr {
        self.task_group
    }

    /// The `mm_struct` that every user task points to.
    pub(crate) const fn mm(&self) -> KernAddr {
        self.mm
    }
}

fn index_of(ptr: KernAddr, base: KernAddr, count: u32) -> Option<u32> {
    let offset = ptr.offset_from(base)?;
    let index = u32::try_from(offset / TASK_STRIDE).ok()?;
    (offset.is_multiple_of(TASK_STRIDE) && index < count).then_some(index)
}
