//! Definitions in `.maps`, right and wrong.

use crate::elf_writer::{self, FUNC, OBJECT, Section};
use harena_bpf::btf::{BtfBuilder, EnumWidth, IntEncoding, Linkage, MemberDef, SecVar, TypeId};
use harena_bpf::isa::{asm, encode};
use harena_bpf::{LinkedMap, MapType, Object};

/// A member of a definition.
#[derive(Clone, Copy)]
enum Def<'a> {
    /// `__uint(name, value)`
    Uint(&'static str, u32),
    /// `__ulong(name, value)`
    Ulong(&'static str, u64),
    /// `__type(name, u64)`
    U64(&'static str),
    /// An `int` member, which means nothing.
    Int(&'static str),
    /// `__array(name, struct { __uint(type, 2); … })`
    Inner(&'static str, &'a [Self]),
}

struct Types {
    b: BtfBuilder,
    int: TypeId,
    u64_: TypeId,
}

impl Types {
    fn structure(&mut self, name: &str, defs: &[Def<'_>]) -> TypeId {
        let mut members = Vec::new();
        for (n, def) in (0u32..).zip(defs) {
            let (name, type_id) = match *def {
                Def::Uint(name, value) => {
                    let array = self.b.array(self.int, self.int, value);
                    (name, self.b.ptr(array))
                }
                Def::Ulong(name, value) => {
                    let values = [("only", value)];
                    (name, self.b.enumeration("", EnumWidth::U64, &values))
                }
                Def::U64(name) => (name, self.b.ptr(self.u64_)),
                Def::Int(name) => (name, self.int),
                Def::Inner(name, defs) => {
                    let inner = self.structure("", defs);
                    let pointer = self.b.ptr(inner);
                    (name, self.b.array(pointer, self.int, 0))
                }
            };
            members.push(MemberDef::at(name, type_id, n * 8));
        }
        let size = u32::try_from(members.len() * 8).unwrap();
        self.b.structure(name, size, &members)
    }
}

/// Parses an object with these maps; gives them or the error.
fn parse(maps: &[(&'static str, &[Def<'_>])]) -> Result<Vec<LinkedMap>, String> {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, IntEncoding::Signed);
    let u64_ = b.int("u64", 8, IntEncoding::Unsigned);
    let mut types = Types { b, int, u64_ };
    let mut vars = Vec::new();
    let mut symbols = vec![("main", FUNC, 1, 0, 16)];
    let mut offset = 0u32;
    for (name, defs) in maps {
        let type_id = types.structure(name, defs);
        let type_id = types.b.var(name, type_id, Linkage::Global);
        let size = u32::try_from(defs.len() * 8).unwrap();
        vars.push(SecVar {
            type_id,
            offset: 0,
            size,
        });
        symbols.push((name, OBJECT, 2, u64::from(offset), u64::from(size)));
        offset += size;
    }
    types.b.data_sec(".maps", offset, &vars);
    let sections = [
        Section::code("syscall", encode(&asm("r0 = 0; exit").unwrap())),
        Section::data(".maps", vec![0; usize::try_from(offset).unwrap()]),
        Section {
            flags: 0,
            ..Section::data(".BTF", types.b.finish().to_bytes())
        },
    ];
    let bytes = elf_writer::write(&sections, &symbols);
    match Object::parse("maps.o", &bytes) {
        Ok(object) => Ok(object.maps().to_vec()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn all_fields_are_read() {
    use Def::{Uint, Ulong};
    let maps = parse(&[(
        "arena",
        &[
            Uint("type", 33),
            Uint("max_entries", 100),
            Uint("map_flags", 1024),
            Uint("numa_node", 1),
            Uint("pinning", 1),
            Ulong("map_extra", 1 << 44),
        ],
    )])
    .unwrap();
    let arena = &maps[0];
    assert_eq!((arena.map_type, arena.max_entries), (MapType::ARENA, 100));
    assert_eq!((arena.map_flags, arena.map_extra), (1024, 1 << 44));
    assert!(arena.pin_by_name);
}

#[test]
fn wrong_definitions_are_refused_by_name() {
    use Def::{Inner, Int, U64, Uint};
    let array = Uint("type", 2);
    let mut said = Vec::new();
    let mut refuse = |defs: &[Def<'_>]| said.push(parse(&[("m", defs)]).unwrap_err());
    refuse(&[]);
    refuse(&[Uint("max_entries", 1)]);
    refuse(&[array, Uint("colour", 3)]);
    refuse(&[array, Int("max_entries")]);
    refuse(&[array, Int("key")]);
    refuse(&[array, U64("key"), Uint("key_size", 4)]);
    refuse(&[array, Uint("value_size", 4), U64("value")]);
    refuse(&[array, Uint("pinning", 2)]);
    refuse(&[
        Uint("type", 12),
        Inner("values", &[array]),
        Uint("max_entries", 1),
    ]);
    refuse(&[array, Inner("values", &[array])]);
    refuse(&[Uint("type", 12), Inner("values", &[])]);
    refuse(&[
        Uint("type", 12),
        Inner("values", &[array, Uint("pinning", 1)]),
    ]);
    refuse(&[
        Uint("type", 12),
        Inner("values", &[array, Inner("values", &[array])]),
    ]);
    let arena: &[Def<'_>] = &[Uint("type", 33), Uint("max_entries", 1)];
    said.push(parse(&[("one", arena), ("two", arena)]).unwrap_err());
    insta::assert_snapshot!(said.join("\n"));
}
