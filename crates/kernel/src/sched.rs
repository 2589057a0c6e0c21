//! A BPF scheduler's callbacks, from the core to the programs.
//!
//! ```text
//! core ──enqueue(p)──► Attached ──u64[] in guest memory──► vm.run(program)
//!                          ▲                                  │ kfunc
//!                          └── core ◄── Core::kf_* ◄── Kf ◄───┘
//! ```
//!
//! `BpfScheduler` owns the machine; [`Attached`] is the same by reference, so that a
//! kfunc, which holds the machine as `&mut` of its own, can offer the core the scheduler
//! again while a program runs. A program that does what a verifier would have refused
//! ends the scheduler with an exit, never the host.

use std::sync::Arc;

use harena_abi::{Cid, Cpu, Errno, KernAddr, Tid};
use harena_arena::Pool;
use harena_scx::{
    Cost, CpuSet, Cx, DumpCtx, ExitInfo, ExitTask, Form, InitTask, Moment, MomentSet, Op,
    OpsConfig, SchedOps,
};
use harena_vm::{Abort, ContextSet, RunArgs, Vm};

use crate::access::Fields;
use crate::cmasks::Cmasks;
use crate::exit_info;
use crate::host::KernelHost;
use crate::kfuncs::context_of;
use crate::reg::as_s32;
use crate::state::{Level, State};
use crate::tracing::Frame;
use crate::types::ctype::field;
use crate::types::runqueue::rq;
use crate::types::scx::{scx_cpu_release_args, scx_exit_task_args, scx_init_task_args};

/// A scheduler in its machine, borrowed for one callback.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    pub(crate) vm: &'a mut Vm,
    pub(crate) st: &'a mut State,
}

