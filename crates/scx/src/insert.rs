//! Entering and leaving a dispatch queue (`scx_dispatch_enqueue()`, `scx_dispatch_dequeue()`).
//!
//! The order of effects of an insert is observable and fixed: commit slice and vtime,
//! link, count, hand back custody (`ops.dequeue`), wake or preempt, clear `ops_state`.
//! A misuse raises an error and still completes in a safe way: the exit is asynchronous,
//! and until it runs no task may get lost.

use harena_abi::{Cpu, Tid, scx};

use crate::core::{DirectDispatch, OpCx};
use crate::dsq::{DsqRef, Place};
use crate::task::{Carry, OpsState};
use crate::types::counter;
use crate::{Class, Core, Env, Event, Form, Machine, Op};

impl Core {
    /// Inserts `p`, which must be on no queue. `rq` is the run queue whose lock is held.
    pub(crate) fn dispatch_enqueue(
        &mut self,
        env: &mut Env<'_>,
        rq: Cpu,
        dsq: DsqRef,
        p: Tid,
        carry: Carry,
    ) {
        let mut carry = carry;
        if carry.enq_flags & scx::SCX_ENQ_DSQ_PRIQ != 0 && !matches!(dsq, DsqRef::User(_)) {
            self.error(env.machine, "cannot use vtime ordering for built-in DSQs");
            carry.enq_flags &= !scx::SCX_ENQ_DSQ_PRIQ;
        }
        if carry.enq_flags & scx::SCX_ENQ_APPLY_SLICE != 0 {
            self.apply_slice_vtime(p, carry);
        }
        let place = self.place_in(env.machine, dsq, p, carry.enq_flags);
        self.link(env.machine, dsq, p, place);
        match dsq {
            DsqRef::Local(cpu) => {
                self.count_immed(env.machine, cpu, p, carry.enq_flags);
                self.local_post_enq(env, cpu, p, carry.enq_flags);
            }
            DsqRef::Global(_) | DsqRef::Bypass(_) => self.call_task_dequeue(env, rq, p, 0),
            DsqRef::User(_) => self.set_flags(p, 0, scx::SCX_TASK_IN_CUSTODY),
        }
        if carry.enq_flags & scx::SCX_ENQ_CLEAR_OPSS != 0 {
            self.tasks[p].ops_state = OpsState::None;
        }
    }

    fn place_in(&mut self, machine: &mut dyn Machine, dsq: DsqRef, p: Tid, flags: u64) -> Place {
        let has_vtime_tasks = self.dsqs.has_vtime_tasks(dsq);
        let id = self.dsqs.id(dsq).raw();
        if flags & scx::SCX_ENQ_DSQ_PRIQ != 0 {
            if !has_vtime_tasks && self.dsqs.nr(dsq) != 0 {
                let why = format!("DSQ ID 0x{id:016x} already had FIFO-enqueued tasks");
                self.error(machine, &why);
            }
            Place::Vtime(self.image.dsq_vtime(p))
        } else {
            if has_vtime_tasks {
                let why = format!("DSQ ID 0x{id:016x} already had PRIQ-enqueued tasks");
                self.error(machine, &why);
            }
            if flags & (scx::SCX_ENQ_HEAD | scx::SCX_ENQ_PREEMPT) != 0 {
                Place::Head
            } else {
                Place::Tail
            }
        }
    }

    /// Links `p` and tells the machine.
    fn link(&mut self, machine: &mut dyn Machine, dsq: DsqRef, p: Tid, place: Place) {
        self.dsqs.link(dsq, p, place);
        machine.note(Event::Inserted {
            task: p,
            dsq: self.dsqs.id(dsq),
        });
    }

    /// Unlinks `p` from its queue, if it is on one (`scx_task_unlink_from_dsq()`).
    pub(crate) fn unlink(&mut self, machine: &mut dyn Machine, p: Tid) {
        let Some(dsq) = self.dsqs.unlink(p) else {
            return;
        };
        if let DsqRef::Local(cpu) = dsq
            && self.t(p).has(scx::SCX_TASK_IMMED)
        {
            self.rq_mut(cpu).nr_immed -= 1;
        }
        machine.note(Event::Removed {
            task: p,
            dsq: self.dsqs.id(dsq),
        });
    }

    /// `scx_dispatch_dequeue()`: off its queue, or off the deferred list.
    pub(crate) fn dispatch_dequeue(&mut self, machine: &mut dyn Machine, p: Tid) {
        if self.dsqs.dsq_of(p).is_some() {
            self.unlink(machine, p);
        } else {
            let cpu = self.t(p).cpu;
            self.rq_mut(cpu).deferred.locals.retain(|&q| q != p);
        }
    }

    /// `apply_slice_vtime()`.
    pub(crate) fn apply_slice_vtime(&mut self, p: Tid, carry: Carry) {
        if carry.slice != 0 {
            self.image.set_slice(p, carry.slice);
            if carry.enq_flags & scx::SCX_ENQ_SLICE_DFL == 0 {
                self.tasks[p].slice_oob = None;
            }
        } else if self.image.slice(p) == 0 {
            self.image.set_slice(p, 1);
        }
        if carry.enq_flags & scx::SCX_ENQ_DSQ_PRIQ != 0 {
            self.image.set_dsq_vtime(p, carry.vtime);
        }
    }

