//! A linked object: what an engine needs to create maps and run programs.
//!
//! Instructions are final but for addresses that only an engine knows:
//!
//! | instruction | `src` | meaning |
//! |---|---|---|
//! | `ldimm64` | `BPF_PSEUDO_MAP_FD` | `imm` is an index of [`LinkedObject::maps`] |
//! | `ldimm64` | `BPF_PSEUDO_MAP_VALUE` | same; the second `imm` (unsigned) is an offset in the value, or in the arena from its start |
//! | `ldimm64` | `BPF_PSEUDO_FUNC` | `imm` is a distance in slots to a function of this program, for callbacks |
//! | `ldimm64` | 0, in [`LinkedProgram::jump_tables`] | `imm` is an offset in a jump table |
//! | `call` | `BPF_PSEUDO_CALL` | `imm` is a distance in slots to a function of this program |
//! | `call` | `BPF_PSEUDO_KFUNC_CALL` | `imm` is a [`KfuncRef::id`](crate::KfuncRef::id) |
//! | `call` | 0 | `imm` is a helper, unless the slot is in [`LinkedProgram::poisoned`] |

use crate::btf::{Btf, TypeId};
use crate::isa::Insn;
use crate::isa::op::{PseudoCall, PseudoLoad};
use crate::lines::LineTable;
use crate::map::{Contents, InitialSlot, MapIndex, MapOrigin, MapType, ProgramIndex, SpecialField};
use crate::section::ProgType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Programs, maps and struct_ops, ready to be created.
#[derive(Clone, Debug)]
pub struct LinkedObject {
    /// File the object came from.
    pub file: String,
    /// Its licence.
    pub license: String,
    /// Its types.
    pub btf: Arc<Btf>,
    /// Programs that are to be loaded; those switched off are missing.
    pub programs: Vec<LinkedProgram>,
    /// All maps.
    pub maps: Vec<LinkedMap>,
    /// All struct_ops variables.
    pub struct_ops: Vec<StructOps>,
    /// The arena, if there is one.
    pub arena: Option<MapIndex>,
    /// Global variables by name.
    pub globals: BTreeMap<String, LinkedGlobal>,
}

/// Where a global variable lies at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkedGlobal {
    /// The map that holds it; the arena for `__arena` globals.
    pub map: MapIndex,
    /// Bytes from the start of the map's value, or of the arena.
    pub offset: u64,
    /// Its type in the object's BTF.
    pub type_id: TypeId,
    /// Bytes.
    pub size: u64,
}

/// A program with all functions it can reach.
#[derive(Clone, Debug)]
pub struct LinkedProgram {
    /// Name of its entry function.
    pub name: String,
    /// Section it stands in, as written (`struct_ops.s/init`).
    pub section: String,
    /// Its type.
    pub prog_type: ProgType,
    /// What it attaches to, from the section's name (`sched_switch`), if anything.
    pub attach: Option<String>,
    /// Whether it may sleep.
    pub sleepable: bool,
    /// Code: the entry function first, then all others it reaches.
    pub insns: Vec<Insn>,
    /// The functions in `insns`, by ascending start; the first is the entry.
    pub funcs: Vec<FuncInfo>,
    /// Source lines of `insns`.
    pub lines: LineTable,
    /// The arena, if any instruction refers to it.
    pub arena: Option<MapIndex>,
    /// Where jump tables lead (`gotox`), by the slot of the load of their address: its immediate is
    /// an offset in a table of 8 bytes an entry, which an engine makes.
    pub jump_tables: BTreeMap<u32, Vec<u32>>,
    /// Slots that must not be executed, and why (a failed CO-RE relocation, a kfunc
    /// that does not exist).
    pub poisoned: BTreeMap<u32, Arc<str>>,
    /// Kfuncs called, by name as the kernel knows them, with their ids.
    pub kfuncs: BTreeMap<String, u32>,
}

/// A function within a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FuncInfo {
    /// Its name.
    pub name: String,
    /// Its first slot.
    pub start: u32,
    /// How many slots it has.
    pub len: u32,
    /// Its `Func` in the object's BTF.
    pub type_id: Option<TypeId>,
    /// Its parameters.
    pub params: Vec<FuncParam>,
}

/// A parameter of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FuncParam {
    /// Its name.
    pub name: String,
    /// Its type in the object's BTF.
    pub type_id: TypeId,
    /// Its `arg:…` declaration tags without that prefix (`arena`, `nonnull`).
    pub tags: Vec<String>,
}

