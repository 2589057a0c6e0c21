//! The kernel that this process runs on, as a machine for programs of type `syscall`.

mod machine;
mod sys;

pub use machine::{CONTEXT_WORDS, LiveMachine, LiveSymbols};
