//! Words, numbers and marks of the assembler's text, and the small phrases made of them:
//! registers, operands, memory places, operators.

use super::{AsmProblem, Parsed};
use crate::isa::Insn;
#[cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "the opcodes are this file's vocabulary"
    )
)]
use crate::isa::op::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Number(i128),
    Mark(char),
}

/// Where a jump or call goes.
pub(super) enum Target<'a> {
    Distance(i128),
    Label(&'a str),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Reg {
    pub(super) number: u8,
    pub(super) wide: bool,
}

impl Reg {
    pub(super) fn parse(word: &str) -> Option<Self> {
        let (wide, digits) = match (word.strip_prefix('r'), word.strip_prefix('w')) {
            (Some(digits), _) => (true, digits),
            (None, Some(digits)) => (false, digits),
            (None, None) => return None,
        };
        let number = digits.parse().ok().filter(|number| *number <= 10)?;
        // "r01" and "r+1" are other words.
        (digits == format!("{number}")).then_some(Self { number, wide })
    }

    pub(super) fn name(self) -> String {
        let letter = if self.wide { 'r' } else { 'w' };
        format!("`{letter}{}`", self.number)
    }

    pub(super) const fn alu_class(self) -> u8 {
        if self.wide { BPF_ALU64 } else { BPF_ALU }
    }
}

/// `(u32 *)(r1 + 8)`
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) size: u8,
    pub(super) signed: bool,
    pub(super) base: u8,
    pub(super) off: i16,
}

impl Memory {
    pub(super) const fn atomic(self, src: u8, imm: i32) -> Insn {
        let code = BPF_STX | BPF_ATOMIC | self.size;
        Insn::new(code, self.base, src, self.off, imm)
    }
}

pub(super) enum Place {
    Memory(Memory),
    Packet {
        size: u8,
        index: Option<Reg>,
        at: i32,
    },
}

pub(super) fn byte_order(word: &str) -> Option<(u8, u8, i32)> {
    let (class, source, digits) = if let Some(digits) = word.strip_prefix("bswap") {
        (BPF_ALU64, BPF_K, digits)
    } else if let Some(digits) = word.strip_prefix("be") {
        (BPF_ALU, BPF_X, digits)
    } else {
        (BPF_ALU, BPF_K, word.strip_prefix("le")?)
    };
    let bits = match digits {
        "16" => 16,
        "32" => 32,
        "64" => 64,
        _ => return None,
    };
    Some((class, source, bits))
}

