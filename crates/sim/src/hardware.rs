//! The simulated hardware: clock, CPUs, interrupts, costs. It answers the core's
//! [`Machine`] requests with later events and knows nothing of scheduling.
//!
//! Code runs on one CPU at a time, between [`Hardware::enter`] and [`Hardware::leave`]:
//!
//! ```text
//!  enter(cpu)    its current task has run until now
//!    …           the core's code; what it costs is collected
//!  leave()       the CPU is busy for that long; its task goes on after that
//! ```
//!
//! Time stands still in between ([`Machine::now`]); requests that code makes are sent
//! after the costs charged so far.

use std::collections::{BTreeMap, VecDeque};

use harena_abi::{Cpu, Nanos, SimTime, Tid};
use harena_scx::{Alarm, Cost, CpuTopology, Event, Machine, Op, Topology};
use harena_trace::{Record, Recorder, What};

use crate::check::Checkers;
use crate::config::Costs;
use crate::metrics::{CpuMetrics, GroupMetrics};
use crate::queue::{Pending, Queue, Slot};
use crate::random::Stream;
use crate::task::Task;

/// One CPU.
#[derive(Clone, Default, Debug)]
pub(crate) struct CpuState {
    /// Whose instructions run; `None` is the idle task.
    pub(crate) curr: Option<Tid>,
    /// From when on `curr` makes progress.
    progress_from: SimTime,
    /// Until when the kernel keeps this CPU busy; events wait for that.
    pub(crate) busy_until: SimTime,
    /// Of the valid `StepDone` event.
    pub(crate) step_generation: u32,
    /// Whether a `Resched` event is under way, and by IPI.
    need_resched: bool,
    by_ipi: bool,
    /// Of the valid `Resched` event.
    pub(crate) resched_generation: u32,
    /// Whether a `Tick` event is under way.
    tick_armed: bool,
    irq_work: bool,
    pub(crate) metrics: CpuMetrics,
}

/// How a reschedule request arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resched {
    /// Too late: the CPU has rescheduled since.
    Answered,
    /// The CPU asked itself.
    Local,
    /// By an interrupt from another one.
    Ipi,
}

/// The hardware of one simulation.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) now: SimTime,
    pub(crate) queue: Queue,
    pub(crate) cpus: Vec<CpuState>,
    pub(crate) tasks: Vec<Option<Task>>,
    pub(crate) groups: Vec<GroupMetrics>,
    pub(crate) callbacks: Vec<u64>,
    pub(crate) recorder: Recorder,
    pub(crate) checkers: Checkers,
    pub(crate) costs: Costs,
    topology: Topology,
    tick_period: Nanos,
    random: Stream,
    this_cpu: Cpu,
    charged: Nanos,
    /// Whether `curr` of `this_cpu`, or its work, is new since `enter`.
    changed: bool,
    irq_work: VecDeque<Cpu>,
    alarm_generation: u32,
    /// Where the armed timers of the scheduler stand in the queue.
    timers: BTreeMap<u64, Slot>,
}

impl Hardware {
    pub(crate) fn new(
        topology: Topology,
        costs: Costs,
        hz: u32,
        seed: u64,
        recorder: Recorder,
        checkers: Checkers,
    ) -> Self {
        assert!(hz > 0, "a machine ticks");
        assert!(costs.insns_per_us > 0, "a CPU executes instructions");
        Self {
            now: SimTime::ZERO,
            queue: Queue::default(),
            cpus: vec![CpuState::default(); topology.nr_cpus() as usize],
            tasks: Vec::new(),
            groups: Vec::new(),
            callbacks: vec![0; Op::ALL.len()],
            recorder,
            checkers,
            costs,
            topology,
            tick_period: Nanos::new(1_000_000_000 / u64::from(hz)),
            random: Stream::new(seed, "machine"),
            this_cpu: Cpu::new(0),
            charged: Nanos::ZERO,
            changed: false,
            irq_work: VecDeque::new(),
            alarm_generation: 0,
            timers: BTreeMap::new(),
        }
    }

