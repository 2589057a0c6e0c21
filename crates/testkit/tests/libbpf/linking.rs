//! Several files to one, by our static linker and libbpf's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use harena_bpf::btf::{Btf, Kind, Type};
use harena_bpf::{Object, ObjectFile, link_objects};
use harena_kernel::Kernel;
use harena_testkit::libbpf::link;
use object::LittleEndian as LE;
use object::elf::{FileHeader64, SHT_REL, SHT_STRTAB, SHT_SYMTAB};
use object::read::elf::{FileHeader, Rel, SectionHeader, Sym};

use crate::compare::section;
use crate::kernel::HZ;

/// What of a linked file must be the same.
#[derive(PartialEq, Eq, Debug, Default)]
struct Contents {
    /// Type, flags and size by name.
    sections: BTreeMap<String, (u32, u64, u64)>,
    bytes: BTreeMap<String, Vec<u8>>,
    /// Name, type and binding, visibility, section, value, size.
    symbols: BTreeSet<(String, u8, u8, String, u64, u64)>,
    /// Section, offset, type, symbol or its section.
    relocs: BTreeSet<(String, u64, u32, String)>,
    /// How many types of each kind and name there are; and variables of sections.
    types: BTreeMap<String, u32>,
}

/// Prototypes do not count: libbpf gives a declaration the names of its definition's parameters,
/// ours keeps both. Nor do places in sections, which loaders take from symbols: libbpf leaves those
/// of variables that were declared first at 0.
fn types_of(file: &[u8]) -> BTreeMap<String, u32> {
    let btf = Btf::parse(section(file, ".BTF")).expect("types");
    let mut all = BTreeMap::new();
    let mut count = |what: String| *all.entry(what).or_insert(0) += 1;
    for id in btf.ids() {
        let ty = btf.get(id);
        if ty.kind() != Kind::FuncProto {
            count(format!("{:?} {}", ty.kind(), btf.name_of(id)));
        }
        if let Type::DataSec { vars, size, .. } = ty {
            for var in vars {
                let (section, name) = (btf.name_of(id), btf.name_of(var.type_id));
                count(format!("{section} of {size}: {name} of {}", var.size));
            }
        }
    }
    all
}

fn contents(bytes: &[u8]) -> Contents {
    let header = FileHeader64::<LE>::parse(bytes).expect("an ELF file");
    let table = header.sections(LE, bytes).expect("sections");
    let name = |section: &object::elf::SectionHeader64<LE>| {
        let name = table.section_name(LE, section).expect("a name");
        String::from_utf8_lossy(name).into_owned()
    };
    let symbols = table.symbols(LE, bytes, SHT_SYMTAB).expect("symbols");
    let mut all = Contents {
        types: types_of(bytes),
        ..Contents::default()
    };
    let section_of = |symbol: &object::elf::Sym64<LE>| {
        let index = symbol.st_shndx(LE);
        let section = table.section(object::SectionIndex(index.into()));
        section.map_or(format!("{index}"), name)
    };
    let symbol_name = |symbol: &object::elf::Sym64<LE>| {
        let name = symbol.name(LE, symbols.strings()).expect("a name");
        String::from_utf8_lossy(name).into_owned()
    };
    for section in table.iter() {
        let kind = section.sh_type(LE);
        if let Ok(Some((relocs, _))) = section.rel(LE, bytes) {
            let target = table.section(object::SectionIndex(section.sh_info(LE) as usize));
            let target = name(target.expect("relocations of a section"));
            for reloc in relocs {
                let symbol = object::SymbolIndex(reloc.r_sym(LE) as usize);
                let symbol = symbols.symbol(symbol).expect("a symbol");
                let named = symbol_name(symbol);
                let named = if named.is_empty() {
                    section_of(symbol)
                } else {
                    named
                };
                let offset = reloc.r_offset(LE);
                all.relocs
                    .insert((target.clone(), offset, reloc.r_type(LE), named));
            }
        }
        let is_content = !matches!(kind, SHT_REL | SHT_STRTAB | SHT_SYMTAB | 0);
        let name = name(section);
        if is_content && !name.starts_with(".BTF") {
            let shape = (kind, section.sh_flags(LE), section.sh_size(LE));
            all.sections.insert(name.clone(), shape);
            let data = section.data(LE, bytes).expect("it lies in the file");
            all.bytes.insert(name, data.to_vec());
        }
    }
    for symbol in symbols.iter() {
        let name = symbol_name(symbol);
        let section = section_of(symbol);
        let shape = (symbol.st_info(), symbol.st_other(), section);
        let (value, size) = (symbol.st_value(LE), symbol.st_size(LE));
        all.symbols
            .insert((name, shape.0, shape.1, shape.2, value, size));
    }
    all
}

fn by_libbpf(paths: &[PathBuf]) -> Vec<u8> {
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("all.bpf.o");
    link(&paths, &output).expect("libbpf links our files");
    std::fs::read(output).expect("libbpf wrote it")
}

/// What `bpftool gen object` makes of files, or what it says.
fn by_bpftool(paths: &[PathBuf]) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("all.bpf.o");
    let mut command = Command::new("bpftool");
    command.args(["gen", "object"]).arg(&output).args(paths);
    let ran = command
        .output()
        .map_err(|error| format!("no bpftool: {error}"))?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned());
    }
    Ok(std::fs::read(output).expect("bpftool wrote it"))
}

