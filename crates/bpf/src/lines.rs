//! Source lines of instructions, for messages.

use crate::btf::Btf;
use std::fmt;
use std::sync::Arc;

/// Where an instruction comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceLine<'a> {
    /// File name as the compiler recorded it.
    pub file: &'a str,
    /// Line, from 1; 0 if unknown.
    pub line: u32,
    /// Column, from 1; 0 if unknown.
    pub column: u32,
    /// Text of the line, may be empty.
    pub text: &'a str,
}

impl fmt::Display for SourceLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text.trim())
    }
}

/// From this slot on, instructions belong to this line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LineEntry {
    pub(crate) insn: u32,
    /// Offsets of strings in the object's BTF.
    pub(crate) file: u32,
    pub(crate) text: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Source lines by slot.
#[derive(Clone)]
pub struct LineTable {
    btf: Arc<Btf>,
    /// Ascending by `insn`.
    entries: Vec<LineEntry>,
}

impl fmt::Debug for LineTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineTable({} entries)", self.entries.len())
    }
}

impl LineTable {
    /// Entries must ascend by slot.
    pub(crate) fn new(btf: Arc<Btf>, entries: Vec<LineEntry>) -> Self {
        assert!(entries.is_sorted_by_key(|entry| entry.insn));
        Self { btf, entries }
    }

    /// A table that knows no line.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Arc::new(Btf::empty()), Vec::new())
    }

    /// The line that this slot belongs to.
    #[must_use]
    pub fn at(&self, insn: u32) -> Option<SourceLine<'_>> {
        let after = self.entries.partition_point(|entry| entry.insn <= insn);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        Some(SourceLine {
            file: self.btf.string_at(entry.file),
            line: entry.line,
            column: entry.column,
            text: self.btf.string_at(entry.text),
        })
    }
}
