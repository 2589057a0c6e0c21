//! Which instructions of a program can be reached, as far as constants decide it.
//!
//! The verifier does not look at branches that a constant rules out, and compatibility
//! macros rely on that: `bpf_ksym_exists(new) ? new() : old()` contains a call of `old`
//! that must not be judged. So registers are followed while they hold a constant: an
//! immediate, the address of a kfunc, or a variable in frozen `.rodata`.
//!
//! The result is an over-approximation: what is called unreachable is.

use harena_bpf::isa::op::{
    BPF_ALU, BPF_ALU64, BPF_AND, BPF_ATOMIC, BPF_CALL, BPF_EXIT, BPF_JA, BPF_JCOND, BPF_JEQ,
    BPF_JGE, BPF_JGT, BPF_JLE, BPF_JLT, BPF_JMP, BPF_JMP32, BPF_JNE, BPF_JSET, BPF_LD, BPF_LDX,
    BPF_MEM, BPF_MODE_MASK, BPF_MOV, BPF_OP_MASK, BPF_SIZE_MASK, BPF_STX, BPF_X, PseudoCall,
    PseudoLoad,
};
use harena_bpf::isa::{Insn, ldimm64_value};
use harena_bpf::{LinkedObject, LinkedProgram, MapIndex};

use crate::reg::as_u32;

/// What is known of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Number(u64),
    /// The address of a byte of a frozen map.
    Frozen {
        map: usize,
        offset: u64,
    },
}

type Regs = [Option<Known>; 16];

/// Slots of `program` that may be executed, in ascending order.
pub(crate) fn reachable(object: &LinkedObject, program: &LinkedProgram) -> Vec<u32> {
    let mut walk = Walk {
        object,
        insns: &program.insns,
        seen: vec![None; program.insns.len()],
        todo: Vec::new(),
    };
    walk.go(0, [None; 16]);
    while let Some(slot) = walk.todo.pop() {
        walk.step(slot);
    }
    (0..)
        .zip(&walk.seen)
        .filter_map(|(slot, seen)| seen.is_some().then_some(slot))
        .collect()
}

struct Walk<'a> {
    object: &'a LinkedObject,
    insns: &'a [Insn],
    /// What is known whenever control is at a slot; only ever becomes less.
    seen: Vec<Option<Regs>>,
    todo: Vec<usize>,
}

impl Walk<'_> {
    /// Control may get to `slot` with these registers.
    fn go(&mut self, slot: usize, regs: Regs) {
        let Some(seen) = self.seen.get_mut(slot) else {
            return;
        };
        let merged = match seen {
            None => regs,
            Some(old) => {
                let mut merged = *old;
                for (merged, new) in merged.iter_mut().zip(regs) {
                    if *merged != new {
                        *merged = None;
                    }
                }
                merged
            }
        };
        if *seen != Some(merged) {
            *seen = Some(merged);
            self.todo.push(slot);
        }
    }

    fn jump(&mut self, slot: usize, distance: i32, regs: Regs) {
        let target = isize::try_from(distance)
            .ok()
            .and_then(|d| (slot + 1).checked_add_signed(d));
        if let Some(target) = target {
            self.go(target, regs);
        }
    }

    fn step(&mut self, slot: usize) {
        let (Some(insn), Some(Some(regs))) = (self.insns.get(slot), self.seen.get(slot)) else {
            return;
        };
        let (insn, mut regs) = (*insn, *regs);
        let dst = usize::from(insn.dst);
        match insn.class() {
            BPF_LD => {
                let high = self.insns.get(slot + 1).map_or(0, |next| next.imm);
                regs[dst] = self.load_imm(insn, high);
                if let Some(PseudoLoad::Func) = insn.pseudo_load() {
                    self.jump(slot, insn.imm, [None; 16]);
                }
                self.go(slot + 2, regs);
            }
            BPF_LDX => {
                regs[dst] = self.load(insn, regs[usize::from(insn.src)]);
                self.go(slot + 1, regs);
            }
            BPF_STX if insn.code & BPF_MODE_MASK == BPF_ATOMIC => {
                // A fetch lands in the source register, a compare-and-swap in r0.
                regs[0] = None;
                regs[usize::from(insn.src)] = None;
                regs[dst] = None;
                self.go(slot + 1, regs);
            }
            BPF_ALU | BPF_ALU64 => {
                regs[dst] = alu(insn, &regs);
                self.go(slot + 1, regs);
            }
            BPF_JMP | BPF_JMP32 => self.branch(slot, insn, regs),
            _ => self.go(slot + 1, regs),
        }
    }

    fn branch(&mut self, slot: usize, insn: Insn, mut regs: Regs) {
        match insn.code & BPF_OP_MASK {
            BPF_EXIT => {}
            BPF_JA if insn.class() == BPF_JMP32 => self.jump(slot, insn.imm, regs),
            BPF_JA => self.jump(slot, insn.off.into(), regs),
            BPF_CALL => {
                if insn.pseudo_call() == Some(PseudoCall::Subprogram) {
                    self.jump(slot, insn.imm, [None; 16]);
                }
                regs[..6].fill(None);
                self.go(slot + 1, regs);
            }
            _ => {
                let taken = decide(insn, &regs);
                if taken != Some(false) {
                    self.jump(slot, insn.off.into(), regs);
                }
                if taken != Some(true) {
                    self.go(slot + 1, regs);
                }
            }
        }
    }

    fn load_imm(&self, insn: Insn, high: i32) -> Option<Known> {
        match insn.pseudo_load()? {
            PseudoLoad::MapValue => {
                let map = MapIndex(insn.imm.cast_unsigned()).index();
                let frozen = self.object.maps.get(map).is_some_and(|m| m.frozen);
                let offset = high.cast_unsigned().into();
                frozen.then_some(Known::Frozen { map, offset })
            }
            PseudoLoad::Value => Some(Known::Number(ldimm64_value(insn.imm, high))),
            PseudoLoad::Map | PseudoLoad::BtfId | PseudoLoad::Func => None,
        }
    }

    fn load(&self, insn: Insn, from: Option<Known>) -> Option<Known> {
        let Some(Known::Frozen { map, offset }) = from else {
            return None;
        };
        if insn.code & BPF_MODE_MASK != BPF_MEM {
            return None;
        }
        let len = match insn.code & BPF_SIZE_MASK {
            harena_bpf::isa::op::BPF_B => 1,
            harena_bpf::isa::op::BPF_H => 2,
            harena_bpf::isa::op::BPF_W => 4,
            _ => 8,
        };
        let offset = offset.checked_add_signed(insn.off.into())?;
        let bytes = self.object.maps.get(map)?.contents.get(offset, len)?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(&bytes);
        Some(Known::Number(u64::from_le_bytes(word)))
    }
}

