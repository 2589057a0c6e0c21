//! `.BTF.ext` of the result: types of functions, source lines and CO-RE relocations.

use super::input::Input;
use super::layout::Layout;
use crate::btf::ext::ExtSection;
use crate::btf::merge::{MergeError, Merged};
use std::collections::BTreeMap;

/// Bytes of the header that this writes.
const HEADER_LEN: u32 = 32;

/// Records of one of the three parts, as words, by section of the result.
#[derive(Default)]
struct Part {
    sections: BTreeMap<usize, Vec<u32>>,
    words_each: usize,
}

/// The bytes of the section; empty if there is nothing to say.
pub(super) fn merge(
    inputs: &[Input<'_>],
    layout: &Layout<'_>,
    merged: &mut Merged,
) -> Result<Vec<u8>, MergeError> {
    let mut parts = [2, 4, 4].map(|words_each| Part {
        words_each,
        ..Part::default()
    });
    let [funcs, lines, relos] = &mut parts;
    for (file, input) in inputs.iter().enumerate() {
        let at = |name: &str| place(file, layout, name);
        let string = |merged: &mut Merged, offset| merged.string(input.btf.string_at(offset));
        each(&input.ext.funcs, at, |section, first, (insn, type_id)| {
            if let Some(id) = merged.id(file, *type_id) {
                let out = funcs.sections.entry(section).or_default();
                out.extend([bytes(first, *insn), id.raw()]);
            }
            Ok(())
        })?;
        each(&input.ext.lines, at, |section, first, line| {
            let file = string(merged, line.file)?;
            let text = string(merged, line.text)?;
            let position = (line.line << 10) | (line.column & 0x3ff);
            let out = lines.sections.entry(section).or_default();
            out.extend([bytes(first, line.insn), file, text, position]);
            Ok(())
        })?;
        each(&input.ext.core_relos, at, |section, first, relo| {
            let access = string(merged, relo.access)?;
            if let Some(id) = merged.id(file, relo.type_id) {
                let out = relos.sections.entry(section).or_default();
                out.extend([bytes(first, relo.insn), id.raw(), access, relo.kind]);
            }
            Ok(())
        })?;
    }
    encode(&parts, layout, merged)
}

/// Section of the result and first slot of a file's section of this name.
fn place(file: usize, layout: &Layout<'_>, name: &str) -> Option<(usize, u32)> {
    let piece = layout.named(file, name)?;
    Some((piece.section, u32::try_from(piece.offset / 8).ok()?))
}

fn each<T>(
    sections: &[ExtSection<T>],
    at: impl Fn(&str) -> Option<(usize, u32)>,
    mut record: impl FnMut(usize, u32, &T) -> Result<(), MergeError>,
) -> Result<(), MergeError> {
    for section in sections {
        // What is said of a section that is not there is said of nothing.
        let Some((index, first)) = at(&section.name) else {
            continue;
        };
        for one in &section.records {
            record(index, first, one)?;
        }
    }
    Ok(())
}

/// Bytes from the section's start to a slot of a piece that begins at slot `first`.
const fn bytes(first: u32, insn: u32) -> u32 {
    first.saturating_add(insn).saturating_mul(8)
}

fn encode(
    parts: &[Part; 3],
    layout: &Layout<'_>,
    merged: &mut Merged,
) -> Result<Vec<u8>, MergeError> {
    if parts.iter().all(|part| part.sections.is_empty()) {
        return Ok(Vec::new());
    }
    let mut header = vec![0x0001_eb9f, HEADER_LEN];
    let mut body: Vec<u32> = Vec::new();
    let word = |len: usize| u32::try_from(len).map_err(|_large| MergeError::Strings);
    for part in parts {
        let start = body.len();
        if !part.sections.is_empty() {
            body.push(word(part.words_each.saturating_mul(4))?);
        }
        for (index, records) in &part.sections {
            let name = layout
                .sections
                .get(*index)
                .map_or("", |section| section.name);
            let count = records.len().checked_div(part.words_each).unwrap_or(0);
            body.extend([merged.string(name)?, word(count)?]);
            body.extend(records);
        }
        let len = body.len().saturating_sub(start);
        header.push(word(start.saturating_mul(4))?);
        header.push(word(len.saturating_mul(4))?);
    }
    let words = header.iter().chain(&body);
    Ok(words.flat_map(|word| word.to_le_bytes()).collect())
}
