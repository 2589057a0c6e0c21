//! Programs that fail, made smaller.

use harena_bpf::isa::{Insn, disasm};

/// What stands for an instruction that is left out, `r0 = r0`: all others keep their slots. A jump
/// to the next one would be refused at the end.
const NOTHING: Insn = Insn::new(0xbf, 0, 0, 0, 0);

/// A program that still fails, with as few instructions as leaving them out one after the other,
/// or in runs, leads to.
pub(super) fn shrink(insns: &[Insn], fails: impl Fn(&[Insn]) -> bool) -> Vec<Insn> {
    assert!(fails(insns), "there is nothing to shrink");
    let starts = starts(insns);
    let mut smallest = insns.to_vec();
    let mut run = starts.len() / 2;
    loop {
        let mut is_smaller = false;
        for at in (0..starts.len()).step_by(run.max(1)) {
            let end = starts.get(at + run.max(1)).copied();
            let without = without(&smallest, starts[at]..end.unwrap_or(insns.len()));
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

fn without(insns: &[Insn], slots: std::ops::Range<usize>) -> Vec<Insn> {
    let mut rest = insns.to_vec();
    rest[slots].fill(NOTHING);
    rest
}

/// The instructions that do something, with their slots.
pub(super) fn listing(insns: &[Insn]) -> String {
    let text = disasm(insns);
    let lines = text.lines().filter(|line| !line.ends_with(": r0 = r0"));
    lines.fold(String::new(), |all, line| all + line + "\n")
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
