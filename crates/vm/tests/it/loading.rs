//! Programs at which the loader, or the compiler behind it, once panicked or hung.

use harena_abi::KernAddr;
use harena_bpf::isa::Insn;
use harena_bpf::{LinkedProgram, ProgType};
use harena_vm::{RunArgs, Vm, VmLoadError};

use super::support::{Bench, KFUNCS, TestHost, config, object, program};

fn load(prog: LinkedProgram) -> Result<(Vm, harena_vm::Loaded), VmLoadError> {
    let mut vm = Vm::new(config(1)).expect("address space");
    let loaded = vm.load(&object(vec![prog], Vec::new()), KFUNCS)?;
    assert_eq!(vm.jit_refused(), None);
    Ok((vm, loaded))
}

fn run(prog: LinkedProgram) -> u64 {
    let (mut vm, loaded) = load(prog).expect("loads");
    let args = RunArgs::new(KernAddr::NULL);
    let result = vm.run(loaded.programs[0], &args, &mut TestHost::default());
    result.expect("runs to its end").ret
}

/// A load of a function's address is refused if that is the second slot of an instruction: its
/// own, or that of one before or behind it.
#[test]
fn half_an_instruction_has_no_address() {
    const FUNC: u8 = 4;
    let number = Insn::ldimm64(0, 0, 7);
    for half in [1, 3, 5] {
        let mut insns = number.to_vec();
        // Slot 2; what it loads is counted from slot 3.
        insns.extend(Insn::ldimm64(
            2,
            FUNC,
            u64::from((half - 3i32).cast_unsigned()),
        ));
        insns.extend(number);
        insns.push(Insn::new(0x95, 0, 0, 0, 0));
        let prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns);
        let start = half.cast_unsigned();
        assert!(
            prog.funcs.iter().any(|f| f.start == start),
            "type information may say that a function starts there"
        );
        let error = load(prog).unwrap_err();
        let VmLoadError::BadInsn { place, reason } = error else {
            panic!("slot {half}: {error}");
        };
        assert_eq!((place.program.as_str(), place.insn), ("main", 2));
        let expected = "address of an instruction that starts no function";
        assert_eq!(reason, expected, "slot {half}");
    }
}

/// Type information may say so; nobody goes there.
#[test]
fn a_function_that_begins_in_half_an_instruction_is_not_entered() {
    let mut prog = program("main", "r0 = 7 ll; exit");
    let mut half = prog.funcs[0].clone();
    half.start = 1;
    prog.funcs.push(half);
    assert_eq!(run(prog), 7);
}

#[test]
fn functions_that_are_not_there_are_not_entered() {
    let mut prog = program("main", "r0 = 7; exit");
    let mut far = prog.funcs[0].clone();
    far.start = 1 << 20;
    prog.funcs.push(far);
    assert_eq!(run(prog), 7);
}

/// The compiler asks where each pointer leads, and -2^63 has no absolute value.
#[test]
fn pointers_that_are_moved_far_away_are_wild() {
    for far in ["0x8000000000000000", "0x7fffffffffffffff", "0x100000000"] {
        for base in ["r10", "r1"] {
            let text = format!("r2 = {base}; r3 = {far} ll; r2 += r3; r0 = *(u64 *)(r2 - 8); exit");
            let mut bench = Bench::new(&text, Vec::new());
            assert_eq!(bench.run(0), 0, "{text}");
            let found: Vec<u32> = bench.vm.violations().iter().map(|v| v.insn).collect();
            assert_eq!(found, [4], "{text}");
        }
    }
}

/// Takes minutes if the compiler looks through the program at each call, or goes through it once
/// for each jump backwards.
#[test]
fn large_programs_are_compiled_in_linear_time() {
    const COUNT: usize = 300_000;
    let exit = Insn::new(0x95, 0, 0, 0, 0);
    // Calls of the function at the end; the first two instructions are all that runs.
    let mut calls = vec![Insn::new(0xb7, 0, 0, 0, 7), exit];
    for left in (0..COUNT).rev() {
        let by = i32::try_from(left).unwrap();
        calls.push(Insn::new(0x85, 0, 1, 0, by));
    }
    calls.push(exit);
    assert_eq!(
        run(LinkedProgram::from_insns("main", ProgType::Syscall, calls)),
        7
    );
    // A jump to the last one, and from each to the one before it.
    let mut jumps = vec![Insn::new(0x06, 0, 0, 0, i32::try_from(COUNT).unwrap() + 1)];
    jumps.extend([
        Insn::new(0xb7, 0, 0, 0, 7),
        exit,
        Insn::new(0x05, 0, 0, -3, 0),
    ]);
    jumps.extend(vec![Insn::new(0x05, 0, 0, -2, 0); COUNT - 1]);
    assert_eq!(
        run(LinkedProgram::from_insns("main", ProgType::Syscall, jumps)),
        7
    );
}
