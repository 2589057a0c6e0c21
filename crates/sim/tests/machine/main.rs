//! The simulator from outside: whole runs with schedulers written in Rust.

mod chaos;
mod moments;
mod order;
mod runs;
mod schedulers;
mod swarm;
mod timing;
