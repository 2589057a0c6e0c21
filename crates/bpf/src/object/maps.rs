//! Map definitions in `.maps`: a struct per map whose members' *types* are the values.
//!
//! An integer is the length of an array behind a pointer (`int (*type)[33]`), a type is
//! what a pointer points to, and the slots of a map of maps are a trailing array of
//! length 0 whose relocations fill them. Mirrors libbpf's `parse_btf_map_def()`.

use super::{Function, Input, ParsedMap, Program, Role, blank_map};
use crate::btf::{Btf, Composite, Kind, Member, Type, TypeId};
use crate::elf::{Place, SymbolKind};
use crate::error::{MapProblem, ParseError};
use crate::linked::LinkedMap;
use crate::map::{InitialSlot, MapIndex, MapOrigin, MapType, ProgramIndex};
use std::collections::BTreeMap;

/// Whether a map definition stands on its own or inside another one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nesting {
    Outer,
    Inner,
}

/// All maps of `.maps`, in the order of their section.
pub(super) fn parse(input: &mut Input<'_>) -> Result<Vec<ParsedMap>, ParseError> {
    let Some(section) = input.elf.section(".maps") else {
        return Ok(Vec::new());
    };
    input.roles.insert(section.number, Role::Maps);
    let needs_btf = ParseError::NeedsBtf {
        section: ".maps".to_owned(),
    };
    let vars = match input.btf.find(".maps", Kind::DataSec) {
        Some(id) => match input.btf.get(id) {
            Type::DataSec { vars, .. } => vars,
            _ => return Err(needs_btf),
        },
        None => return Err(needs_btf),
    };
    let symbols: BTreeMap<&str, u64> = input
        .elf
        .symbols
        .iter()
        .filter(|symbol| symbol.place == Place::In(section.number))
        .filter(|symbol| symbol.kind != SymbolKind::Section)
        .map(|symbol| (symbol.name, symbol.value))
        .collect();
    let mut maps = Vec::new();
    for var in vars {
        let name = input.btf.name_of(var.type_id);
        let fail = |cause| ParseError::Map {
            map: name.to_owned(),
            cause,
        };
        let offset = *symbols
            .get(name)
            .ok_or_else(|| fail(MapProblem::NoSymbol))?;
        let (mut def, values) =
            definition(input.btf, name, var.type_id, Nesting::Outer).map_err(fail)?;
        let mut inner = def.inner.take();
        for def in core::iter::once(&mut def).chain(inner.as_deref_mut()) {
            if let Some(value_type) = def.value_type {
                let fields = input.fields.fields(input.btf, value_type);
                def.special_fields = fields.map_err(|cause| fail(cause.into()))?;
            }
        }
        def.inner = inner;
        maps.push(ParsedMap {
            def,
            symbol_offset: Some(offset),
            values_offset: values.map(|values| offset.saturating_add(values)),
        });
    }
    maps.sort_by_key(|map| map.symbol_offset);
    Ok(maps)
}

/// A definition and the byte offset of its `values`.
pub(crate) fn definition(
    btf: &Btf,
    name: &str,
    type_id: TypeId,
    nesting: Nesting,
) -> Result<(LinkedMap, Option<u64>), MapProblem> {
    let type_id = match btf.get(type_id) {
        Type::Var { type_id, .. } => *type_id,
        _ => type_id,
    };
    let Type::Struct(composite) = btf.get(btf.resolve(type_id)?) else {
        let c_type = btf.c_type(type_id);
        return Err(MapProblem::NotAStruct { c_type });
    };
    let mut parser = Parser {
        btf,
        map: blank_map(name, MapOrigin::Explicit),
        has_key_size: false,
        has_value_size: false,
        values_offset: None,
    };
    for member in &composite.members {
        parser.member(composite, member, nesting)?;
    }
    if parser.map.map_type == MapType::default() {
        return Err(MapProblem::NoType);
    }
    if parser.map.inner.is_some() && !parser.has_value_size {
        parser.map.value_size = 4;
    }
    Ok((parser.map, parser.values_offset))
}

