//! All tests for one engine, which is named one level above.
//!
//! A file of its own, since neither rustfmt nor `cargo fmt --check` sees `mod` lines that a macro
//! makes.

use super::ENGINE;

mod arena;
mod dynptrs;
mod held;
mod hostile;
mod insns;
mod jump_tables;
mod linked;
mod loading;
mod maps;
mod masked;
mod more_maps;
pub(crate) mod objects;
mod owned;
mod random;
mod reports;
mod samples;
mod streams;
pub(crate) mod support;
mod tail_calls;
