//! The ELF container: sections, symbols, relocations of a BPF object.
//!
//! Only 64-bit little-endian relocatable files for `EM_BPF` are taken; a big-endian
//! object is refused by name, since its data and code would need another machine.
//! Everything borrows from the file, so a hostile table of overlapping sections
//! costs nothing until somebody copies one; [`Elf::parse`] therefore refuses sections
//! that together are longer than the file.

use crate::error::ParseError;
use object::LittleEndian;
use object::elf::{
    EM_BPF, ET_REL, FileHeader64, R_BPF_64_32, R_BPF_64_64, SHF_EXECINSTR, SHN_UNDEF, SHT_NOBITS,
    SHT_REL, SHT_SYMTAB, STB_LOCAL, STB_WEAK, STT_FUNC, STT_SECTION,
};
use object::read::SectionIndex;
use object::read::elf::{FileHeader, Rel, SectionHeader, SectionTable, Sym, SymbolTable};

type Header = FileHeader64<LittleEndian>;

/// Longest name of a section or symbol with its NUL, as in BTF.
const NAME_LEN_MAX: usize = 512;

/// Number of a section in its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SectionNumber(pub(crate) usize);

/// A section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    pub(crate) number: SectionNumber,
    pub(crate) name: &'a str,
    pub(crate) is_exec: bool,
    /// `sh_type`
    pub(crate) kind: u32,
    /// `sh_flags`
    pub(crate) flags: u64,
    /// `sh_addralign`
    pub(crate) align: u64,
    /// `sh_entsize`
    pub(crate) entry_size: u64,
    /// Length; of a section without bytes in the file, too.
    pub(crate) size: u64,
    /// Bytes in the file; empty for `.bss`.
    pub(crate) data: &'a [u8],
}

/// What a symbol is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SymbolKind {
    Func,
    Section,
    Other,
}

/// Who sees a symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    Local,
    Global,
    Weak,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Undefined,
    In(SectionNumber),
    /// Absolute, common or nonsense.
    Elsewhere,
}

/// A symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: SymbolKind,
    /// `st_type`, which `kind` sums up.
    pub(crate) raw_kind: u8,
    pub(crate) binding: Binding,
    /// `STV_*`
    pub(crate) visibility: u8,
    pub(crate) place: Place,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

/// What a relocation patches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RelocKind {
    /// `R_BPF_64_64`, on a 64-bit immediate load or a pointer in data.
    Load,
    /// `R_BPF_64_32`, on a call.
    Call,
    /// Another one.
    Other(u32),
}

/// A relocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reloc {
    /// Its number in its section, for messages.
    pub(crate) number: u32,
    /// Bytes from the start of the section it patches.
    pub(crate) offset: u64,
    pub(crate) kind: RelocKind,
    /// Number of the symbol.
    pub(crate) symbol: usize,
}

/// A file taken apart.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    table: SectionTable<'a, Header>,
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
}

fn refuse(what: &'static str) -> impl Fn(object::Error) -> ParseError {
    move |cause| ParseError::Elf {
        what,
        cause: cause.to_string(),
    }
}

impl RelocKind {
    /// The number in files.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Load => R_BPF_64_64,
            Self::Call => R_BPF_64_32,
            Self::Other(number) => number,
        }
    }
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        check_ident(bytes)?;
        let header = Header::parse(bytes).map_err(refuse("header"))?;
        let endian = header.endian().map_err(refuse("byte order"))?;
        let (machine, kind) = (header.e_machine(endian), header.e_type(endian));
        if machine != EM_BPF {
            return Err(ParseError::Machine { machine });
        }
        if kind != ET_REL {
            return Err(ParseError::NotRelocatable { kind });
        }
        let table = header
            .sections(endian, bytes)
            .map_err(refuse("section table"))?;
        let names = header
            .shstrndx(endian, bytes)
            .map_err(refuse("section names"))?;
        let sections = sections(&table, bytes, section_bytes(&table, names, bytes))?;
        let symbols = table
            .symbols(endian, bytes, SHT_SYMTAB)
            .map_err(refuse("symbol table"))?;
        if symbols.is_empty() {
            return Err(ParseError::NoSymbols);
        }
        let strings = symbols.string_section().0;
        let strings = u32::try_from(strings).unwrap_or(0);
        let symbols = parse_symbols(&symbols, section_bytes(&table, strings, bytes), bytes.len())?;
        Ok(Self {
            bytes,
            table,
            sections,
            symbols,
        })
    }

    /// The first section of this name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All relocations of the sections in `wanted`, by target section.
    pub(crate) fn relocs(
        &self,
        wanted: impl Fn(SectionNumber) -> bool,
    ) -> Result<Vec<(SectionNumber, Vec<Reloc>)>, ParseError> {
        let endian = LittleEndian;
        let mut all = Vec::new();
        for (section, header) in self.sections.iter().zip(self.table.iter().skip(1)) {
            if header.sh_type(endian) != SHT_REL {
                continue;
            }
            let target = SectionNumber(header.info_link(endian).0);
            if !wanted(target) {
                continue;
            }
            let bad = |cause: object::Error| ParseError::Section {
                section: section.name.to_owned(),
                cause: cause.to_string(),
            };
            let Some((rels, _symbols)) = header.rel(endian, self.bytes).map_err(bad)? else {
                continue;
            };
            let relocs = (0u32..).zip(rels).map(|(number, rel)| Reloc {
                number,
                offset: rel.r_offset(endian),
                kind: match rel.r_type(endian) {
                    R_BPF_64_64 => RelocKind::Load,
                    R_BPF_64_32 => RelocKind::Call,
                    other => RelocKind::Other(other),
                },
                symbol: usize::try_from(rel.r_sym(endian)).unwrap_or(usize::MAX),
            });
            all.push((target, relocs.collect()));
        }
        Ok(all)
    }
}

