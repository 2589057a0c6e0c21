//! A deterministic simulated machine for sched_ext schedulers.
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod check;
mod config;
mod hardware;
mod json;
mod metrics;
mod queue;
mod random;
mod simulation;
mod task;
pub mod topology;
pub mod workload;

pub use check::Violation;
pub use config::{CheckTier, Costs, Progress, SimConfig};
pub use json::JsonError;
pub use metrics::{CpuMetrics, GroupMetrics, Latency, Outcome};
pub use simulation::{ConfigError, SimError, Simulation};
pub use topology::{
    CAPACITY_MAX, MAX_CPUS, TopologyError, default_topology, parse_topology, parse_topology_file,
};
pub use workload::{Workload, WorkloadError};
