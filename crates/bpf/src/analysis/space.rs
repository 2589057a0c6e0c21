//! Which memory accesses go through arena pointers.
//!
//! A kernel's verifier knows the type of every register, so an arena access needs no tag
//! in the address. Here a forward analysis finds what a base register can hold at each
//! slot, by following `addr_space_cast`:
//!
//! | a register can hold | then the access goes |
//! |---|---|
//! | only what a cast made | to the arena, by its low 32 bits |
//! | nothing that a cast made | to kernel memory, never to the arena |
//! | either | to the arena if the value is below 4 GiB |
//!
//! Constants are neither. Registers, and stack slots at constant offsets, are followed
//! through moves, arithmetic, spills, calls and returns; what comes out of other memory is
//! no arena pointer, since clang casts again after such a load.

#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; offsets of 16 bits"
    )
)]

use std::collections::{BTreeMap, BTreeSet};

use crate::code::{Class, Op, OpCode};

/// Where an access through a register leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// The value decides.
    Either,
    /// The program's arena.
    Arena,
    /// Everything else.
    Kernel,
}

/// Programs longer than this are not analysed: the value decides everywhere.
const SLOTS_MAX: usize = 200_000;

const SLOT_COUNT: usize = 64;
const REG_COUNT: usize = 11;

/// What a value may be: a set of two bits.
type Kinds = u8;
const CONSTANT: Kinds = 0;
const ARENA: Kinds = 1;
const OTHER: Kinds = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    regs: [Kinds; REG_COUNT],
    slots: [Kinds; SLOT_COUNT],
}

impl State {
    /// At a function's start, with arguments of these kinds.
    fn entry(args: [Kinds; 5]) -> Self {
        let mut regs = [CONSTANT; REG_COUNT];
        regs[1..6].copy_from_slice(&args);
        regs[10] = OTHER;
        Self {
            regs,
            slots: [CONSTANT; SLOT_COUNT],
        }
    }

    /// Adds what `other` may hold; whether that was news.
    fn join(&mut self, other: &Self) -> bool {
        let before = *self;
        for (mine, theirs) in self.regs.iter_mut().zip(other.regs) {
            *mine |= theirs;
        }
        for (mine, theirs) in self.slots.iter_mut().zip(other.slots) {
            *mine |= theirs;
        }
        *self != before
    }

    fn reg(&self, reg: u8) -> Kinds {
        self.regs.get(usize::from(reg)).copied().unwrap_or(OTHER)
    }

    fn set(&mut self, reg: u8, kinds: Kinds) {
        if let Some(place) = self.regs.get_mut(usize::from(reg)) {
            *place = kinds;
        }
    }

    /// The stack slot of an access through r10.
    fn slot(&mut self, base: u8, off: i32) -> Option<&mut Kinds> {
        if base != 10 || off % 8 != 0 {
            return None;
        }
        self.slots.get_mut(usize::try_from(-off / 8 - 1).ok()?)
    }
}

struct Analysis<'a> {
    ops: &'a [Op],
    states: Vec<Option<State>>,
    work: Vec<usize>,
    /// Where jump tables lead.
    targets: &'a [u32],
    /// Per function, by first slot: what it may return, and who calls it.
    functions: BTreeMap<usize, Function>,
}

#[derive(Clone, Default)]
struct Function {
    returns: Kinds,
    call_sites: BTreeSet<usize>,
}

/// Marks every memory operation of a program that has an arena. `functions` are the first slots
/// of its functions; those in `entries` are entered from outside, with no arena pointers;
/// `targets` are where jump tables lead.
pub fn mark(ops: &mut [Op], functions: &[u32], entries: &[u32], targets: &[u32]) {
    if ops.len() > SLOTS_MAX {
        return;
    }
    let mut analysis = Analysis {
        ops,
        states: vec![None; ops.len()],
        work: Vec::new(),
        targets,
        functions: functions
            .iter()
            .map(|start| (*start as usize, Function::default()))
            .collect(),
    };
    for start in entries {
        analysis.reach(*start as usize, &State::entry([OTHER; 5]));
    }
    analysis.run();
    let states = analysis.states;
    for (op, state) in ops.iter_mut().zip(states) {
        let Some(state) = state else { continue };
        let Some(base) = op.base() else {
            continue;
        };
        op.space = match state.reg(base) {
            ARENA => Space::Arena,
            CONSTANT | OTHER => Space::Kernel,
            _ => Space::Either,
        };
    }
}

