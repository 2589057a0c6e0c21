//! kfuncs about dispatch queues: insert, move, iterate, create and destroy.

use harena_abi::{Cpu, DsqId, Errno, Tid, scx};

use crate::core::DirectDispatch;
use crate::dsq::DsqRef;
use crate::rq::BufEnt;
use crate::task::{Carry, OpsState, Verdict};
use crate::{Core, Env, Insert, IterId, Machine, Op};

impl Core {
    /// `scx_bpf_dsq_insert` and `__scx_bpf_dsq_insert_vtime`; `None` is a NULL task.
    ///
    /// In `select_cpu` and `enqueue` it is the verdict on that task; in `dispatch` it is
    /// an entry of the buffer. Slice and vtime are committed when the task is linked.
    pub fn kf_dsq_insert(
        &mut self,
        machine: &mut dyn Machine,
        p: Option<Tid>,
        insert: Insert,
    ) -> bool {
        let Some(p) = p.filter(|&p| self.tasks.get(p).is_some()) else {
            self.error(machine, "called with NULL task");
            return false;
        };
        let Some(mut enq_flags) = self.check_enq_flags(machine, insert.dsq, insert.enq_flags)
        else {
            return false;
        };
        if insert.vtime.is_some() {
            enq_flags |= scx::SCX_ENQ_DSQ_PRIQ;
        }
        let verdict = Verdict {
            dsq_id: insert.dsq.raw(),
            carry: Carry {
                slice: insert.slice,
                vtime: insert.vtime.unwrap_or(0),
                enq_flags,
            },
        };
        match self.op.map(|cx| (cx.ddsp, cx.op, cx.rq)) {
            Some((DirectDispatch::No, Op::Dispatch, Some(cpu))) => {
                self.buffer_dispatch(machine, cpu, p, verdict)
            }
            Some((DirectDispatch::No, op, _)) => {
                let op = op.name(self.sched.form);
                let why = format!("scx_bpf_dsq_insert() called from ops.{op}()");
                self.error(machine, &why);
                false
            }
            Some((ddsp, _, _)) => self.mark_direct_dispatch(machine, ddsp, p, verdict),
            None => {
                self.error(machine, "scx_bpf_dsq_insert() called outside of ops");
                false
            }
        }
    }

    /// The flags to use, or `None` after an error.
    fn check_enq_flags(
        &mut self,
        machine: &mut dyn Machine,
        dsq: DsqId,
        enq_flags: u64,
    ) -> Option<u64> {
        if enq_flags & scx::__SCX_ENQ_INTERNAL_MASK != 0 {
            self.error(machine, &format!("invalid enq_flags 0x{enq_flags:x}"));
            return None;
        }
        let id = dsq.raw();
        let is_local =
            id == scx::SCX_DSQ_LOCAL || id & scx::SCX_DSQ_LOCAL_ON == scx::SCX_DSQ_LOCAL_ON;
        for (flag, name) in [
            (scx::SCX_ENQ_IMMED, "SCX_ENQ_IMMED"),
            (scx::SCX_ENQ_RESCUE, "SCX_ENQ_RESCUE"),
        ] {
            if enq_flags & flag != 0 && !is_local {
                self.error(machine, &format!("{name} on a non-local DSQ 0x{id:x}"));
                return None;
            }
        }
        let always = self.sched.has_flag(scx::SCX_OPS_ALWAYS_ENQ_IMMED) && is_local;
        Some(enq_flags | if always { scx::SCX_ENQ_IMMED } else { 0 })
    }

    fn mark_direct_dispatch(
        &mut self,
        machine: &mut dyn Machine,
        ddsp: DirectDispatch,
        p: Tid,
        verdict: Verdict,
    ) -> bool {
        if let Some(cx) = &mut self.op {
            cx.ddsp = DirectDispatch::Spoiled;
        }
        match ddsp {
            DirectDispatch::Of(task) if task == p => {
                self.set_direct_dispatch(p, verdict);
                true
            }
            DirectDispatch::Of(task) => {
                let (task, p) = (self.who(task), self.who(p));
                let why = format!("scheduling for {task} but trying to direct-dispatch {p}");
                self.error(machine, &why);
                false
            }
            DirectDispatch::No | DirectDispatch::Spoiled => {
                let why = format!("{} already direct-dispatched", self.who(p));
                self.error(machine, &why);
                false
            }
        }
    }

