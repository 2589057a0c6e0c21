//! Registers that count from a constant to another one and stop there: compilers turn the `<` of
//! a loop into `!=`, which alone bounds nothing.
//!
//! A register *counts to* `last` if constants are all that is ever written to it, but for one
//! addition of a constant, behind which its block ends with a comparison for equality with `last`;
//! if from each constant so many steps lead exactly there; and if neither from any function's
//! start nor from where it was equal a way leads to the addition that does not pass one of the
//! constants. Then it is at most `last` wherever it was given a constant before.
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

/// All registers of a program that count.
pub(super) fn counters(program: Program<'_>, functions: &[u32]) -> Vec<Counter> {
    (0..10)
        .filter_map(|reg| counter(program, functions, reg))
        .collect()
}

fn counter(program: Program<'_>, functions: &[u32], reg: u8) -> Option<Counter> {
    let ops = program.ops;
    let mut constants = Vec::new();
    let mut step = None;
    for (slot, op) in ops.iter().enumerate().filter(|(_, op)| may_write(op, reg)) {
        match op.code {
            OpCode::Mov32K => constants.push((slot, op.imm & 0xffff_ffff)),
            OpCode::Mov64K | OpCode::LdImm64 => constants.push((slot, op.imm)),
            OpCode::Add64K if step.is_none() => step = Some(slot),
            _ => return None,
        }
    }
    let step = step?;
    let (last, equal) = goal(program, step, reg)?;
    let by = ops[step].imm;
    let leads_there = |(_, from): &(usize, u64)| {
        let way = last.checked_sub(*from);
        way.is_some_and(|way| way > 0 && way % by == 0)
    };
    if by == 0 || !constants.iter().all(leads_there) {
        return None;
    }
    let starts = functions.iter().map(|start| *start as usize);
    let starts = starts.filter(|start| *start < ops.len()).chain([0, equal]);
    let constants: Vec<usize> = constants.iter().map(|(slot, _)| *slot).collect();
    if leads_to(program, starts.collect(), &constants, step) {
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

/// The number that a register is compared with at the end of the block of its step, and where it
/// goes on when it is equal.
fn goal(program: Program<'_>, step: usize, reg: u8) -> Option<(u64, usize)> {
    let mut slot = program.behind(step);
    while program.blocks.get(slot) == Some(&0) {
        let op = program.ops[slot];
        let target = op.off.cast_unsigned() as usize;
        match op.code {
            OpCode::Jeq64K if op.dst == reg => return Some((op.imm, target)),
            OpCode::Jne64K if op.dst == reg => return Some((op.imm, program.behind(slot))),
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
        if !matches!(class, Class::Jump | Class::Exit | Class::End) {
            from.push(program.behind(slot));
        }
    }
    false
}
