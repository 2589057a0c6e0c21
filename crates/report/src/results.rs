//! What one run found, as plain numbers and names.
//!
//! The fields of [`Results`] are the top-level keys of the JSON output, in its order:
//! changing one changes a documented interface (`docs/json.md`). Strings are as the
//! object and the workload gave them; whoever prints them escapes them.

use std::fmt::{self, Display};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::{escape, units};

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// What ran.
    pub scheduler: Scheduler,
    /// On what.
    pub machine: Machine,
    /// Under what load.
    pub workload: Workload,
    /// The number that all chance was drawn from.
    pub seed: u64,
    /// How the scheduler left.
    pub exit: Exit,
    /// Hash over all events, in hexadecimal.
    pub digest: String,
    /// Number of events.
    pub events: u64,
    /// Simulated time.
    pub sim_ns: u64,
    /// Time the simulation took; the only number here that varies between equal runs.
    pub wall_ns: u64,
    /// Tasks by group, in the workload's order.
    pub groups: Vec<Group>,
    /// CPUs by number.
    pub cpus: Vec<CpuUse>,
    /// Calls of each callback of the scheduler that was called, in the order of the ops table.
    pub callbacks: Counts,
    /// Programs that looked on, in the object's order.
    pub tracing: Vec<Tracing>,
    /// Use of the arena; all zero if the scheduler has none.
    pub arena: ArenaUse,
    /// What programs and kfuncs did that they should not have, by first occurrence.
    pub violations: Vec<Violation>,
}

/// The scheduler and its counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scheduler {
    /// `ops.name`.
    pub name: String,
    /// Path of the object, or the name of an embedded one.
    pub object: String,
    /// `cpu` or `cid`: which of the two ops tables it fills.
    pub form: String,
    /// `ops.flags`.
    pub flags: u64,
    /// The watchdog's limit.
    pub timeout_ms: u64,
    /// BPF instructions executed.
    pub insns: u64,
    /// Its own counters, read back from its global variables after the run.
    pub stats: Counts,
    /// What the core counted about it (`SCX_EV_*`), if not zero.
    pub core_events: Counts,
    /// Violations at places beyond those that are listed.
    pub violations_dropped: u64,
    /// What its programs printed.
    pub output: Vec<Output>,
}

/// Text that programs printed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Output {
    /// Name of the program; empty for what all of them wrote with `bpf_printk`.
    pub program: String,
    /// `stdout` or `stderr`, the program's stream, or `trace` for `bpf_printk`.
    pub stream: String,
    /// The text, bounded by the stream's capacity.
    pub text: String,
}

/// The simulated machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// The topology in its short form, such as `1n1l4c2t`.
    pub topology: String,
    /// NUMA nodes.
    pub nodes: u64,
    /// Last-level caches.
    pub llcs: u64,
    /// Physical cores.
    pub cores: u64,
    /// CPUs.
    pub cpus: u64,
}

/// The load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Workload {
    /// Path of the file, or the name of an embedded one.
    pub name: String,
    /// Number of groups.
    pub groups: u64,
    /// Number of tasks that existed.
    pub tasks: u64,
}

/// How the scheduler left.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Exit {
    /// `SCX_EXIT_*`.
    pub kind: String,
    /// The scheduler's or the kernel's exit code.
    pub code: i64,
    /// What went wrong; empty if nothing did.
    pub message: String,
    /// The kernel's phrase for `kind`.
    pub reason: String,
    /// When, in simulated time.
    pub at_ns: u64,
    /// What the watchdog found, if that is why.
    pub stall: Option<Stall>,
    /// The debug dump; empty unless the exit is an error.
    pub dump: String,
}

/// A task that did not get to run in time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stall {
    /// Its thread id.
    pub task: u32,
    /// Its name.
    pub comm: String,
    /// CPU whose run queue it is on.
    pub cpu: u32,
    /// Id of the DSQ it waits in; none if the scheduler was given it and keeps it.
    pub dsq: Option<u64>,
    /// How long it waited.
    pub waited_ns: u64,
}

impl Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "task {}[{}] on CPU {}",
            escape(&self.comm),
            self.task,
            self.cpu
        )?;
        match self.dsq {
            Some(dsq) => write!(f, " in DSQ {dsq:#x}")?,
            None => write!(f, " in no DSQ (the scheduler was given it and keeps it)")?,
        }
        write!(f, " waited {}", units::seconds(self.waited_ns))
    }
}

/// Tasks with one definition in the workload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// Their name.
    pub name: String,
    /// How many were created.
    pub tasks: u64,
    /// How many of them ended.
    pub exited: u64,
    /// How many the scheduler refused to take.
    pub forks_failed: u64,
    /// CPU time they had, all together.
    pub runtime_ns: u64,
    /// How often one of them woke up.
    pub wakeups: u64,
    /// From waking up to running.
    pub wakeup_latency: Latency,
    /// How often one of them was switched in.
    pub switches: u64,
    /// How often one of them changed CPUs.
    pub migrations: u64,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Number of values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    #[serde(rename = "p99.9_ns")]
    pub p999_ns: u64,
    /// Largest value.
    pub max_ns: u64,
}

/// One CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuUse {
    /// Its number.
    pub cpu: u32,
    /// Its core.
    pub core: u32,
    /// Its last-level cache.
    pub llc: u32,
    /// Its node.
    pub node: u32,
    /// How long it ran tasks.
    pub task_ns: u64,
    /// How long it ran the kernel and the scheduler.
    pub overhead_ns: u64,
    /// How often it switched tasks.
    pub switches: u64,
    /// Timer ticks.
    pub ticks: u64,
    /// Interrupts from other CPUs.
    pub ipis: u64,
}

/// A program that looked on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tracing {
    /// Its name.
    pub program: String,
    /// Its section, which names what it is attached to.
    pub section: String,
    /// Times it ran.
    pub runs: u64,
    /// Times it did not, because it or one of its kind was running on that CPU.
    pub missed: u64,
}

/// Use of the arena.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArenaUse {
    /// Pages in use at the end.
    pub pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// Accesses to empty pages that were recovered: by programs and by the host.
    pub faults_recovered: u64,
    /// Pages that the run allowed it to use: all, unless it had a limit.
    pub limit_pages: u64,
    /// Reports of such accesses and of refused frees that found no room in the program's stream or
    /// on the way there.
    pub reports_dropped: u64,
    /// Page allocations that failed on purpose.
    pub allocs_failed: u64,
}

/// One kind of misdeed at one place.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Violation {
    /// The program that was running.
    pub program: String,
    /// The function in it.
    pub function: String,
    /// `arena` (the program touched an empty page), `host` (the host did, in a
    /// kfunc or for a callback), `wild` (the pointer leads to no memory of the scheduler's, or it
    /// is a store to frozen memory) or `free` (what was freed is no object of the arena).
    pub kind: String,
    /// `READ` or `WRITE`.
    pub access: String,
    /// The address, the first time.
    pub address: u64,
    /// Index of the instruction in the program.
    pub insn: u64,
    /// Where that instruction comes from, if the object says so.
    pub source: Option<SourceLine>,
    /// How often it happened.
    pub count: u64,
}

/// A line of the scheduler's source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// Its file.
    pub file: String,
    /// Its number, from 1.
    pub line: u32,
    /// Its text, if the object has it.
    pub text: String,
}

/// Named counters in a given order; a JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(String, u64)>);

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, count) in &self.0 {
            map.serialize_entry(name, count)?;
        }
        map.end()
    }
}
