//! Instructions to text, in the dialect of clang's assembler.
//!
//! The text is a promise: [`asm`](super::asm()) of it gives the same slots back.
//! It is kept by construction, since every line is assembled again before it is
//! handed out; slots that no text describes (reserved fields set, unknown
//! opcodes) are printed as `.insn 0x…`, their eight bytes as a little-endian word.

#[cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "the opcodes are this file's vocabulary"
    )
)]
use super::op::*;
use super::{Insn, asm, ldimm64_value};
use std::fmt::Write;

/// The text of one instruction and how many slots it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disassembled {
    /// The instruction in assembler syntax.
    pub text: String,
    /// One, or two for a 64-bit immediate load.
    pub slots: usize,
}

/// Disassembles the instruction at the start of `insns`; `None` if that is empty.
#[must_use]
pub fn disasm_one(insns: &[Insn]) -> Option<Disassembled> {
    let first = *insns.first()?;
    let second = if first.is_ldimm64() {
        insns.get(1).copied()
    } else {
        None
    };
    let slots = if second.is_some() { 2 } else { 1 };
    if let Some(text) = text_of(first, second)
        && asm(&text).is_ok_and(|again| insns.get(..slots) == Some(again.as_slice()))
    {
        return Some(Disassembled { text, slots });
    }
    let raw = u64::from_le_bytes(first.to_bytes());
    Some(Disassembled {
        text: format!(".insn {raw:#018x}"),
        slots: 1,
    })
}

/// Disassembles all of `insns`, one line each, with slot numbers.
#[must_use]
pub fn disasm(insns: &[Insn]) -> String {
    let mut out = String::new();
    let mut rest = insns;
    while let Some(one) = disasm_one(rest) {
        let index = insns.len().saturating_sub(rest.len());
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "{index:4}: {}", one.text);
        rest = rest.get(one.slots..).unwrap_or_default();
    }
    out
}

fn text_of(insn: Insn, second: Option<Insn>) -> Option<String> {
    match insn.class() {
        BPF_LD => load_immediate(insn, second).or_else(|| packet_load(insn)),
        BPF_LDX => load(insn),
        BPF_ST => Some(format!("{} = {}", memory(insn, insn.dst, 'u'), insn.imm)),
        BPF_STX => match insn.code & BPF_MODE_MASK {
            BPF_ATOMIC => atomic(insn),
            _ => {
                let value = reg(insn.src, width(insn) == 64);
                Some(format!("{} = {value}", memory(insn, insn.dst, 'u')))
            }
        },
        BPF_ALU | BPF_ALU64 => alu(insn),
        _ => jump(insn),
    }
}

fn reg(number: u8, wide: bool) -> String {
    format!("{}{number}", if wide { 'r' } else { 'w' })
}

/// Bits that a memory instruction moves.
fn width(insn: Insn) -> u32 {
    match insn.code & BPF_SIZE_MASK {
        BPF_B => 8,
        BPF_H => 16,
        BPF_W => 32,
        _ => 64,
    }
}

fn address(base: u8, off: i16) -> String {
    let sign = if off < 0 { '-' } else { '+' };
    format!("(r{base} {sign} {})", off.unsigned_abs())
}

fn pointer(insn: Insn, base: u8, sign: char) -> String {
    format!("({sign}{} *){}", width(insn), address(base, insn.off))
}

fn memory(insn: Insn, base: u8, sign: char) -> String {
    format!("*{}", pointer(insn, base, sign))
}

fn target(distance: i32) -> String {
    format!("{distance:+}")
}

fn load_immediate(insn: Insn, second: Option<Insn>) -> Option<String> {
    let (lo, hi) = (insn.imm, second?.imm);
    let value = match insn.pseudo_load()? {
        PseudoLoad::Value => format!("{:#x}", ldimm64_value(lo, hi)),
        PseudoLoad::Map => format!("map({lo})"),
        PseudoLoad::MapValue => format!("map_value({lo}, {})", hi.cast_unsigned()),
        PseudoLoad::BtfId => format!("btf_id({lo})"),
        PseudoLoad::Func => format!("func({})", target(lo)),
    };
    Some(format!("r{} = {value} ll", insn.dst))
}

fn packet_load(insn: Insn) -> Option<String> {
    let index = match insn.code & BPF_MODE_MASK {
        BPF_ABS => format!("{}", insn.imm),
        BPF_IND => format!("r{}", insn.src),
        _ => return None,
    };
    Some(format!("r0 = *(u{} *)skb[{index}]", width(insn)))
}

fn load(insn: Insn) -> Option<String> {
    let sign = match insn.code & BPF_MODE_MASK {
        BPF_MEM => 'u',
        BPF_MEMSX => 's',
        _ => return None,
    };
    let wide = sign == 's' || width(insn) == 64;
    let dst = reg(insn.dst, wide);
    Some(format!("{dst} = {}", memory(insn, insn.src, sign)))
}

