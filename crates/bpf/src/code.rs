//! Instruction slots to decoded operations, once, at load.
//!
//! Slot numbers stay: operation `i` is what slot `i` says, and the second slot of a
//! `ldimm64` is a hole that no jump may reach. After decoding, every register number is
//! below 11 and every jump target names an operation, so engines check neither.
//! An operation [`OpCode::FellOff`] behind the last one catches execution that runs on.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "slot numbers of a slice that is there; offsets of 16 bits"
    )
)]

use crate::isa::Insn;
use crate::isa::op::{
    BPF_ADD, BPF_ADDR_SPACE_CAST, BPF_ALU, BPF_ALU64, BPF_AND, BPF_ARSH, BPF_ATOMIC, BPF_CALL,
    BPF_CMPXCHG, BPF_DIV, BPF_DW, BPF_END, BPF_EXIT, BPF_FETCH, BPF_H, BPF_JA, BPF_JCOND, BPF_JEQ,
    BPF_JGE, BPF_JGT, BPF_JLE, BPF_JLT, BPF_JMP, BPF_JMP32, BPF_JNE, BPF_JSET, BPF_JSGE, BPF_JSGT,
    BPF_JSLE, BPF_JSLT, BPF_LDX, BPF_LOAD_ACQ, BPF_LSH, BPF_MEM, BPF_MEMSX, BPF_MOD, BPF_MODE_MASK,
    BPF_MOV, BPF_MUL, BPF_NEG, BPF_OP_MASK, BPF_OR, BPF_RSH, BPF_SIZE_MASK, BPF_ST, BPF_STORE_REL,
    BPF_STX, BPF_SUB, BPF_W, BPF_X, BPF_XCHG, BPF_XOR,
};
use crate::isa::op::{BPF_B, BPF_LD, PseudoCall};

use crate::analysis::Space;

/// Number of the helper `bpf_tail_call`, which engines treat as a jump.
pub const TAIL_CALL: u32 = 12;

/// Bytes of stack one frame has.
pub const FRAME_SIZE: i32 = 512;
/// The frame pointer.
const R10: u8 = 10;
/// `src` of `addr_space_cast` 0 <- 1, in `imm`.
const CAST_TO_KERNEL: i32 = 1;
/// The same for 1 <- 0.
const CAST_TO_USER: i32 = 1 << 16;
macro_rules! opcodes {
    ($($class:ident: $($name:ident)*;)*) => {
        /// What to do. `K`: with the immediate; `X`: with the source register.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are those of the instruction set")]
        pub enum OpCode { $($($name,)*)* }

        impl OpCode {
            /// The family it belongs to.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $($(Self::$name)|* => Class::$class,)* }
            }
        }
    };
}

opcodes! {
    AluK: Add64K Add32K Sub64K Sub32K Mul64K Mul32K Div64K Div32K Mod64K Mod32K
        SDiv64K SDiv32K SMod64K SMod32K Or64K Or32K And64K And32K Xor64K Xor32K
        Lsh64K Lsh32K Rsh64K Rsh32K Arsh64K Arsh32K Neg64 Neg32
        Keep64 Keep16 Keep32 Swap16 Swap32 Swap64;
    AluX: Add64X Add32X Sub64X Sub32X Mul64X Mul32X Div64X Div32X Mod64X Mod32X
        SDiv64X SDiv32X SMod64X SMod32X Or64X Or32X And64X And32X Xor64X Xor32X
        Lsh64X Lsh32X Rsh64X Rsh32X Arsh64X Arsh32X;
    Move: Mov64X Mov32X MovSx8To64 MovSx16To64 MovSx32To64 MovSx8To32 MovSx16To32;
    Set: Mov64K Mov32K LdImm64;
    CastToKernel: CastToKernel;
    CastToUser: CastToUser;
    Jump: Ja;
    Computed: GotoX;
    Branch: MayGoto
        Jeq64K Jeq64X Jeq32K Jeq32X Jne64K Jne64X Jne32K Jne32X
        Jset64K Jset64X Jset32K Jset32X
        Jgt64K Jgt64X Jgt32K Jgt32X Jge64K Jge64X Jge32K Jge32X
        Jlt64K Jlt64X Jlt32K Jlt32X Jle64K Jle64X Jle32K Jle32X
        Jsgt64K Jsgt64X Jsgt32K Jsgt32X Jsge64K Jsge64X Jsge32K Jsge32X
        Jslt64K Jslt64X Jslt32K Jslt32X Jsle64K Jsle64X Jsle32K Jsle32X;
    Load: Ldx8 Ldx16 Ldx32 Ldx64 Ldsx8 Ldsx16 Ldsx32 LdAcq8 LdAcq16 LdAcq32 LdAcq64;
    Store: St8 St16 St32 St64 Stx8 Stx16 Stx32 Stx64 StRel8 StRel16 StRel32 StRel64;
    Atomic: Atomic32 Atomic64;
    Call: CallHelper CallKfunc CallX;
    CallFunction: CallFunction;
    Exit: Exit;
    End: StackBounds Poison Hole FellOff;
}

