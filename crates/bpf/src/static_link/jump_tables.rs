//! Jump tables of all files: where `gotox` leads.
//!
//! ```text
//! code: ldimm64 ──relocation──► symbol BPF.JT.<function>.<number> ──► .jumptables
//!                                                                     u64, u64, …
//! ```
//!
//! A table has eight bytes an entry: where an instruction is, in bytes from the start of the
//! section that its function is in. No relocation says which section that is, but the instruction
//! that loads the table's address is in the same function. So the entries move by what that moved.

use super::StaticLinkError;
use super::input::Input;
use super::layout::Layout;
use crate::elf::{Place, Symbol};
use std::collections::BTreeMap;

/// The section of all tables.
pub(super) const SECTION: &str = ".jumptables";
const ENTRY_SIZE: usize = 8;

/// Moves the entries of all tables that code refers to.
pub(super) fn rebase(inputs: &[Input<'_>], layout: &mut Layout<'_>) -> Result<(), StaticLinkError> {
    for (file, input) in inputs.iter().enumerate() {
        for (number, by) in used(input, file, layout)? {
            let Some(symbol) = input.elf.symbols.get(number) else {
                continue;
            };
            move_one(file, layout, symbol, by).map_err(|cause| StaticLinkError::Symbol {
                file: input.name.to_owned(),
                symbol: symbol.name.to_owned(),
                cause,
            })?;
        }
    }
    Ok(())
}

/// Symbols of a file's tables, and how far the code has moved that uses each.
fn used(
    input: &Input<'_>,
    file: usize,
    layout: &Layout<'_>,
) -> Result<BTreeMap<usize, u64>, StaticLinkError> {
    let is_table = |symbol: &Symbol<'_>| is_table(input, symbol);
    if !input.elf.symbols.iter().any(is_table) {
        return Ok(BTreeMap::new());
    }
    let is_code = |number| layout.piece(file, number).is_some();
    let tables = input.elf.relocs(is_code);
    let tables = tables.map_err(|cause| StaticLinkError::Parse {
        file: input.name.to_owned(),
        cause: Box::new(cause),
    })?;
    let mut used = BTreeMap::new();
    for (number, relocs) in tables {
        let by = layout.piece(file, number).map_or(0, |piece| piece.offset);
        for reloc in relocs {
            let Some(symbol) = input.elf.symbols.get(reloc.symbol) else {
                continue;
            };
            if !is_table(symbol) {
                continue;
            }
            if *used.entry(reloc.symbol).or_insert(by) != by {
                return Err(StaticLinkError::Symbol {
                    file: input.name.to_owned(),
                    symbol: symbol.name.to_owned(),
                    cause: "a jump table of functions in several sections",
                });
            }
        }
    }
    Ok(used)
}

/// Whether a symbol is a jump table.
pub(super) fn is_table(input: &Input<'_>, symbol: &Symbol<'_>) -> bool {
    let Place::In(number) = symbol.place else {
        return false;
    };
    // Section numbers count from 1, the list from 0.
    let section = input.elf.sections.get(number.0.saturating_sub(1));
    section.is_some_and(|section| section.name == SECTION)
}

fn move_one(
    file: usize,
    layout: &mut Layout<'_>,
    symbol: &Symbol<'_>,
    by: u64,
) -> Result<(), &'static str> {
    let Place::In(number) = symbol.place else {
        return Ok(());
    };
    let Some(piece) = layout.piece(file, number) else {
        return Ok(());
    };
    let start = piece.offset.checked_add(symbol.value);
    let end = start.and_then(|start| start.checked_add(symbol.size));
    let range = start
        .zip(end)
        .and_then(|(start, end)| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
    let out = layout.sections.get_mut(piece.section);
    let bytes = range.and_then(|range| out?.data.get_mut(range));
    let bytes = bytes.ok_or("the jump table ends behind its section")?;
    let (entries, rest) = bytes.as_chunks_mut::<ENTRY_SIZE>();
    if !rest.is_empty() {
        return Err("a jump table with a part of an entry");
    }
    for entry in entries {
        let moved = u64::from_le_bytes(*entry).checked_add(by);
        *entry = moved
            .ok_or("an entry of a jump table does not fit")?
            .to_le_bytes();
    }
    Ok(())
}
