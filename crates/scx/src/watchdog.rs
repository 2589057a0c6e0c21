//! The watchdog (`scx_watchdog_workfn()`): no runnable task may wait longer than the
//! scheduler's timeout.
//!
//! It looks every half timeout, in jiffies. A task's wait counts from when it became
//! runnable after having run; being queued anew does not start it again.

use harena_abi::{Cpu, Nanos, SimTime, Tid, scx};

use crate::sched::EnableState;
use crate::{Alarm, Core, Env, Machine, Stall};

impl Core {
    /// Starts the watchdog of the attached scheduler.
    pub(crate) fn arm_watchdog(&mut self, machine: &mut dyn Machine) {
        let now = self.jiffies(machine.now());
        self.sched.watchdog_checked = now;
        let at = now + (self.sched.watchdog_timeout / 2).max(1);
        let at = SimTime::from_ns(at.saturating_mul(self.tick_ns()));
        machine.arm(Alarm::Watchdog, at);
    }

    /// The answer to [`Machine::arm`].
    pub fn alarm(&mut self, env: &mut Env<'_>, which: Alarm) {
        let Alarm::Watchdog = which;
        if self.sched.state == EnableState::Disabled || self.sched.exit.is_some() {
            return;
        }
        let jiffies = self.jiffies(env.machine.now());
        let stalled = self.online.iter().find_map(|cpu| {
            let list = self.rq(cpu).runnable;
            let mut waiting = self.runnable_links.iter(&list);
            waiting
                .find(|&p| jiffies > self.t(p).runnable_at + self.sched.watchdog_timeout)
                .map(|p| (cpu, p))
        });
        if let Some((cpu, p)) = stalled {
            self.report_stall(cpu, p, jiffies);
        }
        self.arm_watchdog(env.machine);
    }

    fn report_stall(&mut self, cpu: Cpu, p: Tid, jiffies: u64) {
        let waited = (jiffies - self.t(p).runnable_at) * self.tick_ns();
        let ms = waited / 1_000_000;
        let who = self.who(p);
        let why = format!("{who} failed to run for {}.{:03}s", ms / 1000, ms % 1000);
        if self.claim_exit(scx::SCX_EXIT_ERROR_STALL, 0, Some(cpu), &why)
            && let Some(exit) = &mut self.sched.exit
        {
            exit.stall = Some(Stall {
                task: p,
                comm: self.tasks[p].comm.clone(),
                cpu,
                dsq: self.dsqs.dsq_of(p).map(|r| self.dsqs.id(r)),
                waited: Nanos::new(waited),
            });
        }
    }

    /// The tick's half (`scx_tick()`): the watchdog itself must have run.
    pub(crate) fn check_watchdog_alive(&mut self, machine: &mut dyn Machine) {
        if !self.sched.enabled || self.sched.exit.is_some() {
            return;
        }
        let jiffies = self.jiffies(machine.now());
        let checked = self.sched.watchdog_checked;
        if jiffies > checked + self.sched.watchdog_timeout {
            let ms = (jiffies - checked) * self.tick_ns() / 1_000_000;
            let why = format!(
                "watchdog failed to check in for {}.{:03}s",
                ms / 1000,
                ms % 1000
            );
            let this = machine.this_cpu();
            self.claim_exit(scx::SCX_EXIT_ERROR_STALL, 0, Some(this), &why);
        }
    }
}
