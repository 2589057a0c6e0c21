//! Random programs that a verifier accepts, mostly: every register is known to hold a number or a
//! pointer of some sort, at every instruction, and what is reached through pointers is there.
//!
//! Control flow is structured: what registers hold behind a branch or a loop is what both ways
//! agree on. A frame of the stack:
//!
//! | bytes from r10 | what is there |
//! |---|---|
//! | -8 | the context, in the main function |
//! | -16 | a register that was spilled |
//! | -80 to -17 | a block of numbers, which pointers may point into |
//! | -88 | a key of a map |
//! | -96, -104 | counters of loops |
//! | -112, -120 | iterators |
//!
//! What is left out, since the kernel's verifier rewrites it by the type it finds: what 64-bit
//! arithmetic leaves in the high half of a pointer into an arena is never looked at.
#![expect(
    clippy::unwrap_used,
    reason = "a generator that fails is a test that fails"
)]

mod control;
mod memory;

use harena_bpf::isa::Insn;

use super::engines::{ARENA_PAGES, CONTEXT_SIZE, USER, VALUE_SIZE, map_value};
use super::interpreter::suite::support::generic;
use super::numbers::Random;

const BLOCK: i16 = -80;
const BLOCK_SIZE: i32 = 64;
const SPILLED: i16 = -16;
const KEY: i16 = -88;
const COUNTER: i16 = -96;
const ITERATOR: i16 = -112;
/// Branches and loops inside of each other.
const DEPTH: usize = 2;
/// Keys of the hash map that programs use, which is more than it has room for.
pub(super) const HASH_KEYS: u32 = 12;
pub(super) const HASH_ENTRIES: u32 = 8;
pub(super) const HASH_VALUE_SIZE: u32 = 16;

const ARRAY: u64 = 0;
const ARENA: u64 = 1;
const HASH: u64 = 3;

/// The kfuncs that programs call, by the engine's numbers.
pub(super) fn kfuncs() -> Vec<(u32, &'static str)> {
    [
        "bpf_arena_alloc_pages",
        "bpf_arena_free_pages",
        "bpf_arena_reserve_pages",
        "bpf_iter_num_new",
        "bpf_iter_num_next",
        "bpf_iter_num_destroy",
    ]
    .map(|name| (generic(name), name))
    .to_vec()
}

/// Memory that pointers point into, of known length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Area {
    Value,
    /// The block of this frame or of a caller's.
    Block,
    /// A value of the hash map.
    Element,
}

impl Area {
    fn size(self) -> i32 {
        match self {
            Self::Value => i32::try_from(VALUE_SIZE).unwrap(),
            Self::Block => BLOCK_SIZE,
            Self::Element => i32::try_from(HASH_VALUE_SIZE).unwrap(),
        }
    }
}

/// What a register is known to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Nothing,
    Number,
    Context,
    /// A pointer into memory, with the least and the greatest offset it may have; words of words.
    Pointer {
        area: Area,
        low: i32,
        high: i32,
        is_aligned: bool,
    },
    /// An offset into the arena, made by a cast.
    Arena {
        is_aligned: bool,
    },
}

impl Holds {
    fn at(area: Area, offset: i32) -> Self {
        Self::Pointer {
            area,
            low: offset,
            high: offset,
            is_aligned: offset % 8 == 0,
        }
    }
}

/// A function that others call, and what it expects in r1 and the registers behind it.
#[derive(Clone)]
struct Signature {
    args: Vec<Holds>,
    is_called: bool,
}

/// A program with its functions' first slots.
pub(super) struct Checked {
    pub(super) insns: Vec<Insn>,
    pub(super) functions: Vec<u32>,
}

pub(super) struct Generator {
    random: Random,
    insns: Vec<Insn>,
    holds: [Holds; 10],
    spilled: Holds,
    /// Which function this is: 0 is the main one, the last is a callback.
    function: usize,
    signatures: Vec<Signature>,
    /// Slots that lead to functions.
    calls: Vec<(usize, usize)>,
    depth: usize,
    /// Iterators that are not destroyed yet.
    iterators: usize,
}

/// The main function, two others and a callback.
const FUNCTIONS: usize = 4;
const CALLBACK: usize = FUNCTIONS - 1;

