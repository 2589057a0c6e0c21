//! A deterministic simulated machine for sched_ext schedulers.
//!
//! ```text
//!  SimConfig ─► Simulation ──events──► harena_scx::Core ──callbacks──► impl SchedOps
//!   topology      │   ▲                     │
//!   workload      │   └── Machine: time, resched, IRQ work, costs, notes
//!   costs, seed   ▼
//!               Outcome: exit, digest, metrics
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | `topology` | which CPUs there are |
//! | `workload`, `task` | what tasks do, and how far they are |
//! | `queue` | what happens next |
//! | `hardware` | when code runs on which CPU, and what it costs |
//! | `boot`, `steps` | how tasks come to be, and what they do on a CPU |
//! | `simulation` | the run from boot to outcome |
//! | `check` | whether the core kept its promises |
//! | `metrics` | what is measured |
//!
//! A simulation owns all it touches: there is no global, no clock but its own, no thread
//! and no float. Equal settings and an equal scheduler give an equal digest, on any host,
//! and many simulations can run side by side.
//!
//! ```
//! use std::collections::BTreeSet;
//!
//! use harena_abi::Nanos;
//! use harena_scx::{Form, OpsConfig, PlainImage, SchedOps};
//! use harena_sim::{SimConfig, Simulation, Workload, parse_topology};
//!
//! /// No callback at all: the core's own defaults make a working scheduler.
//! struct Defaults(OpsConfig);
//!
//! impl SchedOps for Defaults {
//!     fn config(&self) -> &OpsConfig {
//!         &self.0
//!     }
//! }
//!
//! let scheduler = Defaults(OpsConfig {
//!     name: "defaults".to_owned(),
//!     form: Form::Cpu,
//!     flags: 0,
//!     timeout_ms: 0,
//!     dispatch_max_batch: 0,
//!     exit_dump_len: 0,
//!     hotplug_seq: 0,
//!     cid_shard_size: 0,
//!     has: BTreeSet::new(),
//! });
//! let text = br#"{"tasks": {"web": {"instance": 3, "run": 200, "sleep": 800}}}"#;
//! let config = SimConfig {
//!     duration: Nanos::from_ms(50),
//!     ..SimConfig::new(parse_topology("2c")?, Workload::parse("web", text)?)
//! };
//! let image = Box::new(PlainImage::default());
//! let outcome = Simulation::new(config, scheduler, image, None)?.run(&mut |_| {})?;
//! assert_eq!(outcome.exit.reason, "unregistered from user space");
//! assert!(outcome.groups[0].wakeups > 100);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod boot;
mod check;
mod config;
mod error;
mod hardware;
mod json;
mod metrics;
mod queue;
mod random;
mod simulation;
mod steps;
mod task;
pub mod topology;
pub mod workload;

pub use check::Violation;
pub use config::{CheckTier, Costs, Progress, SimConfig};
pub use error::{ConfigError, SimError};
pub use json::JsonError;
pub use metrics::{CpuMetrics, GroupMetrics, Latency, Outcome};
pub use simulation::Simulation;
pub use topology::{
    CAPACITY_MAX, MAX_CPUS, TopologyError, default_topology, parse_topology, parse_topology_file,
};
pub use workload::{Workload, WorkloadError};