/// A map to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedMap {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub origin: MapOrigin,
    /// Its type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; pages for an arena.
    pub max_entries: u32,
    /// `BPF_F_*`
    pub map_flags: u32,
    /// Type-specific; for an arena the user address of its start.
    pub map_extra: u64,
    /// Type of a key in the object's BTF.
    pub key_type: Option<TypeId>,
    /// Type of a value in the object's BTF.
    pub value_type: Option<TypeId>,
    /// Timers, locks, kptrs… in a value, by offset.
    pub special_fields: Vec<SpecialField>,
    /// What the maps in a map of maps look like.
    pub inner: Option<Box<Self>>,
    /// What entries of a map of maps or a program array start with.
    pub slots: BTreeMap<u32, InitialSlot>,
    /// What the value (or the arena, from `contents_offset`) starts with.
    pub contents: Contents,
    /// Where `contents` begins: only an arena's is not 0.
    pub contents_offset: u64,
    /// Whether programs and user space may not write it once loaded.
    pub frozen: bool,
    /// Whether it is to be shared by name (`LIBBPF_PIN_BY_NAME`).
    pub pin_by_name: bool,
}

/// A struct_ops variable in the kernel's layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StructOps {
    /// Name of the variable.
    pub name: String,
    /// Name of its type without flavour (`sched_ext_ops`).
    pub type_name: String,
    /// Its type in the kernel's BTF.
    pub type_id: TypeId,
    /// Whether it is registered through a link (`.struct_ops.link`).
    pub link: bool,
    /// The struct's bytes in the kernel's layout; function pointers are 0.
    pub data: Vec<u8>,
    /// Function pointers in the order of the kernel's members.
    pub members: Vec<StructOpsMember>,
}

/// A function pointer of a struct_ops type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StructOpsMember {
    /// Its name.
    pub name: String,
    /// Its index among all members of the kernel's type.
    pub index: u32,
    /// Its byte offset in the kernel's type.
    pub offset: u32,
    /// Its `FuncProto` in the kernel's BTF.
    pub proto: TypeId,
    /// The program that implements it.
    pub program: Option<ProgramIndex>,
}

impl LinkedObject {
    /// The program of this name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&LinkedProgram> {
        self.programs.iter().find(|program| program.name == name)
    }

    /// The map of this name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&LinkedMap> {
        self.maps.iter().find(|map| map.name == name)
    }
}

impl LinkedProgram {
    /// A program of bare instructions, as the text assembler gives them: no types, no
    /// lines. Functions begin at 0 and wherever a call or a `func(…)` load points to.
    #[must_use]
    pub fn from_insns(name: &str, prog_type: ProgType, insns: Vec<Insn>) -> Self {
        let end = u32::try_from(insns.len()).unwrap_or(u32::MAX);
        let mut starts = BTreeSet::from([0]);
        for (slot, insn) in (0u32..).zip(&insns) {
            let is_func = insn.pseudo_call() == Some(PseudoCall::Subprogram)
                || insn.pseudo_load() == Some(PseudoLoad::Func);
            let next = slot.saturating_add(1);
            if is_func && let Some(start) = next.checked_add_signed(insn.imm) {
                starts.insert(start.min(end));
            }
        }
        let ends = starts.iter().copied().skip(1).chain([end]);
        let funcs = starts.iter().zip(ends).map(|(&start, end)| FuncInfo {
            name: if start == 0 {
                name.to_owned()
            } else {
                format!("{name}+{start}")
            },
            start,
            len: end.saturating_sub(start),
            type_id: None,
            params: Vec::new(),
        });
        Self {
            name: name.to_owned(),
            section: prog_type.name().to_owned(),
            prog_type,
            attach: None,
            sleepable: false,
            funcs: funcs.filter(|func| func.len > 0).collect(),
            insns,
            lines: LineTable::empty(),
            arena: None,
            jump_tables: BTreeMap::new(),
            poisoned: BTreeMap::new(),
            kfuncs: BTreeMap::new(),
        }
    }

    /// All slots that jump tables lead to, in order.
    #[must_use]
    pub fn jump_targets(&self) -> Vec<u32> {
        let all: BTreeSet<u32> = self.jump_tables.values().flatten().copied().collect();
        all.into_iter().collect()
    }

    /// The function that holds this slot.
    #[must_use]
    pub fn func_at(&self, insn: u32) -> Option<&FuncInfo> {
        let after = self.funcs.partition_point(|func| func.start <= insn);
        self.funcs.get(after.checked_sub(1)?)
    }
}