/// The tokens of one statement and how many were taken.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    all: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Parsed<Self> {
        let mut all = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let end = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (token, tail) = rest.split_at(end);
            all.push(if first.is_ascii_digit() {
                Token::Number(parse_number(token)?)
            } else if is_word(first) {
                Token::Word(token)
            } else {
                Token::Mark(first)
            });
            rest = tail.trim_start();
        }
        Ok(Self { all, at: 0 })
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.all.get(self.at).copied()
    }

    pub(super) fn peek2(&self) -> Option<Token<'a>> {
        self.all.get(self.at.saturating_add(1)).copied()
    }

    pub(super) fn peek_reg(&self) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if Reg::parse(word).is_some())
    }

    pub(super) fn peek2_reg(&self) -> bool {
        matches!(self.peek2(), Some(Token::Word(word)) if Reg::parse(word).is_some())
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.advance(1);
        token
    }

    pub(super) fn end(&mut self) -> Parsed<()> {
        match self.next() {
            None => Ok(()),
            some => Err(expected("the end of the statement", name(some))),
        }
    }

    pub(super) fn word(&mut self, wanted: &'static str) -> Parsed<&'a str> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(expected(wanted, name(other))),
        }
    }

    pub(super) fn keyword(&mut self, wanted: &'static str) -> Parsed<()> {
        match self.next() {
            Some(Token::Word(word)) if word == wanted => Ok(()),
            other => Err(expected(wanted, name(other))),
        }
    }

    pub(super) fn mark(&mut self, wanted: char) -> Parsed<()> {
        match self.next() {
            Some(Token::Mark(mark)) if mark == wanted => Ok(()),
            other => Err(AsmProblem::Expected {
                wanted: match wanted {
                    '(' => "`(`",
                    ')' => "`)`",
                    ',' => "`,`",
                    '*' => "`*`",
                    '=' => "`=`",
                    ']' => "`]`",
                    _ => "punctuation",
                },
                found: name(other),
            }),
        }
    }

    pub(super) fn reg(&mut self) -> Parsed<Reg> {
        let word = self.word("a register")?;
        Reg::parse(word).ok_or_else(|| expected("a register", format!("`{word}`")))
    }

    /// A number with an optional sign.
    pub(super) fn number(&mut self, wanted: &'static str) -> Parsed<i128> {
        let negative = match self.peek() {
            Some(Token::Mark(mark @ ('-' | '+'))) => {
                self.advance(1);
                mark == '-'
            }
            Some(Token::Word(_) | Token::Number(_) | Token::Mark(_)) | None => false,
        };
        match self.next() {
            Some(Token::Number(value)) if negative => Ok(value.wrapping_neg()),
            Some(Token::Number(value)) => Ok(value),
            other => Err(expected(wanted, name(other))),
        }
    }

    pub(super) fn target(&mut self) -> Parsed<Target<'a>> {
        match self.peek() {
            Some(Token::Word(label)) => {
                self.advance(1);
                Ok(Target::Label(label))
            }
            Some(Token::Number(_) | Token::Mark(_)) | None => {
                Ok(Target::Distance(self.number("a label or a distance")?))
            }
        }
    }

    /// A register or an immediate as the right side of `code`.
    pub(super) fn operand(&mut self, code: u8, dst: Reg) -> Parsed<Insn> {
        if self.peek_reg() {
            let src = self.reg()?;
            if src.wide != dst.wide {
                return Err(expected("a register of the same width", src.name()));
            }
            return Ok(Insn::new(code | BPF_X, dst.number, src.number, 0, 0));
        }
        let value = self.number("a register or a number")?;
        let imm = if dst.wide {
            fit_signed(value, "a sign-extended 32-bit immediate")?
        } else {
            fit_imm(value, "a 32-bit immediate")?
        };
        Ok(Insn::new(code | BPF_K, dst.number, 0, 0, imm))
    }

    /// `op=` of arithmetic: operation bits and `off`.
    pub(super) fn arithmetic(&mut self) -> Parsed<(u8, i16)> {
        let signed = self.peek() == Some(Token::Word("s"));
        if signed {
            self.advance(1);
        }
        let first = self.next();
        let twice = |t: &mut Self, c| t.mark(c);
        let op = match (first, signed) {
            (Some(Token::Mark('>')), true) => {
                twice(self, '>')?;
                (BPF_ARSH, 0)
            }
            (Some(Token::Mark('/')), true) => (BPF_DIV, 1),
            (Some(Token::Mark('%')), true) => (BPF_MOD, 1),
            (Some(Token::Mark('>')), false) => {
                twice(self, '>')?;
                (BPF_RSH, 0)
            }
            (Some(Token::Mark('<')), false) => {
                twice(self, '<')?;
                (BPF_LSH, 0)
            }
            (Some(Token::Mark('+')), false) => (BPF_ADD, 0),
            (Some(Token::Mark('-')), false) => (BPF_SUB, 0),
            (Some(Token::Mark('*')), false) => (BPF_MUL, 0),
            (Some(Token::Mark('/')), false) => (BPF_DIV, 0),
            (Some(Token::Mark('%')), false) => (BPF_MOD, 0),
            (Some(Token::Mark('|')), false) => (BPF_OR, 0),
            (Some(Token::Mark('&')), false) => (BPF_AND, 0),
            (Some(Token::Mark('^')), false) => (BPF_XOR, 0),
            (other, _) => return Err(expected("an arithmetic operator", name(other))),
        };
        self.mark('=')?;
        Ok(op)
    }

    pub(super) fn comparison(&mut self) -> Parsed<u8> {
        let signed = self.peek() == Some(Token::Word("s"));
        if signed {
            self.advance(1);
        }
        let first = self.next();
        let equals = self.peek() == Some(Token::Mark('='));
        let op = match (first, equals, signed) {
            (Some(Token::Mark('=')), true, false) => BPF_JEQ,
            (Some(Token::Mark('!')), true, false) => BPF_JNE,
            (Some(Token::Mark('&')), false, false) => BPF_JSET,
            (Some(Token::Mark('>')), false, false) => BPF_JGT,
            (Some(Token::Mark('>')), true, false) => BPF_JGE,
            (Some(Token::Mark('<')), false, false) => BPF_JLT,
            (Some(Token::Mark('<')), true, false) => BPF_JLE,
            (Some(Token::Mark('>')), false, true) => BPF_JSGT,
            (Some(Token::Mark('>')), true, true) => BPF_JSGE,
            (Some(Token::Mark('<')), false, true) => BPF_JSLT,
            (Some(Token::Mark('<')), true, true) => BPF_JSLE,
            (other, _, _) => return Err(expected("a comparison", name(other))),
        };
        if equals {
            self.advance(1);
        }
        Ok(op)
    }

    /// `(u32 *)`
    pub(super) fn cast(&mut self) -> Parsed<(u8, bool)> {
        self.mark('(')?;
        let word = self.word("u8, u16, u32, u64, s8, s16 or s32")?;
        let size = match word.get(1..) {
            Some("8") => BPF_B,
            Some("16") => BPF_H,
            Some("32") => BPF_W,
            Some("64") => BPF_DW,
            _ => return Err(expected("a type of 8 to 64 bits", format!("`{word}`"))),
        };
        let signed = match word.get(..1) {
            Some("s") => true,
            Some("u") => false,
            _ => return Err(expected("a type of 8 to 64 bits", format!("`{word}`"))),
        };
        self.mark('*')?;
        self.mark(')')?;
        Ok((size, signed))
    }

    /// `r1 + 8`
    pub(super) fn base_and_offset(&mut self) -> Parsed<(u8, i16)> {
        let base = self.reg()?.number;
        let off = match self.peek() {
            Some(Token::Mark('+' | '-')) => fit_off(self.number("an offset")?)?,
            Some(Token::Word(_) | Token::Number(_) | Token::Mark(_)) | None => 0,
        };
        Ok((base, off))
    }

    /// `(u32 *)(r1 + 8)`
    pub(super) fn pointer(&mut self) -> Parsed<Memory> {
        let (size, signed) = self.cast()?;
        self.mark('(')?;
        let (base, off) = self.base_and_offset()?;
        self.mark(')')?;
        Ok(Memory {
            size,
            signed,
            base,
            off,
        })
    }

    /// A pointer, or the legacy `(u8 *)skb[…]`.
    pub(super) fn pointer_or_packet(&mut self) -> Parsed<Place> {
        let start = self.clone();
        let (size, _signed) = self.cast()?;
        if self.peek() != Some(Token::Word("skb")) {
            *self = start;
            return Ok(Place::Memory(self.pointer()?));
        }
        self.advance(1);
        if self.next() != Some(Token::Mark('[')) {
            return Err(expected("`[`", "something else".to_owned()));
        }
        let (index, at) = if self.peek_reg() {
            (Some(self.reg()?), 0)
        } else {
            (None, fit_imm(self.number("an offset")?, "an offset")?)
        };
        self.mark(']')?;
        Ok(Place::Packet { size, index, at })
    }
}

