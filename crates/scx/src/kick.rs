//! Kicks (`scx_kick_cpu()`, `kick_cpus_irq_workfn()`): asking a CPU to reschedule.
//!
//! A kick is recorded on the calling CPU and carried out by its irq-work, after whatever
//! runs now is over. A plain kick of a CPU whose task has slice left changes nothing:
//! the pick keeps the task without asking the scheduler. `SCX_KICK_WAIT` reschedules but
//! does not make the caller wait: the core has no way to hold up a CPU in mid-switch.

use harena_abi::{Cpu, scx};

use crate::{Class, Core, CpuSet, Env, Machine};

impl Core {
    /// `scx_kick_cpu()`, called on `this`.
    pub(crate) fn kick(&mut self, machine: &mut dyn Machine, this: Cpu, cpu: Cpu, flags: u64) {
        if self.bypassing(this) {
            return;
        }
        if flags & scx::SCX_KICK_IDLE != 0 {
            if flags & (scx::SCX_KICK_PREEMPT | scx::SCX_KICK_WAIT) != 0 {
                let why = "PREEMPT/WAIT cannot be used with SCX_KICK_IDLE";
                self.error(machine, why);
            }
            if self.is_busy(cpu) {
                return;
            }
            self.rq_mut(this).kicks.if_idle.insert(cpu);
        } else {
            let kicks = &mut self.rq_mut(this).kicks;
            kicks.kick.insert(cpu);
            if flags & scx::SCX_KICK_PREEMPT != 0 {
                kicks.preempt.insert(cpu);
            }
            if flags & scx::SCX_KICK_WAIT != 0 {
                kicks.wait.insert(cpu);
            }
        }
        if !std::mem::replace(&mut self.rq_mut(this).kicks.pending, true) {
            machine.irq_work(this);
        }
    }

    /// `can_skip_idle_kick()`.
    fn is_busy(&self, cpu: Cpu) -> bool {
        self.rq(cpu).curr.is_some() && !self.rq(cpu).in_dispatch
    }

    /// The answer to [`Machine::irq_work`]: kicks and deferred dispatches of `cpu`.
    pub fn irq_work(&mut self, env: &mut Env<'_>, cpu: Cpu) {
        self.run_deferred(env, cpu);
        let kicks = std::mem::take(&mut self.rq_mut(cpu).kicks);
        if !kicks.pending {
            return;
        }
        for target in kicks.kick.iter() {
            self.kick_one(env.machine, cpu, target, &kicks.preempt);
        }
        for target in kicks.if_idle.iter() {
            if !self.is_busy(target) && (self.online.contains(target) || target == cpu) {
                self.resched(env.machine, target);
            }
        }
    }

    fn kick_one(&mut self, machine: &mut dyn Machine, this: Cpu, cpu: Cpu, preempt: &CpuSet) {
        let class = self.curr_class(cpu);
        if class > Class::Ext || !(self.online.contains(cpu) || cpu == this) {
            return;
        }
        if let Some(curr) = self.rq(cpu).curr
            && preempt.contains(cpu)
        {
            self.set_task_slice(curr, 0);
        }
        self.resched(machine, cpu);
    }
}
