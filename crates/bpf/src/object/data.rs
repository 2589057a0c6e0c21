//! Data sections as maps, and the global variables in them.
//!
//! Every `.data*`, `.rodata*` and `.bss*` is an array map with one value; the globals
//! in `.addr_space.1` are what the arena starts with, wherever they are put in it.

use super::externs::{ExternKind, Externs};
use super::struct_ops::StructOpsVar;
use super::{Global, Input, ParsedMap, Role, Storage, blank_map, next_index};
use crate::btf::{Btf, Kind, Linkage, SecVar, Type};
use crate::elf::{Place, Section, SectionNumber, SymbolKind};
use crate::error::ParseError;
use crate::map::{Contents, MapIndex, MapOrigin, MapType};
use harena_abi::bpf::BPF_F_MMAPABLE;
use std::collections::BTreeMap;

/// Map flag: programs may only read.
pub(super) const BPF_F_RDONLY_PROG: u32 = 1 << 7;
/// Largest data section.
const SECTION_MAX: u64 = 1 << 30;
/// Section of `__arena` globals.
const ARENA_SECTION: &str = ".addr_space.1";

fn origin(name: &str) -> Option<MapOrigin> {
    let is = |base: &str| {
        name.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if is(".data") {
        Some(MapOrigin::Data)
    } else if is(".rodata") {
        Some(MapOrigin::Rodata)
    } else if is(".bss") {
        Some(MapOrigin::Bss)
    } else {
        None
    }
}

/// Adds a map for every data section and fills the arena.
pub(super) fn parse(
    input: &mut Input<'_>,
    maps: &mut Vec<ParsedMap>,
    arena: Option<MapIndex>,
) -> Result<(), ParseError> {
    let symbols = symbol_offsets(input);
    for section in &input.elf.sections {
        if section.size == 0 || section.is_exec {
            continue;
        }
        if section.name == ARENA_SECTION {
            let arena = arena.ok_or(ParseError::NoArena)?;
            input.roles.insert(section.number, Role::Arena);
            let contents = contents(section)?;
            if let Some(map) = maps.get_mut(arena.index()) {
                map.def.contents = contents;
            }
        } else if let Some(origin) = origin(section.name) {
            let index = next_index(maps);
            input.roles.insert(section.number, Role::Data(index));
            maps.push(ParsedMap::internal(data_map(
                input, &symbols, section, origin,
            )?));
        }
    }
    Ok(())
}

fn data_map(
    input: &mut Input<'_>,
    symbols: &SymbolOffsets<'_>,
    section: &Section<'_>,
    origin: MapOrigin,
) -> Result<crate::linked::LinkedMap, ParseError> {
    let mut map = blank_map(section.name, origin);
    map.map_type = MapType::ARRAY;
    map.key_size = 4;
    map.contents = contents(section)?;
    // `contents` has checked that the size fits.
    map.value_size = u32::try_from(section.size).unwrap_or(u32::MAX);
    map.max_entries = 1;
    map.value_type = input.btf.find(section.name, Kind::DataSec);
    if let Some(value_type) = map.value_type {
        let (btf, number) = (input.btf, section.number);
        let place = |var: &SecVar| variable_offset(btf, symbols, number, var);
        let special = input.fields.fields_at(btf, value_type, &place);
        map.special_fields = special.map_err(|cause| ParseError::Map {
            map: section.name.to_owned(),
            cause: cause.into(),
        })?;
    }
    if map.special_fields.is_empty() {
        // User space could break a lock or forge a kptr through a mapping.
        map.map_flags |= BPF_F_MMAPABLE;
    }
    if origin == MapOrigin::Rodata {
        map.map_flags |= BPF_F_RDONLY_PROG;
        map.frozen = true;
    }
    Ok(map)
}

fn contents(section: &Section<'_>) -> Result<Contents, ParseError> {
    if section.size > SECTION_MAX {
        return Err(ParseError::SectionTooLarge {
            section: section.name.to_owned(),
            size: section.size,
            max: SECTION_MAX,
        });
    }
    Ok(Contents {
        bytes: section.data.to_vec(),
        len: section.size,
    })
}

/// All global variables that have a name and a type.
pub(super) fn globals(
    input: &Input<'_>,
    externs: &Externs,
    struct_ops: &[StructOpsVar],
    maps: &[ParsedMap],
    arena: Option<MapIndex>,
) -> Result<BTreeMap<String, Global>, ParseError> {
    let mut globals = BTreeMap::new();
    let symbols = symbol_offsets(input);
    for section in &input.elf.sections {
        let map = match (input.roles.get(&section.number), arena) {
            (Some(Role::Data(map)), _) => *map,
            (Some(Role::Arena), Some(map)) => map,
            _ => continue,
        };
        let Some(id) = input.btf.find(section.name, Kind::DataSec) else {
            continue;
        };
        let Type::DataSec { vars, .. } = input.btf.get(id) else {
            continue;
        };
        let limit = maps.get(map.index()).map_or(0, |map| map.def.contents.len);
        for var in vars {
            let Type::Var { name, type_id, .. } = input.btf.get(var.type_id) else {
                continue;
            };
            let name = input.btf.str(*name);
            let offset = variable_offset(input.btf, &symbols, section.number, var);
            let size = variable_size(input.btf, var, name, section.name)?;
            if offset.checked_add(size).is_none_or(|end| end > limit) {
                return Err(ParseError::Variable {
                    section: section.name.to_owned(),
                    name: name.to_owned(),
                    cause: format!("{size} bytes at {offset:#x} do not lie in {limit:#x} bytes"),
                });
            }
            let global = Global {
                storage: Storage::Map(map),
                offset,
                type_id: *type_id,
                size,
            };
            globals.insert(name.to_owned(), global);
        }
    }
    add_externs(&mut globals, externs);
    for (index, var) in struct_ops.iter().enumerate() {
        let global = Global {
            storage: Storage::StructOps(index),
            offset: 0,
            type_id: var.type_id,
            size: u64::try_from(var.data.len()).unwrap_or(0),
        };
        globals.insert(var.name.clone(), global);
    }
    Ok(globals)
}

fn add_externs(globals: &mut BTreeMap<String, Global>, externs: &Externs) {
    for one in &externs.list {
        let ExternKind::Kconfig { size, offset, .. } = one.kind else {
            continue;
        };
        let (Some(map), Some(type_id)) = (externs.kconfig_map, one.type_id) else {
            continue;
        };
        let global = Global {
            storage: Storage::Kconfig(map),
            offset,
            type_id,
            size,
        };
        globals.insert(one.name.clone(), global);
    }
}

fn variable_size(btf: &Btf, var: &SecVar, name: &str, section: &str) -> Result<u64, ParseError> {
    let size = btf
        .size_of(var.type_id)
        .map_err(|cause| ParseError::Variable {
            section: section.to_owned(),
            name: name.to_owned(),
            cause: cause.to_string(),
        })?;
    // A flexible array at the end makes the variable larger than its type.
    Ok(size.max(u64::from(var.size)))
}

/// Where named things lie in their sections.
type SymbolOffsets<'a> = BTreeMap<(SectionNumber, &'a str), u64>;

/// Where a variable lies in its section: compilers leave the offsets of visible ones to the symbol
/// table.
fn variable_offset(
    btf: &Btf,
    symbols: &SymbolOffsets<'_>,
    section: SectionNumber,
    var: &SecVar,
) -> u64 {
    if let Type::Var {
        name,
        linkage: Linkage::Global | Linkage::Extern,
        ..
    } = btf.get(var.type_id)
        && let Some(offset) = symbols.get(&(section, btf.str(*name)))
    {
        return *offset;
    }
    u64::from(var.offset)
}

fn symbol_offsets<'a>(input: &Input<'a>) -> SymbolOffsets<'a> {
    let symbols = input.elf.symbols.iter();
    symbols
        .filter(|symbol| symbol.kind == SymbolKind::Other && !symbol.name.is_empty())
        .filter_map(|symbol| match symbol.place {
            Place::In(number) => Some(((number, symbol.name), symbol.value)),
            Place::Undefined | Place::Elsewhere => None,
        })
        .collect()
}
