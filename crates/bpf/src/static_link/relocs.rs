//! Relocations of all files, by section of the result.
//!
//! Most name a symbol and only move with their section. Those of a section itself (its start,
//! for what is static) carry the offset in the bytes they patch, which moves, too.

use super::StaticLinkError;
use super::input::Input;
use super::layout::{Layout, OutSection};
use super::symbols::Symbols;
use crate::elf::{Place, Reloc, RelocKind, SectionNumber, Symbol, SymbolKind};
use crate::isa::op::{BPF_CALL, BPF_JMP};
use object::elf::SHT_PROGBITS;

/// A pointer of 8 bytes in data.
const R_BPF_64_ABS64: u32 = 2;
/// Its lower 4 bytes.
const R_BPF_64_ABS32: u32 = 3;

/// A relocation of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutReloc {
    pub(super) offset: u64,
    pub(super) kind: u32,
    /// Number of the symbol.
    pub(super) symbol: u32,
}

/// The relocations of each section of the result; changes the bytes they patch.
pub(super) fn rebase(
    inputs: &[Input<'_>],
    layout: &mut Layout<'_>,
    symbols: &Symbols<'_>,
) -> Result<Vec<Vec<OutReloc>>, StaticLinkError> {
    let mut all = vec![Vec::new(); layout.sections.len()];
    for (file, input) in inputs.iter().enumerate() {
        let is_kept = |number| layout.piece(file, number).is_some_and(|p| !p.is_repeated);
        let tables = input.elf.relocs(is_kept);
        let tables = tables.map_err(|cause| StaticLinkError::Parse {
            file: input.name.to_owned(),
            cause: Box::new(cause),
        })?;
        for (number, relocs) in tables {
            for reloc in relocs {
                let (section, moved) = move_one(input, file, layout, symbols, (number, reloc))?;
                if let Some(list) = all.get_mut(section) {
                    list.extend(moved);
                }
            }
        }
    }
    Ok(all)
}

/// A relocation of a file's section in the result and the section it is of there; `None` if
/// nothing is left to relocate.
fn move_one(
    input: &Input<'_>,
    file: usize,
    layout: &mut Layout<'_>,
    symbols: &Symbols<'_>,
    (number, reloc): (SectionNumber, Reloc),
) -> Result<(usize, Option<OutReloc>), StaticLinkError> {
    // Section numbers count from 1, the list from 0.
    let from = input.elf.sections.get(number.0.saturating_sub(1));
    let (name, size) = from.map_or(("", 0), |section| (section.name, section.size));
    let fail = |cause: String| StaticLinkError::Reloc {
        file: input.name.to_owned(),
        section: name.to_owned(),
        number: reloc.number,
        offset: reloc.offset,
        cause,
    };
    let Some(piece) = layout.piece(file, number).filter(|_| reloc.offset < size) else {
        return Err(fail("behind the section's end".to_owned()));
    };
    // Loaders want the slots of maps and of tables to be such; code is never looked at.
    let is_exec = from.is_some_and(|section| section.is_exec);
    if !is_exec && symbols.is_lost(file, number, reloc.offset) {
        return Ok((piece.section, None));
    }
    let symbol = input.elf.symbols.get(reloc.symbol);
    let Some((symbol, new)) = symbol.zip(symbols.get(file, reloc.symbol)) else {
        return Err(fail(format!("symbol {} is not there", reloc.symbol)));
    };
    let moved = Reloc {
        offset: piece.offset.saturating_add(reloc.offset),
        ..reloc
    };
    if symbol.kind == SymbolKind::Section {
        let by = distance(layout, file, symbol);
        if let Some(out) = layout.sections.get_mut(piece.section) {
            patch(out, &moved, by).map_err(fail)?;
        }
    }
    let symbol = u32::try_from(symbols.number(new));
    let out = OutReloc {
        offset: moved.offset,
        kind: reloc.kind.number(),
        symbol: symbol.map_err(|_large| fail("too many symbols".to_owned()))?,
    };
    Ok((piece.section, Some(out)))
}

/// How far the section that a symbol stands for has moved.
fn distance(layout: &Layout<'_>, file: usize, symbol: &Symbol<'_>) -> u64 {
    let Place::In(number) = symbol.place else {
        return 0;
    };
    layout.piece(file, number).map_or(0, |piece| piece.offset)
}

/// Adds `by` to the offset in the bytes that `reloc` patches.
fn patch(out: &mut OutSection<'_>, reloc: &Reloc, by: u64) -> Result<(), String> {
    if by == 0 {
        return Ok(());
    }
    let too_far = || format!("an offset moved by {by:#x} does not fit");
    let start = usize::try_from(reloc.offset).unwrap_or(usize::MAX);
    let is_exec = out.is_exec();
    let bytes = out.data.get_mut(start..).unwrap_or_default();
    if is_exec {
        let Some([code, _, _, _, imm @ ..]) = bytes.first_chunk_mut::<8>() else {
            return Err("not at an instruction of the section".to_owned());
        };
        // Calls count instructions, all others bytes.
        let by = if *code == BPF_JMP | BPF_CALL {
            by / 8
        } else {
            by
        };
        let by = i32::try_from(by).ok();
        let moved = by.and_then(|by| i32::from_le_bytes(*imm).checked_add(by));
        *imm = moved.ok_or_else(too_far)?.to_le_bytes();
        return Ok(());
    }
    // A loader looks at the symbol alone where it wants a map or a function.
    let is_table =
        out.name == ".maps" || out.name.trim_start_matches('?').starts_with(".struct_ops");
    if is_table || out.kind != SHT_PROGBITS {
        return Err("it should name what it means, not a section".to_owned());
    }
    let missing = || "behind the section's end".to_owned();
    match reloc.kind {
        RelocKind::Other(R_BPF_64_ABS64) => {
            let place = bytes.first_chunk_mut::<8>().ok_or_else(missing)?;
            let moved = u64::from_le_bytes(*place).checked_add(by);
            *place = moved.ok_or_else(too_far)?.to_le_bytes();
        }
        RelocKind::Other(R_BPF_64_ABS32) => {
            let place = bytes.first_chunk_mut::<4>().ok_or_else(missing)?;
            let by = u32::try_from(by).ok();
            let moved = by.and_then(|by| u32::from_le_bytes(*place).checked_add(by));
            *place = moved.ok_or_else(too_far)?.to_le_bytes();
        }
        RelocKind::Load | RelocKind::Call | RelocKind::Other(_) => {
            let kind = reloc.kind.number();
            return Err(format!("type {kind} is not supported in data"));
        }
    }
    Ok(())
}
