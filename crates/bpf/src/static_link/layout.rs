//! Where each section of each file goes: sections of one name are appended.

use super::StaticLinkError;
use super::input::Input;
use crate::elf::{Section, SectionNumber};
use crate::isa::INSN_SIZE;
use object::elf::{
    SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS, SHT_NOBITS, SHT_PROGBITS, SHT_REL, SHT_STRTAB,
    SHT_SYMTAB,
};
use std::collections::BTreeMap;

/// Section types that LLVM made for itself, such as tables of addresses.
const LLVM_TYPES: std::ops::RangeInclusive<u32> = 0x6fff_4c00..=0x6fff_4cff;
/// Largest alignment: a page. Each piece may need so much of padding.
const ALIGN_MAX: u64 = 4096;
/// Largest section.
const SIZE_MAX: u64 = 1 << 30;
/// Zeros that are written out, where one file has bytes for a section and another has none.
const ZEROS_MAX: u64 = 1 << 26;
/// Sections of code and data; each may have another one of relocations, and numbers from 0xff00
/// on mean something else.
const SECTIONS_MAX: usize = 0x7000;
/// Flags that allow, but do not ask, to make equal parts one.
const MERGE_FLAGS: u64 = (SHF_MERGE | SHF_STRINGS) as u64;

/// A section of the result.
#[derive(Debug)]
pub(super) struct OutSection<'a> {
    pub(super) name: &'a str,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) align: u64,
    pub(super) entry_size: u64,
    pub(super) size: u64,
    /// Its bytes; none if `kind` is `SHT_NOBITS`.
    pub(super) data: Vec<u8>,
    /// The file it was first met in.
    file: usize,
}

impl OutSection<'_> {
    pub(super) fn is_exec(&self) -> bool {
        self.kind == SHT_PROGBITS && self.flags & u64::from(SHF_EXECINSTR) != 0
    }
}

/// Where a section of a file went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Index of the section of the result.
    pub(super) section: usize,
    pub(super) offset: u64,
    /// Whether the same bytes were there already, as of a licence.
    pub(super) is_repeated: bool,
}

/// All sections of the result but those that describe others.
#[derive(Debug, Default)]
pub(super) struct Layout<'a> {
    pub(super) sections: Vec<OutSection<'a>>,
    by_name: BTreeMap<&'a str, usize>,
    /// By file.
    pieces: Vec<BTreeMap<SectionNumber, Piece>>,
    /// By file and name: the first section of that name.
    named: Vec<BTreeMap<&'a str, Piece>>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(inputs: &[Input<'a>]) -> Result<Self, StaticLinkError> {
        let mut layout = Self::default();
        for (file, input) in inputs.iter().enumerate() {
            let mut pieces = BTreeMap::new();
            let mut named = BTreeMap::new();
            for section in &input.elf.sections {
                let fail = |cause: String| StaticLinkError::Section {
                    file: input.name.to_owned(),
                    section: section.name.to_owned(),
                    cause,
                };
                if !is_content(section).map_err(fail)? {
                    continue;
                }
                let piece = match layout.by_name.get(section.name) {
                    None => layout.begin(section, file).map_err(fail)?,
                    Some(index) => layout.join(*index, inputs, file, section)?,
                };
                pieces.insert(section.number, piece);
                named.entry(section.name).or_insert(piece);
            }
            layout.pieces.push(pieces);
            layout.named.push(named);
        }
        Ok(layout)
    }

    /// Where a file's section went; `None` if it is left out.
    pub(super) fn piece(&self, file: usize, number: SectionNumber) -> Option<Piece> {
        self.pieces.get(file)?.get(&number).copied()
    }

    /// Where a file's section of this name went.
    pub(super) fn named(&self, file: usize, name: &str) -> Option<Piece> {
        self.named.get(file)?.get(name).copied()
    }

    /// Index of the section of this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn begin(&mut self, section: &Section<'a>, file: usize) -> Result<Piece, String> {
        let mut out = OutSection {
            name: section.name,
            kind: section.kind,
            flags: section.flags,
            align: 1,
            entry_size: section.entry_size,
            size: 0,
            data: Vec::new(),
            file,
        };
        let offset = append(&mut out, section)?;
        let index = self.sections.len();
        if index >= SECTIONS_MAX {
            return Err(format!("more than {SECTIONS_MAX} sections in all"));
        }
        self.by_name.insert(section.name, index);
        self.sections.push(out);
        Ok(Piece {
            section: index,
            offset,
            is_repeated: false,
        })
    }

    fn join(
        &mut self,
        index: usize,
        inputs: &[Input<'_>],
        file: usize,
        section: &Section<'a>,
    ) -> Result<Piece, StaticLinkError> {
        let Some(out) = self.sections.get_mut(index) else {
            unreachable!("indices come from the names of these sections");
        };
        let name = |file: usize| inputs.get(file).map_or("", |input| input.name).to_owned();
        let fail = |cause| StaticLinkError::Section {
            file: name(file),
            section: section.name.to_owned(),
            cause,
        };
        let is_exec = section.is_exec || out.is_exec();
        if is_exec && out.file == file {
            return Err(fail("occurs twice".to_owned()));
        }
        let same_flags = (out.flags ^ section.flags) & !MERGE_FLAGS == 0;
        if !same_flags || (is_exec && out.kind != section.kind) {
            return Err(StaticLinkError::Sections {
                section: section.name.to_owned(),
                first: name(out.file),
                second: name(file),
                what: "flags",
            });
        }
        if matches!(section.name, "license" | "version") {
            if out.data != section.data {
                return Err(StaticLinkError::Contents {
                    section: section.name.to_owned(),
                    first: name(out.file),
                    first_text: text(&out.data),
                    second: name(file),
                    second_text: text(section.data),
                });
            }
            return Ok(Piece {
                section: index,
                offset: 0,
                is_repeated: true,
            });
        }
        if out.flags != section.flags || out.entry_size != section.entry_size {
            out.flags &= !MERGE_FLAGS;
            out.entry_size = 0;
        }
        let offset = append(out, section).map_err(fail)?;
        Ok(Piece {
            section: index,
            offset,
            is_repeated: false,
        })
    }
}