    pub(crate) fn cpu(&mut self, cpu: Cpu) -> &mut CpuState {
        &mut self.cpus[cpu.index()]
    }

    pub(crate) fn task(&mut self, p: Tid) -> Option<&mut Task> {
        self.tasks.get_mut(p.index())?.as_mut()
    }

    fn place(&self, cpu: Cpu) -> CpuTopology {
        *self.topology.get(cpu).expect("the machine has this CPU")
    }

    pub(crate) fn record(&mut self, what: What) {
        self.recorder.record(&Record {
            time: self.now,
            cpu: self.this_cpu,
            what,
        });
    }

    /// The time at which code on this CPU is, costs so far included.
    fn local_now(&self) -> SimTime {
        let busy_until = self.cpus[self.this_cpu.index()].busy_until;
        self.now.max(busy_until).after(self.charged)
    }

    /// Code begins to run on `cpu`; its task has run until now.
    pub(crate) fn enter(&mut self, cpu: Cpu) {
        self.this_cpu = cpu;
        self.charged = Nanos::ZERO;
        self.changed = false;
        let now = self.now;
        let capacity = self.place(cpu).capacity;
        let state = &mut self.cpus[cpu.index()];
        let Some(p) = state.curr else { return };
        let Some(ran) = now.since(state.progress_from) else {
            return;
        };
        let from = std::mem::replace(&mut state.progress_from, now);
        state.metrics.task = state.metrics.task.plus(ran);
        if let Some(task) = self.tasks.get_mut(p.index()).and_then(Option::as_mut) {
            task.run(from, now, capacity);
            let group = &mut self.groups[task.group];
            group.runtime = group.runtime.plus(ran);
        }
    }

    /// Code on this CPU is over; the costs take effect.
    pub(crate) fn leave(&mut self) {
        let cpu = self.this_cpu;
        let busy_until = self.local_now();
        let capacity = self.place(cpu).capacity;
        let state = &mut self.cpus[cpu.index()];
        state.metrics.overhead = state.metrics.overhead.plus(self.charged);
        if self.charged > Nanos::ZERO {
            state.busy_until = busy_until;
        }
        let stale = self.changed || self.charged > Nanos::ZERO;
        self.charged = Nanos::ZERO;
        let Some(p) = state.curr.filter(|_| stale) else {
            return;
        };
        let from = state.progress_from.max(busy_until);
        state.progress_from = from;
        state.step_generation = state.step_generation.wrapping_add(1);
        let generation = state.step_generation;
        let Some(task) = self.tasks.get_mut(p.index()).and_then(Option::as_mut) else {
            return;
        };
        if let Some(woken_at) = task.woken_at.take() {
            let latency = from.since(woken_at).unwrap_or_default();
            self.groups[task.group].wakeup_latency.record(latency);
        }
        let done = task.done_at(from, capacity);
        self.queue.push(done, Pending::StepDone { cpu, generation });
    }

    /// The current task's work is new.
    pub(crate) const fn work_changed(&mut self) {
        self.changed = true;
    }

    /// This CPU now runs `next`.
    pub(crate) fn switch_to(&mut self, next: Option<Tid>) {
        self.charged = self.charged.plus(Nanos::new(self.costs.switch_ns));
        self.changed = true;
        let (cpu, now) = (self.this_cpu, self.now);
        let state = &mut self.cpus[cpu.index()];
        state.curr = next;
        state.progress_from = now;
        state.step_generation = state.step_generation.wrapping_add(1);
        state.metrics.switches += 1;
        let Some(p) = next else { return };
        if !state.tick_armed {
            self.arm_tick(cpu);
        }
        let Some(task) = self.tasks.get(p.index()).and_then(Option::as_ref) else {
            return;
        };
        let cold = self.cold(task.last_cpu, cpu);
        let group = task.group;
        self.groups[group].switches += 1;
        if let Some(task) = self.task(p) {
            task.last_cpu = cpu;
            task.cold = task.cold.max(cold);
        }
    }

