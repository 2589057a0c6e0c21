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

use crate::decode::AtomicOp;
use crate::host::Host;
use crate::mem::{Scalar, Word};
use crate::program::Program;
use crate::report;
use crate::violation::ViolationKind;
use crate::vm::Vm;

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

    /// Kernel address of an access through a register that a cast made; the offset may reach
    /// into the guards.
    fn kernel_address(&self, (base, off): At) -> Option<u64> {
        let low = u32::try_from(base).ok()?;
        let offset = i64::from(low) + i64::from(off);
        Some(self.arena.kern_vm_start().raw().wrapping_add_signed(offset))
    }

    /// The user address that a report names.
    fn reported(&self, (base, off): At) -> u64 {
        self.user_high
            .wrapping_add(base & 0xffff_ffff)
            .wrapping_add_signed(i64::from(off))
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

/// Where an access leads that is not plain heap.
enum Target {
    /// Through a cast pointer into the program's arena.
    Arena { addr: u64, reported: u64 },
    /// Anywhere else.
    Kernel { addr: u64 },
}

impl Target {
    fn of(arena: Option<&ArenaView>, at: At) -> Self {
        let (base, off) = at;
        let kernel = Self::Kernel {
            addr: base.wrapping_add_signed(i64::from(off)),
        };
        let Some(view) = arena else { return kernel };
        view.kernel_address(at).map_or(kernel, |addr| Self::Arena {
            addr,
            reported: view.reported(at),
        })
    }

    /// The kernel address to try.
    fn addr(&self) -> u64 {
        match self {
            Self::Arena { addr, .. } | Self::Kernel { addr } => *addr,
        }
    }

    fn report(&self, vm: &mut Vm, host: &dyn Host, program: &Program, access: Access) {
        let (kind, addr) = match self {
            Self::Arena { reported, .. } => (ViolationKind::Arena, *reported),
            Self::Kernel { addr } => (ViolationKind::Wild, *addr),
        };
        report::violation(vm, host, program, (kind, access), addr);
    }
}

/// A load; 0 if it faults.
pub(super) fn load<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    arena: Option<&ArenaView>,
    at: At,
) -> u64 {
    let target = Target::of(arena, at);
    if let Some(value) = vm.mem.load_window::<T>(target.addr()) {
        return value;
    }
    target.report(vm, host, program, Access::Read);
    0
}

/// A store; dropped if it faults.
pub(super) fn store<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    arena: Option<&ArenaView>,
    (at, value): (At, u64),
) {
    let target = Target::of(arena, at);
    if vm.mem.store_window::<T>(target.addr(), value).is_none() {
        target.report(vm, host, program, Access::Write);
    }
}

/// The old value, or `None` if the access faulted.
pub(super) fn atomic<T: Word>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    arena: Option<&ArenaView>,
    (at, request): (At, Atomic),
) -> Option<u64> {
    let target = Target::of(arena, at);
    let addr = target.addr();
    let old = match target {
        Target::Kernel { .. } => vm.mem.atomic::<T>(addr, request),
        Target::Arena { .. } => None,
    };
    let old = old.or_else(|| vm.mem.atomic_window::<T>(addr, request));
    if old.is_none() {
        target.report(vm, host, program, Access::Write);
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
