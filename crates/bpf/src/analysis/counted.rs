//! Registers that count from a constant to another one and stop there: compilers turn the `<` of
//! a loop into `!=`, which alone bounds nothing.
//!
//! An addition of a constant to a register, behind which its block ends with a comparison for
//! equality with `last`, *counts to* `last`, if the register holds there either what the addition
//! itself left, when it was not equal, or one of certain constants, from each of which so many
//! steps lead exactly there. So no way may lead to it from any function's start, from anything
//! else that writes the register, nor from where it was equal, that does not pass one of these
//! constants. Then it leaves at most `last`.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; steps are not 0"
    )
)]

use crate::analysis::forward::Program;
use crate::analysis::live::{RegSet, writes};
use crate::analysis::width::bits;
use crate::code::{Class, Op, OpCode};

/// A register that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    /// Where it does.
    pub(super) step: usize,
    /// Significant bits of the number that it counts to.
    pub(super) width: u8,
}

/// Operations that are looked at for counters, at most: programs with very many additions in front
/// of comparisons have some that are not found.
const WORK_MAX: usize = 1 << 24;

/// Where registers of a program count, in order.
pub(super) fn counters(program: Program<'_>, functions: &[u32]) -> Vec<Counter> {
    let mut work = 0;
    let mut found = Vec::new();
    for step in 0..program.ops.len() {
        if let Some((last, equal)) = goal(program, step) {
            work += program.ops.len();
            if work > WORK_MAX {
                break;
            }
            found.extend(counter(program, functions, step, last, equal));
        }
    }
    found
}

fn counter(
    program: Program<'_>,
    functions: &[u32],
    step: usize,
    last: u64,
    equal: usize,
) -> Option<Counter> {
    let ops = program.ops;
    let (reg, by) = (ops[step].dst, ops[step].imm);
    let leads_there = |from: u64| {
        let way = last.checked_sub(from);
        way.is_some_and(|way| way > 0 && way % by == 0)
    };
    // Where the register may be anything.
    let starts = functions.iter().map(|start| *start as usize);
    let starts = starts.filter(|start| *start < ops.len());
    let mut starts: Vec<usize> = starts.chain([0, equal]).collect();
    let mut constants = Vec::new();
    for (slot, op) in ops.iter().enumerate().filter(|(_, op)| may_write(op, reg)) {
        let constant = match op.code {
            OpCode::Mov32K => Some(op.imm & 0xffff_ffff),
            OpCode::Mov64K | OpCode::LdImm64 => Some(op.imm),
            _ => None,
        };
        if constant.is_some_and(leads_there) {
            constants.push(slot);
        } else if slot != step {
            starts.push(program.behind(slot));
        }
    }
    if leads_to(program, starts, &constants, step) {
        return None;
    }
    Some(Counter {
        step,
        width: bits(last),
    })
}

/// Whether an operation may write a register, callees included.
fn may_write(op: &Op, reg: u8) -> bool {
    let certain = writes(op).has(reg);
    let clobbered = matches!(op.code.class(), Class::Call | Class::CallFunction)
        && RegSet::ARGUMENTS.with(RegSet::of(0)).has(reg);
    let is_atomic = op.code.class() == Class::Atomic;
    certain || clobbered || (is_atomic && op.result() == Some(reg))
}

/// If an operation adds a constant to a register and its block ends with a comparison of that
/// register: the number, and where it goes on when it is equal.
fn goal(program: Program<'_>, step: usize) -> Option<(u64, usize)> {
    let op = program.ops[step];
    let reg = op.dst;
    if op.code != OpCode::Add64K || op.imm == 0 {
        return None;
    }
    let mut slot = program.behind(step);
    while program.blocks.get(slot) == Some(&0) {
        let op = program.ops[slot];
        let target = op.off.cast_unsigned() as usize;
        match op.code {
            OpCode::Jeq64K if op.dst == reg => return Some((op.imm, target)),
            OpCode::Jne64K if op.dst == reg => return Some((op.imm, program.behind(slot))),
            _ if may_write(&op, reg) => return None,
            _ => slot = program.behind(slot),
        }
    }
    None
}

/// Whether control may come from some of these slots to another without passing certain ones.
fn leads_to(program: Program<'_>, mut from: Vec<usize>, passing: &[usize], to: usize) -> bool {
    let ops = program.ops;
    let mut seen = vec![false; ops.len()];
    for slot in passing {
        seen[*slot] = true;
    }
    while let Some(slot) = from.pop() {
        if slot >= ops.len() || std::mem::replace(&mut seen[slot], true) {
            continue;
        }
        if slot == to {
            return true;
        }
        let op = ops[slot];
        let class = op.code.class();
        if matches!(class, Class::Jump | Class::Branch | Class::CallFunction) {
            from.push(op.off.cast_unsigned() as usize);
        }
        if !matches!(
            class,
            Class::Jump | Class::Exit | Class::End | Class::Computed
        ) {
            from.push(program.behind(slot));
        }
    }
    false
}
