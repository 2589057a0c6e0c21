//! Finding work for a CPU (`dispatch_one()`, `scx_dispatch_sched()`) and carrying out what
//! `ops.dispatch` decided (`finish_dispatch()`, `scx_consume_dispatch_q()`).
//!
//! A scheduler may dispatch any task at any time, as often as it likes: only an entry
//! that finds its task in the very stay it was recorded for counts, all others are
//! dropped without a word. They do count as activity, which keeps the loop going.

use harena_abi::{Cpu, Tid, scx};

use crate::core::{DirectDispatch, OpCx};
use crate::dsq::DsqRef;
use crate::rq::BufEnt;
use crate::task::{Carry, OpsState};
use crate::types::counter;
use crate::{Class, Core, Cost, Env, Event, Machine, Moment, Op};

/// Where the next task is (`enum scx_dsp_verdict`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// Nowhere.
    Nothing,
    /// At the head of the local queue.
    Local,
    /// On the CPU: the outgoing task goes on.
    Prev,
}

impl Core {
    /// `dispatch_one()`; `prev` is the outgoing task if it is ext.
    pub(crate) fn dispatch_one(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>) -> Found {
        self.rq_mut(cpu).in_dispatch = true;
        let found = self.find_task(env, cpu, prev);
        let local = self.dsqs.nr(DsqRef::Local(cpu));
        if found != Found::Nothing && local > 1 && self.rq(cpu).nr_immed > 0 {
            self.schedule_reenq_local(env.machine, cpu, 0);
        }
        self.rq_mut(cpu).in_dispatch = false;
        found
    }

    fn find_task(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>) -> Found {
        if self.sched.has_cpu_preempt && self.rq(cpu).cpu_released {
            if self.has_op(Op::CpuAcquire) {
                self.call_bare(env, Op::CpuAcquire, Some(cpu), |ops, cx| {
                    ops.cpu_acquire(cx, cpu);
                });
            }
            self.rq_mut(cpu).cpu_released = false;
        }
        if let Some(p) = prev {
            self.update_curr(env, cpu);
            if self.may_keep(p) && self.image.slice(p) != 0 && !self.bypassing(cpu) {
                return Found::Prev;
            }
        }
        if self.dsqs.nr(DsqRef::Local(cpu)) > 0 {
            return Found::Local;
        }
        let found = self.dispatch_sched(env, cpu, prev);
        if found != Found::Nothing {
            return found;
        }
        let gives_last = self.sched.has_flag(scx::SCX_OPS_ENQ_LAST) && !self.bypassing(cpu);
        match prev {
            Some(p) if self.may_keep(p) && !gives_last => {
                self.count(env, cpu, counter::dispatch_keep_last);
                Found::Prev
            }
            _ => Found::Nothing,
        }
    }

    fn may_keep(&self, p: Tid) -> bool {
        self.t(p).has(scx::SCX_TASK_QUEUED)
    }

    /// `scx_dispatch_sched()`.
    fn dispatch_sched(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>) -> Found {
        let global = self.global_dsq(cpu);
        if self.consume(env, cpu, global, 0) {
            return Found::Local;
        }
        if self.bypassing(cpu) {
            return if self.consume(env, cpu, DsqRef::Bypass(cpu), 0) {
                Found::Local
            } else {
                Found::Nothing
            };
        }
        if !self.has_op(Op::Dispatch) || !self.online.contains(cpu) {
            return Found::Nothing;
        }
        for _ in 0..scx::SCX_DSP_MAX_LOOPS {
            self.rq_mut(cpu).nr_dispatched = 0;
            self.call_dispatch(env, cpu, prev);
            self.flush_dispatch_buf(env, cpu);
            if let Some(p) = prev
                && self.may_keep(p)
                && self.image.slice(p) != 0
            {
                return Found::Prev;
            }
            if self.dsqs.nr(DsqRef::Local(cpu)) > 0 || self.consume(env, cpu, global, 0) {
                return Found::Local;
            }
            if self.rq(cpu).nr_dispatched == 0 {
                return Found::Nothing;
            }
        }
        // It dispatches and dispatches, but not to this CPU: come back later.
        self.kick(env.machine, cpu, cpu, 0);
        Found::Nothing
    }

    fn call_dispatch(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>) {
        let cx = OpCx {
            op: Op::Dispatch,
            rq: Some(cpu),
            tasks: [prev, None],
            ddsp: DirectDispatch::No,
        };
        self.call(env, cx, |ops, cx| ops.dispatch(cx, cpu, prev));
    }

    /// `scx_flush_dispatch_buf()`.
    pub(crate) fn flush_dispatch_buf(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        if self.rq(cpu).buf.is_empty() {
            return;
        }
        let mut buf = std::mem::take(&mut self.rq_mut(cpu).buf);
        for &ent in &buf {
            self.finish_dispatch(env, cpu, ent);
        }
        let count = u32::try_from(buf.len()).expect("the buffer has a u32 limit");
        buf.clear();
        let rq = self.rq_mut(cpu);
        rq.buf = buf;
        rq.nr_dispatched += count;
    }

