//! Built-in idle tracking (`kernel/sched/ext/idle.c`).
//!
//! Two masks, one pair for the machine or one per node: idle CPUs, and CPUs of wholly
//! idle cores.
//!
//! ```text
//! busy ──CPU picks idle──► idle ──claimed──► busy in the masks, idle in truth
//!   ▲                        │                    │
//!   └──────leaves idle───────┘   ◄──re-picks idle─┘
//! ```
//!
//! A claimed CPU gets its bit back only when it picks idle again: whoever claims one and
//! never kicks it loses it. Both masks start empty; the end of the enable-time bypass
//! reschedules every CPU, and the idle ones report in.

use std::sync::Arc;

use harena_abi::{Cpu, scx};

use crate::{Core, CpuSet, Env, Form, Image, Machine, MaskKind, Op, Topology};

#[derive(Clone, Debug, Default)]
struct Masks {
    cpu: CpuSet,
    smt: CpuSet,
}

/// The masks, and the machine's sharing domains.
#[derive(Debug)]
pub(crate) struct IdleMasks {
    per_node: bool,
    /// One pair, or one per node.
    masks: Vec<Masks>,
    /// CPUs of each CPU's core, last-level cache and node.
    pub(crate) smt_of: Vec<Arc<CpuSet>>,
    pub(crate) llc_of: Vec<Arc<CpuSet>>,
    pub(crate) node_of: Vec<Arc<CpuSet>>,
    /// `sched_smt_active()`.
    pub(crate) smt_active: bool,
    /// Whether `select_cpu_dfl` looks at caches and nodes.
    pub(crate) use_llc: bool,
    pub(crate) use_numa: bool,
}

impl IdleMasks {
    pub(crate) fn new(topology: &Topology) -> Self {
        let of = |same: fn(&crate::CpuTopology, &crate::CpuTopology) -> bool| {
            let cpus = topology.cpus();
            cpus.map(|cpu| Arc::new(topology.peers(cpu, same)))
                .collect::<Vec<_>>()
        };
        let smt_of = of(|a, b| a.core == b.core);
        let llc_of = of(|a, b| a.llc == b.llc);
        let node_of = of(|a, b| a.node == b.node);
        let online = topology.nr_cpus();
        let mismatch = llc_of.iter().zip(&node_of).any(|(l, n)| l.len() != n.len());
        Self {
            per_node: false,
            masks: vec![Masks::default()],
            smt_active: smt_of.iter().any(|set| set.len() > 1),
            use_llc: llc_of.first().is_some_and(|set| set.len() < online),
            use_numa: node_of.first().is_some_and(|set| set.len() < online) && mismatch,
            smt_of,
            llc_of,
            node_of,
        }
    }

    /// All busy, in the layout that the scheduler asks for.
    pub(crate) fn reset(&mut self, per_node: bool, nr_nodes: u32, image: &mut dyn Image) {
        for (cpu, kind, node) in self.set_bits() {
            image.set_mask_bit(kind, node, cpu, false);
        }
        self.per_node = per_node;
        let count = if per_node { nr_nodes as usize } else { 1 };
        self.masks = vec![Masks::default(); count];
    }

    fn set_bits(&self) -> Vec<(Cpu, MaskKind, Option<u32>)> {
        let mut bits = Vec::new();
        for (node, masks) in (0u32..).zip(&self.masks) {
            let node = self.per_node.then_some(node);
            bits.extend(masks.cpu.iter().map(|c| (c, MaskKind::IdleCpu, node)));
            bits.extend(masks.smt.iter().map(|c| (c, MaskKind::IdleSmt, node)));
        }
        bits
    }

    pub(crate) fn all_idle(&self) -> CpuSet {
        self.masks.iter().flat_map(|m| m.cpu.iter()).collect()
    }

    /// The pair that holds CPUs of `node`.
    fn slot(&self, node: u32) -> usize {
        if self.per_node { node as usize } else { 0 }
    }

    pub(crate) fn any_idle(&self, node: u32) -> bool {
        !self.masks[self.slot(node)].cpu.is_empty()
    }

    /// Whether the whole core of `cpu` is idle.
    pub(crate) fn core_idle(&self, cpu: Cpu, node: u32) -> bool {
        self.masks[self.slot(node)].smt.contains(cpu)
    }

    fn put(&mut self, image: &mut dyn Image, kind: MaskKind, node: u32, cpu: Cpu, set: bool) {
        let slot = self.slot(node);
        let masks = &mut self.masks[slot];
        let mask = if kind == MaskKind::IdleSmt {
            &mut masks.smt
        } else {
            &mut masks.cpu
        };
        let changed = if set {
            mask.insert(cpu)
        } else {
            mask.remove(cpu)
        };
        if changed {
            image.set_mask_bit(kind, self.per_node.then_some(node), cpu, set);
        }
    }

