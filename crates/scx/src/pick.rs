//! Switching tasks (`__schedule()`, `pick_task_scx()`, `put_prev_task_scx()`,
//! `set_next_task_scx()`), the tick and `sched_yield()`.
//!
//! ```text
//! outgoing sleeps?  ops.stopping(p, false), ops.quiescent
//! pick              ops.dispatch                (may find nothing, or keep prev)
//! put_prev          ops.stopping(p, true), ops.enqueue(p), ops.cpu_release
//! set_next          ops.update_idle or ops.running
//! afterwards        deferred work; a dead task's ops.disable and ops.exit_task
//! ```
//!
//! So `ops.dispatch` for the next task runs before `ops.stopping` of the last one, and
//! a task that is kept sees no callback at all.

use harena_abi::{Cpu, Nanos, Tid, scx};

use crate::dispatch::Found;
use crate::dsq::DsqRef;
use crate::task::{Carry, RunState};
use crate::{Class, Core, Env, Event, Function, Leave, Moment, MomentKind, Op, Switched};

/// What leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outgoing {
    Idle,
    Task(Tid),
    /// The stopper, which moved the last task away.
    Stopper,
}

impl Core {
    /// `__schedule()` on `cpu`: `leave` says how the current task goes, which is ignored
    /// when the CPU is idle.
    pub fn schedule(&mut self, env: &mut Env<'_>, cpu: Cpu, leave: Leave) -> Switched {
        let prev = self.rq(cpu).curr;
        match prev {
            None => self.trace(env, Moment::CpuIdle { cpu, idle: false }),
            // do_task_dead() calls __schedule() itself.
            Some(_) if leave == Leave::Exiting => {}
            Some(_) => self.trace_enter(env, Function::Schedule),
        }
        self.rq_mut(cpu).in_schedule = true;
        if let Some(p) = prev
            && leave != Leave::Runnable
        {
            self.block(env, p, leave == Leave::Exiting);
        }
        let out = match prev {
            None => Outgoing::Idle,
            Some(p) if self.run_stopper(env, cpu, p) => Outgoing::Stopper,
            Some(p) => Outgoing::Task(p),
        };
        let next = self.pick_next(env, cpu, out);
        let class = next.map_or(Class::Idle, |p| self.t(p).class);
        let rq = self.rq_mut(cpu);
        rq.next_class = class;
        rq.in_schedule = false;
        // The stopper may have taken `prev` off the CPU already.
        let curr = self.rq(cpu).curr;
        if next != curr {
            self.switch_to(env, cpu, curr, next);
        }
        if std::mem::take(&mut self.rq_mut(cpu).deferred.after_switch) {
            self.run_deferred(env, cpu);
        }
        if let Some(p) = prev
            && leave == Leave::Exiting
        {
            self.bury(env, p);
        }
        if next.is_none() {
            self.trace(env, Moment::CpuIdle { cpu, idle: true });
        }
        Switched { prev, next }
    }

    /// The outgoing task stops being runnable.
    fn block(&mut self, env: &mut Env<'_>, p: Tid, dies: bool) {
        if dies {
            self.set_exiting(p);
        }
        let (run, state) = if dies {
            (RunState::Dead, scx::TASK_DEAD)
        } else {
            (RunState::Sleeping, scx::TASK_INTERRUPTIBLE)
        };
        self.tasks[p].run = run;
        self.image.set_state(p, state);
        self.dequeue_task(env, p, scx::DEQUEUE_SLEEP | scx::DEQUEUE_NOCLOCK);
    }

    fn switch_to(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>, next: Option<Tid>) {
        if let Some(p) = prev {
            self.image.count_switch(p);
        }
        self.rq_mut(cpu).curr = next;
        self.image.set_curr(cpu, next);
        self.trace_switch(env, cpu, prev, next);
        if let Some(p) = prev {
            self.image.set_on_cpu(p, false);
        }
        if let Some(p) = next {
            self.image.set_on_cpu(p, true);
        }
        env.machine.note(Event::Switched { cpu, prev, next });
    }

    fn trace_switch(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>, next: Option<Tid>) {
        if !self.traced.has(MomentKind::SchedSwitch) {
            return;
        }
        let prev_state = prev.map_or(scx::TASK_RUNNING, |p| match self.t(p).run {
            RunState::New => scx::TASK_NEW,
            RunState::Runnable => scx::TASK_RUNNING,
            RunState::Sleeping => scx::TASK_INTERRUPTIBLE,
            RunState::Dead => scx::TASK_DEAD,
        });
        self.switching_from = Some((cpu, prev));
        self.trace(
            env,
            Moment::SchedSwitch {
                cpu,
                prev,
                next,
                prev_state,
            },
        );
        self.switching_from = None;
    }

