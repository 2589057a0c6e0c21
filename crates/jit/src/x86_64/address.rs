//! How masked and arena accesses get their addresses, planned before code is made.
//!
//! To cut an address takes an instruction, between whatever made the address and the access. Three
//! things spare it:
//!
//! - An **anchor** is a register whose contained host address is kept in a machine register of
//!   its own. Through it, and through its sums with indices of [`INDEX_BITS`] bits at most, nothing
//!   is cut: such a sum leads into the guest or to the margin above, where nothing is; the
//!   fault leads to the rare path, which makes the access from the address as the program has it.
//! - Of several accesses through one register, the first leaves what was cut in T0.
//! - An arena pointer of 32 bits is its own offset in the arena.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "slots of a program; registers below 11; weights are small"
)]

use harena_bpf::analysis::{self, RegSet, Widths};
use harena_bpf::code::{Class, Op, OpCode};

use super::R10;
use super::alu::{is_division, is_shift};
use super::memory::base_of;
use crate::contained::Contained;
use crate::context::INDEX_BITS;
use crate::image::Source;

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Address {
    /// To the base register, cut.
    #[default]
    Cut,
    /// To what an access before has cut, in T0.
    Held,
    /// To the base register as it is, of which no more bits are set.
    Whole,
    /// To an anchor and an index.
    Anchored(u8, Index),
}

/// What is added to an anchor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Index {
    /// Nothing.
    None,
    /// A register.
    Reg(u8),
    /// T0, into which an operation has saved a register that it overwrites.
    Saved,
}

/// The plan of one operation.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Plan {
    /// Where it goes, if it is an access.
    pub(super) address: Address,
    /// A register to save in T0 before.
    pub(super) saves: Option<u8>,
    /// Whether a later access needs T0 as it is behind this operation.
    pub(super) keeps: bool,
}

/// The plans of a program, and its anchors.
#[derive(Debug)]
pub(super) struct Addresses {
    plans: Vec<Plan>,
    /// Machine registers of the host addresses of r0 to r9.
    anchors: [Option<u8>; 10],
}

impl Addresses {
    /// Plans a program's accesses, with anchors in as many of the machine registers as pays; the
    /// others stay in the list.
    pub(super) fn plan(
        source: &Source<'_>,
        blocks: &[u32],
        weights: &[u32],
        free: &mut Vec<u8>,
    ) -> Self {
        let contained = (0..source.ops.len()).map(|slot| source.contained(slot));
        let contained: Vec<Option<Contained>> = contained.collect();
        let mut anchors = [None; 10];
        let is_planned =
            |c: &Option<Contained>| matches!(c, Some(Contained::Masked | Contained::Arena));
        if !contained.iter().any(is_planned) {
            return Self {
                plans: Vec::new(),
                anchors,
            };
        }
        let widths = analysis::widths(source.ops, blocks, &source.entries());
        let planner = |anchors: RegSet| Planner {
            ops: source.ops,
            contained: &contained,
            anchors,
            plans: vec![Plan::default(); source.ops.len()],
            state: State::default(),
            kept: 0,
        };
        // A call of a function, be it the same, comes back with the callee's anchors.
        let calls = |op: &Op| op.code == OpCode::CallFunction;
        if !source.ops.iter().any(calls) && source.functions.len() == 1 && !free.is_empty() {
            let mut all = planner(RegSet::ALL.without(RegSet::of(R10)));
            all.program(blocks, &widths);
            for reg in worthwhile(source.ops, &all.plans, weights) {
                let Some(place) = free.pop() else { break };
                anchors[usize::from(reg)] = Some(place);
            }
        }
        let chosen = (0..10u8).filter(|reg| anchors[usize::from(*reg)].is_some());
        let chosen = chosen.fold(RegSet::NONE, |all, reg| all.with(RegSet::of(reg)));
        let mut planner = planner(chosen);
        planner.program(blocks, &widths);
        Self {
            plans: planner.plans,
            anchors,
        }
    }

    /// The plan of the operation in a slot.
    pub(super) fn of(&self, slot: usize) -> Plan {
        self.plans.get(slot).copied().unwrap_or_default()
    }

    /// The machine register of an anchor.
    pub(super) fn anchor(&self, reg: u8) -> Option<u8> {
        self.anchors.get(usize::from(reg)).copied().flatten()
    }
}

