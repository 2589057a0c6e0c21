//! Compiled BPF objects to programs that an engine can run.
//!
//! ```text
//! bytes ─ Object::parse ─► Object ─ set_global … ─► Object ─ link(kernel) ─► LinkedObject
//!           elf, btf      what the file says               core_reloc, link  what to run
//! ```
//!
//! Any byte string gives a program or a typed error: never a panic, never more than
//! linear time, never memory out of proportion to the file. Nothing here executes.
//!
//! ```
//! use harena_bpf::btf::{BtfBuilder, IntEncoding, MemberDef};
//! use harena_bpf::isa::{asm, disasm};
//!
//! let program = asm("r0 = 0; if r1 == 0 goto out; r0 += 1; out: exit")?;
//! assert_eq!(disasm(&program).lines().nth(1), Some("   1: if r1 == 0 goto +1"));
//!
//! let mut builder = BtfBuilder::new();
//! let u32_ = builder.int("u32", 4, IntEncoding::Unsigned);
//! let point = builder.structure(
//!     "point",
//!     8,
//!     &[MemberDef::at("x", u32_, 0), MemberDef::at("y", u32_, 4)],
//! );
//! let btf = builder.finish();
//! assert_eq!(btf.field(point, ".y")?.byte_offset(), 4);
//! assert_eq!(btf.value(point, &[1, 0, 0, 0, 2, 0, 0, 0])?.to_string(), "{x = 1, y = 2}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "nearly every match asks for one or two of the 19 kinds of BTF"
)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod analysis;
pub mod btf;
pub mod code;
mod core_reloc;
mod elf;
mod error;
mod fields;
pub mod isa;
mod kernel;
mod lines;
mod link;
mod linked;
mod map;
mod object;
mod section;
mod static_link;

pub use error::{
    CoReError, GlobalError, InsnPlace, InsnProblem, LinkError, MapProblem, ParseError, PlainError,
    StructOpsProblem,
};
pub use fields::{FieldError, FieldSearch, Record, RecordError};
pub use kernel::{KFUNC_ADDRESS_BASE, KconfigValue, KernelSymbols, KfuncRef, KsymVar};
pub use lines::{LineTable, SourceLine};
pub use linked::{
    FuncInfo, FuncParam, LinkedGlobal, LinkedMap, LinkedObject, LinkedProgram, StructOps,
    StructOpsMember,
};
pub use map::{
    Contained, Contents, InitialSlot, MapIndex, MapOrigin, MapType, ProgramIndex, SpecialField,
    SpecialKind,
};
pub use object::{
    Autoload, Extern, ExternKind, GlobalInfo, GlobalValue, KconfigKind, Object, Program,
};
pub use section::ProgType;
pub use static_link::{ObjectFile, StaticLinkError, link_objects};