/// Families of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Arithmetic with an immediate.
    AluK,
    /// Arithmetic with a register.
    AluX,
    /// One register gets another, perhaps narrowed.
    Move,
    /// A register gets a constant.
    Set,
    /// `addr_space_cast` 0 <- 1.
    CastToKernel,
    /// `addr_space_cast` 1 <- 0.
    CastToUser,
    /// A register gets a value from memory.
    Load,
    /// Memory gets a value.
    Store,
    /// An atomic read-modify-write.
    Atomic,
    /// Goes on elsewhere.
    Jump,
    /// Goes on where a register says: at an entry of a jump table.
    Computed,
    /// Goes on elsewhere or behind.
    Branch,
    /// Calls a helper or kfunc; `CallX` the helper whose number a register holds.
    Call,
    /// Calls a function of the program.
    CallFunction,
    /// Returns from a function.
    Exit,
    /// Ends the run.
    End,
}

/// Kinds of atomic read-modify-write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomicOp {
    /// Addition.
    Add,
    /// Bits set.
    Or,
    /// Bits kept.
    And,
    /// Bits flipped.
    Xor,
    /// Exchange.
    Xchg,
    /// Exchange if r0 is there.
    Cmpxchg,
}

/// One decoded operation.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What to do.
    pub code: OpCode,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Bytes accessed, of memory operations.
    pub size: u8,
    /// Where a memory access leads.
    pub space: Space,
    /// Memory offset, or the jump target as a slot number.
    pub off: i32,
    /// Immediate, sign-extended; number of the helper, kfunc or atomic operation.
    pub imm: u64,
}

impl Op {
    /// Whether it calls `bpf_tail_call`, which leaves the function if there is a program.
    #[must_use]
    pub fn is_tail_call(&self) -> bool {
        self.code == OpCode::CallHelper && self.imm == u64::from(TAIL_CALL)
    }

    /// The register that a memory operation goes through.
    #[must_use]
    pub const fn base(&self) -> Option<u8> {
        match self.code.class() {
            Class::Load => Some(self.src),
            Class::Store | Class::Atomic => Some(self.dst),
            Class::AluK | Class::AluX | Class::Move | Class::Set => None,
            Class::Jump | Class::Computed => None,
            Class::CastToKernel | Class::CastToUser | Class::Branch | Class::Call => None,
            Class::CallFunction | Class::Exit | Class::End => None,
        }
    }

    /// Whether this is a load-acquire.
    #[must_use]
    pub const fn is_acquire(&self) -> bool {
        matches!(
            self.code,
            OpCode::LdAcq8 | OpCode::LdAcq16 | OpCode::LdAcq32 | OpCode::LdAcq64
        )
    }

    /// What an atomic does, and whether it gives the old value.
    #[must_use]
    pub fn atomic(&self) -> Option<(AtomicOp, bool)> {
        let [a, b, c, d, ..] = self.imm.to_le_bytes();
        let is_atomic = self.code.class() == Class::Atomic;
        atomic_op(i32::from_le_bytes([a, b, c, d])).filter(|_| is_atomic)
    }

    /// The register that gets what a memory operation read.
    #[must_use]
    pub fn result(&self) -> Option<u8> {
        if self.code.class() == Class::Load {
            return Some(self.dst);
        }
        match self.atomic()? {
            (AtomicOp::Cmpxchg, _) => Some(0),
            (_, fetch) => fetch.then_some(self.src),
        }
    }
}

/// A decoded program.
#[derive(Debug)]
pub struct Code {
    /// One operation per slot, and [`OpCode::FellOff`] behind them.
    pub ops: Box<[Op]>,
}

