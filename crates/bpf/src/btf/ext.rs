//! `.BTF.ext`: types of functions, source lines and CO-RE relocations, by section.
//!
//! ```text
//! header | func_info: record size, (section name, count, records…)… | line_info | core_relo
//! ```
//!
//! Records may be longer than what is known of them; the rest is skipped.

use super::Strings;
use crate::error::ParseError;
use crate::lines::LineEntry;

/// A CO-RE relocation as the compiler wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CoreRelo {
    /// Slot within the section.
    pub(crate) insn: u32,
    pub(crate) type_id: super::TypeId,
    /// Offset of the access string in the BTF's strings.
    pub(crate) access: u32,
    pub(crate) kind: u32,
}

/// What `.BTF.ext` says of one section.
#[derive(Clone, Debug)]
pub(crate) struct ExtSection<T> {
    pub(crate) name: String,
    /// In the order of the file.
    pub(crate) records: Vec<T>,
}

/// All of `.BTF.ext`.
#[derive(Clone, Debug, Default)]
pub(crate) struct BtfExt {
    /// Slot within the section, `Func`.
    pub(crate) funcs: Vec<ExtSection<(u32, super::TypeId)>>,
    pub(crate) lines: Vec<ExtSection<LineEntry>>,
    pub(crate) core_relos: Vec<ExtSection<CoreRelo>>,
}

impl BtfExt {
    /// Parses the bytes of the section; `strings` are the object's BTF strings.
    pub(crate) fn parse(bytes: &[u8], strings: &Strings) -> Result<Self, ParseError> {
        let bad = |what, offset| ParseError::BtfExt { what, offset };
        let word = |at| read_word(bytes, at);
        match (bytes, word(4)) {
            ([0x9f, 0xeb, 1, ..], Some(header)) if header >= 24 => {
                let part = |name, at: usize| {
                    let offset = word(at).unwrap_or(0);
                    let len = word(at.saturating_add(4)).unwrap_or(0);
                    let start =
                        usize::try_from(header.saturating_add(offset)).unwrap_or(usize::MAX);
                    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
                    bytes.get(start..end).ok_or(bad(name, start))
                };
                let funcs = sections(part("function info is cut off", 8)?, strings, 2, |words| {
                    let [insn, type_id, ..] = words;
                    (insn / 8, super::TypeId(type_id))
                })?;
                let lines = sections(part("line info is cut off", 16)?, strings, 4, |words| {
                    let [insn, file, text, position] = words;
                    LineEntry {
                        insn: insn / 8,
                        file,
                        text,
                        line: position >> 10,
                        column: position & 0x3ff,
                    }
                })?;
                // Old compilers wrote a shorter header, without CO-RE relocations.
                let relos = if header >= 32 {
                    part("CO-RE relocations are cut off", 24)?
                } else {
                    &[]
                };
                let core_relos = sections(relos, strings, 4, |words| {
                    let [insn, type_id, access, kind] = words;
                    CoreRelo {
                        insn: insn / 8,
                        type_id: super::TypeId(type_id),
                        access,
                        kind,
                    }
                })?;
                Ok(Self {
                    funcs,
                    lines,
                    core_relos,
                })
            }
            _ => Err(bad("wrong header", 0)),
        }
    }
}

fn read_word(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*chunk))
}

fn sections<T>(
    bytes: &[u8],
    strings: &Strings,
    words_min: usize,
    record: impl Fn([u32; 4]) -> T,
) -> Result<Vec<ExtSection<T>>, ParseError> {
    let Some(record_size) = read_word(bytes, 0) else {
        return Ok(Vec::new());
    };
    let record_size = usize::try_from(record_size).unwrap_or(usize::MAX);
    if record_size < words_min.saturating_mul(4) || !record_size.is_multiple_of(4) {
        return Err(ParseError::BtfExt {
            what: "wrong record size",
            offset: 0,
        });
    }
    let mut all = Vec::new();
    let mut at = 4usize;
    while at < bytes.len() {
        let cut = ParseError::BtfExt {
            what: "a section's records are cut off",
            offset: at,
        };
        let name = read_word(bytes, at).and_then(|offset| strings.get(offset));
        let count = read_word(bytes, at.saturating_add(4));
        let (Some(name), Some(count)) = (name, count) else {
            return Err(cut);
        };
        let start = at.saturating_add(8);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let end = start.saturating_add(count.saturating_mul(record_size));
        let body = bytes.get(start..end).ok_or(cut)?;
        let records = body.chunks_exact(record_size).map(|chunk| {
            let word = |at| read_word(chunk, at).unwrap_or(0);
            record([word(0), word(4), word(8), word(12)])
        });
        all.push(ExtSection {
            name: name.to_owned(),
            records: records.collect(),
        });
        at = end;
    }
    Ok(all)
}
