//! Goal: an arena behaves as its specification says, fault recovery included, seen through
//! the public interface alone.
//!
//! Method: real mappings and real faults. "Programs" are nested scopes on a thread. What must
//! crash, or changes the process's signal actions, runs in a child process: this binary
//! again, with one ignored test.
#![cfg(all(target_os = "linux", not(miri)))]

mod allocation;
mod chaining;
mod children;
mod common;
#[cfg(target_arch = "x86_64")]
mod compiled;
mod creation;
mod edges;
mod examples;
mod fallback;
mod forks;
mod injection;
mod model;
mod owners;
mod pool;
mod recovery;
mod remote;
mod shortage;
mod signals;
mod slab;
mod soak;
mod stress;
mod threads;
mod typed;
mod users;
mod walls;
