//! A text assembler in clang's dialect, for tests and small tools.
//!
//! | statement | means |
//! |---|---|
//! | `r1 = 5`, `w1 += w2`, `r1 s>>= 3`, `r1 s/= r2`, `r1 = -r1` | arithmetic, 64 (`r`) or 32 bits (`w`) |
//! | `r1 = (s8)r2`, `r1 = be16 r1`, `r1 = bswap64 r1` | sign extension, byte order |
//! | `r1 = addr_space_cast(r2, 0, 1)` | cast to address space 0 from 1 |
//! | `r1 = 0x123 ll`, `map(3) ll`, `map_value(3, 16) ll`, `func(label) ll` | 64-bit immediates |
//! | `w1 = *(u32 *)(r2 + 4)`, `r1 = *(s8 *)(r2 + 0)` | loads (`u64` and signed ones name an `r`) |
//! | `*(u8 *)(r10 - 1) = w2`, `*(u64 *)(r1 + 0) = 7` | stores |
//! | `lock *(u64 *)(r1 + 0) += r2`, `r2 = atomic_fetch_or((u32 *)(r1 + 0), w2)` | atomics |
//! | `r2 = xchg_64(r1 + 0, r2)`, `w0 = cmpxchg32_32(r1 + 0, w0, w2)` | exchanges |
//! | `w1 = load_acquire((u8 *)(r2 + 0))`, `store_release((u64 *)(r1 + 0), r2)` | ordered accesses |
//! | `if r1 s> -5 goto label`, `goto +2`, `gotol label`, `gotox r1`, `may_goto label` | jumps |
//! | `call 14`, `call label`, `call +3`, `call kfunc 7`, `callx r1`, `exit` | calls |
//! | `label:`, `.insn 0x…`, `// …`, `# …` | labels, raw slots, comments |
//!
//! Statements end with a line or `;`. Jump distances count slots from the next one.

mod tokens;

use super::Insn;
#[cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "the opcodes are this file's vocabulary"
    )
)]
use super::op::*;
use std::collections::BTreeMap;
use tokens::{
    Memory, Place, Reg, Target, Token, Tokens, byte_order, expected, fit_imm, fit_off, fit_signed,
    fit_u64, name, out_of_range,
};

/// Why a text could not be assembled, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct AsmError {
    /// Line of the text, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: AsmProblem,
}

/// What can be wrong with a statement.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AsmProblem {
    /// Something else was needed at this place.
    #[error("expected {wanted}, found {found}")]
    Expected {
        /// What would have been right.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// A number does not fit its field.
    #[error("{value} does not fit {field}")]
    OutOfRange {
        /// The number.
        value: i128,
        /// The field.
        field: &'static str,
    },
    /// A label is used but defined nowhere.
    #[error("label `{name}` is not defined")]
    UnknownLabel {
        /// The label.
        name: String,
    },
    /// A label is defined twice.
    #[error("label `{name}` is already defined")]
    DuplicateLabel {
        /// The label.
        name: String,
    },
}

/// Assembles `text` into slots.
pub fn asm(text: &str) -> Result<Vec<Insn>, AsmError> {
    let mut unit = Unit::default();
    for (index, line) in text.lines().enumerate() {
        let line_number = index.saturating_add(1);
        let code = line.split("//").next().unwrap_or_default();
        let code = code.split('#').next().unwrap_or_default();
        for statement in code.split(';') {
            unit.statement(statement, line_number)
                .map_err(|problem| AsmError {
                    line: line_number,
                    problem,
                })?;
        }
    }
    unit.finish()
}

type Parsed<T> = Result<T, AsmProblem>;

/// Field of a slot that waits for the address of a label.
#[derive(Clone, Copy)]
enum Field {
    Off,
    Imm,
}

struct Fixup {
    slot: usize,
    field: Field,
    label: String,
    line: usize,
}

#[derive(Default)]
struct Unit {
    insns: Vec<Insn>,
    labels: BTreeMap<String, usize>,
    fixups: Vec<Fixup>,
}

impl Unit {
    fn statement(&mut self, text: &str, line: usize) -> Parsed<()> {
        let mut tokens = Tokens::new(text)?;
        while let (Some(Token::Word(name)), Some(Token::Mark(':'))) =
            (tokens.peek(), tokens.peek2())
        {
            tokens.advance(2);
            let earlier = self.labels.insert(name.to_owned(), self.insns.len());
            if earlier.is_some() {
                let name = name.to_owned();
                return Err(AsmProblem::DuplicateLabel { name });
            }
        }
        if tokens.peek().is_none() {
            return Ok(());
        }
        self.instruction(&mut tokens, line)?;
        tokens.end()
    }

