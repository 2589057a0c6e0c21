//! BPF execution: address space, engines, maps, helpers, kfuncs, streams, timers.
//!
//! ```text
//! LinkedObject ──Vm::load──► programs, maps, struct_ops ──Vm::run(prog, args, host)──► r0
//!                                                             │        ▲
//!                                                    kfunc(Call) ──────┘ may run again
//! ```
//!
//! A program can reach guest memory ([`GuestMem`]) and nothing else: every access is compared
//! against it, proven to lie there, or cut to the arena's window. What a verifier would have
//! refused ends the run with an [`Abort`]; a bad *access* is contained, reported as a
//! [`Violation`], and passed over.
//!
//! Programs own things: references and locks while they run, objects of their own types, and what
//! they put into lists, trees and map values. What they do not give back, or have not got, ends
//! the run with a [`Misuse`] that names where it was acquired.
//!
//! Programs are executed by an interpreter, the reference, or as machine code ([`Engine`]),
//! with equal results.
//!
//! `unsafe` lives in `mem.rs` and `exec/native`, and nowhere else.
//!
//! ```
//! use harena_vm::{Access, GuestMem, Region};
//!
//! // An address is an allegation until memory has looked at it.
//! let mem = GuestMem::new()?;
//! let block = mem.alloc(Region::Kernel, 16, 8)?;
//! mem.write_u64(block, 42)?;
//! assert_eq!(mem.read_u64(block)?, 42);
//! assert_eq!(mem.read_u64(harena_abi::KernAddr::NULL).unwrap_err().access, Access::Read);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod error;
mod exec;
mod format;
mod held;
mod helpers;
mod host;
mod kfuncs;
pub mod layout;
mod listing;
mod load;
mod map_api;
mod maps;
#[expect(unsafe_code, reason = "the door to guest memory")]
mod mem;
mod owned;
mod program;
mod region;
mod report;
mod stream;
mod struct_ops;
mod timer;
mod violation;
mod vm;

pub use error::{
    Abort, AbortCause, MemFault, NoMachineCode, OutOfGuestMemory, Place, VmCreateError, VmLoadError,
};
pub use format::{ARGS_MAX as FORMAT_ARGS_MAX, format as bprintf};
pub use harena_arena_fault::Access;
pub use harena_jit::{Contained, Containment};
pub use held::{Effect, End, Holding, Misuse, Object, Rules, UnderLock};
pub use helpers::name_of as helper_name;
pub use host::{
    Call, ContextSet, CurrentTask, Host, KfuncArg, KfuncDesc, NoKernel, Sleepable, TimerArm,
};
pub use kfuncs::{GENERIC_KFUNC_BASE, GENERIC_KFUNC_PROTOS, generic_kfuncs};
pub use layout::Region;
pub use listing::{CodePart, CodeRange, ListedFunction, ListedSlot, Listing, PartOf};
pub use maps::{Map, MapId, MapKind, PerfCounts, PerfSample, UpdateFlags};
pub use mem::GuestMem;
pub use program::{Engine, ProgId, Program, line_text};
pub use stream::StreamId;
pub use struct_ops::{StructOpsId, StructOpsMap};
pub use timer::TimerId;
pub use violation::{Violation, ViolationKind};
pub use vm::{
    FRAMES_MAX, INSN_BUDGET_DEFAULT, Loaded, NESTED_RUNS_MAX, RunArgs, RunResult, Vm, VmConfig,
};
