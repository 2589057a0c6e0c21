//! A loaded program: the linked program it came from, and its code.
//!
//! The executable form is separate from everything else, so that nothing above it knows which
//! engine runs.

use std::sync::Arc;

use harena_arena::Arena;
use harena_bpf::btf::TypeId;
use harena_bpf::{LineTable, LinkedProgram, ProgType, SourceLine};

use crate::error::Place;
use crate::exec::Native;
use crate::host::{KfuncDesc, Sleepable};
use crate::load::text_slot;
use crate::maps::MapId;
use crate::owned::BtfId;
use harena_bpf::code::Code;

/// Number of a program in its VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProgId(pub(crate) u32);

impl ProgId {
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How programs are executed. Results are the same: registers, memory, instruction counts,
/// reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Engine {
    /// The reference: decoded instructions, one after the other.
    #[default]
    Interpreter,
    /// Machine code, where the host has a compiler and lets code be made; else the interpreter
    /// (see [`crate::Vm::jit_refused`]).
    Jit,
}

/// A program in the form its engine executes.
#[derive(Debug)]
pub(crate) struct Executable {
    /// For the interpreter, to which machine code leaves what is rare.
    pub(crate) code: Code,
    /// Slots that jump tables lead to, in order.
    pub(crate) jump_targets: Vec<u32>,
    /// Machine code.
    pub(crate) native: Option<Native>,
}

/// The arena that a program is associated with.
#[derive(Debug)]
pub(crate) struct ProgArena {
    pub(crate) map: MapId,
    pub(crate) memory: Arc<Arena>,
    /// `addr_space_cast(1 <- 0)` only clears the high half (`BPF_F_NO_USER_CONV`).
    pub(crate) no_user_conv: bool,
}

/// What programs that call each other as tails must agree in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProgramShape {
    prog_type: ProgType,
    sleepable: bool,
    /// The type of the struct_ops member that it implements.
    proto: Option<TypeId>,
}

/// A program that can be run.
#[derive(Debug)]
pub struct Program {
    pub(crate) id: ProgId,
    /// Without its instructions, which `executable` holds.
    pub(crate) linked: LinkedProgram,
    pub(crate) len: u32,
    pub(crate) arena: Option<ProgArena>,
    /// The types of the object file it is from.
    pub(crate) btf: BtfId,
    /// The type, in the kernel's BTF, of the struct_ops member that it implements.
    pub(crate) proto: Option<TypeId>,
    /// The kfuncs it calls; decoded calls carry an index of this.
    pub(crate) kfuncs: Vec<KfuncDesc>,
    pub(crate) executable: Executable,
}

impl Program {
    /// The slot that `gotox` goes on at by this value, if a jump table leads there.
    pub(crate) fn jump_target(&self, address: u64) -> Option<u32> {
        let slot = text_slot(self.id, address)?;
        let found = self.executable.jump_targets.binary_search(&slot);
        found.is_ok().then_some(slot)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ProgId {
        self.id
    }

    /// Name of the entry function.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.linked.name
    }

    /// What the linker said about it; the instructions are left out.
    #[must_use]
    pub fn linked(&self) -> &LinkedProgram {
        &self.linked
    }

    /// Whether it may call what sleeps.
    #[must_use]
    pub fn sleepable(&self) -> Sleepable {
        if self.linked.sleepable {
            Sleepable::Yes
        } else {
            Sleepable::No
        }
    }

    pub(crate) fn shape(&self) -> ProgramShape {
        ProgramShape {
            prog_type: self.linked.prog_type,
            sleepable: self.linked.sleepable,
            proto: self.proto,
        }
    }

    /// The arena it is associated with (`prog_arena()`).
    #[must_use]
    pub fn arena(&self) -> Option<MapId> {
        self.arena.as_ref().map(|arena| arena.map)
    }

    /// That arena itself.
    pub(crate) fn arena_memory(&self) -> Option<&Arc<Arena>> {
        self.arena.as_ref().map(|arena| &arena.memory)
    }

    /// The source line of a slot.
    pub(crate) fn line_at(&self, insn: u32) -> Option<SourceLine<'_>> {
        self.linked.lines.at(insn)
    }

    /// `source text @ file:line`, as reports print it.
    pub(crate) fn line_text(&self, insn: u32) -> Option<String> {
        line_text(&self.linked.lines, insn)
    }

    /// The place for error messages.
    pub(crate) fn place(&self, insn: u32) -> Place {
        let function = self.linked.func_at(insn).map_or("", |f| &f.name);
        Place {
            program: self.linked.name.clone(),
            function: function.to_owned(),
            insn,
            line: self.line_text(insn),
        }
    }

    /// `function+0xoffset/0xsize`, as the kernel's `%pS`; in bytes of 8-byte instructions.
    pub(crate) fn symbol(&self, insn: u32) -> String {
        let (name, start, len) = match self.linked.func_at(insn) {
            Some(f) => (&f.name, f.start, f.len),
            None => (&self.linked.name, 0, self.len),
        };
        let offset = u64::from(insn.saturating_sub(start)) * 8;
        format!("{name}+{offset:#x}/{:#x}", u64::from(len) * 8)
    }
}

/// `source text @ file:line`, with the file's last component only, as the kernel prints it.
pub fn line_text(lines: &LineTable, insn: u32) -> Option<String> {
    let line = lines.at(insn)?;
    let file = line.file.rsplit('/').next().unwrap_or_default();
    Some(match line.text.trim() {
        "" => format!("{file}:{}", line.line),
        text => format!("{text} @ {file}:{}", line.line),
    })
}
