//! Which registers may still be read: backwards over a whole program.
//!
//! Calls of helpers and kfuncs leave r1 to r5 as they were here, unlike in a kernel, where no
//! verified program can tell. An engine that keeps them in registers that calls destroy
//! must save those that are read later. In compiled programs these are few: a later call counts as
//! reading all five, since it is not known how many arguments it has.
//!
//! Functions are followed too: what is live behind any call is live at every exit, since code may
//! jump from one function into another.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; registers below 16"
    )
)]

use crate::code::{Class, Op, OpCode};

/// A set of registers, r0 in bit 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RegSet(u16);

impl RegSet {
    /// No register.
    pub const NONE: Self = Self(0);
    /// Every register.
    pub const ALL: Self = Self(0b111_1111_1111);
    /// r1 to r5.
    pub const ARGUMENTS: Self = Self(0b11_1110);
    /// r6 to r9, which a function's caller keeps.
    pub const SAVED: Self = Self(0b11_1100_0000);

    /// One register.
    #[must_use]
    pub const fn of(reg: u8) -> Self {
        Self(1 << (reg & 15))
    }

    /// Whether it holds this register.
    #[must_use]
    pub const fn has(self, reg: u8) -> bool {
        self.0 & Self::of(reg).0 != 0
    }

    /// All registers of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Registers of both at once.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Without those of the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The registers, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u8> {
        (0..if self.0 == 0 { 0 } else { 16 }).filter(move |reg| self.has(*reg))
    }
}

/// What an operation may read, callees and what is behind it not counted.
#[must_use]
pub fn reads(op: &Op) -> RegSet {
    let (dst, src) = (RegSet::of(op.dst), RegSet::of(op.src));
    match op.code.class() {
        Class::AluX | Class::Branch | Class::Store => dst.with(src),
        Class::AluK | Class::Computed => dst,
        // One that faults leaves its register as it was.
        Class::Load if op.is_acquire() => dst.with(src),
        Class::Move | Class::CastToKernel | Class::CastToUser | Class::Load => src,
        Class::Atomic => dst.with(src).with(RegSet::of(0)),
        Class::Call if op.code == OpCode::CallX => RegSet::ARGUMENTS.with(dst),
        Class::Call => RegSet::ARGUMENTS,
        Class::Exit => RegSet::of(0),
        Class::Set | Class::Jump | Class::CallFunction | Class::End => RegSet::NONE,
    }
}

/// What an operation certainly writes. An atomic that faults writes nothing.
#[must_use]
pub fn writes(op: &Op) -> RegSet {
    match op.code.class() {
        Class::AluK | Class::AluX | Class::Move | Class::Set | Class::Load => RegSet::of(op.dst),
        Class::CastToKernel | Class::CastToUser => RegSet::of(op.dst),
        Class::Call => RegSet::of(0),
        Class::Atomic | Class::Store | Class::Branch | Class::Jump => RegSet::NONE,
        Class::CallFunction | Class::Exit | Class::End | Class::Computed => RegSet::NONE,
    }
}

struct Liveness<'a> {
    ops: &'a [Op],
    /// Before each slot.
    before: Vec<RegSet>,
    /// Behind all calls of functions.
    at_exit: RegSet,
}

/// Ways through a program after which all registers count as live. What compilers make takes a
/// few; a chain of jumps backwards would take one a jump.
const PASSES_MAX: u32 = 64;

/// The registers that may be read behind each slot: those, and perhaps more.
#[must_use]
pub fn live_after(ops: &[Op]) -> Vec<RegSet> {
    let mut liveness = Liveness {
        ops,
        before: vec![RegSet::NONE; ops.len()],
        at_exit: RegSet::NONE,
    };
    for _ in 0..PASSES_MAX {
        if !liveness.pass() {
            return (0..ops.len()).map(|slot| liveness.after(slot)).collect();
        }
    }
    vec![RegSet::ALL; ops.len()]
}