    /// What moving between two CPUs costs a task.
    fn cold(&self, from: Cpu, to: Cpu) -> Nanos {
        let (a, b) = (self.place(from), self.place(to));
        Nanos::new(if a.core == b.core {
            0
        } else if a.llc == b.llc {
            self.costs.migrate_same_llc_ns
        } else if a.node == b.node {
            self.costs.migrate_cross_llc_ns
        } else {
            self.costs.migrate_cross_node_ns
        })
    }

    /// Arms the tick at the next point of the grid that all CPUs share.
    fn arm_tick(&mut self, cpu: Cpu) {
        let period = self.tick_period.as_ns();
        let next = (self.now.as_ns() / period + 1).saturating_mul(period);
        self.cpus[cpu.index()].tick_armed = true;
        self.queue
            .push(SimTime::from_ns(next), Pending::Tick { cpu });
    }

    /// A tick fires; false if the CPU is idle, and then the tick stops.
    pub(crate) fn tick(&mut self, cpu: Cpu) -> bool {
        if self.cpus[cpu.index()].curr.is_none() {
            self.cpus[cpu.index()].tick_armed = false;
            return false;
        }
        self.arm_tick(cpu);
        self.cpus[cpu.index()].metrics.ticks += 1;
        self.charged = self.charged.plus(Nanos::new(self.costs.tick_ns));
        self.record(What::Tick);
        true
    }

    /// A reschedule request arrives.
    pub(crate) fn take_resched(&mut self, cpu: Cpu, generation: u32) -> Resched {
        let state = &self.cpus[cpu.index()];
        let valid = state.need_resched && state.resched_generation == generation;
        if !valid {
            return Resched::Answered;
        }
        if !state.by_ipi {
            return Resched::Local;
        }
        self.cpus[cpu.index()].metrics.ipis += 1;
        self.interrupt();
        Resched::Ipi
    }

    /// Whether a reschedule request is on its way to `cpu`.
    pub(crate) fn need_resched(&self, cpu: Cpu) -> bool {
        self.cpus[cpu.index()].need_resched
    }

    /// `cpu` reschedules now, whatever was asked before.
    pub(crate) fn clear_resched(&mut self, cpu: Cpu) {
        let state = self.cpu(cpu);
        state.need_resched = false;
        state.resched_generation = state.resched_generation.wrapping_add(1);
    }

    /// The cost of an interrupt on this CPU.
    pub(crate) fn interrupt(&mut self) {
        self.charge(Cost::Time(Nanos::new(self.costs.interrupt_ns)));
    }

    /// The cost of a wakeup on this CPU.
    pub(crate) fn wakeup_cost(&mut self) {
        self.charge(Cost::Time(Nanos::new(self.costs.wakeup_ns)));
    }

    /// The oldest CPU that asked for IRQ work.
    pub(crate) fn take_irq_work(&mut self) -> Option<Cpu> {
        let cpu = self.irq_work.pop_front()?;
        self.cpus[cpu.index()].irq_work = false;
        Some(cpu)
    }

    /// Whether this alarm is the one last armed.
    pub(crate) const fn alarm_is_valid(&self, generation: u32) -> bool {
        self.alarm_generation == generation
    }

    /// A timer of the scheduler has left the queue: it is armed no more.
    pub(crate) fn timer_fired(&mut self, key: u64) {
        self.timers.remove(&key);
    }

    /// Puts an event that its CPU could not take back into the queue.
    pub(crate) fn postpone(&mut self, slot: Slot, pending: Pending) {
        if let Pending::OpsTimer { key, .. } = pending {
            self.timers.insert(key, slot);
        }
        self.queue.put(slot, pending);
    }

