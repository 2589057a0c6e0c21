//! What the compiler is given, and what it gives.

use harena_bpf::code::Op;

/// A program to compile.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its decoded operations, with [`harena_bpf::code::OpCode::FellOff`] behind the last.
    pub ops: &'a [Op],
    /// First slots of its functions, in order; 0 among them.
    pub functions: &'a [u32],
    /// Slots that jump tables lead to, in order.
    pub jump_targets: &'a [u32],
    /// What the first slot is called where code is pointed to (`gotox`); the others follow, 8
    /// apart.
    pub text: u64,
    /// What `addr_space_cast` to user addresses does, if the program has an arena.
    pub arena: Option<UserCast>,
    /// What is proven of each memory operation; those of missing slots are contained.
    pub proofs: &'a [Proof],
    /// How that is done where the pointer is known not to be the arena's.
    pub containment: Containment,
}

/// What keeps accesses through pointers of unknown origin inside the guest; the interpreter does
/// the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Containment {
    /// Addresses are cut to the guest's 64 GiB, and what is not there faults. A pointer gone
    /// wild is reported unless it happens to lead to memory that is there; regions are there in
    /// granules of 64 KiB.
    #[default]
    Mask,
    /// Addresses are compared with what was handed out: every wild pointer is reported.
    Check,
}

/// What is known of a memory operation before it runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Proof {
    /// Nothing: it is contained.
    #[default]
    None,
    /// It lies in the frame, so many bytes from r10.
    Frame(i32),
    /// It lies in a part of the heap that was handed out, and may be made there.
    Heap,
}

impl<'a> Source<'a> {
    /// Slots that may be entered with anything in the registers, as far as the code tells.
    #[must_use]
    pub fn entries(&self) -> Vec<u32> {
        [self.functions, self.jump_targets].concat()
    }

    /// A program of one function, without an arena.
    #[must_use]
    pub const fn new(ops: &'a [Op]) -> Self {
        Self {
            ops,
            functions: &[0],
            jump_targets: &[],
            text: 0,
            arena: None,
            proofs: &[],
            containment: Containment::Check,
        }
    }
}

/// What `addr_space_cast(1 <- 0)` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserCast {
    /// It adds the high half of user addresses.
    AddHigh,
    /// It clears the high half (`BPF_F_NO_USER_CONV`).
    ClearHigh,
}

/// Machine code of several programs, to be mapped anywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeImage {
    /// The code; it names no address of its own.
    pub bytes: Vec<u8>,
    /// Instructions that may fault, by offset.
    pub faults: Vec<Fault>,
    /// Which operation each part of the code belongs to, by offset: for disassembly.
    pub lines: Vec<Line>,
}

/// One program's place in a [`CodeImage`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramCode {
    /// Offset of the function `extern "sysv64" fn(*mut Context) -> u64` that enters it.
    pub entry: u32,
    /// First slots of its functions, in order, and the offset of each, for `Context::target`.
    pub functions: Vec<(u32, u32)>,
    /// Offset behind its operations: rare paths of all of them follow.
    pub rare: u32,
    /// Offset behind the code of its own; what follows serves every program alike.
    pub shared: u32,
    /// Offset behind all its code.
    pub end: u32,
}

impl ProgramCode {
    /// Offset of the function that starts at a slot.
    #[must_use]
    pub fn function(&self, slot: u32) -> Option<u32> {
        let index = self
            .functions
            .binary_search_by_key(&slot, |(slot, _)| *slot);
        self.functions.get(index.ok()?).map(|(_, offset)| *offset)
    }
}

/// An access to an arena that may meet an empty page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Offset of the instruction.
    pub fault_pc: u32,
    /// Offset at which to go on: what makes the access the slow way and reports it.
    pub resume_pc: u32,
    /// The BPF register that is 0 afterwards, if it was a load: the place to go on sees to that.
    pub zero_reg: Option<u8>,
}

/// Code from this offset on belongs to this slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Offset in the image.
    pub offset: u32,
    /// Slot in its program.
    pub slot: u32,
}

/// Why programs could not be compiled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JitError {
    /// Distances in the code have 32 bits.
    #[error("{size} bytes of machine code are too many")]
    TooLarge {
        /// Its bytes.
        size: usize,
    },
    /// The assembler could not reach a label.
    #[error("assembler: {reason}")]
    Assembler {
        /// What it says.
        reason: String,
    },
}
