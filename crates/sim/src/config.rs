//! What a simulation is made of, and what its hardware costs.

use harena_abi::{Nanos, SimTime};
use harena_scx::Topology;

use crate::workload::Workload;

/// Everything that determines a run, but the scheduler. Equal ones give equal digests.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The machine.
    pub topology: Topology,
    /// What its tasks do.
    pub workload: Workload,
    /// How long it runs at most.
    pub duration: Nanos,
    /// Seed of all random streams.
    pub seed: u64,
    /// Each instance starts up to this much later than its workload says, by the seed.
    /// Zero turns it off.
    pub start_jitter: Nanos,
    /// Modelled costs.
    pub costs: Costs,
    /// Timer ticks per second (`CONFIG_HZ`); at least 1.
    pub hz: u32,
    /// How much the checkers look at.
    pub checks: CheckTier,
}

impl SimConfig {
    /// Time that a run takes if neither caller nor workload says.
    pub const DEFAULT_DURATION: Nanos = Nanos::from_ms(10_000);

    /// Default settings for this machine and workload.
    #[must_use]
    pub fn new(topology: Topology, workload: Workload) -> Self {
        Self {
            topology,
            duration: workload.duration.unwrap_or(Self::DEFAULT_DURATION),
            workload,
            seed: 1,
            start_jitter: Nanos::from_ms(1),
            costs: Costs::default(),
            hz: 1000,
            checks: CheckTier::Cheap,
        }
    }
}

/// What the checkers look at. Every tier sees every event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CheckTier {
    /// A constant amount of work per event.
    Cheap,
    /// Also compares all tasks and DSQs with the core's own view after every event.
    Full,
}

/// Modelled costs. Nothing is measured: equal inputs cost the same on every host.
///
/// | cost | who pays | when |
/// |---|---|---|
/// | `insns_per_us` | the CPU that runs the callback | its BPF instructions |
/// | `switch_ns` | the switching CPU | before the next task's first instruction |
/// | `wakeup_ns` | the waking CPU | each wakeup, beside the callbacks |
/// | `interrupt_ns` | the interrupted CPU | each timer expiry, IPI and IRQ work |
/// | `tick_ns` | the ticking CPU | each tick of a busy CPU |
/// | `ipi_ns` | nobody | flight time between two CPUs |
/// | `migrate_*_ns` | the migrated task | cold caches when it next runs |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// BPF instructions that a CPU executes in a microsecond; at least 1.
    pub insns_per_us: u64,
    /// A context switch.
    pub switch_ns: u64,
    /// The kernel's share of a wakeup.
    pub wakeup_ns: u64,
    /// Entering and leaving an interrupt.
    pub interrupt_ns: u64,
    /// The kernel's share of a tick.
    pub tick_ns: u64,
    /// From sending an IPI to its arrival.
    pub ipi_ns: u64,
    /// Running elsewhere under the same last-level cache.
    pub migrate_same_llc_ns: u64,
    /// Running under another last-level cache of the same node.
    pub migrate_cross_llc_ns: u64,
    /// Running on another node.
    pub migrate_cross_node_ns: u64,
}

impl Costs {
    /// A machine on which only the tasks' own work takes time.
    pub const FREE: Self = Self {
        insns_per_us: u64::MAX,
        switch_ns: 0,
        wakeup_ns: 0,
        interrupt_ns: 0,
        tick_ns: 0,
        ipi_ns: 0,
        migrate_same_llc_ns: 0,
        migrate_cross_llc_ns: 0,
        migrate_cross_node_ns: 0,
    };
}

impl Default for Costs {
    /// The order of magnitude of a current server CPU.
    fn default() -> Self {
        Self {
            insns_per_us: 2_000,
            switch_ns: 1_000,
            wakeup_ns: 500,
            interrupt_ns: 300,
            tick_ns: 500,
            ipi_ns: 1_000,
            migrate_same_llc_ns: 500,
            migrate_cross_llc_ns: 5_000,
            migrate_cross_node_ns: 15_000,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Simulated time.
    pub now: SimTime,
    /// Where it ends at the latest.
    pub end: SimTime,
    /// Events so far.
    pub events: u64,
}
