//! Which instructions of a program can be reached, as far as constants decide it.
//!
//! The verifier does not look at branches that a constant rules out, and compatibility
//! macros rely on that: `bpf_ksym_exists(new) ? new() : old()` contains a call of `old`
//! that must not be judged. So registers are followed while they hold a constant: an
//! immediate, the address of a kfunc, or a variable in frozen `.rodata`.
//!
//! The result is an over-approximation: what is called unreachable is.
//!
//! Registers that hold the context are followed, too, also over calls and the stack, to know how
//! much of it a program touches (`prog->aux->max_ctx_offset`). There what is not followed is not
//! counted: too small a context is refused only where it surely is too small.

use harena_bpf::isa::op::{
    BPF_ADD, BPF_ALU, BPF_ALU64, BPF_AND, BPF_ATOMIC, BPF_CALL, BPF_DW, BPF_EXIT, BPF_JA,
    BPF_JCOND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JLE, BPF_JLT, BPF_JMP, BPF_JMP32, BPF_JNE, BPF_JSET,
    BPF_LD, BPF_LDX, BPF_MEM, BPF_MODE_MASK, BPF_MOV, BPF_OP_MASK, BPF_SIZE_MASK, BPF_ST, BPF_STX,
    BPF_X, PseudoCall, PseudoLoad,
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
    /// The address of a byte of the context, or before it.
    Context {
        offset: i64,
    },
}

type Regs = [Option<Known>; 16];

const UNKNOWN: Regs = [None; 16];
/// The frame pointer.
const R10: u8 = 10;

/// What is known at a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    regs: Regs,
    /// Places in the frame that hold the address of a byte of the context: their offset from r10,
    /// and the byte's.
    spilled: Vec<(i16, i64)>,
}

impl State {
    const fn of(regs: Regs) -> Self {
        Self {
            regs,
            spilled: Vec::new(),
        }
    }

    /// What holds whichever of the two it is.
    fn merge(&mut self, other: &Self) {
        for (known, new) in self.regs.iter_mut().zip(other.regs) {
            if *known != new {
                *known = None;
            }
        }
        self.spilled.retain(|spill| other.spilled.contains(spill));
    }

    /// A store to the frame.
    fn store(&mut self, insn: Insn) {
        if insn.dst != R10 {
            return;
        }
        let size = i32::from(size_of_access(insn));
        let (start, end) = (i32::from(insn.off), i32::from(insn.off) + size);
        self.spilled
            .retain(|(at, _)| i32::from(*at) + 8 <= start || i32::from(*at) >= end);
        if insn.class() == BPF_STX
            && insn.code & BPF_SIZE_MASK == BPF_DW
            && insn.code & BPF_MODE_MASK == BPF_MEM
            && let Some(Known::Context { offset }) = self.regs[usize::from(insn.src)]
        {
            self.spilled.push((insn.off, offset));
        }
    }

    /// What a load from the frame gives, if that is an address in the context.
    fn reload(&self, insn: Insn) -> Option<Known> {
        let is_whole = insn.code & BPF_SIZE_MASK == BPF_DW && insn.code & BPF_MODE_MASK == BPF_MEM;
        let mut spilled = self.spilled.iter();
        let (_, offset) = spilled.find(|(at, _)| insn.src == R10 && is_whole && *at == insn.off)?;
        Some(Known::Context { offset: *offset })
    }
}

/// Bytes that a load or store goes over.
const fn size_of_access(insn: Insn) -> u8 {
    match insn.code & BPF_SIZE_MASK {
        harena_bpf::isa::op::BPF_B => 1,
        harena_bpf::isa::op::BPF_H => 2,
        harena_bpf::isa::op::BPF_W => 4,
        _ => 8,
    }
}

/// Slots of `program` that may be executed, in ascending order.
pub(crate) fn reachable(object: &LinkedObject, program: &LinkedProgram) -> Vec<u32> {
    let seen = Walk::over(object, program, UNKNOWN).seen;
    (0..)
        .zip(&seen)
        .filter_map(|(slot, seen)| seen.is_some().then_some(slot))
        .collect()
}

/// A load from the context, or a store to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContextAccess {
    pub(crate) slot: u32,
    /// Bytes from the context's start.
    pub(crate) offset: i64,
    pub(crate) size: u8,
    pub(crate) is_store: bool,
}

impl ContextAccess {
    /// Up to where the context must reach.
    pub(crate) fn end(self) -> i64 {
        self.offset.saturating_add(self.size.into())
    }
}

