//! Jump tables of several files: each leads to where it led.

use harena_bpf::{ObjectFile, link_objects};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use std::collections::BTreeMap;

const A: &[u8] = include_bytes!("../fixtures/switch_a.bpf.o");
const B: &[u8] = include_bytes!("../fixtures/switch_b.bpf.o");

/// Where the tables of each function lead, in bytes from its start.
fn tables(file: &[u8]) -> BTreeMap<String, Vec<Vec<u64>>> {
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(file).unwrap();
    let entries = elf.section_by_name(".jumptables").unwrap().data().unwrap();
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for section in elf.sections() {
        for (offset, reloc) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = reloc.target() else {
                panic!("{reloc:?}");
            };
            let symbol = elf.symbol_by_index(symbol).unwrap();
            if !symbol.name().unwrap().starts_with("BPF.JT.") {
                continue;
            }
            let mut functions = elf.symbols().filter(|function| {
                let range = function.address()..function.address() + function.size();
                function.section_index() == Some(section.index()) && range.contains(&offset)
            });
            let function = functions.next().unwrap();
            let start = usize::try_from(symbol.address()).unwrap();
            let end = start + usize::try_from(symbol.size()).unwrap();
            let words = entries[start..end].chunks(8);
            let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            let table = words.map(|entry| {
                let inside = entry.checked_sub(function.address());
                inside
                    .filter(|at| *at < function.size())
                    .expect("it leads into its function")
            });
            let name = function.name().unwrap().to_owned();
            all.entry(name).or_default().push(table.collect());
        }
    }
    all
}

fn link(files: [(&str, &[u8]); 2]) -> Vec<u8> {
    let files = files.map(|(name, bytes)| ObjectFile { name, bytes });
    link_objects(&files).unwrap()
}

#[test]
fn entries_move_with_the_function() {
    let (a, b) = (tables(A), tables(B));
    let names: Vec<_> = b.keys().collect();
    assert_eq!(names, ["b_inner", "b_one", "b_two"]);
    assert!(
        b.values()
            .all(|tables| tables.len() == 1 && tables[0].len() == 15)
    );
    let all: BTreeMap<_, _> = a.into_iter().chain(b).collect();
    for files in [[("a", A), ("b", B)], [("b", B), ("a", A)]] {
        let both = link(files);
        assert_eq!(tables(&both), all);
        // Linked once more, as a file like any other.
        let again = ObjectFile {
            name: "both",
            bytes: &both,
        };
        assert_eq!(tables(&link_objects(&[again]).unwrap()), all);
    }
}

#[test]
fn a_table_that_is_cut_is_refused() {
    let mut cut = A.to_vec();
    // The size of a symbol: that of a table in the symbol table is found by its value before it.
    let at = cut
        .windows(16)
        .position(|bytes| bytes == [0x78, 0, 0, 0, 0, 0, 0, 0, 0x78, 0, 0, 0, 0, 0, 0, 0]);
    let at = at.expect("the second table");
    for (size, why) in [
        (0x74u64, "a part of an entry"),
        (0x7800, "ends behind its section"),
    ] {
        cut[at + 8..at + 16].copy_from_slice(&size.to_le_bytes());
        let files = [("b", B), ("cut", cut.as_slice())];
        let files = files.map(|(name, bytes)| ObjectFile { name, bytes });
        let error = link_objects(&files).unwrap_err().to_string();
        assert!(error.contains("BPF.JT.") && error.contains(why), "{error}");
    }
}