/// An instruction that no engine knows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("slot {slot}: {reason}")]
pub struct CodeError {
    /// Where.
    pub slot: usize,
    /// What is wrong.
    pub reason: String,
}

/// A program while it is decoded.
struct Decoder<'a> {
    insns: &'a [Insn],
    holes: Vec<bool>,
}

type Decoded = Result<Op, (usize, String)>;

/// Decodes a whole program.
pub fn decode(insns: &[Insn]) -> Result<Code, CodeError> {
    let mut holes = vec![false; insns.len()];
    let mut i = 0;
    while i < insns.len() {
        if insns[i].is_ldimm64() {
            match holes.get_mut(i + 1) {
                Some(hole) => *hole = true,
                None => {
                    let reason = "ldimm64 without its second slot".to_owned();
                    return Err(CodeError { slot: i, reason });
                }
            }
            i += 1;
        }
        i += 1;
    }
    let decoder = Decoder { insns, holes };
    let mut ops = Vec::with_capacity(insns.len() + 1);
    for slot in 0..insns.len() {
        let op = decoder.slot(slot);
        ops.push(op.map_err(|(slot, reason)| CodeError { slot, reason })?);
    }
    ops.push(plain(OpCode::FellOff));
    Ok(Code {
        ops: ops.into_boxed_slice(),
    })
}

const fn plain(code: OpCode) -> Op {
    Op {
        code,
        dst: 0,
        src: 0,
        size: 0,
        space: Space::Either,
        off: 0,
        imm: 0,
    }
}

/// Sign-extends an immediate to a register.
const fn sext(imm: i32) -> u64 {
    (imm as i64).cast_unsigned()
}

impl Decoder<'_> {
    fn slot(&self, slot: usize) -> Decoded {
        let insn = self.insns[slot];
        if self.holes[slot] {
            if insn.code != 0 || insn.dst != 0 || insn.src != 0 || insn.off != 0 {
                return Err((slot, "second slot of ldimm64 is not clear".to_owned()));
            }
            return Ok(plain(OpCode::Hole));
        }
        if insn.dst > R10 || (insn.src > R10 && !insn.is_ldimm64()) {
            return Err((slot, format!("no register r{}", insn.dst.max(insn.src))));
        }
        let class = insn.class();
        match class {
            BPF_ALU | BPF_ALU64 => alu(insn).ok_or_else(|| unknown(slot, insn)),
            BPF_JMP | BPF_JMP32 => self.jump(slot, insn),
            BPF_LD => self.load_imm(slot, insn),
            BPF_LDX => load(insn).ok_or_else(|| unknown(slot, insn)),
            BPF_ST | BPF_STX => store(insn).ok_or_else(|| unknown(slot, insn)),
            _ => Err(unknown(slot, insn)),
        }
        .and_then(|op| {
            let writes_dst = matches!(class, BPF_ALU | BPF_ALU64 | BPF_LD | BPF_LDX)
                || (insn.class() == BPF_STX && is_load_acquire(insn));
            if writes_dst && op.dst == R10 {
                return Err((slot, "frame pointer is read only".to_owned()));
            }
            Ok(op)
        })
    }

    fn load_imm(&self, slot: usize, insn: Insn) -> Decoded {
        if !insn.is_ldimm64() || insn.off != 0 {
            return Err(unknown(slot, insn));
        }
        let high = self.insns[slot + 1].imm;
        let imm = u64::from(insn.imm.cast_unsigned()) | (u64::from(high.cast_unsigned()) << 32);
        Ok(Op {
            dst: insn.dst,
            src: insn.src,
            imm,
            ..plain(OpCode::LdImm64)
        })
    }

    /// The slot `delta` behind the one after `slot`.
    fn target(&self, slot: usize, delta: i64) -> Result<i32, (usize, String)> {
        let to = i64::try_from(slot)
            .ok()
            .and_then(|s| s.checked_add(1 + delta));
        let inside = to
            .and_then(|t| usize::try_from(t).ok())
            .filter(|t| self.holes.get(*t) == Some(&false));
        match inside.and_then(|t| i32::try_from(t).ok()) {
            Some(t) => Ok(t),
            None => Err((slot, format!("jump by {delta:+} leads outside the program"))),
        }
    }

    fn jump(&self, slot: usize, insn: Insn) -> Decoded {
        let operation = insn.code & BPF_OP_MASK;
        let op = Op {
            dst: insn.dst,
            src: insn.src,
            imm: sext(insn.imm),
            ..plain(OpCode::Ja)
        };
        let wide = insn.class() == BPF_JMP;
        let by_register = insn.code & BPF_X != 0;
        match (operation, wide, by_register) {
            (BPF_JA, true, false) => self.jump_to(slot, op, i64::from(insn.off)),
            (BPF_JA, false, false) => self.jump_to(slot, op, i64::from(insn.imm)),
            (BPF_JA, true, true) if insn.src == 0 && insn.off == 0 && insn.imm == 0 => Ok(Op {
                code: OpCode::GotoX,
                ..op
            }),
            (BPF_JCOND, true, false) if insn.src == 0 => {
                let op = Op {
                    code: OpCode::MayGoto,
                    ..op
                };
                self.jump_to(slot, op, i64::from(insn.off))
            }
            (BPF_EXIT, true, false) => Ok(plain(OpCode::Exit)),
            (BPF_CALL, true, false) => self.call(slot, insn),
            (BPF_CALL, true, true) if insn.src == 0 && insn.off == 0 && insn.imm == 0 => Ok(Op {
                code: OpCode::CallX,
                ..op
            }),
            _ => match jump_code(operation, wide, by_register) {
                Some(code) => self.jump_to(slot, Op { code, ..op }, i64::from(insn.off)),
                None => Err(unknown(slot, insn)),
            },
        }
    }

    fn jump_to(&self, slot: usize, op: Op, delta: i64) -> Decoded {
        let off = self.target(slot, delta)?;
        Ok(Op { off, ..op })
    }

    fn call(&self, slot: usize, insn: Insn) -> Decoded {
        let op = Op {
            imm: u64::from(insn.imm.cast_unsigned()),
            ..plain(OpCode::CallHelper)
        };
        match insn.pseudo_call() {
            Some(PseudoCall::Helper) => Ok(op),
            Some(PseudoCall::Kfunc) if insn.off == 0 => Ok(Op {
                code: OpCode::CallKfunc,
                ..op
            }),
            Some(PseudoCall::Kfunc) => Err((slot, "kfunc of a module BTF".to_owned())),
            Some(PseudoCall::Subprogram) => {
                let op = Op {
                    code: OpCode::CallFunction,
                    ..op
                };
                self.jump_to(slot, op, i64::from(insn.imm))
            }
            None => Err(unknown(slot, insn)),
        }
    }
}

