//! What happened in a simulation, as fixed-size records, and a digest over all of them.
//!
//! ```text
//!   sim ──Record──► Recorder ─┬─► Digest    every record, always (determinism is compared by it)
//!                             ├─► Counts    how many of each kind
//!                             └─► dyn Sink  a file, a vector, or nothing
//! ```
//!
//! The digest does not depend on the sink, the sink sees exactly what the digest saw,
//! and no record holds an address, a wall-clock time or a float: equal runs give equal
//! bytes on every host.
//!
//! ```
//! use harena_abi::{Cpu, SimTime, Tid};
//! use harena_trace::{Record, Recorder, What};
//!
//! let mut recorder = Recorder::new(None);
//! let before = recorder.digest();
//! recorder.record(&Record {
//!     time: SimTime::from_ns(1_000),
//!     cpu: Cpu::new(0),
//!     what: What::Fork { task: Tid::new(7) },
//! });
//! assert_ne!(recorder.digest(), before);
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod record;
mod recorder;
mod sink;

pub use record::{DecodeError, Mark, RECORD_SIZE, Record, SCHEMA_VERSION, WakeCause, What};
pub use recorder::{Counts, Digest, Recorder, hash};
pub use sink::{JsonlSink, MemorySink, Sink};