struct Parser<'a> {
    btf: &'a Btf,
    map: LinkedMap,
    has_key_size: bool,
    has_value_size: bool,
    values_offset: Option<u64>,
}

impl Parser<'_> {
    fn member(
        &mut self,
        all: &Composite,
        member: &Member,
        nesting: Nesting,
    ) -> Result<(), MapProblem> {
        let name = self.btf.str(member.name);
        match name {
            "type" => self.map.map_type = MapType(self.integer(member)?),
            "max_entries" => self.map.max_entries = self.integer(member)?,
            "map_flags" => self.map.map_flags = self.integer(member)?,
            // Memory placement means nothing here, but the field must be well-formed.
            "numa_node" => _ = self.integer(member)?,
            "map_extra" => self.map.map_extra = self.long(member)?,
            "key_size" => {
                let size = self.integer(member)?;
                self.key_size("key_size", size)?;
            }
            "value_size" => {
                let size = self.integer(member)?;
                self.value_size("value_size", size)?;
            }
            "key" => {
                let (target, size) = self.pointee(member)?;
                self.map.key_type = Some(target);
                self.key_size("key", size)?;
            }
            "value" => {
                let (target, size) = self.pointee(member)?;
                self.map.value_type = Some(target);
                self.value_size("value", size)?;
            }
            "values" | "pinning" if nesting == Nesting::Inner => {
                let field = name.to_owned();
                return Err(MapProblem::Inner { field });
            }
            "values" => self.values(all, member)?,
            "pinning" => match self.integer(member)? {
                0 => {}
                1 => self.map.pin_by_name = true,
                value => return Err(MapProblem::Pinning { value }),
            },
            other => {
                let field = other.to_owned();
                return Err(MapProblem::UnknownField { field });
            }
        }
        Ok(())
    }

    fn mistake(&self, member: &Member, wanted: &'static str) -> MapProblem {
        MapProblem::Field {
            field: self.btf.str(member.name).to_owned(),
            wanted,
            c_type: self.btf.c_type(member.type_id),
        }
    }

    /// `int (*member)[n]` means `n`.
    fn integer(&self, member: &Member) -> Result<u32, MapProblem> {
        let resolved = self.btf.resolve(member.type_id)?;
        if let Type::Ptr { target } = self.btf.get(resolved)
            && let Type::Array { len, .. } = self.btf.get(*target)
        {
            return Ok(*len);
        }
        Err(self.mistake(member, "a pointer to an array (__uint)"))
    }

    /// As [`Self::integer`], or an enum whose only value is meant (`__ulong`).
    fn long(&self, member: &Member) -> Result<u64, MapProblem> {
        let resolved = self.btf.resolve(member.type_id)?;
        if let Type::Enum(e) = self.btf.get(resolved) {
            return match e.values.as_slice() {
                [only] => Ok(only.value),
                _ => Err(self.mistake(member, "an enum with one value (__ulong)")),
            };
        }
        self.integer(member).map(u64::from)
    }

    fn pointee(&self, member: &Member) -> Result<(TypeId, u32), MapProblem> {
        let resolved = self.btf.resolve(member.type_id)?;
        let Type::Ptr { target } = self.btf.get(resolved) else {
            return Err(self.mistake(member, "a pointer (__type)"));
        };
        let size = self.btf.size_of(*target)?;
        match u32::try_from(size) {
            Ok(size) => Ok((*target, size)),
            Err(_too_large) => Err(self.mistake(member, "a type below 4 GiB")),
        }
    }

    fn key_size(&mut self, field: &'static str, size: u32) -> Result<(), MapProblem> {
        let first = self.has_key_size.then_some(self.map.key_size);
        agree(field, first, size)?;
        self.map.key_size = size;
        self.has_key_size = true;
        Ok(())
    }

    fn value_size(&mut self, field: &'static str, size: u32) -> Result<(), MapProblem> {
        let first = self.has_value_size.then_some(self.map.value_size);
        agree(field, first, size)?;
        self.map.value_size = size;
        self.has_value_size = true;
        Ok(())
    }

    /// `struct {…} *values[]` (maps in a map) or `int (*values[])(…)` (programs).
    fn values(&mut self, all: &Composite, member: &Member) -> Result<(), MapProblem> {
        if all.members.last() != Some(member) {
            return Err(MapProblem::ValuesNotLast);
        }
        let wanted = "an array of length 0 of pointers (__array)";
        let Type::Array {
            element, len: 0, ..
        } = self.btf.get(member.type_id)
        else {
            return Err(self.mistake(member, wanted));
        };
        let Type::Ptr { target } = self.btf.get(self.btf.resolve(*element)?) else {
            return Err(self.mistake(member, wanted));
        };
        self.value_size("values", 4)?;
        self.values_offset = Some(u64::from(member.bit_offset) / 8);
        let target = self.btf.resolve(*target)?;
        match (self.map.map_type, self.btf.get(target)) {
            (MapType::PROG_ARRAY, Type::FuncProto { .. }) => Ok(()),
            (MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS, Type::Struct(_)) => {
                let name = format!("{}.inner", self.map.name);
                let (inner, _values) = definition(self.btf, &name, target, Nesting::Inner)?;
                self.map.inner = Some(Box::new(inner));
                Ok(())
            }
            _ => Err(self.mistake(member, "maps in a map of maps or functions in a prog_array")),
        }
    }
}

