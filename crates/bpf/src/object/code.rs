//! Executable sections: instructions, the functions in them, and what relocations of
//! instructions point to.

use super::externs::Externs;
use super::{Input, ParsedMap, Program, Role};
use crate::btf::TypeId;
use crate::btf::ext::{BtfExt, CoreRelo};
use crate::elf::{Binding, Place, Reloc, RelocKind, Symbol, SymbolKind};
use crate::error::ParseError;
use crate::isa::{self, INSN_SIZE, Insn};
use crate::lines::LineEntry;
use crate::map::MapIndex;
use crate::section;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an instruction's relocation points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RelocTarget {
    /// Something the kernel provides: an index of the externs.
    Extern(usize),
    /// A byte of an executable section.
    Code { section: usize, value: u64 },
    /// A map itself.
    Map(MapIndex),
    /// A byte of a data section (of the arena's globals, if `map` is the arena).
    Data { map: MapIndex, value: u64 },
    /// A jump table: bytes of `.jumptables`.
    JumpTable { offset: u64, size: u64 },
    /// Nothing that an instruction can refer to.
    Unusable(Arc<str>),
}

/// A relocation of an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CodeReloc {
    /// Number in its section, for messages.
    pub(crate) number: u32,
    pub(crate) kind: RelocKind,
    /// Index of the symbol's name.
    pub(crate) symbol: usize,
    pub(crate) target: RelocTarget,
}

/// An executable section.
#[derive(Clone, Debug)]
pub(crate) struct CodeSection {
    pub(crate) name: String,
    pub(crate) insns: Vec<Insn>,
    /// By slot.
    pub(crate) relocs: BTreeMap<u32, CodeReloc>,
    /// By slot.
    pub(crate) core_relos: BTreeMap<u32, CoreRelo>,
    /// Ascending by slot.
    pub(crate) lines: Vec<LineEntry>,
}

/// A function of an executable section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    /// Index of its section.
    pub(crate) section: usize,
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) name: String,
    pub(crate) binding: Binding,
    /// Its `Func`.
    pub(crate) type_id: Option<TypeId>,
}

impl Function {
    pub(crate) fn byte_offset(&self) -> u64 {
        u64::from(self.start).saturating_mul(8)
    }

    pub(crate) const fn end(&self) -> u32 {
        self.start.saturating_add(self.len)
    }
}

/// The instructions of all executable sections.
pub(super) fn parse_sections(input: &mut Input<'_>) -> Result<Vec<CodeSection>, ParseError> {
    let mut code = Vec::new();
    for section in &input.elf.sections {
        if !section.is_exec || section.data.is_empty() {
            continue;
        }
        let bad = |cause: String| ParseError::Section {
            section: section.name.to_owned(),
            cause,
        };
        let insns = isa::decode(section.data).map_err(|cause| bad(cause.to_string()))?;
        if u32::try_from(insns.len()).is_err() {
            return Err(bad("more than 2^32 instructions".to_owned()));
        }
        input.roles.insert(section.number, Role::Code(code.len()));
        code.push(CodeSection {
            name: section.name.to_owned(),
            insns,
            relocs: BTreeMap::new(),
            core_relos: BTreeMap::new(),
            lines: Vec::new(),
        });
    }
    Ok(code)
}

/// Where compilers put the tables of `gotox`: byte offsets of instructions in the section of the
/// function that jumps.
const JUMP_TABLES: &str = ".jumptables";

/// The jump tables of all functions.
pub(super) fn parse_jump_tables(input: &mut Input<'_>) -> Vec<u8> {
    match input.elf.section(JUMP_TABLES) {
        Some(section) => {
            input.roles.insert(section.number, Role::JumpTables);
            section.data.to_vec()
        }
        None => Vec::new(),
    }
}

fn by_name(code: &[CodeSection]) -> BTreeMap<String, usize> {
    let pairs = code.iter().enumerate();
    pairs.map(|(index, c)| (c.name.clone(), index)).collect()
}

/// Hands source lines and CO-RE relocations to their sections.
pub(super) fn attach_ext(code: &mut [CodeSection], ext: &BtfExt) {
    let index = by_name(code);
    for lines in &ext.lines {
        if let Some(section) = index.get(&lines.name).and_then(|at| code.get_mut(*at)) {
            section.lines.extend(&lines.records);
            section.lines.sort_by_key(|line| line.insn);
        }
    }
    for relos in &ext.core_relos {
        if let Some(section) = index.get(&relos.name).and_then(|at| code.get_mut(*at)) {
            let records = relos.records.iter();
            section
                .core_relos
                .extend(records.map(|relo| (relo.insn, *relo)));
        }
    }
}