impl Analysis<'_> {
    /// Control reaches `slot` with `state`.
    fn reach(&mut self, slot: usize, state: &State) {
        let Some(known) = self.states.get_mut(slot) else {
            return;
        };
        let news = match known {
            Some(known) => known.join(state),
            None => {
                *known = Some(*state);
                true
            }
        };
        if news {
            self.work.push(slot);
        }
    }

    fn run(&mut self) {
        while let Some(slot) = self.work.pop() {
            let Some(state) = self.states[slot] else {
                continue;
            };
            self.step(slot, state);
        }
    }

    fn step(&mut self, slot: usize, mut state: State) {
        let op = self.ops[slot];
        let next = slot + 1;
        match op.code.class() {
            Class::AluK => {}
            Class::AluX => {
                let kinds = state.reg(op.dst) | (state.reg(op.src) & ARENA);
                state.set(op.dst, kinds);
            }
            Class::Move => state.set(op.dst, state.reg(op.src)),
            Class::Set => state.set(op.dst, constant_kind(&op)),
            Class::CastToKernel => state.set(op.dst, ARENA),
            Class::CastToUser => state.set(op.dst, OTHER),
            Class::Load => {
                let whole = op.code == OpCode::Ldx64;
                let slot = state.slot(op.src, op.off).filter(|_| whole);
                let kinds = slot.map_or(OTHER, |kinds| *kinds);
                // A load-acquire that faults leaves what was there.
                let old = state.reg(op.dst);
                let kept = if op.is_acquire() { old } else { CONSTANT };
                state.set(op.dst, kinds | kept);
            }
            Class::Store => {
                let kinds = if op.code == OpCode::Stx64 {
                    state.reg(op.src)
                } else {
                    OTHER
                };
                if let Some(slot) = state.slot(op.dst, op.off) {
                    *slot = kinds;
                }
            }
            Class::Atomic => {
                if let Some(reg) = op.result() {
                    state.set(reg, OTHER);
                }
            }
            Class::Call => after_call(&mut state, OTHER),
            Class::CallFunction => return self.call(slot, &op, state),
            Class::Branch => self.reach(target(&op), &state),
            Class::Jump => return self.reach(target(&op), &state),
            Class::Computed => {
                for target in self.targets {
                    self.reach(*target as usize, &state);
                }
                return;
            }
            Class::Exit => return self.exit(slot, state.reg(0)),
            Class::End => return,
        }
        let wide = op.code == OpCode::LdImm64;
        self.reach(if wide { next + 1 } else { next }, &state);
    }

    fn call(&mut self, slot: usize, op: &Op, mut state: State) {
        let callee = target(op);
        let args = [1, 2, 3, 4, 5].map(|reg| state.reg(reg));
        self.reach(callee, &State::entry(args));
        let Some(function) = self.functions.get_mut(&callee) else {
            return;
        };
        function.call_sites.insert(slot);
        after_call(&mut state, function.returns);
        self.reach(slot + 1, &state);
    }

    /// A function returns: its callers go on with what it may return.
    fn exit(&mut self, slot: usize, returned: Kinds) {
        let Some((_, function)) = self.functions.range_mut(..=slot).next_back() else {
            return;
        };
        if function.returns | returned != function.returns {
            function.returns |= returned;
            self.work.extend(&function.call_sites);
        }
    }
}

fn after_call(state: &mut State, returned: Kinds) {
    state.regs[0] = returned;
    state.regs[1..6].fill(CONSTANT);
}

/// `ldimm64` of an address is a pointer, a small number is not.
fn constant_kind(op: &Op) -> Kinds {
    let is_number = op.code != OpCode::LdImm64 || (op.src == 0 && op.imm <= u64::from(u32::MAX));
    if is_number { CONSTANT } else { OTHER }
}

fn target(op: &Op) -> usize {
    op.off.cast_unsigned() as usize
}
