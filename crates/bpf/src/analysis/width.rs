//! How many low bits of each register may be set, so that sums of a pointer and a small number
//! need no check of their own.
//!
//! Forward over basic blocks. Compilers make an index small in one of these ways: by operations of
//! 32 bits, a load of less, a mask, a comparison, or by counting from one constant to another
//! ([`super::counted`]). As with [`super::bases`], what is concluded must hold for hostile
//! programs, too.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; registers below 11; at most 64 bits"
    )
)]

use crate::analysis::counted::{Counter, counters};
use crate::analysis::forward::{Facts, Program};
use crate::code::{Class, Op, OpCode};

/// Bits of a register of which nothing is known.
const ALL: u8 = 64;

/// How many low bits of each register may be set: the others are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Widths([u8; 11]);

impl Widths {
    const UNKNOWN: Self = Self([ALL; 11]);

    /// Those of a register.
    #[must_use]
    pub const fn of(&self, reg: u8) -> u8 {
        self.0[reg as usize]
    }
}

#[derive(Debug)]
struct Rules<'a> {
    ops: &'a [Op],
    /// By slot.
    counters: Vec<Counter>,
}

/// The widths of registers before each slot. `blocks` are the program's (see
/// [`crate::analysis::blocks`]); `functions` the first slots of its functions, and those that jump
/// tables lead to, which may be entered with anything in their registers.
#[must_use]
pub fn widths(ops: &[Op], blocks: &[u32], functions: &[u32]) -> Vec<Widths> {
    let entries = functions.iter().map(|start| *start as usize);
    let entries = entries.filter(|start| *start < ops.len());
    let entries = [0].into_iter().chain(entries);
    let program = Program { ops, blocks };
    let mut rules = Rules {
        ops,
        counters: counters(program, functions),
    };
    let at_blocks = program.solve(&mut rules, entries.map(|slot| (slot, Widths::UNKNOWN)));
    let mut known = Widths::UNKNOWN;
    let slots = blocks.iter().enumerate().map(|(slot, block)| {
        if *block != 0 {
            known = at_blocks.at(slot).copied().unwrap_or(Widths::UNKNOWN);
        }
        let before = known;
        rules.follow(slot, &mut known);
        before
    });
    slots.collect()
}

impl Facts for Rules<'_> {
    type State = Widths;

    fn unknown(&self) -> Widths {
        Widths::UNKNOWN
    }

    /// What grows is taken to grow on: to 32 bits, and then to all.
    fn join(&self, known: &mut Widths, other: &Widths) -> bool {
        let mut changed = false;
        for (mine, theirs) in known.0.iter_mut().zip(other.0) {
            if *mine < theirs {
                *mine = if theirs <= 32 { 32 } else { ALL };
                changed = true;
            }
        }
        changed
    }

    fn step(&mut self, slot: usize, state: &mut Widths) {
        self.follow(slot, state);
    }

    fn branch(&self, slot: usize, state: Widths) -> [Option<Widths>; 2] {
        let op = &self.ops[slot];
        let [mut behind, mut there] = [state; 2];
        let (reg, width) = (usize::from(op.dst), state.of(op.dst));
        let low = op.imm & 0xffff_ffff;
        // A comparison of low halves says something about those who have no other.
        let (imm, is_certain) = match op.code {
            OpCode::Jlt32K | OpCode::Jle32K | OpCode::Jeq32K => (low, width <= 32),
            OpCode::Jge32K | OpCode::Jgt32K | OpCode::Jne32K => (low, width <= 32),
            _ => (op.imm, true),
        };
        let (way, most) = match op.code {
            OpCode::Jlt64K | OpCode::Jlt32K => (&mut there, imm.saturating_sub(1)),
            OpCode::Jle64K | OpCode::Jle32K => (&mut there, imm),
            OpCode::Jeq64K | OpCode::Jeq32K => (&mut there, imm),
            OpCode::Jge64K | OpCode::Jge32K => (&mut behind, imm.saturating_sub(1)),
            OpCode::Jgt64K | OpCode::Jgt32K => (&mut behind, imm),
            OpCode::Jne64K | OpCode::Jne32K => (&mut behind, imm),
            _ => return [Some(behind), Some(there)],
        };
        if is_certain && op.dst != 10 {
            way.0[reg] = width.min(bits(most));
        }
        [Some(behind), Some(there)]
    }
}

