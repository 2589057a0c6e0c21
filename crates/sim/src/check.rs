//! Checkers: they watch the core from outside and end a run that breaks a rule.
//!
//! | checker | rule |
//! |---|---|
//! | `time` | time never goes back |
//! | `one_cpu` | a task is current on at most one CPU, and leaves only where it is |
//! | `affinity` | a task never runs outside its affinity |
//! | `dsq` | a task is on at most one DSQ, leaves the one it is on, and lengths add up |
//! | `lost` | a runnable task is running, on a DSQ, or with the scheduler |
//! | `order` | callbacks of a task come in a legal order |
//!
//! They keep a model of their own, fed by the core's [`Event`]s, and compare it with what
//! the core says of the tasks that an event touched ([`CheckTier::Cheap`]) or of all tasks
//! and DSQs ([`CheckTier::Full`]). A broken rule is an error of the core or the machine,
//! never of a scheduler, whatever that does.

use std::collections::{BTreeMap, BTreeSet};

use harena_abi::{Cpu, DsqId, SimTime, Tid};
use harena_scx::{Class, Core, CpuSet, Event, Op, TaskView};

use crate::config::CheckTier;

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "checker `{checker}` at {} ns (seed {seed}){}: {message}",
    time.as_ns(),
    task.map_or_else(String::new, |t| format!(", task {t}"))
)]
pub struct Violation {
    /// Which checker.
    pub checker: &'static str,
    /// The task it is about.
    pub task: Option<Tid>,
    /// When.
    pub time: SimTime,
    /// The run's seed.
    pub seed: u64,
    /// What was expected and found.
    pub message: String,
}

/// What the checkers know of a task.
#[derive(Clone, Default, Debug)]
struct Model {
    on_cpu: Option<Cpu>,
    dsq: Option<DsqId>,
    /// `ops.enqueue` got it since it last was anywhere else.
    with_scheduler: bool,
    /// Index of its affinity in `Checkers::affinities`.
    affinity: usize,
    touched: bool,
    // By callbacks:
    initialized: bool,
    enabled: bool,
    runnable: bool,
    running: bool,
}

/// Which pairs of callbacks a scheduler has, so that both ends of a state are seen.
#[derive(Clone, Copy, Debug)]
struct Knows {
    init: bool,
    enable: bool,
    runnable: bool,
    running: bool,
}

/// All checkers of one run.
#[derive(Debug)]
pub(crate) struct Checkers {
    tier: CheckTier,
    seed: u64,
    knows: Knows,
    now: SimTime,
    tasks: Vec<Model>,
    current: Vec<Option<Tid>>,
    affinities: Vec<CpuSet>,
    touched: Vec<Tid>,
    violation: Option<Violation>,
}

impl Checkers {
    pub(crate) fn new(tier: CheckTier, seed: u64, nr_cpus: u32, has: &BTreeSet<Op>) -> Self {
        let both = |a, b| has.contains(&a) && has.contains(&b);
        Self {
            tier,
            seed,
            knows: Knows {
                init: has.contains(&Op::InitTask),
                enable: both(Op::Enable, Op::Disable),
                runnable: both(Op::Runnable, Op::Quiescent),
                running: both(Op::Running, Op::Stopping),
            },
            now: SimTime::ZERO,
            tasks: Vec::new(),
            current: vec![None; nr_cpus as usize],
            affinities: Vec::new(),
            touched: Vec::new(),
            violation: None,
        }
    }