/// All functions, ascending by section and start.
pub(super) fn parse_functions(
    input: &Input<'_>,
    ext: &BtfExt,
) -> Result<Vec<Function>, ParseError> {
    let mut types = BTreeMap::new();
    for section in &ext.funcs {
        for (insn, type_id) in &section.records {
            types.insert((section.name.as_str(), *insn), *type_id);
        }
    }
    let mut funcs = Vec::new();
    for symbol in &input.elf.symbols {
        let Place::In(number) = symbol.place else {
            continue;
        };
        let (SymbolKind::Func, Some(Role::Code(section))) = (symbol.kind, input.roles.get(&number))
        else {
            continue;
        };
        let section_name = section_name(input, symbol);
        let mut func = function(symbol, *section, section_name, input)?;
        func.type_id = types.get(&(section_name, func.start)).copied();
        funcs.push(func);
    }
    // Aliases: the visible name of a function comes first and stays.
    funcs.sort_by_key(|f: &Function| (f.section, f.start, f.binding == Binding::Local));
    funcs.dedup_by_key(|func| (func.section, func.start));
    let neighbours = funcs.iter().zip(funcs.iter().skip(1));
    for (first, second) in neighbours {
        if first.section == second.section && first.end() > second.start {
            let section = input
                .elf
                .sections
                .iter()
                .filter(|s| input.roles.get(&s.number) == Some(&Role::Code(first.section)));
            let name = section.map(|s| s.name).next().unwrap_or_default();
            return Err(ParseError::Function {
                section: name.to_owned(),
                func: first.name.clone(),
                offset: first.byte_offset(),
                size: u64::from(first.len).saturating_mul(8),
                cause: "it overlaps the next one",
            });
        }
    }
    Ok(funcs)
}

fn section_name<'a>(input: &Input<'a>, symbol: &Symbol<'_>) -> &'a str {
    let Place::In(number) = symbol.place else {
        return "";
    };
    // Section numbers count from 1, the list from 0.
    let section = input.elf.sections.get(number.0.saturating_sub(1));
    section.map_or("", |section| section.name)
}

fn function(
    symbol: &Symbol<'_>,
    section: usize,
    section_name: &str,
    input: &Input<'_>,
) -> Result<Function, ParseError> {
    let bad = |cause| ParseError::Function {
        section: section_name.to_owned(),
        func: symbol.name.to_owned(),
        offset: symbol.value,
        size: symbol.size,
        cause,
    };
    let Place::In(number) = symbol.place else {
        return Err(bad("it is not defined"));
    };
    let bytes = input.elf.sections.get(number.0.saturating_sub(1));
    let section_len = bytes.map_or(0, |section| section.size);
    if !symbol.value.is_multiple_of(8) || !symbol.size.is_multiple_of(8) {
        return Err(bad("not a whole number of instructions"));
    }
    if symbol.size == 0 {
        return Err(bad("it is empty"));
    }
    let end = symbol.value.checked_add(symbol.size);
    if end.is_none_or(|end| end > section_len) {
        return Err(bad("it ends behind its section"));
    }
    match (
        u32::try_from(symbol.value / 8),
        u32::try_from(symbol.size / 8),
    ) {
        (Ok(start), Ok(len)) => Ok(Function {
            section,
            start,
            len,
            name: symbol.name.to_owned(),
            binding: symbol.binding,
            type_id: None,
        }),
        _ => Err(bad("it is too long")),
    }
}

/// Every function outside of `.text` is a program.
pub(super) fn programs(
    code: &[CodeSection],
    funcs: &[Function],
) -> Result<Vec<Program>, ParseError> {
    let mut programs = Vec::new();
    for (index, func) in funcs.iter().enumerate() {
        let Some(section) = code.get(func.section) else {
            continue;
        };
        if section.name == ".text" {
            continue;
        }
        if func.binding == Binding::Local {
            return Err(ParseError::StaticProgram {
                section: section.name.clone(),
                program: func.name.clone(),
            });
        }
        let bare = section.name.strip_prefix('?');
        let meaning = section::meaning(bare.unwrap_or(&section.name));
        programs.push(Program {
            name: func.name.clone(),
            section: section.name.clone(),
            prog_type: meaning.map(|meaning| meaning.prog_type),
            sleepable: meaning.is_some_and(|meaning| meaning.sleepable),
            attach: meaning.and_then(|meaning| meaning.attach.map(str::to_owned)),
            autoload: bare.is_none(),
            func: index,
        });
    }
    Ok(programs)
}

