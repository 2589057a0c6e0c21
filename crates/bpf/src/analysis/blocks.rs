//! Basic blocks: runs of operations that are entered at the first and left behind the last.
//!
//! A block ends at whatever can go elsewhere, end the run, or look at how many instructions
//! were executed: jumps, calls, exits. So an engine may count a block as a whole at its
//! first operation, and nobody can tell.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there"
    )
)]

use crate::code::{Class, Op, OpCode};

/// Whether a program has an arena; without one, casts end the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arena {
    /// It has none.
    None,
    /// It has one.
    Some,
}

/// For each slot that begins a block, how many operations the block has; 0 for all others.
/// `functions` are the first slots of the program's functions, and those that jump tables lead to.
#[must_use]
pub fn block_lengths(ops: &[Op], functions: &[u32], arena: Arena) -> Vec<u32> {
    let starts = starts(ops, functions, arena);
    let mut lengths = vec![0u32; ops.len()];
    let mut block = 0;
    for slot in 0..ops.len() {
        if ops[slot].code == OpCode::Hole && !starts[slot] {
            continue;
        }
        if starts[slot] {
            block = slot;
        }
        lengths[block] += 1;
    }
    lengths
}

fn starts(ops: &[Op], functions: &[u32], arena: Arena) -> Vec<bool> {
    let mut starts = vec![false; ops.len()];
    starts[0] = true;
    let mut mark = |slot: usize| {
        if let Some(start) = starts.get_mut(slot) {
            *start = true;
        }
    };
    for start in functions {
        mark(*start as usize);
    }
    for (slot, op) in ops.iter().enumerate() {
        if matches!(
            op.code.class(),
            Class::Jump | Class::Branch | Class::CallFunction
        ) {
            mark(op.off.cast_unsigned() as usize);
        }
        if ends_block(op, arena) {
            mark(slot + 1);
        }
    }
    starts
}

/// Whether an operation is the last of its block.
fn ends_block(op: &Op, arena: Arena) -> bool {
    match op.code.class() {
        Class::Jump | Class::Branch | Class::Call | Class::CallFunction => true,
        Class::Exit | Class::Computed => true,
        // The second slot of a wide load is no operation of its own.
        Class::End => op.code != OpCode::Hole,
        Class::CastToKernel | Class::CastToUser => arena == Arena::None,
        Class::AluK | Class::AluX | Class::Move | Class::Set => false,
        Class::Load | Class::Store | Class::Atomic => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::decode;
    use crate::isa::asm;

    #[test]
    fn blocks_end_where_control_may_go_elsewhere() {
        let text = "r1 = 5 ll; again: r1 += -1; if r1 != 0 goto again; call 5; exit";
        let code = decode(&asm(text).unwrap()).unwrap();
        let lengths = block_lengths(&code.ops, &[0], Arena::None);
        assert_eq!(lengths, [1, 0, 2, 0, 1, 1, 1]);
    }
}