    fn buffer_dispatch(
        &mut self,
        machine: &mut dyn Machine,
        cpu: Cpu,
        p: Tid,
        verdict: Verdict,
    ) -> bool {
        if self.rq(cpu).buf.len() >= self.sched.max_batch as usize {
            self.error(machine, "dispatch buffer overflow");
            return false;
        }
        let qseq = match self.t(p).ops_state {
            OpsState::Queued(qseq) => Some(qseq),
            OpsState::None | OpsState::Queueing | OpsState::Dispatching => None,
        };
        self.rq_mut(cpu).buf.push(BufEnt {
            task: p,
            qseq,
            verdict,
        });
        true
    }

    /// The CPU that dispatches now, or an error.
    fn dispatching_cpu(&mut self, machine: &mut dyn Machine, kfunc: &str) -> Option<Cpu> {
        match self.op {
            Some(cx) if cx.op == Op::Dispatch && cx.rq.is_some() => cx.rq,
            _ => {
                self.error(
                    machine,
                    &format!("{kfunc}() called outside of ops.dispatch()"),
                );
                None
            }
        }
    }

    /// `scx_bpf_dispatch_nr_slots`.
    pub fn kf_dispatch_nr_slots(&mut self, machine: &mut dyn Machine) -> u32 {
        match self.dispatching_cpu(machine, "scx_bpf_dispatch_nr_slots") {
            Some(cpu) => {
                let used = u32::try_from(self.rq(cpu).buf.len()).expect("at most max_batch");
                self.sched.max_batch - used
            }
            None => 0,
        }
    }

    /// `scx_bpf_dispatch_cancel`.
    pub fn kf_dispatch_cancel(&mut self, machine: &mut dyn Machine) {
        if let Some(cpu) = self.dispatching_cpu(machine, "scx_bpf_dispatch_cancel")
            && self.rq_mut(cpu).buf.pop().is_none()
        {
            self.error(machine, "dispatch buffer underflow");
        }
    }

    /// `scx_bpf_dsq_move_to_local___v2`: flushes the buffer, then takes one task that may
    /// run here.
    pub fn kf_dsq_move_to_local(&mut self, env: &mut Env<'_>, dsq: DsqId, enq_flags: u64) -> bool {
        let Some(cpu) = self.dispatching_cpu(env.machine, "scx_bpf_dsq_move_to_local") else {
            return false;
        };
        let local = DsqId::new(scx::SCX_DSQ_LOCAL);
        let Some(enq_flags) = self.check_enq_flags(env.machine, local, enq_flags) else {
            return false;
        };
        self.flush_dispatch_buf(env, cpu);
        let Some(from) = self.dsqs.find_user(dsq.raw()) else {
            let why = format!("invalid DSQ ID 0x{:016x}", dsq.raw());
            self.error(env.machine, &why);
            return false;
        };
        let moved = self.consume(env, cpu, from, enq_flags);
        if moved {
            self.rq_mut(cpu).nr_dispatched += 1;
        }
        moved
    }

    /// `scx_bpf_create_dsq`.
    pub fn kf_create_dsq(&mut self, dsq: DsqId, node: i32) -> Result<(), Errno> {
        let nr_nodes = i32::try_from(self.topology.nr_nodes()).unwrap_or(i32::MAX);
        if !(-1..nr_nodes).contains(&node) {
            return Err(Errno::EINVAL);
        }
        self.dsqs.create(dsq.raw())
    }

    /// `scx_bpf_destroy_dsq`.
    pub fn kf_destroy_dsq(&mut self, machine: &mut dyn Machine, dsq: DsqId) {
        let id = dsq.raw();
        if let Err(nr) = self.dsqs.destroy(id) {
            let why = format!("attempting to destroy in-use dsq 0x{id:016x} (nr={nr})");
            self.error(machine, &why);
        }
    }

