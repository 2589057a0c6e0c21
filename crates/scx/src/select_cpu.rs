//! The built-in choice of a CPU for a waking task (`scx_select_cpu_dfl()`).
//!
//! Order: for a sync wakeup the previous CPU, then the waker's; with SMT a wholly idle
//! core, from near to far; the previous CPU; its siblings; any idle CPU, from near to far.
//! The CPU is claimed, except the waker's, which is busy running the waker.

use std::sync::Arc;

use harena_abi::{Cpu, Tid, scx};

use crate::{Core, CpuSet, Machine};

/// Masks of one search.
struct Search {
    this: Cpu,
    prev: Cpu,
    /// `prev`, if the task may run there.
    usable_prev: Option<Cpu>,
    node: u32,
    allowed: Arc<CpuSet>,
    llc: Option<Arc<CpuSet>>,
    numa: Option<Arc<CpuSet>>,
    flags: u64,
}

impl Core {
    /// `scx_select_cpu_dfl()`; `None` is -EBUSY. `within` narrows the task's own mask.
    pub(crate) fn select_cpu_dfl(
        &mut self,
        machine: &mut dyn Machine,
        p: Tid,
        prev: Cpu,
        (wake_flags, flags): (u64, u64),
        within: Option<&CpuSet>,
    ) -> Option<Cpu> {
        let search = self.begin_search(machine, p, prev, flags, within)?;
        if wake_flags & scx::SCX_WAKE_SYNC != 0
            && let Some(cpu) = self.select_for_sync(&search)
        {
            return Some(cpu);
        }
        if self.idle.smt_active {
            if let Some(cpu) = self.select_idle_core(machine, &search) {
                return Some(cpu);
            }
            if flags & scx::SCX_PICK_IDLE_CORE != 0 {
                return None;
            }
        }
        self.select_idle_cpu(machine, &search)
    }

    fn begin_search(
        &self,
        machine: &mut dyn Machine,
        p: Tid,
        prev: Cpu,
        flags: u64,
        within: Option<&CpuSet>,
    ) -> Option<Search> {
        let t = self.t(p);
        let everywhere = t.nr_allowed >= self.topology.nr_cpus();
        let allowed = match within {
            Some(set) if everywhere => Arc::new(set.clone()),
            Some(set) => Arc::new(set.and(&t.allowed)),
            None => Arc::clone(&t.allowed),
        };
        if allowed.is_empty() {
            return None;
        }
        let raw = everywhere && within.is_none();
        let domain = |used: bool, sets: &[Arc<CpuSet>]| {
            if !used {
                return None;
            }
            let set = if raw {
                Arc::clone(&sets[prev.index()])
            } else {
                Arc::new(sets[prev.index()].and(&allowed))
            };
            (!set.is_empty()).then_some(set)
        };
        Some(Search {
            this: machine.this_cpu(),
            prev,
            usable_prev: allowed.contains(prev).then_some(prev),
            node: self.topology.node_of(prev),
            llc: domain(self.idle.use_llc, &self.idle.llc_of),
            numa: domain(
                self.idle.use_numa && !self.sched.idle_per_node,
                &self.idle.node_of,
            ),
            allowed,
            flags,
        })
    }

    fn select_for_sync(&mut self, s: &Search) -> Option<Cpu> {
        if let Some(prev) = s.usable_prev
            && self.idle.llc_of[s.this.index()].contains(prev)
            && self.claim_idle(prev)
        {
            return Some(prev);
        }
        let waker = self.rq(s.this).curr;
        let waker_exits = waker.is_some_and(|w| self.t(w).flags & scx::PF_EXITING != 0);
        let waker_node = self.topology.node_of(s.this);
        let in_node = !self.sched.idle_per_node
            || s.flags & scx::SCX_PICK_IDLE_IN_NODE == 0
            || waker_node == s.node;
        let fits = !waker_exits
            && self.dsqs.nr(crate::dsq::DsqRef::Local(s.this)) == 0
            && in_node
            && self.idle.any_idle(waker_node)
            && s.allowed.contains(s.this);
        fits.then_some(s.this)
    }

    fn select_idle_core(&mut self, machine: &mut dyn Machine, s: &Search) -> Option<Cpu> {
        if let Some(prev) = s.usable_prev
            && self.idle.core_idle(prev, s.node)
            && self.claim_idle(prev)
        {
            return Some(prev);
        }
        let core = scx::SCX_PICK_IDLE_CORE;
        for near in [&s.llc, &s.numa].into_iter().flatten() {
            if let Some(cpu) = self.pick_idle_in_node(s.this, near, s.node, core) {
                return Some(cpu);
            }
        }
        self.pick_idle_cpu(machine, &s.allowed, s.node, s.flags | core)
    }

    fn select_idle_cpu(&mut self, machine: &mut dyn Machine, s: &Search) -> Option<Cpu> {
        if let Some(prev) = s.usable_prev
            && self.claim_idle(prev)
        {
            return Some(prev);
        }
        if self.idle.smt_active {
            let core = Arc::clone(&self.idle.smt_of[s.prev.index()]);
            let mut siblings = core.iter().filter(|&cpu| cpu != s.prev);
            let found = siblings.find(|&cpu| s.allowed.contains(cpu) && self.claim_idle(cpu));
            if found.is_some() {
                return found;
            }
        }
        for near in [&s.llc, &s.numa].into_iter().flatten() {
            if let Some(cpu) = self.pick_idle_in_node(s.this, near, s.node, 0) {
                return Some(cpu);
            }
        }
        self.pick_idle_cpu(machine, &s.allowed, s.node, s.flags)
    }
}
