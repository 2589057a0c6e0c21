//! The simulated kernel that BPF sees.
#![forbid(unsafe_code)]

pub mod types;
