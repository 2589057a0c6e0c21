//! The numbers of the instruction set, with the kernel's names (`uapi/linux/bpf.h`).

/// Class: 64-bit immediate and legacy packet loads.
pub const BPF_LD: u8 = 0x00;
/// Class: load from memory into a register.
pub const BPF_LDX: u8 = 0x01;
/// Class: store an immediate.
pub const BPF_ST: u8 = 0x02;
/// Class: store a register; atomics.
pub const BPF_STX: u8 = 0x03;
/// Class: 32-bit arithmetic.
pub const BPF_ALU: u8 = 0x04;
/// Class: jumps that compare 64 bits, calls, exit.
pub const BPF_JMP: u8 = 0x05;
/// Class: jumps that compare 32 bits.
pub const BPF_JMP32: u8 = 0x06;
/// Class: 64-bit arithmetic.
pub const BPF_ALU64: u8 = 0x07;

/// Size: four bytes.
pub const BPF_W: u8 = 0x00;
/// Size: two bytes.
pub const BPF_H: u8 = 0x08;
/// Size: one byte.
pub const BPF_B: u8 = 0x10;
/// Size: eight bytes.
pub const BPF_DW: u8 = 0x18;
/// Mask of the size bits.
pub const BPF_SIZE_MASK: u8 = 0x18;

/// Mode: immediate.
pub const BPF_IMM: u8 = 0x00;
/// Mode: legacy packet access at a constant offset.
pub const BPF_ABS: u8 = 0x20;
/// Mode: legacy packet access at a register's offset.
pub const BPF_IND: u8 = 0x40;
/// Mode: plain memory access.
pub const BPF_MEM: u8 = 0x60;
/// Mode: sign-extending load.
pub const BPF_MEMSX: u8 = 0x80;
/// Mode: atomic operation, named by `imm`.
pub const BPF_ATOMIC: u8 = 0xc0;
/// Mask of the mode bits.
pub const BPF_MODE_MASK: u8 = 0xe0;

/// Source operand is `imm`.
pub const BPF_K: u8 = 0x00;
/// Source operand is register `src`.
pub const BPF_X: u8 = 0x08;
/// Mask of the operation bits of ALU and JMP classes.
pub const BPF_OP_MASK: u8 = 0xf0;

/// `dst += src`.
pub const BPF_ADD: u8 = 0x00;
/// `dst -= src`.
pub const BPF_SUB: u8 = 0x10;
/// `dst *= src`.
pub const BPF_MUL: u8 = 0x20;
/// `dst /= src`; signed when `off` is 1.
pub const BPF_DIV: u8 = 0x30;
/// `dst |= src`.
pub const BPF_OR: u8 = 0x40;
/// `dst &= src`.
pub const BPF_AND: u8 = 0x50;
/// `dst <<= src`.
pub const BPF_LSH: u8 = 0x60;
/// `dst >>= src`, filling with zeroes.
pub const BPF_RSH: u8 = 0x70;
/// `dst = -dst`.
pub const BPF_NEG: u8 = 0x80;
/// `dst %= src`; signed when `off` is 1.
pub const BPF_MOD: u8 = 0x90;
/// `dst ^= src`.
pub const BPF_XOR: u8 = 0xa0;
/// `dst = src`; sign-extending when `off` is 8, 16 or 32; address space cast when 1.
pub const BPF_MOV: u8 = 0xb0;
/// `dst >>= src`, filling with the sign.
pub const BPF_ARSH: u8 = 0xc0;
/// Byte order conversion of `imm` bits.
pub const BPF_END: u8 = 0xd0;

/// `off` of a `BPF_MOV | BPF_X` that casts between address spaces.
pub const BPF_ADDR_SPACE_CAST: i16 = 1;

