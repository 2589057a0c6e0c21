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

use harena_abi::{Cpu, Errno, Nanos, SimTime, Tid};
use harena_scx::{
    Alarm, Core, CoreConfig, CpuSet, EnableError, Env, Image, Leave, Op, SchedOps, TaskSpec,
    TaskView,
};
use harena_trace::{Mark, Recorder, Sink, WakeCause, What};

use crate::check::{Checkers, Violation};
use crate::config::{Progress, SimConfig};
use crate::hardware::Hardware;
use crate::metrics::{GroupMetrics, Outcome};
use crate::queue::Pending;
use crate::random::Stream;
use crate::task::{Cursor, Next, Task, Work, timer_next};
use crate::workload::{Phase, Policy, Properties, Step, TaskDef, TimerId, TimerMode};

/// Events between two progress reports.
const REPORT_EVERY: u64 = 1 << 16;

/// Events that may happen without time passing.
const MAX_EVENTS_AT_ONCE: u64 = 50_000_000;

/// Steps that a task may take without time passing.
const MAX_STEPS_AT_ONCE: u32 = 1_000_000;

/// Settings that do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A task is pinned to a CPU that does not exist.
    #[error("task `{task}` names CPU {cpu}, the machine has {nr_cpus} (0 to {})", nr_cpus - 1)]
    NoSuchCpu {
        /// The task.
        task: String,
        /// The CPU it names.
        cpu: Cpu,
        /// CPUs of the machine.
        nr_cpus: u32,
    },
    /// A run without time.
    #[error("the duration is zero")]
    NoDuration,
    /// No tick, or more than one per nanosecond.
    #[error("{hz} ticks per second are not in 1 to 1000000")]
    Hz {
        /// What was asked for.
        hz: u32,
    },
    /// A CPU that executes nothing.
    #[error("a CPU needs to execute at least 1 instruction per microsecond")]
    NoInsns,
}

