//! A whole run: boots the machine, lets events happen in order, collects the outcome.
//!
//! ```text
//!  boot     tasks without delay are created, the scheduler is enabled at time 0
//!  run      events in order of (time, seq), until the time is up, all tasks have ended,
//!           or the scheduler leaves
//!  end      a scheduler that is still there is unregistered
//! ```
//!
//! One event is: the code of one CPU at one time, then the IRQ work it asked for, then an
//! exit of the scheduler if one was claimed, then the checkers. A CPU whose kernel code is
//! still busy takes the event when that is over.

use std::collections::BTreeMap;

use harena_abi::{Cpu, SimTime, Tid};
use harena_scx::{Alarm, Core, CoreConfig, CpuSet, Env, Image, Interrupt, Leave, Op, SchedOps};
use harena_trace::{Recorder, Sink, WakeCause, What};

use crate::boot::check_config;
use crate::check::Checkers;
use crate::config::{Progress, SimConfig};
use crate::error::{ConfigError, SimError};
use crate::hardware::{Hardware, Resched};
use crate::metrics::{GroupMetrics, Outcome};
use crate::queue::Pending;

/// Events between two progress reports.
const REPORT_EVERY: u64 = 1 << 16;

/// Events that may happen without time passing.
const MAX_EVENTS_AT_ONCE: u64 = 50_000_000;

/// A machine, its workload and a scheduler, ready to run once.
#[derive(Debug)]
pub struct Simulation<S> {
    pub(crate) core: Core,
    pub(crate) ops: S,
    pub(crate) hw: Hardware,
    pub(crate) config: SimConfig,
    end: SimTime,
    pub(crate) all_cpus: CpuSet,
    pub(crate) group_of_def: Vec<usize>,
    /// CPUs on which the instances of each task definition are forked in turn; not empty.
    pub(crate) fork_cpus: Vec<Vec<Cpu>>,
    pub(crate) shared_timers: Vec<Option<SimTime>>,
    /// Instances that exist or are still to be forked.
    pub(crate) alive: u64,
    events: u64,
    events_at_once: u64,
    finished: bool,
}

// A run may be built here and driven on another thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Simulation<()>>();
};

impl<S: SchedOps> Simulation<S> {
    /// Prepares a run. `image` receives the core's memory ([`harena_scx::PlainImage`] for a
    /// scheduler that is not BPF), `sink` every record.
    ///
    /// # Errors
    /// If machine, workload and settings do not fit together.
    pub fn new(
        config: SimConfig,
        ops: S,
        image: Box<dyn Image>,
        sink: Option<Box<dyn Sink + Send>>,
    ) -> Result<Self, ConfigError> {
        check_config(&config)?;
        let nr_cpus = config.topology.nr_cpus();
        let mut hw = Hardware::new(
            config.topology.clone(),
            config.costs,
            config.hz,
            config.seed,
            Recorder::new(sink),
            Checkers::new(config.checks, config.seed, nr_cpus, &ops.config().has),
        );
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        let mut group_of_def = Vec::new();
        for def in &config.workload.tasks {
            let group = *index.entry(&def.name).or_insert_with(|| {
                hw.groups.push(GroupMetrics::new(&def.name));
                hw.groups.len() - 1
            });
            group_of_def.push(group);
        }
        let all_cpus = CpuSet::first_n(nr_cpus);
        let fork_cpus = config.workload.tasks.iter().map(|def| {
            let cpus = def.properties.cpus.as_ref().unwrap_or(&all_cpus);
            cpus.iter().collect()
        });
        let core_config = CoreConfig { hz: config.hz };
        Ok(Self {
            core: Core::new(config.topology.clone(), core_config, image),
            ops,
            hw,
            end: SimTime::ZERO.after(config.duration),
            fork_cpus: fork_cpus.collect(),
            all_cpus,
            group_of_def,
            shared_timers: vec![None; config.workload.timers.len()],
            alive: config.workload.instances(),
            events: 0,
            events_at_once: 0,
            finished: false,
            config,
        })
    }