    /// The first broken rule, if any.
    pub(crate) fn violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    fn fail(&mut self, checker: &'static str, task: impl Into<Option<Tid>>, message: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation {
                checker,
                task: task.into(),
                time: self.now,
                seed: self.seed,
                message,
            });
        }
    }

    fn model(&mut self, p: Tid) -> &mut Model {
        if self.tasks.len() <= p.index() {
            self.tasks.resize(p.index() + 1, Model::default());
        }
        &mut self.tasks[p.index()]
    }

    fn touch(&mut self, p: Tid) {
        let model = self.model(p);
        if !model.touched {
            model.touched = true;
            self.touched.push(p);
        }
    }

    /// An event begins.
    pub(crate) fn begin(&mut self, now: SimTime) {
        if now < self.now {
            let before = self.now.as_ns();
            let message = format!("time went back from {before} ns to {} ns", now.as_ns());
            self.fail("time", None, message);
        }
        self.now = now;
    }

    /// The affinity of a task is this from now on.
    pub(crate) fn affinity(&mut self, p: Tid, allowed: &CpuSet) {
        let known = self.affinities.iter().position(|set| set == allowed);
        let index = known.unwrap_or_else(|| {
            self.affinities.push(allowed.clone());
            self.affinities.len() - 1
        });
        self.model(p).affinity = index;
    }

    /// The core refused to wake a task whose sleep is over.
    pub(crate) fn wakeup_refused(&mut self, p: Tid) {
        self.fail("lost", p, "sleeps no more, but not woken".to_owned());
    }

    /// The core did something.
    pub(crate) fn event(&mut self, event: &Event) {
        match *event {
            Event::Callback { op, task } => {
                if let Some(p) = task {
                    self.callback(op, p);
                }
            }
            Event::Runnable { task, .. } | Event::Migrated { task, .. } => self.touch(task),
            Event::Quiescent { task, .. } => {
                self.touch(task);
                self.model(task).with_scheduler = false;
            }
            Event::Inserted { task, dsq } => self.inserted(task, dsq),
            Event::Removed { task, dsq } => self.removed(task, dsq),
            Event::Switched { cpu, prev, next } => self.switched(cpu, prev, next),
            Event::Exit(_) => {}
        }
    }

    fn inserted(&mut self, p: Tid, dsq: DsqId) {
        self.touch(p);
        let model = self.model(p);
        model.with_scheduler = false;
        if let Some(on) = model.dsq.replace(dsq) {
            self.fail("dsq", p, format!("inserted into {dsq} while on {on}"));
        }
    }

    fn removed(&mut self, p: Tid, dsq: DsqId) {
        self.touch(p);
        match self.model(p).dsq.take() {
            Some(on) if on == dsq => {}
            on => self.fail("dsq", p, format!("removed from {dsq} while on {on:?}")),
        }
    }

    fn switched(&mut self, cpu: Cpu, prev: Option<Tid>, next: Option<Tid>) {
        let before = match self.current.get_mut(cpu.index()) {
            Some(current) => std::mem::replace(current, next),
            None => return self.fail("one_cpu", next, format!("there is no CPU {cpu}")),
        };
        if before != prev {
            let message = format!("CPU {cpu} switched from {prev:?}, but ran {before:?}");
            self.fail("one_cpu", prev, message);
        }
        if let Some(p) = prev {
            self.touch(p);
            self.model(p).on_cpu = None;
        }
        let Some(p) = next else { return };
        self.touch(p);
        let model = self.model(p);
        model.with_scheduler = false;
        let affinity = model.affinity;
        if let Some(on) = model.on_cpu.replace(cpu) {
            self.fail("one_cpu", p, format!("runs on CPU {cpu} and on CPU {on}"));
        }
        if let Some(allowed) = self.affinities.get(affinity)
            && !allowed.contains(cpu)
        {
            let message = format!("runs on CPU {cpu}, allowed are {allowed:?}");
            self.fail("affinity", p, message);
        }
    }

    fn callback(&mut self, op: Op, p: Tid) {
        self.touch(p);
        let knows = self.knows;
        let m = self.model(p);
        let queued_right = !knows.runnable || m.runnable;
        let legal = match op {
            Op::InitTask => !std::mem::replace(&mut m.initialized, true),
            Op::ExitTask => {
                let was = std::mem::replace(&mut m.initialized, false);
                !m.enabled && (was || !knows.init)
            }
            Op::Enable => {
                !std::mem::replace(&mut m.enabled, knows.enable) && (m.initialized || !knows.init)
            }
            Op::Disable => std::mem::replace(&mut m.enabled, false) || !knows.enable,
            Op::Runnable => !std::mem::replace(&mut m.runnable, knows.runnable),
            Op::Quiescent => {
                let was = std::mem::replace(&mut m.runnable, false);
                !m.running && (was || !knows.runnable)
            }
            Op::Running => !std::mem::replace(&mut m.running, knows.running) && queued_right,
            Op::Stopping => std::mem::replace(&mut m.running, false) || !knows.running,
            Op::Enqueue => {
                m.with_scheduler = true;
                !m.running && queued_right
            }
            Op::Tick | Op::Yield => m.running || !knows.running,
            Op::SelectCpu => !m.running && !m.runnable,
            Op::Dequeue
            | Op::Dispatch
            | Op::CoreSchedBefore
            | Op::SetWeight
            | Op::SetCpumask
            | Op::UpdateIdle
            | Op::Dump
            | Op::DumpCpu
            | Op::DumpTask
            | Op::InitCids
            | Op::Init
            | Op::Exit
            | Op::CpuAcquire
            | Op::CpuRelease => true,
        };
        if !legal {
            let state = format!("{:?}", self.model(p));
            self.fail("order", p, format!("{op:?} is illegal in state {state}"));
        }
    }

    /// The event is over, its IRQ work included: every task is somewhere.
    pub(crate) fn end(&mut self, core: &Core) {
        let mut touched = std::mem::take(&mut self.touched);
        for p in touched.drain(..) {
            self.model(p).touched = false;
            self.compare(p, core.task(p));
        }
        self.touched = touched;
        if self.tier == CheckTier::Full {
            self.compare_all(core);
        }
    }

    fn compare_all(&mut self, core: &Core) {
        core.assert_consistent();
        for p in core.tasks() {
            self.compare(p, core.task(p));
        }
        let mut lengths: BTreeMap<DsqId, u32> = BTreeMap::new();
        for (dsq, length) in core.dsqs() {
            *lengths.entry(dsq).or_default() += length;
        }
        let mut members: BTreeMap<DsqId, u32> = BTreeMap::new();
        for dsq in self.tasks.iter().filter_map(|model| model.dsq) {
            *members.entry(dsq).or_default() += 1;
        }
        let all: BTreeSet<DsqId> = lengths.keys().chain(members.keys()).copied().collect();
        for dsq in all {
            let of = |map: &BTreeMap<DsqId, u32>| map.get(&dsq).copied().unwrap_or(0);
            let (says, counted) = (of(&lengths), of(&members));
            if says != counted {
                let message = format!("{dsq} holds {counted} tasks, the core says {says}");
                self.fail("dsq", None, message);
            }
        }
    }

    fn compare(&mut self, p: Tid, view: Option<TaskView<'_>>) {
        let model = self.model(p).clone();
        let Some(view) = view else {
            if model.on_cpu.is_some() || model.dsq.is_some() {
                let message = format!(
                    "is gone, but on CPU {:?}, DSQ {:?}",
                    model.on_cpu, model.dsq
                );
                self.fail("lost", p, message);
            }
            return;
        };
        if view.running != model.on_cpu.is_some() {
            let message = format!(
                "running is {}, but it is on {:?}",
                view.running, model.on_cpu
            );
            self.fail("one_cpu", p, message);
        }
        if view.dsq != model.dsq {
            let message = format!("is on {:?}, the core says {:?}", model.dsq, view.dsq);
            self.fail("dsq", p, message);
        }
        if model.on_cpu.is_some() && model.dsq.is_some() {
            let message = format!("runs while it is on {:?}", model.dsq);
            self.fail("dsq", p, message);
        }
        if view.runnable != view_somewhere(&view, &model) && view.class == Class::Ext {
            let message = format!(
                "runnable is {}, running {}, DSQ {:?}, with the scheduler {}",
                view.runnable, view.running, view.dsq, model.with_scheduler
            );
            self.fail("lost", p, message);
        }
    }
}