/// Why a run has no outcome.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SimError {
    /// The scheduler was refused before anything ran.
    #[error("failed to attach the scheduler")]
    Enable(#[from] EnableError),
    /// The core or the machine broke a rule.
    #[error("internal error")]
    Check(#[from] Violation),
    /// Events follow each other without time passing.
    #[error("time stands still at {} ns: {events} events, the last `{last}` (seed {seed})", now.as_ns())]
    Stuck {
        /// When.
        now: SimTime,
        /// How many.
        events: u64,
        /// The last of them.
        last: String,
        /// The run's seed.
        seed: u64,
    },
    /// A task's program loops without using time.
    #[error("task `{task}` takes {steps} steps of its program without using any time")]
    EndlessProgram {
        /// The task's name in the workload.
        task: String,
        /// How many it took.
        steps: u32,
    },
    /// `run` was called twice.
    #[error("this simulation has run already")]
    Finished,
}

/// A machine, its workload and a scheduler, ready to run once.
#[derive(Debug)]
pub struct Simulation<S> {
    core: Core,
    ops: S,
    hw: Hardware,
    config: SimConfig,
    end: SimTime,
    all_cpus: CpuSet,
    group_of_def: Vec<usize>,
    shared_timers: Vec<Option<SimTime>>,
    /// Instances that exist or are still to be forked.
    alive: u64,
    events: u64,
    events_at_once: u64,
    finished: bool,
}

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
        let core_config = CoreConfig { hz: config.hz };
        Ok(Self {
            core: Core::new(config.topology.clone(), core_config, image),
            ops,
            hw,
            end: SimTime::ZERO.after(config.duration),
            all_cpus: CpuSet::first_n(nr_cpus),
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

    fn env(&mut self) -> (&mut Core, Env<'_>) {
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
            let (time, pending) = self.hw.queue.pop()?;
            let ready = self.hw.ready_at(pending);
            if ready <= time {
                return Some((time, pending));
            }
            self.hw.queue.push(ready, pending);
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
                if self.hw.take_resched(cpu, generation) {
                    self.schedule(cpu, Leave::Runnable);
                }
                self.hw.leave();
            }
            Pending::Tick { cpu } => {
                self.hw.enter(cpu);
                if self.hw.tick(cpu) {
                    let (core, mut env) = self.env();
                    core.tick(&mut env, cpu);
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
            Pending::OpsTimer { key, generation } => {
                if let Some(cpu) = self.hw.take_timer(key, generation) {
                    self.hw.enter(cpu);
                    self.hw.interrupt();
                    let (core, mut env) = self.env();
                    core.timer(&mut env, key);
                    self.hw.leave();
                }
            }
        }
        Ok(())
    }

    /// IRQ work, exits and checks at the end of an event.
    fn after_event(&mut self) -> Result<(), SimError> {
        loop {
            while let Some(cpu) = self.hw.take_irq_work() {
                self.hw.enter(cpu);
                let (core, mut env) = self.env();
                core.irq_work(&mut env, cpu);
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

    fn schedule(&mut self, cpu: Cpu, leave: Leave) {
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
        if !core.wakeup(&mut env, p, false) {
            self.hw.checkers.wakeup_refused(p);
        }
        self.hw.leave();
    }

    /// The first wakeup, on the CPU that forked the task.
    fn start(&mut self, p: Tid) {
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

    /// The current task of `cpu` has finished its step: on to the next one that takes time.
    fn step_done(&mut self, cpu: Cpu) -> Result<(), SimError> {
        self.hw.enter(cpu);
        let result = self.take_steps(cpu);
        self.hw.leave();
        result
    }

    fn take_steps(&mut self, cpu: Cpu) -> Result<(), SimError> {
        let Some(p) = self.hw.cpu(cpu).curr else {
            return Ok(());
        };
        self.hw.work_changed();
        for _ in 0..MAX_STEPS_AT_ONCE {
            let Some(task) = self.hw.tasks.get_mut(p.index()).and_then(Option::as_mut) else {
                return Ok(());
            };
            let def = &self.config.workload.tasks[task.def];
            match task.cursor.next(def) {
                Next::Enter(number, phase) => {
                    let (mark, value) = (Mark::Phase, number as u64);
                    let what = What::Mark {
                        task: p,
                        mark,
                        value,
                    };
                    self.hw.record(what);
                    let Some(view) = self.core.task(p) else {
                        return Ok(());
                    };
                    let change = Change::between(&view, phase, def, &self.all_cpus);
                    if self.apply(p, cpu, change) {
                        return Ok(());
                    }
                }
                Next::Again => {
                    let (mark, value) = (Mark::Loop, 0);
                    self.hw.record(What::Mark {
                        task: p,
                        mark,
                        value,
                    });
                }
                Next::Step(step) => match self.begin_step(p, step) {
                    Begun::Over => {}
                    Begun::Working => return Ok(()),
                    Begun::Sleeping { until } => {
                        if let Some(task) = self.hw.task(p) {
                            task.woken_at = Some(until);
                        }
                        self.hw.queue.push(until, Pending::Wake { task: p });
                        self.schedule(cpu, Leave::Sleeping);
                        return Ok(());
                    }
                },
                Next::Exit => {
                    self.exit(p, cpu);
                    return Ok(());
                }
            }
        }
        let def = self.hw.task(p).map_or(0, |task| task.def);
        Err(SimError::EndlessProgram {
            task: self.config.workload.tasks[def].name.clone(),
            steps: MAX_STEPS_AT_ONCE,
        })
    }

    fn begin_step(&mut self, p: Tid, step: Step) -> Begun {
        let now = self.hw.now;
        let work = match step {
            Step::Run(ns) => Work::cycles(ns),
            Step::Runtime(ns) => Work::until(now, ns),
            Step::Sleep(ns) => {
                return Begun::Sleeping {
                    until: now.after(ns),
                };
            }
            Step::Timer {
                timer,
                period,
                mode,
            } => {
                let until = self.timer_wait(p, timer, period, mode);
                return until.map_or(Begun::Over, |until| Begun::Sleeping { until });
            }
        };
        let is_empty = matches!(step, Step::Run(Nanos::ZERO) | Step::Runtime(Nanos::ZERO));
        match self.hw.task(p) {
            Some(task) if !is_empty => {
                task.work = work;
                Begun::Working
            }
            _ => Begun::Over,
        }
    }

    /// Until when a task sleeps for its timer; `None` if that has passed.
    fn timer_wait(
        &mut self,
        p: Tid,
        timer: TimerId,
        period: Nanos,
        mode: TimerMode,
    ) -> Option<SimTime> {
        let now = self.hw.now;
        let index = timer.0 as usize;
        let shared = self.config.workload.timers[index].shared;
        let task = self.hw.task(p)?;
        let last = if shared {
            self.shared_timers[index].get_or_insert(task.began_at)
        } else {
            match task.timers.iter().position(|&(id, _)| id == timer) {
                Some(at) => &mut task.timers[at].1,
                None => {
                    task.timers.push((timer, task.began_at));
                    &mut task.timers.last_mut()?.1
                }
            }
        };
        let (next, sleeps) = timer_next(*last, now, period, mode);
        *last = next;
        sleeps.then_some(next)
    }

    /// Applies properties to the running task; true if it has to leave its CPU for that,
    /// and goes on with its program when it runs again.
    fn apply(&mut self, p: Tid, cpu: Cpu, change: Change) -> bool {
        // The core refuses none of these: policies, nice values and CPUs were checked.
        if let Some(policy) = change.policy {
            let (core, mut env) = self.env();
            refused_by_none(core.set_policy(&mut env, p, policy));
        }
        if let Some(nice) = change.nice {
            let (core, mut env) = self.env();
            refused_by_none(core.set_nice(&mut env, p, nice));
        }
        let Some(cpus) = change.cpus else {
            return false;
        };
        self.hw.checkers.affinity(p, &cpus);
        let (core, mut env) = self.env();
        refused_by_none(core.set_affinity(&mut env, p, &cpus));
        self.hw.need_resched(cpu) || self.core.curr(cpu) != Some(p)
    }

    fn exit(&mut self, p: Tid, cpu: Cpu) {
        self.hw.record(What::TaskExit { task: p });
        self.core.set_exiting(p);
        self.schedule(cpu, Leave::Exiting);
        if let Some(task) = self.hw.tasks[p.index()].take() {
            self.hw.groups[task.group].exited += 1;
        }
        self.alive -= 1;
    }

    fn boot(&mut self) -> Result<(), SimError> {
        let mut start = Stream::new(self.config.seed, "start");
        let jitter = self.config.start_jitter.as_ns();
        for def in 0..self.config.workload.tasks.len() {
            let TaskDef {
                instances, delay, ..
            } = self.config.workload.tasks[def];
            for instance in 0..instances {
                let at = SimTime::ZERO
                    .after(delay)
                    .after(Nanos::new(start.up_to(jitter)));
                if delay == Nanos::ZERO {
                    if let Some(p) = self.fork(def, instance, at) {
                        self.hw.queue.push(at, Pending::Start { task: p });
                    }
                } else {
                    let def = u32::try_from(def).expect("instances bound definitions");
                    self.hw.queue.push(at, Pending::Fork { def, instance });
                }
            }
        }
        self.hw.enter(Cpu::new(0));
        let (core, mut env) = self.env();
        core.enable(&mut env)?;
        self.hw.leave();
        self.after_event()
    }

    fn fork_now(&mut self, def: usize, instance: u32) {
        if let Some(p) = self.fork(def, instance, self.hw.now) {
            self.start(p);
        }
    }

    /// Creates an instance, to be woken at `start`, on the CPUs that it may use in turn.
    fn fork(&mut self, def: usize, instance: u32, start: SimTime) -> Option<Tid> {
        let group = self.group_of_def[def];
        let def_ref = &self.config.workload.tasks[def];
        let properties = &def_ref.properties;
        let allowed = properties.cpus.as_ref().unwrap_or(&self.all_cpus).clone();
        let cpu = nth(&allowed, instance);
        let comm = comm_of(&def_ref.name, instance);
        let spec = TaskSpec {
            comm: comm.clone(),
            tgid: None,
            parent: None,
            flags: 0,
            policy: properties.policy.unwrap_or_default().raw(),
            nice: properties.nice.unwrap_or(0),
            allowed: allowed.clone(),
            cpu,
            cgroup: 1,
        };
        self.hw.enter(cpu);
        let (core, mut env) = self.env();
        let forked = core.fork(&mut env, spec);
        self.hw.leave();
        let Ok(p) = forked else {
            self.hw.groups[group].forks_failed += 1;
            self.alive -= 1;
            return None;
        };
        self.hw
            .recorder
            .task(p, &comm, &self.config.workload.tasks[def].name);
        self.hw.record(What::Fork { task: p });
        self.hw.checkers.affinity(p, &allowed);
        self.hw.groups[group].tasks += 1;
        if self.hw.tasks.len() <= p.index() {
            self.hw.tasks.resize(p.index() + 1, None);
        }
        self.hw.tasks[p.index()] = Some(Task {
            def,
            group,
            cursor: Cursor::default(),
            work: Work::None,
            cold: Nanos::ZERO,
            began_at: start,
            woken_at: Some(start),
            last_cpu: cpu,
            timers: Vec::new(),
        });
        Some(p)
    }

    /// Accounts for the time up to the end, and unregisters a scheduler that is still there.
    fn shut_down(&mut self) -> Result<(), SimError> {
        if self.core.exit_info().is_none() {
            if self.alive > 0 {
                self.hw.checkers.begin(self.end);
                self.hw.now = self.end;
            }
            self.settle_cpus();
            self.core.unregister(&mut self.hw);
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

/// What beginning a step led to.
enum Begun {
    /// It is over: it took no time.
    Over,
    /// The task works on it.
    Working,
    /// The task is to sleep.
    Sleeping { until: SimTime },
}

/// What a phase changes of its task.
struct Change {
    policy: Option<u32>,
    nice: Option<i32>,
    cpus: Option<CpuSet>,
}

impl Change {
    fn between(now: &TaskView<'_>, phase: &Phase, task: &TaskDef, all: &CpuSet) -> Self {
        let Properties { policy, nice, cpus } = &phase.properties;
        let cpus = cpus.as_ref().or(task.properties.cpus.as_ref());
        let cpus = cpus.unwrap_or(all);
        Self {
            policy: policy.map(Policy::raw).filter(|&p| p != now.policy),
            nice: nice.filter(|&nice| nice != now.nice),
            cpus: (now.allowed != cpus).then(|| cpus.clone()),
        }
    }
}

fn refused_by_none(result: Result<(), Errno>) {
    if let Err(errno) = result {
        unreachable!("checked properties are valid, yet {errno:?}");
    }
}

fn check_config(config: &SimConfig) -> Result<(), ConfigError> {
    if config.duration == Nanos::ZERO {
        return Err(ConfigError::NoDuration);
    }
    if !(1..=1_000_000).contains(&config.hz) {
        return Err(ConfigError::Hz { hz: config.hz });
    }
    if config.costs.insns_per_us == 0 {
        return Err(ConfigError::NoInsns);
    }
    let nr_cpus = config.topology.nr_cpus();
    for def in &config.workload.tasks {
        let phases = def.phases.iter().map(|phase| &phase.properties);
        let sets = std::iter::once(&def.properties)
            .chain(phases)
            .filter_map(|p| p.cpus.as_ref());
        if let Some(cpu) = sets.flat_map(CpuSet::iter).find(|c| c.raw() >= nr_cpus) {
            return Err(ConfigError::NoSuchCpu {
                task: def.name.clone(),
                cpu,
                nr_cpus,
            });
        }
    }
    Ok(())
}

/// The `n`-th member of a set, counted around.
fn nth(set: &CpuSet, n: u32) -> Cpu {
    set.iter()
        .nth((n % set.len()) as usize)
        .expect("an affinity is never empty")
}

/// `name-instance`, with the name cut so that the kernel's 15 bytes hold the number.
fn comm_of(name: &str, instance: u32) -> String {
    let number = format!("-{instance}");
    let mut room = 15 - number.len();
    room = room.min(name.len());
    while !name.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{number}", &name[..room])
}
