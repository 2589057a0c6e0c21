//! Goal: where executable memory is refused, programs run in the interpreter, and it is said why.
//! Method: the test's thread forbids itself by a seccomp filter to make memory executable, as
//! `MemoryDenyWriteExecute` does for services.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "it/support.rs"]
#[expect(dead_code, reason = "one test needs little of it")]
mod support;

use support::Bench;

pub(crate) const ENGINE: harena_vm::Engine = harena_vm::Engine::Jit;

/// Where `struct seccomp_data` keeps the call's number and the low half of its third argument.
const DATA_NR: u32 = 0;
const DATA_ARG_2: u32 = 16 + 2 * 8;

/// Makes `mprotect(.., PROT_EXEC)` fail with EACCES on this thread.
fn forbid_executable_memory() {
    let statement = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: u16::try_from(code).expect("codes have 16 bits"),
        jt: 0,
        jf,
        k,
    };
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0);
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action, 0);
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let has = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let number = |value: i64| u32::try_from(value).expect("a small number");
    let mut filter = [
        load(DATA_NR),
        statement(is, number(libc::SYS_mprotect), 3),
        load(DATA_ARG_2),
        statement(has, number(libc::PROT_EXEC.into()), 1),
        answer(libc::SECCOMP_RET_ERRNO | number(libc::EACCES.into())),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes integers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
    // SAFETY: the program points to `filter`, which outlives the call.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(done, 0, "an unprivileged process may filter itself");
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
