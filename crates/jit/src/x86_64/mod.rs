//! The compiler for x86-64.
//!
//! | machine | holds | machine | holds |
//! |---|---|---|---|
//! | rax | r0 | rbx | r6 |
//! | rdi rsi rdx rcx r8 | r1 to r5, as calls want them | r13 r14 r15 | r7 r8 r9 |
//! | r9 | instructions left | rbp | the context |
//! | r10 r11 | nothing for long | r12 | host address that r10 stands for |
//!
//! A [`role::Role`], such as the host address of the guest or the arena, lives in the register of
//! a BPF register that the program does not use, or in the context.
//!
//! Inside a function, rsp is a multiple of 16. Rare paths lie behind each program's code.
#![expect(
    clippy::useless_conversion,
    reason = "the assembler converts every register number"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each family of operations has its own match of the 170 codes"
)]

mod address;
mod alu;
mod call;
mod count;
mod divide;
mod entry;
mod fuse;
mod jump;
mod memory;
mod role;

use std::collections::BTreeMap;

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use harena_bpf::analysis::{self, Arena, RegSet};
use harena_bpf::code::{Class, Op, OpCode};

use crate::image::{CodeImage, Fault, JitError, Line, ProgramCode, Source, UserCast};
use address::Addresses;
use count::Counts;
use role::Roles;

/// Machine register numbers.
pub(super) const RAX: u8 = 0;
pub(super) const RCX: u8 = 1;
pub(super) const RDX: u8 = 2;
/// The context.
pub(super) const CTX: u8 = 5;
/// Instructions left.
pub(super) const LEFT: u8 = 9;
/// For addresses and operands.
pub(super) const T0: u8 = 10;
pub(super) const T1: u8 = 11;
/// Host address of the frame's end.
pub(super) const FRAME: u8 = 12;

/// The frame pointer.
pub(super) const R10: u8 = 10;

/// Machine registers of r0 to r9.
const NATIVE: [u8; 10] = [RAX, 7, 6, RDX, RCX, 8, 3, 13, 14, 15];

/// Offset of a context's field.
macro_rules! field {
    ($name:ident) => {
        i32::try_from(core::mem::offset_of!(crate::context::Context, $name))
            .expect("a context is small")
    };
}
pub(super) use field;

/// Compiles programs into one image.
#[derive(Debug)]
pub struct Compiler {
    asm: Asm,
    features: Features,
    faults: Vec<Fault>,
    lines: Vec<Line>,
}

/// The assembler, which cannot print itself.
pub(super) struct Asm(VecAssembler<X64Relocation>);

impl core::fmt::Debug for Asm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Asm({} bytes)", self.0.offset().0)
    }
}

/// What a machine can do beyond the least that all can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// BMI2: `bzhi`.
    pub bmi2: bool,
}

impl Features {
    /// What this machine can do.
    #[must_use]
    pub fn detect() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            #[cfg(not(target_arch = "x86_64"))]
            bmi2: false,
        }
    }
}

