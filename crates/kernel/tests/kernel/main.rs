//! Goal: compiled schedulers behave on the simulated kernel as they would on a real one.
//!
//! Method: the committed objects of `bpf/` are loaded through the real loader and engine
//! and run in short simulations; what programs saw is read back from their globals.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod iters;
mod load;
mod misuse;
mod run;
mod support;
mod tracing;
