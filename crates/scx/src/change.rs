//! Property changes of a task: affinity, nice, policy (`sched_change` guard).
//!
//! Every change happens in a bracket that takes the task off its run queue and puts it
//! back, and so shows itself to the scheduler:
//!
//! ```text
//! queued    [dequeue] quiescent ──op──► runnable enqueue
//! running   stopping(false) quiescent ──op──► runnable running      (never enqueue)
//! sleeping  ──op──►
//! ```

use std::sync::Arc;

use harena_abi::{Cpu, Errno, Tid, scx};

use crate::task::RunState;
use crate::weight::scx_weight;
use crate::{Class, Core, CpuSet, Env, Op, TaskState};

/// The task moves to another class (`DEQUEUE_CLASS`, `ENQUEUE_CLASS`).
const CLASS: u64 = 0x40;

impl Core {
    /// The bracket. `flags` are the core's, the same bits on both sides.
    pub(crate) fn change<R>(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        flags: u64,
        f: impl FnOnce(&mut Self, &mut Env<'_>) -> R,
    ) -> R {
        let queued = self.t(p).run == RunState::Runnable;
        let running = self.is_current(p);
        let cpu = self.t(p).cpu;
        if queued {
            self.dequeue_task(env, p, flags);
        }
        if running {
            if self.t(p).class == Class::Ext {
                self.put_prev_scx(env, cpu, p, None);
            } else {
                self.update_curr(env, cpu);
            }
        }
        let ret = f(self, env);
        if queued {
            self.enqueue_task(env, p, flags);
        }
        if running {
            self.set_next(env, cpu, p);
        }
        ret
    }

    /// `sched_setaffinity()`.
    pub fn set_affinity(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        allowed: &CpuSet,
    ) -> Result<(), Errno> {
        let t = self.tasks.get(p).ok_or(Errno::ESRCH)?;
        let allowed = &self.possible(allowed);
        if !allowed.intersects(&self.online) {
            return Err(Errno::EINVAL);
        }
        if *t.allowed == *allowed {
            return Ok(());
        }
        let flags = scx::DEQUEUE_SAVE | scx::DEQUEUE_NOCLOCK;
        self.change(env, p, flags, |core, env| {
            let t = &mut core.tasks[p];
            t.allowed = Arc::new(allowed.clone());
            t.nr_allowed = allowed.len();
            core.image.set_allowed(p, allowed);
            if core.t(p).class == Class::Ext {
                core.call_set_cpumask(env, p);
            }
        });
        self.leave_forbidden_cpu(env, p, allowed);
        Ok(())
    }

    pub(crate) fn call_set_cpumask(&mut self, env: &mut Env<'_>, p: Tid) {
        if self.has_op(Op::SetCpumask) {
            let allowed = Arc::clone(&self.t(p).allowed);
            self.call_task(env, Op::SetCpumask, p, |ops, cx| {
                ops.set_cpumask(cx, p, &allowed);
            });
        }
    }

    /// `affine_move_task()`: a task outside its new mask moves, if need be by the stopper.
    fn leave_forbidden_cpu(&mut self, env: &mut Env<'_>, p: Tid, allowed: &CpuSet) {
        self.tasks[p].migration_pending = None;
        let t = self.t(p);
        let cpu = t.cpu;
        if allowed.contains(cpu) || t.run != RunState::Runnable || t.migration_disabled {
            return;
        }
        let (this, online) = (env.machine.this_cpu(), self.online.clone());
        let Some(target) = self.any_and_distribute(this, &online, allowed) else {
            return;
        };
        if self.is_current(p) {
            self.tasks[p].migration_pending = Some(target);
            self.wakeup_preempt(env.machine, cpu, Class::Stop);
        } else {
            self.move_queued_task(env, p, target);
        }
    }

    /// `move_queued_task()`: an ordinary dequeue here and enqueue there, without
    /// `quiescent` and `runnable`.
    pub(crate) fn move_queued_task(&mut self, env: &mut Env<'_>, p: Tid, target: Cpu) {
        self.tasks[p].migrating = true;
        self.dequeue_task(env, p, scx::DEQUEUE_NOCLOCK);
        self.set_task_cpu(env, p, target);
        self.enqueue_task(env, p, scx::ENQUEUE_MIGRATED);
        self.tasks[p].migrating = false;
        let class = self.t(p).class;
        self.wakeup_preempt(env.machine, target, class);
    }

    /// `migrate_disable()` and `migrate_enable()` of a task. A change of affinity takes
    /// effect on the CPU it uses only once migration is enabled again.
    pub fn set_migration_disabled(&mut self, env: &mut Env<'_>, p: Tid, disabled: bool) {
        if self.tasks.get(p).is_some() {
            self.tasks[p].migration_disabled = disabled;
            let allowed = Arc::clone(&self.t(p).allowed);
            self.leave_forbidden_cpu(env, p, &allowed);
        }
    }

    /// `setpriority()`.
    pub fn set_nice(&mut self, env: &mut Env<'_>, p: Tid, nice: i32) -> Result<(), Errno> {
        let t = self.tasks.get(p).ok_or(Errno::ESRCH)?;
        if !(-20..=19).contains(&nice) {
            return Err(Errno::EINVAL);
        }
        if t.nice == nice {
            return Ok(());
        }
        let flags = scx::DEQUEUE_SAVE | scx::DEQUEUE_NOCLOCK;
        self.change(env, p, flags, |core, env| {
            core.set_prio(p, core.t(p).policy, nice);
            core.reweight(env, p);
        });
        Ok(())
    }

    fn set_prio(&mut self, p: Tid, policy: u32, nice: i32) {
        let t = &mut self.tasks[p];
        t.policy = policy;
        t.nice = nice;
        self.image.set_prio(p, policy, nice);
    }

    /// `reweight_task_scx()`.
    fn reweight(&mut self, env: &mut Env<'_>, p: Tid) {
        let t = self.t(p);
        if t.class != Class::Ext || t.state() != TaskState::Enabled {
            return;
        }
        let weight = scx_weight(t.policy, t.nice);
        self.tasks[p].weight = weight;
        self.image.set_weight(p, weight);
        if self.has_op(Op::SetWeight) {
            self.call_task(env, Op::SetWeight, p, |ops, cx| {
                ops.set_weight(cx, p, weight);
            });
        }
    }

    /// `sched_setscheduler()`.
    pub fn set_policy(&mut self, env: &mut Env<'_>, p: Tid, policy: u32) -> Result<(), Errno> {
        let t = self.tasks.get(p).ok_or(Errno::ESRCH)?;
        if !matches!(
            policy,
            scx::SCHED_NORMAL
                | scx::SCHED_FIFO
                | scx::SCHED_RR
                | scx::SCHED_BATCH
                | scx::SCHED_IDLE
                | scx::SCHED_DEADLINE
                | scx::SCHED_EXT
        ) {
            return Err(Errno::EINVAL);
        }
        if t.policy == policy {
            return Ok(());
        }
        if self.sched.enabled && self.image.disallow(p) && policy == scx::SCHED_EXT {
            return Err(Errno::EACCES);
        }
        let class = self.class_of_policy(policy);
        self.change_class(env, p, class, |core, env| {
            let nice = core.t(p).nice;
            core.set_prio(p, policy, nice);
            core.reweight(env, p);
        });
        Ok(())
    }

    /// A bracket at whose end the task is in `class`; `f` runs before the switch.
    pub(crate) fn change_class(
        &mut self,
        env: &mut Env<'_>,
        p: Tid,
        class: Class,
        f: impl FnOnce(&mut Self, &mut Env<'_>),
    ) {
        let old = self.t(p).class;
        let mut flags = scx::DEQUEUE_SAVE | scx::DEQUEUE_MOVE | scx::DEQUEUE_NOCLOCK;
        if old != class {
            flags |= CLASS;
        }
        self.change(env, p, flags, |core, env| {
            f(core, env);
            if old == class {
                return;
            }
            if old == Class::Ext && core.t(p).state() == TaskState::Enabled {
                core.disable_task(env, p);
            }
            core.tasks[p].class = class;
            if class == Class::Ext {
                core.enable_task(env, p);
                core.call_set_cpumask(env, p);
            }
        });
        let (cpu, class) = (self.t(p).cpu, self.t(p).class);
        if old != class {
            if self.is_current(p) {
                self.resched(env.machine, cpu);
            } else if self.t(p).run == RunState::Runnable {
                self.wakeup_preempt(env.machine, cpu, class);
            }
        }
    }
}
