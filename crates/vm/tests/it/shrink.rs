//! Programs that fail, made smaller.

use std::ops::Range;

use harena_bpf::isa::op::*;
use harena_bpf::isa::{Insn, disasm};

/// What stands for an instruction that is left out, `r0 = r0`: all others keep their slots. A jump
/// to the next one would be refused at the end.
const NOTHING: Insn = Insn::new(0xbf, 0, 0, 0, 0);

/// A program that still fails, with as few instructions as leaving them out one after the other,
/// or in runs, leads to.
pub(super) fn shrink(insns: &[Insn], fails: impl Fn(&[Insn]) -> bool) -> Vec<Insn> {
    shrink_to(insns, |_insn| NOTHING, fails)
}

/// The same, with something simpler in the place of each instruction.
pub(super) fn shrink_to(
    insns: &[Insn],
    simpler: impl Fn(&Insn) -> Insn,
    fails: impl Fn(&[Insn]) -> bool,
) -> Vec<Insn> {
    assert!(fails(insns), "there is nothing to shrink");
    let starts = starts(insns);
    let mut smallest = insns.to_vec();
    let mut run = starts.len() / 2;
    loop {
        let mut is_smaller = false;
        for at in (0..starts.len()).step_by(run.max(1)) {
            let end = starts.get(at + run.max(1)).copied();
            let slots = starts[at]..end.unwrap_or(insns.len());
            let without = without(&smallest, slots, &simpler);
            if without != smallest && fails(&without) {
                smallest = without;
                is_smaller = true;
            }
        }
        if run > 1 {
            run /= 2;
        } else if !is_smaller {
            return smallest;
        }
    }
}

/// First slots of instructions: a wide load has two.
fn starts(insns: &[Insn]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut slot = 0;
    while let Some(insn) = insns.get(slot) {
        starts.push(slot);
        slot += if insn.is_ldimm64() { 2 } else { 1 };
    }
    starts
}

fn without(insns: &[Insn], slots: Range<usize>, simpler: impl Fn(&Insn) -> Insn) -> Vec<Insn> {
    let mut rest = insns.to_vec();
    let mut slot = slots.start;
    while slot < slots.end {
        let len = if insns[slot].is_ldimm64() { 2 } else { 1 };
        let end = slots.end.min(slot + len);
        let simpler = simpler(&insns[slot]);
        if simpler != insns[slot] {
            rest[slot..end].fill(simpler);
        }
        slot += len;
    }
    rest
}

/// What stands for an instruction of a program that [`zeroed`] simplified. Verifiers do not look at
/// all arguments of kfuncs, so those stay what they are.
pub(super) fn nothing(insn: &Insn) -> Insn {
    let writes = matches!(insn.code & 0x07, BPF_LD | BPF_LDX | BPF_ALU | BPF_ALU64);
    if writes && (1..6).contains(&insn.dst) {
        return *insn;
    }
    NOTHING
}

/// What stands for an instruction in a program that a verifier accepts and in which numbers are not
/// pointers: one that writes a register writes 0.
pub(super) fn zeroed(insn: &Insn) -> Insn {
    let zero = |reg| Insn::new(0xb7, reg, 0, 0, 0);
    if *insn == NOTHING {
        return NOTHING;
    }
    match (insn.code & 0x07, insn.code) {
        (BPF_LD | BPF_LDX | BPF_ALU | BPF_ALU64, _) => zero(insn.dst),
        (BPF_STX, code) if code & 0xe0 == BPF_ATOMIC => match insn.imm {
            0xf1 => zero(0),
            0x100 => zero(insn.dst),
            imm if imm & BPF_FETCH != 0 => zero(insn.src),
            _ => NOTHING,
        },
        (BPF_JMP, code) if code == BPF_JMP | BPF_CALL => zero(0),
        // Without these, a program would read what others left on a kernel's stack.
        (BPF_ST | BPF_STX, _) if insn.dst == 10 => *insn,
        _ => NOTHING,
    }
}

/// The instructions that do something, with their slots.
pub(super) fn listing(insns: &[Insn]) -> String {
    let text = disasm(insns);
    let lines = text.lines().filter(|line| !line.ends_with(": r0 = r0"));
    lines.fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn what_writes_a_register_is_zeroed() {
    let text = "r2 = 5 ll; r3 = r2; w3 += w2; call 7; r0 = *(u64 *)(r10 - 8)
        lock *(u64 *)(r1 + 0) += r4; r4 = atomic_fetch_add((u64 *)(r1 + 0), r4)
        *(u64 *)(r10 - 8) = r4; *(u64 *)(r1 + 0) = r4; exit";
    let insns = harena_bpf::isa::asm(text).expect("it assembles");
    let is_exit = |insns: &[Insn]| insns.last() == Some(&Insn::new(0x95, 0, 0, 0, 0));
    let shrunk = shrink_to(&insns, zeroed, is_exit);
    let expected = "r2 = 0; r2 = 0; r3 = 0; r3 = 0; r0 = 0; r0 = 0; r0 = r0; r4 = 0
        *(u64 *)(r10 - 8) = r4; r0 = r0; exit";
    assert_eq!(
        shrunk,
        harena_bpf::isa::asm(expected).expect("it assembles")
    );
    // What verifiers may not look at stays.
    let shrunk = shrink_to(&shrunk, nothing, is_exit);
    assert_eq!(
        listing(&shrunk),
        "   0: r2 = 0\n   1: r2 = 0\n   2: r3 = 0\n   3: r3 = 0\n   7: r4 = 0\n  10: exit\n"
    );
}

#[test]
fn what_does_not_matter_is_left_out() {
    let mut insns: Vec<Insn> = (0..40).map(|n| Insn::new(0xb7, 0, 0, 0, n)).collect();
    insns.extend(Insn::ldimm64(1, 0, 7));
    insns.extend((40..60).map(|n| Insn::new(0xb7, 0, 0, 0, n)));
    let matters = |insns: &[Insn]| {
        let has = |n| insns.contains(&Insn::new(0xb7, 0, 0, 0, n));
        has(3) && has(50) && insns.iter().any(|insn| insn.is_ldimm64())
    };
    let shrunk = shrink(&insns, matters);
    assert_eq!(shrunk.len(), insns.len());
    assert_eq!(
        listing(&shrunk),
        "   3: r0 = 3\n  40: r1 = 0x7 ll\n  52: r0 = 50\n"
    );
}
