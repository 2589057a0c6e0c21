//! Several files to one: what is kept, what is refused, and that no bytes do harm.

use crate::elf_writer::{self, FUNC, OBJECT, Section};
use crate::hostile::Random;
use crate::kernel::{core_kernel, kernel};
use crate::objects::{CORE, OBJECTS, SCHED};
use harena_bpf::btf::{Btf, BtfBuilder, IntEncoding, Kind, Linkage, MemberDef, SecVar, TypeId};
use harena_bpf::isa::{asm, encode};
use harena_bpf::{Autoload, KernelSymbols, Object, ObjectFile, link_objects};

const WEAK_OBJECT: u8 = 0x21;
const UNDEFINED: u8 = 0x10;

const MAIN: &[u8] = include_bytes!("../../../../bpf/tests/link_main.bpf.o");
const LIB: &[u8] = include_bytes!("../../../../bpf/tests/link_lib.bpf.o");
const LEVELS: &[u8] = include_bytes!("../../../../bpf/levels.bpf.o");
const ARENA: &[u8] = include_bytes!("../../../../bpf/tests/arena_cast.bpf.o");

fn link(files: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| ObjectFile { name, bytes })
        .collect();
    link_objects(&files).map_err(|error| error.to_string())
}

fn refused(files: &[(&str, &[u8])]) -> String {
    link(files).unwrap_err()
}

// ---- what is kept -------------------------------------------------------------------------

/// Programs, maps and tables of an object linked against a kernel, without ids of types.
fn describe(bytes: &[u8], kernel: &dyn KernelSymbols) -> String {
    let mut object = Object::parse("object", bytes).unwrap();
    let names: Vec<_> = object.programs().iter().map(|p| p.name.clone()).collect();
    let mut problems = Vec::new();
    for name in names {
        object.set_autoload(&name, Autoload::Yes).unwrap();
        if let Err(error) = object.clone().link(kernel) {
            problems.push(error.to_string());
            object.set_autoload(&name, Autoload::No).unwrap();
        }
    }
    let globals: Vec<_> = object.globals().map(str::to_owned).collect();
    let globals = globals
        .iter()
        .map(|name| (name, object.global_value(name).map(|v| v.to_string())));
    let globals: Vec<_> = globals.collect();
    let Ok(linked) = object.link(kernel) else {
        return format!("{problems:#?}");
    };
    let programs = linked.programs.iter().map(|p| {
        let lines = (0u32..)
            .zip(&p.insns)
            .map(|(at, _)| p.lines.at(at).map(|line| line.to_string()));
        let lines: Vec<_> = lines.collect();
        format!("{} {:?} {:?} {lines:?}", p.name, p.insns, p.poisoned)
    });
    let programs: Vec<_> = programs.collect();
    let maps = linked.maps.iter().map(|m| {
        let sizes = (m.key_size, m.value_size, m.max_entries, m.map_flags);
        let filled = (m.contents_offset, &m.contents, &m.slots);
        format!("{} {} {sizes:?} {filled:?}", m.name, m.map_type)
    });
    let maps: Vec<_> = maps.collect();
    let tables = linked.struct_ops.iter().map(|ops| {
        let members = ops.members.iter().map(|m| (&m.name, m.program));
        let members: Vec<_> = members.collect();
        format!("{} {:?} {members:?}", ops.name, ops.data)
    });
    let tables: Vec<_> = tables.collect();
    format!("{problems:#?} {programs:#?} {maps:#?} {tables:#?} {globals:#?}")
}

#[test]
fn a_file_on_its_own_stays_what_it_is() {
    let files = [
        ("objects", OBJECTS),
        ("sched", SCHED),
        ("core", CORE),
        ("levels", LEVELS),
        ("arena", ARENA),
    ];
    for (name, bytes) in files {
        let once = link(&[(name, bytes)]).unwrap();
        assert_eq!(
            describe(bytes, &kernel()),
            describe(&once, &kernel()),
            "{name}"
        );
        assert_eq!(
            describe(bytes, &core_kernel()),
            describe(&once, &core_kernel()),
            "{name}"
        );
        assert_eq!(link(&[("once", &once)]).unwrap(), once, "{name}");
    }
}

#[test]
fn types_of_both_files_stand_once() {
    let both = link(&[("main", MAIN), ("lib", LIB)]).unwrap();
    let object = Object::parse("both", &both).unwrap();
    let btf = object.btf();
    let count = |name: &str, kind| {
        let named = btf.named(name).filter(|id| btf.get(*id).kind() == kind);
        named.count()
    };
    for (name, kind, expected) in [
        ("tally", Kind::Struct, 1),
        ("u64", Kind::Typedef, 1),
        ("lib_sum", Kind::Func, 1),
        ("lib_calls", Kind::Var, 1),
        ("arena", Kind::Var, 1),
        (".data", Kind::DataSec, 1),
        (".maps", Kind::DataSec, 1),
        // Two statics of one name.
        ("counter", Kind::Var, 2),
    ] {
        assert_eq!(count(name, kind), expected, "{name}");
    }
    assert!(object.externs().iter().all(|e| e.name.starts_with("bpf_")));
}