/// Gives the common mistakes a better message than "wrong format".
fn check_ident(bytes: &[u8]) -> Result<(), ParseError> {
    match bytes {
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => Ok(()),
        [0x7f, b'E', b'L', b'F', 2, 2, ..] => Err(ParseError::BigEndian),
        [0x7f, b'E', b'L', b'F', ..] => Err(ParseError::Not64Bit),
        _ => Err(ParseError::NotElf),
    }
}

/// The bytes of a section of strings; empty if there is none.
fn section_bytes<'a>(table: &SectionTable<'a, Header>, number: u32, bytes: &'a [u8]) -> &'a [u8] {
    let index = SectionIndex(usize::try_from(number).unwrap_or(0));
    let data = table
        .section(index)
        .and_then(|section| section.data(LittleEndian, bytes));
    data.unwrap_or_default()
}

fn sections<'a>(
    table: &SectionTable<'a, Header>,
    bytes: &'a [u8],
    names: &'a [u8],
) -> Result<Vec<Section<'a>>, ParseError> {
    let endian = LittleEndian;
    let mut sections = Vec::new();
    let mut total = 0u64;
    // Section 0 is the null section of every file.
    for (index, header) in table.enumerate().skip(1) {
        let SectionIndex(number) = index;
        let unnamed = |cause: String| ParseError::Section {
            section: format!("#{number}"),
            cause,
        };
        let name = string(names, header.sh_name(endian)).map_err(unnamed)?;
        let data = header
            .data(endian, bytes)
            .map_err(|cause| ParseError::Section {
                section: name.to_owned(),
                cause: cause.to_string(),
            })?;
        let is_nobits = header.sh_type(endian) == SHT_NOBITS;
        let flags = header.sh_flags(endian);
        total = total.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        sections.push(Section {
            number: SectionNumber(number),
            name,
            is_exec: flags & u64::from(SHF_EXECINSTR) != 0 && !is_nobits,
            kind: header.sh_type(endian),
            flags,
            align: header.sh_addralign(endian),
            entry_size: header.sh_entsize(endian),
            size: header.sh_size(endian),
            data,
        });
    }
    let file = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if total > file {
        return Err(ParseError::OverlappingSections { total, file });
    }
    Ok(sections)
}

fn parse_symbols<'a>(
    table: &SymbolTable<'a, Header>,
    strings: &'a [u8],
    len_max: usize,
) -> Result<Vec<Symbol<'a>>, ParseError> {
    let endian = LittleEndian;
    let mut symbols = Vec::new();
    let mut names_len = 0usize;
    for (index, symbol) in table.enumerate() {
        let bad = |cause: String| ParseError::Symbol {
            number: index.0,
            cause,
        };
        let name = string(strings, symbol.st_name(endian)).map_err(bad)?;
        // Names that share tails can be longer than the table that holds them.
        names_len = names_len.saturating_add(name.len());
        if names_len > len_max {
            return Err(bad(
                "all names up to here are longer than the file".to_owned()
            ));
        }
        let place = match table.symbol_section(endian, symbol, index) {
            Ok(Some(SectionIndex(number))) => Place::In(SectionNumber(number)),
            Ok(None) if symbol.st_shndx(endian) == SHN_UNDEF => Place::Undefined,
            Ok(None) => Place::Elsewhere,
            Err(cause) => return Err(bad(cause.to_string())),
        };
        symbols.push(Symbol {
            name,
            kind: match symbol.st_type() {
                STT_FUNC => SymbolKind::Func,
                STT_SECTION => SymbolKind::Section,
                _ => SymbolKind::Other,
            },
            raw_kind: symbol.st_type(),
            visibility: symbol.st_visibility(),
            binding: match symbol.st_bind() {
                STB_LOCAL => Binding::Local,
                STB_WEAK => Binding::Weak,
                _ => Binding::Global,
            },
            place,
            value: symbol.st_value(endian),
            size: symbol.st_size(endian),
        });
    }
    Ok(symbols)
}

/// A string of a table: short, UTF-8 and free of control characters, since it will
/// be shown on terminals. The search for its end is short, too: many names may share
/// one long tail.
fn string(table: &[u8], offset: u32) -> Result<&str, String> {
    if offset == 0 {
        return Ok("");
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let tail = table.get(start..).unwrap_or_default();
    let len = tail.iter().take(NAME_LEN_MAX).position(|byte| *byte == 0);
    let Some(bytes) = len.and_then(|len| tail.get(..len)) else {
        return Err(format!(
            "no name of up to {NAME_LEN_MAX} bytes at {offset:#x}"
        ));
    };
    let text = std::str::from_utf8(bytes).map_err(|cause| format!("name: {cause}"))?;
    if text.chars().any(char::is_control) {
        return Err(format!("name {text:?} has control characters"));
    }
    Ok(text)
}
