//! What can go wrong, as types: at load (`VmLoadError`), in a run (`Abort`), in memory
//! (`MemFault`).
//!
//! A fault of a program on its arena or through a wild pointer is *not* here: such an
//! access is contained, reported as a `Violation`, and the program goes on behind it.
//! An `Abort` is what the kernel's verifier would have refused; the run ends.

use std::fmt;

use harena_abi::{Errno, KernAddr};
use harena_arena_fault::Access;
use thiserror::Error;

use crate::held::Misuse;

/// The kernel's word for an access.
pub(crate) const fn access_word(access: Access) -> &'static str {
    match access {
        Access::Read => "READ",
        Access::Write => "WRITE",
    }
}

/// An access that no guest memory backs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{} of {len} bytes at {addr}: no such guest memory", access_word(*access))]
pub struct MemFault {
    /// Where.
    pub addr: KernAddr,
    /// How many bytes.
    pub len: u64,
    /// Read or written.
    pub access: Access,
}

/// Guest memory of one region is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no room for {size} bytes in region {region}")]
pub struct OutOfGuestMemory {
    /// Name of the region.
    pub region: &'static str,
    /// Bytes asked for.
    pub size: u64,
}

/// A place in a program, as error messages name it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Program name.
    pub program: String,
    /// Function in the program.
    pub function: String,
    /// Instruction index in the program.
    pub insn: u32,
    /// `source text @ file:line`, if line information exists.
    pub line: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program `{}`", self.program)?;
        if self.function != self.program && !self.function.is_empty() {
            write!(f, ", function `{}`", self.function)?;
        }
        write!(f, ", insn {}", self.insn)?;
        match &self.line {
            Some(line) => write!(f, " ({line})"),
            None => Ok(()),
        }
    }
}

/// Why a run ended early.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{place}: {cause}")]
pub struct Abort {
    /// The instruction that was being executed.
    pub place: Box<Place>,
    /// What it did.
    pub cause: AbortCause,
    /// Instructions executed by the outermost run up to here.
    pub insns: u64,
}

/// What ends a run: the program did what a verifier would have refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AbortCause {
    /// The instruction budget is used up.
    #[error("instruction budget of {budget} used up")]
    Budget {
        /// The budget.
        budget: u64,
    },
    /// `gotox` by a value that no jump table of the program holds.
    #[error("gotox leads to {address:#x}, which is in no jump table of the program")]
    JumpTarget {
        /// What the register held.
        address: u64,
    },
    /// More than 8 frames.
    #[error("call stack of {frames} frames is too deep")]
    CallDepth {
        /// Frames including the refused one.
        frames: u32,
    },
    /// Programs nested too deeply through kfuncs and callbacks.
    #[error("{depth} nested program runs are too many")]
    NestedRuns {
        /// Runs including the refused one.
        depth: u32,
    },
    /// An access relative to the frame pointer outside the frame's 512 bytes.
    #[error("stack access at r10{off:+} of {size} bytes is outside the frame of 512 bytes")]
    StackBounds {
        /// Offset from the frame pointer.
        off: i32,
        /// Bytes accessed.
        size: u32,
    },
    /// An instruction that the linker poisoned: a failed CO-RE relocation, or a call of a kfunc
    /// that does not exist.
    #[error("reached an instruction that could not be linked: {what}")]
    Poison {
        /// What was not found.
        what: String,
    },
    /// A helper that is not modelled.
    #[error("helper {id} is not supported")]
    UnsupportedHelper {
        /// Helper number.
        id: u32,
    },
    /// A kfunc called where it is not legal.
    #[error("kfunc `{name}` is not allowed here")]
    KfuncContext {
        /// Its name.
        name: String,
    },
    /// An instruction that needs an arena in a program without one.
    #[error("addr_space_cast in a program without an associated arena")]
    NoArena,
    /// A helper or kfunc got an argument that a verifier would have refused.
    #[error("`{function}`: {what}")]
    BadArgument {
        /// Helper or kfunc.
        function: String,
        /// What is wrong with it.
        what: String,
    },
    /// A call through a pointer that names no function.
    #[error("{addr:#x} is not the address of a function of this program")]
    BadCallback {
        /// The pointer.
        addr: u64,
    },
    /// A lock that is already held would be waited for by its holder.
    #[error("lock at {addr} is already held: deadlock")]
    Deadlock {
        /// The lock.
        addr: KernAddr,
    },
    /// Something was not given back, or was given back or used without being held.
    #[error(transparent)]
    Misuse(Misuse),
    /// Execution ran past the last instruction.
    #[error("execution ran past the end of the program")]
    FellOffEnd,
    /// A `bpf_throw` that nothing below caught; ends the program with the cookie.
    #[error("exception with cookie {cookie:#x}")]
    Thrown {
        /// Value given to `bpf_throw`.
        cookie: u64,
    },
    /// The host refused to go on (an error of the kernel crate).
    #[error("{message}")]
    Host {
        /// What it says.
        message: String,
    },
}

