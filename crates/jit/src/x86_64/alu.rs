//! Arithmetic, moves and constants.
//!
//! 32-bit operations of the machine clear the high half as BPF's do, and shifts use the
//! same bits of their count, so most operations are one instruction.

use dynasmrt::{DynasmApi, dynasm};
use harena_bpf::code::{Op, OpCode};

use super::{Emitter, NATIVE, RCX, T0, T1};

/// The immediate of an operation on registers, which sign-extends it.
pub(super) fn imm32(op: &Op) -> i32 {
    let [a, b, c, d, ..] = op.imm.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// A shift count, of which the machine uses as many bits as BPF does.
fn imm8(op: &Op) -> i8 {
    let [low, ..] = op.imm.to_le_bytes();
    (low & 63).cast_signed()
}

/// Whether an operation divides.
pub(super) fn is_division(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Div64K | OpCode::Div32K | OpCode::Mod64K | OpCode::Mod32K
    ) || matches!(
        code,
        OpCode::SDiv64K | OpCode::SDiv32K | OpCode::SMod64K | OpCode::SMod32K
    ) || matches!(
        code,
        OpCode::Div64X | OpCode::Div32X | OpCode::Mod64X | OpCode::Mod32X
    ) || matches!(
        code,
        OpCode::SDiv64X | OpCode::SDiv32X | OpCode::SMod64X | OpCode::SMod32X
    )
}

/// Whether an operation shifts by a register.
pub(super) fn is_shift(code: OpCode) -> bool {
    matches!(
        code,
        OpCode::Lsh64X | OpCode::Lsh32X | OpCode::Rsh64X | OpCode::Rsh32X
    ) || matches!(code, OpCode::Arsh64X | OpCode::Arsh32X)
}

