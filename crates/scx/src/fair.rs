//! A plain round robin per CPU in place of the fair class.
//!
//! It holds the tasks that are not sched_ext's: all of them while no scheduler is
//! attached, and the normal ones under `SCX_OPS_SWITCH_PARTIAL`. It ranks above ext, as
//! the kernel's fair class does, so it also shows schedulers what being preempted by a
//! higher class looks like. It models no fairness.

use harena_abi::{Cpu, SimTime, Tid};

use crate::task::RunState;
use crate::{Class, Core, Env, Event, Machine};

/// Time a task runs before the next one's turn.
const FAIR_SLICE_NS: u64 = 3_000_000;

impl Core {
    pub(crate) fn fair_enqueue(&mut self, machine: &mut dyn Machine, p: Tid) {
        let cpu = self.t(p).cpu;
        if !self.t(p).migrating {
            machine.note(Event::Runnable { task: p, cpu });
        }
        self.rq_mut(cpu).nr_running += 1;
        if !self.is_current(p) {
            self.fair_links
                .push_back(&mut self.rqs[cpu.index()].fair, p);
        }
    }

    pub(crate) fn fair_dequeue(&mut self, env: &mut Env<'_>, p: Tid) {
        let cpu = self.t(p).cpu;
        self.rq_mut(cpu).nr_running -= 1;
        if self.is_current(p) {
            self.update_curr(env, cpu);
        }
        self.fair_unlink(p);
        if !self.t(p).migrating {
            env.machine.note(Event::Quiescent { task: p, cpu });
        }
    }

    fn fair_unlink(&mut self, p: Tid) {
        if self.fair_links.is_linked(p) {
            let cpu = self.tasks[p].cpu;
            self.fair_links.remove(&mut self.rqs[cpu.index()].fair, p);
        }
    }

    /// The next fair task: the outgoing one while it has slice left.
    pub(crate) fn fair_pick(&self, cpu: Cpu, prev: Option<Tid>) -> Option<Tid> {
        let first = self.rq(cpu).fair.first();
        match prev.map(|p| (p, self.t(p))) {
            Some((p, t))
                if t.class == Class::Fair
                    && t.run == RunState::Runnable
                    && (t.fair_slice > 0 || first.is_none()) =>
            {
                Some(p)
            }
            _ => first,
        }
    }

    pub(crate) fn fair_put_prev(&mut self, env: &mut Env<'_>, cpu: Cpu, p: Tid) {
        self.update_curr(env, cpu);
        if self.t(p).run != RunState::Runnable {
            return;
        }
        let (links, fair) = (&mut self.fair_links, &mut self.rqs[cpu.index()].fair);
        if self.tasks[p].fair_slice > 0 {
            links.push_front(fair, p);
        } else {
            links.push_back(fair, p);
        }
    }

    pub(crate) fn fair_set_next(&mut self, now: SimTime, cpu: Cpu, p: Tid) {
        debug_assert_eq!(self.t(p).cpu, cpu);
        self.fair_unlink(p);
        let t = &mut self.tasks[p];
        t.exec_start = now;
        if t.fair_slice == 0 {
            t.fair_slice = FAIR_SLICE_NS;
        }
    }

    pub(crate) fn fair_tick(&mut self, machine: &mut dyn Machine, cpu: Cpu, p: Tid) {
        if self.t(p).fair_slice > 0 {
            return;
        }
        if self.rq(cpu).fair.is_empty() {
            self.tasks[p].fair_slice = FAIR_SLICE_NS;
        } else {
            self.resched(machine, cpu);
        }
    }

    /// A CPU for a waking fair task: its last one or another with fewer tasks.
    pub(crate) fn fair_select_cpu(&self, p: Tid) -> Cpu {
        let t = self.t(p);
        let load = |cpu: Cpu| (self.rq(cpu).nr_running, cpu != t.cpu, cpu);
        let usable = t.allowed.iter().filter(|&cpu| self.online.contains(cpu));
        usable.min_by_key(|&cpu| load(cpu)).unwrap_or(t.cpu)
    }
}