fn atomic(insn: Insn) -> Option<String> {
    let wide = width(insn) == 64;
    let src = reg(insn.src, wide);
    let at = address(insn.dst, insn.off);
    let bare = at.trim_start_matches('(').trim_end_matches(')');
    let pointer = pointer(insn, insn.dst, 'u');
    Some(match insn.imm {
        BPF_XCHG if wide => format!("{src} = xchg_64({bare}, {src})"),
        BPF_XCHG => format!("{src} = xchg32_32({bare}, {src})"),
        BPF_CMPXCHG if wide => format!("r0 = cmpxchg_64({bare}, r0, {src})"),
        BPF_CMPXCHG => format!("w0 = cmpxchg32_32({bare}, w0, {src})"),
        BPF_LOAD_ACQ => {
            // The address is in `src` here and the value goes to `dst`.
            let from = format!("(u{} *){}", width(insn), address(insn.src, insn.off));
            format!("{} = load_acquire({from})", reg(insn.dst, wide))
        }
        BPF_STORE_REL => format!("store_release({pointer}, {src})"),
        imm => {
            let op = u8::try_from(imm & !BPF_FETCH).ok()?;
            let (name, sign) = match op {
                BPF_ADD => ("add", "+"),
                BPF_OR => ("or", "|"),
                BPF_AND => ("and", "&"),
                BPF_XOR => ("xor", "^"),
                _ => return None,
            };
            if imm & BPF_FETCH != 0 {
                format!("{src} = atomic_fetch_{name}({pointer}, {src})")
            } else {
                format!("lock *{pointer} {sign}= {src}")
            }
        }
    })
}

fn alu(insn: Insn) -> Option<String> {
    let wide = insn.class() == BPF_ALU64;
    let dst = reg(insn.dst, wide);
    let by_reg = insn.code & BPF_X != 0;
    let operand = if by_reg {
        reg(insn.src, wide)
    } else {
        insn.imm.to_string()
    };
    let signed = if insn.off == 1 { "s" } else { "" };
    let sign = match insn.code & BPF_OP_MASK {
        BPF_ADD => "+",
        BPF_SUB => "-",
        BPF_MUL => "*",
        BPF_DIV => return Some(format!("{dst} {signed}/= {operand}")),
        BPF_OR => "|",
        BPF_AND => "&",
        BPF_LSH => "<<",
        BPF_RSH => ">>",
        BPF_NEG => return Some(format!("{dst} = -{dst}")),
        BPF_MOD => return Some(format!("{dst} {signed}%= {operand}")),
        BPF_XOR => "^",
        BPF_MOV => return Some(mov(insn, &dst, &operand)),
        BPF_ARSH => "s>>",
        BPF_END => {
            let order = match (wide, by_reg) {
                (false, true) => "be",
                (false, false) => "le",
                (true, _) => "bswap",
            };
            return Some(format!("r{0} = {order}{1} r{0}", insn.dst, insn.imm));
        }
        _ => return None,
    };
    Some(format!("{dst} {sign}= {operand}"))
}

fn mov(insn: Insn, dst: &str, operand: &str) -> String {
    match insn.off {
        BPF_ADDR_SPACE_CAST => {
            let (to, from) = (insn.imm.cast_unsigned() >> 16, insn.imm & 0xffff);
            format!("{dst} = addr_space_cast({operand}, {to}, {from})")
        }
        0 => format!("{dst} = {operand}"),
        bits => format!("{dst} = (s{bits}){operand}"),
    }
}

fn jump(insn: Insn) -> Option<String> {
    let wide = insn.class() == BPF_JMP;
    let to = target(i32::from(insn.off));
    let comparison = match insn.code & BPF_OP_MASK {
        BPF_JA if insn.code & BPF_X != 0 => return Some(format!("gotox r{}", insn.dst)),
        BPF_JA if wide => return Some(format!("goto {to}")),
        BPF_JA => return Some(format!("gotol {}", target(insn.imm))),
        BPF_CALL if insn.code & BPF_X != 0 => return Some(format!("callx r{}", insn.dst)),
        BPF_CALL => {
            return Some(match insn.pseudo_call()? {
                PseudoCall::Helper => format!("call {}", insn.imm.cast_unsigned()),
                PseudoCall::Subprogram => format!("call {}", target(insn.imm)),
                PseudoCall::Kfunc => format!("call kfunc {}", insn.imm.cast_unsigned()),
            });
        }
        BPF_EXIT => return Some("exit".to_owned()),
        BPF_JCOND => return Some(format!("may_goto {to}")),
        BPF_JEQ => "==",
        BPF_JGT => ">",
        BPF_JGE => ">=",
        BPF_JSET => "&",
        BPF_JNE => "!=",
        BPF_JSGT => "s>",
        BPF_JSGE => "s>=",
        BPF_JLT => "<",
        BPF_JLE => "<=",
        BPF_JSLT => "s<",
        BPF_JSLE => "s<=",
        _ => return None,
    };
    let operand = if insn.code & BPF_X != 0 {
        reg(insn.src, wide)
    } else {
        insn.imm.to_string()
    };
    let left = reg(insn.dst, wide);
    Some(format!("if {left} {comparison} {operand} goto {to}"))
}
