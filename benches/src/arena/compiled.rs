//! Compiled code, as little of it as can fault: a load, and the place to go on at.
//!
//! The place tells the caller that the load faulted, where a program's would also report it.

use harena_arena::{CompiledCode, ExtableEntry};

use crate::harness::BenchError;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    "harena_bench_code:",
    "mov eax, [rdi]",
    "xor eax, eax",
    "ret",
    "harena_bench_code_resume:",
    "mov eax, 1",
    "ret",
    "harena_bench_code_end:",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    "harena_bench_code:",
    "ldr w1, [x0]",
    "mov w0, wzr",
    "ret",
    "harena_bench_code_resume:",
    "mov w0, #1",
    "ret",
    "harena_bench_code_end:",
);

unsafe extern "C" {
    fn harena_bench_code(from: *const u8) -> u32;
    fn harena_bench_code_resume();
    fn harena_bench_code_end();
}

/// Loads a word; 1 if that faulted, else 0.
pub(super) fn load_faults(from: *const u8) -> u32 {
    // SAFETY: the code writes to no memory, and whoever calls this made it known, so a fault in
    // the arena of the running program goes on at its table's place. Any other ends the process.
    unsafe { harena_bench_code(from) }
}

/// Makes the code of [`load_faults`] known, until the result is dropped.
#[expect(
    clippy::fn_to_numeric_cast_any,
    reason = "the handler looks for addresses"
)]
pub(super) fn known() -> Result<CompiledCode, BenchError> {
    let start = (harena_bench_code as *const ()).addr();
    let resume = (harena_bench_code_resume as *const ()).addr() - start;
    let len = (harena_bench_code_end as *const ()).addr() - start;
    let load = ExtableEntry {
        fault_pc: 0,
        resume_pc: u32::try_from(resume).expect("a few bytes"),
        zero_reg: None,
    };
    // SAFETY: the code at `resume` expects nothing but the caller's return address, which is
    // where it was when the load, which is the first instruction, ran.
    let code = unsafe { CompiledCode::register(start..start + len, 0..0, vec![load]) };
    code.map_err(BenchError::setup("making code known"))
}
