//! The interpreter: the reference for what a program means.
//!
//! One decoded operation after the other; registers live in a local array of 16 so that a
//! masked register number needs no check. Memory operations try the heap with one compare
//! and leave the loop for everything else (arena pages, faults). The state that others may
//! look at (`pc`, instructions left) is written back whenever the loop is left.

use std::sync::Arc;

use super::access::{self, ArenaView, At};
use super::alu;
use super::tail::{self, TailCall};
use super::{Ended, frame_pointer, push_frame};
use crate::error::{Abort, AbortCause};
use crate::host::Host;
use crate::mem::{Scalar, Word};
use crate::program::Program;
use crate::vm::{FRAME_BYTES, Vm};
use crate::{helpers, kfuncs};
use harena_bpf::analysis::Space;
use harena_bpf::code::{Op, OpCode, TAIL_CALL};

/// Registers r0 to r10; the rest pads the array.
pub(super) type Regs = [u64; 16];

/// Registers at a function's start; r10 is the frame's.
pub(super) fn entry(args: [u64; 5]) -> Regs {
    let mut regs = [0; 16];
    regs[1..6].copy_from_slice(&args);
    regs
}

/// Low 32 bits: what the instruction set defines ALU32 and JMP32 on.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "32-bit operations use the low half"
)]
const fn w(reg: u64) -> u32 {
    reg as u32
}

/// What became of a tail call.
enum Tail {
    /// It leads nowhere.
    Nowhere,
    /// The loop ends with it.
    Ends(TailCall),
    /// The function's result.
    Made(u64),
}

/// The loop's way out to memory that is not plain heap.
struct Outside<'a> {
    vm: &'a mut Vm,
    host: &'a mut dyn Host,
    program: &'a Program,
    arena: Option<ArenaView<'a>>,
}

impl Outside<'_> {
    /// Notes which slot is being executed.
    fn at(&mut self, pc: usize) {
        let frame = self.vm.frames.last_mut().expect("the loop runs in a frame");
        frame.pc = u32::try_from(pc - 1).expect("slots are numbered in 32 bits");
    }

    fn abort(&mut self, pc: usize, left: u64, cause: AbortCause) -> Abort {
        self.at(pc);
        self.vm.insns_left = left;
        self.vm.abort_here(cause)
    }

    #[inline(never)]
    fn tail_call(&mut self, base_frames: usize, args: [u64; 3]) -> Result<Tail, Abort> {
        let Some(next) = tail::target(self.vm, args)? else {
            return Ok(Tail::Nowhere);
        };
        if self.vm.frames.len() == base_frames {
            return Ok(Tail::Ends(next));
        }
        tail::run(self.vm, self.host, next).map(Tail::Made)
    }

    /// Leaves a function: its caller's r6 to r9, and where that one goes on. By value: whoever
    /// takes the address of registers makes every instruction slower.
    fn leave(&mut self) -> ([u64; 4], usize) {
        let frame = self.vm.frames.pop();
        let saved = frame.expect("more frames than at the start").saved;
        let caller = self.vm.frames.last().expect("the caller's frame");
        (saved, caller.pc as usize + 1)
    }

    #[inline(never)]
    fn load<T: Scalar>(&mut self, pc: usize, op: &Op, base: u64, otherwise: u64) -> u64 {
        self.at(pc);
        let arena = self.arena.as_ref();
        let request = (At::of(op, base), otherwise);
        access::load::<T>(self.vm, self.host, self.program, arena, request)
    }

    #[inline(never)]
    fn store<T: Scalar>(&mut self, pc: usize, op: &Op, base: u64, value: u64) {
        self.at(pc);
        let arena = self.arena.as_ref();
        let request = (At::of(op, base), value);
        access::store::<T>(self.vm, self.host, self.program, arena, request);
    }

    #[inline(never)]
    fn atomic<T: Word>(&mut self, pc: usize, op: &Op, r: &mut Regs) {
        self.at(pc);
        let request = access::Request {
            op,
            base: r[usize::from(op.dst & 15)],
            value: r[usize::from(op.src & 15)],
            r0: r[0],
        };
        let arena = self.arena.as_ref();
        let result = access::update::<T>(self.vm, self.host, self.program, arena, request);
        if let Some(reg) = op.result() {
            r[usize::from(reg & 15)] = result;
        }
    }
}

