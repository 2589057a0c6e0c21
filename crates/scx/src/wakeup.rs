//! Fork, wakeup and death (`copy_process()`, `try_to_wake_up()`, `sched_ext_dead()`).
//!
//! ```text
//! fork     init_task, [enable, set_weight]
//! wakeup   select_cpu -> runnable -> enqueue, unless select_cpu dispatched directly
//! first    the same with SCX_WAKE_FORK, and no WAKEUP or CPU_SELECTED flag
//! death    after the last switch away: disable, exit_task
//! ```

use harena_abi::{Cpu, Errno, Tid, scx};

use crate::core::{DirectDispatch, OpCx};
use crate::task::{Carry, RunState, Task, Verdict};
use crate::types::counter;
use crate::weight::scx_weight;
use crate::{
    CgroupRef, Class, Core, CpuSet, Env, ExitTask, Form, Function, InitTask, Machine, Moment,
    MomentKind, Op, TaskSpec, TaskState,
};

impl Core {
    /// Creates a task; `init_task` runs if a scheduler is attached, and may refuse it.
    pub fn fork(&mut self, env: &mut Env<'_>, spec: TaskSpec) -> Result<Tid, Errno> {
        let spec = TaskSpec {
            allowed: self.possible(&spec.allowed),
            ..spec
        };
        let usable = spec.allowed.intersects(&self.online);
        if !usable || self.topology.get(spec.cpu).is_none() || !(-20..=19).contains(&spec.nice) {
            return Err(Errno::EINVAL);
        }
        let class = self.class_of_policy(spec.policy);
        let task = Task::new(&spec, class, self.jiffies(env.machine.now()));
        let p = self.tasks.add(task).ok_or(Errno::EAGAIN)?;
        self.dsqs.grow(p);
        self.runnable_links.grow(p);
        self.fair_links.grow(p);
        self.image.task_created(p, &spec);
        self.image.set_state(p, scx::TASK_NEW);
        if self.sched.init_task_enabled {
            if let Err(errno) = self.init_task(env, p, true) {
                self.image.task_gone(p);
                self.tasks.remove(p);
                return Err(Errno::from_raw(-errno).unwrap_or(Errno::EPROTO));
            }
            self.set_state(p, scx::SCX_TASK_READY);
            if class == Class::Ext {
                self.enable_task(env, p);
            }
        }
        let (parent, child) = (spec.parent, p);
        self.trace(env, Moment::SchedProcessFork { parent, child });
        Ok(p)
    }

    /// The CPUs of `set` that exist.
    pub(crate) fn possible(&self, set: &CpuSet) -> CpuSet {
        set.iter()
            .filter(|&cpu| self.topology.get(cpu).is_some())
            .collect()
    }

    /// The class of a task of this policy, as things stand.
    pub(crate) fn class_of_policy(&self, policy: u32) -> Class {
        let ext = match policy {
            scx::SCHED_EXT => true,
            scx::SCHED_NORMAL | scx::SCHED_BATCH | scx::SCHED_IDLE => self.sched.switching_all,
            _ => false,
        };
        if ext && self.sched.enabled {
            Class::Ext
        } else {
            Class::Fair
        }
    }

    /// `__scx_init_task()`, with the states around it.
    pub(crate) fn init_task(&mut self, env: &mut Env<'_>, p: Tid, fork: bool) -> Result<(), i32> {
        self.set_state(p, scx::SCX_TASK_INIT_BEGIN);
        self.image.set_disallow(p, false);
        if self.has_op(Op::InitTask) {
            let cgroup = CgroupRef(self.t(p).cgroup);
            let cx = OpCx {
                op: Op::InitTask,
                rq: None,
                tasks: [Some(p), None],
                ddsp: DirectDispatch::No,
            };
            let ret = self.call(env, cx, |ops, cx| {
                ops.init_task(cx, p, InitTask { fork, cgroup })
            });
            if ret != 0 {
                self.set_state(p, scx::SCX_TASK_NONE);
                return Err(self.sanitize_err(env.machine, "init_task", ret));
            }
        }
        self.set_state(p, scx::SCX_TASK_INIT);
        self.set_flags(p, 0, scx::SCX_TASK_RESET_RUNNABLE_AT);
        if self.image.disallow(p) {
            self.disallow(env.machine, p, fork);
        }
        Ok(())
    }

    /// `p->scx.disallow` was set in `init_task`.
    fn disallow(&mut self, machine: &mut dyn Machine, p: Tid, fork: bool) {
        let who = self.who(p);
        let what = format!("ops.init_task() set task->scx.disallow for {who}");
        if fork {
            self.error(machine, &format!("{what} during fork"));
        } else if self.sched.state != crate::sched::EnableState::Enabling {
            self.error(machine, &format!("{what} outside the enable path"));
        } else if self.t(p).policy == scx::SCHED_EXT {
            self.tasks[p].policy = scx::SCHED_NORMAL;
            let nice = self.t(p).nice;
            self.image.set_prio(p, scx::SCHED_NORMAL, nice);
            self.sched.nr_rejected += 1;
        }
    }

