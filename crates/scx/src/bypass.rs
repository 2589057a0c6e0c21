//! Bypass mode (`scx_bypass()`): tasks run round robin without the scheduler.
//!
//! Used around enabling and disabling. On both edges every waiting task goes through an
//! empty property-change bracket, CPU by CPU in increasing order and on each in the
//! *reverse* of its runnable order, so that none stays where the other mode looks for it.

use harena_abi::{Tid, scx};

use crate::types::counter;
use crate::{Core, Env};

impl Core {
    pub(crate) fn bypass_begin(&mut self, env: &mut Env<'_>) {
        self.sched.bypass_depth += 1;
        if self.sched.bypass_depth != 1 {
            return;
        }
        self.sched.slice_dfl = scx::SCX_SLICE_BYPASS;
        self.sched.bypass_since = env.machine.now();
        let this = env.machine.this_cpu();
        self.count(env, this, counter::bypass_activate);
        self.cycle_tasks(env, true);
    }

    pub(crate) fn bypass_end(&mut self, env: &mut Env<'_>) {
        self.sched.bypass_depth -= 1;
        if self.sched.bypass_depth != 0 {
            return;
        }
        self.sched.slice_dfl = scx::SCX_SLICE_DFL;
        let now = env.machine.now();
        let lasted = now.since(self.sched.bypass_since).map_or(0, |d| d.as_ns());
        let this = env.machine.this_cpu();
        let lasted = i64::try_from(lasted).unwrap_or(i64::MAX);
        self.count_by(env, this, counter::bypass_duration, lasted);
        self.cycle_tasks(env, false);
    }

    fn cycle_tasks(&mut self, env: &mut Env<'_>, bypassing: bool) {
        let flags = scx::DEQUEUE_SAVE | scx::DEQUEUE_MOVE | scx::DEQUEUE_NOCLOCK;
        for cpu in self.topology.cpus() {
            let rq = self.rq_mut(cpu);
            rq.bypassing = bypassing;
            if !bypassing {
                rq.idle_renotify = true;
            }
            if self.sched.enabled {
                let list = self.rq(cpu).runnable;
                let mut waiting: Vec<Tid> = self.runnable_links.iter(&list).collect();
                waiting.reverse();
                for p in waiting {
                    self.change(env, p, flags, |_, _| {});
                }
            }
            self.resched(env.machine, cpu);
        }
    }
}