#[test]
fn what_no_file_defines_stays_an_extern() {
    let main = link(&[("main", MAIN)]).unwrap();
    let late = link(&[("main", &main), ("lib", LIB)]).unwrap();
    let object = Object::parse("late", &late).unwrap();
    assert_eq!(object.link(&kernel()).err().map(|e| e.to_string()), None);
}

// ---- what is refused ----------------------------------------------------------------------

/// A file with a function, a variable in `.data` and what its BTF says of both.
struct Small {
    license: &'static str,
    btf: Btf,
    symbols: Vec<(&'static str, u8, u16, u64, u64)>,
}

impl Small {
    fn new(btf: impl FnOnce(&mut BtfBuilder) -> TypeId, linkage: Linkage) -> Self {
        let mut builder = BtfBuilder::new();
        let type_id = btf(&mut builder);
        let var = builder.var("shared", type_id, linkage);
        let vars = [SecVar {
            type_id: var,
            offset: 0,
            size: 8,
        }];
        if linkage == Linkage::Global {
            builder.data_sec(".data", 8, &vars);
        }
        let defined = linkage == Linkage::Global;
        Self {
            license: "GPL\0",
            btf: builder.finish(),
            symbols: vec![if defined {
                ("shared", OBJECT, 2, 0, 8)
            } else {
                ("shared", UNDEFINED, 0, 0, 0)
            }],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let code = encode(&asm("r0 = 0; exit").unwrap());
        elf_writer::write(
            &[
                Section::code(".text", code),
                Section::data(".data", vec![1; 8]),
                Section::data("license", self.license.as_bytes().to_vec()),
                Section {
                    flags: 0,
                    ..Section::data(".BTF", self.btf.to_bytes())
                },
            ],
            &self.symbols,
        )
    }
}

fn int(name: &'static str, size: u8) -> impl FnOnce(&mut BtfBuilder) -> TypeId {
    move |b| b.int(name, size, IntEncoding::Unsigned)
}

/// A list whose node is only declared, or defined by this member.
fn list(node: Option<&'static str>) -> Vec<u8> {
    let types = move |b: &mut BtfBuilder| {
        let long = b.int("long", 8, IntEncoding::Unsigned);
        let node = match node {
            Some(member) => b.structure("node", 8, &[MemberDef::at(member, long, 0)]),
            None => b.fwd("node", false),
        };
        let pointer = b.ptr(node);
        let list = b.structure("list", 8, &[MemberDef::at("first", pointer, 0)]);
        let list = b.ptr(list);
        b.structure("owner", 8, &[MemberDef::at("list", list, 0)]);
        // A union of the name is another type.
        let other = b.fwd("node", true);
        b.typedef("other", other);
        long
    };
    Small::new(types, Linkage::Extern).bytes()
}

#[test]
fn a_declaration_is_the_one_definition_of_its_name() {
    let count = |files: &[(&str, &[u8])], name: &str, kind| {
        let object = Object::parse("all", &link(files).unwrap()).unwrap();
        let btf = object.btf();
        let named = btf.named(name).filter(|id| btf.get(*id).kind() == kind);
        named.count()
    };
    let (declared, value, key) = (list(None), list(Some("value")), list(Some("key")));
    let files = [("a", declared.as_slice()), ("b", value.as_slice())];
    for files in [files, [files[1], files[0]]] {
        assert_eq!(count(&files, "node", Kind::Struct), 1);
        // One left: that of the union.
        assert_eq!(count(&files, "node", Kind::Fwd), 1);
        // What points to it is the same, too, and what points to that.
        assert_eq!(count(&files, "list", Kind::Struct), 1);
        assert_eq!(count(&files, "owner", Kind::Struct), 1);
    }
    // Of two definitions it is none.
    let files = [files[0], files[1], ("c", key.as_slice())];
    assert_eq!(count(&files, "node", Kind::Struct), 2);
    assert_eq!(count(&files, "node", Kind::Fwd), 2);
    assert_eq!(count(&files, "owner", Kind::Struct), 3);
}

#[test]
fn conflicts_name_both_files_and_the_symbol() {
    let long = Small::new(int("long", 8), Linkage::Global).bytes();
    let both = [("a.o", long.as_slice()), ("b.o", long.as_slice())];
    assert_eq!(
        refused(&both),
        "`shared` is defined in a.o and again in b.o, and neither is weak"
    );
    let short = Small::new(int("int", 4), Linkage::Extern).bytes();
    assert_eq!(
        refused(&[("a.o", &short), ("b.o", &long)]),
        "`int shared` in a.o is `long shared` in b.o: 4 and 8 bytes"
    );
    let structure = |name: &'static str| {
        move |b: &mut BtfBuilder| {
            let word = b.int("long", 8, IntEncoding::Unsigned);
            b.structure("pair", 8, &[MemberDef::at(name, word, 0)])
        }
    };
    let first = Small::new(structure("a"), Linkage::Global).bytes();
    let second = Small::new(structure("b"), Linkage::Extern).bytes();
    assert_eq!(
        refused(&[("a.o", &first), ("b.o", &second)]),
        "`struct pair shared` in a.o is `struct pair shared` in b.o: `pair` has member `a` or `b`"
    );
    let mut other = Small::new(int("long", 8), Linkage::Extern);
    other.license = "MIT\0";
    assert_eq!(
        refused(&[("a.o", &long), ("b.o", &other.bytes())]),
        "section `license` is \"GPL\" in a.o, but \"MIT\" in b.o: they have to agree"
    );
    assert_eq!(refused(&[("a.o", &long), ("b.o", b"text")]), "b.o");
}

/// A file that says of a symbol that it is in this section of its types.
fn in_section(section: &str, entries: u32, symbol: (&'static str, u8, u16, u64, u64)) -> Vec<u8> {
    with_relocs(section, entries, symbol, Vec::new())
}

/// The same with relocations of `.maps`.
fn with_relocs(
    section: &str,
    entries: u32,
    symbol: (&'static str, u8, u16, u64, u64),
    relocs: Vec<u8>,
) -> Vec<u8> {
    let mut builder = BtfBuilder::new();
    let int = builder.int("int", 4, IntEncoding::Signed);
    let mut field = |name, value| {
        let array = builder.array(int, int, value);
        (name, builder.ptr(array))
    };
    let fields = [
        field("type", 2),
        field("key_size", 4),
        field("value_size", 8),
        field("max_entries", entries),
    ];
    let members = (0u32..).zip(fields);
    let members: Vec<_> = members
        .map(|(at, (name, type_id))| MemberDef::at(name, type_id, at * 8))
        .collect();
    let map = builder.structure("", 32, &members);
    let linkage = if symbol.2 == 0 {
        Linkage::Extern
    } else {
        Linkage::Global
    };
    let var = builder.var("shared", map, linkage);
    let var = SecVar {
        type_id: var,
        offset: 0,
        size: 32,
    };
    builder.data_sec(section, 32, &[var]);
    elf_writer::write(
        &[
            Section::data(".maps", vec![0; 32]),
            Section {
                flags: 0,
                ..Section::data(".BTF", builder.finish().to_bytes())
            },
            Section {
                name: ".rel.maps".to_owned(),
                kind: 9,
                link: 4,
                info: 1,
                data: relocs,
                ..Section::default()
            },
        ],
        &[symbol],
    )
}

#[test]
fn maps_have_to_be_equal_and_in_their_section() {
    let defined = in_section(".maps", 8, ("shared", OBJECT, 1, 0, 32));
    let declared = in_section(".maps", 8, ("shared", UNDEFINED, 0, 0, 0));
    let both = link(&[("a.o", &declared), ("b.o", &defined)]).unwrap();
    let object = Object::parse("both", &both).unwrap();
    assert_eq!(object.maps().len(), 1);
    assert_eq!(object.maps()[0].max_entries, 8);
    for second in [
        in_section(".maps", 9, ("shared", UNDEFINED, 0, 0, 0)),
        in_section(".maps", 9, ("shared", WEAK_OBJECT, 1, 0, 32)),
    ] {
        assert_eq!(
            refused(&[("a.o", &defined), ("b.o", &second)]),
            "map `shared` is not the same in a.o and in b.o: max_entries is 8 and 9"
        );
    }
    let kernel = in_section(".ksyms", 8, ("shared", UNDEFINED, 0, 0, 0));
    assert_eq!(
        refused(&[("a.o", &defined), ("b.o", &kernel)]),
        "`shared` belongs to section `.maps` in a.o, but to `.ksyms` in b.o"
    );
}

/// Slots of a map that was not chosen would be taken for those of the map in front of it.
#[test]
fn relocations_of_lost_maps_go() {
    let strong = in_section(".maps", 8, ("shared", OBJECT, 1, 0, 32));
    let mut reloc = 24u64.to_le_bytes().to_vec();
    reloc.extend(((1u64 << 32) | 2).to_le_bytes());
    let weak = with_relocs(".maps", 8, ("shared", WEAK_OBJECT, 1, 0, 32), reloc);
    let alone = Object::parse("weak", &link(&[("weak", &weak)]).unwrap());
    let alone = alone.unwrap_err().to_string();
    assert!(alone.ends_with("lies in no `values`"), "{alone}");
    for files in [
        [("a", &strong), ("b", &weak)],
        [("a", &weak), ("b", &strong)],
    ] {
        let files = files.map(|(name, bytes)| (name, bytes.as_slice()));
        let object = Object::parse("both", &link(&files).unwrap()).unwrap();
        assert_eq!(object.maps().len(), 1);
    }
}

/// Whichever file comes first: the weak one gives way, unless both are weak.
#[test]
fn a_weak_definition_gives_way() {
    let strong = Small::new(int("long", 8), Linkage::Global).bytes();
    let mut weak = Small::new(int("long", 8), Linkage::Global);
    weak.symbols = vec![("shared", WEAK_OBJECT, 2, 0, 8)];
    let weak = weak.bytes();
    let user = Small::new(int("long", 8), Linkage::Extern).bytes();
    let offset = |files: &[(&str, &[u8])]| {
        let object = Object::parse("all", &link(files).unwrap()).unwrap();
        let info = object.global_info("shared").unwrap();
        info.offset
    };
    assert_eq!(offset(&[("weak", &weak), ("strong", &strong)]), 8);
    assert_eq!(offset(&[("strong", &strong), ("weak", &weak)]), 0);
    assert_eq!(offset(&[("weak", &weak), ("weak2", &weak)]), 0);
    // A strong reference does not make a weak definition strong.
    assert_eq!(
        offset(&[("weak", &weak), ("user", &user), ("strong", &strong)]),
        16
    );
}

/// Relocations of a section count from the start of its piece of the result.
#[test]
fn offsets_within_sections_move_with_them() {
    let file = |value: &str, addend: &str| {
        let text = format!("r1 = {addend} ll; call -1; exit");
        let code = encode(&asm(&text).unwrap());
        let mut program = code;
        // The call's target is the start of `.text`, as clang writes it for a static function.
        program[16 + 1] = 0x10;
        let text = encode(&asm(&format!("r0 = {value}; exit")).unwrap());
        let mut relocs = Vec::new();
        for (offset, symbol, kind) in [(0u64, 2u64, 1u64), (16, 1, 10)] {
            relocs.extend(offset.to_le_bytes());
            relocs.extend(((symbol << 32) | kind).to_le_bytes());
        }
        let sections = [
            Section::code(".text", text),
            Section::data(".data", vec![value.parse().unwrap(); 8]),
            Section::code("syscall", program),
            Section {
                name: ".relsyscall".to_owned(),
                kind: 9,
                link: 5,
                info: 3,
                data: relocs,
                ..Section::default()
            },
        ];
        let name = if value == "1" { "first" } else { "second" };
        let symbols = [
            ("", 3, 1, 0, 0),
            ("", 3, 2, 0, 0),
            ("local", 2, 1, 0, 16),
            (name, FUNC, 3, 0, 32),
        ];
        elf_writer::write(&sections, &symbols)
    };
    let (first, second) = (file("1", "3"), file("2", "4"));
    let both = link(&[("a.o", &first), ("b.o", &second)]).unwrap();
    let linked = Object::parse("both", &both).unwrap();
    let linked = linked.link(&kernel()).unwrap();
    for (name, offset, result) in [("first", 3, 1), ("second", 8 + 4, 2)] {
        let program = linked.program(name).unwrap();
        assert_eq!(program.insns[1].imm, offset, "{name}");
        // Load of two slots, call, exit, and the function that is meant.
        assert_eq!(program.insns[2].imm, 1, "{name}");
        assert_eq!(program.insns[4].imm, result, "{name}");
    }
}

// ---- bytes that no compiler wrote ---------------------------------------------------------

fn exercise(files: &[(&str, &[u8])]) {
    if let Ok(bytes) = link(files)
        && let Ok(object) = Object::parse("linked", &bytes)
    {
        drop(object.link(&kernel()));
        drop(object.problems(&core_kernel()));
    }
}

#[test]
fn truncation_is_survived() {
    for whole in [MAIN, CORE] {
        for len in (0..whole.len()).step_by(7) {
            exercise(&[("lib", LIB), ("cut", &whole[..len])]);
        }
    }
}

#[test]
fn changed_bytes_are_survived() {
    let mut random = Random::new();
    let mut linked = 0;
    for whole in [MAIN, OBJECTS, SCHED, CORE] {
        for _ in 0..400 {
            let bytes = random.flipped(whole);
            exercise(&[("lib", LIB), ("flipped", &bytes)]);
            linked += u32::from(link(&[("flipped", &bytes), ("lib", LIB)]).is_ok());
        }
    }
    // Most changes are harmless to the linker, or nothing behind the first check is tested.
    assert!(linked > 400, "{linked}");
}
