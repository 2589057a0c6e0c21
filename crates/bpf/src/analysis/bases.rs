//! What the pointers of memory operations are, as far as it is certain.
//!
//! Forward over basic blocks. A register is the frame pointer, the context or a constant
//! address, each plus a number, or it is unknown. Only registers are followed: a store through
//! a pointer that nobody knows may hit any spilled value, and what is concluded here replaces
//! a check, so it must hold for hostile programs too.
//!
//! | what | becomes |
//! |---|---|
//! | `r10`, `r1` of the entry, `ldimm64` | known |
//! | a copy of it, with a constant added | known |
//! | what two paths leave different | unknown |
//! | anything else, and all but r6 to r9 behind a call | unknown |
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; registers below 11"
    )
)]

use std::collections::BTreeSet;

use crate::analysis::forward::{Facts, Program};
use crate::analysis::live::{RegSet, writes};
use crate::code::{Class, Op, OpCode};

/// What a pointer is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Base {
    /// Nobody knows.
    #[default]
    Unknown,
    /// So many bytes from r10.
    Frame(i64),
    /// So many bytes from the r1 that the program was entered with at slot 0.
    Context(i64),
    /// This number.
    Address(u64),
}

impl Base {
    fn plus(self, bytes: i64) -> Self {
        // Beyond that no access is proven anyway.
        const FAR: u64 = 1 << 32;
        let near = |offset: i64| {
            let sum = offset.checked_add(bytes);
            sum.filter(|sum| sum.unsigned_abs() < FAR)
        };
        match self {
            Self::Unknown => Self::Unknown,
            Self::Frame(offset) => near(offset).map_or(Self::Unknown, Self::Frame),
            Self::Context(offset) => near(offset).map_or(Self::Unknown, Self::Context),
            Self::Address(address) => Self::Address(address.wrapping_add_signed(bytes)),
        }
    }
}

const REG_COUNT: usize = 11;
type State = [Base; REG_COUNT];

fn unknown() -> State {
    let mut state = [Base::Unknown; REG_COUNT];
    state[10] = Base::Frame(0);
    state
}

/// Which ways out of a branch are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Branches {
    /// Both, whatever is known: what replaces a check must not hang on more than it needs.
    Both,
    /// Only the one that a comparison of constants leaves.
    Decided,
}

struct Bases<'a> {
    branches: Branches,
    ops: &'a [Op],
    /// Where the address of each memory operation is, its offset included.
    found: Vec<Base>,
    /// What each operation leaves in its destination.
    made: Vec<Base>,
    /// Whether control arrives there.
    reached: Vec<bool>,
}

/// Where each memory operation goes: what its base register is, plus its offset. `blocks` are
/// the program's (see [`crate::analysis::blocks`]); `functions` the first slots of its
/// functions, and those that jump tables lead to, which may be entered with anything in their
/// registers.
#[must_use]
pub fn bases(ops: &[Op], blocks: &[u32], functions: &[u32]) -> Vec<Base> {
    solve(ops, blocks, functions, Branches::Both).found
}

/// How many bytes below r10 each function names, by an access or as an address; what it computes
/// otherwise is not seen. `functions` ascend; `targets` are where jump tables lead.
#[must_use]
pub fn stack_depths(ops: &[Op], blocks: &[u32], functions: &[u32], targets: &[u32]) -> Vec<u32> {
    assert!(functions.is_sorted());
    let entries = [functions, targets].concat();
    let bases = solve(ops, blocks, &entries, Branches::Both);
    let depth = |base: &Base| match *base {
        Base::Frame(off) => u32::try_from(off.saturating_neg()).unwrap_or(0),
        Base::Unknown | Base::Context(_) | Base::Address(_) => 0,
    };
    let mut depths = vec![0; functions.len()];
    for (slot, (found, made)) in bases.found.iter().zip(&bases.made).enumerate() {
        let function = functions.partition_point(|start| *start as usize <= slot);
        if function > 0 {
            let deepest = &mut depths[function - 1];
            *deepest = depth(found).max(depth(made)).max(*deepest);
        }
    }
    depths
}

/// Which slots control may arrive at: not those behind a comparison of constants that goes the
/// other way, nor functions that are called from such places only. A function that nobody calls
/// may be a callback, and counts as reached.
#[must_use]
pub fn reached(ops: &[Op], blocks: &[u32], functions: &[u32]) -> Vec<bool> {
    let calls = ops.iter().filter(|op| op.code == OpCode::CallFunction);
    let called: BTreeSet<u32> = calls.map(|op| op.off.cast_unsigned()).collect();
    let entries = functions.iter().filter(|start| !called.contains(start));
    let entries: Vec<u32> = entries.copied().collect();
    solve(ops, blocks, &entries, Branches::Decided).reached
}