impl Emitter<'_> {
    /// What a `Set` operation sets.
    pub(super) fn constant(&self, op: &Op) -> u64 {
        match op.code {
            OpCode::Mov32K => u64::from(imm32(op).cast_unsigned()),
            _ => op.imm,
        }
    }

    /// Loads a constant the shortest way.
    pub(super) fn set(&mut self, reg: u8, value: u64) {
        let reg = NATIVE[usize::from(reg)];
        self.set_native(reg, value);
    }

    pub(super) fn set_native(&mut self, reg: u8, value: u64) {
        let asm = self.asm();
        if value == 0 {
            dynasm!(asm; .arch x64; xor Rd(reg), Rd(reg));
        } else if let Ok(low) = u32::try_from(value) {
            dynasm!(asm; .arch x64; mov Rd(reg), low.cast_signed());
        } else if let Ok(low) = i32::try_from(value.cast_signed()) {
            dynasm!(asm; .arch x64; mov Rq(reg), DWORD low);
        } else {
            dynasm!(asm; .arch x64; mov Rq(reg), QWORD value.cast_signed());
        }
    }

    pub(super) fn mov(&mut self, op: &Op) {
        let (d, s) = (NATIVE[usize::from(op.dst)], self.value(op.src, T0));
        let asm = self.asm();
        match op.code {
            OpCode::Mov64X => dynasm!(asm; .arch x64; mov Rq(d), Rq(s)),
            OpCode::Mov32X => dynasm!(asm; .arch x64; mov Rd(d), Rd(s)),
            OpCode::MovSx8To64 => dynasm!(asm; .arch x64; movsx Rq(d), Rb(s)),
            OpCode::MovSx16To64 => dynasm!(asm; .arch x64; movsx Rq(d), Rw(s)),
            OpCode::MovSx32To64 => dynasm!(asm; .arch x64; movsxd Rq(d), Rd(s)),
            OpCode::MovSx8To32 => dynasm!(asm; .arch x64; movsx Rd(d), Rb(s)),
            OpCode::MovSx16To32 => dynasm!(asm; .arch x64; movsx Rd(d), Rw(s)),
            _ => unreachable!("{:?} is no move", op.code),
        }
    }

    pub(super) fn alu_k(&mut self, op: &Op) {
        let d = NATIVE[usize::from(op.dst)];
        let (imm, count) = (imm32(op), imm8(op));
        macro_rules! emit {
            ($($code:tt)*) => { dynasm!(self.asm(); .arch x64; $($code)*) };
        }
        macro_rules! with_imm {
            ($name:ident $($reg:tt)*) => {
                match i8::try_from(imm) {
                    Ok(imm) => emit!($name $($reg)*, BYTE imm),
                    Err(_wide) => emit!($name $($reg)*, DWORD imm),
                }
            };
        }
        match op.code {
            OpCode::Add64K => with_imm!(add Rq(d)),
            OpCode::Add32K => with_imm!(add Rd(d)),
            OpCode::Sub64K => with_imm!(sub Rq(d)),
            OpCode::Sub32K => with_imm!(sub Rd(d)),
            OpCode::Mul64K => with_imm!(imul Rq(d), Rq(d)),
            OpCode::Mul32K => with_imm!(imul Rd(d), Rd(d)),
            OpCode::Or64K => with_imm!(or Rq(d)),
            OpCode::Or32K => with_imm!(or Rd(d)),
            // A mask that keeps only low bits clears the rest either way.
            OpCode::And64K if imm >= 0 => with_imm!(and Rd(d)),
            OpCode::And64K => with_imm!(and Rq(d)),
            OpCode::And32K => with_imm!(and Rd(d)),
            OpCode::Xor64K => with_imm!(xor Rq(d)),
            OpCode::Xor32K => with_imm!(xor Rd(d)),
            OpCode::Lsh64K => emit!(shl Rq(d), count),
            OpCode::Lsh32K => emit!(shl Rd(d), count & 31),
            OpCode::Rsh64K => emit!(shr Rq(d), count),
            OpCode::Rsh32K => emit!(shr Rd(d), count & 31),
            OpCode::Arsh64K => emit!(sar Rq(d), count),
            OpCode::Arsh32K => emit!(sar Rd(d), count & 31),
            OpCode::Neg64 => emit!(neg Rq(d)),
            OpCode::Neg32 => emit!(neg Rd(d)),
            OpCode::Keep64 => {}
            OpCode::Keep32 => emit!(mov Rd(d), Rd(d)),
            OpCode::Keep16 => emit!(movzx Rd(d), Rw(d)),
            OpCode::Swap64 => emit!(bswap Rq(d)),
            OpCode::Swap32 => emit!(bswap Rd(d)),
            OpCode::Swap16 => emit!(rol Rw(d), 8 ; movzx Rd(d), Rw(d)),
            code if is_division(code) => self.divide_by_constant(op),
            _ => unreachable!("{:?} takes no immediate", op.code),
        }
    }

    pub(super) fn alu_x(&mut self, op: &Op) {
        let d = NATIVE[usize::from(op.dst)];
        let s = self.value(op.src, T1);
        macro_rules! emit {
            ($($code:tt)*) => { dynasm!(self.asm(); .arch x64; $($code)*) };
        }
        match op.code {
            OpCode::Add64X => emit!(add Rq(d), Rq(s)),
            OpCode::Add32X => emit!(add Rd(d), Rd(s)),
            OpCode::Sub64X => emit!(sub Rq(d), Rq(s)),
            OpCode::Sub32X => emit!(sub Rd(d), Rd(s)),
            OpCode::Mul64X => emit!(imul Rq(d), Rq(s)),
            OpCode::Mul32X => emit!(imul Rd(d), Rd(s)),
            OpCode::Or64X => emit!(or Rq(d), Rq(s)),
            OpCode::Or32X => emit!(or Rd(d), Rd(s)),
            OpCode::And64X => emit!(and Rq(d), Rq(s)),
            OpCode::And32X => emit!(and Rd(d), Rd(s)),
            OpCode::Xor64X => emit!(xor Rq(d), Rq(s)),
            OpCode::Xor32X => emit!(xor Rd(d), Rd(s)),
            code if is_shift(code) => self.shift(code, d, s),
            code if is_division(code) => self.divide_by_register(op, s),
            _ => unreachable!("{:?} takes no register", op.code),
        }
    }

    /// A shift by a register: the machine wants the count in cl, which is r4.
    fn shift(&mut self, code: OpCode, d: u8, s: u8) {
        if s == RCX {
            return self.shift_by_cl(code, d);
        }
        if d == RCX {
            dynasm!(self.asm(); .arch x64; mov Rq(T0), rcx; mov ecx, Rd(s));
            self.shift_by_cl(code, T0);
            dynasm!(self.asm(); .arch x64; mov rcx, Rq(T0));
            return;
        }
        dynasm!(self.asm(); .arch x64; mov Rq(T0), rcx; mov ecx, Rd(s));
        self.shift_by_cl(code, d);
        dynasm!(self.asm(); .arch x64; mov rcx, Rq(T0));
    }

    fn shift_by_cl(&mut self, code: OpCode, d: u8) {
        macro_rules! emit {
            ($($code:tt)*) => { dynasm!(self.asm(); .arch x64; $($code)*) };
        }
        match code {
            OpCode::Lsh64X => emit!(shl Rq(d), cl),
            OpCode::Lsh32X => emit!(shl Rd(d), cl),
            OpCode::Rsh64X => emit!(shr Rq(d), cl),
            OpCode::Rsh32X => emit!(shr Rd(d), cl),
            OpCode::Arsh64X => emit!(sar Rq(d), cl),
            OpCode::Arsh32X => emit!(sar Rd(d), cl),
            _ => unreachable!("{code:?} is no shift"),
        }
    }
}
