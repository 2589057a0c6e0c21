//! A BPF object file as it says of itself, before any kernel is known.
//!
//! [`Object::parse`] sorts sections into code, maps, data, struct_ops and externs, and
//! relocations into what they point to. It decides nothing that depends on the kernel
//! and refuses nothing that no program may ever reach: an odd relocation is kept with
//! its reason and becomes an error when a loaded program contains it.
//!
//! ```text
//! exec sections ─► code, funcs, programs     .BTF.ext ─► lines, CO-RE relocations
//! .maps         ─► maps (first)              .data* .rodata* .bss* .kconfig ─► maps (then)
//! .addr_space.1 ─► contents of the arena     .struct_ops* ─► struct_ops
//! ```

mod code;
mod data;
mod externs;
pub(crate) mod maps;
mod plain;
mod set;
mod struct_ops;

pub(crate) use code::{CodeReloc, CodeSection, Function, RelocTarget};
pub use externs::{Extern, ExternKind, KconfigKind};
pub use set::{Autoload, GlobalInfo, GlobalValue};
pub(crate) use struct_ops::StructOpsVar;

use crate::btf::ext::BtfExt;
use crate::btf::{Btf, TypeId};
use crate::elf::{Elf, SectionNumber};
use crate::error::ParseError;
use crate::fields::FieldSearch;
use crate::linked::LinkedMap;
use crate::map::{MapIndex, MapOrigin};
use crate::section::ProgType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A program as its section describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Name of its function.
    pub name: String,
    /// Its section's name, with `?` if that is there.
    pub section: String,
    /// Its type; `None` if the section's name stands for none.
    pub prog_type: Option<ProgType>,
    /// Whether it may sleep.
    pub sleepable: bool,
    /// What it attaches to, from the section's name.
    pub attach: Option<String>,
    /// Whether it is loaded; a section name with `?` says no.
    pub autoload: bool,
    /// Index of its function.
    pub(crate) func: usize,
}

/// What a variable's bytes are part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Storage {
    Map(MapIndex),
    StructOps(usize),
    /// Given by the kernel when linking.
    Kconfig(MapIndex),
}

/// A global variable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Global {
    pub(crate) storage: Storage,
    /// Bytes from the start of the section.
    pub(crate) offset: u64,
    pub(crate) type_id: TypeId,
    pub(crate) size: u64,
}

/// A parsed object file.
///
/// ```no_run
/// use harena_bpf::{KernelSymbols, LinkedObject, Object};
///
/// fn load(kernel: &dyn KernelSymbols) -> Result<LinkedObject, Box<dyn std::error::Error>> {
///     let bytes = std::fs::read("fifo.bpf.o")?;
///     let mut object = Object::parse("fifo.bpf.o", &bytes)?;
///     object.set_global("slice_ns", &5_000_000u64.into())?;
///     object.set_global("fifo_ops.timeout_ms", &1000u64.into())?;
///     Ok(object.link(kernel)?)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Object {
    pub(crate) file: String,
    pub(crate) license: String,
    pub(crate) btf: Arc<Btf>,
    pub(crate) code: Vec<CodeSection>,
    /// Ascending by section and start; never overlapping.
    pub(crate) funcs: Vec<Function>,
    pub(crate) programs: Vec<Program>,
    pub(crate) maps: Vec<LinkedMap>,
    pub(crate) arena: Option<MapIndex>,
    pub(crate) externs: Vec<Extern>,
    pub(crate) struct_ops: Vec<StructOpsVar>,
    pub(crate) globals: BTreeMap<String, Global>,
    /// The bytes of `.jumptables`.
    pub(crate) jump_tables: Vec<u8>,
    /// Names of ELF symbols, for messages.
    pub(crate) symbols: Vec<String>,
}

/// What an ELF section was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Index in `code`.
    Code(usize),
    /// `.maps`
    Maps,
    /// A data section's map.
    Data(MapIndex),
    /// `.addr_space.1`
    Arena,
    /// `.struct_ops*`
    StructOps,
    /// `.jumptables`
    JumpTables,
}

/// Everything that the parsers of single sections share.
pub(crate) struct Input<'a> {
    pub(crate) elf: &'a Elf<'a>,
    pub(crate) btf: &'a Btf,
    pub(crate) roles: BTreeMap<SectionNumber, Role>,
    /// Finds special fields of map values.
    pub(crate) fields: FieldSearch,
}