/// The registers that save more instructions as anchors than it takes to keep them, best first.
fn worthwhile(ops: &[Op], plans: &[Plan], weights: &[u32]) -> Vec<u8> {
    /// Instructions that make an anchor.
    const COST: i64 = 3;
    // On the way in, all registers get values.
    let mut gains = [-COST; 10];
    for (slot, op) in ops.iter().enumerate() {
        let weight = i64::from(weights[slot]);
        if let Address::Anchored(reg, _) = plans[slot].address {
            gains[usize::from(reg)] += weight;
        }
        for reg in written(op).iter() {
            gains[usize::from(reg)] -= COST * weight;
        }
    }
    let mut order: Vec<u8> = (0..10).filter(|reg| gains[usize::from(*reg)] > 0).collect();
    order.sort_by_key(|reg| core::cmp::Reverse(gains[usize::from(*reg)]));
    order
}

/// What an operation may write of r0 to r9.
pub(super) fn written(op: &Op) -> RegSet {
    let result = if op.code.class() == Class::Atomic {
        op.result()
    } else {
        None
    };
    let result = result.map_or(RegSet::NONE, RegSet::of);
    analysis::writes(op).with(result)
}

/// An anchor and what is added to it.
#[derive(Clone, Copy)]
struct Sum {
    anchor: u8,
    index: Index,
}

/// What is known inside a block.
#[derive(Clone, Copy, Default)]
struct State {
    /// The registers that are copies, and of which each.
    copies: RegSet,
    copy_of: [u8; 10],
    /// The registers that are sums.
    sums: RegSet,
    sum_of: [Option<Sum>; 10],
    /// What is in T0, and since which slot.
    temp: Option<(Temp, usize)>,
}

/// What may be in T0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Temp {
    /// The cut address of this register.
    Cut(u8),
    /// Its low half, which is an offset in the arena.
    Low(u8),
    /// What this register was, if anybody asks for it.
    Saved(u8),
}

impl State {
    fn copy(&self, reg: u8) -> Option<u8> {
        let is_one = self.copies.has(reg);
        is_one.then(|| self.copy_of[usize::from(reg)])
    }

    fn sum(&self, reg: u8) -> Option<Sum> {
        self.sum_of[usize::from(reg)].filter(|_| self.sums.has(reg))
    }

    /// T0 is used for something else.
    fn lose_temp(&mut self) {
        if let Some((Temp::Saved(_), _)) = self.temp {
            self.drop_sums(|sum| sum.index == Index::Saved);
        }
        self.temp = None;
    }

    fn drop_sums(&mut self, which: impl Fn(&Sum) -> bool) {
        for reg in self.sums.iter() {
            if self.sum(reg).is_some_and(|sum| which(&sum)) {
                self.sums = self.sums.without(RegSet::of(reg));
            }
        }
    }

    /// A register gets another value.
    fn forget(&mut self, reg: u8) {
        let only = RegSet::of(reg);
        let cuts = [Temp::Cut(reg), Temp::Low(reg)];
        self.temp.take_if(|(temp, _)| cuts.contains(temp));
        self.copies = self.copies.without(only);
        self.sums = self.sums.without(only);
        for copy in self.copies.iter() {
            if self.copy_of[usize::from(copy)] == reg {
                self.copies = self.copies.without(RegSet::of(copy));
            }
        }
        self.drop_sums(|sum| sum.anchor == reg || sum.index == Index::Reg(reg));
    }

    /// The operation in a slot overwrites a register: should it be the index of a sum that is
    /// needed later, there is T0 to save it in, if nothing else is there.
    fn save(&mut self, slot: usize, reg: u8) {
        if self.temp.is_some() {
            return;
        }
        for sum in self.sums.iter() {
            if let Some(sum) = &mut self.sum_of[usize::from(sum)]
                && sum.index == Index::Reg(reg)
            {
                sum.index = Index::Saved;
                self.temp = Some((Temp::Saved(reg), slot));
            }
        }
    }
}

struct Planner<'a> {
    ops: &'a [Op],
    contained: &'a [Option<Contained>],
    anchors: RegSet,
    plans: Vec<Plan>,
    state: State,
    /// Before this slot it is decided who keeps T0.
    kept: usize,
}

