//! A task's own side: where it is in its program, and how much of a step is left.
//!
//! ```text
//!  step taken ──► work = Cycles or Until ──time on a CPU──► None ──► next step
//! ```
//!
//! Work is counted in units of a nanosecond divided by 1024, so that a CPU of capacity
//! `c` does `c` units per nanosecond and nothing is lost to rounding when a task is
//! interrupted. `runtime` follows rt-app: bursts of 32 us of work, with a look at the
//! clock after each.

use harena_abi::{Cpu, Nanos, SimTime};

use crate::workload::{Phase, Repeat, Step, TaskDef, TimerId, TimerMode};

/// Units of work in a nanosecond on a CPU of capacity 1024.
const UNITS_PER_NS: u64 = 1024;

/// Units of work between two looks at the clock.
const BURST: u64 = 32_000 * UNITS_PER_NS;

/// What is left of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Nothing: the next step is due.
    None,
    /// So many units.
    Cycles { units: u64 },
    /// Bursts until the clock has reached `deadline`; of the current one, so many units.
    Until { deadline: SimTime, burst: u64 },
}

impl Work {
    /// `run`.
    pub(crate) fn cycles(ns: Nanos) -> Self {
        Self::Cycles {
            units: ns.as_ns().saturating_mul(UNITS_PER_NS),
        }
    }

    /// `runtime`, begun at `now`.
    pub(crate) fn until(now: SimTime, ns: Nanos) -> Self {
        Self::Until {
            deadline: now.after(ns),
            burst: BURST,
        }
    }

    /// When it is done if it runs from `from` on without a break.
    pub(crate) fn done_at(self, from: SimTime, capacity: u32) -> SimTime {
        let capacity = u64::from(capacity);
        let after = |units: u64| from.after(Nanos::new(units.div_ceil(capacity)));
        match self {
            Self::None => from,
            Self::Cycles { units } => after(units),
            Self::Until { deadline, burst } => {
                let missing = deadline.since(after(burst)).unwrap_or_default();
                let more = missing.as_ns().saturating_mul(capacity).div_ceil(BURST);
                after(burst.saturating_add(more.saturating_mul(BURST)))
            }
        }
    }

    /// What is left after running from `from` to `to`.
    pub(crate) fn after(self, from: SimTime, to: SimTime, capacity: u32) -> Self {
        if to >= self.done_at(from, capacity) {
            return Self::None;
        }
        let elapsed = to.since(from).unwrap_or_default();
        let did = elapsed.as_ns().saturating_mul(u64::from(capacity));
        match self {
            Self::None => Self::None,
            Self::Cycles { units } => Self::Cycles {
                units: units.saturating_sub(did),
            },
            Self::Until { deadline, burst } => Self::Until {
                deadline,
                burst: match did.checked_sub(burst) {
                    None => burst - did,
                    Some(past) => BURST - past % BURST,
                },
            },
        }
    }
}

/// What a task does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next<'w> {
    /// An iteration of this phase, the n-th of the task, begins.
    Enter(usize, &'w Phase),
    /// This step is to be taken.
    Step(Step),
    /// The list of phases begins again.
    Again,
    /// The task ends.
    Exit,
}

/// Position in a task's program.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Cursor {
    loops: u32,
    phase: usize,
    iterations: u32,
    entered: bool,
    step: usize,
}

fn is_over(repeat: Repeat, done: u32) -> bool {
    match repeat {
        Repeat::Times(times) => done >= times,
        Repeat::Forever => false,
    }
}

impl Cursor {
    /// Goes one place further.
    pub(crate) fn next<'w>(&mut self, def: &'w TaskDef) -> Next<'w> {
        let phase = &def.phases[self.phase];
        if !self.entered {
            self.entered = true;
            return Next::Enter(self.phase, phase);
        }
        if let Some(&step) = phase.steps.get(self.step) {
            self.step += 1;
            return Next::Step(step);
        }
        self.step = 0;
        self.entered = false;
        self.iterations = self.iterations.saturating_add(1);
        if !is_over(phase.repeat, self.iterations) {
            return self.next(def);
        }
        self.iterations = 0;
        self.phase += 1;
        if self.phase < def.phases.len() {
            return self.next(def);
        }
        self.phase = 0;
        self.loops = self.loops.saturating_add(1);
        if is_over(def.repeat, self.loops) {
            Next::Exit
        } else {
            Next::Again
        }
    }
}

/// The next expiry of a timer after `last`, and whether to sleep until then.
pub(crate) fn timer_next(
    last: SimTime,
    now: SimTime,
    period: Nanos,
    mode: TimerMode,
) -> (SimTime, bool) {
    let next = last.after(period);
    if now < next {
        return (next, true);
    }
    match mode {
        TimerMode::Relative => (now, false),
        TimerMode::Absolute => (next, false),
    }
}

/// One instance.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Index of its definition.
    pub(crate) def: usize,
    /// Index of its metrics.
    pub(crate) group: usize,
    /// Where it is.
    pub(crate) cursor: Cursor,
    /// What is left of its step.
    pub(crate) work: Work,
    /// Time to fill cold caches before it goes on.
    pub(crate) cold: Nanos,
    /// When it began; timers count from there.
    pub(crate) began_at: SimTime,
    /// When its sleep ends or ended; taken when it runs.
    pub(crate) woken_at: Option<SimTime>,
    /// CPU on which it ran last, or was forked.
    pub(crate) last_cpu: Cpu,
    /// Timers of its own, with their last expiry.
    pub(crate) timers: Vec<(TimerId, SimTime)>,
}

