//! kfuncs about CPUs and cids: kicks, numbers, topology, performance.

use harena_abi::{Cid, Cpu, Errno, Tid, scx};

use crate::{CidTopo, Core, Machine, Op};

impl Core {
    /// `scx_bpf_kick_cpu`.
    pub fn kf_kick_cpu(&mut self, machine: &mut dyn Machine, cpu: i32, flags: u64) {
        if let Some(cpu) = self.cpu_valid(machine, cpu, "") {
            let this = machine.this_cpu();
            self.kick(machine, this, cpu, flags);
        }
    }

    /// `scx_bpf_kick_cid`.
    pub fn kf_kick_cid(&mut self, machine: &mut dyn Machine, cid: i32, flags: u64) {
        if let Some(cpu) = self.cpu_of_cid(machine, cid) {
            let this = machine.this_cpu();
            self.kick(machine, this, cpu, flags);
        }
    }

    /// The CPU of a cid that a program gave, or an error (`scx_cid_to_cpu()`).
    fn cpu_of_cid(&mut self, machine: &mut dyn Machine, raw: i32) -> Option<Cpu> {
        let cpu = Cid::from_s32(raw).and_then(|cid| self.cids.cpu_of(cid));
        if cpu.is_none() {
            self.error(machine, &format!("invalid cid {raw}"));
        }
        cpu
    }

    /// The same as the kernel returns it: the CPU, or -EINVAL.
    pub(crate) fn cid_to_cpu(&mut self, machine: &mut dyn Machine, raw: i32) -> i32 {
        self.cpu_of_cid(machine, raw)
            .map_or(Errno::EINVAL.as_ret(), Cpu::as_s32)
    }

    /// `scx_bpf_cid_to_cpu`: the CPU, or a negative errno.
    pub fn kf_cid_to_cpu(&mut self, machine: &mut dyn Machine, cid: i32) -> i32 {
        self.cid_to_cpu(machine, cid)
    }

    /// `scx_bpf_cpu_to_cid`: the cid, or a negative errno.
    pub fn kf_cpu_to_cid(&mut self, machine: &mut dyn Machine, cpu: i32) -> i32 {
        let cpu = self.cpu_valid(machine, cpu, "");
        let cid = cpu.and_then(|cpu| self.cids.cid_of(cpu));
        cid.map_or(Errno::EINVAL.as_ret(), Cid::as_s32)
    }

    /// `scx_bpf_task_cid`; -EINVAL if there is no such task.
    #[must_use]
    pub fn kf_task_cid(&self, p: Tid) -> i32 {
        let cpu = self.tasks.get(p).map(|t| t.cpu);
        let cid = cpu.and_then(|cpu| self.cids.cid_of(cpu));
        cid.map_or(Errno::EINVAL.as_ret(), Cid::as_s32)
    }

    /// `scx_bpf_this_cid`.
    #[must_use]
    pub fn kf_this_cid(&self, machine: &mut dyn Machine) -> i32 {
        let cid = self.cids.cid_of(machine.this_cpu());
        cid.map_or(Errno::EINVAL.as_ret(), Cid::as_s32)
    }

    /// `scx_bpf_cid_topo`; all -1 after an error.
    pub fn kf_cid_topo(&mut self, machine: &mut dyn Machine, cid: i32) -> CidTopo {
        let topo = Cid::from_s32(cid).and_then(|cid| self.cids.topo(cid));
        match topo {
            Some(&topo) => topo,
            None => {
                self.error(machine, &format!("invalid cid {cid}"));
                CidTopo::UNKNOWN
            }
        }
    }

    /// `scx_bpf_cid_override`, from `ops.init_cids` only. Both tables as the program's
    /// `s32` arrays; an invalid layout is an error and changes nothing.
    pub fn kf_cid_override(
        &mut self,
        machine: &mut dyn Machine,
        cpu_to_cid: &[i32],
        shard_start: &[i32],
    ) {
        if self.op.is_none_or(|cx| cx.op != Op::InitCids) {
            let why = "scx_bpf_cid_override() called outside of ops.init_cids()";
            self.error(machine, why);
        } else if let Err(why) = self.cids.set_layout(cpu_to_cid, shard_start) {
            self.error(machine, &why.to_string());
        }
    }

    /// `scx_bpf_nr_cids`, and `scx_bpf_nr_cpu_ids`: possible CPUs have no gaps here.
    #[must_use]
    pub fn kf_nr_cids(&self) -> u32 {
        self.cids.nr_cids()
    }

    /// `scx_bpf_nr_online_cids`.
    #[must_use]
    pub fn kf_nr_online_cids(&self) -> u32 {
        self.online.len()
    }

    /// `scx_bpf_nr_node_ids`.
    #[must_use]
    pub fn kf_nr_node_ids(&self) -> u32 {
        self.topology.nr_nodes()
    }

    /// `scx_bpf_cpu_node`: the node, or -1 after an error.
    pub fn kf_cpu_node(&mut self, machine: &mut dyn Machine, cpu: i32) -> i32 {
        match self.cpu_valid(machine, cpu, "") {
            Some(cpu) => self.topology.node_of(cpu).cast_signed(),
            None => -1,
        }
    }

    /// `scx_bpf_cpuperf_cap`: the CPU's capacity, 1024 being the biggest.
    pub fn kf_cpuperf_cap(&mut self, machine: &mut dyn Machine, cpu: i32) -> u32 {
        let cpu = self.cpu_valid(machine, cpu, "");
        cpu.and_then(|cpu| self.topology.get(cpu))
            .map_or(1024, |t| t.capacity)
    }

    /// `scx_bpf_cpuperf_cur`: the machine follows the target at once.
    pub fn kf_cpuperf_cur(&mut self, machine: &mut dyn Machine, cpu: i32) -> u32 {
        let cpu = self.cpu_valid(machine, cpu, "");
        cpu.map_or(1024, |cpu| self.rq(cpu).cpuperf_target)
    }

    /// `scx_bpf_cpuperf_set`; 0 or a negative errno.
    pub fn kf_cpuperf_set(&mut self, machine: &mut dyn Machine, cpu: i32, perf: u32) -> i32 {
        let einval = Errno::EINVAL.as_ret();
        if u64::from(perf) > scx::SCX_CPUPERF_ONE {
            let why = format!("Invalid cpuperf target {perf} for CPU {cpu}");
            self.error(machine, &why);
            return einval;
        }
        let Some(target) = self.cpu_valid(machine, cpu, "") else {
            return einval;
        };
        let locked = self.op.and_then(|cx| cx.rq);
        if locked.is_some_and(|locked| locked != target) {
            self.error(machine, &format!("Invalid target CPU {cpu}"));
            return einval;
        }
        self.rq_mut(target).cpuperf_target = perf;
        0
    }
}
