//! The memory that programs read: what the core changes is stored there at once.
//!
//! `p->scx.slice`, `dsq_vtime` and `disallow` live only here; a program's plain store to
//! them is what the core sees next.

use std::sync::Arc;

use harena_abi::{Cpu, KernAddr, Tid, scx};
use harena_scx::{CpuSet, Image, MaskKind, TaskSpec, Topology};
use harena_vm::GuestMem;

use crate::access::Fields;
use crate::places::{Places, TASK_STRIDE};
use crate::types::cgroups::{cgroup, css_set, kernfs_node, task_group};
use crate::types::ctype::field;
use crate::types::mask::cpumask;
use crate::types::runqueue::rq;
use crate::types::task::task_struct;

const PF_IDLE: u32 = 0x2;
const PF_KTHREAD: u32 = 0x20_0000;
/// `DEFAULT_PRIO`: nice 0.
const DEFAULT_PRIO: i32 = 120;

/// Guest memory as the core's [`Image`].
#[derive(Debug)]
pub(crate) struct KernelImage {
    mem: Arc<GuestMem>,
    places: Places,
    /// `nvcsw` counts a switch away in this state; the core tells the state first.
    asleep: Vec<bool>,
}

impl KernelImage {
    /// Fills the objects that exist from boot: idle tasks, run queues, masks, the root cgroup.
    #[must_use]
    pub(crate) fn new(mem: Arc<GuestMem>, places: Places, topology: &Topology) -> Self {
        let mut image = Self {
            mem,
            places,
            asleep: Vec::new(),
        };
        image.boot_cgroups();
        for cpu in topology.cpus() {
            image.boot_cpu(cpu);
        }
        image
    }

    fn boot_cgroups(&self) {
        let (mem, places) = (&self.mem, &self.places);
        let root = places.root_cgroup();
        mem.put_ptr(root, field!(cgroup, self_.cgroup), root);
        mem.put(root, field!(cgroup, self_.id), 1);
        mem.put_ptr(root, field!(cgroup, kn), places.root_kn());
        let ancestors = root.raw() + field!(cgroup, ancestors).offset();
        mem.write_u64(KernAddr::new(ancestors), root.raw())
            .expect("the root cgroup is mapped");
        mem.put(places.root_kn(), field!(kernfs_node, id), 1);
        let name = places.empty_mask();
        mem.put_ptr(places.root_kn(), field!(kernfs_node, name), name);
        mem.put_ptr(places.css_set(), field!(css_set, dfl_cgrp), root);
        mem.put_ptr(places.task_group(), field!(task_group, css.cgroup), root);
        mem.put(places.task_group(), field!(task_group, css.id), 1);
    }

    fn boot_cpu(&mut self, cpu: Cpu) {
        let (idle, rq_at) = (self.places.idle_task(cpu), self.places.rq(cpu));
        self.mem.put(rq_at, field!(rq, cpu), cpu.as_s32());
        self.mem.put_ptr(rq_at, field!(rq, idle), idle);
        self.mem.put_ptr(rq_at, field!(rq, curr), idle);
        let mem = &self.mem;
        mem.put(idle, field!(task_struct, flags), PF_IDLE | PF_KTHREAD);
        mem.put(idle, field!(task_struct, thread_info.cpu), cpu.raw());
        mem.put(idle, field!(task_struct, static_prio), DEFAULT_PRIO);
        mem.put(idle, field!(task_struct, normal_prio), DEFAULT_PRIO);
        mem.put(idle, field!(task_struct, prio), DEFAULT_PRIO);
        mem.put_str(idle, field!(task_struct, comm), &format!("swapper/{cpu}"));
        self.relate(idle, idle, idle);
        self.write_allowed(idle, &std::iter::once(cpu).collect());
        self.set_mask_bit(MaskKind::Online, None, cpu, true);
        self.set_mask_bit(MaskKind::Possible, None, cpu, true);
    }