    /// `scx_bpf_dsq_nr_queued`.
    pub fn kf_dsq_nr_queued(
        &mut self,
        machine: &mut dyn Machine,
        dsq: DsqId,
    ) -> Result<u32, Errno> {
        let id = dsq.raw();
        let r = if id == scx::SCX_DSQ_LOCAL {
            let locked = self.op.and_then(|cx| cx.rq);
            Some(DsqRef::Local(locked.unwrap_or_else(|| machine.this_cpu())))
        } else if id & scx::SCX_DSQ_LOCAL_ON == scx::SCX_DSQ_LOCAL_ON {
            self.local_on_cpu(machine, id, "").map(DsqRef::Local)
        } else {
            self.dsqs.find_user(id)
        };
        r.map(|r| self.dsqs.nr(r)).ok_or(Errno::ENOENT)
    }

    /// `scx_bpf_dsq_peek`.
    pub fn kf_dsq_peek(&mut self, machine: &mut dyn Machine, dsq: DsqId) -> Option<Tid> {
        let id = dsq.raw();
        if id & scx::SCX_DSQ_FLAG_BUILTIN != 0 {
            self.error(machine, &format!("peek disallowed on builtin DSQ 0x{id:x}"));
            return None;
        }
        match self.dsqs.find_user(id) {
            Some(r) => self.dsqs.first(r),
            None => {
                self.error(machine, &format!("peek on non-existent DSQ 0x{id:x}"));
                None
            }
        }
    }

    /// `bpf_iter_scx_dsq_new`. Iterators end with [`Core::kf_iter_destroy`].
    pub fn kf_iter_new(&mut self, dsq: DsqId, flags: u64) -> Result<IterId, Errno> {
        if !self.has_sched() {
            return Err(Errno::ENODEV);
        }
        let user = u64::from(scx::__SCX_DSQ_ITER_USER_FLAGS);
        if flags & !user != 0 {
            return Err(Errno::EINVAL);
        }
        let reverse = flags & u64::from(scx::SCX_DSQ_ITER_REV) != 0;
        self.dsqs.iter_new(dsq.raw(), reverse).map(IterId)
    }

    /// `bpf_iter_scx_dsq_next`.
    pub fn kf_iter_next(&mut self, it: IterId) -> Option<Tid> {
        self.dsqs.iter_next(it.0)
    }

    /// `bpf_iter_scx_dsq_destroy`.
    pub fn kf_iter_destroy(&mut self, it: IterId) {
        self.dsqs.iter_destroy(it.0);
    }

    /// `scx_bpf_dsq_move_set_slice`: for the next move only.
    pub fn kf_dsq_move_set_slice(&mut self, it: IterId, slice: u64) {
        if let Some(it) = self.dsqs.iter(it.0) {
            it.slice = Some(slice);
        }
    }

    /// `scx_bpf_dsq_move_set_vtime`: for the next move only.
    pub fn kf_dsq_move_set_vtime(&mut self, it: IterId, vtime: u64) {
        if let Some(it) = self.dsqs.iter(it.0) {
            it.vtime = Some(vtime);
        }
    }