fn agree(field: &'static str, first: Option<u32>, second: u32) -> Result<(), MapProblem> {
    match first {
        Some(first) if first != second => Err(MapProblem::Conflict {
            field,
            first: u64::from(first),
            second: u64::from(second),
        }),
        _ => Ok(()),
    }
}

/// Fills the slots of maps of maps and program arrays from the relocations of `.maps`.
pub(super) fn attach_values(
    input: &Input<'_>,
    maps: &mut [ParsedMap],
    funcs: &[Function],
    programs: &[Program],
) -> Result<(), ParseError> {
    let is_maps = |number| input.roles.get(&number) == Some(&Role::Maps);
    let by_offset: BTreeMap<u64, MapIndex> = (0u32..)
        .zip(maps.iter())
        .filter_map(|(index, map)| Some((map.symbol_offset?, MapIndex(index))))
        .collect();
    let owners: BTreeMap<u64, usize> = maps
        .iter()
        .enumerate()
        .filter_map(|(index, map)| Some((map.values_offset?, index)))
        .collect();
    let program_at: BTreeMap<(usize, u64), ProgramIndex> = (0u32..)
        .zip(programs)
        .filter_map(|(index, program)| {
            let func = funcs.get(program.func)?;
            Some(((func.section, func.byte_offset()), ProgramIndex(index)))
        })
        .collect();
    for reloc in input
        .elf
        .relocs(is_maps)?
        .into_iter()
        .flat_map(|(_, relocs)| relocs)
    {
        let fail = |cause: &str| ParseError::Reloc {
            section: ".maps".to_owned(),
            number: reloc.number,
            offset: reloc.offset,
            cause: cause.to_owned(),
        };
        let (first, owner) = owners
            .range(..=reloc.offset)
            .next_back()
            .ok_or_else(|| fail("lies in no `values`"))?;
        let symbol = input
            .elf
            .symbols
            .get(reloc.symbol)
            .ok_or_else(|| fail("its symbol does not exist"))?;
        let Place::In(number) = symbol.place else {
            return Err(fail("its symbol is not defined here"));
        };
        let slot = match input.roles.get(&number) {
            Some(Role::Maps) => by_offset
                .get(&symbol.value)
                .map(|index| InitialSlot::Map(*index)),
            Some(Role::Code(section)) => program_at
                .get(&(*section, symbol.value))
                .map(|index| InitialSlot::Program(*index)),
            _ => None,
        };
        let slot = slot.ok_or_else(|| fail("points to neither a map nor a program"))?;
        let index = reloc.offset.saturating_sub(*first) / 8;
        let index = u32::try_from(index).map_err(|_far| fail("lies too far behind"))?;
        if let Some(map) = maps.get_mut(*owner) {
            map.def.slots.insert(index, slot);
        }
    }
    Ok(())
}
