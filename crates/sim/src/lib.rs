//! A deterministic simulated machine for sched_ext schedulers.
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod json;
pub mod topology;
pub mod workload;

pub use json::JsonError;
pub use topology::{
    CAPACITY_MAX, MAX_CPUS, TopologyError, default_topology, parse_topology, parse_topology_file,
};
pub use workload::{Workload, WorkloadError};
