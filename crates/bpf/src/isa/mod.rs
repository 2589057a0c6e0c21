//! BPF instructions: one 8-byte slot each, and what its fields mean.
//!
//! ```text
//!  byte  0     1         2..3   4..7
//!       +-----+----+----+------+----------+
//!       |code |src |dst | off  |   imm    |   little endian; dst is the low nibble
//!       +-----+----+----+------+----------+
//! ```
//!
//! A 64-bit immediate load (`ldimm64`) takes two slots; the second has code 0 and
//! carries the upper half in `imm`. Slots, not instructions, are what offsets and
//! indices count, as in the kernel. Nothing here judges whether an instruction is
//! legal: whoever executes it does.

mod asm;
mod disasm;
pub mod op;

pub use asm::{AsmError, asm};
pub use disasm::{Disassembled, disasm, disasm_one};

use op::{BPF_CALL, BPF_DW, BPF_IMM, BPF_JMP, BPF_LD, PseudoCall, PseudoLoad};

/// Bytes of one slot.
pub const INSN_SIZE: usize = 8;

/// One instruction slot with its fields taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Insn {
    /// Class, operation and source or size bits.
    pub code: u8,
    /// Destination register, 0 to 15 (only 0 to 10 exist).
    pub dst: u8,
    /// Source register, 0 to 15, or a `BPF_PSEUDO_*` mark.
    pub src: u8,
    /// Jump or memory offset.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

impl Insn {
    /// A slot with these fields.
    #[must_use]
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self {
            code,
            dst,
            src,
            off,
            imm,
        }
    }

    /// The slot in these eight bytes.
    #[must_use]
    pub const fn from_bytes(b: [u8; INSN_SIZE]) -> Self {
        let [code, regs, off0, off1, imm0, imm1, imm2, imm3] = b;
        Self {
            code,
            dst: regs & 0xf,
            src: regs >> 4,
            off: i16::from_le_bytes([off0, off1]),
            imm: i32::from_le_bytes([imm0, imm1, imm2, imm3]),
        }
    }

    /// The eight bytes of this slot; only the low nibbles of the registers count.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; INSN_SIZE] {
        let [off0, off1] = self.off.to_le_bytes();
        let [imm0, imm1, imm2, imm3] = self.imm.to_le_bytes();
        let regs = (self.dst & 0xf) | ((self.src & 0xf) << 4);
        [self.code, regs, off0, off1, imm0, imm1, imm2, imm3]
    }

    /// The instruction class, `BPF_LD` to `BPF_ALU64`.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.code & 0x07
    }

    /// Whether this is the first slot of a two-slot 64-bit immediate load.
    #[must_use]
    pub const fn is_ldimm64(self) -> bool {
        self.code == BPF_LD | BPF_IMM | BPF_DW
    }

    /// What a 64-bit immediate load refers to, if this is one of a known sort.
    #[must_use]
    pub const fn pseudo_load(self) -> Option<PseudoLoad> {
        if self.is_ldimm64() {
            PseudoLoad::from_src(self.src)
        } else {
            None
        }
    }

    /// What a call refers to, if this is a direct call of a known sort.
    #[must_use]
    pub const fn pseudo_call(self) -> Option<PseudoCall> {
        if self.code == BPF_JMP | BPF_CALL {
            PseudoCall::from_src(self.src)
        } else {
            None
        }
    }

    /// The two slots of `dst = value ll`.
    #[must_use]
    pub const fn ldimm64(dst: u8, src: u8, value: u64) -> [Self; 2] {
        let [lo, hi] = halves(value);
        [
            Self::new(BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, lo),
            Self::new(0, 0, 0, 0, hi),
        ]
    }
}

/// Lower and upper half of `value` as the two immediates of a `ldimm64`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "splitting a word in halves is the purpose"
)]
const fn halves(value: u64) -> [i32; 2] {
    [
        (value as u32).cast_signed(),
        ((value >> 32) as u32).cast_signed(),
    ]
}

/// The value of a `ldimm64` whose slots carry these immediates.
#[must_use]
pub const fn ldimm64_value(lo: i32, hi: i32) -> u64 {
    let (lo, hi) = (lo.cast_unsigned(), hi.cast_unsigned());
    u64::from_le_bytes({
        let [a, b, c, d] = lo.to_le_bytes();
        let [e, f, g, h] = hi.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    })
}

/// Bytes that are no whole number of instruction slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{len} bytes are no whole number of 8-byte instructions")]
pub struct DecodeError {
    /// How many bytes there are.
    pub len: usize,
}

/// Takes `bytes` apart into slots.
pub fn decode(bytes: &[u8]) -> Result<Vec<Insn>, DecodeError> {
    let (slots, rest) = bytes.as_chunks::<INSN_SIZE>();
    if !rest.is_empty() {
        return Err(DecodeError { len: bytes.len() });
    }
    Ok(slots.iter().map(|slot| Insn::from_bytes(*slot)).collect())
}

/// The bytes of `insns`, the inverse of [`decode`].
#[must_use]
pub fn encode(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}
