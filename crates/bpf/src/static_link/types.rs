//! `.BTF` and `.BTF.ext` of the result.
//!
//! Of all variables and functions with a global symbol one stands for all: the chosen
//! definition's. Sections list what is in them at its final place; `.extern` keeps what no file
//! defines.

use super::StaticLinkError;
use super::ext;
use super::input::{EXTERN_SECTION, Input, is_visible};
use super::layout::Layout;
use super::symbols::{OutPlace, Symbols};
use crate::btf::merge::{Fate, MergeError, Merged};
use crate::btf::{Btf, SecVar, Type, TypeId};
use std::collections::BTreeMap;

/// The bytes of both sections; empty if there are none.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub(super) btf: Vec<u8>,
    pub(super) ext: Vec<u8>,
}

pub(super) fn merge(
    inputs: &[Input<'_>],
    layout: &Layout<'_>,
    symbols: &Symbols<'_>,
) -> Result<Types, StaticLinkError> {
    if inputs.iter().all(|input| input.btf.ids().next().is_none()) {
        return Ok(Types::default());
    }
    let fail = |cause: MergeError| StaticLinkError::AllTypes {
        cause: cause.to_string(),
    };
    let files: Vec<&Btf> = inputs.iter().map(|input| &input.btf).collect();
    let merged = Merged::new(&files, |file, id| fate(&files, symbols, file, id));
    let mut merged = merged.map_err(fail)?;
    for section in sections(inputs, layout, symbols, &merged) {
        merged
            .data_sec(section.name, section.size, section.vars)
            .map_err(fail)?;
    }
    let ext = ext::merge(inputs, layout, &mut merged).map_err(fail)?;
    Ok(Types {
        btf: merged.finish().to_bytes(),
        ext,
    })
}

/// What becomes of a file's type.
fn fate(files: &[&Btf], symbols: &Symbols<'_>, file: usize, id: TypeId) -> Fate {
    let Some(btf) = files.get(file) else {
        return Fate::Dropped;
    };
    let alias = |id: TypeId| {
        let ty = btf.get(id);
        if !is_visible(ty) {
            return None;
        }
        let (_, declared) = symbols.global(btf.name_of(id))?;
        let (other, other_id) = declared.filter(|other| *other != (file, id))?;
        let same_kind = files.get(other)?.get(other_id).kind() == ty.kind();
        same_kind.then_some(Fate::Alias(other, other_id))
    };
    match btf.get(id) {
        // The one that is chosen has its own.
        Type::DeclTag { target, .. } if alias(*target).is_some() => Fate::Dropped,
        _ => alias(id).unwrap_or(Fate::Kept),
    }
}

/// A `DataSec` of the result.
struct Section<'a> {
    name: &'a str,
    size: u32,
    vars: Vec<SecVar>,
}

fn sections<'i>(
    inputs: &'i [Input<'_>],
    layout: &Layout<'_>,
    symbols: &Symbols<'_>,
    merged: &Merged,
) -> Vec<Section<'i>> {
    let mut all: Vec<Section<'i>> = Vec::new();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, input) in inputs.iter().enumerate() {
        for id in input.btf.ids() {
            let Type::DataSec { name, vars, .. } = input.btf.get(id) else {
                continue;
            };
            let name = input.btf.str(*name);
            let index = *by_name.entry(name).or_insert(all.len());
            if index == all.len() {
                let size = layout.find(name).and_then(|at| layout.sections.get(at));
                let size = size.map_or(0, |section| section.size);
                all.push(Section {
                    name,
                    size: u32::try_from(size).unwrap_or(u32::MAX),
                    vars: Vec::new(),
                });
            }
            let moved = vars
                .iter()
                .filter_map(|var| moved(input, file, layout, symbols, merged, (name, var)));
            if let Some(section) = all.get_mut(index) {
                section.vars.extend(moved);
            }
        }
    }
    for section in &mut all {
        section.vars.sort_by_key(|var| var.offset);
    }
    all.retain(|section| section.name != EXTERN_SECTION || !section.vars.is_empty());
    all
}

/// A variable where it is in the result; `None` if another one stands for it.
fn moved(
    input: &Input<'_>,
    file: usize,
    layout: &Layout<'_>,
    symbols: &Symbols<'_>,
    merged: &Merged,
    (section, var): (&str, &SecVar),
) -> Option<SecVar> {
    let new = |offset: u64| {
        Some(SecVar {
            type_id: merged.id(file, var.type_id)?,
            offset: u32::try_from(offset).ok()?,
            size: var.size,
        })
    };
    let global = is_visible(input.btf.get(var.type_id))
        .then(|| symbols.global(input.btf.name_of(var.type_id)))
        .flatten();
    if let Some((symbol, declared)) = global {
        let is_extern = symbol.place == OutPlace::Undefined;
        let is_found = section == EXTERN_SECTION && !is_extern;
        if is_found || declared != Some((file, var.type_id)) {
            return None;
        }
        return new(symbol.value);
    }
    let piece = layout.named(file, section);
    if piece.is_some_and(|piece| piece.is_repeated) {
        return None;
    }
    let offset = piece.map_or(0, |piece| piece.offset);
    new(offset.saturating_add(u64::from(var.offset)))
}
