//! Memory accesses of programs that are not plain heap: arena pages, and faults.
//!
//! A faulting load gives 0, a faulting store is dropped whole, a faulting atomic leaves
//! memory and registers alone; each is reported and the program goes on behind it.

use std::sync::atomic::{Ordering, fence};

use harena_arena_fault::Access;

use crate::decode::AtomicOp;
use crate::host::Host;
use crate::mem::{Scalar, Word};
use crate::program::Program;
use crate::report;
use crate::violation::ViolationKind;
use crate::vm::Vm;

/// What the running program's arena looks like from its instructions.
pub(super) struct ArenaView {
    /// High half of `user_vm_start`.
    user_high: u64,
}

impl ArenaView {
    pub(super) fn of(vm: &Vm, program: &Program) -> Option<Self> {
        let map = vm.map(program.arena()?);
        Some(Self {
            user_high: map.spec().map_extra & !0xffff_ffff,
        })
    }

    /// `addr_space_cast(1 <- 0)`: NULL stays NULL.
    pub(super) fn user_address(&self, low: u32) -> u64 {
        if low == 0 {
            return 0;
        }
        self.user_high | u64::from(low)
    }
}

/// One atomic read-modify-write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atomic {
    pub(crate) kind: AtomicOp,
    pub(crate) operand: u64,
    /// For compare-and-exchange.
    pub(crate) expected: u64,
}

impl Atomic {
    /// What the word becomes.
    pub(crate) fn apply<T: Word>(self, old: u64) -> u64 {
        match self.kind {
            AtomicOp::Add => old.wrapping_add(self.operand),
            AtomicOp::Or => old | self.operand,
            AtomicOp::And => old & self.operand,
            AtomicOp::Xor => old ^ self.operand,
            AtomicOp::Xchg => self.operand,
            AtomicOp::Cmpxchg if old == T::from_reg(self.expected).to_reg() => self.operand,
            AtomicOp::Cmpxchg => old,
        }
    }
}

/// Where an access goes: base register and offset.
type At = (u64, i32);

fn address((base, off): At) -> u64 {
    base.wrapping_add_signed(i64::from(off))
}

pub(super) fn load<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    _arena: Option<&ArenaView>,
    at: At,
) -> u64 {
    let addr = address(at);
    report::violation(vm, host, program, (ViolationKind::Wild, Access::Read), addr);
    0
}

pub(super) fn store<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    _arena: Option<&ArenaView>,
    at: At,
    value: u64,
) {
    let _ = value;
    report::violation(
        vm,
        host,
        program,
        (ViolationKind::Wild, Access::Write),
        address(at),
    );
}

/// The old value, or `None` if the access faulted.
pub(super) fn atomic<T: Word>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    _arena: Option<&ArenaView>,
    at: At,
    request: Atomic,
) -> Option<u64> {
    let addr = address(at);
    if let Some(old) = vm.mem.atomic::<T>(addr, request) {
        return Some(old);
    }
    report::violation(
        vm,
        host,
        program,
        (ViolationKind::Wild, Access::Write),
        addr,
    );
    None
}

/// A load-acquire: the plain load, then an acquire fence.
#[inline]
pub(super) fn acquire(loaded: u64) -> u64 {
    // Acquire: pairs with a store-release (`release`) of another thread.
    fence(Ordering::Acquire);
    loaded
}

/// A store-release: a release fence, then the plain store.
#[inline]
pub(super) fn release(value: u64) -> u64 {
    // Release: pairs with a load-acquire (`acquire`) of another thread.
    fence(Ordering::Release);
    value
}