    /// The classes from the top, and what a switch does to both tasks.
    fn pick_next(&mut self, env: &mut Env<'_>, cpu: Cpu, out: Outgoing) -> Option<Tid> {
        let prev = match out {
            Outgoing::Task(p) => Some(p),
            Outgoing::Idle | Outgoing::Stopper => None,
        };
        let mut next = self.fair_pick(cpu, prev);
        if next.is_none() && self.sched.enabled {
            let rq = self.rq_mut(cpu);
            rq.next_class = rq.next_class.min(Class::Ext);
            let ext_prev = prev.filter(|&p| self.t(p).class == Class::Ext);
            next = self.pick_task_scx(env, cpu, ext_prev);
        }
        if next.is_none() {
            // pick_task_idle(): a re-pick sets the bits of a claimed CPU again.
            self.update_idle(env, cpu, true, false);
        }
        let same = match (out, next) {
            (Outgoing::Task(p), Some(q)) => p == q,
            (Outgoing::Idle, None) => true,
            _ => false,
        };
        if !same {
            self.put_prev(env, cpu, out, next);
            match next {
                Some(p) => self.set_next(env, cpu, p),
                None => self.update_idle(env, cpu, true, true),
            }
        }
        next
    }

    fn pick_task_scx(&mut self, env: &mut Env<'_>, cpu: Cpu, prev: Option<Tid>) -> Option<Tid> {
        self.rq_mut(cpu).kick_sync += 1;
        match (self.dispatch_one(env, cpu, prev), prev) {
            (Found::Prev, Some(p)) => {
                if self.image.slice(p) == 0 {
                    self.refill_slice_dfl(env, cpu, p);
                }
                Some(p)
            }
            _ => {
                let p = self.dsqs.first(DsqRef::Local(cpu))?;
                if self.image.slice(p) == 0 {
                    if !self.bypassing(cpu) && !self.sched.warned_zero_slice {
                        let who = self.who(p);
                        let line = format!("sched_ext: {who} has zero slice in pick_task_scx()");
                        self.sched.log.push(line);
                        self.sched.warned_zero_slice = true;
                    }
                    self.refill_slice_dfl(env, cpu, p);
                }
                Some(p)
            }
        }
    }

    fn put_prev(&mut self, env: &mut Env<'_>, cpu: Cpu, out: Outgoing, next: Option<Tid>) {
        let next_class = next.map_or(Class::Idle, |p| self.t(p).class);
        match out {
            Outgoing::Idle => self.update_idle(env, cpu, false, true),
            Outgoing::Stopper => {}
            Outgoing::Task(p) if self.t(p).class == Class::Ext => {
                self.put_prev_scx(env, cpu, p, Some((next_class, next)));
            }
            Outgoing::Task(p) => self.fair_put_prev(env, cpu, p),
        }
    }

    /// `put_prev_task_scx()`; `next` is `None` when the task is only put for a change.
    pub(crate) fn put_prev_scx(
        &mut self,
        env: &mut Env<'_>,
        cpu: Cpu,
        p: Tid,
        next: Option<(Class, Option<Tid>)>,
    ) {
        self.rq_mut(cpu).kick_sync += 1;
        self.update_curr(env, cpu);
        if self.t(p).has(scx::SCX_TASK_QUEUED) {
            if self.has_op(Op::Stopping) {
                self.call_task(env, Op::Stopping, p, |ops, cx| ops.stopping(cx, p, true));
            }
            self.set_task_runnable(env, cpu, p);
            self.requeue_put_task(env, cpu, p, next.map(|(class, _)| class));
        }
        if let Some((class, next)) = next
            && class > Class::Ext
        {
            self.switch_class(env, cpu, class, next);
        }
    }

    /// Where a preempted task goes.
    fn requeue_put_task(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid, next: Option<Class>) {
        if self.image.slice(p) != 0 && !self.bypassing(cpu) {
            if self.t(p).has(scx::SCX_TASK_IMMED) {
                self.reenq_task(env, cpu, p, scx::SCX_TASK_REENQ_PREEMPTED);
            } else {
                let carry = Carry::flags(scx::SCX_ENQ_HEAD);
                self.dispatch_enqueue(env, cpu, DsqRef::Local(cpu), p, carry);
            }
        } else if next.is_some_and(|class| class < Class::Ext) {
            self.do_enqueue_task(env, cpu, p, scx::SCX_ENQ_LAST, None);
        } else {
            self.do_enqueue_task(env, cpu, p, 0, None);
        }
    }