/// Unconditional jump: by `off`, or by `imm` in class `BPF_JMP32`.
pub const BPF_JA: u8 = 0x00;
/// Jump if equal.
pub const BPF_JEQ: u8 = 0x10;
/// Jump if unsigned greater.
pub const BPF_JGT: u8 = 0x20;
/// Jump if unsigned greater or equal.
pub const BPF_JGE: u8 = 0x30;
/// Jump if any common bit is set.
pub const BPF_JSET: u8 = 0x40;
/// Jump if not equal.
pub const BPF_JNE: u8 = 0x50;
/// Jump if signed greater.
pub const BPF_JSGT: u8 = 0x60;
/// Jump if signed greater or equal.
pub const BPF_JSGE: u8 = 0x70;
/// Call of a helper, a kfunc, a subprogram or (`BPF_X`) a register.
pub const BPF_CALL: u8 = 0x80;
/// Return from the function.
pub const BPF_EXIT: u8 = 0x90;
/// Jump if unsigned less.
pub const BPF_JLT: u8 = 0xa0;
/// Jump if unsigned less or equal.
pub const BPF_JLE: u8 = 0xb0;
/// Jump if signed less.
pub const BPF_JSLT: u8 = 0xc0;
/// Jump if signed less or equal.
pub const BPF_JSLE: u8 = 0xd0;
/// Conditional pseudo jump: `may_goto`.
pub const BPF_JCOND: u8 = 0xe0;

/// Atomic flag: the old value is returned in `src`.
pub const BPF_FETCH: i32 = 0x01;
/// Atomic exchange.
pub const BPF_XCHG: i32 = 0xe0 | BPF_FETCH;
/// Atomic compare and exchange with `r0`.
pub const BPF_CMPXCHG: i32 = 0xf0 | BPF_FETCH;
/// Load-acquire into `dst`.
pub const BPF_LOAD_ACQ: i32 = 0x100;
/// Store-release of `src`.
pub const BPF_STORE_REL: i32 = 0x110;

/// `src` of a `ldimm64` that loads a map.
pub const BPF_PSEUDO_MAP_FD: u8 = 1;
/// `src` of a `ldimm64` that loads the address of a byte in a map's value.
pub const BPF_PSEUDO_MAP_VALUE: u8 = 2;
/// `src` of a `ldimm64` that loads the address of a kernel variable.
pub const BPF_PSEUDO_BTF_ID: u8 = 3;
/// `src` of a `ldimm64` that loads the address of a subprogram.
pub const BPF_PSEUDO_FUNC: u8 = 4;

/// `src` of a call of a subprogram, `imm` slots after the next one.
pub const BPF_PSEUDO_CALL: u8 = 1;
/// `src` of a call of a kfunc.
pub const BPF_PSEUDO_KFUNC_CALL: u8 = 2;

/// What the immediate of a `ldimm64` means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PseudoLoad {
    /// The number itself.
    Value,
    /// A map; in linked programs `imm` is the index in `LinkedObject::maps`.
    Map,
    /// A byte in a map's value; `imm` as for `Map`, the second `imm` is the offset.
    MapValue,
    /// A kernel variable by type id (linked programs carry its address as `Value`).
    BtfId,
    /// A subprogram, `imm` slots after the next slot.
    Func,
}

impl PseudoLoad {
    pub(super) const fn from_src(src: u8) -> Option<Self> {
        match src {
            0 => Some(Self::Value),
            BPF_PSEUDO_MAP_FD => Some(Self::Map),
            BPF_PSEUDO_MAP_VALUE => Some(Self::MapValue),
            BPF_PSEUDO_BTF_ID => Some(Self::BtfId),
            BPF_PSEUDO_FUNC => Some(Self::Func),
            _ => None,
        }
    }
}

/// What the immediate of a call means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PseudoCall {
    /// Number of a helper.
    Helper,
    /// A subprogram, `imm` slots after the next slot.
    Subprogram,
    /// A kfunc; in linked programs `imm` is its id in the kernel's table.
    Kfunc,
}

impl PseudoCall {
    pub(super) const fn from_src(src: u8) -> Option<Self> {
        match src {
            0 => Some(Self::Helper),
            BPF_PSEUDO_CALL => Some(Self::Subprogram),
            BPF_PSEUDO_KFUNC_CALL => Some(Self::Kfunc),
            _ => None,
        }
    }
}
