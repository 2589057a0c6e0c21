//! Faults of compiled code: they go on where the exception table says, or crash.
//!
//! The "compiled code" is a load in assembly with a place to go on at.

use core::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use harena_abi::Cpu;
use harena_arena::{CompiledCode, ExtableEntry, HALF_GUARD, ProgramScope, ProgramTag};

use crate::common::{arena, offset, scope};

core::arch::global_asm!(
    ".global harena_test_code",
    "harena_test_code:",
    "mov eax, [rdi]",
    "ret",
    ".global harena_test_code_resume",
    "harena_test_code_resume:",
    "mov eax, 99",
    "ret",
    ".global harena_test_code_end",
    "harena_test_code_end:",
);

unsafe extern "sysv64" {
    fn harena_test_code(from: *const u8) -> u32;
    fn harena_test_code_resume();
    fn harena_test_code_end();
}

/// What the load gives, or 99 if it went on elsewhere.
fn load(from: *const u8) -> u32 {
    // SAFETY: none is claimed for the address: the callers want the fault.
    unsafe { harena_test_code(from) }
}

/// Makes the code known; its table names the load, or an instruction that does not fault.
fn known(at: u32) -> CompiledCode {
    known_with_reach(at, 0..0)
}

#[expect(
    clippy::fn_to_numeric_cast_any,
    reason = "the handler looks for addresses"
)]
fn known_with_reach(at: u32, reach: Range<usize>) -> CompiledCode {
    let start = (harena_test_code as *const ()).addr();
    let resume = (harena_test_code_resume as *const ()).addr() - start;
    let len = (harena_test_code_end as *const ()).addr() - start;
    let entry = ExtableEntry {
        fault_pc: at,
        resume_pc: u32::try_from(resume).expect("small"),
        zero_reg: None,
    };
    // SAFETY: at the label the code expects nothing but the caller's return address.
    unsafe { CompiledCode::register(start..start + len, reach, vec![entry]) }.expect("few images")
}

#[test]
fn a_program_goes_on_elsewhere_and_no_scratch_is_installed() {
    let arena = arena(4);
    let code = known(0);
    let running = scope(&arena);
    let window = arena.host_ptr(offset(0, 0)).cast_const();
    let guard = usize::try_from(HALF_GUARD).expect("small");
    let upper = (1usize << 32) + guard - 1;
    for reached in [
        window,
        window.wrapping_add(0x1ffe),
        window.wrapping_sub(1),
        window.wrapping_sub(guard),
        window.wrapping_add(upper),
    ] {
        assert_eq!(load(reached), 99, "{reached:p}");
    }
    assert_eq!(arena.faults_recovered(), 0);
    // Host code on the same page is recovered as ever, and then there is something to load.
    assert_eq!(arena.ptr::<u32>(offset(0, 8)).read(), 0);
    assert_eq!(arena.faults_recovered(), 1);
    assert_eq!(load(window), 0);
    drop(code);
    // Forgotten, it is host code.
    assert_eq!(load(window.wrapping_add(0x2000)), 0);
    assert_eq!(arena.faults_recovered(), 2);
    drop(running);
}

#[test]
fn code_may_reach_further_than_its_programs_arena() {
    let other = arena(4);
    let window = other.host_ptr(offset(0, 0)).cast_const();
    let _code = known_with_reach(0, window.addr()..window.addr() + 0x2000);
    let _scope = ProgramScope::enter(ProgramTag::new(1), None, Cpu::new(0)).expect("not deep");
    assert_eq!(load(window), 99);
    assert_eq!(load(window.wrapping_add(0x1fff)), 99);
    assert_eq!(other.faults_recovered(), 0);
}

/// Runs a child test of this file; whether it crashed.
fn crashes(name: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this binary has a path"));
    child.args(["--exact", &format!("compiled::{name}"), "--ignored"]);
    let status = child.output().expect("this binary runs").status;
    status.signal() == Some(libc::SIGSEGV)
}

#[test]
#[ignore = "the body of a child process"]
fn child_unknown_pc() {
    let arena = arena(4);
    let _code = known(2);
    let _scope = scope(&arena);
    load(arena.host_ptr(offset(0, 0)));
}

#[test]
#[ignore = "the body of a child process"]
fn child_out_of_reach() {
    let arena = arena(4);
    let _code = known(0);
    let _scope = scope(&arena);
    load(core::ptr::without_provenance(4096));
}

#[test]
#[ignore = "the body of a child process"]
fn child_other_arena() {
    let (mine, other) = (arena(4), arena(4));
    let _code = known(0);
    let _scope = scope(&mine);
    load(other.host_ptr(offset(0, 0)));
}

#[test]
#[ignore = "the body of a child process"]
fn child_no_arena() {
    let arena = arena(4);
    let _code = known(0);
    let _scope = ProgramScope::enter(ProgramTag::new(1), None, Cpu::new(0)).expect("not deep");
    load(arena.host_ptr(offset(0, 0)));
}

#[test]
fn what_no_table_names_or_no_program_reaches_crashes() {
    for name in [
        "child_unknown_pc",
        "child_out_of_reach",
        "child_other_arena",
        "child_no_arena",
    ] {
        assert!(crashes(name), "{name}");
    }
}