/// Resolves the relocations of all executable sections as far as the file can tell.
pub(super) fn attach_relocs(
    input: &Input<'_>,
    code: &mut [CodeSection],
    maps: &[ParsedMap],
    externs: &Externs,
    arena: Option<MapIndex>,
) -> Result<(), ParseError> {
    let is_code = |number| matches!(input.roles.get(&number), Some(Role::Code(_)));
    let by_offset: BTreeMap<u64, MapIndex> = (0u32..)
        .zip(maps)
        .filter_map(|(index, map)| Some((map.symbol_offset?, MapIndex(index))))
        .collect();
    let targets = Targets {
        input,
        by_offset,
        externs,
        arena,
        reasons: BTreeMap::new(),
    };
    let mut targets = targets;
    for (number, relocs) in input.elf.relocs(is_code)? {
        let Some(Role::Code(index)) = input.roles.get(&number) else {
            continue;
        };
        let Some(section) = code.get_mut(*index) else {
            continue;
        };
        for reloc in relocs {
            let (slot, reloc) = targets.resolve(&reloc, section)?;
            section.relocs.insert(slot, reloc);
        }
    }
    Ok(())
}

struct Targets<'a> {
    input: &'a Input<'a>,
    by_offset: BTreeMap<u64, MapIndex>,
    externs: &'a Externs,
    arena: Option<MapIndex>,
    /// Reasons why relocations are unusable, each kept once.
    reasons: BTreeMap<String, Arc<str>>,
}

impl Targets<'_> {
    fn resolve(
        &mut self,
        reloc: &Reloc,
        section: &CodeSection,
    ) -> Result<(u32, CodeReloc), ParseError> {
        let bad = |cause: String| ParseError::Reloc {
            section: section.name.clone(),
            number: reloc.number,
            offset: reloc.offset,
            cause,
        };
        let slot = usize::try_from(reloc.offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(INSN_SIZE))
            .map(|offset| offset / INSN_SIZE)
            .filter(|slot| *slot < section.insns.len())
            .and_then(|slot| u32::try_from(slot).ok())
            .ok_or_else(|| bad("not at an instruction of the section".to_owned()))?;
        let symbol = self.input.elf.symbols.get(reloc.symbol);
        let symbol =
            symbol.ok_or_else(|| bad(format!("symbol {} does not exist", reloc.symbol)))?;
        let reloc = CodeReloc {
            number: reloc.number,
            kind: reloc.kind,
            symbol: reloc.symbol,
            target: self.target(symbol),
        };
        Ok((slot, reloc))
    }

    fn target(&mut self, symbol: &Symbol<'_>) -> RelocTarget {
        let number = match symbol.place {
            Place::In(number) => number,
            Place::Undefined => {
                return match self.externs.by_name.get(symbol.name) {
                    Some(index) => RelocTarget::Extern(*index),
                    None => self.unusable("the symbol is defined nowhere".to_owned()),
                };
            }
            Place::Elsewhere => {
                return self.unusable("the symbol stands in no section".to_owned());
            }
        };
        let value = symbol.value;
        match (self.input.roles.get(&number), self.arena) {
            (Some(Role::Code(section)), _) => RelocTarget::Code {
                section: *section,
                value,
            },
            (Some(Role::Maps), _) => match self.by_offset.get(&value) {
                Some(index) => RelocTarget::Map(*index),
                None => self.unusable("no map is defined there".to_owned()),
            },
            (Some(Role::Data(map)), _) => RelocTarget::Data { map: *map, value },
            (Some(Role::Arena), Some(map)) => RelocTarget::Data { map, value },
            (Some(Role::JumpTables), _) => RelocTarget::JumpTable {
                offset: value,
                size: symbol.size,
            },
            (Some(Role::Arena | Role::StructOps) | None, _) => {
                let name = section_name(self.input, symbol);
                self.unusable(format!("code cannot refer to section `{name}`"))
            }
        }
    }

    fn unusable(&mut self, reason: String) -> RelocTarget {
        let kept = self
            .reasons
            .entry(reason)
            .or_insert_with_key(|reason| Arc::from(reason.as_str()));
        RelocTarget::Unusable(Arc::clone(kept))
    }
}