    /// `update_builtin_idle()`.
    fn set_idle(&mut self, image: &mut dyn Image, node: u32, cpu: Cpu, idle: bool) {
        self.put(image, MaskKind::IdleCpu, node, cpu, idle);
        if self.smt_active {
            let core = Arc::clone(&self.smt_of[cpu.index()]);
            if !idle || core.is_subset(&self.masks[self.slot(node)].cpu) {
                for sibling in core.iter() {
                    self.put(image, MaskKind::IdleSmt, node, sibling, idle);
                }
            }
        }
    }

    /// `scx_idle_test_and_clear_cpu()`: claims `cpu`; false if it was not idle.
    fn claim(&mut self, image: &mut dyn Image, node: u32, cpu: Cpu) -> bool {
        if self.smt_active {
            let core = Arc::clone(&self.smt_of[cpu.index()]);
            for sibling in core.iter() {
                self.put(image, MaskKind::IdleSmt, node, sibling, false);
            }
        }
        let was = self.masks[self.slot(node)].cpu.contains(cpu);
        self.put(image, MaskKind::IdleCpu, node, cpu, false);
        was
    }
}

impl Core {
    /// `scx_update_idle()`: `transition` is set when the CPU really enters or leaves the
    /// idle task, and clear when it only considers the idle task.
    pub(crate) fn update_idle(
        &mut self,
        env: &mut Env<'_>,
        cpu: Cpu,
        idle: bool,
        transition: bool,
    ) {
        if !self.sched.enabled {
            return;
        }
        let repick = !transition && self.rq(cpu).curr.is_none();
        if self.sched.builtin_idle && (transition || repick) {
            let node = self.topology.node_of(cpu);
            self.idle.set_idle(&mut *self.image, node, cpu, idle);
        }
        if self.bypassing(cpu) || !(transition || repick) {
            return;
        }
        let owed = std::mem::take(&mut self.rq_mut(cpu).idle_renotify);
        let tells = transition || owed || self.sched.form == Form::Cid;
        if tells && self.has_op(Op::UpdateIdle) {
            self.call_bare(env, Op::UpdateIdle, Some(cpu), |ops, cx| {
                ops.update_idle(cx, cpu, idle);
            });
        }
    }

    /// Claims `cpu` if it is idle.
    pub(crate) fn claim_idle(&mut self, cpu: Cpu) -> bool {
        let node = self.topology.node_of(cpu);
        self.idle.claim(&mut *self.image, node, cpu)
    }

    /// `cpumask_any_and_distribute()`: the next CPU in both sets after the last one given
    /// out on this CPU, whoever asked for it.
    pub(crate) fn any_and_distribute(&mut self, this: Cpu, a: &CpuSet, b: &CpuSet) -> Option<Cpu> {
        let rq = self.rq_mut(this);
        let found = a.next_and_wrap(b, rq.distribute_prev)?;
        rq.distribute_prev = Some(found);
        Some(found)
    }

    /// `pick_idle_cpu_in_node()`.
    pub(crate) fn pick_idle_in_node(
        &mut self,
        this: Cpu,
        allowed: &CpuSet,
        node: u32,
        flags: u64,
    ) -> Option<Cpu> {
        let slot = self.idle.slot(node);
        let rq = &mut self.rqs[this.index()];
        let masks = &self.idle.masks[slot];
        let mut found = None;
        if self.idle.smt_active {
            found = masks.smt.next_and_wrap(allowed, rq.distribute_prev);
            if found.is_none() && flags & scx::SCX_PICK_IDLE_CORE != 0 {
                return None;
            }
        }
        let cpu = found.or_else(|| masks.cpu.next_and_wrap(allowed, rq.distribute_prev))?;
        rq.distribute_prev = Some(cpu);
        self.claim_idle(cpu).then_some(cpu)
    }

    /// `scx_pick_idle_cpu()`: the node first, then the others by distance.
    pub(crate) fn pick_idle_cpu(
        &mut self,
        machine: &mut dyn Machine,
        allowed: &CpuSet,
        node: u32,
        flags: u64,
    ) -> Option<Cpu> {
        let this = machine.this_cpu();
        if let Some(cpu) = self.pick_idle_in_node(this, allowed, node, flags) {
            return Some(cpu);
        }
        if !self.idle.per_node || flags & scx::SCX_PICK_IDLE_IN_NODE != 0 {
            return None;
        }
        // Every other node is equally far in this model of a machine.
        let nodes = self.topology.nr_nodes();
        (0..nodes)
            .filter(|&n| n != node)
            .find_map(|n| self.pick_idle_in_node(this, allowed, n, flags))
    }
}