const OPERATIONS: [u8; 12] = [
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0, 0xb0, 0xc0,
];
const CONDITIONS: [u8; 11] = [
    0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0,
];
/// Bytes of an access, with its bits in an instruction's code.
const SIZES: [(i32, u8); 4] = [(1, 0x10), (2, 0x08), (4, 0x00), (8, 0x18)];

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let args = |random: &mut Random| {
            let count = random.below(6);
            (0..count)
                .map(|_| match random.below(5) {
                    0 => Holds::at(Area::Value, random.offset(Area::Value)),
                    1 => Holds::at(Area::Block, 0),
                    2 => Holds::Arena { is_aligned: true },
                    _ => Holds::Number,
                })
                .collect()
        };
        let signature = |args| Signature {
            args,
            is_called: false,
        };
        let signatures = vec![
            signature(vec![Holds::Context]),
            signature(args(&mut random)),
            signature(args(&mut random)),
            signature(vec![Holds::Number, Holds::at(Area::Block, 0)]),
        ];
        Self {
            random,
            insns: Vec::new(),
            holds: [Holds::Nothing; 10],
            spilled: Holds::Nothing,
            function: 0,
            signatures,
            calls: Vec::new(),
            depth: 0,
            iterators: 0,
        }
    }

    pub(super) fn program(mut self) -> Checked {
        self.signatures[0].is_called = true;
        let mut starts = Vec::new();
        for function in 0..FUNCTIONS {
            let start = self.insns.len();
            let is_called = self.signatures[function].is_called;
            starts.push(is_called.then_some(start));
            if is_called {
                self.function(function);
            }
        }
        for (slot, function) in self.calls {
            let start = starts[function].expect("called functions are written");
            let distance = start.cast_signed() - slot.cast_signed() - 1;
            self.insns[slot].imm = i32::try_from(distance).unwrap();
        }
        let functions = starts.iter().flatten();
        Checked {
            insns: self.insns,
            functions: functions.map(|at| u32::try_from(*at).unwrap()).collect(),
        }
    }

    fn function(&mut self, function: usize) {
        self.function = function;
        self.holds = [Holds::Nothing; 10];
        self.spilled = Holds::Nothing;
        for (reg, arg) in (1..).zip(&self.signatures[function].args) {
            self.holds[reg] = *arg;
        }
        if function == 0 {
            self.emit(Insn::new(0x7b, 10, 1, -8, 0));
            // Who casts must name the arena.
            self.emit_all(Insn::ldimm64(0, 1, ARENA));
        }
        self.make_number(0);
        for word in 0..8 {
            let at = BLOCK + word * 8;
            match self.number() {
                Some(reg) => self.emit(Insn::new(0x7b, 10, reg, at, 0)),
                None => {
                    let imm = self.random.imm();
                    self.emit(Insn::new(0x7a, 10, 0, at, imm));
                }
            }
        }
        let statements = match function {
            0 => 12 + self.random.below(24),
            _ => 3 + self.random.below(10),
        };
        if function == 0 {
            for reg in 6..10 {
                self.make_any(reg);
            }
        }
        self.statements(statements);
        self.end();
    }

    /// What registers hold at the end of the main function goes to the array.
    fn end(&mut self) {
        if self.function == 0 {
            if self.holds[9] == Holds::Number {
                self.emit(Insn::new(0x7b, 10, 9, BLOCK, 0));
            }
            self.emit_all(Insn::ldimm64(9, 2, map_value(0)));
            for reg in 0..9u8 {
                let at = i16::from(reg) * 8;
                match self.holds[usize::from(reg)] {
                    Holds::Number => self.emit(Insn::new(0x7b, 9, reg, at, 0)),
                    Holds::Arena { .. } => {
                        self.emit(Insn::new(0xbf, reg, reg, 1, 1 << 16));
                        self.emit(Insn::new(0x7b, 9, reg, at, 0));
                    }
                    Holds::Nothing | Holds::Context | Holds::Pointer { .. } => {}
                }
            }
            for word in 0..8i16 {
                self.emit(Insn::new(0x79, 1, 10, BLOCK + word * 8, 0));
                self.emit(Insn::new(0x7b, 9, 1, 80 + word * 8, 0));
            }
        }
        self.leave();
    }

    fn leave(&mut self) {
        if self.holds[0] != Holds::Number {
            self.make_number(0);
        }
        if self.function == CALLBACK {
            self.emit(Insn::new(0x57, 0, 0, 0, 1));
        }
        self.emit(Insn::new(0x95, 0, 0, 0, 0));
    }

    fn emit(&mut self, insn: Insn) {
        self.insns.push(insn);
    }

    fn emit_all(&mut self, insns: impl IntoIterator<Item = Insn>) {
        self.insns.extend(insns);
    }

    fn set(&mut self, reg: u8, holds: Holds) {
        self.holds[usize::from(reg)] = holds;
    }

    fn holding(&mut self, wanted: impl Fn(Holds) -> bool) -> Option<u8> {
        let regs: Vec<u8> = (0..10u8)
            .filter(|reg| wanted(self.holds[usize::from(*reg)]))
            .collect();
        (!regs.is_empty()).then(|| self.random.pick(&regs))
    }

    fn number(&mut self) -> Option<u8> {
        self.holding(|holds| holds == Holds::Number)
    }

    /// A register that holds a number, if need be a new one.
    fn some_number(&mut self) -> u8 {
        self.number().unwrap_or_else(|| {
            self.make_number(0);
            0
        })
    }

    fn make_number(&mut self, reg: u8) {
        let has_context = self.function == 0 && self.random.rarely(3);
        match self.random.below(5) {
            0 => {
                let imm = self.random.imm();
                let code = self.random.pick(&[0xb7, 0xb4]);
                self.emit(Insn::new(code, reg, 0, 0, imm));
            }
            _ if has_context => {
                self.emit(Insn::new(0x79, reg, 10, -8, 0));
                self.set(reg, Holds::Context);
                self.load_context(reg, reg);
            }
            _ => {
                let value = self.random.value();
                self.emit_all(Insn::ldimm64(reg, 0, value));
            }
        }
        self.set(reg, Holds::Number);
    }

    fn load_context(&mut self, dst: u8, base: u8) {
        let (size, bits) = self.random.pick(&SIZES);
        let count = u64::try_from(size).unwrap();
        let off = self.random.below(CONTEXT_SIZE / count) * count;
        let off = i16::try_from(off).unwrap();
        self.emit(Insn::new(0x61 | bits, dst, base, off, 0));
        self.set(dst, Holds::Number);
    }

    /// Puts into a register what is asked for, or a pointer that may stand for it.
    fn make(&mut self, reg: u8, wanted: Holds) {
        match wanted {
            Holds::Nothing => {}
            Holds::Number => self.make_number(reg),
            Holds::Context => self.emit(Insn::new(0x79, reg, 10, -8, 0)),
            Holds::Pointer { area, low, .. } => match area {
                Area::Value => {
                    let offset = u64::try_from(low).unwrap();
                    self.emit_all(Insn::ldimm64(reg, 2, map_value(offset)));
                }
                Area::Block => {
                    self.emit(Insn::new(0xbf, reg, 10, 0, 0));
                    self.emit(Insn::new(0x07, reg, 0, 0, i32::from(BLOCK) + low));
                }
                Area::Element => unreachable!("elements are not kept"),
            },
            Holds::Arena { is_aligned } => {
                let page = self.random.below(u64::from(ARENA_PAGES) + 1) * 4096;
                let at = match self.random.below(4) {
                    0 => page + 4096 - self.random.below(9),
                    1 => 0xffff_ffff - self.random.below(20),
                    _ => page + self.random.below(4096),
                };
                let at = if is_aligned { at & !7 } else { at };
                self.emit_all(Insn::ldimm64(reg, 0, USER + at));
                self.emit(Insn::new(0xbf, reg, reg, 1, 1));
            }
        }
        self.set(reg, wanted);
    }

    fn make_any(&mut self, reg: u8) {
        let wanted = match self.random.below(9) {
            0 | 1 => Holds::at(Area::Value, self.random.offset(Area::Value)),
            2 | 3 => Holds::at(Area::Block, self.random.offset(Area::Block) & !7),
            4 | 5 => Holds::Arena {
                is_aligned: self.random.rarely(2),
            },
            6 if self.function == 0 => Holds::Context,
            _ => Holds::Number,
        };
        self.make(reg, wanted);
    }

    fn statements(&mut self, count: u64) {
        for _ in 0..count {
            self.statement();
        }
    }

    fn statement(&mut self) {
        match self.random.below(32) {
            0..=7 => self.alu(),
            8..=10 => self.unary(),
            11..=17 => self.memory(),
            18 => self.atomic(),
            19 | 20 => {
                let reg = self.random.reg();
                self.make_any(reg);
            }
            21 => self.index(),
            22 => self.arena_arithmetic(),
            23 => self.spill(),
            24 | 25 => self.branch(),
            26 => self.repeat(),
            27 => self.call(),
            28 => self.lookup(),
            29 => self.change_map(),
            30 => self.pages(),
            _ => self.difference(),
        }
    }

    fn alu(&mut self) {
        let wide = self.random.rarely(2);
        let class = if wide { 0x07 } else { 0x04 };
        let op = self.random.pick(&OPERATIONS);
        let is_division = op == 0x30 || op == 0x90;
        let off = i16::from(is_division && self.random.rarely(2));
        let dst = self.some_number();
        if self.random.rarely(2) {
            let mut imm = self.random.imm();
            if matches!(op, 0x60 | 0x70 | 0xc0) {
                imm &= if wide { 63 } else { 31 };
            } else if is_division && imm == 0 {
                imm = -1;
            }
            self.emit(Insn::new(class | op, dst, 0, off, imm));
        } else {
            let src = self.some_number();
            self.emit(Insn::new(class | op | 0x08, dst, src, off, 0));
        }
    }

    fn unary(&mut self) {
        let (src, dst) = (self.some_number(), self.random.reg());
        let insn = match self.random.below(6) {
            0 => Insn::new(0xbf, dst, src, self.random.pick(&[8, 16, 32]), 0),
            1 => Insn::new(0xbc, dst, src, self.random.pick(&[8, 16]), 0),
            2 | 3 => {
                let code = self.random.pick(&[0xd7, 0xd4, 0xdc]);
                let bits = self.random.pick(&[16, 32, 64]);
                self.emit(Insn::new(code, src, 0, 0, bits));
                return;
            }
            4 => {
                let code = self.random.pick(&[0x87, 0x84]);
                self.emit(Insn::new(code, src, 0, 0, 0));
                return;
            }
            _ => Insn::new(self.random.pick(&[0xbf, 0xbc]), dst, src, 0, 0),
        };
        self.emit(insn);
        self.set(dst, Holds::Number);
    }
}

impl Random {
    fn offset(&mut self, area: Area) -> i32 {
        let below = u64::try_from(area.size()).unwrap();
        i32::try_from(self.below(below)).unwrap()
    }
}