fn solve<'a>(ops: &'a [Op], blocks: &'a [u32], functions: &[u32], branches: Branches) -> Bases<'a> {
    let mut bases = Bases {
        branches,
        ops,
        found: vec![Base::Unknown; ops.len()],
        made: vec![Base::Unknown; ops.len()],
        reached: vec![false; ops.len()],
    };
    let mut entry = unknown();
    entry[1] = Base::Context(0);
    let inside = functions.iter().map(|start| *start as usize);
    let inside = inside.filter(|start| *start != 0 && *start < ops.len());
    let entries = [(0, entry)]
        .into_iter()
        .chain(inside.map(|start| (start, unknown())));
    Program { ops, blocks }.solve(&mut bases, entries);
    bases
}

impl Facts for Bases<'_> {
    type State = State;

    fn unknown(&self) -> State {
        unknown()
    }

    fn join(&self, known: &mut State, other: &State) -> bool {
        let mut changed = false;
        for (mine, theirs) in known.iter_mut().zip(other) {
            if *mine != *theirs && *mine != Base::Unknown {
                *mine = Base::Unknown;
                changed = true;
            }
        }
        changed
    }

    /// A comparison of constants that is certain goes one way, if that matters.
    fn branch(&self, slot: usize, state: State) -> [Option<State>; 2] {
        let op = &self.ops[slot];
        let decided = match (self.branches, state[usize::from(op.dst)]) {
            (Branches::Decided, Base::Address(number)) => is_taken(op, number),
            (Branches::Decided | Branches::Both, _) => None,
        };
        match decided {
            None => [Some(state), Some(state)],
            Some(true) => [None, Some(state)],
            Some(false) => [Some(state), None],
        }
    }

    fn step(&mut self, slot: usize, state: &mut State) {
        self.reached[slot] = true;
        let op = self.ops[slot];
        let (dst, src) = (usize::from(op.dst), usize::from(op.src));
        match op.code.class() {
            Class::Load => self.found[slot] = state[src].plus(op.off.into()),
            Class::Store => self.found[slot] = state[dst].plus(op.off.into()),
            Class::Atomic => {
                self.found[slot] = state[dst].plus(op.off.into());
                state[src] = Base::Unknown;
                state[0] = Base::Unknown;
                // Nothing writes r10; a plain atomic may have it as its operand.
                state[10] = Base::Frame(0);
                return;
            }
            Class::Call | Class::CallFunction => {
                state[..6].fill(Base::Unknown);
                return;
            }
            Class::AluK | Class::AluX | Class::Move | Class::Set => {}
            Class::CastToKernel | Class::CastToUser | Class::Jump | Class::Branch => {}
            Class::Exit | Class::End | Class::Computed => {}
        }
        if writes(&op) != RegSet::NONE {
            state[dst] = written(&op, state);
            self.made[slot] = state[dst];
        }
    }
}

/// Whether a comparison of a number with a constant holds, where programs ask what exists.
fn is_taken(op: &Op, number: u64) -> Option<bool> {
    const LOW: u64 = 0xffff_ffff;
    match op.code {
        OpCode::Jeq64K => Some(number == op.imm),
        OpCode::Jne64K => Some(number != op.imm),
        OpCode::Jeq32K => Some(number & LOW == op.imm & LOW),
        OpCode::Jne32K => Some(number & LOW != op.imm & LOW),
        _ => None,
    }
}