impl Compiler {
    /// An empty image of code for a machine that can do this.
    #[must_use]
    pub fn new(features: Features) -> Self {
        Self {
            features,
            asm: Asm(VecAssembler::new(0)),
            faults: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Adds a program.
    pub fn add(&mut self, source: &Source<'_>) -> ProgramCode {
        assert_eq!(
            source.ops.last().map(|op| op.code),
            Some(OpCode::FellOff),
            "a decoded program ends so"
        );
        let arena = source.arena.map_or(Arena::None, |_| Arena::Some);
        let live = if source.ops.iter().any(|op| op.code.class() == Class::Call) {
            analysis::live_after(source.ops)
        } else {
            Vec::new()
        };
        let blocks = analysis::blocks(source.ops, &source.entries(), arena);
        let weights = weights(source.ops);
        let mut free = role::free(source.ops);
        let addresses = Addresses::plan(source, &blocks, &weights, &mut free);
        let roles = Roles::choose(source, &addresses, &weights, &mut free);
        let counts = Counts::new(source, &blocks);
        let asm = &mut self.asm.0;
        let labels = source.ops.iter().map(|_| asm.new_dynamic_label()).collect();
        let common = Common::new(asm);
        let mut emitter = Emitter {
            blocks,
            counts,
            uncounted: BTreeMap::new(),
            starts: Vec::new(),
            jump_table: None,
            addresses,
            roles,
            saved: used_saved(source.ops),
            counts_may_goto: source.ops.iter().any(|op| op.code == OpCode::MayGoto),
            compiler: self,
            source,
            live,
            labels,
            common,
            rare: Vec::new(),
        };
        emitter.program()
    }

    /// The image of all programs that were added.
    pub fn finish(self) -> Result<CodeImage, JitError> {
        let size = self.asm.0.offset().0;
        if i32::try_from(size).is_err() {
            return Err(JitError::TooLarge { size });
        }
        let bytes = self.asm.0.finalize();
        let bytes = bytes.map_err(|error| JitError::Assembler {
            reason: error.to_string(),
        })?;
        let mut faults = self.faults;
        faults.sort_by_key(|fault| fault.fault_pc);
        Ok(CodeImage {
            bytes,
            faults,
            lines: self.lines,
        })
    }

    fn here(&self) -> u32 {
        u32::try_from(self.asm.0.offset().0).unwrap_or(u32::MAX)
    }
}

/// r6 to r9, as far as the program uses them: what a call of a function must save.
fn used_saved(ops: &[Op]) -> RegSet {
    let all = ops.iter().fold(RegSet::NONE, |all, op| {
        let writes = analysis::writes(op);
        // An atomic's result is no certain write.
        let result = if op.code.class() == Class::Atomic {
            RegSet::of(op.src)
        } else {
            RegSet::NONE
        };
        all.with(writes).with(result)
    });
    all.and(RegSet::SAVED)
}

/// Places that all of a program's code shares.
#[derive(Clone, Copy)]
struct Common {
    /// Calls the host's `access`; base in T0, value in T1, the result in T0.
    access: DynamicLabel,
    /// Leaves all registers to the interpreter.
    interpret: DynamicLabel,
    /// Ends the run because a call said so.
    stop: DynamicLabel,
    /// Leaves the entry, with its stack pointer restored.
    leave: DynamicLabel,
}

impl Common {
    fn new(asm: &mut VecAssembler<X64Relocation>) -> Self {
        Self {
            access: asm.new_dynamic_label(),
            interpret: asm.new_dynamic_label(),
            stop: asm.new_dynamic_label(),
            leave: asm.new_dynamic_label(),
        }
    }
}

/// A rare path that lies behind the program's code.
struct Rare {
    /// Where it begins.
    entry: DynamicLabel,
    slot: u32,
    what: RareKind,
}

enum RareKind {
    /// A memory operation that the host makes; then on behind it.
    Access {
        resume: DynamicLabel,
        faults_at: Option<u32>,
        /// Whether T0 is needed as it is.
        keeps_temp: bool,
    },
    /// The budget ends in what was counted, so many operations.
    Exhausted { count: u32 },
    /// The operation, counted already, ends the run.
    Ends,
}

/// Emits one program.
struct Emitter<'a> {
    compiler: &'a mut Compiler,
    source: &'a Source<'a>,
    /// Operations of the block that begins at each slot.
    blocks: Vec<u32>,
    counts: Counts,
    /// Where blocks begin for those who have counted them already.
    uncounted: BTreeMap<u32, DynamicLabel>,
    /// Offsets of the code of slots that jump tables lead to.
    starts: Vec<(u32, u32)>,
    /// Where the program's table of these is, if anything jumps by it.
    jump_table: Option<DynamicLabel>,
    /// Live registers behind each slot; empty without calls.
    live: Vec<RegSet>,
    addresses: Addresses,
    roles: Roles,
    saved: RegSet,
    /// Whether a call of a function must count its `may_goto` anew.
    counts_may_goto: bool,
    labels: Vec<DynamicLabel>,
    common: Common,
    rare: Vec<Rare>,
}

/// Loops begin at multiples of this: where they lie decides how fast short ones are fetched.
const LOOP_ALIGN: u32 = 32;

/// Instructions of 1 to 8 bytes that do nothing, as the processor's manuals recommend.
const NOPS: [&[u8]; 8] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Slots that jumps lead back to, in order.
fn loops(ops: &[Op]) -> Vec<u32> {
    let jumps = ops.iter().zip(0u32..).filter(|(op, slot)| {
        let is_jump = matches!(op.code.class(), Class::Branch | Class::Jump);
        is_jump && op.off.cast_unsigned() <= *slot
    });
    let mut heads: Vec<u32> = jumps.map(|(op, _)| op.off.cast_unsigned()).collect();
    heads.sort_unstable();
    heads.dedup();
    heads
}

/// How often each slot is taken to be executed: eight times as often in a loop as outside of it.
fn weights(ops: &[Op]) -> Vec<u32> {
    /// Loops inside of each other that count.
    const DEPTH_MAX: u32 = 4;
    let mut changes = vec![0i32; ops.len() + 1];
    for (slot, op) in ops.iter().enumerate() {
        let is_jump = matches!(op.code.class(), Class::Branch | Class::Jump);
        let target = op.off.cast_unsigned() as usize;
        if is_jump && target <= slot {
            changes[target] += 1;
            changes[slot + 1] -= 1;
        }
    }
    let mut depth = 0i32;
    let weight = |change: &i32| {
        depth += change;
        8u32.pow(depth.unsigned_abs().min(DEPTH_MAX))
    };
    changes[..ops.len()].iter().map(weight).collect()
}

/// A slot as a number of 32 bits.
fn number(slot: usize) -> u32 {
    u32::try_from(slot).expect("a program has at most a million slots")
}

impl Emitter<'_> {
    fn asm(&mut self) -> &mut VecAssembler<X64Relocation> {
        &mut self.compiler.asm.0
    }

