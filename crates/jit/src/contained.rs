//! How a memory operation is kept inside: decided here, for the compiler and for whoever asks.
//!
//! | base | access |
//! |---|---|
//! | r10, inside the frame (checked at decoding), or proven to be there | at the frame's host address |
//! | proven to be handed out | base + (host - guest) |
//! | an arena pointer | arena + low 32 bits + offset; an empty page faults, and the fault leads to the rare path |
//! | no arena pointer, with [`Containment::Mask`] | guest + low 36 bits + offset; what is not there faults, and the fault leads to the rare path |
//! | anything else | the address is compared with the bound of its unit of the guest; else the rare path |

use harena_bpf::analysis::Space;
use harena_bpf::code::{AtomicOp, Class, Op};

use crate::image::{Containment, Proof, Source};

/// The frame pointer.
const R10: u8 = 10;

/// What keeps a memory operation inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contained {
    /// Nothing need: it lies in the frame, so many bytes from r10.
    Frame(i32),
    /// Nothing need: it lies in a part of the heap that was handed out.
    Proven,
    /// Only the low 32 bits count, in the arena.
    Arena,
    /// Its address is cut to the guest.
    Masked,
    /// Its address is compared with a bound.
    Bound,
    /// The host makes it: there is no code for it.
    Host,
}

impl Source<'_> {
    /// How the operation in a slot is contained; `None` if it is none on memory.
    #[must_use]
    pub fn contained(&self, slot: usize) -> Option<Contained> {
        let op = self.ops.get(slot)?;
        let base = op.base()?;
        let proof = self.proofs.get(slot).copied().unwrap_or_default();
        let off = match proof {
            Proof::Frame(off) => Some(off),
            Proof::None | Proof::Heap => Some(op.off).filter(|_| base == R10),
        };
        if let Some(off) = off {
            let good = has_code(op) && is_aligned(op, off);
            return Some(if good {
                Contained::Frame(off)
            } else {
                Contained::Host
            });
        }
        let is_atomic = op.code.class() == Class::Atomic;
        let is_heap = proof == Proof::Heap;
        let is_arena = self.arena.is_some() && op.space == Space::Arena;
        let is_masked = self.containment == Containment::Mask && op.space == Space::Kernel;
        Some(match () {
            () if !has_code(op) => Contained::Host,
            () if is_heap && !is_atomic => Contained::Proven,
            () if is_arena => Contained::Arena,
            () if is_heap => Contained::Proven,
            () if is_masked => Contained::Masked,
            () => Contained::Bound,
        })
    }
}

/// Whether code for it exists: fetching `or`, `and` and `xor` are loops, and rare.
fn has_code(op: &Op) -> bool {
    match op.atomic() {
        Some((AtomicOp::Or | AtomicOp::And | AtomicOp::Xor, fetching)) => !fetching,
        Some(_) | None => true,
    }
}

/// Whether a word in the frame that an atomic changes is aligned; nothing else must be.
fn is_aligned(op: &Op, off: i32) -> bool {
    op.code.class() != Class::Atomic || off.rem_euclid(i32::from(op.size)) == 0
}