fn by_us(paths: &[PathBuf]) -> Vec<u8> {
    let bytes = paths
        .iter()
        .map(|path| std::fs::read(path).expect("it is committed"));
    let bytes: Vec<_> = bytes.collect();
    let files = bytes.iter().map(|bytes| ObjectFile {
        name: "file",
        bytes,
    });
    link_objects(&files.collect::<Vec<_>>()).expect("we link our files")
}

/// Fails with what is only in one of them.
fn assert_same(what: &str, ours: &Contents, theirs: &Contents) {
    let only = |ours: &BTreeSet<String>, theirs: &BTreeSet<String>| {
        ours.difference(theirs)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (a, b) = (ours.lines(), theirs.lines());
    assert!(
        a == b,
        "{what}:\nours:\n{}\ntheirs:\n{}",
        only(&a, &b),
        only(&b, &a)
    );
}

impl Contents {
    fn lines(&self) -> BTreeSet<String> {
        let sections = self.sections.iter().map(|one| format!("section {one:x?}"));
        let bytes = self.bytes.iter().map(|one| format!("bytes {one:02x?}"));
        let symbols = self.symbols.iter().map(|one| format!("symbol {one:x?}"));
        let relocs = self.relocs.iter().map(|one| format!("relocation {one:x?}"));
        let types = self.types.iter().map(|one| format!("types {one:x?}"));
        sections
            .chain(bytes)
            .chain(symbols)
            .chain(relocs)
            .chain(types)
            .collect()
    }
}

/// Programs, maps and tables of a linked file in the simulated kernel, types aside: what is
/// equal here runs equally.
fn in_kernel(file: &[u8]) -> Vec<String> {
    let object = Object::parse("all", file).expect("it is an object");
    let linked = object.link(&Kernel::new(HZ)).expect("nothing is missing");
    let programs = linked.programs.iter();
    let programs = programs.map(|one| format!("{} {:?} {:?}", one.name, one.insns, one.poisoned));
    let maps = linked.maps.iter().map(|one| {
        let sizes = (one.key_size, one.value_size, one.max_entries, one.map_flags);
        let start = (&one.contents, one.contents_offset, &one.slots);
        format!("{} {} {sizes:?} {start:?}", one.name, one.map_type)
    });
    let tables = linked.struct_ops.iter().map(|one| {
        let members = one
            .members
            .iter()
            .map(|member| (&member.name, member.program));
        format!(
            "{} {:?} {:?}",
            one.name,
            one.data,
            members.collect::<Vec<_>>()
        )
    });
    programs.chain(maps).chain(tables).collect()
}

fn paths(files: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = files.iter().map(|name| root.join(format!("{name}.bpf.o")));
    files.collect()
}

const FILES: [&[&str]; 8] = [
    &["bpf/tests/link_main", "bpf/tests/link_lib"],
    &["bpf/tests/link_lib", "bpf/tests/link_main"],
    &["bpf/tests/link_table", "bpf/tests/link_callbacks"],
    &["bpf/tests/link_callbacks", "bpf/tests/link_table"],
    &["bpf/tests/link_whole"],
    &["bpf/tests/masks"],
    &["bpf/levels"],
    &["bpf/tests/arena_cast"],
];

#[test]
fn files_become_the_same_as_by_libbpf() {
    for files in FILES {
        let paths = paths(files);
        let (ours, theirs) = (by_us(&paths), by_libbpf(&paths));
        assert_same(&format!("{files:?}"), &contents(&ours), &contents(&theirs));
        assert!(in_kernel(&ours) == in_kernel(&theirs), "{files:?}");
    }
}

#[test]
fn files_become_the_same_as_by_bpftool() {
    for files in FILES {
        let paths = paths(files);
        match by_bpftool(&paths) {
            Ok(theirs) => {
                println!("{files:?}: compared");
                let ours = contents(&by_us(&paths));
                assert_same(&format!("{files:?}"), &ours, &contents(&theirs));
            }
            // Old ones do not know all that clang writes.
            Err(reason) => println!("skipped: {files:?}: {reason}"),
        }
    }
}

/// libbpf 1.7 leaves entries of jump tables as they are: those of the second file lead into the
/// first one's functions. In ours they are where `harena-bpf`'s own test wants them.
#[test]
fn only_jump_tables_differ() {
    const TABLES: &str = ".jumptables";
    let fixtures = "crates/bpf/tests/fixtures";
    let paths = paths(&[
        &format!("{fixtures}/switch_a"),
        &format!("{fixtures}/switch_b"),
    ]);
    let (mut ours, mut theirs) = (contents(&by_us(&paths)), contents(&by_libbpf(&paths)));
    let (a, b) = (ours.bytes.remove(TABLES), theirs.bytes.remove(TABLES));
    assert_same("switches", &ours, &theirs);
    let (a, b) = (a.expect("tables"), b.expect("tables"));
    assert_eq!(a.len(), b.len());
    let first = a.len() / 2;
    assert_eq!(a[..first], b[..first]);
    let moved = |entries: &[u8], at: usize| {
        let word = entries[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(word)
    };
    for at in (first..a.len()).step_by(8) {
        assert!(moved(&a, at) > moved(&b, at), "entry at {at}");
    }
}