/// Significant bits of a number.
pub(super) fn bits(number: u64) -> u8 {
    u8::try_from(64 - number.leading_zeros()).expect("at most 64")
}

impl Rules<'_> {
    fn follow(&self, slot: usize, widths: &mut Widths) {
        let op = &self.ops[slot];
        match op.code.class() {
            Class::Call | Class::CallFunction => widths.0[..6].fill(ALL),
            Class::Atomic => {
                if let Some(reg) = op.result() {
                    widths.0[usize::from(reg)] = ALL;
                }
            }
            Class::AluK | Class::AluX | Class::Move | Class::Set | Class::Load => {
                let counter = self
                    .counters
                    .binary_search_by_key(&slot, |counter| counter.step);
                let width = match counter {
                    Ok(counter) => self.counters[counter].width,
                    Err(_) => written(op, widths),
                };
                widths.0[usize::from(op.dst)] = width;
            }
            Class::CastToKernel => widths.0[usize::from(op.dst)] = 32,
            Class::CastToUser => widths.0[usize::from(op.dst)] = ALL,
            Class::Store | Class::Branch | Class::Jump | Class::Computed => {}
            Class::Exit | Class::End => {}
        }
    }
}

/// The width of what an operation leaves in its destination.
fn written(op: &Op, widths: &Widths) -> u8 {
    let (dst, src) = (widths.of(op.dst), widths.of(op.src));
    match op.code.class() {
        Class::Set if op.code == OpCode::Mov32K => bits(op.imm & 0xffff_ffff),
        Class::Set => bits(op.imm),
        // One that faults leaves what was there.
        Class::Load if op.is_acquire() => loaded(op).max(dst),
        Class::Load => loaded(op),
        Class::Move => moved(op.code, src),
        Class::AluK => by_constant(op, dst),
        _ => by_register(op.code, dst, src),
    }
}

fn loaded(op: &Op) -> u8 {
    match op.code {
        OpCode::Ldsx8 | OpCode::Ldsx16 | OpCode::Ldsx32 => ALL,
        _ => op.size.saturating_mul(8).min(ALL),
    }
}

fn moved(code: OpCode, src: u8) -> u8 {
    match code {
        OpCode::Mov64X => src,
        OpCode::Mov32X => src.min(32),
        // What has no sign bit stays as it is.
        OpCode::MovSx8To64 | OpCode::MovSx8To32 if src < 8 => src,
        OpCode::MovSx16To64 | OpCode::MovSx16To32 if src < 16 => src,
        OpCode::MovSx32To64 if src < 32 => src,
        OpCode::MovSx8To32 | OpCode::MovSx16To32 => 32,
        _ => ALL,
    }
}

/// A sum of at most so many bits has one more than the wider part.
fn sum(a: u8, b: u8) -> u8 {
    (a.max(b) + 1).min(ALL)
}

fn by_constant(op: &Op, dst: u8) -> u8 {
    let low = op.imm & 0xffff_ffff;
    let half = dst.min(32);
    let count = op.imm.to_le_bytes()[0];
    let (count64, count32) = (count & 63, count & 31);
    match op.code {
        OpCode::Add64K => sum(dst, bits(op.imm)),
        OpCode::Add32K => sum(half, bits(low)).min(32),
        OpCode::Mul64K => dst.saturating_add(bits(op.imm)).min(ALL),
        OpCode::Mul32K => half.saturating_add(bits(low)).min(32),
        OpCode::Or64K | OpCode::Xor64K => dst.max(bits(op.imm)),
        OpCode::Or32K | OpCode::Xor32K => half.max(bits(low)),
        OpCode::And64K => dst.min(bits(op.imm)),
        OpCode::And32K => half.min(bits(low)),
        OpCode::Lsh64K => (dst + count64).min(ALL),
        OpCode::Lsh32K => (half + count32).min(32),
        OpCode::Rsh64K => dst.saturating_sub(count64),
        OpCode::Rsh32K => half.saturating_sub(count32),
        OpCode::Arsh64K if dst < ALL => dst.saturating_sub(count64),
        OpCode::Arsh32K if dst < 32 => dst.saturating_sub(count32),
        // Also by 0, which makes 0 of a quotient and leaves a remainder.
        OpCode::Div64K | OpCode::Mod64K | OpCode::Keep64 => dst,
        OpCode::Keep16 => dst.min(16),
        OpCode::Swap16 => 16,
        OpCode::Div32K | OpCode::Mod32K | OpCode::Keep32 => half,
        code if is_narrow(code) => 32,
        _ => ALL,
    }
}

