//! Compiled BPF objects to programs.
#![forbid(unsafe_code)]
