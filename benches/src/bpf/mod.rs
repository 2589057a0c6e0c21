//! The suite `bpf`: what programs cost, in this engine and in others.
//!
//! | module | races |
//! |---|---|
//! | `programs` | eight loops over plain memory: machine code, interpreters, native |
//! | `in_arena` | the same loops over an arena, and accesses, against the kernel's compiler |
//! | `calls` | entering a program that does nothing |
//! | `compile` | from an object to the first run |
//!
//! The programs are `bpf/bench/programs.h`, compiled to cpu v3, which every peer knows.

mod calls;
mod compile;
mod in_arena;
mod machine;
#[cfg(feature = "peers")]
mod native;
#[cfg(feature = "peers")]
mod peers;
mod programs;
#[cfg(feature = "peers")]
mod sbpf;

use crate::harness::{BenchError, Suite};

/// Runs every case that the suite wants.
pub fn run(suite: &mut Suite) -> Result<(), BenchError> {
    programs::run(suite)?;
    in_arena::run(suite)?;
    calls::run(suite)?;
    compile::run(suite)
}