impl Liveness<'_> {
    /// One way backwards through the program; whether anything was new.
    fn pass(&mut self) -> bool {
        let mut news = false;
        for slot in (0..self.ops.len()).rev() {
            let op = &self.ops[slot];
            let after = self.after(slot);
            let mut before = after.without(writes(op)).with(reads(op));
            if op.code == OpCode::CallFunction {
                before = after
                    .and(RegSet::SAVED)
                    .with(self.at(op.off.cast_unsigned()));
                let at_exit = self.at_exit.with(after.without(RegSet::SAVED));
                news |= self.at_exit != at_exit;
                self.at_exit = at_exit;
            }
            news |= self.before[slot] != before;
            self.before[slot] = before;
        }
        news
    }

    fn at(&self, slot: u32) -> RegSet {
        self.before.get(slot as usize).copied().unwrap_or_default()
    }

    fn after(&self, slot: usize) -> RegSet {
        let op = &self.ops[slot];
        let next = slot + if op.code == OpCode::LdImm64 { 2 } else { 1 };
        let next = self.before.get(next).copied().unwrap_or_default();
        match op.code.class() {
            Class::Jump => self.at(op.off.cast_unsigned()),
            Class::Branch => next.with(self.at(op.off.cast_unsigned())),
            Class::Exit => self.at_exit,
            Class::End => RegSet::NONE,
            // Where to, only a register knows.
            Class::Computed => RegSet::ALL,
            Class::AluK | Class::AluX | Class::Move | Class::Set | Class::Load => next,
            Class::CastToKernel | Class::CastToUser | Class::Store | Class::Atomic => next,
            // A tail call that is made leaves the function.
            Class::Call if op.is_tail_call() => next.with(self.at_exit),
            Class::Call | Class::CallFunction => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::decode;
    use crate::isa::asm;

    fn live(text: &str, slot: usize) -> Vec<u8> {
        let code = decode(&asm(text).unwrap()).unwrap();
        live_after(&code.ops)[slot].iter().collect()
    }

    #[test]
    fn nothing_but_the_result_is_read_behind_a_call() {
        assert_eq!(live("call 5; exit", 0), [0]);
        assert_eq!(live("call 5; r0 = r2; exit", 0), [2]);
        let looped = "again: call 5; r0 += r7; if r0 != 3 goto again; exit";
        assert_eq!(live(looped, 0), [0, 1, 2, 3, 4, 5, 7]);
    }

    #[test]
    fn a_load_acquire_may_leave_its_register() {
        assert_eq!(
            live("call 5; w0 = load_acquire((u8 *)(r6 + 0)); exit", 0),
            [0, 6]
        );
        assert_eq!(live("call 5; w0 = *(u8 *)(r6 + 0); exit", 0), [6]);
    }

    #[test]
    fn a_long_chain_of_jumps_backwards_is_given_up() {
        let chain = |jumps: usize| {
            let mut text = format!("goto l{jumps}; l0: call 5; exit; ");
            for jump in 1..=jumps {
                text += &format!("l{jump}: goto l{}; ", jump - 1);
            }
            text
        };
        assert_eq!(live(&chain(20), 1), [0]);
        assert_eq!(live(&chain(20), 0), [1, 2, 3, 4, 5]);
        assert_eq!(live(&chain(200), 1).len(), 11);
    }

    #[test]
    fn an_exit_may_be_that_of_a_function_behind_it() {
        let text = "call f; r0 += r3; exit; g: call 5; exit; f: r0 = 0; goto g";
        assert_eq!(live(text, 3), [0, 3]);
    }

    #[test]
    fn what_a_caller_reads_is_live_in_its_callee() {
        let text = "call f; r0 += r3; exit; f: call 5; exit";
        assert_eq!(live(text, 3), [0, 3]);
        // Saved registers are the caller's business.
        let text = "call f; r0 += r6; exit; f: call 5; exit";
        assert_eq!(live(text, 3), [0]);
        assert_eq!(live(text, 0), [0, 6]);
    }
}
