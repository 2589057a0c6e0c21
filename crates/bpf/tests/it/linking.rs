//! What linking makes of the fixtures.

use crate::kernel::{TestKernel, kernel};
use crate::objects::{OBJECTS, SCHED};
use harena_bpf::isa::disasm;
use harena_bpf::{Autoload, LinkedObject, LinkedProgram, Object};
use std::fmt::Write;

/// Programs, tables and changed maps as text.
fn describe(linked: &LinkedObject) -> String {
    let mut out = String::new();
    for program in &linked.programs {
        describe_program(program, &mut out);
    }
    for ops in &linked.struct_ops {
        writeln!(
            out,
            "struct_ops {}: {} link {} {:?}",
            ops.name, ops.type_name, ops.link, ops.data
        )
        .unwrap();
        for m in &ops.members {
            let program = m.program.map(|index| &linked.programs[index.index()].name);
            writeln!(
                out,
                "  [{}] {} at {}: {program:?}",
                m.index, m.name, m.offset
            )
            .unwrap();
        }
    }
    for map in &linked.maps {
        writeln!(
            out,
            "map {} contents at {}: {:?}",
            map.name, map.contents_offset, map.contents
        )
        .unwrap();
    }
    for (name, global) in &linked.globals {
        writeln!(
            out,
            "global {name}: map {} + {}",
            global.map.0, global.offset
        )
        .unwrap();
    }
    out
}

fn describe_program(program: &LinkedProgram, out: &mut String) {
    writeln!(
        out,
        "program {} ({}) sleepable {} attach {:?} arena {:?} kfuncs {:?}",
        program.name,
        program.section,
        program.sleepable,
        program.attach,
        program.arena,
        program.kfuncs
    )
    .unwrap();
    for func in &program.funcs {
        let params: Vec<String> = func
            .params
            .iter()
            .map(|p| format!("{} {:?}", p.name, p.tags))
            .collect();
        writeln!(
            out,
            "  func {} at {} len {} ({})",
            func.name,
            func.start,
            func.len,
            params.join(", ")
        )
        .unwrap();
    }
    let mut last = None;
    for (slot, text) in (0u32..).zip(slots(program)) {
        let line = program.lines.at(slot).map(|line| line.to_string());
        if line != last
            && let Some(line) = &line
        {
            writeln!(out, "    ; {line}").unwrap();
        }
        last = line;
        if let Some(text) = text {
            writeln!(out, "  {text}").unwrap();
        }
        if let Some(why) = program.poisoned.get(&slot) {
            writeln!(out, "    ^ poisoned: {why}").unwrap();
        }
    }
}

/// Disassembly by slot; the second slot of a pair has none.
fn slots(program: &LinkedProgram) -> Vec<Option<String>> {
    let mut slots = vec![None; program.insns.len()];
    for line in disasm(&program.insns).lines() {
        let (slot, _) = line.split_once(':').unwrap();
        let slot: usize = slot.trim().parse().unwrap();
        slots[slot] = Some(line.to_owned());
    }
    slots
}

fn parse(bytes: &[u8]) -> Object {
    Object::parse("fixture.bpf.o", bytes).unwrap()
}

#[test]
fn objects_fixture_links_with_what_the_kernel_has() {
    let linked = parse(OBJECTS).link(&kernel()).unwrap();
    insta::assert_snapshot!(describe(&linked));
}

#[test]
fn sched_fixture_links_into_the_kernels_layout() {
    let linked = parse(SCHED).link(&kernel()).unwrap();
    insta::assert_snapshot!(describe(&linked));
}

#[test]
fn unreachable_code_may_miss_symbols_and_reachable_code_may_not() {
    let mut object = parse(OBJECTS);
    assert_eq!(object.problems(&kernel()), []);
    object.set_autoload("optional", Autoload::Yes).unwrap();
    let error = object.link(&kernel()).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn strong_externs_must_exist_and_fit() {
    let mut said: Vec<String> = Vec::new();
    let without = |change: fn(&mut TestKernel)| {
        let mut kernel = kernel();
        change(&mut kernel);
        parse(OBJECTS).link(&kernel).unwrap_err().to_string()
    };
    said.push(without(|k| _ = k.kfuncs.remove("strong_kfunc")));
    said.push(without(|k| drop(k.kconfig.remove("LINUX_KERNEL_VERSION"))));
    said.push(without(|k| _ = k.ksyms.remove("runqueues")));
    said.push(without(|k| {
        let other = k.kfuncs["versioned"];
        k.kfuncs.insert("strong_kfunc", other);
    }));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn struct_ops_members_must_be_known_or_unset() {
    let mut object = parse(SCHED);
    object
        .set_global("fix_ops.gone_setting", &1u64.into())
        .unwrap();
    let error = object.link(&kernel()).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn callbacks_can_be_replaced_and_removed() {
    let mut object = parse(SCHED);
    object.set_callback("fix_ops", "enqueue", None).unwrap();
    object
        .set_callback("fix_ops", "init", Some("fix_init"))
        .unwrap();
    let linked = object.link(&kernel()).unwrap();
    let names: Vec<_> = linked.programs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["fix_init"]);
    object
        .set_callback("fix_ops", "select_cpu", Some("fix_init"))
        .unwrap();
    let error = object.link(&kernel()).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn arena_globals_need_room() {
    let mut object = parse(SCHED);
    object.set_max_entries("arena", 0).unwrap();
    let error = object.link(&kernel()).unwrap_err();
    insta::assert_snapshot!(error);
}
