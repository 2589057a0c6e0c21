//! Conditional jumps: a compare and a jump, as the machine has them too.

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};
use harena_bpf::code::{Op, OpCode};

use super::alu::imm32;
use super::{CTX, Emitter, NATIVE, R10, RareKind, T0, T1, field};

/// How operands are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    K64,
    X64,
    K32,
    X32,
}

/// What must hold for the jump.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Equal,
    NotEqual,
    AnyBit,
    Above,
    AboveEqual,
    Below,
    BelowEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

/// A jump's condition and operands.
macro_rules! parts {
    ($code:expr, $($condition:ident: $k64:ident $x64:ident $k32:ident $x32:ident;)*) => {
        match $code {
            $(OpCode::$k64 => (Condition::$condition, Compare::K64),
            OpCode::$x64 => (Condition::$condition, Compare::X64),
            OpCode::$k32 => (Condition::$condition, Compare::K32),
            OpCode::$x32 => (Condition::$condition, Compare::X32),)*
            _ => unreachable!("{:?} is no conditional jump", $code),
        }
    };
}

fn parts(code: OpCode) -> (Condition, Compare) {
    parts!(code,
        Equal: Jeq64K Jeq64X Jeq32K Jeq32X;
        NotEqual: Jne64K Jne64X Jne32K Jne32X;
        AnyBit: Jset64K Jset64X Jset32K Jset32X;
        Above: Jgt64K Jgt64X Jgt32K Jgt32X;
        AboveEqual: Jge64K Jge64X Jge32K Jge32X;
        Below: Jlt64K Jlt64X Jlt32K Jlt32X;
        BelowEqual: Jle64K Jle64X Jle32K Jle32X;
        Greater: Jsgt64K Jsgt64X Jsgt32K Jsgt32X;
        GreaterEqual: Jsge64K Jsge64X Jsge32K Jsge32X;
        Less: Jslt64K Jslt64X Jslt32K Jslt32X;
        LessEqual: Jsle64K Jsle64X Jsle32K Jsle32X;
    )
}

impl Emitter<'_> {
    pub(super) fn branch(&mut self, op: &Op) {
        if op.code == OpCode::MayGoto {
            return self.may_goto(op);
        }
        let (condition, compare) = parts(op.code);
        self.compare(op, condition, compare);
        let to = self.target(op);
        let asm = self.asm();
        match condition {
            Condition::Equal => dynasm!(asm; .arch x64; je =>to),
            Condition::NotEqual | Condition::AnyBit => dynasm!(asm; .arch x64; jne =>to),
            Condition::Above => dynasm!(asm; .arch x64; ja =>to),
            Condition::AboveEqual => dynasm!(asm; .arch x64; jae =>to),
            Condition::Below => dynasm!(asm; .arch x64; jb =>to),
            Condition::BelowEqual => dynasm!(asm; .arch x64; jbe =>to),
            Condition::Greater => dynasm!(asm; .arch x64; jg =>to),
            Condition::GreaterEqual => dynasm!(asm; .arch x64; jge =>to),
            Condition::Less => dynasm!(asm; .arch x64; jl =>to),
            Condition::LessEqual => dynasm!(asm; .arch x64; jle =>to),
        }
    }

    fn compare(&mut self, op: &Op, condition: Condition, compare: Compare) {
        let d = self.value(op.dst, T0);
        let imm = imm32(op);
        let by_register = matches!(compare, Compare::X64 | Compare::X32);
        let s = if by_register {
            self.value(op.src, T1)
        } else {
            T1
        };
        macro_rules! emit {
            ($($code:tt)*) => { dynasm!(self.asm(); .arch x64; $($code)*) };
        }
        match (condition, compare) {
            (Condition::AnyBit, Compare::K64) => emit!(test Rq(d), imm),
            (Condition::AnyBit, Compare::X64) => emit!(test Rq(d), Rq(s)),
            (Condition::AnyBit, Compare::K32) => emit!(test Rd(d), imm),
            (Condition::AnyBit, Compare::X32) => emit!(test Rd(d), Rd(s)),
            (Condition::Equal | Condition::NotEqual, Compare::K64) if imm == 0 => {
                emit!(test Rq(d), Rq(d));
            }
            (Condition::Equal | Condition::NotEqual, Compare::K32) if imm == 0 => {
                emit!(test Rd(d), Rd(d));
            }
            (_, Compare::K64) => emit!(cmp Rq(d), imm),
            (_, Compare::K32) => emit!(cmp Rd(d), imm),
            (_, Compare::X64) => emit!(cmp Rq(d), Rq(s)),
            (_, Compare::X32) => emit!(cmp Rd(d), Rd(s)),
        }
    }

    /// Goes where a register says, which names the text of a slot: by a table, from the first slot
    /// that jump tables lead to until the last. What is not there ends the run.
    pub(super) fn computed(&mut self, slot: u32, op: &Op) {
        let targets = self.source.jump_targets;
        let ends = self.rare(slot, RareKind::Ends);
        let (Some(first), Some(last)) = (targets.first(), targets.last()) else {
            dynasm!(self.asm(); .arch x64; jmp =>ends);
            return;
        };
        let table = match self.jump_table {
            Some(table) => table,
            None => self.asm().new_dynamic_label(),
        };
        self.jump_table = Some(table);
        let text = self.source.text.wrapping_add(u64::from(*first) * 8);
        let count = (last - first + 1).cast_signed();
        let reg = self.value(op.dst, T1);
        let text = text.wrapping_neg().cast_signed();
        dynasm!(self.asm(); .arch x64
            ; mov Rq(T0), QWORD text
            ; add Rq(T0), Rq(reg)
            // What is no multiple of 8 becomes large.
            ; ror Rq(T0), 3
            ; cmp Rq(T0), DWORD count
            ; jae =>ends
            ; lea Rq(T1), [=>table]
            ; movsxd Rq(T0), DWORD [Rq(T1) + Rq(T0) * 4]
            ; test Rq(T0), Rq(T0)
            ; jz =>ends
            ; add Rq(T0), Rq(T1)
            ; jmp Rq(T0)
        );
    }

    /// The table: distances from itself to code, 0 where nothing may lead.
    pub(super) fn jump_table(&mut self) {
        let Some(table) = self.jump_table else { return };
        dynasm!(self.asm(); .arch x64; .align 4; =>table);
        let here = self.compiler.here();
        let mut starts = core::mem::take(&mut self.starts).into_iter().peekable();
        let first = starts.peek().map_or(0, |(slot, _)| *slot);
        let last = self.source.jump_targets.last().copied().unwrap_or(first);
        for slot in first..=last {
            let start = starts.next_if(|(start, _)| *start == slot);
            let distance = start.map_or(0, |(_, offset)| offset.wrapping_sub(here).cast_signed());
            dynasm!(self.asm(); .arch x64; .i32 distance);
        }
    }

    /// Falls through while the frame's counter is not 0, and then jumps.
    fn may_goto(&mut self, op: &Op) {
        let to = self.target(op);
        let asm = self.asm();
        let through = asm.new_dynamic_label();
        dynasm!(asm; .arch x64
            ; mov Rd(T0), [Rq(CTX) + field!(depth)]
            ; sub DWORD [Rq(CTX) + Rq(T0) * 4 + field!(may_goto_left)], BYTE 1
            ; jae =>through
            ; mov DWORD [Rq(CTX) + Rq(T0) * 4 + field!(may_goto_left)], DWORD 0
            ; jmp =>to
            ; =>through
        );
    }
}

/// Guards the table of registers: r10 is none of the machine's own.
const _: () = assert!(NATIVE.len() == R10 as usize);
