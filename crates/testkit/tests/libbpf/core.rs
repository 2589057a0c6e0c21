//! CO-RE relocations of every kind, against types with other layouts.

use harena_bpf::btf::Btf;
use harena_bpf::{KconfigValue, KernelSymbols, KfuncRef, KsymVar, Object};
use harena_testkit::libbpf::{Relocated, is_refused, relocate};

use crate::compare::{Comparison, Sides, section};
use crate::kernel::file_of;

const CASES: &[u8] = include_bytes!("../../../bpf/tests/fixtures/core_cases.bpf.o");
const TARGET: &[u8] = include_bytes!("../../../bpf/tests/fixtures/core_target.bpf.o");

/// A kernel that has types and nothing else.
struct OnlyTypes(Btf);

impl KernelSymbols for OnlyTypes {
    fn btf(&self) -> &Btf {
        &self.0
    }

    fn kfunc(&self, _name: &str) -> Option<KfuncRef> {
        None
    }

    fn ksym(&self, _name: &str) -> Option<KsymVar> {
        None
    }

    fn kconfig(&self, _name: &str) -> Option<KconfigValue> {
        None
    }
}

/// What libbpf makes of the cases; or why it may not even begin.
fn by_libbpf() -> Result<Relocated, String> {
    let file = file_of(section(TARGET, ".BTF"));
    let relocated = relocate(CASES, Some(file.path()), "").expect("libbpf opens it");
    match relocated.problem {
        Some(problem) => {
            assert!(is_refused(&problem), "{problem}");
            Err(problem)
        }
        None => Ok(relocated),
    }
}

fn compare(theirs: &Relocated) -> Comparison {
    let types = Btf::parse(section(TARGET, ".BTF")).expect("it was compiled");
    let kernel = OnlyTypes(types);
    let object = Object::parse("core_cases.bpf.o", CASES).expect("it was compiled");
    let ours = object.link(&kernel).expect("nothing it needs is missing");
    let sides = Sides {
        ours: &ours,
        theirs,
        kernel: &kernel,
        types: &kernel.0,
    };
    sides.compare()
}

#[test]
fn every_core_relocation_gets_libbpfs_answer() {
    let theirs = match by_libbpf() {
        Ok(theirs) => theirs,
        Err(reason) => return println!("skipped: libbpf needs bpf(2): {reason}"),
    };
    let comparison = compare(&theirs);
    println!("{comparison}");
    assert_eq!(comparison.programs, 10);
    assert!(comparison.insns > 600);
    assert!(comparison.poisoned > 10);
    assert_eq!(comparison.differences, Vec::<String>::new());
}

#[test]
fn one_wrong_answer_is_found() {
    let mut theirs = match by_libbpf() {
        Ok(theirs) => theirs,
        Err(reason) => return println!("skipped: libbpf needs bpf(2): {reason}"),
    };
    let fields = theirs
        .programs
        .iter_mut()
        .find(|(name, _)| name == "fields");
    let (_, insns) = fields.expect("there is such a program");
    let answer = insns
        .iter_mut()
        .find(|insn| insn.code == 0xb7 && insn.imm == 16);
    answer.expect("the offset of `number`").imm += 1;
    let [difference] = &compare(&theirs).differences[..] else {
        panic!("one difference");
    };
    assert!(difference.starts_with("fields "), "{difference}");
}
