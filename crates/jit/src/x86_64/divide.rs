//! Division and modulo: the machine's divide faults where BPF's has a result.
//!
//! | | division | modulo |
//! |---|---|---|
//! | by 0 | 0 | the dividend |
//! | most negative by -1 | itself | 0 |
//!
//! The machine wants the dividend in rdx:rax, which are r3 and r0.

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use harena_bpf::code::{Op, OpCode};

use super::alu::imm32;
use super::{Emitter, NATIVE, RAX, RDX, T0, T1};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Quotient,
    Rest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    W64,
    W32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Signed,
    Unsigned,
}

#[derive(Clone, Copy)]
struct Division {
    want: Want,
    width: Width,
    sign: Sign,
}

fn division(code: OpCode) -> Division {
    let (want, width, sign) = match code {
        OpCode::Div64K | OpCode::Div64X => (Want::Quotient, Width::W64, Sign::Unsigned),
        OpCode::Div32K | OpCode::Div32X => (Want::Quotient, Width::W32, Sign::Unsigned),
        OpCode::Mod64K | OpCode::Mod64X => (Want::Rest, Width::W64, Sign::Unsigned),
        OpCode::Mod32K | OpCode::Mod32X => (Want::Rest, Width::W32, Sign::Unsigned),
        OpCode::SDiv64K | OpCode::SDiv64X => (Want::Quotient, Width::W64, Sign::Signed),
        OpCode::SDiv32K | OpCode::SDiv32X => (Want::Quotient, Width::W32, Sign::Signed),
        OpCode::SMod64K | OpCode::SMod64X => (Want::Rest, Width::W64, Sign::Signed),
        OpCode::SMod32K | OpCode::SMod32X => (Want::Rest, Width::W32, Sign::Signed),
        _ => unreachable!("{code:?} is no division"),
    };
    Division { want, width, sign }
}

impl Emitter<'_> {
    pub(super) fn divide_by_constant(&mut self, op: &Op) {
        let (div, d) = (division(op.code), NATIVE[usize::from(op.dst)]);
        let imm = imm32(op);
        // An unsigned 64-bit divisor is the sign-extended immediate.
        let power = match div.width {
            Width::W64 => op.imm.is_power_of_two().then(|| op.imm.trailing_zeros()),
            Width::W32 => {
                let imm = imm.cast_unsigned();
                imm.is_power_of_two().then(|| imm.trailing_zeros())
            }
        };
        match (imm, div.sign, power) {
            (0, _, _) => self.by_zero(div, d),
            (-1, Sign::Signed, _) => self.by_minus_one(div, d),
            (_, Sign::Unsigned, Some(power)) if power < 31 => self.by_power(div, d, power),
            _ => {
                self.set_native(T1, op.imm);
                self.divide(div, d);
            }
        }
    }

    fn by_power(&mut self, div: Division, d: u8, power: u32) {
        let count = i8::try_from(power).expect("below 31");
        let mask = ((1u32 << power) - 1).cast_signed();
        match (div.want, div.width) {
            (Want::Quotient, Width::W64) => dynasm!(self.asm(); .arch x64; shr Rq(d), count),
            (Want::Quotient, Width::W32) => {
                dynasm!(self.asm(); .arch x64; mov Rd(d), Rd(d); shr Rd(d), count);
            }
            (Want::Rest, _) => dynasm!(self.asm(); .arch x64; and Rd(d), mask),
        }
    }

    fn by_zero(&mut self, div: Division, d: u8) {
        match (div.want, div.width) {
            (Want::Quotient, _) => dynasm!(self.asm(); .arch x64; xor Rd(d), Rd(d)),
            (Want::Rest, Width::W64) => {}
            (Want::Rest, Width::W32) => dynasm!(self.asm(); .arch x64; mov Rd(d), Rd(d)),
        }
    }

    fn by_minus_one(&mut self, div: Division, d: u8) {
        match (div.want, div.width) {
            (Want::Quotient, Width::W64) => dynasm!(self.asm(); .arch x64; neg Rq(d)),
            (Want::Quotient, Width::W32) => dynasm!(self.asm(); .arch x64; neg Rd(d)),
            (Want::Rest, _) => dynasm!(self.asm(); .arch x64; xor Rd(d), Rd(d)),
        }
    }

    /// Division by the value of a register, with its special cases.
    pub(super) fn divide_by_register(&mut self, op: &Op, s: u8) {
        let (div, d) = (division(op.code), NATIVE[usize::from(op.dst)]);
        let asm = self.asm();
        let zero = asm.new_dynamic_label();
        let minus_one = asm.new_dynamic_label();
        let done = asm.new_dynamic_label();
        match div.width {
            Width::W64 => dynasm!(asm; .arch x64; mov Rq(T1), Rq(s); test Rq(T1), Rq(T1)),
            Width::W32 => dynasm!(asm; .arch x64; mov Rd(T1), Rd(s); test Rd(T1), Rd(T1)),
        }
        dynasm!(asm; .arch x64; jz =>zero);
        if div.sign == Sign::Signed {
            match div.width {
                Width::W64 => dynasm!(asm; .arch x64; cmp Rq(T1), BYTE -1),
                Width::W32 => dynasm!(asm; .arch x64; cmp Rd(T1), BYTE -1),
            }
            dynasm!(asm; .arch x64; je =>minus_one);
        }
        self.divide(div, d);
        dynasm!(self.asm(); .arch x64; jmp =>done; =>zero);
        self.by_zero(div, d);
        if div.sign == Sign::Signed {
            dynasm!(self.asm(); .arch x64; jmp =>done; =>minus_one);
            self.by_minus_one(div, d);
        }
        dynasm!(self.asm(); .arch x64; =>done);
    }

    /// Divides `d` by T1, which is neither 0 nor, if signed, -1.
    fn divide(&mut self, div: Division, d: u8) {
        let asm = self.asm();
        if d != RAX {
            dynasm!(asm; .arch x64; mov Rq(T0), rax; mov rax, Rq(d));
        }
        if d != RDX {
            dynasm!(asm; .arch x64; push rdx);
        }
        match (div.width, div.sign) {
            (Width::W64, Sign::Unsigned) => dynasm!(asm; .arch x64; xor edx, edx; div Rq(T1)),
            (Width::W32, Sign::Unsigned) => dynasm!(asm; .arch x64; xor edx, edx; div Rd(T1)),
            (Width::W64, Sign::Signed) => dynasm!(asm; .arch x64; cqo; idiv Rq(T1)),
            (Width::W32, Sign::Signed) => dynasm!(asm; .arch x64; cdq; idiv Rd(T1)),
        }
        match div.want {
            Want::Quotient => dynasm!(asm; .arch x64; mov Rq(T1), rax),
            Want::Rest => dynasm!(asm; .arch x64; mov Rq(T1), rdx),
        }
        if d != RDX {
            dynasm!(asm; .arch x64; pop rdx);
        }
        if d != RAX {
            dynasm!(asm; .arch x64; mov rax, Rq(T0));
        }
        dynasm!(asm; .arch x64; mov Rq(d), Rq(T1));
    }
}
