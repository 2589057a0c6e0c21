//! Newtypes and kernel constants that cross crates.
//!
//! An address, page, CPU or time is never a bare integer in a signature: each of
//! these types says *which* address space or numbering its value belongs to, and
//! offers no conversion that would need a table or a base to be right.
//!
//! ```
//! use harena_abi::{ArenaOffset, UserAddr};
//!
//! // Only the low 32 bits of a user address count on the host side.
//! let p = UserAddr::new(0x1_0000_7008);
//! assert_eq!(ArenaOffset::of(p), ArenaOffset::new(0x7008));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod addr;
pub mod bpf;
mod cpu;
mod errno;
pub mod scx;
mod time;

pub use addr::{ArenaOffset, KernAddr, PAGE_SIZE, PageIndex, UserAddr};
pub use cpu::{Cid, Cpu, DsqId, Tid};
pub use errno::Errno;
pub use time::{Nanos, SimTime};
