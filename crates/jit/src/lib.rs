//! Decoded BPF programs to machine code, as data.
//!
//! ```text
//! ops, arena? ──Compiler::add──► ProgramCode ──Compiler::finish──► CodeImage
//!                                entries                           bytes, faults, lines
//! ```
//!
//! A template compiler: each operation becomes a few instructions, and BPF registers live
//! in machine registers. Nothing here executes or maps anything: whoever runs the code
//! fills a [`Context`] and enters at a [`ProgramCode::entry`]. What the code asks of its
//! context is documented there; `docs/design/0007-jit.md` says why it is so.
//!
//! ```
//! use harena_bpf::{analysis, code, isa};
//! use harena_jit::{Compiler, Features, Source};
//!
//! let insns = isa::asm("r0 = r1; r0 += 2; exit")?;
//! let code = code::decode(&insns)?;
//! let mut compiler = Compiler::new(Features::detect());
//! let program = compiler.add(&Source { functions: &[0], ..Source::new(&code.ops) });
//! let image = compiler.finish()?;
//! assert!(image.bytes.len() > program.entry as usize);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod contained;
mod context;
mod image;
mod x86_64;

pub use contained::Contained;
pub use context::{
    BOUNDS_DISTANCE, BOUNDS_SIZE, BoundOf, Context, FRAMES_MAX, GUEST_BITS, INDEX_BITS, UNIT_SHIFT,
    bounds_offset, reply, status,
};
pub use image::{
    CodeImage, Containment, Fault, JitError, Line, ProgramCode, Proof, Source, UserCast,
};
pub use x86_64::{Compiler, Features};
