//! Work that waits until the run queue lock can be dropped (`run_deferred()`).
//!
//! | raised in | runs |
//! |---|---|
//! | a wakeup | at its end (`task_woken`) |
//! | a dispatch | when the switch is over (balance callback) |
//! | anywhere else | in irq-work of that CPU |
//!
//! Order: direct dispatches to other CPUs, local re-enqueues, user-queue re-enqueues.

use harena_abi::{Cpu, Tid, scx};

use crate::dsq::DsqRef;
use crate::types::counter;
use crate::{Core, Env, Machine};

impl Core {
    /// `schedule_deferred_locked()`.
    pub(crate) fn schedule_deferred(&mut self, machine: &mut dyn Machine, cpu: Cpu) {
        let rq = self.rq_mut(cpu);
        if rq.in_wakeup {
            return;
        }
        if rq.in_dispatch {
            rq.deferred.after_switch = true;
            return;
        }
        machine.irq_work(cpu);
    }

    /// `scx_schedule_reenq_local()`.
    pub(crate) fn schedule_reenq_local(&mut self, machine: &mut dyn Machine, cpu: Cpu, flags: u64) {
        let due = &mut self.rq_mut(cpu).deferred.reenq_local;
        *due = Some(due.unwrap_or(0) | flags);
        self.schedule_deferred(machine, cpu);
    }

    /// `run_deferred()`.
    pub(crate) fn run_deferred(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        if self.rq(cpu).deferred.is_empty() {
            return;
        }
        while let Some(p) = self.rq_mut(cpu).deferred.locals.pop_front() {
            self.finish_deferred_local(env, cpu, p);
        }
        while let Some(flags) = self.rq_mut(cpu).deferred.reenq_local.take() {
            self.reenq_local(env, cpu, flags);
        }
        while let Some((id, flags)) = self.rq_mut(cpu).deferred.reenq_users.pop_front() {
            self.reenq_user(env, id, flags);
        }
    }

    fn finish_deferred_local(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) {
        let Some(verdict) = self.t(p).ddsp else {
            return;
        };
        self.clear_direct_dispatch(p);
        let dsq = self.find_dsq_for_dispatch(env.machine, cpu, verdict.dsq_id, cpu);
        if let DsqRef::Local(target) = dsq {
            self.dispatch_to_local(env, cpu, target, p, verdict.carry);
        } else {
            let carry = verdict.carry.with(scx::SCX_ENQ_APPLY_SLICE);
            self.dispatch_enqueue(env, cpu, dsq, p, carry);
        }
    }

    /// `reenq_local()`: gives local tasks back to the scheduler; how many.
    pub(crate) fn reenq_local(&mut self, env: &mut Env<'_>, cpu: Cpu, flags: u64) -> u32 {
        let open = self.rq_is_open(cpu, 0);
        let waiting: Vec<Tid> = self.dsqs.tasks(DsqRef::Local(cpu)).collect();
        let mut leaving = Vec::new();
        let mut first = true;
        for p in waiting {
            if self.t(p).migration_pending.is_some() {
                continue;
            }
            let keeps_place = std::mem::take(&mut first) && open;
            let reason = if self.t(p).has(scx::SCX_TASK_IMMED) && !keeps_place {
                self.count(env, cpu, counter::reenq_immed);
                scx::SCX_TASK_REENQ_IMMED
            } else if flags & scx::SCX_REENQ_ANY != 0 {
                scx::SCX_TASK_REENQ_KFUNC
            } else {
                continue;
            };
            self.unlink(env.machine, p);
            leaving.push((p, reason));
        }
        for &(p, reason) in &leaving {
            self.reenq_task(env, cpu, p, reason);
        }
        u32::try_from(leaving.len()).expect("fewer than 2^32 tasks")
    }

    /// One task back to the scheduler; it is on no queue.
    pub(crate) fn reenq_task(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid, reason: u32) {
        self.set_flags(p, scx::SCX_TASK_REENQ_REASON_MASK, reason);
        self.do_enqueue_task(env, cpu, p, scx::SCX_ENQ_REENQ, None);
        self.set_flags(p, scx::SCX_TASK_REENQ_REASON_MASK, 0);
    }

    /// `reenq_user()`: the tasks that are on the queue now, not those that come back.
    fn reenq_user(&mut self, env: &mut Env<'_>, id: u64, flags: u64) {
        let Ok(it) = self.dsqs.iter_new(id, false) else {
            return;
        };
        while self.sched.bypass_depth == 0 && flags & scx::SCX_REENQ_ANY != 0 {
            let Some(p) = self.dsqs.iter_next(it) else {
                break;
            };
            self.unlink(env.machine, p);
            let cpu = self.t(p).cpu;
            self.reenq_task(env, cpu, p, scx::SCX_TASK_REENQ_KFUNC);
        }
        self.dsqs.iter_destroy(it);
    }
}