impl Planner<'_> {
    fn program(&mut self, blocks: &[u32], widths: &[Widths]) {
        for (slot, block) in blocks.iter().enumerate() {
            if *block != 0 {
                self.state = State::default();
            } else if self.ops[slot].code == OpCode::Hole {
                continue;
            }
            self.op(slot, &widths[slot]);
        }
    }

    fn op(&mut self, slot: usize, widths: &Widths) {
        let op = &self.ops[slot];
        let keeps_temp = match self.contained[slot] {
            None => !uses_temp(op),
            Some(Contained::Frame(_)) => true,
            Some(Contained::Masked) if op.code.class() != Class::Atomic => self.masked(slot),
            Some(Contained::Arena) if op.code.class() != Class::Atomic => {
                self.in_arena(slot, widths.of(base_of(op)))
            }
            Some(_) => false,
        };
        if !keeps_temp {
            self.state.lose_temp();
        }
        let made = self.made(op, widths);
        for reg in written(op).iter() {
            if keeps_temp {
                self.state.save(slot, reg);
            }
            self.state.forget(reg);
        }
        let (reg, only) = (usize::from(op.dst), RegSet::of(op.dst));
        let (copy, sum) = made;
        if let Some(copy) = copy {
            self.state.copies = self.state.copies.with(only);
            self.state.copy_of[reg] = copy;
        }
        if sum.is_some() {
            self.state.sums = self.state.sums.with(only);
            self.state.sum_of[reg] = sum;
        }
    }

    /// Plans a masked access; whether T0 stays what it is, or becomes what is known of it.
    fn masked(&mut self, slot: usize) -> bool {
        let op = &self.ops[slot];
        let reg = base_of(op);
        // While anchors are being looked for, each register is one: what it is the sum of goes
        // first.
        if let Some(Sum { anchor, index }) = self.state.sum(reg) {
            self.plans[slot].address = Address::Anchored(anchor, index);
            if let (Index::Saved, Some((Temp::Saved(saved), by))) = (index, self.state.temp) {
                self.plans[by].saves = Some(saved);
                self.keep(by, slot);
            }
            return true;
        }
        if self.anchors.has(reg) {
            self.plans[slot].address = Address::Anchored(reg, Index::None);
            return true;
        }
        self.hold(slot, Temp::Cut(reg));
        // The value to store may need what T0 is for.
        !stores_r10(op)
    }

    /// The same of an access to the arena, through a register of so many bits.
    fn in_arena(&mut self, slot: usize, width: u8) -> bool {
        let op = &self.ops[slot];
        // To store r10 takes both temporaries.
        if width <= 32 && !stores_r10(op) {
            self.plans[slot].address = Address::Whole;
            return true;
        }
        self.hold(slot, Temp::Low(base_of(op)));
        !stores_r10(op)
    }

    /// An access needs this in T0, where it stays.
    fn hold(&mut self, slot: usize, wanted: Temp) {
        match self.state.temp {
            Some((temp, by)) if temp == wanted => {
                self.plans[slot].address = Address::Held;
                self.keep(by, slot);
            }
            Some(_) | None => {
                self.state.lose_temp();
                self.state.temp = Some((wanted, slot));
            }
        }
    }

    /// T0 is needed from one operation to another.
    fn keep(&mut self, from: usize, to: usize) {
        for plan in &mut self.plans[from.max(self.kept)..to] {
            plan.keeps = true;
        }
        self.kept = to;
    }

    /// What an operation makes of its destination: a copy, a sum of an anchor and an index.
    fn made(&self, op: &Op, widths: &Widths) -> (Option<u8>, Option<Sum>) {
        if op.dst == op.src || op.src == R10 {
            return (None, None);
        }
        match op.code {
            OpCode::Mov64X => {
                let itself = Sum {
                    anchor: op.src,
                    index: Index::None,
                };
                let itself = || self.anchors.has(op.src).then_some(itself);
                (Some(op.src), self.state.sum(op.src).or_else(itself))
            }
            OpCode::Mov32X if widths.of(op.src) <= 32 => (Some(op.src), None),
            OpCode::Add64X => {
                let sum = |anchor: u8, index: u8| {
                    let good = self.anchors.has(anchor) && widths.of(index) <= INDEX_BITS;
                    let index = Index::Reg(index);
                    good.then_some(Sum { anchor, index })
                };
                let other = self.state.copy(op.dst);
                let sum = other.and_then(|other| {
                    let either = sum(other, op.src);
                    either.or_else(|| sum(op.src, other))
                });
                (None, sum)
            }
            _ => (None, None),
        }
    }
}

fn stores_r10(op: &Op) -> bool {
    op.code.class() == Class::Store && op.src == R10
}

/// Whether an operation that is none on memory needs T0.
fn uses_temp(op: &Op) -> bool {
    match op.code.class() {
        Class::Set => false,
        Class::Move | Class::CastToKernel | Class::CastToUser => op.src == R10,
        Class::AluK => is_division(op.code),
        Class::AluX => is_division(op.code) || is_shift(op.code) || op.src == R10,
        _ => true,
    }
}
