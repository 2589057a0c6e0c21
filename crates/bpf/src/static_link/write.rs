//! The bytes of the result.
//!
//! ```text
//! header | .strtab | sections | .BTF .BTF.ext | .rel* of sections | .symtab | section headers
//! ```
//!
//! As clang does it, names of sections and of symbols share `.strtab`.

use super::layout::Layout;
use super::relocs::OutReloc;
use super::symbols::{OutPlace, OutSymbol, Symbols};
use super::types::Types;
use crate::elf::Binding;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_BPF, ET_REL, EV_CURRENT, FileHeader64, Ident, Rel64,
    SHF_INFO_LINK, SHN_ABS, SHN_UNDEF, SHT_NOBITS, SHT_PROGBITS, SHT_REL, SHT_STRTAB, SHT_SYMTAB,
    STB_GLOBAL, STB_LOCAL, STB_WEAK, SectionHeader64, Sym64,
};
use object::pod::bytes_of;
use object::{LittleEndian as LE, U16, U32, U64};
use std::collections::BTreeMap;

const HEADER_LEN: u16 = 64;
/// Number of `.strtab`.
const STRINGS: u32 = 1;
/// Number of the first section of content.
const FIRST: usize = 2;

/// Strings by offset, each once.
struct Strings<'a> {
    bytes: Vec<u8>,
    offsets: BTreeMap<&'a str, u32>,
}

impl<'a> Strings<'a> {
    fn add(&mut self, text: &'a str) -> u32 {
        let next = u32::try_from(self.bytes.len()).unwrap_or(0);
        let offset = *self.offsets.entry(text).or_insert(next);
        if offset == next {
            self.bytes.extend(text.as_bytes());
            self.bytes.push(0);
        }
        offset
    }
}

/// A section to write.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    flags: u64,
    align: u64,
    entry_size: u64,
    size: u64,
    data: std::borrow::Cow<'a, [u8]>,
    link: u32,
    info: u32,
}

/// The bytes of the file.
pub(super) fn write(
    layout: &Layout<'_>,
    symbols: &Symbols<'_>,
    relocs: &[Vec<OutReloc>],
    types: &Types,
) -> Vec<u8> {
    let names: Vec<String> = layout
        .sections
        .iter()
        .map(|section| format!(".rel{}", section.name))
        .collect();
    let mut sections = Vec::new();
    for section in &layout.sections {
        sections.push(Section {
            name: section.name,
            kind: section.kind,
            flags: section.flags,
            align: section.align,
            entry_size: section.entry_size,
            size: section.size,
            data: section.data.as_slice().into(),
            link: 0,
            info: 0,
        });
    }
    for (name, data) in [(".BTF", &types.btf), (".BTF.ext", &types.ext)] {
        if !data.is_empty() {
            sections.push(made(name, SHT_PROGBITS, 4, data.into()));
        }
    }
    let tables = relocs.iter().filter(|list| !list.is_empty()).count();
    let symtab = sections.len().saturating_add(tables);
    let symtab = number(symtab);
    for ((index, list), name) in relocs.iter().enumerate().zip(&names) {
        if !list.is_empty() {
            let mut table = made(name, SHT_REL, 8, rels(list).into());
            table.flags = u64::from(SHF_INFO_LINK);
            table.entry_size = 16;
            (table.link, table.info) = (symtab, number(index));
            sections.push(table);
        }
    }
    let mut strings = Strings {
        bytes: vec![0],
        offsets: BTreeMap::from([("", 0)]),
    };
    let mut table = bytes_of(&sym(None, 0)).to_vec();
    for symbol in symbols.locals.iter().chain(&symbols.globals) {
        let name = strings.add(symbol.name);
        table.extend(bytes_of(&sym(Some(symbol), name)));
    }
    let mut symbol_table = made(".symtab", SHT_SYMTAB, 8, table.into());
    symbol_table.entry_size = 24;
    symbol_table.link = STRINGS;
    let first_global = symbols.locals.len().saturating_add(1);
    symbol_table.info = u32::try_from(first_global).unwrap_or(u32::MAX);
    sections.push(symbol_table);
    finish(&sections, strings)
}

/// A section that is made here.
fn made<'a>(name: &'a str, kind: u32, align: u64, data: std::borrow::Cow<'a, [u8]>) -> Section<'a> {
    Section {
        name,
        kind,
        flags: 0,
        align,
        entry_size: 0,
        size: u64::try_from(data.len()).unwrap_or(u64::MAX),
        data,
        link: 0,
        info: 0,
    }
}