/// Why an object could not be loaded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VmLoadError {
    /// An instruction the engine does not know or that is malformed.
    #[error("{place}: {reason}")]
    BadInsn {
        /// Where.
        place: Box<Place>,
        /// What is wrong.
        reason: String,
    },
    /// A program without instructions, or with more than a program may have.
    #[error("program `{program}` has {insns} instructions, allowed are 1 to {max}")]
    ProgramSize {
        /// Program name.
        program: String,
        /// Its instructions.
        insns: usize,
        /// The limit.
        max: usize,
    },
    /// A reference to something that the image does not contain.
    #[error("{place}: refers to {kind} number {index}, of which there are {count}")]
    BadReference {
        /// Where.
        place: Box<Place>,
        /// Kind of thing.
        kind: &'static str,
        /// Its number.
        index: u64,
        /// How many there are.
        count: usize,
    },
    /// A program that refers to two arenas.
    #[error("program `{program}` uses two arenas, `{first}` and `{second}`")]
    TwoArenas {
        /// Program name.
        program: String,
        /// One arena map.
        first: String,
        /// The other.
        second: String,
    },
    /// A kfunc with `__arena` arguments in a program without an arena.
    #[error("{place}: `{kfunc}`: arena pointer requires a program with an associated arena")]
    ArenaArgument {
        /// Where.
        place: Box<Place>,
        /// Name of the kfunc.
        kfunc: String,
    },
    /// A map that the kernel would refuse.
    #[error("map `{map}`: {errno}: {reason}")]
    Map {
        /// Map name.
        map: String,
        /// The kernel's error.
        errno: Errno,
        /// What is wrong.
        reason: String,
    },
    /// A map type that is not modelled.
    #[error("map `{map}`: {map_type} is not supported")]
    MapType {
        /// Map name.
        map: String,
        /// Its type.
        map_type: String,
    },
    /// A kfunc number that is in nobody's table.
    #[error("{place}: no kfunc has number {id}")]
    UnknownKfunc {
        /// Where.
        place: Box<Place>,
        /// The number.
        id: u32,
    },
    /// Guest memory is used up.
    #[error(transparent)]
    Memory(#[from] OutOfGuestMemory),
    /// More programs than text addresses.
    #[error("a VM holds at most {max} programs")]
    TooManyPrograms {
        /// The limit.
        max: usize,
    },
}

/// Why there is no machine code to look at.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("no machine code: {reason}")]
pub struct NoMachineCode {
    /// What the compiler says.
    pub reason: String,
}

/// Why a VM could not be created.
#[derive(Debug, Error)]
pub enum VmCreateError {
    /// The host gave no address space.
    #[error("cannot reserve {len} bytes of address space: {reason}")]
    Reserve {
        /// Bytes asked for.
        len: u64,
        /// What the host said.
        reason: String,
    },
    /// More CPUs than per-CPU memory, or none.
    #[error("{nr_cpus} CPUs: allowed are 1 to {max}")]
    CpuCount {
        /// CPUs asked for.
        nr_cpus: u32,
        /// The limit.
        max: u32,
    },
}