    fn relate(&self, task: KernAddr, parent: KernAddr, leader: KernAddr) {
        let (mem, places) = (&self.mem, &self.places);
        mem.put_ptr(task, field!(task_struct, real_parent), parent);
        mem.put_ptr(task, field!(task_struct, parent), parent);
        mem.put_ptr(task, field!(task_struct, group_leader), leader);
        mem.put_ptr(task, field!(task_struct, cgroups), places.css_set());
        mem.put_ptr(
            task,
            field!(task_struct, sched_task_group),
            places.task_group(),
        );
    }

    fn write_allowed(&self, task: KernAddr, allowed: &CpuSet) {
        let offset = field!(task_struct, cpus_mask).offset();
        let mask = KernAddr::new(task.raw() + offset);
        self.write_mask(mask, allowed);
        self.mem.put_ptr(task, field!(task_struct, cpus_ptr), mask);
        let count = i32::try_from(allowed.len()).unwrap_or(i32::MAX);
        self.mem
            .put(task, field!(task_struct, nr_cpus_allowed), count);
    }

    fn write_mask(&self, at: KernAddr, cpus: &CpuSet) {
        self.mem
            .zero(at, size_of::<cpumask>() as u64)
            .expect("kernel masks are mapped");
        for (word, offset) in cpus.words().iter().zip((0..).step_by(8)) {
            self.mem
                .write_u64(KernAddr::new(at.raw() + offset), *word)
                .expect("kernel masks are mapped");
        }
    }

    fn task(&self, p: Tid) -> KernAddr {
        let at = self.places.task(p);
        assert!(!at.is_null(), "task number {p} has no place");
        at
    }

    fn bump(&self, p: Tid, field: crate::types::ctype::Field<u64>) {
        let at = KernAddr::new(self.task(p).raw() + field.offset());
        let count = self.mem.read_u64(at).expect("tasks are mapped");
        self.mem
            .write_u64(at, count.wrapping_add(1))
            .expect("tasks are mapped");
    }
}

impl Image for KernelImage {
    fn task_created(&mut self, p: Tid, spec: &TaskSpec) {
        let (task, places) = (self.task(p), self.places);
        let mem = &self.mem;
        mem.zero(task, TASK_STRIDE).expect("tasks are mapped");
        mem.put(
            task,
            field!(task_struct, scx.ddsp_dsq_id),
            scx::SCX_DSQ_INVALID,
        );
        mem.put(task, field!(task_struct, scx.slice), scx::SCX_SLICE_DFL);
        mem.put(task, field!(task_struct, scx.sticky_cpu), -1);
        mem.put(task, field!(task_struct, scx.holding_cpu), -1);
        mem.put(task, field!(task_struct, scx.tid), p.raw().into());
        mem.put(task, field!(task_struct, pid), p.as_s32());
        let leader = spec.tgid.unwrap_or(p);
        mem.put(task, field!(task_struct, tgid), leader.as_s32());
        mem.put_str(task, field!(task_struct, comm), &spec.comm);
        if spec.flags & PF_KTHREAD == 0 {
            mem.put_ptr(task, field!(task_struct, mm), places.mm());
        }
        let parent = spec
            .parent
            .map_or(places.idle_task(Cpu::new(0)), |p| places.task(p));
        self.relate(task, parent, places.task(leader));
        self.set_task_flags(p, spec.flags);
        self.set_allowed(p, &spec.allowed);
        self.set_prio(p, spec.policy, spec.nice);
        self.set_cpu(p, spec.cpu);
        if self.asleep.len() <= p.index() {
            self.asleep.resize(p.index() + 1, false);
        }
        self.asleep[p.index()] = false;
    }

    fn task_gone(&mut self, p: Tid) {
        let task = self.task(p);
        self.mem.zero(task, TASK_STRIDE).expect("tasks are mapped");
    }

    fn slice(&self, p: Tid) -> u64 {
        self.mem.get(self.task(p), field!(task_struct, scx.slice))
    }

