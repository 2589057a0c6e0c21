//! Why a program came to no result.

use harena_bpf::isa::DecodeError;
use harena_bpf::{ParseError, PlainError};
use harena_vm::{Abort, MemFault, OutOfGuestMemory, Violation, VmCreateError, VmLoadError};

/// Why there is no r0. All but `Create` and `Interpreted` is the request's fault.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bytes are no instructions.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The bytes are no object.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The object has no `main` that could be run as it stands.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// There is no address space.
    #[error(transparent)]
    Create(#[from] VmCreateError),
    /// Too much memory for a program.
    #[error(transparent)]
    Memory(#[from] OutOfGuestMemory),
    /// Memory that was handed out cannot be written.
    #[error(transparent)]
    Fill(#[from] MemFault),
    /// The engine refuses the program.
    #[error(transparent)]
    Load(#[from] VmLoadError),
    /// Machine code was asked for and there is none, so the interpreter would be tested.
    #[error("programs would be interpreted: {why}")]
    Interpreted {
        /// Why.
        why: String,
    },
    /// The program ended early.
    #[error(transparent)]
    Abort(#[from] Abort),
    /// The program touched memory that is not there, and went on.
    #[error(
        "program `{}`, insn {}: {} at {:#x}, where there is no memory",
        .0.program, .0.insn, .0.access, .0.address
    )]
    Violation(Box<Violation>),
}
