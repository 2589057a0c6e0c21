//! Facts that hold before each block, found forward over a program until nothing changes.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there"
    )
)]

use crate::code::{Class, Op, OpCode};

/// What is found out, and how.
pub(super) trait Facts {
    /// What is known at one place.
    type State: Clone;

    /// What is known where a function is called from somewhere.
    fn unknown(&self) -> Self::State;

    /// Makes `known` hold for `other`, too; whether it had to change. It may change a few times
    /// only.
    fn join(&self, known: &mut Self::State, other: &Self::State) -> bool;

    /// Follows an operation.
    fn step(&mut self, slot: usize, state: &mut Self::State);

    /// What is known where a branch goes on: behind it, and at its target. `None`: it never does.
    fn branch(&self, slot: usize, state: Self::State) -> [Option<Self::State>; 2];
}

/// A program's blocks.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) ops: &'a [Op],
    /// Operations of the block that begins at each slot, else 0.
    pub(super) blocks: &'a [u32],
}

impl Program<'_> {
    /// The slot behind an operation.
    pub(super) fn behind(self, slot: usize) -> usize {
        slot + if self.ops[slot].code == OpCode::LdImm64 {
            2
        } else {
            1
        }
    }

    /// Finds what holds before each block. `entries` are slots at which execution begins.
    pub(super) fn solve<F: Facts>(
        self,
        facts: &mut F,
        entries: impl IntoIterator<Item = (usize, F::State)>,
    ) -> Before<F::State> {
        assert_eq!(self.ops.len(), self.blocks.len());
        let mut count = 0u32;
        let numbers = self.blocks.iter().map(|len| {
            let number = count;
            count += u32::from(*len != 0);
            number
        });
        let numbers = numbers.collect();
        let states = vec![None; count as usize];
        let mut solver = Solver {
            program: self,
            before: Before { numbers, states },
            work: Vec::new(),
        };
        for (slot, state) in entries {
            solver.reach(facts, slot, &state);
        }
        while let Some(block) = solver.work.pop() {
            solver.block(facts, block);
        }
        solver.before
    }
}

/// What holds before each block.
#[derive(Clone, Debug)]
pub(super) struct Before<State> {
    /// Number of the block that begins at each slot, among blocks.
    numbers: Vec<u32>,
    /// By number; `None`: it is not reached.
    states: Vec<Option<State>>,
}

impl<State> Before<State> {
    /// What holds before the block that begins at a slot, if it is reached.
    pub(super) fn at(&self, block: usize) -> Option<&State> {
        self.states[self.numbers[block] as usize].as_ref()
    }
}

struct Solver<'a, State> {
    program: Program<'a>,
    before: Before<State>,
    work: Vec<usize>,
}

impl<State: Clone> Solver<'_, State> {
    /// Control reaches a block with this state.
    fn reach<F: Facts<State = State>>(&mut self, facts: &F, block: usize, state: &State) {
        assert_ne!(
            self.program.blocks[block], 0,
            "control arrives at blocks only"
        );
        let before = &mut self.before;
        let news = match &mut before.states[before.numbers[block] as usize] {
            Some(known) => facts.join(known, state),
            unknown @ None => {
                *unknown = Some(state.clone());
                true
            }
        };
        if news {
            self.work.push(block);
        }
    }

    /// Goes through a block, and on to those behind it.
    fn block<F: Facts<State = State>>(&mut self, facts: &mut F, start: usize) {
        let Some(mut state) = self.before.at(start).cloned() else {
            return;
        };
        let mut slot = start;
        for _ in 1..self.program.blocks[start] {
            facts.step(slot, &mut state);
            slot = self.program.behind(slot);
        }
        facts.step(slot, &mut state);
        let op = self.program.ops[slot];
        let (next, target) = (self.program.behind(slot), op.off.cast_unsigned() as usize);
        match op.code.class() {
            // Where jump tables lead, execution may begin with anything.
            Class::Exit | Class::End | Class::Computed => {}
            Class::Jump => self.reach(facts, target, &state),
            Class::Branch => {
                let ways = facts.branch(slot, state);
                for (to, state) in [next, target].into_iter().zip(ways) {
                    if let Some(state) = state {
                        self.reach(facts, to, &state);
                    }
                }
            }
            Class::CallFunction => {
                self.reach(facts, target, &facts.unknown());
                self.reach(facts, next, &state);
            }
            Class::AluK | Class::AluX | Class::Move | Class::Set | Class::Call => {
                self.reach(facts, next, &state);
            }
            Class::CastToKernel | Class::CastToUser | Class::Load | Class::Store => {
                self.reach(facts, next, &state);
            }
            Class::Atomic => self.reach(facts, next, &state),
        }
    }
}
