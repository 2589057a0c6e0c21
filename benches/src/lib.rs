//! Benchmarks: each a race between harena and its peers in one process.
//!
//! Absolute times drift with the machine, so nothing is measured alone. Subject and peers take
//! turns, many times, and medians are compared ([`harness`]). A suite is a module; it gives
//! rows ([`Row`]), of which some have a target. Every contender returns what it computed, and
//! contenders that disagree are an error: that is all that the tests check, never times.
//!
//! `unsafe` is what the peers are made of: signal handlers, allocators, system calls.

pub mod arena;
pub mod bpf;
pub mod harness;
mod table;

pub use harness::{BenchError, Scale, Suite};
pub use table::{Row, json, text};
