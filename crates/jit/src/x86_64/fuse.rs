//! Two operations that are one instruction of the machine, which has a place for a sum.

use dynasmrt::{DynasmApi, dynasm};
use harena_bpf::code::{Op, OpCode};

use super::alu::imm32;
use super::{Emitter, NATIVE, R10};

impl Emitter<'_> {
    /// Emits the operations of this slot and the next one together, if there is a way.
    pub(super) fn fuse(&mut self, slot: usize) -> bool {
        let [op, next, ..] = self.source.ops[slot..] else {
            return false;
        };
        let is_move = matches!(op.code, OpCode::Mov64X | OpCode::Mov32X) && op.src != R10;
        // What a jump may lead to stands for itself.
        is_move && next.dst == op.dst && self.blocks[slot + 1] == 0 && self.add(&op, &next)
    }

    /// `d = s; d += x`.
    fn add(&mut self, op: &Op, next: &Op) -> bool {
        let (d, s) = (NATIVE[usize::from(op.dst)], NATIVE[usize::from(op.src)]);
        // The register that is added; after the move, `d` is `s`.
        let other = if next.src == op.dst { op.src } else { next.src };
        let x = NATIVE.get(usize::from(other)).copied();
        let imm = imm32(next);
        match (op.code, next.code, x) {
            (OpCode::Mov64X, OpCode::Add64X, Some(x)) => {
                dynasm!(self.asm(); .arch x64; lea Rq(d), [Rq(s) + Rq(x)]);
            }
            (OpCode::Mov64X, OpCode::Add64K, _) => {
                dynasm!(self.asm(); .arch x64; lea Rq(d), [Rq(s) + imm]);
            }
            (OpCode::Mov32X, OpCode::Add32X, Some(x)) => {
                dynasm!(self.asm(); .arch x64; lea Rd(d), [Rq(s) + Rq(x)]);
            }
            (OpCode::Mov32X, OpCode::Add32K, _) => {
                dynasm!(self.asm(); .arch x64; lea Rd(d), [Rq(s) + imm]);
            }
            _ => return false,
        }
        true
    }
}