fn unknown(slot: usize, insn: Insn) -> (usize, String) {
    let Insn {
        code,
        src,
        off,
        imm,
        ..
    } = insn;
    (
        slot,
        format!("unknown instruction {code:#04x} (src {src}, off {off}, imm {imm:#x})"),
    )
}

/// The four forms of an ALU or jump operation: (wide, by register).
macro_rules! forms {
    ($wide:expr, $reg:expr, $k64:ident $x64:ident $k32:ident $x32:ident) => {
        match ($wide, $reg) {
            (true, false) => OpCode::$k64,
            (true, true) => OpCode::$x64,
            (false, false) => OpCode::$k32,
            (false, true) => OpCode::$x32,
        }
    };
}

fn jump_code(operation: u8, wide: bool, reg: bool) -> Option<OpCode> {
    Some(match operation {
        BPF_JEQ => forms!(wide, reg, Jeq64K Jeq64X Jeq32K Jeq32X),
        BPF_JNE => forms!(wide, reg, Jne64K Jne64X Jne32K Jne32X),
        BPF_JSET => forms!(wide, reg, Jset64K Jset64X Jset32K Jset32X),
        BPF_JGT => forms!(wide, reg, Jgt64K Jgt64X Jgt32K Jgt32X),
        BPF_JGE => forms!(wide, reg, Jge64K Jge64X Jge32K Jge32X),
        BPF_JLT => forms!(wide, reg, Jlt64K Jlt64X Jlt32K Jlt32X),
        BPF_JLE => forms!(wide, reg, Jle64K Jle64X Jle32K Jle32X),
        BPF_JSGT => forms!(wide, reg, Jsgt64K Jsgt64X Jsgt32K Jsgt32X),
        BPF_JSGE => forms!(wide, reg, Jsge64K Jsge64X Jsge32K Jsge32X),
        BPF_JSLT => forms!(wide, reg, Jslt64K Jslt64X Jslt32K Jslt32X),
        BPF_JSLE => forms!(wide, reg, Jsle64K Jsle64X Jsle32K Jsle32X),
        _ => return None,
    })
}