/// Whose program runs, for messages and for what it may ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    /// A callback of this name.
    Callback(&'static str),
    /// A timer's callback.
    Timer,
    /// The tracing program at this position.
    Tracing(usize, &'a Frame),
}

impl<'a> Attached<'a> {
    pub(crate) const fn new(vm: &'a mut Vm, st: &'a mut State) -> Self {
        Self { vm, st }
    }

    /// Calls a callback; `None` if it is not set or its program was ended.
    fn call(&mut self, cx: &mut Cx<'_>, op: Op, args: &[u64]) -> Option<u64> {
        let prog = *self.st.programs.get(&op)?;
        let level = self.st.level();
        self.vm
            .write_args(level.args, args)
            .expect("the level's block is mapped");
        let contexts = context_of(op);
        let run = RunArgs {
            contexts,
            ..RunArgs::new(level.args)
        };
        let origin = Origin::Callback(op.name(self.st.config.form));
        self.enter(cx, origin, contexts, |vm, host| {
            vm.run(prog, &run, host).map(|r| (r.ret, r.insns))
        })
    }

    /// Runs a program's code with the kernel behind it, counts its cost and ends the
    /// scheduler if it misbehaved.
    pub(crate) fn enter<R>(
        &mut self,
        cx: &mut Cx<'_>,
        origin: Origin<'_>,
        context: ContextSet,
        run: impl FnOnce(&mut Vm, &mut KernelHost<'_, '_>) -> Result<(R, u64), Abort>,
    ) -> Option<R> {
        let now = cx.machine.now().as_ns();
        let this_rq = self.st.places.rq(cx.machine.this_cpu());
        self.vm.mem().put(this_rq, field!(rq, clock), now);
        self.vm.mem().put(this_rq, field!(rq, clock_task), now);
        let frame = match origin {
            Origin::Tracing(_, frame) => Some(*frame),
            Origin::Callback(_) | Origin::Timer => None,
        };
        self.st.enter(context, frame);
        let result = run(
            self.vm,
            &mut KernelHost {
                st: &mut *self.st,
                cx: &mut *cx,
            },
        );
        self.st.leave();
        let insns = match &result {
            Ok((_, insns)) => *insns,
            Err(abort) => abort.insns,
        };
        if self.st.is_outermost() {
            cx.machine.charge(Cost::Insns(insns));
        }
        match result {
            Ok((ret, _)) => Some(ret),
            Err(abort) => {
                let what = match origin {
                    Origin::Callback(op) => format!("ops.{op}(): {abort}"),
                    Origin::Timer => format!("timer: {abort}"),
                    Origin::Tracing(index, _) => {
                        format!("{}: {abort}", self.st.tracing.take_off(index))
                    }
                };
                cx.core.error(cx.machine, &what);
                self.st.abort.get_or_insert(abort);
                None
            }
        }
    }

    fn task(&self, p: Tid) -> u64 {
        self.st.places.task(p).raw()
    }

    fn task_or_null(&self, p: Option<Tid>) -> u64 {
        p.map_or(0, |p| self.task(p))
    }

    /// A CPU as the scheduler's form numbers it.
    fn cpu_arg(&self, cx: &Cx<'_>, cpu: Cpu) -> u64 {
        match self.st.config.form {
            Form::Cpu => cpu.raw().into(),
            Form::Cid => match cx.core.cids().cid_of(cpu) {
                Some(cid) => cid.raw().into(),
                None => Errno::EINVAL.as_reg(),
            },
        }
    }

    /// A CPU that a callback returned, in its form's numbers.
    fn cpu_ret(&self, cx: &Cx<'_>, ret: i32) -> Option<Cpu> {
        match self.st.config.form {
            Form::Cpu => Cpu::from_s32(ret).filter(|cpu| cpu.raw() < self.st.places.nr_cpus()),
            Form::Cid => Cid::from_s32(ret).and_then(|cid| cx.core.cids().cpu_of(cid)),
        }
    }

    /// A callback that returns 0 or an error; one that was ended has failed.
    fn call_errno(&mut self, cx: &mut Cx<'_>, op: Op, args: &[u64]) -> i32 {
        self.call(cx, op, args)
            .map_or(Errno::EFAULT.as_ret(), as_s32)
    }

    fn level(&self) -> Level {
        self.st.level()
    }

    fn dump_args(&mut self, ctx: &DumpCtx) -> u64 {
        let level = self.level();
        exit_info::write_dump_ctx(self.vm.mem(), level.pointee, level.mask, ctx).raw()
    }
}

impl SchedOps for Attached<'_> {
    fn config(&self) -> &OpsConfig {
        &self.st.config
    }

    fn prepare(&mut self, _cx: &mut Cx<'_>) -> Result<(), Errno> {
        if let Some(arena) = self.st.arena.and_then(|map| self.vm.arena(map)) {
            let nr_cpus = self.st.places.nr_cpus();
            let pool = self.st.pool.take();
            let pool = pool.unwrap_or_else(|| Box::new(Pool::new(Arc::clone(arena))));
            match Cmasks::new(pool, nr_cpus) {
                Ok(cmasks) => self.st.cmasks = Some(cmasks),
                Err(pool) => {
                    self.st.pool = Some(pool);
                    return Err(Errno::ENOMEM);
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, cx: &mut Cx<'_>) {
        for timer in self.st.timers.keys() {
            cx.machine.timer_cancel(*timer);
        }
        if let Some(cmasks) = self.st.cmasks.take() {
            self.st.pool = Some(cmasks.release());
        }
    }

    fn select_cpu(
        &mut self,
        cx: &mut Cx<'_>,
        p: Tid,
        prev: Cpu,
        wake_flags: u64,
    ) -> Result<Cpu, i32> {
        let args = [self.task(p), self.cpu_arg(cx, prev), wake_flags];
        let Some(ret) = self.call(cx, Op::SelectCpu, &args).map(as_s32) else {
            return Ok(prev);
        };
        self.cpu_ret(cx, ret).ok_or(ret)
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        let args = [self.task(p), enq_flags];
        self.call(cx, Op::Enqueue, &args);
    }

    fn dequeue(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        let args = [self.task(p), deq_flags];
        self.call(cx, Op::Dequeue, &args);
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, cpu: Cpu, prev: Option<Tid>) {
        let args = [self.cpu_arg(cx, cpu), self.task_or_null(prev)];
        self.call(cx, Op::Dispatch, &args);
    }

    fn tick(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let args = [self.task(p)];
        self.call(cx, Op::Tick, &args);
    }

    fn runnable(&mut self, cx: &mut Cx<'_>, p: Tid, enq_flags: u64) {
        let args = [self.task(p), enq_flags];
        self.call(cx, Op::Runnable, &args);
    }

    fn running(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let args = [self.task(p)];
        self.call(cx, Op::Running, &args);
    }

    fn stopping(&mut self, cx: &mut Cx<'_>, p: Tid, runnable: bool) {
        let args = [self.task(p), runnable.into()];
        self.call(cx, Op::Stopping, &args);
    }

    fn quiescent(&mut self, cx: &mut Cx<'_>, p: Tid, deq_flags: u64) {
        let args = [self.task(p), deq_flags];
        self.call(cx, Op::Quiescent, &args);
    }

    fn yield_to(&mut self, cx: &mut Cx<'_>, from: Tid, to: Option<Tid>) -> bool {
        let args = [self.task(from), self.task_or_null(to)];
        // A bool comes back in the low byte.
        self.call(cx, Op::Yield, &args)
            .is_some_and(|ret| ret & 0xff != 0)
    }

    fn set_weight(&mut self, cx: &mut Cx<'_>, p: Tid, weight: u32) {
        let args = [self.task(p), weight.into()];
        self.call(cx, Op::SetWeight, &args);
    }

    fn set_cpumask(&mut self, cx: &mut Cx<'_>, p: Tid, allowed: &CpuSet) {
        let Some(prog) = self.st.programs.get(&Op::SetCpumask).copied() else {
            return;
        };
        let mask = match &self.st.cmasks {
            Some(cmasks) => {
                let cpu = cx.machine.this_cpu();
                match cmasks.write(prog, cx.core.cids(), cpu, allowed) {
                    Ok(mask) => mask,
                    Err(error) => {
                        let what = format!("the cmask of CPU {cpu}: {error}");
                        return cx.core.error(cx.machine, &what);
                    }
                }
            }
            None => exit_info::write_mask(self.vm.mem(), self.level().mask, allowed),
        };
        let args = [self.task(p), mask];
        self.call(cx, Op::SetCpumask, &args);
    }

    fn update_idle(&mut self, cx: &mut Cx<'_>, cpu: Cpu, idle: bool) {
        let args = [self.cpu_arg(cx, cpu), idle.into()];
        self.call(cx, Op::UpdateIdle, &args);
    }

    fn init_task(&mut self, cx: &mut Cx<'_>, p: Tid, args: InitTask) -> i32 {
        let at = self.level().pointee;
        let mem = self.vm.mem();
        mem.put(at, field!(scx_init_task_args, fork), args.fork);
        let cgroup = self.st.places.root_cgroup();
        mem.put_ptr(at, field!(scx_init_task_args, cgroup), cgroup);
        let args = [self.task(p), at.raw()];
        self.call_errno(cx, Op::InitTask, &args)
    }

    fn exit_task(&mut self, cx: &mut Cx<'_>, p: Tid, args: ExitTask) {
        let at = self.level().pointee;
        let cancelled = field!(scx_exit_task_args, cancelled);
        self.vm.mem().put(at, cancelled, args.cancelled);
        let args = [self.task(p), at.raw()];
        self.call(cx, Op::ExitTask, &args);
    }

    fn enable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let args = [self.task(p)];
        self.call(cx, Op::Enable, &args);
    }

    fn disable(&mut self, cx: &mut Cx<'_>, p: Tid) {
        let args = [self.task(p)];
        self.call(cx, Op::Disable, &args);
    }

    fn init_cids(&mut self, cx: &mut Cx<'_>) -> i32 {
        self.call_errno(cx, Op::InitCids, &[])
    }

    fn init(&mut self, cx: &mut Cx<'_>) -> i32 {
        self.call_errno(cx, Op::Init, &[])
    }

    fn exit(&mut self, cx: &mut Cx<'_>, info: &ExitInfo) {
        let Ok(block) = exit_info::ExitBlock::new(self.vm.mem(), info) else {
            // No guest memory is left for the text; the host still has it.
            return;
        };
        self.call(cx, Op::Exit, &[block.addr().raw()]);
        block.free(self.vm.mem());
    }

    fn dump(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx) {
        let args = [self.dump_args(ctx)];
        self.call(cx, Op::Dump, &args);
    }

    fn dump_cpu(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx, cpu: Cpu, idle: bool) {
        let args = [self.dump_args(ctx), self.cpu_arg(cx, cpu), idle.into()];
        self.call(cx, Op::DumpCpu, &args);
    }

    fn dump_task(&mut self, cx: &mut Cx<'_>, ctx: &DumpCtx, p: Tid) {
        let args = [self.dump_args(ctx), self.task(p)];
        self.call(cx, Op::DumpTask, &args);
    }

    fn cpu_acquire(&mut self, cx: &mut Cx<'_>, cpu: Cpu) {
        let args = [self.cpu_arg(cx, cpu), 0];
        self.call(cx, Op::CpuAcquire, &args);
    }

    fn cpu_release(&mut self, cx: &mut Cx<'_>, cpu: Cpu, reason: u32, next: Option<Tid>) {
        let at = self.level().pointee;
        let mem = self.vm.mem();
        mem.put(at, field!(scx_cpu_release_args, reason.0), reason);
        let next = KernAddr::new(self.task_or_null(next));
        mem.put_ptr(at, field!(scx_cpu_release_args, task), next);
        let args = [self.cpu_arg(cx, cpu), at.raw()];
        self.call(cx, Op::CpuRelease, &args);
    }

    fn traces(&self) -> MomentSet {
        self.st.tracing.moments()
    }

    fn trace(&mut self, cx: &mut Cx<'_>, moment: &Moment<'_>) {
        self.trace_moment(cx, moment);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, key: u64) {
        let Some((timer, context)) = self.st.timers.get(&key).copied() else {
            return;
        };
        self.enter(cx, Origin::Timer, context, |vm, host| {
            let result = vm.fire_timer(timer, context, host)?;
            Ok(((), result.map_or(0, |r| r.insns)))
        });
    }
}