    fn program(&mut self) -> ProgramCode {
        let entry = self.compiler.here();
        self.entry();
        let mut functions = Vec::with_capacity(self.source.functions.len());
        let loops = loops(self.source.ops);
        let mut fused = false;
        for slot in 0..self.source.ops.len() {
            if core::mem::take(&mut fused) {
                continue;
            }
            let op = self.source.ops[slot];
            let at = number(slot);
            if self.source.functions.binary_search(&at).is_ok() {
                functions.push((at, self.compiler.here()));
            }
            if op.code == OpCode::Hole && self.blocks[slot] == 0 {
                continue;
            }
            if loops.binary_search(&at).is_ok() {
                self.align();
            }
            let (offset, label) = (self.compiler.here(), self.labels[slot]);
            if self.source.jump_targets.binary_search(&at).is_ok() {
                self.starts.push((at, offset));
            }
            self.compiler.lines.push(Line { offset, slot: at });
            dynasm!(self.asm(); .arch x64; =>label);
            self.count(at);
            if let Some(reg) = self.addresses.of(slot).saves {
                let reg = NATIVE[usize::from(reg)];
                dynasm!(self.asm(); .arch x64; mov Rq(T0), Rq(reg));
            }
            fused = self.fuse(slot);
            if !fused {
                self.op(at, &op);
            }
            for reg in address::written(&op).iter() {
                self.anchor(reg);
            }
        }
        let rare = self.compiler.here();
        self.rare_paths();
        let shared = self.compiler.here();
        self.common_paths();
        self.jump_table();
        ProgramCode {
            entry,
            functions,
            rare,
            shared,
            end: self.compiler.here(),
        }
    }

    /// Fills up to a multiple of [`LOOP_ALIGN`] with instructions that do nothing.
    fn align(&mut self) {
        let mut left = self.compiler.here().wrapping_neg() % LOOP_ALIGN;
        while left > 0 {
            let nop = NOPS[NOPS.len().min(left as usize) - 1];
            dynasm!(self.asm(); .arch x64; .bytes nop);
            left -= u32::try_from(nop.len()).expect("a few");
        }
    }

    /// Counts what is to be counted here.
    fn count(&mut self, slot: u32) {
        let count = self.counts.here(slot as usize);
        if count == 0 {
            return;
        }
        let ahead = self.counts.ahead(slot as usize);
        let exhausted = RareKind::Exhausted {
            count: count + ahead,
        };
        let exhausted = self.rare(slot, exhausted);
        let count = count.cast_signed();
        match i8::try_from(count) {
            Ok(count) => dynasm!(self.asm(); .arch x64; sub Rq(LEFT), BYTE count),
            Err(_wide) => dynasm!(self.asm(); .arch x64; sub Rq(LEFT), DWORD count),
        }
        dynasm!(self.asm(); .arch x64; jb =>exhausted);
        let counted = self.asm().new_dynamic_label();
        self.uncounted.insert(slot, counted);
        dynasm!(self.asm(); .arch x64; =>counted);
    }

