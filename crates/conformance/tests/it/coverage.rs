//! Each instruction of the set is in a case that has a result.

use std::collections::BTreeSet;

use harena_bpf::isa::{Insn, disasm};

use crate::case::{self, Expected};

/// What tells instructions apart: the code, and the other fields where they belong to it.
type Key = (u8, u8, i16, i32);

const SIZES: [u8; 4] = [0x10, 0x08, 0x00, 0x18];

fn key(insn: Insn) -> Key {
    let class = insn.class();
    let is_alu = class == 0x04 || class == 0x07;
    let op = insn.code & 0xf0;
    let is_atomic = insn.code & 0xe7 == 0xc3;
    let src = if insn.code == 0x85 { insn.src } else { 0 };
    // Signed division, and sign extension.
    let off = match op {
        0x30 | 0x90 | 0xb0 if is_alu => insn.off,
        _ => 0,
    };
    // The width of a byte swap, and the operation of an atomic.
    let imm = if is_atomic || is_alu && op == 0xd0 {
        insn.imm
    } else {
        0
    };
    (insn.code, src, off, imm)
}

fn arithmetic() -> Vec<Key> {
    let mut keys = Vec::new();
    for class in [0x04, 0x07] {
        for op in [
            0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0, 0xb0, 0xc0,
        ] {
            for source in [0x00, 0x08] {
                keys.push((class | op | source, 0, 0, 0));
                if op == 0x30 || op == 0x90 {
                    keys.push((class | op | source, 0, 1, 0));
                }
            }
        }
        keys.push((class | 0x80, 0, 0, 0));
        let widths = if class == 0x04 {
            &[8, 16][..]
        } else {
            &[8, 16, 32]
        };
        keys.extend(widths.iter().map(|width| (class | 0xb8, 0, *width, 0)));
    }
    for code in [0xd4, 0xdc, 0xd7] {
        keys.extend([16, 32, 64].map(|width| (code, 0, 0, width)));
    }
    keys
}

fn jumps() -> Vec<Key> {
    let mut keys: Vec<Key> = [0x05, 0x06, 0x95].map(|code| (code, 0, 0, 0)).into();
    for class in [0x05, 0x06] {
        for op in [
            0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0,
        ] {
            keys.extend([0x00, 0x08].map(|source| (class | op | source, 0, 0, 0)));
        }
    }
    // A helper and a function.
    keys.extend([0, 1].map(|src| (0x85, src, 0, 0)));
    keys
}

fn memory() -> Vec<Key> {
    let mut keys = vec![(0x18, 0, 0, 0)];
    for size in SIZES {
        // Loads, stores of numbers and registers, acquire and release.
        keys.extend([0x61, 0x62, 0x63].map(|code| (code | size, 0, 0, 0)));
        keys.extend([0x100, 0x110].map(|imm| (0xc3 | size, 0, 0, imm)));
    }
    keys.extend([0x10, 0x08, 0x00].map(|size| (0x81 | size, 0, 0, 0)));
    for size in [0x00, 0x18] {
        for imm in [0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1] {
            keys.push((0xc3 | size, 0, 0, imm));
        }
    }
    keys
}

#[test]
fn every_instruction_is_in_a_case() {
    let cases = case::all();
    let with_result = cases
        .iter()
        .filter(|case| matches!(case.expected, Expected::Result(_)));
    let used: BTreeSet<Key> = with_result
        .flat_map(|case| case.insns.iter().copied().map(key))
        .collect();
    let all = [arithmetic(), jumps(), memory()].concat();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 165);
    let missing = all.into_iter().filter(|key| !used.contains(key));
    let missing: Vec<String> = missing
        .map(|(code, src, off, imm)| {
            let text = disasm(&[Insn::new(code, 0, src, off, imm)]);
            format!("{code:#04x} src {src} off {off} imm {imm:#x}: {text}")
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