    fn set_slice(&mut self, p: Tid, slice: u64) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.slice), slice);
    }

    fn dsq_vtime(&self, p: Tid) -> u64 {
        self.mem
            .get(self.task(p), field!(task_struct, scx.dsq_vtime))
    }

    fn set_dsq_vtime(&mut self, p: Tid, vtime: u64) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.dsq_vtime), vtime);
    }

    fn disallow(&self, p: Tid) -> bool {
        self.mem
            .get(self.task(p), field!(task_struct, scx.disallow))
    }

    fn set_disallow(&mut self, p: Tid, disallow: bool) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.disallow), disallow);
    }

    fn set_scx_flags(&mut self, p: Tid, flags: u32) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.flags), flags);
    }

    fn set_weight(&mut self, p: Tid, weight: u32) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.weight), weight);
    }

    fn set_ddsp(&mut self, p: Tid, dsq_id: u64, enq_flags: u64) {
        let task = self.task(p);
        self.mem
            .put(task, field!(task_struct, scx.ddsp_dsq_id), dsq_id);
        self.mem
            .put(task, field!(task_struct, scx.ddsp_enq_flags), enq_flags);
    }

    fn set_cpu(&mut self, p: Tid, cpu: Cpu) {
        self.mem.put(
            self.task(p),
            field!(task_struct, thread_info.cpu),
            cpu.raw(),
        );
    }

    fn set_on_cpu(&mut self, p: Tid, on_cpu: bool) {
        let task = self.task(p);
        self.mem
            .put(task, field!(task_struct, on_cpu), on_cpu.into());
    }

    fn count_switch(&mut self, p: Tid) {
        let switches = match self.asleep.get(p.index()) {
            Some(true) => field!(task_struct, nvcsw),
            Some(false) | None => field!(task_struct, nivcsw),
        };
        self.bump(p, switches);
    }

    fn set_state(&mut self, p: Tid, state: u32) {
        self.mem
            .put(self.task(p), field!(task_struct, __state), state);
        if let Some(asleep) = self.asleep.get_mut(p.index()) {
            *asleep = state != 0;
        }
    }

    fn set_task_flags(&mut self, p: Tid, flags: u32) {
        self.mem
            .put(self.task(p), field!(task_struct, flags), flags);
    }

    fn set_allowed(&mut self, p: Tid, allowed: &CpuSet) {
        self.write_allowed(self.task(p), allowed);
    }

    fn set_prio(&mut self, p: Tid, policy: u32, nice: i32) {
        let (task, prio) = (self.task(p), DEFAULT_PRIO + nice);
        self.mem.put(task, field!(task_struct, policy), policy);
        self.mem.put(task, field!(task_struct, static_prio), prio);
        self.mem.put(task, field!(task_struct, normal_prio), prio);
        self.mem.put(task, field!(task_struct, prio), prio);
    }

    fn set_sum_exec_runtime(&mut self, p: Tid, ns: u64) {
        let task = self.task(p);
        self.mem
            .put(task, field!(task_struct, se.sum_exec_runtime), ns);
        self.mem.put(task, field!(task_struct, utime), ns);
    }

    fn set_runnable_at(&mut self, p: Tid, jiffies: u64) {
        self.mem
            .put(self.task(p), field!(task_struct, scx.runnable_at), jiffies);
    }

    fn set_curr(&mut self, cpu: Cpu, p: Option<Tid>) {
        let curr = match p {
            Some(tid) => self.task(tid),
            None => self.places.idle_task(cpu),
        };
        self.mem
            .put_ptr(self.places.rq(cpu), field!(rq, curr), curr);
    }

    fn set_mask_bit(&mut self, kind: MaskKind, node: Option<u32>, cpu: Cpu, set: bool) {
        let mask = self.places.mask(kind, node);
        let at = KernAddr::new(mask.raw() + u64::from(cpu.raw() / 64) * 8);
        let bit = 1u64 << (cpu.raw() % 64);
        let old = self.mem.read_u64(at).expect("kernel masks are mapped");
        let new = if set { old | bit } else { old & !bit };
        self.mem
            .write_u64(at, new)
            .expect("kernel masks are mapped");
    }
}