impl Object {
    /// Parses an object file; `file` is its name, used in messages only.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, ParseError> {
        let elf = Elf::parse(bytes)?;
        if elf.section("maps").is_some() {
            return Err(ParseError::LegacyMaps);
        }
        let (btf, ext) = parse_btf(&elf)?;
        let mut input = Input {
            elf: &elf,
            btf: &btf,
            roles: BTreeMap::new(),
            fields: FieldSearch::new(&btf),
        };
        let mut maps = maps::parse(&mut input)?;
        let arena = only_arena(&maps)?;
        data::parse(&mut input, &mut maps, arena)?;
        let externs = externs::parse(&input, &mut maps)?;
        let mut code = code::parse_sections(&mut input)?;
        let jump_tables = code::parse_jump_tables(&mut input);
        code::attach_ext(&mut code, &ext);
        let funcs = code::parse_functions(&input, &ext)?;
        let programs = code::programs(&code, &funcs)?;
        code::attach_relocs(&input, &mut code, &maps, &externs, arena)?;
        maps::attach_values(&input, &mut maps, &funcs, &programs)?;
        let struct_ops = struct_ops::parse(&mut input, &funcs)?;
        let globals = data::globals(&input, &externs, &struct_ops, &maps, arena)?;
        Ok(Self {
            file: file.to_owned(),
            license: license(&elf)?,
            code,
            funcs,
            programs,
            maps: maps.into_iter().map(|map| map.def).collect(),
            arena,
            externs: externs.list,
            struct_ops,
            globals,
            jump_tables,
            symbols: elf.symbols.iter().map(|s| s.name.to_owned()).collect(),
            btf: Arc::new(btf),
        })
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its licence, from section `license`.
    #[must_use]
    pub fn license(&self) -> &str {
        &self.license
    }

    /// Its types.
    #[must_use]
    pub fn btf(&self) -> &Btf {
        &self.btf
    }

    /// Its programs.
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Its maps, defined ones and those of data sections.
    #[must_use]
    pub fn maps(&self) -> &[LinkedMap] {
        &self.maps
    }

    /// Its arena.
    #[must_use]
    pub fn arena(&self) -> Option<&LinkedMap> {
        self.maps.get(self.arena?.index())
    }

    /// What it wants from the kernel.
    #[must_use]
    pub fn externs(&self) -> &[Extern] {
        &self.externs
    }

    /// Names of its struct_ops variables and their types, flavours included.
    pub fn struct_ops(&self) -> impl Iterator<Item = (&str, &str)> {
        self.struct_ops
            .iter()
            .map(|ops| (ops.name.as_str(), self.btf.name_of(ops.type_id)))
    }
}

/// A map under construction and where its definition stands.
#[derive(Debug)]
pub(crate) struct ParsedMap {
    pub(crate) def: LinkedMap,
    /// Offset in `.maps`, for explicit maps.
    pub(crate) symbol_offset: Option<u64>,
    /// Offset in `.maps` of the `values` array.
    pub(crate) values_offset: Option<u64>,
}

impl ParsedMap {
    pub(crate) const fn internal(def: LinkedMap) -> Self {
        Self {
            def,
            symbol_offset: None,
            values_offset: None,
        }
    }
}

/// A map with nothing set.
pub(crate) fn blank_map(name: &str, origin: MapOrigin) -> LinkedMap {
    LinkedMap {
        name: name.to_owned(),
        origin,
        map_type: crate::map::MapType::default(),
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        map_flags: 0,
        map_extra: 0,
        key_type: None,
        value_type: None,
        special_fields: Vec::new(),
        inner: None,
        slots: BTreeMap::new(),
        contents: crate::map::Contents::default(),
        contents_offset: 0,
        frozen: false,
        pin_by_name: false,
    }
}

/// The index of the next map in `maps`.
pub(crate) fn next_index(maps: &[ParsedMap]) -> MapIndex {
    MapIndex(u32::try_from(maps.len()).unwrap_or(u32::MAX))
}

pub(crate) fn parse_btf(elf: &Elf<'_>) -> Result<(Btf, BtfExt), ParseError> {
    let Some(section) = elf.section(".BTF") else {
        return Ok((Btf::empty(), BtfExt::default()));
    };
    let btf = Btf::parse(section.data)?;
    let ext = match elf.section(".BTF.ext") {
        Some(section) => BtfExt::parse(section.data, btf.strings())?,
        None => BtfExt::default(),
    };
    Ok((btf, ext))
}

fn license(elf: &Elf<'_>) -> Result<String, ParseError> {
    let Some(section) = elf.section("license") else {
        return Ok(String::new());
    };
    let text = section.data.split(|byte| *byte == 0).next();
    match std::str::from_utf8(text.unwrap_or_default()) {
        Ok(text) => Ok(text.to_owned()),
        Err(cause) => Err(ParseError::Section {
            section: "license".to_owned(),
            cause: cause.to_string(),
        }),
    }
}

fn only_arena(maps: &[ParsedMap]) -> Result<Option<MapIndex>, ParseError> {
    let mut arenas = (0u32..)
        .zip(maps)
        .filter(|(_, map)| map.def.map_type == crate::map::MapType::ARENA);
    let Some((index, first)) = arenas.next() else {
        return Ok(None);
    };
    match arenas.next() {
        None => Ok(Some(MapIndex(index))),
        Some((_, second)) => Err(ParseError::TwoArenas {
            first: first.def.name.clone(),
            second: second.def.name.clone(),
        }),
    }
}
