//! What tasks do: the rt-app model as data, from JSON or built in Rust.
//!
//! ```text
//! Workload ─ tasks ─► TaskDef ─ phases ─► Phase ─ steps ─► Step
//!                     instances            loop            run runtime sleep timer
//!                     delay, loop          properties
//!                     properties
//! ```
//!
//! A task runs its phases in order, each `loop` times, and the whole list `loop` times;
//! then it exits. Properties are applied when an iteration of their phase begins.

mod parse;
#[cfg(test)]
mod tests;

use harena_abi::Nanos;
use harena_scx::CpuSet;

pub use parse::WorkloadError;

/// Instances of all tasks together.
pub const MAX_INSTANCES: u64 = 4_000_000;

/// A set of tasks, and how long they run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Its name, for people.
    pub name: String,
    /// How long it runs; `None` leaves it to the caller.
    pub duration: Option<Nanos>,
    /// The tasks.
    pub tasks: Vec<TaskDef>,
    /// Names of the timers that steps refer to by index.
    pub timers: Vec<TimerDef>,
    /// What was read but changes nothing here.
    pub notes: Vec<Note>,
}

/// A key of a workload file that has no effect in a simulation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Line of the file.
    pub line: usize,
    /// Path of the key.
    pub path: String,
    /// Why it has none.
    pub message: String,
}

/// A task, of which any number of instances run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskDef {
    /// Name; metrics are collected per name.
    pub name: String,
    /// How many run.
    pub instances: u32,
    /// When they are created. Those without delay exist before the scheduler is enabled.
    pub delay: Nanos,
    /// How often the list of phases runs.
    pub repeat: Repeat,
    /// In effect from the start.
    pub properties: Properties,
    /// What it does; never empty.
    pub phases: Vec<Phase>,
}

/// A part of a task's life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    /// Name.
    pub name: String,
    /// How often it runs.
    pub repeat: Repeat,
    /// Applied when an iteration begins.
    pub properties: Properties,
    /// What it does; never empty.
    pub steps: Vec<Step>,
}

/// How often something is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// This often, at least once.
    Times(u32),
    /// Until the end.
    Forever,
}

/// Scheduling properties; absent ones stay as they are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Properties {
    /// `policy`.
    pub policy: Option<Policy>,
    /// `priority`: the nice value, -20 to 19.
    pub nice: Option<i32>,
    /// `cpus`: the affinity. A phase without has its task's.
    pub cpus: Option<CpuSet>,
}

/// Scheduling policies that sched_ext can take over.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Policy {
    /// `SCHED_OTHER`.
    #[default]
    Other,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
}

impl Policy {
    /// The kernel's number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        match self {
            Self::Other => 0,
            Self::Batch => 3,
            Self::Idle => 5,
        }
    }
}

/// An index of [`Workload::timers`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimerId(pub u32);

/// A timer that steps wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimerDef {
    /// `ref`.
    pub name: String,
    /// Whether all tasks that name it share it; names that begin with `unique` do not.
    pub shared: bool,
}

/// What a timer does when its next expiry has passed already.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TimerMode {
    /// The next period begins now.
    #[default]
    Relative,
    /// The grid stays.
    Absolute,
}

/// One event of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Fixed work: as long as it takes on a CPU of capacity 1024.
    Run(Nanos),
    /// Runs until this much time has passed since it began, preempted or not.
    Runtime(Nanos),
    /// Sleeps for this long.
    Sleep(Nanos),
    /// Sleeps until the timer's next expiry.
    Timer {
        /// Which timer.
        timer: TimerId,
        /// Its period, not zero.
        period: Nanos,
        /// What a missed expiry does.
        mode: TimerMode,
    },
}

impl Workload {
    /// Reads rt-app's JSON grammar.
    ///
    /// # Errors
    /// Whatever would change the workload if it were ignored; see [`WorkloadError`].
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, WorkloadError> {
        parse::parse(name, bytes)
    }

    /// The embedded mixed workload, sized for 8 CPUs.
    #[must_use]
    pub fn mixed() -> Self {
        Self::parse("mixed", include_bytes!("../../workloads/mixed.json"))
            .expect("the embedded workload is tested")
    }

    /// The number of tasks that it creates.
    #[must_use]
    pub fn instances(&self) -> u64 {
        self.tasks.iter().map(|t| u64::from(t.instances)).sum()
    }

    /// The same load for `cpus` CPUs instead of 8: more or fewer instances, at least one
    /// of each task, and CPU numbers of pinned tasks wrapped into the machine.
    #[must_use]
    pub fn scaled_to(mut self, cpus: u32) -> Self {
        assert!(cpus > 0, "a machine has a CPU");
        let wrap = |set: &CpuSet| {
            set.iter()
                .map(|c| harena_abi::Cpu::new(c.raw() % cpus))
                .collect()
        };
        for task in &mut self.tasks {
            let scaled = u64::from(task.instances) * u64::from(cpus) / 8;
            task.instances = u32::try_from(scaled.max(1)).unwrap_or(u32::MAX);
            let phases = task.phases.iter_mut().map(|p| &mut p.properties);
            for properties in std::iter::once(&mut task.properties).chain(phases) {
                properties.cpus = properties.cpus.as_ref().map(wrap);
            }
        }
        self
    }
}
