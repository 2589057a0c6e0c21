//! Variables in `.struct_ops` and `.struct_ops.link`: tables of callbacks and settings.

use super::{Function, Input, Role};
use crate::btf::{Kind, Linkage, Type, TypeId};
use crate::elf::{Place, Section, SectionNumber, SymbolKind};
use crate::error::ParseError;
use std::collections::BTreeMap;

/// A struct_ops variable in the layout of the object.
#[derive(Clone, Debug)]
pub(crate) struct StructOpsVar {
    pub(crate) name: String,
    /// Its struct in the object's BTF.
    pub(crate) type_id: TypeId,
    /// Registered through a link.
    pub(crate) link: bool,
    /// Whether it is created at all; `?` in the section's name says no.
    pub(crate) autocreate: bool,
    pub(crate) data: Vec<u8>,
    /// Functions that members point to, by byte offset: indices of the functions.
    pub(crate) funcs: BTreeMap<u64, usize>,
}

/// All struct_ops variables.
pub(super) fn parse(
    input: &mut Input<'_>,
    funcs: &[Function],
) -> Result<Vec<StructOpsVar>, ParseError> {
    let elf = input.elf;
    let mut all = Vec::new();
    for section in &elf.sections {
        let bare = section.name.strip_prefix('?').unwrap_or(section.name);
        if matches!(bare, ".struct_ops" | ".struct_ops.link") && !section.is_exec {
            input.roles.insert(section.number, Role::StructOps);
            section_vars(input, section, &mut all)?;
        }
    }
    let mut vars: Vec<StructOpsVar> = Vec::new();
    let mut places: BTreeMap<(SectionNumber, u64), usize> = BTreeMap::new();
    for (number, offset, var) in all {
        places.insert((number, offset), vars.len());
        vars.push(var);
    }
    attach_funcs(input, funcs, &places, &mut vars)?;
    Ok(vars)
}

type Placed = (SectionNumber, u64, StructOpsVar);

fn section_vars(
    input: &Input<'_>,
    section: &Section<'_>,
    all: &mut Vec<Placed>,
) -> Result<(), ParseError> {
    let needs_btf = || ParseError::NeedsBtf {
        section: section.name.to_owned(),
    };
    let id = input.btf.find(section.name, Kind::DataSec);
    let Type::DataSec { vars, .. } = input.btf.get(id.ok_or_else(needs_btf)?) else {
        return Err(needs_btf());
    };
    let symbols: BTreeMap<&str, u64> = input
        .elf
        .symbols
        .iter()
        .filter(|symbol| symbol.place == Place::In(section.number))
        .filter(|symbol| symbol.kind != SymbolKind::Section)
        .map(|symbol| (symbol.name, symbol.value))
        .collect();
    let mut copied = 0u64;
    for var in vars {
        let Type::Var {
            name,
            type_id,
            linkage,
        } = input.btf.get(var.type_id)
        else {
            continue;
        };
        let name = input.btf.str(*name);
        let bad = |cause: String| ParseError::StructOps {
            name: name.to_owned(),
            cause,
        };
        let type_id = input
            .btf
            .resolve(*type_id)
            .map_err(|cause| bad(cause.to_string()))?;
        let Type::Struct(composite) = input.btf.get(type_id) else {
            return Err(bad(format!("`{}` is no struct", input.btf.c_type(type_id))));
        };
        let offset = match (linkage, symbols.get(name)) {
            (Linkage::Global | Linkage::Extern, Some(offset)) => *offset,
            _ => u64::from(var.offset),
        };
        let size = u64::from(composite.size);
        let bytes = usize::try_from(offset)
            .ok()
            .zip(
                offset
                    .checked_add(size)
                    .and_then(|end| usize::try_from(end).ok()),
            )
            .and_then(|(start, end)| section.data.get(start..end));
        copied = copied.saturating_add(size);
        if copied > section.size {
            return Err(bad("overlaps other variables".to_owned()));
        }
        let data = bytes.ok_or_else(|| bad(format!("lies outside of `{}`", section.name)))?;
        let var = StructOpsVar {
            name: name.to_owned(),
            type_id,
            link: section.name.ends_with(".link"),
            autocreate: !section.name.starts_with('?'),
            data: data.to_vec(),
            funcs: BTreeMap::new(),
        };
        all.push((section.number, offset, var));
    }
    Ok(())
}

/// Fills in which functions members point to.
fn attach_funcs(
    input: &Input<'_>,
    funcs: &[Function],
    places: &BTreeMap<(SectionNumber, u64), usize>,
    vars: &mut [StructOpsVar],
) -> Result<(), ParseError> {
    let is_struct_ops = |number| input.roles.get(&number) == Some(&Role::StructOps);
    let func_at: BTreeMap<(usize, u64), usize> = funcs
        .iter()
        .enumerate()
        .map(|(index, func)| ((func.section, func.byte_offset()), index))
        .collect();
    for (section, relocs) in input.elf.relocs(is_struct_ops)? {
        for reloc in relocs {
            let fail = |cause: &str| ParseError::Reloc {
                section: ".struct_ops".to_owned(),
                number: reloc.number,
                offset: reloc.offset,
                cause: cause.to_owned(),
            };
            let owner = places
                .range((section, 0)..=(section, reloc.offset))
                .next_back()
                .ok_or_else(|| fail("lies in no variable"))?;
            let ((_, start), index) = owner;
            let symbol = input
                .elf
                .symbols
                .get(reloc.symbol)
                .ok_or_else(|| fail("its symbol does not exist"))?;
            let Place::In(number) = symbol.place else {
                return Err(fail("its symbol is not defined here"));
            };
            let Some(Role::Code(code)) = input.roles.get(&number) else {
                return Err(fail("points to no function"));
            };
            let func = func_at
                .get(&(*code, symbol.value))
                .ok_or_else(|| fail("points to no function"))?;
            if let Some(var) = vars.get_mut(*index) {
                let offset = reloc.offset.saturating_sub(*start);
                var.funcs.insert(offset, *func);
            }
        }
    }
    Ok(())
}
