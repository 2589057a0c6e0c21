//! Memory accesses of programs that are not plain heap: arena pages, and faults; and whatever
//! machine code does not do itself.
//!
//! A faulting load gives 0, a faulting store is dropped whole, a faulting atomic leaves
//! memory and registers alone, as does a load-acquire, which the kernel encodes as one; each is
//! reported and the program goes on behind it.

use std::sync::atomic::{Ordering, fence};

use harena_abi::UserAddr;
use harena_arena::Arena;
use harena_arena_fault::Access;

use super::alu;
use crate::host::Host;
use crate::mem::{GuestMem, Scalar, Word};
use crate::program::Program;
use crate::report;
use crate::violation::ViolationKind;
use crate::vm::Vm;
use harena_bpf::analysis::Space;
use harena_bpf::code::{AtomicOp, Op, OpCode};

/// What the running program's arena looks like from its instructions.
pub(super) struct ArenaView<'a> {
    arena: &'a Arena,
    /// High half of `user_vm_start`.
    user_high: u64,
    /// `addr_space_cast(1 <- 0)` only clears the high half.
    no_user_conv: bool,
}

impl<'a> ArenaView<'a> {
    pub(super) fn of(program: &'a Program) -> Option<Self> {
        let arena = program.arena.as_ref()?;
        let user_start = arena.memory.user_vm_start().map_or(0, UserAddr::raw);
        Some(Self {
            user_high: user_start & !0xffff_ffff,
            no_user_conv: arena.no_user_conv,
            arena: &arena.memory,
        })
    }

    pub(super) fn arena(&self) -> &Arena {
        self.arena
    }

    /// High half of the arena's user addresses.
    pub(super) fn user_high(&self) -> u64 {
        self.user_high
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
    fn in_arena<'v, 'a>(
        &self,
        view: Option<&'v ArenaView<'a>>,
    ) -> Option<(&'v ArenaView<'a>, i64)> {
        let low = self.base & 0xffff_ffff;
        let is_arena = match self.space {
            Space::Arena => true,
            Space::Kernel => false,
            Space::Either => low == self.base,
        };
        let offset = low.cast_signed() + self.off;
        view.filter(|_| is_arena).map(|view| (view, offset))
    }

    /// As the program computed it.
    fn alleged_address(&self) -> u64 {
        self.base.wrapping_add_signed(self.off)
    }

    /// Where the access goes if not to the arena.
    fn kernel_address(&self, mem: &GuestMem) -> u64 {
        mem.address(self.base, self.off, self.space)
    }

    fn report(
        &self,
        vm: &mut Vm,
        host: &dyn Host,
        program: &Program,
        view: Option<&ArenaView<'_>>,
        access: Access,
    ) {
        let (kind, addr) = match self.in_arena(view) {
            Some((view, offset)) => {
                let addr = view.user_high.wrapping_add_signed(offset);
                (ViolationKind::Arena, addr)
            }
            None => (ViolationKind::Wild, self.alleged_address()),
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

/// A load; `otherwise` if it faults.
pub(super) fn load<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView<'_>>,
    (at, otherwise): (At, u64),
) -> u64 {
    let value = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.load_in::<T>(view.arena, offset),
        None => vm.mem.load_window::<T>(at.kernel_address(&vm.mem)),
    };
    value.unwrap_or_else(|| {
        at.report(vm, host, program, view, Access::Read);
        otherwise
    })
}

/// A store; dropped if it faults.
pub(super) fn store<T: Scalar>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView<'_>>,
    (at, value): (At, u64),
) {
    let stored = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.store_in::<T>(view.arena, offset, value),
        None => vm.mem.store_window::<T>(at.kernel_address(&vm.mem), value),
    };
    if stored.is_none() {
        at.report(vm, host, program, view, Access::Write);
    }
}

/// The old value, or `None` if the access faulted.
fn atomic<T: Word>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView<'_>>,
    (at, request): (At, Atomic),
) -> Option<u64> {
    let old = match at.in_arena(view) {
        Some((view, offset)) => vm.mem.atomic_in::<T>(view.arena, offset, request),
        None => vm.mem.atomic::<T>(at.kernel_address(&vm.mem), request),
    };
    if old.is_none() {
        at.report(vm, host, program, view, Access::Write);
    }
    old
}

/// A memory operation, with what its registers hold.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) op: &'a Op,
    /// The register that the operation goes through.
    pub(super) base: u64,
    /// What is stored, the atomic's operand, or what a load-acquire's register holds.
    pub(super) value: u64,
    /// r0, for compare-and-exchange.
    pub(super) r0: u64,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other operations touch no memory"
)]
/// Makes a memory operation, wherever it leads. Gives what the register becomes that the
/// operation writes; without one, anything.
pub(super) fn perform(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView<'_>>,
    request: Request<'_>,
) -> u64 {
    let op = request.op;
    let at = At::of(op, request.base);
    macro_rules! load {
        ($t:ty, $otherwise:expr) => {
            match vm.mem.load::<$t>(at.kernel_address(&vm.mem)) {
                Some(value) if at.space != Space::Arena => value,
                Some(_) | None => load::<$t>(vm, host, program, view, (at, $otherwise)),
            }
        };
    }
    macro_rules! store {
        ($t:ty) => {{
            let elsewhere = at.space == Space::Arena;
            let value = request.value;
            if elsewhere
                || vm
                    .mem
                    .store::<$t>(at.kernel_address(&vm.mem), value)
                    .is_none()
            {
                store::<$t>(vm, host, program, view, (at, value));
            }
            0
        }};
    }
    match op.code {
        OpCode::Ldx8 => load!(u8, 0),
        OpCode::Ldx16 => load!(u16, 0),
        OpCode::Ldx32 => load!(u32, 0),
        OpCode::Ldx64 => load!(u64, 0),
        OpCode::LdAcq8 => acquire(load!(u8, request.value)),
        OpCode::LdAcq16 => acquire(load!(u16, request.value)),
        OpCode::LdAcq32 => acquire(load!(u32, request.value)),
        OpCode::LdAcq64 => acquire(load!(u64, request.value)),
        OpCode::Ldsx8 => alu::sext8(load!(u8, 0)),
        OpCode::Ldsx16 => alu::sext16(load!(u16, 0)),
        OpCode::Ldsx32 => alu::sext32(load!(u32, 0)),
        OpCode::St8 | OpCode::Stx8 | OpCode::StRel8 => store!(u8),
        OpCode::St16 | OpCode::Stx16 | OpCode::StRel16 => store!(u16),
        OpCode::St32 | OpCode::Stx32 | OpCode::StRel32 => store!(u32),
        OpCode::St64 | OpCode::Stx64 | OpCode::StRel64 => store!(u64),
        OpCode::Atomic32 => update::<u32>(vm, host, program, view, request),
        OpCode::Atomic64 => update::<u64>(vm, host, program, view, request),
        _ => unreachable!("{:?} touches no memory", op.code),
    }
}

/// An atomic: what its result register becomes; as it was, if it faults.
pub(super) fn update<T: Word>(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    view: Option<&ArenaView<'_>>,
    request: Request<'_>,
) -> u64 {
    let at = At::of(request.op, request.base);
    let (kind, _) = request.op.atomic().expect("checked when it was decoded");
    let (operand, expected) = (request.value, request.r0);
    let change = Atomic {
        kind,
        operand,
        expected,
    };
    let old = atomic::<T>(vm, host, program, view, (at, change));
    old.unwrap_or(match kind {
        AtomicOp::Cmpxchg => expected,
        AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor | AtomicOp::Xchg => operand,
    })
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
