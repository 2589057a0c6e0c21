//! Loads, stores and atomics.
//!
//! Which code each becomes says [`Contained`].
//!
//! The rare path gives the operation to the host, which makes it as the interpreter does:
//! arena pages by their entries, reports of what is not there.
//!
//! The check is exact. With `t` the offset in the guest: a unit's bound is below or inside the
//! unit, so `t` below the bound of the unit that bits 29 to 34 of `t` name lies in that unit,
//! and the bytes of the access were handed out.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};
use harena_bpf::code::{AtomicOp, Class, Op, OpCode};

use super::address::{Address, Index};
use super::alu::imm32;
use super::role::Role;
use super::{CTX, Emitter, FRAME, NATIVE, R10, RAX, RareKind, T0, T1};
use crate::contained::Contained;
use crate::context::{BoundOf, GUEST_BITS, UNIT_SHIFT, bounds_offset};
use crate::image::Fault;

/// A memory operand.
#[derive(Clone, Copy)]
enum Mem {
    /// Register and displacement.
    Base(u8, i32),
    /// Two registers and displacement.
    Index(u8, u8, i32),
}

/// One instruction with a memory operand: what stands before and behind it.
macro_rules! with_mem {
    ($asm:expr, $mem:expr, [$($before:tt)*], [$($behind:tt)*]) => {
        match $mem {
            Mem::Base(base, disp) => match i8::try_from(disp) {
                Ok(disp) => {
                    dynasm!($asm; .arch x64; $($before)* [BYTE Rq(base) + disp] $($behind)*);
                }
                Err(_wide) => {
                    dynasm!($asm; .arch x64; $($before)* [DWORD Rq(base) + disp] $($behind)*);
                }
            },
            Mem::Index(base, index, disp) => match i8::try_from(disp) {
                Ok(disp) => dynasm!($asm; .arch x64
                    ; $($before)* [BYTE Rq(base) + Rq(index) + disp] $($behind)*
                ),
                Err(_wide) => dynasm!($asm; .arch x64
                    ; $($before)* [DWORD Rq(base) + Rq(index) + disp] $($behind)*
                ),
            },
        }
    };
}

/// Bytes of an access, as a power of two.
fn size_log2(op: &Op) -> u8 {
    match op.size {
        1 => 0,
        2 => 1,
        4 => 2,
        _ => 3,
    }
}

/// The register that a memory operation goes through.
pub(super) fn base_of(op: &Op) -> u8 {
    op.base().expect("a memory operation")
}

/// An atomic's operation and whether the old value is returned.
fn atomic(op: &Op) -> (AtomicOp, bool) {
    op.atomic().expect("checked when it was decoded")
}

