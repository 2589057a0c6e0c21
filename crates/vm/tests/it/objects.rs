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

pub(super) fn read_from(folder: &str, file: &str) -> Vec<u8> {
    let crate_folder = env!("CARGO_MANIFEST_DIR");
    let path = format!("{crate_folder}/{folder}/{file}.bpf.o");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(super) fn read(file: &str) -> Vec<u8> {
    read_from("../../bpf/tests", file)
}

fn parse(folder: &str, file: &str) -> Object {
    Object::parse(file, &read_from(folder, file)).expect("parses")
}

pub(crate) fn link(file: &str) -> LinkedObject {
    link_bytes(file, &read(file))
}

pub(super) fn link_bytes(file: &str, bytes: &[u8]) -> LinkedObject {
    let object = Object::parse(file, bytes).expect("parses");
    let kernel = OwnTypes(Arc::new(object.btf().clone()));
    object.link(&kernel).expect("links")
}

/// The context of the test programs: four words in, twelve out.
pub(super) const CTX_SIZE: u64 = 16 * 8;

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

#[test]
fn maps_in_maps_are_filled_as_the_object_says() {
    // The programs are about other things, and need a kernel.
    let file = parse("../bpf/tests/fixtures", "objects");
    let object = object(Vec::new(), file.maps().to_vec());
    let mut vm = Vm::new(config(2)).expect("address space");
    let loaded = vm.load(&object, KFUNCS).expect("loads");
    let map = |name: &str| {
        let index = object.maps.iter().position(|map| map.name == name);
        loaded.maps[index.expect("it is there")]
    };
    let inner = |n: u32| vm.map_inner(map("outer"), &n.to_le_bytes());
    assert_eq!(inner(1), Some(map("slot_zero")));
    assert_eq!(inner(0), None);
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

// ---- small objects ------------------------------------------------------------------------

struct Slab {
    vm: Vm,
    object: LinkedObject,
    progs: Vec<harena_vm::ProgId>,
    ctx: harena_abi::KernAddr,
}

impl Slab {
    fn new() -> Self {
        let object = link("arena_slab");
        let mut vm = Vm::new(config(2)).expect("address space");
        let progs = vm.load(&object, KFUNCS).expect("loads").programs;
        let ctx = vm.mem().alloc(Region::Contexts, CTX_SIZE, 8).expect("room");
        Self {
            vm,
            object,
            progs,
            ctx,
        }
    }

    /// Runs a program; its return value, and the first of the words it leaves.
    fn run(&mut self, name: &str, word: u64) -> (u64, Vec<u64>) {
        let index = self.object.programs.iter().position(|p| p.name == name);
        let prog = self.progs[index.expect("it is there")];
        self.vm.write_args(self.ctx, &[word]).expect("room");
        let mut host = TestHost::default();
        let ret = self.vm.run(prog, &RunArgs::new(self.ctx), &mut host);
        let out = (4..10u64).map(|word| {
            let at = self.ctx.checked_add(word * 8).expect("inside");
            self.vm.mem().read_u64(at).expect("the context")
        });
        (ret.expect("ends").ret, out.collect())
    }

    fn stderr(&mut self, name: &str) -> String {
        let index = self.object.programs.iter().position(|p| p.name == name);
        let prog = self.progs[index.expect("it is there")];
        self.vm.drain_stream(prog, StreamId::Stderr)
    }
}

#[test]
fn a_program_builds_a_list_of_small_objects_and_frees_it() {
    let mut slab = Slab::new();
    // Three times as many nodes of 16 bytes as the arena's 64 pages can hold at once.
    for _ in 0..100 {
        let (ret, out) = slab.run("build_list", 500);
        assert_eq!((ret, out[1]), (0, 499 * 500 / 2));
    }
    assert_eq!(slab.vm.violations().len(), 0);
}

#[test]
fn objects_are_aligned_and_what_cannot_be_is_null() {
    let (ret, out) = Slab::new().run("sizes", 0);
    assert_eq!(ret, 0);
    assert_eq!(out, [0, 0, 0, 0, u64::MAX, u64::MAX]);
}

#[test]
fn page_free_leaves_small_objects_alone() {
    let mut slab = Slab::new();
    let (ret, out) = slab.run("page_free", 0);
    assert_eq!((ret, out[0]), (0, 7));
    assert_eq!(slab.vm.violations().len(), 0);
}

#[test]
fn bad_frees_are_reported_and_do_nothing() {
    let mut slab = Slab::new();
    let (ret, out) = slab.run("bad_frees", 0);
    assert_eq!((ret, out[0]), (0, 7));
    let found = slab.vm.violations();
    assert!(
        found
            .iter()
            .all(|v| v.kind == harena_vm::ViolationKind::Free)
    );
    assert_eq!(found.iter().map(|v| v.count).sum::<u64>(), 5);
    let text = slab.stderr("bad_frees");
    let reports: Vec<&str> = text.lines().filter(|l| l.starts_with("ERROR")).collect();
    let ends = [
        "offset 0x8, inside an object of 64 bytes",
        "where nothing was allocated",
        "offset 0x32000, where nothing was allocated",
        "which is not in the arena's window",
        "offset 0x0, which is free already",
    ];
    assert_eq!(reports.len(), ends.len(), "{text}");
    for (report, end) in reports.iter().zip(ends) {
        assert!(report.starts_with("ERROR: Arena free of 0x100"), "{report}");
        assert!(report.ends_with(end), "{report}");
    }
    assert!(text.contains("bad_frees+0x"), "{text}");
}
