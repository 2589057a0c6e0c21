//! Memory accesses of programs that are not plain heap: arena pages, and faults.
//!
//! A faulting load gives 0, a faulting store is dropped whole, a faulting atomic leaves
//! memory and registers alone; each is reported and the program goes on behind it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use harena_abi::UserAddr;
use harena_abi::bpf::BPF_F_NO_USER_CONV;
use harena_arena::Arena;
use harena_arena_fault::Access;

use crate::host::Host;
use crate::mem::{Scalar, Word};
use crate::program::Program;
use crate::report;
use crate::violation::ViolationKind;
use crate::vm::Vm;
use harena_bpf::analysis::Space;
use harena_bpf::code::{AtomicOp, Op};

/// What the running program's arena looks like from its instructions.
pub(super) struct ArenaView {
    arena: Arc<Arena>,
    /// High half of `user_vm_start`.
    user_high: u64,
    /// `addr_space_cast(1 <- 0)` only clears the high half.
    no_user_conv: bool,
}

impl ArenaView {
    pub(super) fn of(vm: &Vm, program: &Program) -> Option<Self> {
        let map = program.arena()?;
        let arena = Arc::clone(vm.arena(map)?);
        let user_start = arena.user_vm_start().map_or(0, UserAddr::raw);
        Some(Self {
            user_high: user_start & !0xffff_ffff,
            no_user_conv: vm.map(map).spec().map_flags & BPF_F_NO_USER_CONV != 0,
            arena,
        })
    }

    /// `addr_space_cast(1 <- 0)`: NULL stays NULL.
    pub(super) fn user_address(&self, low: u32) -> u64 {
        if low == 0 || self.no_user_conv {
            return u64::from(low);
        }
        self.user_high | u64::from(low)
    }
}

/// Where an access goes: base register and offset, and what is known of the register.
#[derive(Clone, Copy)]
pub(super) struct At {
    base: u64,
    off: i64,
    space: Space,
}

impl At {
    pub(super) fn of(op: &Op, base: u64) -> Self {
        Self {
            base,
            off: i64::from(op.off),
            space: op.space,
        }
    }

    /// The arena, if the access goes there, and the offset from its 32-bit offset 0, which may
    /// reach into the guards. Only the low 32 bits of an arena pointer count.
    fn in_arena<'a>(&self, view: Option<&'a ArenaView>) -> Option<(&'a ArenaView, i64)> {
        let low = self.base & 0xffff_ffff;
        let is_arena = match self.space {
            Space::Arena => true,
            Space::Kernel => false,
            Space::Either => low == self.base,
        };
        let offset = low.cast_signed() + self.off;
        view.filter(|_| is_arena).map(|view| (view, offset))
    }

    fn kernel_address(&self) -> u64 {
        self.base.wrapping_add_signed(self.off)
    }

    fn report(
        &self,
        vm: &mut Vm,
        host: &dyn Host,
        program: &Program,
        view: Option<&ArenaView>,
        access: Access,
    ) {
        let (kind, addr) = match self.in_arena(view) {
            Some((view, offset)) => {
                let addr = view.user_high.wrapping_add_signed(offset);
                (ViolationKind::Arena, addr)
            }
            None => (ViolationKind::Wild, self.kernel_address()),
        };
        report::violation(vm, host, program, (kind, access), addr);
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

/// A load; 0 if it faults.
pub(super) fn load<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView>,
    at: At,
) -> u64 {
    let value = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.load_in::<T>(&view.arena, offset),
        None => vm.mem.load_window::<T>(at.kernel_address()),
    };
    value.unwrap_or_else(|| {
        at.report(vm, host, program, view, Access::Read);
        0
    })
}

/// A store; dropped if it faults.
pub(super) fn store<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView>,
    (at, value): (At, u64),
) {
    let stored = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.store_in::<T>(&view.arena, offset, value),
        None => vm.mem.store_window::<T>(at.kernel_address(), value),
    };
    if stored.is_none() {
        at.report(vm, host, program, view, Access::Write);
    }
}

/// The old value, or `None` if the access faulted.
pub(super) fn atomic<T: Word>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView>,
    (at, request): (At, Atomic),
) -> Option<u64> {
    let old = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.atomic_in::<T>(&view.arena, offset, request),
        None => vm.mem.atomic::<T>(at.kernel_address(), request),
    };
    if old.is_none() {
        at.report(vm, host, program, view, Access::Write);
    }
    old
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