/// The number in the file of a section of the list.
fn number(index: usize) -> u32 {
    u32::try_from(index.saturating_add(FIRST)).unwrap_or(u32::MAX)
}

fn rels(list: &[OutReloc]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for reloc in list {
        let info = (u64::from(reloc.symbol) << 32) | u64::from(reloc.kind);
        bytes.extend(bytes_of(&Rel64::<LE> {
            r_offset: U64::new(LE, reloc.offset),
            r_info: U64::new(LE, info),
        }));
    }
    bytes
}

/// A symbol; the null symbol if there is none.
fn sym(symbol: Option<&OutSymbol<'_>>, name: u32) -> Sym64<LE> {
    let binding = symbol.map_or(STB_LOCAL, |symbol| match symbol.binding {
        Binding::Local => STB_LOCAL,
        Binding::Global => STB_GLOBAL,
        Binding::Weak => STB_WEAK,
    });
    let section = symbol.map_or(SHN_UNDEF, |symbol| match symbol.place {
        OutPlace::Undefined => SHN_UNDEF,
        OutPlace::Absolute => SHN_ABS,
        OutPlace::In(index) => u16::try_from(number(index)).unwrap_or(SHN_UNDEF),
    });
    Sym64 {
        st_name: U32::new(LE, name),
        st_info: (binding << 4) | symbol.map_or(0, |symbol| symbol.kind & 0xf),
        st_other: symbol.map_or(0, |symbol| symbol.visibility),
        st_shndx: U16::new(LE, section),
        st_value: U64::new(LE, symbol.map_or(0, |symbol| symbol.value)),
        st_size: U64::new(LE, symbol.map_or(0, |symbol| symbol.size)),
    }
}

/// Pads `bytes` to a multiple of `align`, and says how long they are then.
fn pad(bytes: &mut Vec<u8>, align: u64) -> u64 {
    let align = usize::try_from(align.max(1)).unwrap_or(1);
    let len = bytes.len().next_multiple_of(align);
    bytes.resize(len, 0);
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn finish<'a>(sections: &'a [Section<'a>], mut strings: Strings<'a>) -> Vec<u8> {
    let own_name = strings.add(".strtab");
    let names: Vec<u32> = sections.iter().map(|one| strings.add(one.name)).collect();
    let mut bytes = vec![0; usize::from(HEADER_LEN)];
    let strings_section = made(".strtab", SHT_STRTAB, 1, strings.bytes.into());
    let all = std::iter::once((&strings_section, own_name)).chain(sections.iter().zip(names));
    let mut headers = vec![0; usize::from(HEADER_LEN)];
    let mut count = 1u16;
    for (section, name) in all {
        let offset = pad(&mut bytes, section.align);
        if section.kind != SHT_NOBITS {
            bytes.extend_from_slice(&section.data);
        }
        headers.extend(bytes_of(&SectionHeader64::<LE> {
            sh_name: U32::new(LE, name),
            sh_type: U32::new(LE, section.kind),
            sh_flags: U64::new(LE, section.flags),
            sh_addr: U64::new(LE, 0),
            sh_offset: U64::new(LE, offset),
            sh_size: U64::new(LE, section.size),
            sh_link: U32::new(LE, section.link),
            sh_info: U32::new(LE, section.info),
            sh_addralign: U64::new(LE, section.align),
            sh_entsize: U64::new(LE, section.entry_size),
        }));
        count = count.saturating_add(1);
    }
    let start = pad(&mut bytes, 8);
    bytes.extend(headers);
    let header = file_header(start, count);
    for (to, from) in bytes.iter_mut().zip(bytes_of(&header)) {
        *to = *from;
    }
    bytes
}

fn file_header(section_headers: u64, count: u16) -> FileHeader64<LE> {
    FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: 0,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, ET_REL),
        e_machine: U16::new(LE, EM_BPF),
        e_version: U32::new(LE, u32::from(EV_CURRENT)),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, 0),
        e_shoff: U64::new(LE, section_headers),
        e_flags: U32::new(LE, 0),
        e_ehsize: U16::new(LE, HEADER_LEN),
        e_phentsize: U16::new(LE, 0),
        e_phnum: U16::new(LE, 0),
        e_shentsize: U16::new(LE, 64),
        e_shnum: U16::new(LE, count),
        e_shstrndx: U16::new(LE, 1),
    }
}
