//! Putting the answer of a relocation into its instruction.

use super::{AccessSize, Answer};
use crate::error::CoReError;
use crate::isa::op::{
    BPF_ALU, BPF_ALU64, BPF_B, BPF_CALL, BPF_DW, BPF_H, BPF_JMP, BPF_LD, BPF_LDX, BPF_SIZE_MASK,
    BPF_ST, BPF_STX, BPF_W, BPF_X,
};
use crate::isa::{Insn, ldimm64_value};

/// `imm` of the call that stands for an instruction whose relocation failed.
const POISON_CORE_RELO: i32 = 195_896_080;

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patched {
    /// It holds the answer.
    Done,
    /// There is no answer: it is poisoned.
    Poisoned,
    /// The field has another size and cannot be read alike: it is poisoned.
    Unfit,
}

/// Replaces the instruction at `slot` by a call that must not be executed.
fn poison(insns: &mut [Insn], slot: usize) {
    let is_pair = insns.get(slot).is_some_and(|insn| insn.is_ldimm64());
    let call = Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, POISON_CORE_RELO);
    let slots = if is_pair { 2 } else { 1 };
    for insn in insns.iter_mut().skip(slot).take(slots) {
        *insn = call;
    }
}

/// Puts `answer` into the instruction at `slot`.
pub(crate) fn patch(
    insns: &mut [Insn],
    slot: usize,
    answer: &Answer,
) -> Result<Patched, CoReError> {
    let Some(value) = answer.target else {
        poison(insns, slot);
        return Ok(Patched::Poisoned);
    };
    let next = insns.get(slot.saturating_add(1)).copied();
    let Some(insn) = insns.get_mut(slot) else {
        return Ok(Patched::Done);
    };
    let check = |found: u64| {
        if answer.validate && found != answer.local {
            let expected = answer.local;
            return Err(CoReError::Mismatch { expected, found });
        }
        Ok(())
    };
    let too_large = |_| CoReError::OutOfRange { value };
    let class = CoReError::InsnClass { code: insn.code };
    match insn.class() {
        BPF_ALU | BPF_ALU64 if insn.code & BPF_X == 0 => {
            // Negative values come sign-extended, large ones do not: only 32 bits count.
            let found = u64::from(insn.imm.cast_unsigned());
            check(found | (answer.local & !u64::from(u32::MAX)))?;
            insn.imm = match (u32::try_from(value), i32::try_from(value.cast_signed())) {
                (Ok(imm), _) => imm.cast_signed(),
                (_, Ok(imm)) => imm,
                _ => return Err(CoReError::OutOfRange { value }),
            };
        }
        BPF_LDX | BPF_ST | BPF_STX => {
            check(u64::from(insn.off.cast_unsigned()))?;
            let off = i16::try_from(value).map_err(too_large)?;
            let code = match answer.access {
                AccessSize::Keep => insn.code,
                AccessSize::Unfit => {
                    poison(insns, slot);
                    return Ok(Patched::Unfit);
                }
                AccessSize::Change { from, to } => {
                    let found = bytes_of(insn.code);
                    if found != from {
                        return Err(CoReError::Mismatch {
                            expected: from,
                            found,
                        });
                    }
                    (insn.code & !BPF_SIZE_MASK) | size_code(to)?
                }
            };
            insn.off = off;
            insn.code = code;
        }
        BPF_LD if insn.is_ldimm64() && insn.src == 0 => {
            let hi = next.ok_or(class)?;
            check(ldimm64_value(insn.imm, hi.imm))?;
            let [first, second] = Insn::ldimm64(insn.dst, 0, value);
            *insn = first;
            if let Some(hi) = insns.get_mut(slot.saturating_add(1)) {
                *hi = second;
            }
        }
        _ => return Err(class),
    }
    Ok(Patched::Done)
}

const fn bytes_of(code: u8) -> u64 {
    match code & BPF_SIZE_MASK {
        BPF_B => 1,
        BPF_H => 2,
        BPF_W => 4,
        _ => 8,
    }
}

fn size_code(bytes: u64) -> Result<u8, CoReError> {
    match bytes {
        1 => Ok(BPF_B),
        2 => Ok(BPF_H),
        4 => Ok(BPF_W),
        8 => Ok(BPF_DW),
        value => Err(CoReError::OutOfRange { value }),
    }
}