impl Task {
    /// When the current step is done if it runs from `from` on without a break.
    pub(crate) fn done_at(&self, from: SimTime, capacity: u32) -> SimTime {
        self.work.done_at(from.after(self.cold), capacity)
    }

    /// Runs from `from` to `to`.
    pub(crate) fn run(&mut self, from: SimTime, to: SimTime, capacity: u32) {
        let elapsed = to.since(from).unwrap_or_default();
        let warm_from = from.after(self.cold);
        self.cold = self.cold.minus(elapsed);
        if to >= warm_from {
            self.work = self.work.after(warm_from, to, capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    const fn us(us: u64) -> SimTime {
        SimTime::from_ns(us * 1000)
    }

    #[test]
    fn run_scales_with_capacity_and_survives_interruptions() {
        let work = Work::cycles(Nanos::from_us(300));
        assert_eq!(work.done_at(us(10), 1024), us(310));
        assert_eq!(work.done_at(us(10), 512), us(610));
        // 100 us at half speed leave 250 us of work.
        let left = work.after(us(10), us(110), 512);
        assert_eq!(left.done_at(us(200), 1024), us(450));
        assert_eq!(work.after(us(10), us(310), 1024), Work::None);
        // Odd capacities lose nothing: one nanosecond at a time, or all at once.
        let mut bit_by_bit = Work::cycles(Nanos::new(1000));
        for ns in 0..900 {
            let t = SimTime::from_ns;
            bit_by_bit = bit_by_bit.after(t(ns), t(ns + 1), 333);
        }
        let at_once = Work::cycles(Nanos::new(1000)).after(us(0), SimTime::from_ns(900), 333);
        assert_eq!(bit_by_bit, at_once);
    }

    #[test]
    fn runtime_ends_with_the_first_burst_past_its_deadline() {
        // Ten bursts of 32 us reach 300 us of wall time at 320 us.
        let work = Work::until(us(0), Nanos::from_us(300));
        assert_eq!(work.done_at(us(0), 1024), us(320));
        // Preempted time counts: after 40 us of work and a long break, the open burst of
        // 24 us is finished, then the clock is past the deadline.
        let left = work.after(us(0), us(40), 1024);
        assert_eq!(left.done_at(us(1000), 1024), us(1024));
        // At half capacity a burst takes 64 us: five are needed.
        assert_eq!(work.done_at(us(0), 512), us(320));
        assert_eq!(work.after(us(0), us(320), 512), Work::None);
        assert_ne!(work.after(us(0), us(319), 512), Work::None);
    }

    #[test]
    fn cold_caches_delay_a_step() {
        let mut task = Task {
            def: 0,
            group: 0,
            cursor: Cursor::default(),
            work: Work::cycles(Nanos::from_us(10)),
            cold: Nanos::from_us(5),
            began_at: SimTime::ZERO,
            woken_at: None,
            last_cpu: Cpu::new(0),
            timers: Vec::new(),
        };
        assert_eq!(task.done_at(us(100), 1024), us(115));
        task.run(us(100), us(103), 1024);
        assert_eq!(task.done_at(us(200), 1024), us(212));
        task.run(us(200), us(212), 1024);
        assert_eq!(task.work, Work::None);
    }

    #[test]
    fn a_program_runs_phases_and_loops_in_order() {
        let text = br#"{"tasks": {"t": {"loop": 2, "phases": {
            "a": {"loop": 2, "run": 1}, "b": {"sleep": 2, "run": 3}}}}}"#;
        let workload = Workload::parse("t", text).unwrap();
        let mut cursor = Cursor::default();
        let mut seen = String::new();
        loop {
            match cursor.next(&workload.tasks[0]) {
                Next::Enter(number, phase) => seen += &format!(" {}{number}", phase.name),
                Next::Step(Step::Run(d)) => seen += &format!(" r{}", d.as_ns() / 1000),
                Next::Step(Step::Sleep(d)) => seen += &format!(" s{}", d.as_ns() / 1000),
                Next::Step(other) => panic!("{other:?}"),
                Next::Again => seen += " /",
                Next::Exit => break,
            }
        }
        assert_eq!(seen, " a0 r1 a0 r1 b1 s2 r3 / a0 r1 a0 r1 b1 s2 r3");
    }

    #[test]
    fn a_missed_expiry_moves_a_relative_timer_and_not_an_absolute_one() {
        let period = Nanos::from_us(10);
        let next = |last, now, mode| timer_next(us(last), us(now), period, mode);
        assert_eq!(next(0, 5, TimerMode::Relative), (us(10), true));
        assert_eq!(next(0, 25, TimerMode::Relative), (us(25), false));
        assert_eq!(next(0, 25, TimerMode::Absolute), (us(10), false));
        assert_eq!(next(10, 25, TimerMode::Absolute), (us(20), false));
        assert_eq!(next(20, 25, TimerMode::Absolute), (us(30), true));
    }
}
