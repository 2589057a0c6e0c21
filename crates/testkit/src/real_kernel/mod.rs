//! The kernel that this process runs on, as a machine for programs of type `syscall`.

mod machine;
mod shared;
mod sys;

pub use machine::{CONTEXT_WORDS, LiveMachine, LiveSymbols};
pub use shared::{SharedEnd, SharedLayout, SharedMemory};