    /// Reserves a rare path; its entry.
    fn rare(&mut self, slot: u32, what: RareKind) -> DynamicLabel {
        let entry = self.asm().new_dynamic_label();
        self.rare.push(Rare { entry, slot, what });
        entry
    }

    fn op(&mut self, slot: u32, op: &Op) {
        match op.code.class() {
            Class::AluK => self.alu_k(op),
            Class::AluX => self.alu_x(op),
            Class::Move => self.mov(op),
            Class::Set => self.set(op.dst, self.constant(op)),
            Class::CastToKernel | Class::CastToUser => self.cast(slot, op),
            Class::Load | Class::Store | Class::Atomic => self.memory(slot, op),
            Class::Jump => {
                let target = if self.counts.is_past(slot as usize) {
                    self.uncounted[&op.off.cast_unsigned()]
                } else {
                    self.target(op)
                };
                dynasm!(self.asm(); .arch x64; jmp =>target);
            }
            Class::Computed => self.computed(slot, op),
            Class::Branch => self.branch(op),
            Class::Call => self.call_host(slot, op),
            Class::CallFunction => self.call_function(slot, op),
            Class::Exit => dynasm!(self.asm(); .arch x64; ret),
            Class::End => self.ends(slot),
        }
    }

    /// The operation ends the run, as the interpreter knows how.
    fn ends(&mut self, slot: u32) {
        let ends = self.rare(slot, RareKind::Ends);
        dynasm!(self.asm(); .arch x64; jmp =>ends);
    }

    fn target(&self, op: &Op) -> DynamicLabel {
        self.labels[op.off.cast_unsigned() as usize]
    }

    /// The machine register that holds a BPF register's value: its own, or `temp` for r10.
    fn value(&mut self, reg: u8, temp: u8) -> u8 {
        if reg != R10 {
            return NATIVE[usize::from(reg)];
        }
        dynasm!(self.asm(); .arch x64
            ; mov Rq(temp), Rq(FRAME)
            ; sub Rq(temp), [Rq(CTX) + field!(delta)]
        );
        temp
    }

    fn cast(&mut self, slot: u32, op: &Op) {
        let Some(user) = self.source.arena else {
            return self.ends(slot);
        };
        let (dst, src) = (NATIVE[usize::from(op.dst)], self.value(op.src, T0));
        dynasm!(self.asm(); .arch x64; mov Rd(dst), Rd(src));
        if op.code == OpCode::CastToUser && user == UserCast::AddHigh {
            let null = self.asm().new_dynamic_label();
            dynasm!(self.asm(); .arch x64
                ; test Rd(dst), Rd(dst)
                ; jz =>null
                ; or Rq(dst), [Rq(CTX) + field!(user_high)]
                ; =>null
            );
        }
    }

    fn rare_paths(&mut self) {
        for rare in core::mem::take(&mut self.rare) {
            let offset = self.compiler.here();
            self.compiler.lines.push(Line {
                offset,
                slot: rare.slot,
            });
            let (entry, pc) = (rare.entry, rare.slot.cast_signed());
            dynasm!(self.asm(); .arch x64
                ; =>entry
                ; mov DWORD [Rq(CTX) + field!(pc)], pc
            );
            let interpret = self.common.interpret;
            match rare.what {
                RareKind::Access {
                    resume,
                    faults_at,
                    keeps_temp,
                } => {
                    let fault = faults_at.map(|at| (at, offset));
                    self.access(rare.slot, resume, fault, keeps_temp);
                }
                RareKind::Exhausted { count } => {
                    let count = count.cast_signed();
                    dynasm!(self.asm(); .arch x64; add Rq(LEFT), count; jmp =>interpret);
                }
                RareKind::Ends => {
                    dynasm!(self.asm(); .arch x64; inc Rq(LEFT); jmp =>interpret);
                }
            }
        }
    }
}