    /// `switch_class()`: a higher class takes the CPU; told once until ext has it back.
    fn switch_class(&mut self, env: &mut Env<'_>, cpu: Cpu, class: Class, next: Option<Tid>) {
        if !self.sched.has_cpu_preempt || self.rq(cpu).cpu_released {
            return;
        }
        if self.has_op(Op::CpuRelease) {
            let reason = match class {
                Class::Stop => scx::SCX_CPU_PREEMPT_STOP,
                Class::Idle | Class::Ext | Class::Fair => scx::SCX_CPU_PREEMPT_UNKNOWN,
            };
            self.call_bare(env, Op::CpuRelease, Some(cpu), |ops, cx| {
                ops.cpu_release(cx, cpu, reason, next);
            });
        }
        self.rq_mut(cpu).cpu_released = true;
    }

    /// `set_next_task()`.
    pub(crate) fn set_next(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) {
        if self.t(p).class != Class::Ext {
            return self.fair_set_next(env.machine.now(), cpu, p);
        }
        let queued = self.t(p).has(scx::SCX_TASK_QUEUED);
        if queued {
            self.ops_dequeue(env, cpu, p, scx::SCX_DEQ_CORE_SCHED_EXEC);
            self.dispatch_dequeue(env.machine, p);
        }
        self.tasks[p].exec_start = env.machine.now();
        if queued && self.has_op(Op::Running) {
            self.call_task(env, Op::Running, p, |ops, cx| ops.running(cx, p));
        }
        self.clr_task_runnable(p, true);
        self.apply_slice_oob(p);
    }

    /// `update_curr_scx()`: charges the current task.
    pub(crate) fn update_curr(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let now = env.machine.now();
        let Some(p) = self.rq(cpu).curr else {
            return;
        };
        let is_ext = self.t(p).class == Class::Ext;
        if is_ext {
            self.apply_slice_oob(p);
        }
        let t = &mut self.tasks[p];
        let delta = now.since(t.exec_start).map_or(0, |d| d.as_ns());
        if delta == 0 {
            return;
        }
        t.exec_start = now;
        t.sum_exec = t.sum_exec.saturating_add(delta);
        let sum = t.sum_exec;
        self.image.set_sum_exec_runtime(p, sum);
        let runtime = Nanos::new(delta);
        self.trace(env, Moment::SchedStatRuntime { task: p, runtime });
        if !is_ext {
            self.tasks[p].fair_slice = self.t(p).fair_slice.saturating_sub(delta);
            return;
        }
        let slice = self.image.slice(p);
        if slice != scx::SCX_SLICE_INF {
            self.image.set_slice(p, slice.saturating_sub(delta));
        }
    }

    /// `apply_task_slice_oob()`.
    fn apply_slice_oob(&mut self, p: Tid) {
        if let Some(slice) = self.tasks[p].slice_oob.take() {
            self.image.set_slice(p, slice);
        }
    }

    /// The periodic tick of a busy CPU (`task_tick_scx()`, `scx_tick()`).
    pub fn tick(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        self.trace_enter(env, Function::SchedTick);
        self.task_tick(env, cpu);
        self.trace_enter(env, Function::ScxTick(cpu));
        self.check_watchdog_alive(env.machine);
        self.trace_return(env, Function::ScxTick(cpu), 0);
        self.trace_return(env, Function::SchedTick, 0);
    }

    fn task_tick(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let Some(p) = self.rq(cpu).curr else {
            return;
        };
        self.update_curr(env, cpu);
        if self.t(p).class != Class::Ext {
            return self.fair_tick(env.machine, cpu, p);
        }
        if self.bypassing(cpu) {
            self.set_task_slice(p, 0);
        } else if self.has_op(Op::Tick) {
            self.call_task(env, Op::Tick, p, |ops, cx| ops.tick(cx, p));
        }
        if self.image.slice(p) == 0 {
            self.resched(env.machine, cpu);
        }
    }

    /// `sched_yield()` of the current task. The caller goes on with
    /// `schedule(cpu, Leave::Runnable)`, as the system call does.
    pub fn yield_current(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        let Some(p) = self.rq(cpu).curr else {
            return;
        };
        if self.t(p).class != Class::Ext {
            self.tasks[p].fair_slice = 0;
        } else if self.has_op(Op::Yield) {
            self.call_task(env, Op::Yield, p, |ops, cx| ops.yield_to(cx, p, None));
        } else {
            self.set_task_slice(p, 0);
        }
    }

    /// The stopper moves a task off a CPU it may no longer use (`migration_cpu_stop()`).
    fn run_stopper(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) -> bool {
        let Some(target) = self.tasks[p].migration_pending.take() else {
            return false;
        };
        let t = self.t(p);
        if t.run != RunState::Runnable || t.allowed.contains(cpu) || t.migration_disabled {
            return false;
        }
        if self.t(p).class == Class::Ext {
            self.put_prev_scx(env, cpu, p, Some((Class::Stop, None)));
        } else {
            self.fair_put_prev(env, cpu, p);
        }
        self.switch_to(env, cpu, Some(p), None);
        self.move_queued_task(env, p, target);
        true
    }
}