fn alu(insn: Insn) -> Option<Op> {
    let wide = insn.class() == BPF_ALU64;
    let reg = insn.code & BPF_X != 0;
    let operation = insn.code & BPF_OP_MASK;
    let code = match (operation, insn.off) {
        (BPF_ADD, 0) => forms!(wide, reg, Add64K Add64X Add32K Add32X),
        (BPF_SUB, 0) => forms!(wide, reg, Sub64K Sub64X Sub32K Sub32X),
        (BPF_MUL, 0) => forms!(wide, reg, Mul64K Mul64X Mul32K Mul32X),
        (BPF_DIV, 0) => forms!(wide, reg, Div64K Div64X Div32K Div32X),
        (BPF_DIV, 1) => forms!(wide, reg, SDiv64K SDiv64X SDiv32K SDiv32X),
        (BPF_MOD, 0) => forms!(wide, reg, Mod64K Mod64X Mod32K Mod32X),
        (BPF_MOD, 1) => forms!(wide, reg, SMod64K SMod64X SMod32K SMod32X),
        (BPF_OR, 0) => forms!(wide, reg, Or64K Or64X Or32K Or32X),
        (BPF_AND, 0) => forms!(wide, reg, And64K And64X And32K And32X),
        (BPF_XOR, 0) => forms!(wide, reg, Xor64K Xor64X Xor32K Xor32X),
        (BPF_LSH, 0) => forms!(wide, reg, Lsh64K Lsh64X Lsh32K Lsh32X),
        (BPF_RSH, 0) => forms!(wide, reg, Rsh64K Rsh64X Rsh32K Rsh32X),
        (BPF_ARSH, 0) => forms!(wide, reg, Arsh64K Arsh64X Arsh32K Arsh32X),
        (BPF_NEG, 0) if !reg => {
            if wide {
                OpCode::Neg64
            } else {
                OpCode::Neg32
            }
        }
        (BPF_MOV, _) => mov(insn, wide, reg)?,
        (BPF_END, 0) => byte_order(insn, wide, reg)?,
        _ => return None,
    };
    Some(Op {
        dst: insn.dst,
        src: insn.src,
        imm: sext(insn.imm),
        ..plain(code)
    })
}

fn mov(insn: Insn, wide: bool, reg: bool) -> Option<OpCode> {
    Some(match (insn.off, wide, reg) {
        (0, _, _) => forms!(wide, reg, Mov64K Mov64X Mov32K Mov32X),
        (8, true, true) => OpCode::MovSx8To64,
        (16, true, true) => OpCode::MovSx16To64,
        (32, true, true) => OpCode::MovSx32To64,
        (8, false, true) => OpCode::MovSx8To32,
        (16, false, true) => OpCode::MovSx16To32,
        (BPF_ADDR_SPACE_CAST, true, true) => match insn.imm {
            CAST_TO_KERNEL => OpCode::CastToKernel,
            CAST_TO_USER => OpCode::CastToUser,
            _ => return None,
        },
        _ => return None,
    })
}

/// Programs are little-endian: "to little" only truncates, "to big" and `bswap` swap.
fn byte_order(insn: Insn, wide: bool, reg: bool) -> Option<OpCode> {
    let swap = match (wide, reg) {
        (false, reg) => reg,
        (true, false) => true,
        (true, true) => return None,
    };
    Some(match (insn.imm, swap) {
        (16, true) => OpCode::Swap16,
        (32, true) => OpCode::Swap32,
        (64, true) => OpCode::Swap64,
        (16, false) => OpCode::Keep16,
        (32, false) => OpCode::Keep32,
        (64, false) => OpCode::Keep64,
        _ => return None,
    })
}

fn size_of_access(code: u8) -> u8 {
    match code & BPF_SIZE_MASK {
        BPF_B => 1,
        BPF_H => 2,
        BPF_W => 4,
        _ => 8,
    }
}

