//! One BPF program over plain memory, as conformance tests and fuzzers of other engines run it.
//!
//! ```text
//! program (slots, or `main` of an object) ─┐
//! memory ──────────────────────────────────┴─► run ─► r0, or why there is none
//! ```
//!
//! The program finds the address of its memory in r1, the length in r2 (both 0 where there is
//! none), and a stack below r10. There is no kernel: helpers are those that the engine itself
//! has, with the kernel's numbers (5 is `bpf_ktime_get_ns`, always 0), and a call of any other
//! ends the run. Accesses that a run would only report are failures here.
//!
//! ```
//! use harena_conformance::{Format, Request, run};
//! use harena_vm::{Containment, Engine};
//!
//! // r0 = *(u8 *)(r1 + 1); exit
//! let program = [0x71, 0x10, 1, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
//! let request = Request {
//!     program: &program,
//!     format: Format::Slots,
//!     memory: &[7, 8, 9],
//!     engine: Engine::Interpreter,
//!     containment: Containment::Check,
//! };
//! assert_eq!(run(&request)?, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod hex;
mod run;

pub use error::RunError;
pub use hex::{HexError, decode_hex};
pub use run::{Format, Request, run};