    /// `scx_enable_task()`.
    pub(crate) fn enable_task(&mut self, env: &mut Env<'_>, p: Tid) {
        let weight = scx_weight(self.t(p).policy, self.t(p).nice);
        self.tasks[p].weight = weight;
        self.image.set_weight(p, weight);
        if self.has_op(Op::Enable) {
            self.call_task(env, Op::Enable, p, |ops, cx| ops.enable(cx, p));
        }
        if self.has_op(Op::SetWeight) {
            self.call_task(env, Op::SetWeight, p, |ops, cx| {
                ops.set_weight(cx, p, weight);
            });
        }
        self.set_state(p, scx::SCX_TASK_ENABLED);
    }

    /// `scx_disable_task()`.
    pub(crate) fn disable_task(&mut self, env: &mut Env<'_>, p: Tid) {
        self.clear_direct_dispatch(p);
        if self.has_op(Op::Disable) {
            self.call_task(env, Op::Disable, p, |ops, cx| ops.disable(cx, p));
        }
        self.set_state(p, scx::SCX_TASK_READY);
        self.image.set_dsq_vtime(p, 0);
        self.set_task_slice(p, 0);
        self.tasks[p].reenq_cnt = 0;
    }

    /// `scx_disable_and_exit_task()`.
    pub(crate) fn disable_and_exit_task(&mut self, env: &mut Env<'_>, p: Tid) {
        let cancelled = match self.t(p).state() {
            TaskState::None | TaskState::Dead | TaskState::InitBegin => return,
            TaskState::Init => true,
            TaskState::Ready => false,
            TaskState::Enabled => {
                self.disable_task(env, p);
                false
            }
        };
        if self.has_op(Op::ExitTask) {
            self.call_task(env, Op::ExitTask, p, |ops, cx| {
                ops.exit_task(cx, p, ExitTask { cancelled });
            });
        }
        self.set_state(p, scx::SCX_TASK_NONE);
    }

    /// Makes a forked task runnable for the first time. The current CPU is the parent's.
    pub fn wake_up_new(&mut self, env: &mut Env<'_>, p: Tid) {
        if self.tasks.get(p).is_none_or(|t| t.run != RunState::New) {
            return;
        }
        self.trace_enter(env, Function::WakeUpNewTask(p));
        let (cpu, _) = self.select_task_rq(env, p, scx::SCX_WAKE_FORK);
        self.place_task(env.machine, p, cpu);
        self.activate(env, p, scx::ENQUEUE_NOCLOCK | scx::ENQUEUE_INITIAL);
        self.trace_return(env, Function::WakeUpNewTask(p), 0);
    }

    /// Wakes a sleeping task; false if it does not sleep. The current CPU is the waker's;
    /// `sync` is the waker's promise to sleep soon (`WF_SYNC`).
    pub fn wakeup(&mut self, env: &mut Env<'_>, p: Tid, sync: bool) -> bool {
        if self.tasks.get(p).is_none() {
            return false;
        }
        let call = Function::TryToWakeUp { task: p, sync };
        self.trace_enter(env, call);
        let sleeps = self.t(p).run == RunState::Sleeping;
        if sleeps {
            self.wake(env, p, sync);
        }
        self.trace_return(env, call, sleeps.into());
        sleeps
    }

    fn wake(&mut self, env: &mut Env<'_>, p: Tid, sync: bool) {
        self.trace(env, Moment::SchedWaking(p));
        let wake_flags = scx::SCX_WAKE_TTWU | if sync { scx::SCX_WAKE_SYNC } else { 0 };
        let (cpu, selected) = self.select_task_rq(env, p, wake_flags);
        let mut flags = scx::ENQUEUE_WAKEUP | scx::ENQUEUE_NOCLOCK;
        if selected {
            flags |= scx::ENQUEUE_RQ_SELECTED;
        }
        if cpu != self.t(p).cpu {
            flags |= scx::ENQUEUE_MIGRATED;
        }
        self.set_task_cpu(env, p, cpu);
        self.activate(env, p, flags);
    }

    /// `activate_task()` and what a wakeup does after it.
    fn activate(&mut self, env: &mut Env<'_>, p: Tid, flags: u64) {
        let cpu = self.t(p).cpu;
        self.tasks[p].run = RunState::Runnable;
        self.image.set_state(p, scx::TASK_RUNNING);
        self.enqueue_task(env, p, flags);
        let class = self.t(p).class;
        let is_new = flags & scx::ENQUEUE_INITIAL != 0;
        if is_new {
            self.trace(env, Moment::SchedWakeupNew(p));
        }
        self.wakeup_preempt(env.machine, cpu, class);
        if !is_new {
            self.trace(env, Moment::SchedWakeup(p));
        }
        if class == Class::Ext {
            self.run_deferred(env, cpu);
        }
    }

