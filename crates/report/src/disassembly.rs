//! A program's instructions, what keeps each access inside, and the machine code of each.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::escape;
use crate::results::SourceLine;
use crate::text::write_source;

/// Characters an instruction may have before what is said of it is moved to the right.
const TEXT_WIDTH: usize = 40;

/// One program.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Disassembly {
    /// Its name.
    pub program: String,
    /// Its functions, by ascending start.
    pub functions: Vec<FunctionInfo>,
    /// Its instructions.
    pub insns: Vec<InsnInfo>,
    /// Machine code that belongs to no instruction, if asked for.
    pub native: Option<NativeShared>,
}

/// One function of a program.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// Its first slot.
    pub start: u32,
    /// Bytes of its stack frame that it names.
    pub stack: u32,
}

/// One instruction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InsnInfo {
    /// Its slot in the program.
    pub slot: u32,
    /// Its text.
    pub text: String,
    /// What a number in it stands for: a function, map or variable.
    pub refers_to: Option<String>,
    /// The slot that it may jump to.
    pub jumps_to: Option<u32>,
    /// Instructions of the basic block that begins here; none if no block does.
    pub block: Option<u32>,
    /// What keeps its memory access inside, if it makes one: `frame`, `proven`, `arena`, `masked`,
    /// `bound`, `either` or `host`.
    pub access: Option<String>,
    /// Why it must not be reached, if so.
    pub poisoned: Option<String>,
    /// Where it comes from, if the object says so.
    pub source: Option<SourceLine>,
    /// Its machine code, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeCode>,
}

/// Machine code of one instruction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NativeCode {
    /// What runs.
    pub code: Vec<NativeInsn>,
    /// What runs instead, or behind it, where something rare happens.
    pub rare: Vec<NativeInsn>,
}

/// Machine code of a program that belongs to no instruction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NativeShared {
    /// Where it is entered.
    pub entry: Vec<NativeInsn>,
    /// What rare paths share.
    pub shared: Vec<NativeInsn>,
}

/// One machine instruction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NativeInsn {
    /// Its offset in the program's code.
    pub offset: u32,
    /// Its bytes, in hexadecimal.
    #[serde(serialize_with = "crate::hex::serialize")]
    pub bytes: Vec<u8>,
    /// Its text.
    pub text: String,
}

impl Disassembly {
    pub(crate) fn write_text(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\ncode        {}", escape(&self.program))?;
        if let Some(native) = &self.native {
            write_native(out, "entry", &native.entry)?;
        }
        let mut functions = self.functions.iter().peekable();
        let mut source = None;
        for insn in &self.insns {
            while let Some(function) = functions.next_if(|f| f.start <= insn.slot) {
                let name = escape(&function.name);
                writeln!(out, "\n  {name}: {} bytes of stack", function.stack)?;
                source = None;
            }
            if let Some(line) = &insn.source
                && source != Some(line)
            {
                source = Some(line);
                write_source(out, "  ; ", line)?;
            }
            insn.write_text(out)?;
        }
        match &self.native {
            Some(native) => write_native(out, "shared", &native.shared),
            None => Ok(()),
        }
    }
}

impl InsnInfo {
    fn write_text(&self, out: &mut String) -> fmt::Result {
        let block = self.block.map_or(String::new(), |len| format!("[{len}]"));
        let text = escape(&self.text);
        let mut line = format!("  {block:>6} {:>5}  {text:<TEXT_WIDTH$}", self.slot);
        if let Some(access) = &self.access {
            write!(line, "  {access}")?;
        }
        if let Some(name) = &self.refers_to {
            write!(line, "  # {}", escape(name))?;
        }
        if let Some(slot) = self.jumps_to {
            write!(line, "  # to {slot}")?;
        }
        if let Some(why) = &self.poisoned {
            write!(line, "  # must not be reached: {}", escape(why))?;
        }
        writeln!(out, "{}", line.trim_end())?;
        if let Some(native) = &self.native {
            write_native(out, "", &native.code)?;
            write_native(out, "rare", &native.rare)?;
        }
        Ok(())
    }
}

fn write_native(out: &mut String, title: &str, insns: &[NativeInsn]) -> fmt::Result {
    for (index, insn) in insns.iter().enumerate() {
        let title = if index == 0 { title } else { "" };
        writeln!(out, "{title:>13}  {:>6x}  {}", insn.offset, insn.text)?;
    }
    Ok(())
}
