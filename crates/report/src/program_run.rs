//! What one run of a single program did, as plain names and numbers.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::hex::{self, Hex};
use crate::results::{Output, Violation};
use crate::text::{plural, write_outputs, write_violations};
use crate::{escape, json, text};

/// Bytes of a context on a line of text.
const ROW: usize = 16;

/// A program that was run once, with a context.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProgramRun {
    /// Path of the object.
    pub object: String,
    /// The program.
    pub program: String,
    /// What it returned; none if it was stopped.
    pub returned: Option<i32>,
    /// Why it was stopped.
    pub aborted: Option<String>,
    /// BPF instructions executed.
    pub insns: u64,
    /// The context afterwards, in hexadecimal.
    #[serde(serialize_with = "hex::serialize")]
    pub context: Vec<u8>,
    /// The file that holds it, if it was written to one: the text does not repeat it.
    #[serde(skip)]
    pub context_file: Option<String>,
    /// Accesses to memory that is not there, by first occurrence.
    pub violations: Vec<Violation>,
    /// Violations at places beyond these.
    pub violations_dropped: u64,
    /// What it printed.
    pub output: Vec<Output>,
}

impl ProgramRun {
    /// For a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        text(|out| self.write_text(out))
    }

    /// For a program.
    #[must_use]
    pub fn to_json(&self) -> String {
        json(self)
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "object      {}", escape(&self.object))?;
        writeln!(out, "program     {}", escape(&self.program))?;
        writeln!(out, "executed    {}", plural(self.insns, "instruction"))?;
        self.write_context(out)?;
        write_violations(out, &self.violations, self.violations_dropped)?;
        write_outputs(out, &self.output)?;
        if self.violations.is_empty() {
            writeln!(out, "violations  none")?;
        }
        if let Some(why) = &self.aborted {
            writeln!(out, "stopped     {}", escape(why))?;
        }
        match self.returned {
            Some(value @ ..0) => writeln!(out, "returned    {value} ({value:#x})"),
            Some(value) => writeln!(out, "returned    {value}"),
            None => Ok(()),
        }
    }

    fn write_context(&self, out: &mut String) -> fmt::Result {
        if self.context.is_empty() {
            return Ok(());
        }
        let size = plural(self.context.len() as u64, "byte");
        write!(out, "context     {size}")?;
        if let Some(file) = &self.context_file {
            return writeln!(out, ", written to {}", escape(file));
        }
        writeln!(out)?;
        for (row, bytes) in self.context.chunks(ROW).enumerate() {
            writeln!(out, "  {:#06x}  {}", row * ROW, Hex(bytes, " "))?;
        }
        Ok(())
    }
}
