//! Becoming runnable and ceasing to be (`enqueue_task_scx()`, `dequeue_task_scx()`), and the
//! decision where a runnable task goes (`scx_do_enqueue_task()`).
//!
//! The decision is a ladder whose first matching rung wins; see `do_enqueue_task`. A
//! rung that takes a task past the scheduler refills its slice and drops any verdict.

use harena_abi::{Cpu, Tid, scx};

use crate::core::{DirectDispatch, OpCx};
use crate::dsq::DsqRef;
use crate::task::{Carry, OpsState, Verdict};
use crate::types::counter;
use crate::{Class, Core, Env, Event, Op};

impl Core {
    /// `enqueue_task()`: `p` joins the run queue of its CPU.
    pub(crate) fn enqueue_task(&mut self, env: &mut Env<'_>, p: Tid, flags: u64) {
        if self.t(p).class == Class::Ext {
            self.enqueue_task_scx(env, p, flags);
        } else {
            self.fair_enqueue(env.machine, p);
        }
    }

    /// `dequeue_task()`: `p` leaves the run queue of its CPU.
    pub(crate) fn dequeue_task(&mut self, env: &mut Env<'_>, p: Tid, flags: u64) {
        if self.t(p).class == Class::Ext {
            self.dequeue_task_scx(env, p, flags);
        } else {
            self.fair_dequeue(env, p);
        }
    }

    fn enqueue_task_scx(&mut self, env: &mut Env<'_>, p: Tid, core_flags: u64) {
        let cpu = self.t(p).cpu;
        let mut sticky = self.t(p).sticky_cpu;
        let flags = core_flags | self.rq(cpu).remote_activate_enq_flags;
        self.rq_mut(cpu).in_wakeup = flags & scx::ENQUEUE_WAKEUP != 0;
        if flags & scx::ENQUEUE_RESTORE != 0 && self.is_current(p) {
            // It goes on running: set_next follows and expects it on the local queue.
            sticky = Some(cpu);
        }
        if !self.t(p).has(scx::SCX_TASK_QUEUED) {
            self.set_task_runnable(env, cpu, p);
            self.set_flags(p, 0, scx::SCX_TASK_QUEUED);
            self.rq_mut(cpu).nr_running += 1;
            if !self.t(p).migrating {
                env.machine.note(Event::Runnable { task: p, cpu });
                if self.has_op(Op::Runnable) {
                    self.call_task(env, Op::Runnable, p, |ops, cx| ops.runnable(cx, p, flags));
                }
            }
            self.do_enqueue_task(env, cpu, p, flags, sticky);
            if sticky.is_some() {
                self.tasks[p].sticky_cpu = None;
            }
        }
        self.rq_mut(cpu).in_wakeup = false;
        if flags & scx::SCX_ENQ_CPU_SELECTED != 0 && self.t(p).selected_cpu != Some(cpu) {
            self.count(env, cpu, counter::select_cpu_fallback);
        }
    }

    fn dequeue_task_scx(&mut self, env: &mut Env<'_>, p: Tid, core_flags: u64) {
        let cpu = self.t(p).cpu;
        let mut flags = core_flags;
        if flags & scx::DEQUEUE_SLEEP == 0 {
            flags |= scx::SCX_DEQ_SCHED_CHANGE;
        }
        if !self.t(p).has(scx::SCX_TASK_QUEUED) {
            return;
        }
        self.ops_dequeue(env, cpu, p, flags);
        if self.is_current(p) {
            self.update_curr(env, cpu);
            if self.has_op(Op::Stopping) {
                self.call_task(env, Op::Stopping, p, |ops, cx| ops.stopping(cx, p, false));
            }
        }
        if !self.t(p).migrating {
            if self.has_op(Op::Quiescent) {
                self.call_task(env, Op::Quiescent, p, |ops, cx| ops.quiescent(cx, p, flags));
            }
            env.machine.note(Event::Quiescent { task: p, cpu });
        }
        if flags & scx::SCX_DEQ_SLEEP != 0 {
            self.set_flags(p, scx::SCX_TASK_QUEUED, scx::SCX_TASK_DEQD_FOR_SLEEP);
        } else {
            self.set_flags(p, scx::SCX_TASK_QUEUED | scx::SCX_TASK_DEQD_FOR_SLEEP, 0);
        }
        self.rq_mut(cpu).nr_running -= 1;
        self.dispatch_dequeue(env.machine, p);
        self.clear_direct_dispatch(p);
    }

