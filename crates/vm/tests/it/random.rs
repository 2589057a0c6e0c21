//! Random straight-line arithmetic against a direct evaluation in Rust's own terms.

use harena_abi::KernAddr;
use harena_bpf::isa::Insn;
use harena_bpf::{LinkedProgram, ProgType};
use harena_vm::{RunArgs, Vm};
use proptest::prelude::*;

use super::support::{KFUNCS, TestHost, config, object};

/// Operation bits with the offset that makes division signed.
const OPERATIONS: [(u8, i16); 14] = [
    (0x00, 0),
    (0x10, 0),
    (0x20, 0),
    (0x30, 0),
    (0x30, 1),
    (0x40, 0),
    (0x50, 0),
    (0x60, 0),
    (0x70, 0),
    (0x90, 0),
    (0x90, 1),
    (0xa0, 0),
    (0xb0, 0),
    (0xc0, 0),
];

/// What one operation means, in 128 bits where that avoids special cases.
fn meaning((op, off): (u8, i16), wide: bool, a: u64, b: u64) -> u64 {
    let bits = if wide { 64 } else { 32 };
    let mask = if wide { u64::MAX } else { 0xffff_ffff };
    let (a, b) = (a & mask, b & mask);
    let signed = |v: u64| i128::from((v << (64 - bits)).cast_signed() >> (64 - bits));
    let (ua, ub) = (i128::from(a), i128::from(b));
    let shift = b % bits;
    let result = match (op, off) {
        (0x00, _) => ua + ub,
        (0x10, _) => ua - ub,
        (0x20, _) => ua.wrapping_mul(ub),
        (0x30, 0) => {
            if b == 0 {
                0
            } else {
                ua / ub
            }
        }
        (0x30, _) => {
            if b == 0 {
                0
            } else {
                signed(a) / signed(b)
            }
        }
        (0x40, _) => ua | ub,
        (0x50, _) => ua & ub,
        (0x60, _) => ua << shift,
        (0x70, _) => ua >> shift,
        (0x90, 0) => {
            if b == 0 {
                ua
            } else {
                ua % ub
            }
        }
        (0x90, _) => {
            if b == 0 {
                ua
            } else {
                signed(a) % signed(b)
            }
        }
        (0xa0, _) => ua ^ ub,
        (0xb0, _) => ub,
        _ => signed(a) >> shift,
    };
    let low = result & i128::from(u64::MAX);
    u64::try_from(low).expect("masked") & mask
}

#[derive(Clone, Debug)]
struct Step {
    operation: (u8, i16),
    wide: bool,
    dst: u8,
    /// A register, or an immediate.
    src: Result<u8, i32>,
}

fn step() -> impl Strategy<Value = Step> {
    let imm = prop_oneof![any::<i32>(), Just(0), Just(-1), Just(i32::MIN), 0..70];
    let src = prop_oneof![(0u8..10).prop_map(Ok), imm.prop_map(Err)];
    (
        prop::sample::select(&OPERATIONS[..]),
        any::<bool>(),
        0u8..10,
        src,
    )
        .prop_map(|(operation, wide, dst, src)| Step {
            operation,
            wide,
            dst,
            src,
        })
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(0x8000_0000),
        any::<u32>().prop_map(u64::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arithmetic_means_what_it_says(
        start in prop::array::uniform10(value()),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut insns = Vec::new();
        for (reg, value) in (0u8..).zip(start) {
            insns.extend(Insn::ldimm64(reg, 0, value));
        }
        let mut regs = start;
        for Step { operation, wide, dst, src } in steps {
            let class = if wide { 0x07 } else { 0x04 };
            let (operation_bits, off) = operation;
            let operand = match src {
                Ok(reg) => {
                    insns.push(Insn::new(class | operation_bits | 0x08, dst, reg, off, 0));
                    regs[usize::from(reg)]
                }
                Err(imm) => {
                    insns.push(Insn::new(class | operation_bits, dst, 0, off, imm));
                    i64::from(imm).cast_unsigned()
                }
            };
            let old = regs[usize::from(dst)];
            regs[usize::from(dst)] = meaning(operation, wide, old, operand);
        }
        // Fold all registers into r0.
        let mut expected = regs[0];
        for (reg, value) in (1u8..).zip(&regs[1..]) {
            insns.push(Insn::new(0x27, 0, 0, 0, 31));
            insns.push(Insn::new(0xaf, 0, reg, 0, 0));
            expected = expected.wrapping_mul(31) ^ value;
        }
        insns.push(Insn::new(0x95, 0, 0, 0, 0));
        let count = insns.len() as u64 - 10;
        let prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns);
        let mut vm = Vm::new(config(1)).unwrap();
        let loaded = vm.load(&object(vec![prog], Vec::new()), KFUNCS).unwrap();
        let args = RunArgs::new(KernAddr::NULL);
        let result = vm.run(loaded.programs[0], &args, &mut TestHost::default()).unwrap();
        prop_assert_eq!(result.ret, expected);
        prop_assert_eq!(result.insns, count);
    }
}