/// Whether a task of the ext class is at a place where a runnable task can be.
fn view_somewhere(view: &TaskView<'_>, model: &Model) -> bool {
    view.running || view.dsq.is_some() || model.with_scheduler
}

#[cfg(test)]
mod tests {
    //! One canary per checker: a history that it must not let pass.

    use super::*;

    const P: Tid = Tid::new(1);
    const CPU0: Cpu = Cpu::new(0);
    const CPU1: Cpu = Cpu::new(1);
    const DSQ: DsqId = DsqId::new(7);

    fn checkers() -> Checkers {
        let has: BTreeSet<_> = Op::ALL.iter().copied().collect();
        let mut checkers = Checkers::new(CheckTier::Full, 42, 2, &has);
        checkers.affinity(P, &CpuSet::first_n(1));
        checkers
    }

    fn view(allowed: &CpuSet) -> TaskView<'_> {
        TaskView {
            comm: "p",
            tgid: P,
            cpu: CPU0,
            class: Class::Ext,
            state: harena_scx::TaskState::Enabled,
            scx_flags: 0,
            runnable: true,
            running: false,
            dsq: None,
            allowed,
            weight: 100,
            policy: 0,
            nice: 0,
            flags: 0,
            sum_exec_runtime: harena_abi::Nanos::ZERO,
            cgroup: 1,
        }
    }

    fn caught(mut checkers: Checkers) -> Option<&'static str> {
        checkers.violation().map(|v| v.checker)
    }

    fn after(events: &[Event]) -> Option<&'static str> {
        let mut checkers = checkers();
        for event in events {
            checkers.event(event);
        }
        caught(checkers)
    }

    const fn switch(cpu: Cpu, prev: Option<Tid>, next: Option<Tid>) -> Event {
        Event::Switched { cpu, prev, next }
    }

    const fn callback(op: Op) -> Event {
        Event::Callback { op, task: Some(P) }
    }

    #[test]
    fn time_going_back_is_caught() {
        let mut checkers = checkers();
        checkers.begin(SimTime::from_ns(5));
        checkers.begin(SimTime::from_ns(5));
        assert_eq!(checkers.violation(), None);
        checkers.begin(SimTime::from_ns(4));
        let violation = checkers.violation().unwrap();
        assert_eq!(violation.checker, "time");
        assert_eq!(
            violation.to_string(),
            "checker `time` at 5 ns (seed 42): time went back from 5 ns to 4 ns"
        );
    }

    #[test]
    fn a_task_on_two_cpus_is_caught() {
        let fine = switch(CPU0, None, Some(P));
        assert_eq!(after(std::slice::from_ref(&fine)), None);
        let elsewhere = switch(CPU1, None, Some(P));
        assert_eq!(after(&[fine, elsewhere]), Some("one_cpu"));
        assert_eq!(after(&[switch(CPU0, Some(P), None)]), Some("one_cpu"));
        assert_eq!(after(&[switch(Cpu::new(9), None, None)]), Some("one_cpu"));
    }

    #[test]
    fn running_outside_the_affinity_is_caught() {
        assert_eq!(after(&[switch(CPU1, None, Some(P))]), Some("affinity"));
    }

    #[test]
    fn a_dsq_that_does_not_add_up_is_caught() {
        let insert = Event::Inserted { task: P, dsq: DSQ };
        let remove = Event::Removed { task: P, dsq: DSQ };
        assert_eq!(after(&[insert.clone(), remove.clone()]), None);
        assert_eq!(after(&[insert.clone(), insert.clone()]), Some("dsq"));
        assert_eq!(after(&[remove]), Some("dsq"));
        let other = Event::Removed {
            task: P,
            dsq: DsqId::new(8),
        };
        assert_eq!(after(&[insert.clone(), other]), Some("dsq"));
        // Lengths that the core does not confirm: it has no DSQ at all here.
        let topology = crate::topology::default_topology();
        let image = Box::new(harena_scx::PlainImage::default());
        let core = Core::new(topology, harena_scx::CoreConfig::default(), image);
        let mut checkers = checkers();
        checkers.event(&insert);
        checkers.compare_all(&core);
        assert_eq!(caught(checkers), Some("dsq"));
    }

    #[test]
    fn a_lost_task_is_caught() {
        let allowed = CpuSet::first_n(1);
        let lost = || {
            let mut checkers = checkers();
            checkers.compare(P, Some(view(&allowed)));
            checkers
        };
        assert_eq!(caught(lost()), Some("lost"));
        let mut with_scheduler = checkers();
        for op in [Op::InitTask, Op::Enable, Op::Runnable, Op::Enqueue] {
            with_scheduler.event(&callback(op));
        }
        with_scheduler.compare(P, Some(view(&allowed)));
        assert_eq!(caught(with_scheduler), None);
        let mut asleep_in_dsq = checkers();
        asleep_in_dsq.event(&Event::Inserted { task: P, dsq: DSQ });
        let dsq = Some(DSQ);
        let asleep = TaskView {
            runnable: false,
            dsq,
            ..view(&allowed)
        };
        asleep_in_dsq.compare(P, Some(asleep));
        assert_eq!(caught(asleep_in_dsq), Some("lost"));
    }

    #[test]
    fn illegal_orders_of_callbacks_are_caught() {
        let ops = |ops: &[Op]| after(&ops.iter().copied().map(callback).collect::<Vec<_>>());
        let up = [Op::InitTask, Op::Enable, Op::Runnable];
        let life = [
            Op::Enqueue,
            Op::Running,
            Op::Tick,
            Op::Stopping,
            Op::Quiescent,
            Op::Disable,
            Op::ExitTask,
        ];
        assert_eq!(ops(&[&up[..], &life[..]].concat()), None);
        for bad in [
            &[Op::Enable][..],
            &[Op::ExitTask],
            &[Op::InitTask, Op::InitTask],
            &[Op::InitTask, Op::Enable, Op::Enable],
            &[Op::InitTask, Op::Enable, Op::ExitTask],
            &[Op::InitTask, Op::Disable],
            &[Op::InitTask, Op::Enable, Op::Enqueue],
            &[Op::InitTask, Op::Enable, Op::Running],
            &[Op::InitTask, Op::Enable, Op::Quiescent],
            &[Op::InitTask, Op::Enable, Op::Runnable, Op::Runnable],
            &[Op::InitTask, Op::Enable, Op::Runnable, Op::SelectCpu],
            &[Op::InitTask, Op::Enable, Op::Runnable, Op::Stopping],
            &[Op::InitTask, Op::Enable, Op::Runnable, Op::Tick],
            &[
                Op::InitTask,
                Op::Enable,
                Op::Runnable,
                Op::Running,
                Op::Enqueue,
            ],
            &[
                Op::InitTask,
                Op::Enable,
                Op::Runnable,
                Op::Running,
                Op::Quiescent,
            ],
        ] {
            assert_eq!(ops(bad), Some("order"), "{bad:?}");
        }
    }
}
