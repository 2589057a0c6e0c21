//! All 13 kinds of CO-RE relocations against a kernel with other layouts.

use crate::kernel::core_kernel;
use crate::objects::CORE;
use harena_bpf::btf::Kind;
use harena_bpf::isa::{Insn, disasm};
use harena_bpf::{LinkedObject, Object};

fn linked() -> LinkedObject {
    let object = Object::parse("core.bpf.o", CORE).unwrap();
    object.link(&core_kernel()).unwrap()
}

#[test]
fn every_kind_of_relocation_gets_the_kernels_answer() {
    let linked = linked();
    insta::assert_snapshot!(disasm(&linked.program("kinds").unwrap().insns));
}

#[test]
fn loads_move_and_change_their_size() {
    let linked = linked();
    insta::assert_snapshot!(disasm(&linked.program("loads").unwrap().insns));
}

#[test]
fn what_does_not_exist_is_poisoned_and_says_why() {
    let linked = linked();
    let program = linked.program("guarded").unwrap();
    insta::assert_snapshot!(disasm(&program.insns));
    insta::assert_debug_snapshot!(program.poisoned);
}

#[test]
fn type_ids_are_those_of_object_and_kernel() {
    let object = Object::parse("core.bpf.o", CORE).unwrap();
    let kernel = core_kernel();
    let linked = object.link(&kernel).unwrap();
    let insns = &linked.program("kinds").unwrap().insns;
    let has = |id: u32| {
        insns
            .iter()
            .any(|insn: &Insn| insn.imm.cast_unsigned() == id)
    };
    let local = object.btf().find("thing", Kind::Struct).unwrap();
    let remote = kernel.btf.find("thing", Kind::Struct).unwrap();
    assert!(has(local.raw()));
    assert!(has(remote.raw()));
}