    /// Runs to the end, reporting `progress` now and then.
    ///
    /// # Errors
    /// If the scheduler is refused, or the simulation itself fails; a failing scheduler is
    /// an [`Outcome`] with that exit.
    pub fn run(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<Outcome, SimError> {
        if std::mem::replace(&mut self.finished, true) {
            return Err(SimError::Finished);
        }
        self.boot()?;
        while self.core.exit_info().is_none() && self.alive > 0 {
            let Some((time, pending)) = self.next_event() else {
                break;
            };
            self.advance_to(time, pending)?;
            self.handle(pending)?;
            self.after_event()?;
            if self.events.is_multiple_of(REPORT_EVERY) {
                progress(self.progress());
            }
        }
        self.shut_down()?;
        progress(self.progress());
        Ok(self.outcome())
    }

    /// The scheduler.
    pub const fn scheduler(&self) -> &S {
        &self.ops
    }

    /// The scheduler, to be changed before the run.
    pub const fn scheduler_mut(&mut self) -> &mut S {
        &mut self.ops
    }

    /// The core.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Ends the simulation and gives back what it was made of.
    #[must_use]
    pub fn into_parts(mut self) -> (S, Core, Option<Box<dyn Sink + Send>>) {
        let sink = self.hw.recorder.take_sink();
        (self.ops, self.core, sink)
    }

    fn progress(&self) -> Progress {
        Progress {
            now: self.hw.now,
            end: self.end,
            events: self.events,
        }
    }

    pub(crate) fn env(&mut self) -> (&mut Core, Env<'_>) {
        let env = Env {
            ops: &mut self.ops,
            machine: &mut self.hw,
        };
        (&mut self.core, env)
    }

    /// The next event that its CPU can take, if it lies before the end.
    fn next_event(&mut self) -> Option<(SimTime, Pending)> {
        loop {
            if self.hw.queue.next_time()? > self.end {
                return None;
            }
            let (slot, pending) = self.hw.queue.pop()?;
            let ready = self.hw.ready_at(pending);
            if ready <= slot.time {
                return Some((slot.time, pending));
            }
            self.hw.postpone(slot.at(ready), pending);
        }
    }

    fn advance_to(&mut self, time: SimTime, pending: Pending) -> Result<(), SimError> {
        self.events += 1;
        if time > self.hw.now {
            self.events_at_once = 0;
        }
        self.hw.checkers.begin(time);
        self.hw.now = time;
        self.count(&pending)
    }

    /// Counts what happens without time passing, and gives up in the end.
    fn count(&mut self, last: &dyn std::fmt::Debug) -> Result<(), SimError> {
        self.events_at_once += 1;
        if self.events_at_once <= MAX_EVENTS_AT_ONCE {
            return Ok(());
        }
        Err(SimError::Stuck {
            now: self.hw.now,
            events: self.events_at_once,
            last: format!("{last:?}"),
            seed: self.config.seed,
        })
    }

    fn handle(&mut self, pending: Pending) -> Result<(), SimError> {
        match pending {
            Pending::StepDone { cpu, generation } => {
                if self.hw.cpu(cpu).step_generation == generation {
                    return self.step_done(cpu);
                }
            }
            Pending::Resched { cpu, generation } => {
                self.hw.enter(cpu);
                match self.hw.take_resched(cpu, generation) {
                    Resched::Answered => {}
                    Resched::Local => self.schedule(cpu, Leave::Runnable),
                    Resched::Ipi => {
                        let (core, mut env) = self.env();
                        core.interrupt(&mut env, Interrupt::Reschedule, |_, _| ());
                        self.schedule(cpu, Leave::Runnable);
                    }
                }
                self.hw.leave();
            }
            Pending::Tick { cpu } => {
                self.hw.enter(cpu);
                if self.hw.tick(cpu) {
                    let (core, mut env) = self.env();
                    core.interrupt(&mut env, Interrupt::LocalTimer, |core, env| {
                        core.tick(env, cpu);
                    });
                }
                self.hw.leave();
            }
            Pending::Wake { task } => self.wake(task),
            Pending::Start { task } => self.start(task),
            Pending::Fork { def, instance } => self.fork_now(def as usize, instance),
            Pending::Alarm { generation } => {
                if self.hw.alarm_is_valid(generation) {
                    self.hw.enter(Cpu::new(0));
                    let (core, mut env) = self.env();
                    core.alarm(&mut env, Alarm::Watchdog);
                    self.hw.leave();
                }
            }
            Pending::OpsTimer { key, cpu } => {
                self.hw.timer_fired(key);
                self.hw.enter(cpu);
                self.hw.interrupt();
                let (core, mut env) = self.env();
                core.interrupt(&mut env, Interrupt::LocalTimer, |_, _| ());
                core.interrupt(&mut env, Interrupt::TimerSoftirq, |core, env| {
                    core.timer(env, key);
                });
                self.hw.leave();
            }
        }
        Ok(())
    }

    /// IRQ work, exits and checks at the end of an event.
    pub(crate) fn after_event(&mut self) -> Result<(), SimError> {
        loop {
            while let Some(cpu) = self.hw.take_irq_work() {
                self.hw.enter(cpu);
                self.hw.interrupt();
                let (core, mut env) = self.env();
                core.interrupt(&mut env, Interrupt::IrqWork, |core, env| {
                    core.irq_work(env, cpu);
                });
                self.hw.leave();
                self.count(&"IRQ work")?;
            }
            if !self.core.exit_pending() {
                break;
            }
            let (core, mut env) = self.env();
            core.process_exit(&mut env);
        }
        self.hw.checkers.end(&self.core);
        match self.hw.checkers.violation() {
            Some(violation) => Err(violation.into()),
            None => Ok(()),
        }
    }

    pub(crate) fn schedule(&mut self, cpu: Cpu, leave: Leave) {
        self.hw.clear_resched(cpu);
        let (core, mut env) = self.env();
        let switched = core.schedule(&mut env, cpu, leave);
        if switched.prev != switched.next {
            self.hw.switch_to(switched.next);
        }
    }

    /// A sleep is over: the timer's interrupt comes on the CPU that armed it.
    fn wake(&mut self, p: Tid) {
        let Some(task) = self.hw.task(p) else { return };
        let (cpu, group) = (task.last_cpu, task.group);
        self.hw.groups[group].wakeups += 1;
        self.hw.enter(cpu);
        self.hw.interrupt();
        self.hw.wakeup_cost();
        let cause = WakeCause::Timer;
        self.hw.record(What::Wakeup { task: p, cause });
        let (core, mut env) = self.env();
        let woken = core.interrupt(&mut env, Interrupt::LocalTimer, |core, env| {
            core.wakeup(env, p, false)
        });
        if !woken {
            self.hw.checkers.wakeup_refused(p);
        }
        self.hw.leave();
    }

    /// The first wakeup, on the CPU that forked the task.
    pub(crate) fn start(&mut self, p: Tid) {
        let Some(task) = self.hw.task(p) else { return };
        let (cpu, group) = (task.last_cpu, task.group);
        self.hw.groups[group].wakeups += 1;
        self.hw.enter(cpu);
        self.hw.wakeup_cost();
        let cause = WakeCause::Fork;
        self.hw.record(What::Wakeup { task: p, cause });
        let (core, mut env) = self.env();
        core.wake_up_new(&mut env, p);
        self.hw.leave();
    }

    /// Accounts for the time up to the end, and unregisters a scheduler that is still there.
    fn shut_down(&mut self) -> Result<(), SimError> {
        if self.core.exit_info().is_none() {
            if self.alive > 0 {
                self.hw.checkers.begin(self.end);
                self.hw.now = self.end;
            }
            self.settle_cpus();
            self.core.unregister();
            self.after_event()
        } else {
            self.settle_cpus();
            Ok(())
        }
    }

    fn settle_cpus(&mut self) {
        for cpu in self.config.topology.cpus() {
            self.hw.enter(cpu);
            self.hw.leave();
        }
    }

    fn outcome(&mut self) -> Outcome {
        let exit = self.core.exit_info().cloned();
        let exit = exit.expect("a scheduler has left, or was unregistered");
        let calls = Op::ALL
            .iter()
            .copied()
            .zip(self.hw.callbacks.iter().copied());
        Outcome {
            exit,
            digest: self.hw.recorder.digest(),
            ended_at: self.hw.now,
            events: self.events,
            records: *self.hw.recorder.counts(),
            groups: self.hw.groups.clone(),
            cpus: self.hw.cpus.iter().map(|cpu| cpu.metrics).collect(),
            callbacks: calls.filter(|&(_, count)| count > 0).collect(),
            event_stats: self.core.event_stats(),
        }
    }
}