/// What an operation leaves in its destination.
fn written(op: &Op, state: &State) -> Base {
    let (dst, src) = (state[usize::from(op.dst)], state[usize::from(op.src)]);
    match (op.code, src) {
        (OpCode::Mov64X, _) => src,
        (OpCode::LdImm64 | OpCode::Mov64K, _) => Base::Address(op.imm),
        (OpCode::Mov32K, _) => Base::Address(op.imm & 0xffff_ffff),
        (OpCode::Add64K, _) => dst.plus(op.imm.cast_signed()),
        (OpCode::Sub64K, _) => dst.plus(op.imm.cast_signed().wrapping_neg()),
        (OpCode::Add64X, Base::Address(number)) => dst.plus(number.cast_signed()),
        _ => Base::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Arena, blocks};
    use crate::code::decode;
    use crate::isa::asm;

    fn found(text: &str, functions: &[u32]) -> Vec<Base> {
        let code = decode(&asm(text).unwrap()).unwrap();
        let blocks = blocks(&code.ops, functions, Arena::None);
        let found = bases(&code.ops, &blocks, functions);
        let memory = code.ops.iter().zip(found).filter(|(op, _)| {
            matches!(op.code.class(), Class::Load | Class::Store | Class::Atomic)
        });
        memory.map(|(_, base)| base).collect()
    }

    #[test]
    fn pointers_are_followed_through_copies_and_constants() {
        let text = "r6 = r1; r2 = r10; r2 += -16; r0 = *(u64 *)(r6 + 8); *(u64 *)(r2 + 4) = 1
            r3 = 0x123456789a ll; r3 += 2; r0 = *(u8 *)(r3 + 1); r4 = r3; r4 += r0
            r0 = *(u8 *)(r4 + 0); call 5; r0 = *(u64 *)(r6 + 0); r0 = *(u64 *)(r1 + 0); exit";
        assert_eq!(
            found(text, &[0]),
            [
                Base::Context(8),
                Base::Frame(-12),
                Base::Address(0x12_3456_789d),
                Base::Unknown,
                Base::Context(0),
                Base::Unknown,
            ]
        );
    }

    #[test]
    fn a_function_is_as_deep_as_the_lowest_byte_it_names() {
        let text = "*(u64 *)(r10 - 8) = 1; r2 = r10; r2 += -24; call 1; call f; r0 = 0; exit
            f: r1 = r10; *(u8 *)(r1 - 100) = 1; exit; g: exit";
        let code = decode(&asm(text).unwrap()).unwrap();
        let functions = [0, 7, 10];
        let blocks = blocks(&code.ops, &functions, Arena::None);
        assert_eq!(
            stack_depths(&code.ops, &blocks, &functions, &[]),
            [24, 100, 0]
        );
    }

    #[test]
    fn branches_of_constants_go_one_way() {
        let missed = |text: &str, functions: &[u32]| {
            let code = decode(&asm(text).unwrap()).unwrap();
            let blocks = blocks(&code.ops, functions, Arena::None);
            let reached = reached(&code.ops, &blocks, functions);
            let slots = (0..code.ops.len() - 1).filter(|slot| !reached[*slot]);
            slots.collect::<Vec<_>>()
        };
        let text = "r1 = 0; if r1 == 0 goto a; r2 = 1; a: r0 = 0; exit";
        assert_eq!(missed(text, &[0]), [2]);
        let text = "r1 = 1; if w1 != 1 goto a; r2 = 1; exit; a: r0 = 0; exit";
        assert_eq!(missed(text, &[0]), [4, 5]);
        // What is called from there only is not reached either; a callback may be.
        let text = "r1 = 0; if r1 == 0 goto a; call f; a: exit; f: exit; g: exit";
        assert_eq!(missed(text, &[0, 4, 5]), [2, 4]);
        // Two constants, or one that nobody knows, may be anything.
        let text = "if r1 == 0 goto a; r2 = 1; goto b; a: r2 = 0; b: if r2 == 0 goto c; r0 = 1
            c: exit";
        assert_eq!(missed(text, &[0]), [0; 0]);
        // Around a loop, the number changes.
        let text = "r1 = 0; again: if r1 != 0 goto a; r1 += 1; goto again; a: exit";
        assert_eq!(missed(text, &[0]), [0; 0]);
    }

    #[test]
    fn paths_that_differ_leave_nothing_known() {
        let text = "r2 = r1; again: r0 = *(u64 *)(r2 + 0); r2 += 8; if r0 != 0 goto again; exit";
        assert_eq!(found(text, &[0]), [Base::Unknown]);
        let text =
            "if r1 == 0 goto a; r2 = r10; goto b; a: r2 = r10; b: r0 = *(u64 *)(r2 - 8); exit";
        assert_eq!(found(text, &[0]), [Base::Frame(-8)]);
    }

    #[test]
    fn a_function_knows_nothing_of_its_arguments() {
        let text = "r6 = r1; call f; r0 = *(u64 *)(r6 + 0); exit; f: r0 = *(u64 *)(r1 + 0); exit";
        assert_eq!(found(text, &[0, 4]), [Base::Context(0), Base::Unknown]);
        // The first function may call itself.
        let text = "r0 = *(u64 *)(r1 + 0); r1 = 5; call -3; exit";
        assert_eq!(found(text, &[0]), [Base::Unknown]);
    }

    #[test]
    fn a_pointer_that_goes_too_far_is_unknown() {
        for far in ["0x8000000000000000", "0x7fffffffffffffff", "0x100000000"] {
            let text = format!("r2 = r10; r3 = {far} ll; r2 += r3; r0 = *(u64 *)(r2 + 0); exit");
            assert_eq!(found(&text, &[0]), [Base::Unknown], "{far}");
        }
    }

    #[test]
    fn what_an_atomic_returns_is_unknown() {
        let text = "r2 = r10; lock *(u64 *)(r2 - 8) += r2; r0 = *(u64 *)(r2 - 8); exit";
        assert_eq!(found(text, &[0]), [Base::Frame(-8), Base::Unknown]);
    }
}
