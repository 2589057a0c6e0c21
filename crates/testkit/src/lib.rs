//! What tests and benchmarks of several crates share; no crate uses it but for these.
//!
//! So far that is the kernel they run on: [`LiveMachine`] loads a test object into it through
//! `bpf(2)`, so that tests can compare answers and benchmarks can compare times, and
//! [`SharedMemory`] runs programs of any instructions in it.

#[cfg(feature = "libbpf")]
pub mod libbpf;
mod real_kernel;

pub use real_kernel::{
    CONTEXT_WORDS, LiveMachine, LiveSymbols, SharedEnd, SharedLayout, SharedMemory,
};
