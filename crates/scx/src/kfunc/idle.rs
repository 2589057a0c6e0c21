//! kfuncs about idle CPUs and the built-in choice of one.

use harena_abi::{Cpu, Errno, Tid, scx};

use crate::{Core, CpuSet, Machine, MaskKind, Op};

impl Core {
    fn builtin_idle_enabled(&mut self, machine: &mut dyn Machine) -> bool {
        if !self.sched.builtin_idle {
            self.error(machine, "built-in idle tracking is disabled");
        }
        self.sched.builtin_idle
    }

    /// A node that a program gave, where nodes are tracked (`validate_node()`).
    fn valid_node(&mut self, machine: &mut dyn Machine, node: i32) -> Result<u32, Errno> {
        if !self.sched.idle_per_node {
            self.error(machine, "per-node idle tracking is disabled");
            return Err(Errno::EOPNOTSUPP);
        }
        if node == -1 {
            return Err(Errno::ENOENT);
        }
        let valid = u32::try_from(node).ok();
        let valid = valid.filter(|&n| n < self.topology.nr_nodes());
        if valid.is_none() {
            self.error(machine, &format!("invalid node {node}"));
        }
        valid.ok_or(Errno::EINVAL)
    }

    /// Whether `p` may be the subject of a select kfunc here (`select_cpu_from_kfunc()`).
    fn selects_for(&mut self, machine: &mut dyn Machine, p: Tid) -> bool {
        if self.tasks.get(p).is_none() {
            self.error(machine, "called on a task not being operated on");
            return false;
        }
        match self.op {
            Some(cx) if cx.op == Op::SelectCpu => {
                let own = cx.tasks.contains(&Some(p));
                if !own {
                    self.error(machine, "called on a task not being operated on");
                }
                own
            }
            Some(cx) if cx.rq.is_some_and(|rq| rq != self.t(p).cpu) => {
                let who = self.who(p);
                let why = format!("select_cpu kfunc called cross-task on {who}");
                self.error(machine, &why);
                false
            }
            _ => true,
        }
    }

    fn select_from_kfunc(
        &mut self,
        machine: &mut dyn Machine,
        p: Tid,
        how: (i32, u64, u64),
        within: Option<&CpuSet>,
    ) -> Result<Cpu, Errno> {
        let (prev, wake_flags, flags) = how;
        let prev = self.cpu_valid(machine, prev, "").ok_or(Errno::EINVAL)?;
        if !self.builtin_idle_enabled(machine) {
            return Err(Errno::EBUSY);
        }
        if !self.selects_for(machine, p) {
            return Err(Errno::EINVAL);
        }
        let t = self.t(p);
        if t.nr_allowed == 1 || t.migration_disabled {
            let set = within.unwrap_or(&t.allowed);
            let fits = set.contains(prev) && self.claim_idle(prev);
            return if fits { Ok(prev) } else { Err(Errno::EBUSY) };
        }
        self.select_cpu_dfl(machine, p, prev, (wake_flags, flags), within)
            .ok_or(Errno::EBUSY)
    }

    /// `scx_bpf_select_cpu_dfl`: the CPU, and whether it is idle.
    pub fn kf_select_cpu_dfl(
        &mut self,
        machine: &mut dyn Machine,
        p: Tid,
        prev: i32,
        wake_flags: u64,
    ) -> (i32, bool) {
        match self.select_from_kfunc(machine, p, (prev, wake_flags, 0), None) {
            Ok(cpu) => (cpu.as_s32(), true),
            Err(_) => (prev, false),
        }
    }

    /// `__scx_bpf_select_cpu_and`; `how` is (`prev_cpu`, `wake_flags`, `flags`).
    pub fn kf_select_cpu_and(
        &mut self,
        machine: &mut dyn Machine,
        p: Tid,
        how: (i32, u64, u64),
        allowed: &CpuSet,
    ) -> Result<Cpu, Errno> {
        self.select_from_kfunc(machine, p, how, Some(allowed))
    }