    fn finish_dispatch(&mut self, env: &mut Env<'_>, cpu: Cpu, ent: BufEnt) {
        let BufEnt {
            task: p,
            qseq,
            verdict,
        } = ent;
        match (self.tasks.get(p).map(|t| t.ops_state), qseq) {
            (Some(OpsState::Queued(now)), Some(then)) if now == then => {}
            _ => return,
        }
        self.tasks[p].ops_state = OpsState::Dispatching;
        let task_cpu = self.t(p).cpu;
        let dsq = self.find_dsq_for_dispatch(env.machine, cpu, verdict.dsq_id, task_cpu);
        if let DsqRef::Local(target) = dsq {
            self.dispatch_to_local(env, cpu, target, p, verdict.carry);
        } else {
            let flags = scx::SCX_ENQ_APPLY_SLICE | scx::SCX_ENQ_CLEAR_OPSS;
            self.dispatch_enqueue(env, cpu, dsq, p, verdict.carry.with(flags));
        }
    }

    /// `dispatch_to_local_dsq()`: onto the local queue of `target`, wherever `p` is.
    pub(crate) fn dispatch_to_local(
        &mut self,
        env: &mut Env<'_>,
        rq: Cpu,
        target: Cpu,
        p: Tid,
        carry: Carry,
    ) {
        let source = self.t(p).cpu;
        let apply = carry.with(scx::SCX_ENQ_APPLY_SLICE);
        if rq == source && rq == target {
            let carry = apply.with(scx::SCX_ENQ_CLEAR_OPSS);
            return self.dispatch_enqueue(env, rq, DsqRef::Local(target), p, carry);
        }
        self.tasks[p].ops_state = OpsState::None;
        if source == target {
            self.dispatch_enqueue(env, target, DsqRef::Local(target), p, apply);
        } else if self.can_run_on_remote_rq(env, p, target, true) {
            self.apply_slice_vtime(p, carry);
            self.move_remote_to_local(env, p, target, carry.enq_flags);
        } else {
            let carry = apply.with(scx::SCX_ENQ_GDSQ_FALLBACK);
            let global = self.global_dsq(source);
            return self.dispatch_enqueue(env, source, global, p, carry);
        }
        if self.curr_class(target) < Class::Ext {
            self.resched(env.machine, target);
        }
    }

    /// `task_can_run_on_remote_rq()`; `enforce` makes a refusal the scheduler's mistake.
    pub(crate) fn can_run_on_remote_rq(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        cpu: Cpu,
        enforce: bool,
    ) -> bool {
        let t = self.t(p);
        if t.migration_disabled {
            if enforce {
                let (who, from) = (self.who(p), t.cpu);
                let why = format!(
                    "SCX_DSQ_LOCAL[_ON] cannot move migration disabled {who} from CPU {from} to {cpu}"
                );
                self.error(env.machine, &why);
            }
            return false;
        }
        if !t.allowed.contains(cpu) {
            if enforce {
                let who = self.who(p);
                let why = format!("SCX_DSQ_LOCAL[_ON] target CPU {cpu} not allowed for {who}");
                self.error(env.machine, &why);
            }
            return false;
        }
        if !self.online.contains(cpu) {
            if enforce {
                let this = env.machine.this_cpu();
                self.count(env, this, counter::dispatch_local_dsq_offline);
            }
            return false;
        }
        true
    }

    /// `move_remote_task_to_local_dsq()`: a core-internal migration, without `runnable`,
    /// `quiescent` or `enqueue`. `p` is on no queue any more.
    pub(crate) fn move_remote_to_local(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        target: Cpu,
        enq_flags: u64,
    ) {
        self.tasks[p].sticky_cpu = Some(target);
        self.tasks[p].migrating = true;
        self.dequeue_task(env, p, 0);
        self.set_task_cpu(env, p, target);
        self.rq_mut(target).remote_activate_enq_flags = enq_flags;
        self.enqueue_task(env, p, scx::ENQUEUE_MIGRATED);
        self.rq_mut(target).remote_activate_enq_flags = 0;
        self.tasks[p].migrating = false;
    }

    /// `set_task_cpu()`: the task is on no run queue, or marked as migrating.
    pub(crate) fn set_task_cpu(&mut self, env: &mut Env<'_>, p: Tid, to: Cpu) {
        if self.t(p).cpu != to {
            self.trace(env, Moment::SchedMigrateTask { task: p, to });
            self.place_task(env.machine, p, to);
        }
    }

    /// `__set_task_cpu()`: as above, of a task that has no CPU to come from.
    pub(crate) fn place_task(&mut self, machine: &mut dyn Machine, p: Tid, to: Cpu) {
        let from = self.t(p).cpu;
        if from == to {
            return;
        }
        self.tasks[p].cpu = to;
        self.image.set_cpu(p, to);
        machine.charge(Cost::Migration);
        machine.note(Event::Migrated { task: p, from, to });
    }

    /// `scx_consume_dispatch_q()`: the first task of `dsq` that may run here.
    pub(crate) fn consume(
        &mut self,
        env: &mut Env<'_>,
        cpu: Cpu,
        dsq: DsqRef,
        enq_flags: u64,
    ) -> bool {
        if self.sched.aborting && !matches!(dsq, DsqRef::Bypass(_)) {
            return false;
        }
        let mut at = self.dsqs.first(dsq);
        while let Some(p) = at {
            if self.t(p).cpu == cpu {
                self.unlink(env.machine, p);
                let carry = Carry::flags(enq_flags);
                self.dispatch_enqueue(env, cpu, DsqRef::Local(cpu), p, carry);
                return true;
            }
            if self.can_run_on_remote_rq(env, p, cpu, false) {
                self.unlink(env.machine, p);
                self.move_remote_to_local(env, p, cpu, enq_flags);
                return true;
            }
            at = self.dsqs.next(p);
        }
        false
    }
}
