//! What programs did to memory they should not have touched or freed, counted per place.
//!
//! Reports in the streams are for reading; this list is for tables and JSON. It is
//! bounded: places beyond the limit are only counted.

use std::collections::BTreeMap;
use std::fmt;

use harena_arena_fault::Access;

use crate::program::ProgId;

/// Places kept; more are counted.
const PLACES_MAX: usize = 1024;

/// Who touched what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ViolationKind {
    /// A program's own access to an empty arena page.
    Arena,
    /// An access of the host to an empty arena page, in a kfunc or for a callback.
    Host,
    /// A program's access through a pointer that leads to no guest memory, or a store to
    /// frozen memory.
    Wild,
    /// A free of what is no object of the program's arena.
    Free,
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arena => "arena",
            Self::Host => "host",
            Self::Wild => "wild",
            Self::Free => "free",
        })
    }
}

/// One place and how often it happened there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What sort.
    pub kind: ViolationKind,
    /// Program (its entry function's name).
    pub program: String,
    /// Function in the program.
    pub function: String,
    /// Instruction slot in the program.
    pub insn: u32,
    /// `READ` or `WRITE`.
    pub access: &'static str,
    /// Address of the first occurrence.
    pub address: u64,
    /// Source file, if known.
    pub file: Option<String>,
    /// Source line, if known.
    pub line: Option<u32>,
    /// Text of the line, if known.
    pub source: Option<String>,
    /// How often.
    pub count: u64,
}

type Key = (ProgId, u32, ViolationKind, bool);

/// All violations of a VM, in order of first occurrence.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    list: Vec<Violation>,
    by_place: BTreeMap<Key, usize>,
    dropped: u64,
}

impl Violations {
    /// Counts one; `describe` is only called for a new place.
    pub(crate) fn add(
        &mut self,
        (prog, insn): (ProgId, u32),
        kind: ViolationKind,
        access: Access,
        describe: impl FnOnce() -> Violation,
    ) {
        let key = (prog, insn, kind, access == Access::Write);
        if let Some(index) = self.by_place.get(&key) {
            self.list[*index].count += 1;
        } else if self.list.len() < PLACES_MAX {
            self.by_place.insert(key, self.list.len());
            self.list.push(describe());
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn list(&self) -> &[Violation] {
        &self.list
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}
