//! Constants of a run that code would like to have in registers.

use harena_bpf::analysis::{self, RegSet, Space};
use harena_bpf::code::{Class, Op};

use super::{NATIVE, R10};

/// A constant of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Host address of the heap.
    Heap,
    /// The heap's guest address, negated.
    Start,
    /// Host address of the arena.
    Arena,
}

impl Role {
    const ALL: [Self; 3] = [Self::Heap, Self::Start, Self::Arena];
}

/// Which machine register holds which constant; the others are read from the context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roles {
    places: [Option<u8>; 3],
    /// Those that a call of the host destroys.
    volatile: [bool; 3],
}

impl Roles {
    /// Gives the registers that the program does not use to the constants it uses most.
    pub(super) fn choose(ops: &[Op], has_arena: bool) -> Self {
        let mut used = RegSet::of(0);
        let mut uses = [0u32; 3];
        for op in ops {
            used = used.with(analysis::reads(op)).with(analysis::writes(op));
            for role in roles_of(op, has_arena) {
                uses[*role as usize] += 1;
            }
        }
        let calls = ops.iter().any(|op| op.code.class() == Class::Call);
        // Registers that survive calls first; the others cost a load behind each call.
        let saved = (6..10).filter(|reg| !used.has(*reg));
        let volatile = (1..6).filter(|reg| !used.has(*reg) && !calls);
        let mut free = saved.chain(volatile);
        let mut order = Role::ALL;
        order.sort_by_key(|role| core::cmp::Reverse(uses[*role as usize]));
        let mut roles = Self {
            places: [None; 3],
            volatile: [false; 3],
        };
        for role in order.into_iter().filter(|role| uses[*role as usize] > 0) {
            let Some(reg) = free.next() else { break };
            roles.places[role as usize] = Some(NATIVE[usize::from(reg)]);
            roles.volatile[role as usize] = reg < 6;
        }
        roles
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
fn roles_of(op: &Op, has_arena: bool) -> &'static [Role] {
    let base = match op.code.class() {
        Class::Load => op.src,
        Class::Store | Class::Atomic => op.dst,
        _ => return &[],
    };
    match (base, op.space) {
        (R10, _) => &[],
        (_, Space::Arena) if has_arena => &[Role::Arena],
        _ => &[Role::Heap, Role::Start],
    }
}