    /// `scx_bpf_dsq_move` (`to.vtime` is `None`) and `scx_bpf_dsq_move_vtime` (it is
    /// `Some` of anything). Slice and vtime come from the two setters, not from `to`.
    pub fn kf_dsq_move(
        &mut self,
        env: &mut Env<'_>,
        it: IterId,
        p: Option<Tid>,
        to: Insert,
    ) -> bool {
        if self.dsqs.iter(it.0).is_none() {
            return false;
        }
        let Some(p) = p.filter(|&p| self.tasks.get(p).is_some()) else {
            self.error(env.machine, "called with NULL task");
            return false;
        };
        let Some(mut enq_flags) = self.check_enq_flags(env.machine, to.dsq, to.enq_flags) else {
            return false;
        };
        if self.sched.aborting {
            return false;
        }
        let owns = self.dsqs.iter_owns(it.0, p);
        let state = self
            .dsqs
            .iter(it.0)
            .map(|s| (s.slice.take(), s.vtime.take()));
        let Some((slice, vtime)) = state.filter(|_| owns) else {
            return false;
        };
        if to.vtime.is_some() {
            enq_flags |= scx::SCX_ENQ_DSQ_PRIQ;
        }
        if let Some(vtime) = vtime {
            self.image.set_dsq_vtime(p, vtime);
        }
        if let Some(slice) = slice {
            self.set_task_slice(p, slice);
        }
        let this = env.machine.this_cpu();
        let rq = self.op.and_then(|cx| cx.rq).unwrap_or(this);
        let task_cpu = self.t(p).cpu;
        let dsq = self.find_dsq_for_dispatch(env.machine, rq, to.dsq.raw(), task_cpu);
        self.move_between_dsqs(env, p, dsq, enq_flags);
        true
    }

    /// `move_task_between_dsqs()`.
    fn move_between_dsqs(&mut self, env: &mut Env<'_>, p: Tid, dsq: DsqRef, enq_flags: u64) {
        let source = self.t(p).cpu;
        if let DsqRef::Local(target) = dsq
            && target != source
        {
            if self.can_run_on_remote_rq(env, p, target, true) {
                self.unlink(env.machine, p);
                self.move_remote_to_local(env, p, target, enq_flags);
            } else {
                self.unlink(env.machine, p);
                let carry = Carry::flags(enq_flags | scx::SCX_ENQ_GDSQ_FALLBACK);
                let global = self.global_dsq(source);
                self.dispatch_enqueue(env, source, global, p, carry);
            }
            return;
        }
        self.unlink(env.machine, p);
        self.dispatch_enqueue(env, source, dsq, p, Carry::flags(enq_flags));
    }

    /// `scx_bpf_dsq_reenq`, and `scx_bpf_reenqueue_local___v2` with `SCX_DSQ_LOCAL`.
    pub fn kf_dsq_reenq(&mut self, machine: &mut dyn Machine, dsq: DsqId, flags: u64) {
        if flags & !scx::__SCX_REENQ_USER_MASK != 0 {
            self.error(machine, &format!("invalid SCX_REENQ flags 0x{flags:x}"));
            return;
        }
        // No filter given means every task.
        let flags = if flags == 0 {
            scx::SCX_REENQ_ANY
        } else {
            flags
        };
        let this = machine.this_cpu();
        let rq = self.op.and_then(|cx| cx.rq).unwrap_or(this);
        let r = self.find_dsq_for_dispatch(machine, rq, dsq.raw(), this);
        if self.is_bypassing() {
            return;
        }
        match r {
            DsqRef::Local(cpu) => self.schedule_reenq_local(machine, cpu, flags),
            DsqRef::User(_) => {
                let users = &mut self.rq_mut(this).deferred.reenq_users;
                let id = dsq.raw();
                match users.iter_mut().find(|(due, _)| *due == id) {
                    Some((_, due_flags)) => *due_flags |= flags,
                    None => users.push_back((id, flags)),
                }
                self.schedule_deferred(machine, this);
            }
            DsqRef::Global(_) | DsqRef::Bypass(_) => {
                let id = self.dsqs.id(r).raw();
                self.error(machine, &format!("DSQ 0x{id:x} not allowed for reenq"));
            }
        }
    }

    /// `scx_bpf_reenqueue_local`: at once, from `cpu_release` only; how many.
    pub fn kf_reenqueue_local(&mut self, env: &mut Env<'_>) -> u32 {
        match self.op {
            Some(cx) if cx.op == Op::CpuRelease => match cx.rq {
                Some(cpu) => self.reenq_local(env, cpu, scx::SCX_REENQ_ANY),
                None => 0,
            },
            _ => {
                let why = "scx_bpf_reenqueue_local() called outside of ops.cpu_release()";
                self.error(env.machine, why);
                0
            }
        }
    }
}