/// A memory operation; one that leaves the frame through r10 becomes `StackBounds`.
fn memory(code: OpCode, insn: Insn, base: u8) -> Op {
    let size = size_of_access(insn.code);
    let off = i32::from(insn.off);
    let in_frame = off >= -FRAME_SIZE && off + i32::from(size) <= 0;
    let code = if base == R10 && !in_frame {
        OpCode::StackBounds
    } else {
        code
    };
    Op {
        code,
        dst: insn.dst,
        src: insn.src,
        size,
        space: Space::Either,
        off,
        imm: sext(insn.imm),
    }
}

fn load(insn: Insn) -> Option<Op> {
    let code = match (insn.code & BPF_MODE_MASK, insn.code & BPF_SIZE_MASK) {
        (BPF_MEM, BPF_B) => OpCode::Ldx8,
        (BPF_MEM, BPF_H) => OpCode::Ldx16,
        (BPF_MEM, BPF_W) => OpCode::Ldx32,
        (BPF_MEM, BPF_DW) => OpCode::Ldx64,
        (BPF_MEMSX, BPF_B) => OpCode::Ldsx8,
        (BPF_MEMSX, BPF_H) => OpCode::Ldsx16,
        (BPF_MEMSX, BPF_W) => OpCode::Ldsx32,
        _ => return None,
    };
    Some(memory(code, insn, insn.src))
}

fn store(insn: Insn) -> Option<Op> {
    let by_register = insn.class() == BPF_STX;
    let code = match (
        insn.code & BPF_MODE_MASK,
        insn.code & BPF_SIZE_MASK,
        by_register,
    ) {
        (BPF_MEM, BPF_B, false) => OpCode::St8,
        (BPF_MEM, BPF_H, false) => OpCode::St16,
        (BPF_MEM, BPF_W, false) => OpCode::St32,
        (BPF_MEM, BPF_DW, false) => OpCode::St64,
        (BPF_MEM, BPF_B, true) => OpCode::Stx8,
        (BPF_MEM, BPF_H, true) => OpCode::Stx16,
        (BPF_MEM, BPF_W, true) => OpCode::Stx32,
        (BPF_MEM, BPF_DW, true) => OpCode::Stx64,
        (BPF_ATOMIC, size, true) => return atomic(insn, size),
        _ => return None,
    };
    Some(memory(code, insn, insn.dst))
}

fn atomic(insn: Insn, size: u8) -> Option<Op> {
    match insn.imm {
        BPF_LOAD_ACQ => return Some(memory(load_acquire(size), insn, insn.src)),
        BPF_STORE_REL => return Some(memory(store_release(size), insn, insn.dst)),
        _ => {}
    }
    let code = match size {
        BPF_W => OpCode::Atomic32,
        BPF_DW => OpCode::Atomic64,
        _ => return None,
    };
    let (_, fetch) = atomic_op(insn.imm)?;
    if fetch && insn.src == R10 {
        return None;
    }
    Some(memory(code, insn, insn.dst))
}

fn is_load_acquire(insn: Insn) -> bool {
    insn.code & BPF_MODE_MASK == BPF_ATOMIC && insn.imm == BPF_LOAD_ACQ
}

fn load_acquire(size: u8) -> OpCode {
    match size {
        BPF_B => OpCode::LdAcq8,
        BPF_H => OpCode::LdAcq16,
        BPF_W => OpCode::LdAcq32,
        _ => OpCode::LdAcq64,
    }
}

fn store_release(size: u8) -> OpCode {
    match size {
        BPF_B => OpCode::StRel8,
        BPF_H => OpCode::StRel16,
        BPF_W => OpCode::StRel32,
        _ => OpCode::StRel64,
    }
}

/// What an atomic's immediate asks for, and whether the old value is returned.
#[must_use]
pub fn atomic_op(imm: i32) -> Option<(AtomicOp, bool)> {
    const ADD: i32 = BPF_ADD as i32;
    const OR: i32 = BPF_OR as i32;
    const AND: i32 = BPF_AND as i32;
    const XOR: i32 = BPF_XOR as i32;
    match imm {
        BPF_XCHG => return Some((AtomicOp::Xchg, true)),
        BPF_CMPXCHG => return Some((AtomicOp::Cmpxchg, true)),
        _ => {}
    }
    let op = match imm & !BPF_FETCH {
        ADD => AtomicOp::Add,
        OR => AtomicOp::Or,
        AND => AtomicOp::And,
        XOR => AtomicOp::Xor,
        _ => return None,
    };
    Some((op, imm & BPF_FETCH != 0))
}
