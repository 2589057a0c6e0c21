//! A deterministic simulated machine for sched_ext schedulers.
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod config;
mod json;
mod metrics;
#[expect(dead_code, reason = "the machine comes in the next commit")]
mod queue;
#[expect(dead_code, reason = "the machine comes in the next commit")]
mod random;
pub mod topology;
pub mod workload;

pub use config::{CheckTier, Costs, Progress, SimConfig};
pub use json::JsonError;
pub use metrics::{CpuMetrics, GroupMetrics, Latency, Outcome};
pub use topology::{
    CAPACITY_MAX, MAX_CPUS, TopologyError, default_topology, parse_topology, parse_topology_file,
};
pub use workload::{Workload, WorkloadError};