pub(super) fn parse_number(token: &str) -> Parsed<i128> {
    let parsed = match token.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => token.parse::<u64>(),
    };
    match parsed {
        Ok(value) => Ok(i128::from(value)),
        Err(_not_a_number) => Err(expected("a number", format!("`{token}`"))),
    }
}

pub(super) fn expected(wanted: &'static str, found: String) -> AsmProblem {
    AsmProblem::Expected { wanted, found }
}

pub(super) fn out_of_range(value: i128, field: &'static str) -> AsmProblem {
    AsmProblem::OutOfRange { value, field }
}

pub(super) fn name(token: Option<Token<'_>>) -> String {
    match token {
        Some(Token::Word(word)) => format!("`{word}`"),
        Some(Token::Number(number)) => format!("`{number}`"),
        Some(Token::Mark(mark)) => format!("`{mark}`"),
        None => "the end of the statement".to_owned(),
    }
}

pub(super) fn fit_off(value: i128) -> Parsed<i16> {
    i16::try_from(value).map_err(|_too_big| out_of_range(value, "a 16-bit offset"))
}

pub(super) fn fit_signed(value: i128, field: &'static str) -> Parsed<i32> {
    i32::try_from(value).map_err(|_too_big| out_of_range(value, field))
}

/// A 32-bit field, given as signed or unsigned.
pub(super) fn fit_imm(value: i128, field: &'static str) -> Parsed<i32> {
    match (i32::try_from(value), u32::try_from(value)) {
        (Ok(imm), _) => Ok(imm),
        (_, Ok(imm)) => Ok(imm.cast_signed()),
        _ => Err(out_of_range(value, field)),
    }
}

pub(super) fn fit_u64(value: i128) -> Parsed<u64> {
    match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => Ok(value),
        (_, Ok(value)) => Ok(value.cast_unsigned()),
        _ => Err(out_of_range(value, "64 bits")),
    }
}
