//! kfuncs about tasks, time, events, and leaving.

use harena_abi::{Cid, Cpu, SimTime, Tid, scx};

use crate::sched::EnableState;
use crate::task::RunState;
use crate::types::counter;
use crate::{Core, Env, EventStats, Machine};

impl Core {
    pub(crate) fn has_sched(&self) -> bool {
        self.sched.state != EnableState::Disabled
    }

    /// `scx_bpf_task_set_slice`: at once if the task waits or runs on the run queue that
    /// the callback holds, else when its slice is next looked at.
    pub fn kf_task_set_slice(&mut self, env: &mut Env<'_>, p: Tid, slice: u64) -> bool {
        let Some(t) = self.tasks.get(p) else {
            return false;
        };
        let on_locked = self.op.and_then(|cx| cx.rq) == Some(t.cpu);
        if on_locked && (self.runnable_links.is_linked(p) || self.is_current(p)) {
            self.set_task_slice(p, slice);
            return true;
        }
        // The pending request is packed into 43 bits; all ones stands for infinity.
        let limit = (1 << 43) - 1;
        let packed = if slice == scx::SCX_SLICE_INF {
            slice
        } else if slice >= limit {
            let cpu = t.cpu;
            self.count(env, cpu, counter::slice_clamped);
            limit - 1
        } else {
            slice
        };
        self.tasks[p].slice_oob = Some(packed);
        true
    }

    /// `scx_bpf_task_set_dsq_vtime`.
    pub fn kf_task_set_dsq_vtime(&mut self, p: Tid, vtime: u64) -> bool {
        let known = self.tasks.get(p).is_some();
        if known {
            self.image.set_dsq_vtime(p, vtime);
        }
        known
    }

    /// `scx_bpf_task_cpu`; `None` if there is no such task.
    #[must_use]
    pub fn kf_task_cpu(&self, p: Tid) -> Option<Cpu> {
        self.tasks.get(p).map(|t| t.cpu)
    }

    /// `scx_bpf_task_running`.
    #[must_use]
    pub fn kf_task_running(&self, p: Tid) -> bool {
        self.tasks.get(p).is_some() && self.is_current(p)
    }

    /// `scx_bpf_cpu_curr`: `Some(None)` is the idle task, `None` is NULL after an error.
    pub fn kf_cpu_curr(&mut self, machine: &mut dyn Machine, cpu: i32) -> Option<Option<Tid>> {
        let cpu = self.cpu_valid(machine, cpu, "")?;
        Some(self.rq(cpu).curr)
    }

    /// `scx_bpf_cid_curr`.
    pub fn kf_cid_curr(&mut self, machine: &mut dyn Machine, cid: i32) -> Option<Option<Tid>> {
        match Cid::from_s32(cid).and_then(|cid| self.cids.cpu_of(cid)) {
            Some(cpu) => Some(self.rq(cpu).curr),
            None => {
                self.error(machine, &format!("invalid cid {cid}"));
                None
            }
        }
    }

    /// `scx_bpf_locked_rq`.
    pub fn kf_locked_rq(&mut self, machine: &mut dyn Machine) -> Option<Cpu> {
        let locked = self.op.and_then(|cx| cx.rq);
        if locked.is_none() {
            self.error(machine, "accessing rq without holding rq lock");
        }
        locked
    }

    /// `scx_bpf_now`: one base for every clock of the simulation.
    #[must_use]
    pub fn kf_now(&self, machine: &mut dyn Machine) -> SimTime {
        machine.now()
    }

    /// `scx_bpf_events`.
    #[must_use]
    pub fn kf_events(&self) -> EventStats {
        self.event_stats()
    }

    /// `scx_bpf_error_bstr`, formatted.
    pub fn kf_error(&mut self, machine: &mut dyn Machine, message: &str) {
        let this = machine.this_cpu();
        self.claim_exit(scx::SCX_EXIT_ERROR_BPF, 0, Some(this), message);
    }

    /// `scx_bpf_exit_bstr`, formatted.
    pub fn kf_exit(&mut self, machine: &mut dyn Machine, code: i64, message: &str) {
        let this = machine.this_cpu();
        self.claim_exit(scx::SCX_EXIT_UNREG_BPF, code, Some(this), message);
    }

    /// `scx_bpf_tid_to_task`.
    pub fn kf_tid_to_task(&mut self, machine: &mut dyn Machine, tid: u64) -> Option<Tid> {
        if !self.sched.has_flag(scx::SCX_OPS_TID_TO_TASK) {
            let why = "scx_bpf_tid_to_task() called without SCX_OPS_TID_TO_TASK";
            self.error(machine, why);
            return None;
        }
        let p = Tid::new(u32::try_from(tid).ok()?);
        self.tasks
            .get(p)
            .filter(|t| t.run != RunState::Dead)
            .map(|_| p)
    }

    /// `scx_bpf_task_cgroup`: the cgroup's id; only for a task the callback is about.
    pub fn kf_task_cgroup(&mut self, machine: &mut dyn Machine, p: Tid) -> u64 {
        let own = self.op.is_some_and(|cx| cx.tasks.contains(&Some(p)));
        if !own {
            self.error(machine, "called on a task not being operated on");
            return 1;
        }
        self.tasks.get(p).map_or(1, |t| t.cgroup)
    }

    /// `scx_bpf_sub_caps` for the scheduler itself: the root holds every capability on
    /// every cid, so the answer is all cids if `caps` are known ones.
    #[must_use]
    pub fn kf_sub_caps(&self, caps: u64) -> bool {
        caps & !scx::SCX_CAPS_ALL == 0
    }

    /// The answer to [`Machine::timer_arm`]. Nothing fires any more once `ops.exit` ran.
    pub fn timer(&mut self, env: &mut Env<'_>, key: u64) {
        if !self.has_sched() {
            return;
        }
        let outer = self.op.take();
        let mut cx = crate::Cx {
            core: self,
            machine: &mut *env.machine,
        };
        env.ops.timer(&mut cx, key);
        self.op = outer;
    }
}