    fn instruction(&mut self, t: &mut Tokens<'_>, line: usize) -> Parsed<()> {
        if t.peek() == Some(Token::Mark('*')) {
            return self.store(t);
        }
        let word = t.word("a statement")?;
        if let Some(dst) = Reg::parse(word) {
            return self.register_statement(t, dst, line);
        }
        match word {
            "exit" => self.push(Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)),
            "goto" => self.jump(t, Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0), Field::Off, line)?,
            "gotol" => self.jump(
                t,
                Insn::new(BPF_JMP32 | BPF_JA, 0, 0, 0, 0),
                Field::Imm,
                line,
            )?,
            "may_goto" => self.jump(
                t,
                Insn::new(BPF_JMP | BPF_JCOND, 0, 0, 0, 0),
                Field::Off,
                line,
            )?,
            "gotox" => {
                let dst = t.reg()?.number;
                self.push(Insn::new(BPF_JMP | BPF_JA | BPF_X, dst, 0, 0, 0));
            }
            "callx" => {
                let dst = t.reg()?.number;
                self.push(Insn::new(BPF_JMP | BPF_CALL | BPF_X, dst, 0, 0, 0));
            }
            "call" => self.call(t, line)?,
            "if" => self.branch(t, line)?,
            "lock" => self.lock(t)?,
            "store_release" => {
                t.mark('(')?;
                let at = t.pointer()?;
                t.mark(',')?;
                let src = t.reg()?.number;
                t.mark(')')?;
                self.push(at.atomic(src, BPF_STORE_REL));
            }
            ".insn" => {
                let raw = t.number("eight bytes as a word")?;
                let raw = u64::try_from(raw).map_err(|_too_big| out_of_range(raw, ".insn"))?;
                self.push(Insn::from_bytes(raw.to_le_bytes()));
            }
            other => return Err(expected("a statement", format!("`{other}`"))),
        }
        Ok(())
    }

    fn push(&mut self, insn: Insn) {
        self.insns.push(insn);
    }

    fn push_pair(&mut self, pair: [Insn; 2]) {
        self.insns.extend(pair);
    }

    fn jump(
        &mut self,
        t: &mut Tokens<'_>,
        mut insn: Insn,
        field: Field,
        line: usize,
    ) -> Parsed<()> {
        match (t.target()?, field) {
            (Target::Distance(n), Field::Off) => insn.off = fit_off(n)?,
            (Target::Distance(n), Field::Imm) => insn.imm = fit_signed(n, "a distance")?,
            (Target::Label(label), field) => self.fixups.push(Fixup {
                slot: self.insns.len(),
                field,
                label: label.to_owned(),
                line,
            }),
        }
        self.push(insn);
        Ok(())
    }

    fn call(&mut self, t: &mut Tokens<'_>, line: usize) -> Parsed<()> {
        let mut insn = Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 0);
        match t.peek() {
            Some(Token::Number(id)) => {
                t.advance(1);
                insn.imm = fit_imm(id, "a helper number")?;
                self.push(insn);
                Ok(())
            }
            Some(Token::Word("kfunc")) => {
                t.advance(1);
                insn.src = BPF_PSEUDO_KFUNC_CALL;
                insn.imm = fit_imm(t.number("a kfunc id")?, "a kfunc id")?;
                self.push(insn);
                Ok(())
            }
            Some(Token::Word(_) | Token::Mark(_)) | None => {
                insn.src = BPF_PSEUDO_CALL;
                self.jump(t, insn, Field::Imm, line)
            }
        }
    }

    fn branch(&mut self, t: &mut Tokens<'_>, line: usize) -> Parsed<()> {
        let dst = t.reg()?;
        let op = t.comparison()?;
        let class = if dst.wide { BPF_JMP } else { BPF_JMP32 };
        let insn = t.operand(class | op, dst)?;
        t.keyword("goto")?;
        self.jump(t, insn, Field::Off, line)
    }

    fn store(&mut self, t: &mut Tokens<'_>) -> Parsed<()> {
        t.mark('*')?;
        let at = t.pointer()?;
        t.mark('=')?;
        if t.peek_reg() {
            let src = t.reg()?.number;
            self.push(Insn::new(
                BPF_STX | BPF_MEM | at.size,
                at.base,
                src,
                at.off,
                0,
            ));
        } else {
            let imm = fit_imm(t.number("a register or a number")?, "a 32-bit immediate")?;
            self.push(Insn::new(
                BPF_ST | BPF_MEM | at.size,
                at.base,
                0,
                at.off,
                imm,
            ));
        }
        Ok(())
    }

    fn lock(&mut self, t: &mut Tokens<'_>) -> Parsed<()> {
        t.mark('*')?;
        let at = t.pointer()?;
        let op = match t.next() {
            Some(Token::Mark('+')) => BPF_ADD,
            Some(Token::Mark('|')) => BPF_OR,
            Some(Token::Mark('&')) => BPF_AND,
            Some(Token::Mark('^')) => BPF_XOR,
            other => return Err(expected("`+=`, `|=`, `&=` or `^=`", name(other))),
        };
        t.mark('=')?;
        let src = t.reg()?.number;
        self.push(at.atomic(src, i32::from(op)));
        Ok(())
    }

    /// A statement that begins with a register: `rN op= …` or `rN = …`.
    fn register_statement(&mut self, t: &mut Tokens<'_>, dst: Reg, line: usize) -> Parsed<()> {
        if t.peek() != Some(Token::Mark('=')) {
            let (op, off) = t.arithmetic()?;
            let mut insn = t.operand(dst.alu_class() | op, dst)?;
            insn.off = off;
            self.push(insn);
            return Ok(());
        }
        t.advance(1);
        match t.peek() {
            Some(Token::Mark('*')) => self.load(t, dst),
            Some(Token::Mark('(')) => self.sign_extend(t, dst),
            Some(Token::Mark('-')) if t.peek2_reg() => {
                t.advance(1);
                let same = t.reg()?;
                if same != dst {
                    return Err(expected("the destination register", same.name()));
                }
                self.push(Insn::new(dst.alu_class() | BPF_NEG, dst.number, 0, 0, 0));
                Ok(())
            }
            Some(Token::Word(word)) if Reg::parse(word).is_none() => {
                t.advance(1);
                self.named_operation(t, dst, word, line)
            }
            Some(Token::Number(_) | Token::Word(_) | Token::Mark(_)) | None => self.mov(t, dst),
        }
    }

    /// `rN = rM`, `rN = 5` or `rN = 5 ll`.
    fn mov(&mut self, t: &mut Tokens<'_>, dst: Reg) -> Parsed<()> {
        let start = t.clone();
        if !t.peek_reg() {
            let value = t.number("an operand")?;
            if t.peek() == Some(Token::Word("ll")) {
                t.advance(1);
                self.push_pair(Insn::ldimm64(dst.number, 0, fit_u64(value)?));
                return Ok(());
            }
            *t = start;
        }
        let insn = t.operand(dst.alu_class() | BPF_MOV, dst)?;
        self.push(insn);
        Ok(())
    }

    fn load(&mut self, t: &mut Tokens<'_>, dst: Reg) -> Parsed<()> {
        t.mark('*')?;
        let from = t.pointer_or_packet()?;
        self.push(match from {
            Place::Memory(at) => {
                let mode = if at.signed { BPF_MEMSX } else { BPF_MEM };
                Insn::new(BPF_LDX | mode | at.size, dst.number, at.base, at.off, 0)
            }
            Place::Packet {
                size,
                index: Some(reg),
                ..
            } => Insn::new(BPF_LD | BPF_IND | size, 0, reg.number, 0, 0),
            Place::Packet {
                size,
                index: None,
                at,
            } => Insn::new(BPF_LD | BPF_ABS | size, 0, 0, 0, at),
        });
        Ok(())
    }

    fn sign_extend(&mut self, t: &mut Tokens<'_>, dst: Reg) -> Parsed<()> {
        t.mark('(')?;
        let bits = match t.word("s8, s16 or s32")? {
            "s8" => 8,
            "s16" => 16,
            "s32" => 32,
            other => return Err(expected("s8, s16 or s32", format!("`{other}`"))),
        };
        t.mark(')')?;
        let src = t.reg()?.number;
        self.push(Insn::new(
            dst.alu_class() | BPF_MOV | BPF_X,
            dst.number,
            src,
            bits,
            0,
        ));
        Ok(())
    }

    /// `rN = word …` where `word` is no register.
    fn named_operation(
        &mut self,
        t: &mut Tokens<'_>,
        dst: Reg,
        word: &str,
        line: usize,
    ) -> Parsed<()> {
        if let Some((class, source, bits)) = byte_order(word) {
            t.reg()?;
            self.push(Insn::new(class | BPF_END | source, dst.number, 0, 0, bits));
            return Ok(());
        }
        t.mark('(')?;
        match word {
            "addr_space_cast" => {
                let src = t.reg()?.number;
                t.mark(',')?;
                let to = t.number("an address space")?;
                t.mark(',')?;
                let from = t.number("an address space")?;
                let both = (to & 0xffff).wrapping_shl(16) | (from & 0xffff);
                let code = dst.alu_class() | BPF_MOV | BPF_X;
                let imm = fit_imm(both, "an address space")?;
                self.push(Insn::new(code, dst.number, src, BPF_ADDR_SPACE_CAST, imm));
            }
            "map" => {
                let index = fit_imm(t.number("a map index")?, "a map index")?;
                return self.long_load(t, dst, BPF_PSEUDO_MAP_FD, [index, 0]);
            }
            "map_value" => {
                let index = fit_imm(t.number("a map index")?, "a map index")?;
                t.mark(',')?;
                let offset = fit_imm(t.number("an offset")?, "an offset")?;
                return self.long_load(t, dst, BPF_PSEUDO_MAP_VALUE, [index, offset]);
            }
            "btf_id" => {
                let id = fit_imm(t.number("a type id")?, "a type id")?;
                return self.long_load(t, dst, BPF_PSEUDO_BTF_ID, [id, 0]);
            }
            "func" => {
                let insn = Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst.number, BPF_PSEUDO_FUNC, 0, 0);
                self.jump(t, insn, Field::Imm, line)?;
                self.push(Insn::default());
                t.mark(')')?;
                return t.keyword("ll");
            }
            "load_acquire" => {
                let at = t.pointer()?;
                let code = BPF_STX | BPF_ATOMIC | at.size;
                self.push(Insn::new(code, dst.number, at.base, at.off, BPF_LOAD_ACQ));
            }
            _ => return self.fetching_atomic(t, dst, word),
        }
        t.mark(')')
    }

    fn long_load(&mut self, t: &mut Tokens<'_>, dst: Reg, src: u8, imms: [i32; 2]) -> Parsed<()> {
        let [lo, hi] = imms;
        t.mark(')')?;
        t.keyword("ll")?;
        let first = Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst.number, src, 0, lo);
        self.push_pair([first, Insn::new(0, 0, 0, 0, hi)]);
        Ok(())
    }

    fn fetching_atomic(&mut self, t: &mut Tokens<'_>, dst: Reg, word: &str) -> Parsed<()> {
        let exchange = |size| (size, BPF_XCHG);
        let compare = |size| (size, BPF_CMPXCHG);
        let (size, imm) = match word {
            "xchg_64" => exchange(BPF_DW),
            "xchg32_32" => exchange(BPF_W),
            "cmpxchg_64" => compare(BPF_DW),
            "cmpxchg32_32" => compare(BPF_W),
            _ => {
                let op = match word {
                    "atomic_fetch_add" => BPF_ADD,
                    "atomic_fetch_or" => BPF_OR,
                    "atomic_fetch_and" => BPF_AND,
                    "atomic_fetch_xor" => BPF_XOR,
                    other => return Err(expected("an operation", format!("`{other}`"))),
                };
                let at = t.pointer()?;
                t.mark(',')?;
                let src = t.reg()?;
                if src != dst {
                    return Err(expected("the destination register", src.name()));
                }
                self.push(at.atomic(src.number, i32::from(op) | BPF_FETCH));
                return t.mark(')');
            }
        };
        let (base, off) = t.base_and_offset()?;
        t.mark(',')?;
        if imm == BPF_CMPXCHG {
            t.reg()?;
            t.mark(',')?;
        }
        let src = t.reg()?.number;
        let at = Memory {
            size,
            signed: false,
            base,
            off,
        };
        self.push(at.atomic(src, imm));
        t.mark(')')
    }

    fn finish(mut self) -> Result<Vec<Insn>, AsmError> {
        for fixup in &self.fixups {
            let fail = |problem| AsmError {
                line: fixup.line,
                problem,
            };
            let Some(&to) = self.labels.get(&fixup.label) else {
                let name = fixup.label.clone();
                return Err(fail(AsmProblem::UnknownLabel { name }));
            };
            // Slot counts are far below 2^63: a text of that length cannot exist.
            let distance = (to as i128)
                .wrapping_sub(fixup.slot as i128)
                .wrapping_sub(1);
            let Some(insn) = self.insns.get_mut(fixup.slot) else {
                continue;
            };
            match fixup.field {
                Field::Off => insn.off = fit_off(distance).map_err(fail)?,
                Field::Imm => insn.imm = fit_signed(distance, "a distance").map_err(fail)?,
            }
        }
        Ok(self.insns)
    }
}
