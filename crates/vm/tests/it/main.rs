//! Goal: what a program, its host and its user can observe of the engine.
//! Method: programs written as assembly text, run against a host that only counts.

mod arena;
mod hostile;
mod insns;
mod maps;
mod objects;
mod random;
mod reports;
mod streams;
mod support;