    /// The time at which CPU-bound code for this event can run.
    pub(crate) fn ready_at(&self, pending: Pending) -> SimTime {
        let cpu = match pending {
            Pending::StepDone { cpu, .. }
            | Pending::Resched { cpu, .. }
            | Pending::Tick { cpu }
            | Pending::OpsTimer { cpu, .. } => cpu,
            Pending::Wake { task } | Pending::Start { task } => {
                match self.tasks.get(task.index()).and_then(Option::as_ref) {
                    Some(task) => task.last_cpu,
                    None => return self.now,
                }
            }
            Pending::Fork { .. } | Pending::Alarm { .. } => return self.now,
        };
        self.cpus[cpu.index()].busy_until
    }
}

impl Machine for Hardware {
    fn now(&self) -> SimTime {
        self.now
    }

    fn this_cpu(&self) -> Cpu {
        self.this_cpu
    }

    fn resched(&mut self, cpu: Cpu) {
        let mut at = self.local_now();
        let by_ipi = cpu != self.this_cpu;
        let state = &mut self.cpus[cpu.index()];
        if state.need_resched {
            return;
        }
        state.need_resched = true;
        state.by_ipi = by_ipi;
        let generation = state.resched_generation;
        if by_ipi {
            at = at.after(Nanos::new(self.costs.ipi_ns));
            self.record(What::Ipi { to: cpu });
        }
        self.queue.push(at, Pending::Resched { cpu, generation });
    }

    fn irq_work(&mut self, cpu: Cpu) {
        let state = &mut self.cpus[cpu.index()];
        if !std::mem::replace(&mut state.irq_work, true) {
            self.irq_work.push_back(cpu);
        }
    }

    fn arm(&mut self, which: Alarm, at: SimTime) {
        match which {
            Alarm::Watchdog => {
                self.alarm_generation = self.alarm_generation.wrapping_add(1);
                let generation = self.alarm_generation;
                let at = at.max(self.now);
                self.queue.push(at, Pending::Alarm { generation });
            }
        }
    }

    fn timer_arm(&mut self, key: u64, cpu: Cpu, at: SimTime) {
        let at = at.max(self.now);
        let slot = self.queue.push_timer(at, Pending::OpsTimer { key, cpu });
        if let Some(overtaken) = self.timers.insert(key, slot) {
            self.queue.remove_timer(overtaken);
        }
    }

    fn timer_cancel(&mut self, key: u64) -> bool {
        let armed = self.timers.remove(&key);
        armed.is_some_and(|slot| {
            self.queue.remove_timer(slot);
            true
        })
    }

    fn charge(&mut self, cost: Cost) {
        let ns = match cost {
            Cost::Insns(n) => {
                let ns = u128::from(n) * 1_000 / u128::from(self.costs.insns_per_us);
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
            // Cold caches are the migrated task's; see `Hardware::switch_to`.
            Cost::Migration => 0,
            Cost::Time(ns) => ns.as_ns(),
        };
        self.charged = self.charged.plus(Nanos::new(ns));
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn note(&mut self, event: Event) {
        self.checkers.event(&event);
        let what = match event {
            Event::Callback { op, task } => {
                self.callbacks[op as usize] += 1;
                What::Callback { op: op as u8, task }
            }
            Event::Runnable { task, cpu } => What::Runnable { task, rq: cpu },
            Event::Quiescent { task, cpu } => What::Quiescent { task, rq: cpu },
            Event::Inserted { task, dsq } => What::Insert { task, dsq },
            Event::Removed { task, dsq } => What::Remove { task, dsq },
            Event::Migrated { task, from, to } => {
                if let Some(group) = self.task(task).map(|t| t.group) {
                    self.groups[group].migrations += 1;
                }
                What::Migrate { task, from, to }
            }
            Event::Switched { prev, next, .. } => What::Switch { prev, next },
            Event::Exit(info) => {
                let (kind, code) = (info.kind, info.code);
                self.record(What::Exit { kind, code });
                self.recorder.text(&info.message);
                return;
            }
        };
        self.record(what);
    }
}
