//! `gotox`: compiled `switch` statements, and jumps that no jump table makes.

use harena_bpf::isa::asm;
use harena_bpf::{LinkedProgram, ObjectFile, ProgType, link_objects};
use harena_vm::{AbortCause, RunArgs, Vm, VmLoadError, layout};

use super::linked::Machine;
use super::objects::{link_bytes, read, read_from};
use super::support::{KFUNCS, TestHost, config, object};

/// What `turn` of the test's source does.
fn turn(out: &mut [u64; 12], which: u64, value: u64) -> u64 {
    let turned = match which {
        0 => value.wrapping_add(11),
        1 => value.wrapping_mul(3),
        2 => value ^ 0x5555,
        3 => value.wrapping_sub(7),
        4 => value << 2,
        5 => value >> 1,
        6 => value | 0x100,
        7 => value.wrapping_neg(),
        _ => return value.wrapping_add(1000),
    };
    step(out, which);
    turned
}

fn step(out: &mut [u64; 12], which: u64) {
    let place = usize::try_from(which % 5).expect("small");
    out[place] = out[place].wrapping_add(which);
}

/// And what `often` does.
fn often(out: &mut [u64; 12], input: &[u64; 4]) {
    let mut value = input[1];
    for round in 0..20u64 {
        let which = value % 9;
        value = match which {
            0 => value.wrapping_add(5),
            1 => value.wrapping_mul(7),
            2 => value ^ input[2],
            3 => value.wrapping_add(input[3]),
            4 => value.wrapping_sub(1),
            5 => turn(out, value % 16, value),
            6 => value >> 3,
            7 => value ^ (value << 5),
            _ => value.wrapping_add(round),
        };
        if which < 8 {
            step(out, which);
        }
        let place = usize::try_from(round % 5).expect("small");
        let which = out[place] % 8;
        if which < 7 {
            value = match which {
                0 | 2 | 4 | 6 => value ^ (1 << which),
                _ => value.wrapping_add(1 << which),
            };
            step(out, which);
        }
    }
    out[8] = value;
}

#[test]
fn compiled_switches_go_where_their_source_says() {
    let mut machine = Machine::new(link_bytes("jump_tables", &read("jump_tables")));
    // The context stays from run to run.
    let mut out = [0; 12];
    for seed in 0..60u64 {
        let input = [
            seed % 10,
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            seed * 77,
            !seed,
        ];
        out[8] = turn(&mut out, input[0], input[1]);
        assert_eq!(machine.run("once", &input), (0, out.to_vec()), "{input:?}");
        often(&mut out, &input);
        assert_eq!(machine.run("often", &input), (0, out.to_vec()), "{input:?}");
    }
}

/// A program that adds what it is given to an entry of a table of two, and goes there.
fn jumping(by: &str) -> LinkedProgram {
    let text = format!(
        "r2 = 0 ll; r0 = 0; r3 = *(u64 *)(r2 + 8); {by}; gotox r3; r0 = 1; exit; r0 = 2; exit
         r4 = 5 ll; exit"
    );
    let insns = asm(&text).expect("assembles");
    let mut prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns);
    prog.jump_tables.insert(0, vec![6, 8]);
    prog
}

#[test]
fn only_entries_of_the_table_are_reached() {
    let run = |by: &str| {
        let mut vm = Vm::new(config(1)).expect("address space");
        let loaded = vm.load(&object(vec![jumping(by)], Vec::new()), KFUNCS);
        let prog = loaded.expect("loads").programs[0];
        let args = RunArgs::new(harena_abi::KernAddr::NULL);
        let ran = vm.run(prog, &args, &mut TestHost::default());
        ran.map(|ran| (ran.ret, ran.insns)).map_err(|abort| {
            assert_eq!(abort.place.insn, 5, "where the jump is");
            abort.cause
        })
    };
    assert_eq!(run("r0 = r3"), Ok((2, 7)));
    assert_eq!(run("r3 -= 16"), Ok((1, 7)));
    let second = layout::TEXT_BASE + 8 * 8;
    for (by, address) in [
        // Other slots: before, between and behind the entries; half a load; the end.
        ("r3 -= 64", second - 64),
        ("r3 -= 8", second - 8),
        ("r3 += 8", second + 8),
        ("r3 += 24", second + 24),
        ("r3 += 40", second + 40),
        // Half a slot, another program, numbers.
        ("r3 += 1", second + 1),
        ("r3 -= 12", second - 12),
        ("r3 += 0x800000", second + 0x80_0000),
        ("r3 = 8", 8),
        ("r3 = 0", 0),
        ("r3 = -1", u64::MAX),
    ] {
        assert_eq!(run(by), Err(AbortCause::JumpTarget { address }), "{by}");
    }
}

#[test]
fn a_table_must_lead_to_instructions() {
    for (slot, target) in [(0, 11), (0, 13), (0, 1), (0, u32::MAX), (2, 6)] {
        let mut prog = jumping("r0 = 0");
        prog.jump_tables.clear();
        prog.jump_tables.insert(slot, vec![target]);
        let mut vm = Vm::new(config(1)).expect("address space");
        let loaded = vm.load(&object(vec![prog], Vec::new()), KFUNCS);
        let error = loaded.expect_err("no kernel would");
        assert!(matches!(error, VmLoadError::BadInsn { .. }), "{error}");
    }
}

#[test]
fn gotox_without_a_table_ends_the_run() {
    let mut bench = super::support::Bench::new("r0 = 0; gotox r1; exit", Vec::new());
    let abort = bench.try_run(0).expect_err("leads nowhere");
    assert_eq!(abort.cause, AbortCause::JumpTarget { address: 0 });
}

/// Both files call their tables alike, and have functions in the same sections.
#[test]
fn linked_switches_go_where_each_files_do() {
    let names = ["switch_a", "switch_b"];
    let files = names.map(|name| read_from("../bpf/tests/fixtures", name));
    let mut alone = [0, 1].map(|at| Machine::new(link_bytes(names[at], &files[at])));
    for order in [[0, 1], [1, 0]] {
        let inputs = order.map(|at| ObjectFile {
            name: names[at],
            bytes: &files[at],
        });
        let both = link_objects(&inputs).expect("they fit");
        let mut both = Machine::new(link_bytes("both", &both));
        for (alone, [one, two]) in alone
            .iter_mut()
            .zip([["a_one", "a_two"], ["b_one", "b_two"]])
        {
            for which in 0..17u64 {
                let input = [which, 0x1234_5678 + which, 0, 0];
                assert_eq!(
                    both.run(one, &input),
                    alone.run(one, &input),
                    "{one} {input:x?}"
                );
                for inner in 0..17u64 {
                    let input = [inner << 8 | which, 0x1234_5678, 0, 0];
                    assert_eq!(
                        both.run(two, &input),
                        alone.run(two, &input),
                        "{two} {input:x?}"
                    );
                }
            }
        }
    }
}