/// Runs from `start` in the innermost frame, with these registers but for r10, until that frame
/// returns.
#[expect(clippy::too_many_lines, reason = "one dispatch match with short arms")]
#[expect(
    clippy::large_stack_frames,
    reason = "the sum over all arms, which share their places once compiled"
)]
pub(super) fn run(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    start: u32,
    mut r: Regs,
) -> Result<Ended, Abort> {
    let mem = Arc::clone(&vm.mem);
    let arena = ArenaView::of(program);
    let base_frames = vm.frames.len();
    r[10] = frame_pointer(vm);
    let mut left = vm.insns_left;
    let mut pc = start as usize;
    let ops = &program.executable.code.ops[..];
    let mut out = Outside {
        vm,
        host,
        program,
        arena,
    };
    loop {
        let op = &ops[pc];
        pc += 1;
        if left == 0 {
            let budget = out.vm.config.insn_budget;
            return Err(out.abort(pc, left, AbortCause::Budget { budget }));
        }
        left -= 1;
        let d = usize::from(op.dst & 15);
        let s = usize::from(op.src & 15);

        macro_rules! alu64 {
            ($f:expr, $src:expr) => {
                r[d] = $f(r[d], $src)
            };
        }
        macro_rules! alu32 {
            ($f:expr, $src:expr) => {
                r[d] = u64::from($f(w(r[d]), w($src)))
            };
        }
        macro_rules! jump {
            ($taken:expr) => {
                if $taken {
                    pc = op.off.cast_unsigned() as usize;
                }
            };
        }
        macro_rules! j64 {
            ($f:expr, $src:expr) => {
                jump!($f(&r[d], &$src))
            };
        }
        macro_rules! j32 {
            ($f:expr, $src:expr) => {
                jump!($f(&w(r[d]), &w($src)))
            };
        }
        macro_rules! js64 {
            ($f:expr, $src:expr) => {
                jump!($f(&r[d].cast_signed(), &$src.cast_signed()))
            };
        }
        macro_rules! js32 {
            ($f:expr, $src:expr) => {
                jump!($f(&w(r[d]).cast_signed(), &w($src).cast_signed()))
            };
        }
        macro_rules! load {
            ($t:ty) => {
                load!($t, otherwise 0)
            };
            ($t:ty, otherwise $otherwise:expr) => {
                // An arena pointer is its low 32 bits, whatever the others look like.
                match mem.load::<$t>(mem.address(r[s], op.off.into(), op.space)) {
                    Some(value) if op.space != Space::Arena => value,
                    Some(_) | None => out.load::<$t>(pc, op, r[s], $otherwise),
                }
            };
        }
        macro_rules! store {
            ($t:ty, $value:expr) => {{
                let value = $value;
                let elsewhere = op.space == Space::Arena;
                let at = mem.address(r[d], op.off.into(), op.space);
                if elsewhere || mem.store::<$t>(at, value).is_none() {
                    out.store::<$t>(pc, op, r[d], value);
                }
            }};
        }
        macro_rules! call {
            ($f:expr, $number:expr) => {{
                out.at(pc);
                out.vm.insns_left = left;
                let args = [r[1], r[2], r[3], r[4], r[5]];
                r[0] = $f(out.vm, out.host, program, $number, args)?;
                left = out.vm.insns_left;
            }};
        }

        // Leaves a function for its caller: registers, and where that one goes on.
        macro_rules! leave {
            () => {{
                ([r[6], r[7], r[8], r[9]], pc) = out.leave();
                r[10] -= FRAME_BYTES;
            }};
        }

        match op.code {
            OpCode::Add64K => alu64!(u64::wrapping_add, op.imm),
            OpCode::Add64X => alu64!(u64::wrapping_add, r[s]),
            OpCode::Add32K => alu32!(u32::wrapping_add, op.imm),
            OpCode::Add32X => alu32!(u32::wrapping_add, r[s]),
            OpCode::Sub64K => alu64!(u64::wrapping_sub, op.imm),
            OpCode::Sub64X => alu64!(u64::wrapping_sub, r[s]),
            OpCode::Sub32K => alu32!(u32::wrapping_sub, op.imm),
            OpCode::Sub32X => alu32!(u32::wrapping_sub, r[s]),
            OpCode::Mul64K => alu64!(u64::wrapping_mul, op.imm),
            OpCode::Mul64X => alu64!(u64::wrapping_mul, r[s]),
            OpCode::Mul32K => alu32!(u32::wrapping_mul, op.imm),
            OpCode::Mul32X => alu32!(u32::wrapping_mul, r[s]),
            OpCode::Div64K => alu64!(alu::div64, op.imm),
            OpCode::Div64X => alu64!(alu::div64, r[s]),
            OpCode::Div32K => alu32!(alu::div32, op.imm),
            OpCode::Div32X => alu32!(alu::div32, r[s]),
            OpCode::Mod64K => alu64!(alu::mod64, op.imm),
            OpCode::Mod64X => alu64!(alu::mod64, r[s]),
            OpCode::Mod32K => alu32!(alu::mod32, op.imm),
            OpCode::Mod32X => alu32!(alu::mod32, r[s]),
            OpCode::SDiv64K => alu64!(alu::sdiv64, op.imm),
            OpCode::SDiv64X => alu64!(alu::sdiv64, r[s]),
            OpCode::SDiv32K => alu32!(alu::sdiv32, op.imm),
            OpCode::SDiv32X => alu32!(alu::sdiv32, r[s]),
            OpCode::SMod64K => alu64!(alu::smod64, op.imm),
            OpCode::SMod64X => alu64!(alu::smod64, r[s]),
            OpCode::SMod32K => alu32!(alu::smod32, op.imm),
            OpCode::SMod32X => alu32!(alu::smod32, r[s]),
            OpCode::Or64K => r[d] |= op.imm,
            OpCode::Or64X => r[d] |= r[s],
            OpCode::Or32K => r[d] = u64::from(w(r[d] | op.imm)),
            OpCode::Or32X => r[d] = u64::from(w(r[d] | r[s])),
            OpCode::And64K => r[d] &= op.imm,
            OpCode::And64X => r[d] &= r[s],
            OpCode::And32K => r[d] = u64::from(w(r[d] & op.imm)),
            OpCode::And32X => r[d] = u64::from(w(r[d] & r[s])),
            OpCode::Xor64K => r[d] ^= op.imm,
            OpCode::Xor64X => r[d] ^= r[s],
            OpCode::Xor32K => r[d] = u64::from(w(r[d] ^ op.imm)),
            OpCode::Xor32X => r[d] = u64::from(w(r[d] ^ r[s])),
            OpCode::Lsh64K => r[d] = r[d].wrapping_shl(w(op.imm)),
            OpCode::Lsh64X => r[d] = r[d].wrapping_shl(w(r[s])),
            OpCode::Lsh32K => alu32!(u32::wrapping_shl, op.imm),
            OpCode::Lsh32X => alu32!(u32::wrapping_shl, r[s]),
            OpCode::Rsh64K => r[d] = r[d].wrapping_shr(w(op.imm)),
            OpCode::Rsh64X => r[d] = r[d].wrapping_shr(w(r[s])),
            OpCode::Rsh32K => alu32!(u32::wrapping_shr, op.imm),
            OpCode::Rsh32X => alu32!(u32::wrapping_shr, r[s]),
            OpCode::Arsh64K => alu64!(alu::arsh64, op.imm),
            OpCode::Arsh64X => alu64!(alu::arsh64, r[s]),
            OpCode::Arsh32K => alu32!(alu::arsh32, op.imm),
            OpCode::Arsh32X => alu32!(alu::arsh32, r[s]),
            OpCode::Mov64K => r[d] = op.imm,
            OpCode::Mov64X => r[d] = r[s],
            OpCode::Mov32K => r[d] = u64::from(w(op.imm)),
            OpCode::Mov32X => r[d] = u64::from(w(r[s])),
            OpCode::Neg64 => r[d] = r[d].wrapping_neg(),
            OpCode::Neg32 => r[d] = u64::from(w(r[d]).wrapping_neg()),
            OpCode::MovSx8To64 => r[d] = alu::sext8(r[s]),
            OpCode::MovSx16To64 => r[d] = alu::sext16(r[s]),
            OpCode::MovSx32To64 => r[d] = alu::sext32(r[s]),
            OpCode::MovSx8To32 => r[d] = u64::from(w(alu::sext8(r[s]))),
            OpCode::MovSx16To32 => r[d] = u64::from(w(alu::sext16(r[s]))),
            OpCode::Keep64 => {}
            OpCode::Keep32 => r[d] &= 0xffff_ffff,
            OpCode::Keep16 => r[d] &= 0xffff,
            OpCode::Swap64 => r[d] = r[d].swap_bytes(),
            OpCode::Swap32 => r[d] = u64::from(w(r[d]).swap_bytes()),
            OpCode::Swap16 => r[d] = r[d].swap_bytes() >> 48,
            OpCode::CastToKernel => match &out.arena {
                Some(_) => r[d] = u64::from(w(r[s])),
                None => return Err(out.abort(pc, left, AbortCause::NoArena)),
            },
            OpCode::CastToUser => match &out.arena {
                Some(arena) => r[d] = arena.user_address(w(r[s])),
                None => return Err(out.abort(pc, left, AbortCause::NoArena)),
            },

            OpCode::Ja => pc = op.off.cast_unsigned() as usize,
            OpCode::MayGoto => {
                let frame = out.vm.frames.last_mut().expect("the loop runs in a frame");
                match frame.may_goto_left.checked_sub(1) {
                    Some(fewer) => frame.may_goto_left = fewer,
                    None => pc = op.off.cast_unsigned() as usize,
                }
            }
            OpCode::Jeq64K => j64!(u64::eq, op.imm),
            OpCode::Jeq64X => j64!(u64::eq, r[s]),
            OpCode::Jeq32K => j32!(u32::eq, op.imm),
            OpCode::Jeq32X => j32!(u32::eq, r[s]),
            OpCode::Jne64K => j64!(u64::ne, op.imm),
            OpCode::Jne64X => j64!(u64::ne, r[s]),
            OpCode::Jne32K => j32!(u32::ne, op.imm),
            OpCode::Jne32X => j32!(u32::ne, r[s]),
            OpCode::Jset64K => jump!(r[d] & op.imm != 0),
            OpCode::Jset64X => jump!(r[d] & r[s] != 0),
            OpCode::Jset32K => jump!(w(r[d] & op.imm) != 0),
            OpCode::Jset32X => jump!(w(r[d] & r[s]) != 0),
            OpCode::Jgt64K => j64!(u64::gt, op.imm),
            OpCode::Jgt64X => j64!(u64::gt, r[s]),
            OpCode::Jgt32K => j32!(u32::gt, op.imm),
            OpCode::Jgt32X => j32!(u32::gt, r[s]),
            OpCode::Jge64K => j64!(u64::ge, op.imm),
            OpCode::Jge64X => j64!(u64::ge, r[s]),
            OpCode::Jge32K => j32!(u32::ge, op.imm),
            OpCode::Jge32X => j32!(u32::ge, r[s]),
            OpCode::Jlt64K => j64!(u64::lt, op.imm),
            OpCode::Jlt64X => j64!(u64::lt, r[s]),
            OpCode::Jlt32K => j32!(u32::lt, op.imm),
            OpCode::Jlt32X => j32!(u32::lt, r[s]),
            OpCode::Jle64K => j64!(u64::le, op.imm),
            OpCode::Jle64X => j64!(u64::le, r[s]),
            OpCode::Jle32K => j32!(u32::le, op.imm),
            OpCode::Jle32X => j32!(u32::le, r[s]),
            OpCode::Jsgt64K => js64!(i64::gt, op.imm),
            OpCode::Jsgt64X => js64!(i64::gt, r[s]),
            OpCode::Jsgt32K => js32!(i32::gt, op.imm),
            OpCode::Jsgt32X => js32!(i32::gt, r[s]),
            OpCode::Jsge64K => js64!(i64::ge, op.imm),
            OpCode::Jsge64X => js64!(i64::ge, r[s]),
            OpCode::Jsge32K => js32!(i32::ge, op.imm),
            OpCode::Jsge32X => js32!(i32::ge, r[s]),
            OpCode::Jslt64K => js64!(i64::lt, op.imm),
            OpCode::Jslt64X => js64!(i64::lt, r[s]),
            OpCode::Jslt32K => js32!(i32::lt, op.imm),
            OpCode::Jslt32X => js32!(i32::lt, r[s]),
            OpCode::Jsle64K => js64!(i64::le, op.imm),
            OpCode::Jsle64X => js64!(i64::le, r[s]),
            OpCode::Jsle32K => js32!(i32::le, op.imm),
            OpCode::Jsle32X => js32!(i32::le, r[s]),

            OpCode::LdImm64 => {
                r[d] = op.imm;
                pc += 1;
            }
            OpCode::Ldx8 => r[d] = load!(u8),
            OpCode::Ldx16 => r[d] = load!(u16),
            OpCode::Ldx32 => r[d] = load!(u32),
            OpCode::Ldx64 => r[d] = load!(u64),
            OpCode::Ldsx8 => r[d] = alu::sext8(load!(u8)),
            OpCode::Ldsx16 => r[d] = alu::sext16(load!(u16)),
            OpCode::Ldsx32 => r[d] = alu::sext32(load!(u32)),
            OpCode::LdAcq8 => r[d] = access::acquire(load!(u8, otherwise r[d])),
            OpCode::LdAcq16 => r[d] = access::acquire(load!(u16, otherwise r[d])),
            OpCode::LdAcq32 => r[d] = access::acquire(load!(u32, otherwise r[d])),
            OpCode::LdAcq64 => r[d] = access::acquire(load!(u64, otherwise r[d])),
            OpCode::St8 => store!(u8, op.imm),
            OpCode::St16 => store!(u16, op.imm),
            OpCode::St32 => store!(u32, op.imm),
            OpCode::St64 => store!(u64, op.imm),
            OpCode::Stx8 => store!(u8, r[s]),
            OpCode::Stx16 => store!(u16, r[s]),
            OpCode::Stx32 => store!(u32, r[s]),
            OpCode::Stx64 => store!(u64, r[s]),
            OpCode::StRel8 => store!(u8, access::release(r[s])),
            OpCode::StRel16 => store!(u16, access::release(r[s])),
            OpCode::StRel32 => store!(u32, access::release(r[s])),
            OpCode::StRel64 => store!(u64, access::release(r[s])),
            OpCode::Atomic32 => out.atomic::<u32>(pc, op, &mut r),
            OpCode::Atomic64 => out.atomic::<u64>(pc, op, &mut r),

            OpCode::CallHelper if w(op.imm) == TAIL_CALL => {
                out.at(pc);
                out.vm.insns_left = left;
                match out.tail_call(base_frames, [r[1], r[2], r[3]])? {
                    Tail::Nowhere => r[0] = 0,
                    Tail::Ends(next) => return Ok(Ended::TailCall(next)),
                    Tail::Made(r0) => {
                        r[0] = r0;
                        left = out.vm.insns_left;
                        leave!();
                    }
                }
            }
            OpCode::CallHelper => call!(helpers::call, w(op.imm)),
            OpCode::CallX => call!(helpers::call_by_register, r[d]),
            OpCode::CallKfunc => call!(kfuncs::call, w(op.imm)),
            OpCode::CallFunction => {
                out.at(pc);
                out.vm.insns_left = left;
                push_frame(out.vm, op.off.cast_unsigned())?;
                let frame = out.vm.frames.last_mut().expect("just pushed");
                frame.saved = [r[6], r[7], r[8], r[9]];
                r[10] += FRAME_BYTES;
                pc = op.off.cast_unsigned() as usize;
            }
            OpCode::GotoX => match program.jump_target(r[d]) {
                Some(target) => pc = target as usize,
                None => {
                    let address = r[d];
                    return Err(out.abort(pc, left, AbortCause::JumpTarget { address }));
                }
            },
            OpCode::Exit => {
                if out.vm.frames.len() == base_frames {
                    out.vm.insns_left = left;
                    return Ok(Ended::Returned(r[0]));
                }
                leave!();
            }
            OpCode::StackBounds => {
                let (off, size) = (op.off, u32::from(op.size));
                return Err(out.abort(pc, left, AbortCause::StackBounds { off, size }));
            }
            OpCode::Poison => {
                let slot = u32::try_from(pc - 1).unwrap_or(u32::MAX);
                let what = program
                    .linked
                    .poisoned
                    .get(&slot)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                return Err(out.abort(pc, left, AbortCause::Poison { what }));
            }
            OpCode::Hole | OpCode::FellOff => {
                return Err(out.abort(pc, left, AbortCause::FellOffEnd));
            }
        }
    }
}
