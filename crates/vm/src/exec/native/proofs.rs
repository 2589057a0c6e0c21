//! What needs no check in machine code: accesses whose place is known when code is made.
//!
//! | base | proven |
//! |---|---|
//! | r10 and a number | if it is inside the frame |
//! | a constant address | if the bytes were handed out already; they stay so |
//! | the context and a small number | if the context, when the program is entered, has as many bytes; else that run is interpreted |

use harena_bpf::analysis::{self, Arena, Base, Space};
use harena_bpf::code::{Class, FRAME_SIZE, Op};
use harena_jit::Proof;

use crate::mem::GuestMem;

/// Bytes of a context that are looked at when a program is entered, at most.
const CONTEXT_MAX: i64 = 4096;

/// How far from its start a program loads from and stores to its context without a check.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct ContextUse {
    loads: u64,
    stores: u64,
}

impl ContextUse {
    /// Whether a context has these bytes.
    pub(super) fn fits(self, mem: &GuestMem, context: u64) -> bool {
        (self.loads == 0 || mem.loads_reach(context, self.loads))
            && (self.stores == 0 || mem.stores_reach(context, self.stores))
    }

    fn grow(&mut self, op: &Op, end: u64) {
        if op.code.class() == Class::Load {
            self.loads = self.loads.max(end);
        } else {
            self.stores = self.stores.max(end);
        }
    }
}

/// What is known of each operation of a program.
pub(super) fn proofs(
    mem: &GuestMem,
    ops: &[Op],
    entries: &[u32],
    arena: Arena,
) -> (Vec<Proof>, ContextUse) {
    let blocks = analysis::blocks(ops, entries, arena);
    let bases = analysis::bases(ops, &blocks, entries);
    let mut context = ContextUse::default();
    let proofs = ops.iter().zip(bases).map(|(op, base)| match base {
        // Only the low half of such a pointer counts.
        _ if op.space == Space::Arena => Proof::None,
        Base::Unknown => Proof::None,
        Base::Frame(off) => in_frame(op, off),
        Base::Context(off) => in_context(op, off, &mut context),
        Base::Address(address) => handed_out(mem, op, address),
    });
    let proofs = proofs.collect();
    (proofs, context)
}

fn in_frame(op: &Op, off: i64) -> Proof {
    let is_inside = off >= -i64::from(FRAME_SIZE) && off + i64::from(op.size) <= 0;
    match i32::try_from(off) {
        Ok(off) if is_inside => Proof::Frame(off),
        Ok(_) | Err(_) => Proof::None,
    }
}

fn in_context(op: &Op, off: i64, context: &mut ContextUse) -> Proof {
    let end = off + i64::from(op.size);
    match u64::try_from(end) {
        Ok(bytes) if off >= 0 && end <= CONTEXT_MAX => {
            context.grow(op, bytes);
            Proof::Heap
        }
        Ok(_) | Err(_) => Proof::None,
    }
}

fn handed_out(mem: &GuestMem, op: &Op, address: u64) -> Proof {
    let len = u64::from(op.size);
    let good = if op.code.class() == Class::Load {
        mem.loads_reach(address, len)
    } else {
        mem.stores_reach(address, len)
    };
    if good { Proof::Heap } else { Proof::None }
}
