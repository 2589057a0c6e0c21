//! What the compiler makes of a program, for people to read: nothing here is needed to run one.

use harena_jit::Contained;

/// A program as it is compiled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Its slots.
    pub slots: Vec<ListedSlot>,
    /// Its functions, in order.
    pub functions: Vec<ListedFunction>,
    /// Machine code of this program alone; it names no address of its own.
    pub code: Vec<u8>,
    /// What the parts of it are, in order.
    pub parts: Vec<CodePart>,
}

/// A slot of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListedSlot {
    /// Operations of the basic block that begins here, else 0.
    pub block: u32,
    /// Whether control may arrive here, as far as constants say.
    pub is_reached: bool,
    /// Where it may jump to.
    pub jumps_to: Option<u32>,
    /// What keeps its memory access inside, if it makes one.
    pub contained: Option<Contained>,
    /// Whether the access may go to the arena or elsewhere, as the address says.
    pub is_either: bool,
}

/// A function of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedFunction {
    /// Its first slot.
    pub start: u32,
    /// Bytes of its frame that it names.
    pub stack: u32,
}

/// Where machine code of a program lies in this process, for profilers.
///
/// Addresses differ from run to run: whoever prints them gives up that equal runs print equal
/// bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodeRange {
    /// Address of its first byte.
    pub start: usize,
    /// Bytes.
    pub len: usize,
    /// The program, for a function other than its first also that, as in `program_function`; parts
    /// that belong to no function end in `[entry]`, `[rare]` or `[shared]`.
    pub symbol: String,
}

/// A part of machine code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodePart {
    /// Offset of its first byte.
    pub start: u32,
    /// Offset behind its last.
    pub end: u32,
    /// What it belongs to.
    pub of: PartOf,
}

/// What a part of machine code belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartOf {
    /// Where the program is entered.
    Entry,
    /// The operation in this slot.
    Slot(u32),
    /// The same, where it goes the rare way.
    Rare(u32),
    /// What rare paths share.
    Shared,
}