    /// `select_task_rq()`: the CPU, and whether the class was asked.
    fn select_task_rq(&mut self, env: &mut Env<'_>, p: Tid, wake_flags: u64) -> (Cpu, bool) {
        let t = self.t(p);
        let asks = t.nr_allowed > 1 && !t.migration_disabled;
        let cpu = if !asks {
            if t.migration_disabled {
                t.cpu
            } else {
                t.allowed.first().unwrap_or(t.cpu)
            }
        } else if t.class == Class::Ext {
            self.select_task_rq_scx(env, p, wake_flags)
        } else {
            self.fair_select_cpu(p)
        };
        let t = self.t(p);
        let fits = t.migration_disabled || t.allowed.contains(cpu);
        if fits && self.online.contains(cpu) {
            return (cpu, asks);
        }
        // select_fallback_rq(): an allowed CPU of the task's node, else any allowed one.
        let usable = |c: &Cpu| t.allowed.contains(*c) && self.online.contains(*c);
        let near = self.idle.node_of[t.cpu.index()].iter().find(usable);
        let fallback = near.or_else(|| t.allowed.iter().find(usable));
        (fallback.unwrap_or(t.cpu), asks)
    }

    /// `select_task_rq_scx()`.
    fn select_task_rq_scx(&mut self, env: &mut Env<'_>, p: Tid, wake_flags: u64) -> Cpu {
        let prev = self.t(p).cpu;
        if self.bypassing(prev) {
            self.count(env, prev, counter::bypass_dispatch);
            self.tasks[p].selected_cpu = Some(prev);
            return prev;
        }
        if !self.has_op(Op::SelectCpu) {
            return self.select_default(env, p, wake_flags);
        }
        let cx = OpCx {
            op: Op::SelectCpu,
            rq: None,
            tasks: [Some(p), None],
            ddsp: DirectDispatch::Of(p),
        };
        let ret = self.call(env, cx, |ops, cx| ops.select_cpu(cx, p, prev, wake_flags));
        let cpu = match ret {
            Ok(cpu) => self.cpu_valid(env.machine, cpu.as_s32(), "from ops.select_cpu()"),
            Err(cid) if cid >= 0 && self.sched.form == Form::Cid => {
                self.error(env.machine, &format!("invalid cid {cid}"));
                None
            }
            Err(raw) => self.cpu_valid(env.machine, raw, "from ops.select_cpu()"),
        };
        self.tasks[p].selected_cpu = cpu;
        cpu.unwrap_or(prev)
    }

    /// Without `ops.select_cpu`: an idle CPU becomes a direct dispatch to its local queue.
    fn select_default(&mut self, env: &mut Env<'_>, p: Tid, wake_flags: u64) -> Cpu {
        let prev = self.t(p).cpu;
        let found = if self.sched.builtin_idle {
            self.select_cpu_dfl(env.machine, p, prev, (wake_flags, 0), None)
        } else {
            None
        };
        if found.is_some() {
            let this = env.machine.this_cpu();
            self.count(env, this, counter::refill_slice_dfl);
            let carry = Carry {
                slice: self.sched.slice_dfl,
                vtime: 0,
                enq_flags: scx::SCX_ENQ_SLICE_DFL,
            };
            let dsq_id = scx::SCX_DSQ_LOCAL;
            self.set_direct_dispatch(p, Verdict { dsq_id, carry });
        }
        let cpu = found.unwrap_or(prev);
        self.tasks[p].selected_cpu = Some(cpu);
        cpu
    }

    /// Sets `PF_EXITING`: the task is on its way to `schedule(cpu, Leave::Exiting)`.
    pub fn set_exiting(&mut self, p: Tid) {
        if self.tasks.get(p).is_some() {
            let t = &mut self.tasks[p];
            t.flags |= scx::PF_EXITING;
            let flags = t.flags;
            self.image.set_task_flags(p, flags);
        }
    }

    /// The task begins to die (`do_exit()`); `schedule(cpu, Leave::Exiting)` is to follow.
    pub fn do_exit(&mut self, env: &mut Env<'_>, p: Tid) {
        self.set_exiting(p);
        if self.traced.has(MomentKind::SchedProcessExit) && self.tasks.get(p).is_some() {
            let group = |q: Tid| self.t(q).tgid.unwrap_or(q);
            let lives = |q: Tid| self.t(q).flags & scx::PF_EXITING == 0;
            let shares = |q: Tid| lives(q) && group(q) == group(p);
            let group_dead = !self.tasks.tids().any(shares);
            let task = p;
            self.trace(env, Moment::SchedProcessExit { task, group_dead });
        }
    }

    /// The last switch away from a dead task is over (`sched_ext_dead()`).
    pub(crate) fn bury(&mut self, env: &mut Env<'_>, p: Tid) {
        self.disable_and_exit_task(env, p);
        self.trace(env, Moment::SchedProcessFree(p));
        self.image.task_gone(p);
        self.tasks.remove(p);
    }
}
