//! What a run measured: per task group, per CPU, and in total. Integers only.

use harena_abi::{Nanos, SimTime};
use harena_scx::{EventStats, ExitInfo, Op};
use harena_trace::{Counts, Digest};
use hdrhistogram::Histogram;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why the scheduler left; `SCX_EXIT_UNREG` after a full run.
    pub exit: ExitInfo,
    /// Digest over everything that happened.
    pub digest: Digest,
    /// When the run ended.
    pub ended_at: SimTime,
    /// Events that the machine processed.
    pub events: u64,
    /// Records that went into the digest, by kind.
    pub records: Counts,
    /// Per task name, in the workload's order.
    pub groups: Vec<GroupMetrics>,
    /// Per CPU.
    pub cpus: Vec<CpuMetrics>,
    /// Calls of each callback that was called, in the order of the ops table.
    pub callbacks: Vec<(Op, u64)>,
    /// The core's event counters.
    pub event_stats: EventStats,
}

/// What the instances of one task name did together.
#[derive(Clone, Debug)]
pub struct GroupMetrics {
    /// The task's name in the workload.
    pub name: String,
    /// Instances that were created.
    pub tasks: u64,
    /// Instances that were refused at fork.
    pub forks_failed: u64,
    /// Instances that ended.
    pub exited: u64,
    /// CPU time used.
    pub runtime: Nanos,
    /// Wakeups, the first after fork included.
    pub wakeups: u64,
    /// From the wakeup's cause to the first instruction.
    pub wakeup_latency: Latency,
    /// Times an instance was switched to.
    pub switches: u64,
    /// Moves between CPUs.
    pub migrations: u64,
}

impl GroupMetrics {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tasks: 0,
            forks_failed: 0,
            exited: 0,
            runtime: Nanos::ZERO,
            wakeups: 0,
            wakeup_latency: Latency::default(),
            switches: 0,
            migrations: 0,
        }
    }
}

/// What one CPU did. What neither `task` nor `overhead` covers was idle.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuMetrics {
    /// Time in which tasks ran.
    pub task: Nanos,
    /// Time in the kernel and the scheduler.
    pub overhead: Nanos,
    /// Context switches, to the idle task included.
    pub switches: u64,
    /// Ticks.
    pub ticks: u64,
    /// Reschedule interrupts received.
    pub ipis: u64,
}

/// A distribution of times, exact to three digits; count, maximum and sum are exact.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
    max: Nanos,
    sum_ns: u128,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            histogram: Histogram::new(3).expect("3 digits are supported"),
            max: Nanos::ZERO,
            sum_ns: 0,
        }
    }
}

impl Latency {
    pub(crate) fn record(&mut self, value: Nanos) {
        self.histogram
            .record(value.as_ns())
            .expect("the histogram resizes itself");
        self.max = self.max.max(value);
        self.sum_ns += u128::from(value.as_ns());
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The largest.
    #[must_use]
    pub const fn max(&self) -> Nanos {
        self.max
    }

    /// The arithmetic mean, or `None` if nothing was recorded.
    #[must_use]
    pub fn mean(&self) -> Option<Nanos> {
        let mean = self.sum_ns.checked_div(u128::from(self.count()))?;
        u64::try_from(mean).ok().map(Nanos::new)
    }

    /// The smallest value that `per_mille` of all do not exceed (999 is p99.9), or `None`
    /// if nothing was recorded.
    #[must_use]
    pub fn quantile(&self, per_mille: u32) -> Option<Nanos> {
        assert!(per_mille <= 1000, "{per_mille} per mille");
        let all = u128::from(self.count());
        let rank = (all * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for step in self.histogram.iter_recorded() {
            seen += u128::from(step.count_since_last_iteration());
            if seen >= rank {
                return Some(Nanos::new(step.value_iterated_to()).min(self.max));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(500), None);
        assert_eq!(latency.mean(), None);
        for us in 1..=1000 {
            latency.record(Nanos::from_us(us));
        }
        let near = |got: Option<Nanos>, us: u64| {
            let got = got.unwrap().as_ns();
            assert!(got.abs_diff(us * 1000) <= us, "{got} is not near {us} us");
        };
        near(latency.quantile(500), 500);
        near(latency.quantile(990), 990);
        near(latency.quantile(999), 999);
        assert_eq!(latency.quantile(1000), Some(Nanos::from_us(1000)));
        assert_eq!(latency.max(), Nanos::from_us(1000));
        assert_eq!(latency.mean(), Some(Nanos::new(500_500)));
        assert_eq!(latency.count(), 1000);
    }
}
