//! Constants of a run that code would like to have in registers.

use harena_bpf::analysis::{self, RegSet};
use harena_bpf::code::Class;

use super::NATIVE;
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
    /// Gives the registers that the program does not use to the constants it uses most.
    pub(super) fn choose(source: &Source<'_>) -> Self {
        let ops = source.ops;
        let mut used = RegSet::of(0);
        let mut uses = [0u32; COUNT];
        for (slot, op) in ops.iter().enumerate() {
            used = used.with(analysis::reads(op)).with(analysis::writes(op));
            for role in roles_of(source, slot) {
                uses[*role as usize] += 1;
            }
        }
        let calls = ops.iter().any(|op| op.code.class() == Class::Call);
        // Calls destroy the registers of arguments.
        let saved = (6..10).filter(|reg| !used.has(*reg));
        let volatile = (1..6).filter(|reg| !used.has(*reg) && !calls);
        let mut free = saved.chain(volatile);
        let mut order = Role::ALL;
        order.sort_by_key(|role| core::cmp::Reverse(uses[*role as usize]));
        let mut places = [None; COUNT];
        for role in order.into_iter().filter(|role| uses[*role as usize] > 0) {
            let Some(reg) = free.next() else { break };
            places[role as usize] = Some(NATIVE[usize::from(reg)]);
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

/// The constants that an operation needs.
fn roles_of(source: &Source<'_>, slot: usize) -> &'static [Role] {
    match source.contained(slot) {
        None | Some(Contained::Frame(_) | Contained::Host) => &[],
        Some(Contained::Arena) => &[Role::Arena],
        Some(Contained::Proven) => &[Role::Delta],
        Some(Contained::Masked) => &[Role::Guest, Role::Bits],
        Some(Contained::Bound) => &[Role::Guest, Role::Start],
    }
}
