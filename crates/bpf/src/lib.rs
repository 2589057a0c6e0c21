//! Compiled BPF objects to programs that an engine can run.
//!
//! ```text
//! bytes ──Object::parse──► Object ──set_global, set_op, …──► Object ──link(kernel)──► LinkedObject
//!          elf, btf         (what the file says)                core_reloc, link       (what to run)
//! ```
//!
//! Any byte string gives a program or a typed error: never a panic, never more than
//! linear time, never memory out of proportion to the file. Nothing here executes.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "nearly every match asks for one or two of the 19 kinds of BTF"
)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod btf;
mod core_reloc;
mod elf;
mod error;
pub mod isa;
mod kernel;
mod lines;
mod link;
mod linked;
mod map;
mod object;
mod section;

pub use error::{
    CoReError, GlobalError, InsnPlace, InsnProblem, LinkError, MapProblem, ParseError,
    StructOpsProblem,
};
pub use kernel::{KFUNC_ADDRESS_BASE, KconfigValue, KernelSymbols, KfuncRef, KsymVar};
pub use lines::{LineTable, SourceLine};
pub use linked::{
    FuncInfo, FuncParam, LinkedGlobal, LinkedMap, LinkedObject, LinkedProgram, StructOps,
    StructOpsMember,
};
pub use map::{
    Contents, InitialSlot, MapIndex, MapOrigin, MapType, ProgramIndex, SpecialField, SpecialKind,
};
pub use object::{
    Autoload, Extern, ExternKind, GlobalInfo, GlobalValue, KconfigKind, Object, Program,
};
pub use section::ProgType;