/// A licence, for messages.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text.get(..80).unwrap_or(text)).into_owned()
}

/// Whether a section is code or data; what describes those is made anew.
fn is_content(section: &Section<'_>) -> Result<bool, String> {
    let name = section.name;
    match section.kind {
        SHT_PROGBITS | SHT_NOBITS => {}
        SHT_STRTAB | SHT_SYMTAB | SHT_REL => return Ok(false),
        kind if LLVM_TYPES.contains(&kind) => return Ok(false),
        kind => return Err(format!("sections of type {kind:#x} are not supported")),
    }
    if matches!(name, ".BTF" | ".BTF.ext") || name.starts_with(".debug_") {
        return Ok(false);
    }
    if name.is_empty() {
        return Err("it has no name".to_owned());
    }
    if section.is_exec && !section.data.len().is_multiple_of(INSN_SIZE) {
        return Err("not a whole number of instructions".to_owned());
    }
    // Compilers write `.text` even if there is no function in it.
    Ok(!section.is_exec || !section.data.is_empty())
}

/// Puts a section behind what is there already, and says where.
fn append(out: &mut OutSection<'_>, section: &Section<'_>) -> Result<u64, String> {
    let align = section.align.max(1);
    if !align.is_power_of_two() || align > ALIGN_MAX {
        return Err(format!(
            "alignment {align} is no power of two up to {ALIGN_MAX}"
        ));
    }
    if section.size == 0 {
        return Ok(out.size);
    }
    let offset = out.size.checked_next_multiple_of(align);
    let end = offset.and_then(|offset| offset.checked_add(section.size));
    let range = offset.zip(end.filter(|end| *end <= SIZE_MAX));
    let (offset, end) = range.ok_or_else(|| format!("longer than {SIZE_MAX} bytes in all"))?;
    let has_bytes = section.kind == SHT_PROGBITS || out.kind == SHT_PROGBITS;
    if has_bytes {
        let zeros = if out.kind == SHT_NOBITS { out.size } else { 0 };
        let more = if section.kind == SHT_NOBITS {
            section.size
        } else {
            0
        };
        if zeros.max(more) > ZEROS_MAX {
            return Err(format!(
                "more than {ZEROS_MAX} zeros in front of or behind its data"
            ));
        }
        let len = |len: u64| usize::try_from(len).map_err(|_large| "too long".to_owned());
        out.kind = SHT_PROGBITS;
        out.data.resize(len(offset)?, 0);
        out.data.extend_from_slice(section.data);
        out.data.resize(len(end)?, 0);
    }
    out.align = out.align.max(align);
    out.size = end;
    Ok(offset)
}
