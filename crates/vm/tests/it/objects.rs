//! Compiled objects: source lines in reports.
//!
//! The programs name kernel types nowhere but in the prototypes of a few kfuncs, so an object's
//! own BTF stands in for the kernel's.

use std::sync::Arc;

use harena_bpf::btf::{Btf, Kind, TypeId};
use harena_bpf::{
    KconfigValue, KernelSymbols, KfuncRef, KsymVar, LinkedObject, Object, ProgramIndex, StructOps,
    StructOpsMember,
};
use harena_vm::{Region, RunArgs, StreamId, Vm};

use super::support::{KFUNCS, TestHost, config, object, program};

struct OwnTypes(Arc<Btf>);

impl KernelSymbols for OwnTypes {
    fn btf(&self) -> &Btf {
        &self.0
    }

    fn kfunc(&self, name: &str) -> Option<KfuncRef> {
        let desc = harena_vm::generic_kfuncs()
            .iter()
            .find(|k| k.name == name)?;
        let proto = self.0.find(name, Kind::Func)?;
        Some(KfuncRef { id: desc.id, proto })
    }

    fn ksym(&self, _: &str) -> Option<KsymVar> {
        None
    }

    fn kconfig(&self, _: &str) -> Option<KconfigValue> {
        None
    }
}

fn link(file: &str) -> LinkedObject {
    let path = format!(
        "{}/../../bpf/tests/{file}.bpf.o",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let object = Object::parse(file, &bytes).expect("parses");
    let kernel = OwnTypes(Arc::new(object.btf().clone()));
    object.link(&kernel).expect("links")
}

/// The context of the test programs: four words in, twelve out.
const CTX_SIZE: u64 = 16 * 8;

/// Layout and text are the kernel's; offsets are those of BPF instructions.
#[test]
fn a_report_names_function_offset_and_source_line() {
    let object = link("arena_fault");
    let mut vm = Vm::new(config(2)).expect("address space");
    let loaded = vm.load(&object, KFUNCS).expect("loads");
    let ctx = vm.mem().alloc(Region::Contexts, CTX_SIZE, 8).expect("room");
    let index = object
        .programs
        .iter()
        .position(|p| p.name == "straddle")
        .expect("it is there");
    let prog = loaded.programs[index];
    let mut host = TestHost {
        cpu: 1,
        ..TestHost::default()
    };
    vm.run(prog, &RunArgs::new(ctx), &mut host).expect("ends");
    let text = vm.drain_stream(prog, StreamId::Stderr);
    let expected = "ERROR: Arena READ access at unmapped address 0x10000000cffc\n\
        CPU: 1 UID: 1000 PID: 41 Comm: worker\n\
        Call trace:\n\
        straddle+0x80/0x110\n\
        \x20 ctx->out[0] = *(volatile u64 __arena *)across; @ arena_fault.bpf.c:160\n\
        \n\
        ERROR: Arena WRITE access at unmapped address 0x10000000cffc\n";
    assert!(text.starts_with(expected), "{text}");
    let found = &vm.violations()[0];
    assert_eq!(found.file.as_deref(), Some("bpf/tests/arena_fault.bpf.c"));
    assert_eq!(
        (found.line, found.function.as_str()),
        (Some(160), "straddle")
    );
}

/// Members without a program are passed over; the first result ends the walk and is given back.
#[test]
fn struct_ops_programs_are_walked_in_member_order_until_a_result() {
    let names = ["enqueue", "dispatch", "init", "exit"];
    let programs = names.map(|name| program(name, "r0 = 0; exit"));
    let mut object = object(programs.to_vec(), Vec::new());
    // The object's programs lie in another order than the members, and one member is not set.
    let members = [
        ("init", Some(2)),
        ("enqueue", Some(0)),
        ("tick", None),
        ("exit", Some(3)),
    ];
    let members = (0u32..)
        .zip(members)
        .map(|(index, (name, program))| StructOpsMember {
            name: name.to_owned(),
            index,
            offset: index * 8,
            proto: TypeId::VOID,
            program: program.map(ProgramIndex),
        });
    object.struct_ops.push(StructOps {
        name: "ops".to_owned(),
        type_name: "sched_ext_ops".to_owned(),
        type_id: TypeId::VOID,
        link: true,
        data: Vec::new(),
        members: members.collect(),
    });
    let mut vm = Vm::new(config(1)).expect("address space");
    let loaded = vm.load(&object, KFUNCS).expect("loads");
    let mut seen = Vec::new();
    let all: Option<()> = vm.struct_ops_for_each_prog(loaded.struct_ops[0], |member, prog| {
        seen.push((member.to_owned(), vm.program(prog).name().to_owned()));
        None
    });
    assert_eq!(all, None);
    let pairs = ["init", "enqueue", "exit"].map(|name| (name.to_owned(), name.to_owned()));
    assert_eq!(seen, pairs);
    let mut count = 0;
    let stopped = vm.struct_ops_for_each_prog(loaded.struct_ops[0], |member, _| {
        count += 1;
        (member == "enqueue").then_some(-22)
    });
    assert_eq!((stopped, count), (Some(-22), 2));
}