/// Bytes of its context that `program` loads from or stores to, from the first one.
pub(crate) fn context_needed(object: &LinkedObject, program: &LinkedProgram) -> u64 {
    let accesses = context_accesses(object, program).into_iter();
    let end = accesses.map(ContextAccess::end).max();
    end.and_then(|end| u64::try_from(end).ok()).unwrap_or(0)
}

/// The accesses of `program` to its context, by ascending slot.
pub(crate) fn context_accesses(
    object: &LinkedObject,
    program: &LinkedProgram,
) -> Vec<ContextAccess> {
    let mut regs = UNKNOWN;
    regs[1] = Some(Known::Context { offset: 0 });
    let walk = Walk::over(object, program, regs);
    let slots = (0..).zip(walk.seen.iter().zip(&program.insns));
    let accesses = slots.filter_map(|(slot, (state, insn))| {
        let (base, is_store) = match insn.class() {
            BPF_LDX => (insn.src, false),
            BPF_ST | BPF_STX => (insn.dst, true),
            _ => return None,
        };
        let Some(Known::Context { offset }) = state.as_ref()?.regs[usize::from(base)] else {
            return None;
        };
        Some(ContextAccess {
            slot,
            offset: offset.saturating_add(insn.off.into()),
            size: size_of_access(*insn),
            is_store,
        })
    });
    accesses.collect()
}

struct Walk<'a> {
    object: &'a LinkedObject,
    insns: &'a [Insn],
    /// What is known whenever control is at a slot; only ever becomes less.
    seen: Vec<Option<State>>,
    todo: Vec<usize>,
}

impl<'a> Walk<'a> {
    /// The finished walk from a program's start, with these registers.
    fn over(object: &'a LinkedObject, program: &'a LinkedProgram, regs: Regs) -> Self {
        let mut walk = Self {
            object,
            insns: &program.insns,
            seen: vec![None; program.insns.len()],
            todo: Vec::new(),
        };
        walk.go(0, &State::of(regs));
        while let Some(slot) = walk.todo.pop() {
            walk.step(slot);
        }
        walk
    }

    /// Control may get to `slot` in this state.
    fn go(&mut self, slot: usize, state: &State) {
        let Some(seen) = self.seen.get_mut(slot) else {
            return;
        };
        let Some(old) = seen else {
            *seen = Some(state.clone());
            return self.todo.push(slot);
        };
        let mut merged = old.clone();
        merged.merge(state);
        if *old != merged {
            *old = merged;
            self.todo.push(slot);
        }
    }

    fn jump(&mut self, slot: usize, distance: i32, state: &State) {
        let target = isize::try_from(distance)
            .ok()
            .and_then(|d| (slot + 1).checked_add_signed(d));
        if let Some(target) = target {
            self.go(target, state);
        }
    }

    fn step(&mut self, slot: usize) {
        let (Some(insn), Some(Some(state))) = (self.insns.get(slot), self.seen.get(slot)) else {
            return;
        };
        let (insn, mut state) = (*insn, state.clone());
        let regs = &mut state.regs;
        let dst = usize::from(insn.dst);
        match insn.class() {
            BPF_LD => {
                let high = self.insns.get(slot + 1).map_or(0, |next| next.imm);
                regs[dst] = self.load_imm(insn, high);
                if let Some(PseudoLoad::Func) = insn.pseudo_load() {
                    self.jump(slot, insn.imm, &State::of(UNKNOWN));
                }
                self.go(slot + 2, &state);
            }
            BPF_LDX => {
                let loaded = self.load(insn, regs[usize::from(insn.src)]);
                state.regs[dst] = loaded.or_else(|| state.reload(insn));
                self.go(slot + 1, &state);
            }
            BPF_STX if insn.code & BPF_MODE_MASK == BPF_ATOMIC => {
                // A fetch lands in the source register, a compare-and-swap in r0.
                regs[0] = None;
                regs[usize::from(insn.src)] = None;
                regs[dst] = None;
                state.store(insn);
                self.go(slot + 1, &state);
            }
            BPF_ST | BPF_STX => {
                state.store(insn);
                self.go(slot + 1, &state);
            }
            BPF_ALU | BPF_ALU64 => {
                regs[dst] = alu(insn, regs);
                self.go(slot + 1, &state);
            }
            BPF_JMP | BPF_JMP32 => self.branch(slot, insn, state),
            _ => self.go(slot + 1, &state),
        }
    }

