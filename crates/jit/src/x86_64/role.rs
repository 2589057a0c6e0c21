//! Constants of a run that code would like to have in registers.

use harena_bpf::analysis::{self, RegSet};
use harena_bpf::code::{Class, Op};

use super::address::{Address, Addresses};
use super::{FRAME, NATIVE, R10};
use crate::contained::Contained;
use crate::image::Source;

/// A constant of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Host address of the guest's first byte.
    Guest,
    /// The guest address of that byte, negated.
    Start,
    /// Host address of the arena.
    Arena,
    /// Host minus guest address.
    Delta,
    /// How many bits of an address a mask keeps.
    Bits,
}

const COUNT: usize = 5;

impl Role {
    const ALL: [Self; COUNT] = [
        Self::Guest,
        Self::Arena,
        Self::Bits,
        Self::Start,
        Self::Delta,
    ];
}

/// Which machine register holds which constant; the others are read from the context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    places: [Option<u8>; COUNT],
}

impl Roles {
    /// Gives free registers to the constants that are used most.
    pub(super) fn choose(
        source: &Source<'_>,
        addresses: &Addresses,
        weights: &[u32],
        free: &mut Vec<u8>,
    ) -> Self {
        let mut uses = [0u32; COUNT];
        for (slot, weight) in weights.iter().enumerate() {
            for role in roles_of(source, addresses, slot) {
                let uses = &mut uses[*role as usize];
                *uses = uses.saturating_add(*weight);
            }
        }
        let mut order = Role::ALL;
        order.sort_by_key(|role| core::cmp::Reverse(uses[*role as usize]));
        let mut places = [None; COUNT];
        for role in order.into_iter().filter(|role| uses[*role as usize] > 0) {
            let Some(reg) = free.pop() else { break };
            places[role as usize] = Some(reg);
        }
        Self { places }
    }

    /// The register that holds a constant.
    pub(super) fn place(&self, role: Role) -> Option<u8> {
        self.places[role as usize]
    }

    /// All constants in registers.
    pub(super) fn all(&self) -> impl Iterator<Item = (Role, u8)> + use<> {
        let places = self.places;
        Role::ALL
            .into_iter()
            .filter_map(move |role| Some((role, places[role as usize]?)))
    }
}

/// Machine registers that a program leaves free, the best last.
pub(super) fn free(ops: &[Op]) -> Vec<u8> {
    let mut used = RegSet::of(0);
    let (mut calls, mut functions) = (false, false);
    for op in ops {
        used = used.with(analysis::reads(op)).with(analysis::writes(op));
        calls |= op.code.class() == Class::Call;
        functions |= op.code.class() == Class::CallFunction;
    }
    // Calls destroy the registers of arguments, and change the frame.
    let volatile = (1..6).rev().filter(|reg| !used.has(*reg) && !calls);
    let saved = (6..10).rev().filter(|reg| !used.has(*reg));
    let registers = volatile.chain(saved).map(|reg| NATIVE[usize::from(reg)]);
    let frame = Some(FRAME).filter(|_| !used.has(R10) && !functions);
    frame.into_iter().chain(registers).collect()
}

/// The constants that an operation needs.
fn roles_of(source: &Source<'_>, addresses: &Addresses, slot: usize) -> &'static [Role] {
    match source.contained(slot) {
        None | Some(Contained::Frame(_) | Contained::Host) => &[],
        Some(Contained::Arena) => &[Role::Arena],
        Some(Contained::Proven) => &[Role::Delta],
        Some(Contained::Masked) => match addresses.of(slot).address {
            Address::Anchored(..) => &[],
            Address::Held => &[Role::Guest],
            Address::Cut | Address::Whole => &[Role::Guest, Role::Bits],
        },
        Some(Contained::Bound) => &[Role::Guest, Role::Start],
    }
}