    /// Takes `p` back from the scheduler (`ops_dequeue()`).
    pub(crate) fn ops_dequeue(&mut self, env: &mut Env<'_>, rq: Cpu, p: Tid, deq_flags: u64) {
        self.clr_task_runnable(p, false);
        debug_assert!(!matches!(
            self.t(p).ops_state,
            OpsState::Queueing | OpsState::Dispatching
        ));
        self.tasks[p].ops_state = OpsState::None;
        self.call_task_dequeue(env, rq, p, deq_flags);
    }

    /// Onto the runnable list, at its end: bypass depends on the order.
    pub(crate) fn set_task_runnable(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) {
        if self.t(p).has(scx::SCX_TASK_RESET_RUNNABLE_AT) {
            let jiffies = self.jiffies(env.machine.now());
            self.tasks[p].runnable_at = jiffies;
            self.image.set_runnable_at(p, jiffies);
            self.set_flags(p, scx::SCX_TASK_RESET_RUNNABLE_AT, 0);
        }
        let list = &mut self.rqs[cpu.index()].runnable;
        self.runnable_links.push_back(list, p);
    }

    /// Off the runnable list; `ran` starts a new wait with the next enqueue.
    pub(crate) fn clr_task_runnable(&mut self, p: Tid, ran: bool) {
        if self.runnable_links.is_linked(p) {
            let cpu = self.tasks[p].cpu;
            let list = &mut self.rqs[cpu.index()].runnable;
            self.runnable_links.remove(list, p);
        }
        if ran {
            self.set_flags(p, 0, scx::SCX_TASK_RESET_RUNNABLE_AT);
            self.tasks[p].reenq_cnt = 0;
        }
    }

    /// The ladder of `scx_do_enqueue_task()`. `cpu` is the task's run queue.
    pub(crate) fn do_enqueue_task(
        &mut self,
        env: &mut Env<'_>,
        cpu: Cpu,
        p: Tid,
        enq_flags: u64,
        sticky: Option<Cpu>,
    ) {
        // An internal move, or the running task put back: local, slice untouched.
        if sticky == Some(cpu) {
            let carry = Carry::flags(enq_flags);
            return self.dispatch_enqueue(env, cpu, DsqRef::Local(cpu), p, carry);
        }
        self.set_flags(p, scx::SCX_TASK_IMMED, 0);
        if enq_flags & scx::SCX_ENQ_REENQ != 0 && !self.count_reenq(env, cpu, p) {
            return;
        }
        if !self.online.contains(cpu) {
            return self.enqueue_past_ops(env, cpu, DsqRef::Local(cpu), p, enq_flags);
        }
        if self.bypassing(cpu) {
            self.count(env, cpu, counter::bypass_dispatch);
            return self.enqueue_past_ops(env, cpu, DsqRef::Bypass(cpu), p, enq_flags);
        }
        if self.t(p).ddsp.is_some() {
            return self.direct_dispatch(env, cpu, p, enq_flags);
        }
        let exiting = self.t(p).flags & scx::PF_EXITING != 0;
        if exiting && !self.sched.has_flag(scx::SCX_OPS_ENQ_EXITING) {
            self.count(env, cpu, counter::enq_skip_exiting);
            return self.enqueue_past_ops(env, cpu, DsqRef::Local(cpu), p, enq_flags);
        }
        let pinned = self.t(p).migration_disabled;
        if pinned && !self.sched.has_flag(scx::SCX_OPS_ENQ_MIGRATION_DISABLED) {
            self.count(env, cpu, counter::enq_skip_migration_disabled);
            return self.enqueue_past_ops(env, cpu, DsqRef::Local(cpu), p, enq_flags);
        }
        if !self.has_op(Op::Enqueue) {
            let global = self.global_dsq(cpu);
            return self.enqueue_past_ops(env, cpu, global, p, enq_flags);
        }
        self.enqueue_to_ops(env, cpu, p, enq_flags);
    }