fn operand(insn: Insn, regs: &Regs) -> Option<u64> {
    if insn.code & BPF_X == BPF_X {
        number(regs[usize::from(insn.src)])
    } else {
        Some(i64::from(insn.imm).cast_unsigned())
    }
}

const fn number(known: Option<Known>) -> Option<u64> {
    match known {
        Some(Known::Number(n)) => Some(n),
        Some(Known::Frozen { .. }) | None => None,
    }
}

fn alu(insn: Insn, regs: &Regs) -> Option<Known> {
    let narrow = insn.class() == BPF_ALU;
    let plain = insn.off == 0;
    match insn.code & BPF_OP_MASK {
        BPF_MOV if plain && !narrow && insn.code & BPF_X == BPF_X => regs[usize::from(insn.src)],
        BPF_MOV if plain => operand(insn, regs).map(|n| sized(n, narrow)),
        BPF_AND => {
            let a = number(regs[usize::from(insn.dst)])?;
            Some(sized(a & operand(insn, regs)?, narrow))
        }
        _ => None,
    }
}

fn sized(n: u64, narrow: bool) -> Known {
    Known::Number(if narrow { as_u32(n).into() } else { n })
}

/// Whether a conditional jump is taken, if that is known.
fn decide(insn: Insn, regs: &Regs) -> Option<bool> {
    let op = insn.code & BPF_OP_MASK;
    if op == BPF_JCOND {
        return None;
    }
    // The address of frozen data is not NULL.
    if let Some(Known::Frozen { .. }) = regs[usize::from(insn.dst)]
        && insn.code & BPF_X != BPF_X
        && insn.imm == 0
    {
        return match op {
            BPF_JEQ => Some(false),
            BPF_JNE => Some(true),
            _ => None,
        };
    }
    let (mut a, mut b) = (number(regs[usize::from(insn.dst)])?, operand(insn, regs)?);
    if insn.class() == BPF_JMP32 {
        (a, b) = (as_u32(a).into(), as_u32(b).into());
    }
    match op {
        BPF_JEQ => Some(a == b),
        BPF_JNE => Some(a != b),
        BPF_JGT => Some(a > b),
        BPF_JGE => Some(a >= b),
        BPF_JLT => Some(a < b),
        BPF_JLE => Some(a <= b),
        BPF_JSET => Some(a & b != 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harena_bpf::ProgType;
    use harena_bpf::btf::Btf;
    use harena_bpf::isa::asm;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// Numbers of the kfuncs that `text` may call.
    fn kfuncs_called(text: &str) -> Vec<i32> {
        let object = LinkedObject {
            file: "test".to_owned(),
            license: "GPL".to_owned(),
            btf: Arc::new(Btf::empty()),
            programs: Vec::new(),
            maps: Vec::new(),
            struct_ops: Vec::new(),
            arena: None,
            globals: BTreeMap::new(),
        };
        let insns = asm(text).unwrap();
        let program = LinkedProgram::from_insns("test", ProgType::StructOps, insns);
        let slots = reachable(&object, &program);
        let insns = slots.iter().map(|slot| program.insns[*slot as usize]);
        insns
            .filter(|insn| insn.pseudo_call() == Some(PseudoCall::Kfunc))
            .map(|insn| insn.imm)
            .collect()
    }

    #[test]
    fn a_call_behind_a_missing_kfunc_is_not_reached() {
        let missing = "r1 = 0 ll; if r1 == 0 goto old; call kfunc 1; exit; old: call kfunc 2; exit";
        assert_eq!(kfuncs_called(missing), [2]);
        let present = missing.replace("0 ll", "0xfffffffff0000001 ll");
        assert_eq!(kfuncs_called(&present), [1]);
    }

    #[test]
    fn what_is_not_known_is_reached() {
        let either = "if r1 == 0 goto old; call kfunc 1; exit; old: call kfunc 2; exit";
        assert_eq!(kfuncs_called(either), [1, 2]);
        // The second time round, r6 is no constant any more.
        let in_a_loop = "r6 = 0; again: if r6 == 1 goto out; r6 += 1; goto again; \
                         out: call kfunc 1; exit";
        assert_eq!(kfuncs_called(in_a_loop), [1]);
        // A call clobbers r1 to r5.
        let clobbered = "r1 = 0; call 7; if r1 != 0 goto out; exit; out: call kfunc 1; exit";
        assert_eq!(kfuncs_called(clobbered), [1]);
    }

    #[test]
    fn subprograms_and_callbacks_are_reached() {
        let text = "call sub; r1 = func(callback) ll; exit; \
                    sub: call kfunc 1; exit; callback: call kfunc 2; exit; never: call kfunc 3; exit";
        assert_eq!(kfuncs_called(text), [1, 2]);
    }
}
