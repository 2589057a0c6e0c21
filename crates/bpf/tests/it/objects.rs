//! What `Object::parse` says of the fixtures.

use crate::elf_writer::{self, FUNC, Section};
use harena_bpf::isa::{asm, encode};
use harena_bpf::{ExternKind, Object};
use std::fmt::Write;

pub(crate) const OBJECTS: &[u8] = include_bytes!("../fixtures/objects.bpf.o");
pub(crate) const SCHED: &[u8] = include_bytes!("../fixtures/sched.bpf.o");
pub(crate) const OWNED: &[u8] = include_bytes!("../../../../bpf/tests/owned.bpf.o");
pub(crate) const CORE: &[u8] = include_bytes!("../fixtures/core.bpf.o");

/// Everything an object says of itself, as text.
fn describe(object: &Object) -> String {
    let mut out = String::new();
    let btf = object.btf();
    writeln!(out, "license {:?}", object.license()).unwrap();
    for p in object.programs() {
        writeln!(
            out,
            "program {} in {}: {:?} attach {:?} sleepable {} autoload {}",
            p.name, p.section, p.prog_type, p.attach, p.sleepable, p.autoload
        )
        .unwrap();
    }
    for m in object.maps() {
        let types = (m.key_type, m.value_type);
        writeln!(
            out,
            "map {} ({:?}): {} key {} value {} entries {} flags {:#x} extra {:#x} frozen {} contents {} of {}",
            m.name, m.origin, m.map_type, m.key_size, m.value_size, m.max_entries, m.map_flags,
            m.map_extra, m.frozen, m.contents.bytes.len(), m.contents.len
        )
        .unwrap();
        if let (Some(key), Some(value)) = types {
            writeln!(out, "  {} -> {}", btf.c_type(key), btf.c_type(value)).unwrap();
        }
        for f in &m.special_fields {
            let target = f.target.map(|id| btf.c_type(id)).unwrap_or_default();
            writeln!(
                out,
                "  {:?} at {} ({} bytes) {target}",
                f.kind, f.offset, f.size
            )
            .unwrap();
            if let Some(held) = f.contains {
                let name = btf.c_type(held.type_id);
                writeln!(out, "    holds {name} by their byte {}", held.node_offset).unwrap();
            }
        }
        if let Some(inner) = &m.inner {
            writeln!(
                out,
                "  inner {} entries {} slots {:?}",
                inner.map_type, inner.max_entries, m.slots
            )
            .unwrap();
        }
    }
    for e in object.externs() {
        let weak = if e.weak { "weak" } else { "strong" };
        let what = match e.kind {
            ExternKind::Kconfig { kind, size, offset } => format!("{kind:?} {size} at {offset}"),
            ExternKind::Kfunc { proto } => btf.c_declaration(proto, &e.name),
            ExternKind::Ksym { type_id } => format!("{:?}", type_id.map(|id| btf.c_type(id))),
        };
        writeln!(out, "extern {weak} {}: {what}", e.name).unwrap();
    }
    for (name, type_name) in object.struct_ops() {
        writeln!(out, "struct_ops {name}: {type_name}").unwrap();
    }
    for name in object.globals() {
        let info = object.global_info(name).unwrap();
        let value = object.global_value(name).unwrap();
        let decl = btf.c_declaration(info.type_id, name);
        writeln!(
            out,
            "global {decl} at {}+{}, {} bytes: {value}",
            info.section, info.offset, info.size
        )
        .unwrap();
    }
    out
}

#[test]
fn objects_fixture_is_described_in_full() {
    let object = Object::parse("objects.bpf.o", OBJECTS).unwrap();
    insta::assert_snapshot!(describe(&object));
}

#[test]
fn sched_fixture_is_described_in_full() {
    let object = Object::parse("sched.bpf.o", SCHED).unwrap();
    insta::assert_snapshot!(describe(&object));
}

#[test]
fn a_function_without_relocations_can_be_taken_as_it_stands() {
    let text = asm("r0 = 1; call +1; exit; r0 = 2; exit").unwrap();
    let sections = [Section::code(".text", encode(&text))];
    let symbols = [("main", FUNC, 1, 0, 24), ("last", FUNC, 1, 24, 16)];
    let bytes = elf_writer::write(&sections, &symbols);
    let object = Object::parse("plain.o", &bytes).unwrap();
    assert_eq!(object.plain_function("main"), Ok(&text[..3]));
    assert_eq!(object.plain_function("last"), Ok(&text[3..]));
    let message = |name: &str| object.plain_function(name).unwrap_err().to_string();
    assert_eq!(
        message("other"),
        "no function `other`; there are main, last"
    );
    let sched = Object::parse("sched.bpf.o", SCHED).unwrap();
    let relocated: Vec<String> = sched
        .programs()
        .iter()
        .filter_map(|program| sched.plain_function(&program.name).err())
        .map(|error| error.to_string())
        .collect();
    let has = |part: &str| relocated.iter().any(|message| message.contains(part));
    assert!(has("has a relocation at instruction"), "{relocated:?}");
}
