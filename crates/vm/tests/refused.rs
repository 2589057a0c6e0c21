//! Goal: where executable memory is refused, programs run in the interpreter, and it is said why.
//! Method: the test's thread forbids itself by a seccomp filter to make memory executable, as
//! `MemoryDenyWriteExecute` does for services.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "it/support.rs"]
#[expect(dead_code, reason = "one test needs little of it")]
mod support;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use support::Bench;

pub(crate) const ENGINE: harena_vm::Engine = harena_vm::Engine::Jit;

/// Makes `mprotect(.., PROT_EXEC)` fail with EACCES on this thread.
fn forbid_executable_memory() {
    const EXEC: u64 = libc::PROT_EXEC as u64;
    let has_exec = SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(EXEC),
        EXEC,
    )
    .expect("an argument that calls have");
    let rule = SeccompRule::new(vec![has_exec]).expect("a condition");
    let filter = SeccompFilter::new(
        [(libc::SYS_mprotect, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.cast_unsigned()),
        TargetArch::x86_64,
    )
    .expect("a filter of one call");
    let program: BpfProgram = filter.try_into().expect("a short filter");
    seccompiler::apply_filter(&program).expect("an unprivileged process may filter itself");
}

#[test]
fn programs_are_interpreted_where_memory_cannot_be_executable() {
    let text = "r0 = r1; r0 += 2; exit";
    assert_eq!(Bench::new(text, Vec::new()).run(40), 42);
    forbid_executable_memory();
    let config = support::config(1);
    let mut vm = harena_vm::Vm::new(config).expect("address space");
    let object = support::object(vec![support::program("main", text)], Vec::new());
    let loaded = vm.load(&object, support::KFUNCS).expect("loads");
    let refused = vm.jit_refused().expect("said why");
    assert!(refused.contains("mprotect"), "{refused}");
    assert!(refused.contains("errno 13"), "{refused}");
    let args = harena_vm::RunArgs::new(harena_abi::KernAddr::new(40));
    let mut host = support::TestHost::default();
    let result = vm.run(loaded.programs[0], &args, &mut host).expect("runs");
    assert_eq!((result.ret, result.insns), (42, 3));
}