impl Emitter<'_> {
    pub(super) fn memory(&mut self, slot: u32, op: &Op) {
        let contained = self.source.contained(slot as usize);
        let contained = contained.expect("a memory operation");
        if let Contained::Frame(off) = contained {
            self.access_at(op, Mem::Base(FRAME, off));
            return;
        }
        if contained == Contained::Proven && op.code.class() != Class::Atomic {
            let delta = self.role(Role::Delta, T0);
            let base = NATIVE[usize::from(base_of(op))];
            self.access_at(op, Mem::Index(base, delta, op.off));
            return;
        }
        let plan = self.addresses.of(slot as usize);
        let resume = self.asm().new_dynamic_label();
        let keeps_temp = plan.keeps;
        let what = RareKind::Access {
            resume,
            faults_at: None,
            keeps_temp,
        };
        let rare = self.rare(slot, what);
        let index = self.rare.len() - 1;
        match self.place(op, contained, plan.address, rare) {
            Some((mem, may_fault)) => {
                let mem = match op.code.class() {
                    Class::Atomic => self.check_alignment(op, mem, rare),
                    _ => mem,
                };
                let at = self.access_at(op, mem);
                if may_fault {
                    let what = RareKind::Access {
                        resume,
                        faults_at: Some(at),
                        keeps_temp,
                    };
                    self.rare[index].what = what;
                }
            }
            None => dynasm!(self.asm(); .arch x64; jmp =>rare),
        }
        dynasm!(self.asm(); .arch x64; =>resume);
    }

    /// Where the access goes, and whether it may fault; `None`: the host makes it.
    fn place(
        &mut self,
        op: &Op,
        contained: Contained,
        address: Address,
        rare: DynamicLabel,
    ) -> Option<(Mem, bool)> {
        match contained {
            Contained::Frame(off) => Some((Mem::Base(FRAME, off), false)),
            Contained::Host => None,
            Contained::Arena => {
                let mut reg = NATIVE[usize::from(base_of(op))];
                if address != Address::Whole {
                    if address != Address::Held {
                        dynasm!(self.asm(); .arch x64; mov Rd(T0), Rd(reg));
                    }
                    reg = T0;
                }
                let arena = self.role(Role::Arena, T1);
                Some((Mem::Index(arena, reg, op.off), true))
            }
            Contained::Proven => {
                let reg = NATIVE[usize::from(base_of(op))];
                dynasm!(self.asm(); .arch x64; mov Rq(T0), Rq(reg));
                let delta = self.role(Role::Delta, T1);
                Some((Mem::Index(delta, T0, op.off), false))
            }
            Contained::Masked => Some((self.masked(op, address), true)),
            Contained::Bound => Some((self.checked(op, rare), false)),
        }
    }

    /// An access anywhere in the guest; what is not there faults.
    fn masked(&mut self, op: &Op, address: Address) -> Mem {
        if let Address::Anchored(anchor, index) = address {
            let anchor = self.addresses.anchor(anchor);
            let anchor = anchor.expect("plans name anchors that are there");
            return match index {
                Index::None => Mem::Base(anchor, op.off),
                Index::Reg(reg) => Mem::Index(anchor, NATIVE[usize::from(reg)], op.off),
                Index::Saved => Mem::Index(anchor, T0, op.off),
            };
        }
        if address != Address::Held {
            self.cut(T0, base_of(op));
        }
        let guest = self.role(Role::Guest, T1);
        Mem::Index(guest, T0, op.off)
    }

    /// Puts the part of a register's value that is an offset in the guest into a machine register.
    fn cut(&mut self, into: u8, reg: u8) {
        const CUT: i8 = 28;
        const _: () = assert!(CUT as u32 + GUEST_BITS == 64);
        let reg = NATIVE[usize::from(reg)];
        if self.compiler.features.bmi2 {
            let bits = self.role(Role::Bits, T1);
            dynasm!(self.asm(); .arch x64; bzhi Rq(into), Rq(reg), Rq(bits));
        } else {
            dynasm!(self.asm(); .arch x64
                ; mov Rq(into), Rq(reg)
                ; shl Rq(into), CUT
                ; shr Rq(into), CUT
            );
        }
    }

    /// Makes the host address of a register anew, if it is an anchor.
    pub(super) fn anchor(&mut self, reg: u8) {
        if let Some(anchor) = self.addresses.anchor(reg) {
            self.cut(anchor, reg);
            let guest = self.role(Role::Guest, T1);
            dynasm!(self.asm(); .arch x64; add Rq(anchor), Rq(guest));
        }
    }

    /// The register of a constant, loaded into `temp` if it has none.
    fn role(&mut self, role: Role, temp: u8) -> u8 {
        let place = self.roles.place(role);
        place.unwrap_or_else(|| {
            self.load_role(role, temp);
            temp
        })
    }

    /// An access anywhere: leaves for the rare path unless it is good.
    fn checked(&mut self, op: &Op, rare: DynamicLabel) -> Mem {
        const _: () = assert!(UNIT_SHIFT == 29);
        let base = NATIVE[usize::from(base_of(op))];
        let stores = match op.code.class() {
            Class::Load => BoundOf::Loads,
            _ => BoundOf::Stores,
        };
        let bounds = bounds_offset(0, usize::from(size_log2(op)), stores);
        let bounds = i32::try_from(bounds).expect("a page at most");
        // T0: the offset in the guest.
        if let Some(start) = self.roles.place(Role::Start) {
            with_mem!(self.asm(), Mem::Index(base, start, op.off), [lea Rq(T0),], []);
        } else {
            with_mem!(self.asm(), Mem::Base(base, op.off), [lea Rq(T0),], []);
            let start = super::field!(guest_start);
            dynasm!(self.asm(); .arch x64; sub Rq(T0), [Rq(CTX) + start]);
        }
        // T1: its unit, times 8.
        dynasm!(self.asm(); .arch x64
            ; mov Rq(T1), Rq(T0)
            ; shr Rq(T1), 26
            ; and Rd(T1), DWORD 63 << 3
        );
        if let Some(guest) = self.roles.place(Role::Guest) {
            dynasm!(self.asm(); .arch x64
                ; cmp Rq(T0), [DWORD Rq(guest) + Rq(T1) + bounds]
                ; jae =>rare
            );
            return Mem::Index(guest, T0, 0);
        }
        let guest = super::field!(guest);
        dynasm!(self.asm(); .arch x64
            ; add Rq(T1), [Rq(CTX) + guest]
            ; cmp Rq(T0), [DWORD Rq(T1) + bounds]
            ; jae =>rare
            ; mov Rq(T1), [Rq(CTX) + guest]
        );
        Mem::Index(T1, T0, 0)
    }

    /// Words that are not aligned are the host's business.
    fn check_alignment(&mut self, op: &Op, mem: Mem, rare: DynamicLabel) -> Mem {
        let mask = i8::try_from(op.size - 1).expect("8 bytes at most");
        match mem {
            Mem::Base(..) => unreachable!("atomics are never anchored"),
            Mem::Index(base, index, disp) => {
                // Windows and the guest are aligned.
                if disp != 0 {
                    dynasm!(self.asm(); .arch x64; lea Rq(index), [DWORD Rq(index) + disp]);
                }
                dynasm!(self.asm(); .arch x64; test Rb(index), BYTE mask; jnz =>rare);
                Mem::Index(base, index, 0)
            }
        }
    }

    /// The access itself; the offset of the instruction that touches memory.
    fn access_at(&mut self, op: &Op, mem: Mem) -> u32 {
        match op.code.class() {
            Class::Load => self.load(op, mem),
            Class::Store => self.store(op, mem),
            _ => self.atomic(op, mem),
        }
    }

    fn load(&mut self, op: &Op, mem: Mem) -> u32 {
        let d = NATIVE[usize::from(op.dst)];
        let at = self.compiler.here();
        let asm = self.asm();
        match op.code {
            OpCode::Ldx8 | OpCode::LdAcq8 => with_mem!(asm, mem, [movzx Rd(d), BYTE], []),
            OpCode::Ldx16 | OpCode::LdAcq16 => with_mem!(asm, mem, [movzx Rd(d), WORD], []),
            OpCode::Ldx32 | OpCode::LdAcq32 => with_mem!(asm, mem, [mov Rd(d),], []),
            OpCode::Ldx64 | OpCode::LdAcq64 => with_mem!(asm, mem, [mov Rq(d),], []),
            OpCode::Ldsx8 => with_mem!(asm, mem, [movsx Rq(d), BYTE], []),
            OpCode::Ldsx16 => with_mem!(asm, mem, [movsx Rq(d), WORD], []),
            OpCode::Ldsx32 => with_mem!(asm, mem, [movsxd Rq(d), DWORD], []),
            _ => unreachable!("{:?} is no load", op.code),
        }
        at
    }

    fn store(&mut self, op: &Op, mem: Mem) -> u32 {
        let imm = imm32(op);
        let [low, second, ..] = op.imm.to_le_bytes();
        let (imm8, imm16) = (low.cast_signed(), i16::from_le_bytes([low, second]));
        let mem = self.free_for_value(op, mem);
        let s = if is_by_register(op) {
            self.value(op.src, T1)
        } else {
            T1
        };
        let at = self.compiler.here();
        let asm = self.asm();
        match op.code {
            OpCode::St8 => with_mem!(asm, mem, [mov BYTE], [, imm8]),
            OpCode::St16 => with_mem!(asm, mem, [mov WORD], [, imm16]),
            OpCode::St32 => with_mem!(asm, mem, [mov DWORD], [, imm]),
            OpCode::St64 => with_mem!(asm, mem, [mov QWORD], [, imm]),
            // Stores are seen in their order on this machine.
            OpCode::Stx8 | OpCode::StRel8 => with_mem!(asm, mem, [mov], [, Rb(s)]),
            OpCode::Stx16 | OpCode::StRel16 => with_mem!(asm, mem, [mov], [, Rw(s)]),
            OpCode::Stx32 | OpCode::StRel32 => with_mem!(asm, mem, [mov], [, Rd(s)]),
            OpCode::Stx64 | OpCode::StRel64 => with_mem!(asm, mem, [mov], [, Rq(s)]),
            _ => unreachable!("{:?} is no store", op.code),
        }
        at
    }

    /// Frees T1 if the value to store is r10, which needs it.
    fn free_for_value(&mut self, op: &Op, mem: Mem) -> Mem {
        let needs = op.src == R10 && is_by_register(op);
        match mem {
            Mem::Index(T1, index, disp) if needs => {
                dynasm!(self.asm(); .arch x64; add Rq(index), Rq(T1));
                Mem::Base(index, disp)
            }
            Mem::Base(..) | Mem::Index(..) => mem,
        }
    }

    fn atomic(&mut self, op: &Op, mem: Mem) -> u32 {
        let (kind, fetch) = atomic(op);
        let wide = op.code == OpCode::Atomic64;
        let mem = self.free_for_value(op, mem);
        let s = self.value(op.src, T1);
        let at = self.compiler.here();
        macro_rules! emit {
            ($($name:tt)*) => {
                if wide {
                    with_mem!(self.asm(), mem, [$($name)*], [, Rq(s)])
                } else {
                    with_mem!(self.asm(), mem, [$($name)*], [, Rd(s)])
                }
            };
        }
        match (kind, fetch) {
            (AtomicOp::Add, true) => emit!(lock xadd),
            (AtomicOp::Add, false) => emit!(lock add),
            (AtomicOp::Or, _) => emit!(lock or),
            (AtomicOp::And, _) => emit!(lock and),
            (AtomicOp::Xor, _) => emit!(lock xor),
            (AtomicOp::Xchg, _) => emit!(xchg),
            (AtomicOp::Cmpxchg, _) => {
                emit!(lock cmpxchg);
                if !wide {
                    // The machine leaves the high half where the words were equal.
                    dynasm!(self.asm(); .arch x64; mov Rd(RAX), Rd(RAX));
                }
            }
        }
        at
    }

    /// The rare path of a memory operation: the host makes it.
    pub(super) fn access(
        &mut self,
        slot: u32,
        resume: DynamicLabel,
        fault: Option<(u32, u32)>,
        keeps_temp: bool,
    ) {
        let op = self.source.ops[slot as usize];
        let result = op.result();
        if let Some((fault_pc, resume_pc)) = fault {
            let is_zeroed = op.code.class() == Class::Load && !op.is_acquire();
            let zero_reg = result.filter(|_| is_zeroed);
            self.compiler.faults.push(Fault {
                fault_pc,
                resume_pc,
                zero_reg,
            });
        }
        if keeps_temp {
            // Twice, so that the stack stays aligned.
            dynasm!(self.asm(); .arch x64; push Rq(T0); push Rq(T0));
        }
        let base = self.value(base_of(&op), T0);
        if base != T0 {
            dynasm!(self.asm(); .arch x64; mov Rq(T0), Rq(base));
        }
        if is_by_register(&op) || op.is_acquire() {
            let value = self.value(if op.is_acquire() { op.dst } else { op.src }, T1);
            if value != T1 {
                dynasm!(self.asm(); .arch x64; mov Rq(T1), Rq(value));
            }
        } else if op.code.class() == Class::Store {
            self.set_native(T1, op.imm);
        }
        let access = self.common.access;
        dynasm!(self.asm(); .arch x64; call =>access);
        if let Some(reg) = result {
            let reg = NATIVE[usize::from(reg)];
            dynasm!(self.asm(); .arch x64; mov Rq(reg), Rq(T0));
        }
        if keeps_temp {
            dynasm!(self.asm(); .arch x64; pop Rq(T0); pop Rq(T0));
        }
        dynasm!(self.asm(); .arch x64; jmp =>resume);
    }
}

/// Whether a store or atomic takes its value from a register.
fn is_by_register(op: &Op) -> bool {
    match op.code {
        OpCode::St8 | OpCode::St16 | OpCode::St32 | OpCode::St64 => false,
        _ => matches!(op.code.class(), Class::Store | Class::Atomic),
    }
}