    fn branch(&mut self, slot: usize, insn: Insn, mut state: State) {
        match insn.code & BPF_OP_MASK {
            BPF_EXIT => {}
            BPF_JA if insn.class() == BPF_JMP32 => self.jump(slot, insn.imm, &state),
            BPF_JA => self.jump(slot, insn.off.into(), &state),
            BPF_CALL => {
                if insn.pseudo_call() == Some(PseudoCall::Subprogram) {
                    let mut args = UNKNOWN;
                    args[1..6].copy_from_slice(&state.regs[1..6]);
                    self.jump(slot, insn.imm, &State::of(args));
                }
                state.regs[..6].fill(None);
                self.go(slot + 1, &state);
            }
            _ => {
                let taken = decide(insn, &state.regs);
                if taken != Some(false) {
                    self.jump(slot, insn.off.into(), &state);
                }
                if taken != Some(true) {
                    self.go(slot + 1, &state);
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
        let len = size_of_access(insn).into();
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
        Some(Known::Frozen { .. } | Known::Context { .. }) | None => None,
    }
}

fn alu(insn: Insn, regs: &Regs) -> Option<Known> {
    let narrow = insn.class() == BPF_ALU;
    let plain = insn.off == 0;
    match insn.code & BPF_OP_MASK {
        BPF_MOV if plain && !narrow && insn.code & BPF_X == BPF_X => regs[usize::from(insn.src)],
        BPF_MOV if plain => operand(insn, regs).map(|n| sized(n, narrow)),
        BPF_ADD if !narrow => match regs[usize::from(insn.dst)] {
            Some(Known::Context { offset }) => {
                let more = operand(insn, regs)?.cast_signed();
                let offset = offset.checked_add(more)?;
                Some(Known::Context { offset })
            }
            Some(Known::Number(_) | Known::Frozen { .. }) | None => None,
        },
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
    // The address of frozen data is not NULL, nor is the context to a verifier.
    if let Some(Known::Frozen { .. } | Known::Context { .. }) = regs[usize::from(insn.dst)]
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

    fn empty() -> LinkedObject {
        LinkedObject {
            file: "test".to_owned(),
            license: "GPL".to_owned(),
            btf: Arc::new(Btf::empty()),
            programs: Vec::new(),
            maps: Vec::new(),
            struct_ops: Vec::new(),
            arena: None,
            globals: BTreeMap::new(),
        }
    }

    /// Numbers of the kfuncs that `text` may call.
    fn kfuncs_called(text: &str) -> Vec<i32> {
        let object = empty();
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

    fn context(text: &str) -> u64 {
        let insns = asm(text).unwrap();
        let program = LinkedProgram::from_insns("test", ProgType::Syscall, insns);
        context_needed(&empty(), &program)
    }

    #[test]
    fn the_context_is_followed_wherever_it_goes() {
        for (text, needed) in [
            ("r0 = 0; exit", 0),
            ("r0 = *(u32 *)(r1 + 8); exit", 12),
            ("*(u8 *)(r1 + 20) = 1; r0 = *(u64 *)(r1 + 0); exit", 21),
            (
                "r6 = r1; r6 += 16; r0 = 7; call 7; r0 = *(u16 *)(r6 + 2); exit",
                20,
            ),
            ("lock *(u64 *)(r1 + 24) += r1; exit", 32),
            // Over the stack, unless something else is stored there.
            (
                "*(u64 *)(r10 - 8) = r1; r2 = *(u64 *)(r10 - 8); r0 = *(u64 *)(r2 + 0); exit",
                8,
            ),
            (
                "*(u64 *)(r10 - 8) = r1; *(u8 *)(r10 - 4) = 0; r2 = *(u64 *)(r10 - 8); \
                 r0 = *(u64 *)(r2 + 0); exit",
                0,
            ),
            // Into a function, from every call.
            ("call sub; exit; sub: r0 = *(u64 *)(r1 + 32); exit", 40),
            (
                "r6 = r1; call sub; r1 = 0; call sub; exit; sub: r0 = *(u64 *)(r1 + 32); exit",
                0,
            ),
            // What no branch leads to does not count; either branch of an unknown one does.
            (
                "if r1 == 0 goto no; r0 = 0; exit; no: r0 = *(u64 *)(r1 + 64); exit",
                0,
            ),
            (
                "if r2 == 0 goto no; r0 = 0; exit; no: r0 = *(u64 *)(r1 + 64); exit",
                72,
            ),
            // A loop that moves it is not followed.
            (
                "again: r0 = *(u64 *)(r1 + 0); r1 += 8; if r0 != 0 goto again; exit",
                0,
            ),
            ("r0 = *(u64 *)(r1 - 16); exit", 0),
        ] {
            assert_eq!(context(text), needed, "{text}");
        }
    }

    #[test]
    fn subprograms_and_callbacks_are_reached() {
        let text = "call sub; r1 = func(callback) ll; exit; \
                    sub: call kfunc 1; exit; callback: call kfunc 2; exit; never: call kfunc 3; exit";
        assert_eq!(kfuncs_called(text), [1, 2]);
    }
}