    fn enqueue_to_ops(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid, enq_flags: u64) {
        let qseq = self.rq(cpu).ops_qseq;
        self.rq_mut(cpu).ops_qseq += 1;
        self.tasks[p].ops_state = OpsState::Queueing;
        let cx = OpCx {
            op: Op::Enqueue,
            rq: Some(cpu),
            tasks: [Some(p), None],
            ddsp: DirectDispatch::Of(p),
        };
        self.call(env, cx, |ops, cx| ops.enqueue(cx, p, enq_flags));
        if self.t(p).ddsp.is_some() {
            self.direct_dispatch(env, cpu, p, enq_flags);
        } else {
            self.set_flags(p, 0, scx::SCX_TASK_IN_CUSTODY);
            self.tasks[p].ops_state = OpsState::Queued(qseq);
        }
    }

    /// Enqueues without asking the scheduler, with a default slice.
    fn enqueue_past_ops(
        &mut self,
        env: &mut Env<'_>,
        cpu: Cpu,
        dsq: DsqRef,
        p: Tid,
        enq_flags: u64,
    ) {
        self.refill_slice_dfl(env, cpu, p);
        self.clear_direct_dispatch(p);
        self.dispatch_enqueue(env, cpu, dsq, p, Carry::flags(enq_flags));
    }

    /// Counts a re-enqueue; past the limit the scheduler goes and the task is left as it is.
    fn count_reenq(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) -> bool {
        self.tasks[p].reenq_cnt += 1;
        let count = self.t(p).reenq_cnt;
        if count > 1 {
            self.count(env, cpu, counter::reenq_repeat);
        }
        if u64::from(count) <= scx::SCX_REENQ_MAX_REPEAT {
            return true;
        }
        let who = self.who(p);
        let why = format!("{who} reenqueued {count} times without running");
        self.claim_exit(scx::SCX_EXIT_ERROR_REENQ, 0, Some(cpu), &why);
        false
    }

    /// `direct_dispatch()`: carries out the verdict, or puts it off if it needs another
    /// CPU's run queue.
    fn direct_dispatch(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid, enq_flags: u64) {
        let Some(verdict) = self.t(p).ddsp else {
            return;
        };
        let dsq = self.find_dsq_for_dispatch(env.machine, cpu, verdict.dsq_id, cpu);
        let carry = verdict.carry.with(enq_flags);
        if let DsqRef::Local(target) = dsq
            && target != cpu
        {
            let verdict = Verdict { carry, ..verdict };
            self.set_direct_dispatch(p, verdict);
            self.tasks[p].ops_state = OpsState::None;
            self.rq_mut(cpu).deferred.locals.push_back(p);
            self.schedule_deferred(env.machine, cpu);
            return;
        }
        self.clear_direct_dispatch(p);
        let carry = carry.with(scx::SCX_ENQ_APPLY_SLICE | scx::SCX_ENQ_CLEAR_OPSS);
        self.dispatch_enqueue(env, cpu, dsq, p, carry);
    }

    pub(crate) fn set_direct_dispatch(&mut self, p: Tid, verdict: Verdict) {
        self.tasks[p].ddsp = Some(verdict);
        let flags = verdict.carry.enq_flags;
        self.image.set_ddsp(p, verdict.dsq_id, flags);
    }

    pub(crate) fn clear_direct_dispatch(&mut self, p: Tid) {
        if self.tasks[p].ddsp.take().is_some() {
            self.image.set_ddsp(p, scx::SCX_DSQ_INVALID, 0);
        }
    }

    /// `comm[pid]`, as the kernel's messages name a task.
    pub(crate) fn who(&self, p: Tid) -> String {
        match self.tasks.get(p) {
            Some(t) => format!("{}[{p}]", t.comm),
            None => format!("<gone>[{p}]"),
        }
    }
}