fn by_register(code: OpCode, dst: u8, src: u8) -> u8 {
    let (half, other) = (dst.min(32), src.min(32));
    match code {
        OpCode::Add64X => sum(dst, src),
        OpCode::Add32X => sum(half, other).min(32),
        OpCode::Mul64X => dst.saturating_add(src).min(ALL),
        OpCode::Mul32X => half.saturating_add(other).min(32),
        OpCode::Or64X | OpCode::Xor64X => dst.max(src),
        OpCode::Or32X | OpCode::Xor32X => half.max(other),
        OpCode::And64X => dst.min(src),
        OpCode::And32X => half.min(other),
        OpCode::Div64X | OpCode::Mod64X | OpCode::Rsh64X => dst,
        OpCode::Div32X | OpCode::Mod32X | OpCode::Rsh32X => half,
        code if is_narrow(code) => 32,
        _ => ALL,
    }
}

/// Whether arithmetic is of 32 bits, which leaves the high half 0.
fn is_narrow(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Sub32K
            | OpCode::SDiv32K
            | OpCode::SMod32K
            | OpCode::Arsh32K
            | OpCode::Neg32
            | OpCode::Swap32
            | OpCode::Sub32X
            | OpCode::SDiv32X
            | OpCode::SMod32X
            | OpCode::Lsh32X
            | OpCode::Arsh32X
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Arena, blocks};
    use crate::code::decode;
    use crate::isa::asm;

    /// The width of a register before each exit.
    fn at_exits(text: &str, functions: &[u32], reg: u8) -> Vec<u8> {
        let code = decode(&asm(text).unwrap()).unwrap();
        let blocks = blocks(&code.ops, functions, Arena::None);
        let before = widths(&code.ops, &blocks, functions);
        let exits = code.ops.iter().zip(before);
        let exits = exits.filter(|(op, _)| op.code == OpCode::Exit);
        exits.map(|(_, widths)| widths.of(reg)).collect()
    }

    #[test]
    fn operations_leave_so_many_bits() {
        for (text, width) in [
            ("r2 = r1", 64),
            ("w2 = w1", 32),
            ("w2 = w1; r2 <<= 3", 35),
            ("r2 = r1; r2 &= 255; r2 <<= 4; r2 += 1", 13),
            ("r2 = r1; r2 &= -2", 64),
            ("w2 = w1; w2 += -1", 32),
            ("w2 = w1; r2 += -1", 64),
            ("r2 = *(u16 *)(r1 + 0); r2 *= 3", 18),
            ("w2 = load_acquire((u16 *)(r1 + 0))", 64),
            ("r2 = 7; w2 = load_acquire((u16 *)(r1 + 0))", 16),
            ("w2 = w1; w2 = load_acquire((u16 *)(r1 + 0))", 32),
            ("r2 = *(s8 *)(r1 + 0)", 64),
            ("r2 = *(u8 *)(r1 + 0); r2 = (s16)r2", 8),
            ("r2 = *(u8 *)(r1 + 0); r2 = (s8)r2", 64),
            ("r2 = -1", 64),
            ("w2 = -1", 32),
            ("w2 = w1; w2 >>= 28", 4),
            ("w2 = w1; w2 s>>= 28", 32),
            ("w2 = w1; r2 s>>= 28", 4),
            ("w2 = w1; r2 |= r1", 64),
            ("w2 = w1; r3 = 7; r2 &= r3", 3),
            ("r2 = 5; r2 -= 6", 64),
            ("r2 = 5; call 5", 64),
            ("r2 = 5; lock *(u64 *)(r10 - 8) += r2", 3),
            ("r2 = 5; r2 = atomic_fetch_add((u64 *)(r10 - 8), r2)", 64),
        ] {
            let text = format!("{text}; exit");
            assert_eq!(at_exits(&text, &[0], 2), [width], "{text}");
        }
    }

    #[test]
    fn comparisons_say_something_of_their_side() {
        for (text, widths) in [
            ("if r2 < 256 goto a; exit; a: exit", [64, 8]),
            ("if r2 <= 256 goto a; exit; a: exit", [64, 9]),
            ("if r2 > 7 goto a; exit; a: exit", [3, 64]),
            ("if r2 >= 8 goto a; exit; a: exit", [3, 64]),
            ("if r2 == 8 goto a; exit; a: exit", [64, 4]),
            ("if r2 != 8 goto a; exit; a: exit", [4, 64]),
            ("if w2 < 8 goto a; exit; a: exit", [64, 64]),
            ("w2 = w1; if w2 < 8 goto a; exit; a: exit", [32, 3]),
            ("if r2 s< 8 goto a; exit; a: exit", [64, 64]),
            ("if r2 < -1 goto a; exit; a: exit", [64, 64]),
        ] {
            assert_eq!(at_exits(text, &[0], 2), widths, "{text}");
        }
    }

    #[test]
    fn what_counts_to_a_constant_stays_below() {
        let counted = [
            "r2 = 0; again: r3 = r2; r2 += 8; if r2 != 4096 goto again; exit",
            "r2 = 8; again: r3 = r2; r2 += 8; if r2 == 4096 goto out; goto again; out: exit",
            "goto in; body: r3 = r2; r2 += 1; if r2 != 64 goto body; exit; in: w2 = 3; goto body",
        ];
        for text in counted {
            assert!(at_exits(text, &[0], 2)[0] <= 32, "{text}");
        }
        let endless = [
            // It steps over.
            "r2 = 1; again: r3 = r2; r2 += 8; if r2 != 4096 goto again; exit",
            // It begins there, or behind.
            "r2 = 64; again: r3 = r2; r2 += 8; if r2 != 64 goto again; exit",
            "r2 = 72; again: r3 = r2; r2 += 8; if r2 != 64 goto again; exit",
            // It goes on from there.
            "r2 = 0; again: r3 = r2; r2 += 8; if r2 != 64 goto again; goto again; exit",
            // It is never given a constant, on one way.
            "if r1 == 0 goto again; r2 = 0; again: r2 += 8; if r2 != 64 goto again; exit",
            "r2 += 8; if r2 != 64 goto -2; r2 = 0; goto -4; exit",
            // Something else writes it.
            "r2 = 0; again: r2 += 8; if r2 == 64 goto out; r2 = *(u64 *)(r1 + 0); goto again
                out: exit",
            "r2 = 0; again: call 5; r2 += 8; if r2 != 64 goto again; exit",
            // The comparison is of another one, of less, or elsewhere.
            "r2 = 0; again: r2 += 8; if r3 != 64 goto again; exit",
            "r2 = 0; again: r2 += 8; if w2 != 64 goto again; exit",
            "r2 = 0; again: r2 += 8; if r1 == 0 goto again; if r2 != 64 goto again; exit",
        ];
        for text in endless {
            let code = decode(&asm(text).unwrap()).unwrap();
            let all = blocks(&code.ops, &[0], Arena::None);
            let program = Program {
                ops: &code.ops,
                blocks: &all,
            };
            let counters = counters(program, &[0]);
            assert!(counters.is_empty(), "{text}");
        }
        // What it held before does not matter.
        let text =
            "r2 = r1; *(u64 *)(r10 - 8) = r2; r2 = 0; again: r2 += 8; if r2 != 64 goto again; exit";
        assert!(at_exits(text, &[0], 2)[0] <= 32);
        // A callee begins with anything, also where its caller's constant would do.
        let text = "r2 = 0; call f; exit; f: r2 += 8; if r2 != 64 goto f; exit";
        assert_eq!(at_exits(text, &[0, 3], 2)[1], 7, "equal when it leaves");
        let code = decode(&asm(text).unwrap()).unwrap();
        let all = blocks(&code.ops, &[0, 3], Arena::None);
        let program = Program {
            ops: &code.ops,
            blocks: &all,
        };
        assert!(counters(program, &[0, 3]).is_empty());
    }
}