    /// `SCX_ENQ_IMMED` of a local insert: run at once, or go back (`dsq_inc_nr()`).
    fn count_immed(&mut self, machine: &mut dyn Machine, cpu: Cpu, p: Tid, flags: u64) {
        if flags & scx::SCX_ENQ_IMMED != 0 {
            self.set_flags(p, 0, scx::SCX_TASK_IMMED);
        }
        if self.t(p).has(scx::SCX_TASK_IMMED) {
            self.rq_mut(cpu).nr_immed += 1;
            if self.dsqs.nr(DsqRef::Local(cpu)) > 1 || !self.rq_is_open(cpu, flags) {
                self.schedule_reenq_local(machine, cpu, 0);
            }
        }
    }

    /// Whether a task on the local queue of `cpu` would run at once.
    pub(crate) fn rq_is_open(&self, cpu: Cpu, enq_flags: u64) -> bool {
        let rq = self.rq(cpu);
        match rq.next_class.cmp(&Class::Ext) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => rq.in_dispatch || enq_flags & scx::SCX_ENQ_PREEMPT != 0,
        }
    }

    /// What a new task on the local queue of `cpu` does to it (`rq_owned_post_enq()`).
    fn local_post_enq(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid, enq_flags: u64) {
        self.call_task_dequeue(env, cpu, p, 0);
        if self.rq(cpu).next_class < Class::Ext {
            self.wakeup_preempt(env.machine, cpu, Class::Ext);
        }
        if self.rq(cpu).in_dispatch || enq_flags & scx::SCX_ENQ_PREEMPT == 0 {
            return;
        }
        if let Some(curr) = self.rq(cpu).curr
            && curr != p
            && self.t(curr).class == Class::Ext
        {
            self.set_task_slice(curr, 0);
            self.resched(env.machine, cpu);
        }
    }

    /// `wakeup_preempt()` for a task of `class`: a class above everything queued so far
    /// gets the CPU rescheduled, and remembered.
    pub(crate) fn wakeup_preempt(&mut self, machine: &mut dyn Machine, cpu: Cpu, class: Class) {
        if class <= self.rq(cpu).next_class {
            return;
        }
        if self.rq(cpu).next_class == Class::Ext && self.rq(cpu).nr_immed > 0 {
            self.schedule_reenq_local(machine, cpu, 0);
        }
        self.resched(machine, cpu);
        self.rq_mut(cpu).next_class = class;
    }

    /// `scx_set_task_slice()`.
    pub(crate) fn set_task_slice(&mut self, p: Tid, slice: u64) {
        self.image.set_slice(p, slice);
        self.tasks[p].slice_oob = None;
    }

    /// `refill_task_slice_dfl()`.
    pub(crate) fn refill_slice_dfl(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) {
        self.image.set_slice(p, self.sched.slice_dfl);
        self.count(env, cpu, counter::refill_slice_dfl);
    }

    /// `ops.dequeue` if the task leaves the scheduler's custody (`call_task_dequeue()`).
    ///
    /// Silent while the core moves the task between CPUs: the flag then survives, and
    /// the callback comes with `SCX_DEQ_CORE_SCHED_EXEC` right before `ops.running`.
    pub(crate) fn call_task_dequeue(&mut self, env: &mut Env<'_>, rq: Cpu, p: Tid, deq_flags: u64) {
        let t = self.t(p);
        if !t.has(scx::SCX_TASK_IN_CUSTODY) || t.sticky_cpu.is_some() {
            return;
        }
        if self.has_op(Op::Dequeue) {
            let cx = OpCx {
                op: Op::Dequeue,
                rq: Some(rq),
                tasks: [Some(p), None],
                ddsp: DirectDispatch::No,
            };
            self.call(env, cx, |ops, cx| ops.dequeue(cx, p, deq_flags));
        }
        self.set_flags(p, scx::SCX_TASK_IN_CUSTODY, 0);
    }

    /// The global queue that serves tasks of `cpu`.
    pub(crate) fn global_dsq(&self, cpu: Cpu) -> DsqRef {
        DsqRef::Global(self.topology.node_of(cpu))
    }

    /// `find_dsq_for_dispatch()`: where a verdict leads; the global queue if nowhere.
    pub(crate) fn find_dsq_for_dispatch(
        &mut self,
        machine: &mut dyn Machine,
        rq: Cpu,
        dsq_id: u64,
        task_cpu: Cpu,
    ) -> DsqRef {
        if dsq_id == scx::SCX_DSQ_LOCAL {
            return DsqRef::Local(rq);
        }
        if dsq_id & scx::SCX_DSQ_LOCAL_ON == scx::SCX_DSQ_LOCAL_ON {
            let at = "in SCX_DSQ_LOCAL_ON dispatch verdict";
            return match self.local_on_cpu(machine, dsq_id, at) {
                Some(cpu) => DsqRef::Local(cpu),
                None => self.global_dsq(task_cpu),
            };
        }
        if dsq_id == scx::SCX_DSQ_GLOBAL {
            return self.global_dsq(task_cpu);
        }
        match self.dsqs.find_user(dsq_id) {
            Some(dsq) => dsq,
            None => {
                self.error(machine, &format!("non-existent DSQ 0x{dsq_id:x}"));
                self.global_dsq(task_cpu)
            }
        }
    }

    /// The CPU that `SCX_DSQ_LOCAL_ON | cpu` (or `| cid`) names, or an error.
    pub(crate) fn local_on_cpu(
        &mut self,
        machine: &mut dyn Machine,
        dsq_id: u64,
        at: &str,
    ) -> Option<Cpu> {
        let low = u32::try_from(dsq_id & scx::SCX_DSQ_LOCAL_CPU_MASK).expect("32 bits");
        let raw = low.cast_signed();
        match self.sched.form {
            Form::Cpu => self.cpu_valid(machine, raw, at),
            Form::Cid => {
                let cpu = self.cid_to_cpu(machine, raw);
                self.cpu_valid(machine, cpu, at)
            }
        }
    }
}