    /// `scx_bpf_test_and_clear_cpu_idle`.
    pub fn kf_test_and_clear_cpu_idle(&mut self, machine: &mut dyn Machine, cpu: i32) -> bool {
        if !self.builtin_idle_enabled(machine) {
            return false;
        }
        match self.cpu_valid(machine, cpu, "") {
            Some(cpu) => self.claim_idle(cpu),
            None => false,
        }
    }

    /// The node to start from, of which there is but one without per-node tracking.
    fn pick_node(&mut self, machine: &mut dyn Machine, node: Option<i32>) -> Result<u32, Errno> {
        if let Some(node) = node {
            return self.valid_node(machine, node);
        }
        if self.sched.idle_per_node {
            self.error(machine, "per-node idle tracking is enabled");
            return Err(Errno::EBUSY);
        }
        Ok(0)
    }

    /// `scx_bpf_pick_idle_cpu` and, with a node, `scx_bpf_pick_idle_cpu_node`.
    pub fn kf_pick_idle_cpu(
        &mut self,
        machine: &mut dyn Machine,
        allowed: &CpuSet,
        node: Option<i32>,
        flags: u64,
    ) -> Result<Cpu, Errno> {
        let from = self.pick_node(machine, node)?;
        if node.is_none() && !self.builtin_idle_enabled(machine) {
            return Err(Errno::EBUSY);
        }
        self.pick_idle_cpu(machine, allowed, from, flags)
            .ok_or(Errno::EBUSY)
    }

    /// `scx_bpf_pick_any_cpu` and, with a node, `scx_bpf_pick_any_cpu_node`: without
    /// built-in idle tracking any CPU at once.
    pub fn kf_pick_any_cpu(
        &mut self,
        machine: &mut dyn Machine,
        allowed: &CpuSet,
        node: Option<i32>,
        flags: u64,
    ) -> Result<Cpu, Errno> {
        let from = self.pick_node(machine, node)?;
        if self.sched.builtin_idle
            && let Some(cpu) = self.pick_idle_cpu(machine, allowed, from, flags)
        {
            return Ok(cpu);
        }
        let this = machine.this_cpu();
        let any = if node.is_some() && flags & scx::SCX_PICK_IDLE_IN_NODE != 0 {
            let in_node: CpuSet = allowed
                .iter()
                .filter(|&cpu| self.topology.get(cpu).is_some_and(|t| t.node == from))
                .collect();
            self.any_and_distribute(this, &in_node, &in_node)
        } else {
            self.any_and_distribute(this, allowed, allowed)
        };
        any.ok_or(Errno::EBUSY)
    }

    /// `scx_bpf_get_idle_cpumask` and its kin: which mask of the image to hand out
    /// (`IdleCpu` or `IdleSmt`, of which node), or `None` for the empty one after an error.
    pub fn kf_get_idle_mask(
        &mut self,
        machine: &mut dyn Machine,
        kind: MaskKind,
        node: Option<i32>,
    ) -> Option<(MaskKind, Option<u32>)> {
        let node = match node {
            Some(node) => Some(self.valid_node(machine, node).ok()?),
            None if self.sched.idle_per_node => {
                self.error(machine, "SCX_OPS_BUILTIN_IDLE_PER_NODE enabled");
                return None;
            }
            None if !self.builtin_idle_enabled(machine) => return None,
            None => None,
        };
        // Without SMT every CPU is a core of its own.
        let kind = if self.idle.smt_active {
            kind
        } else {
            MaskKind::IdleCpu
        };
        Some((kind, node))
    }

    /// `bpf_cpumask_any_distribute`; `None` if the set is empty.
    pub fn kf_any_distribute(&mut self, machine: &mut dyn Machine, set: &CpuSet) -> Option<Cpu> {
        self.any_and_distribute(machine.this_cpu(), set, set)
    }

    /// `bpf_cpumask_any_and_distribute`; `None` if no CPU is in both.
    pub fn kf_any_and_distribute(
        &mut self,
        machine: &mut dyn Machine,
        a: &CpuSet,
        b: &CpuSet,
    ) -> Option<Cpu> {
        self.any_and_distribute(machine.this_cpu(), a, b)
    }
}
