//! Tail calls: which program runs, in which frame, how often, and what is counted and reported.

use harena_abi::{Errno, KernAddr};
use harena_bpf::{InitialSlot, LinkedMap, LinkedProgram, MapType, ProgType, ProgramIndex};
use harena_vm::{AbortCause, RunArgs, RunResult, StreamId, Vm, VmConfig, VmLoadError};

use super::support::{
    Bench, KFUNCS, RUN_AGAIN, TestHost, arena, config, generic, map, object, program,
};

fn programs(entries: u32) -> LinkedMap {
    map(MapType::PROG_ARRAY, 4, 4, entries)
}

/// A machine with these programs, of which all but the first lie in map 0, from index 0 on.
fn bench_with(texts: &[&str], mut maps: Vec<LinkedMap>, config: VmConfig) -> Bench {
    let programs: Vec<LinkedProgram> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| program(&format!("p{number}"), text))
        .collect();
    let rest = 1..u32::try_from(texts.len()).expect("few programs");
    let slots = rest.map(|n| (n - 1, InitialSlot::Program(ProgramIndex(n))));
    maps[0].slots = slots.collect();
    let mut vm = Vm::new(config).expect("address space");
    let loaded = vm.load(&object(programs, maps), KFUNCS).expect("loads");
    assert_eq!(vm.jit_refused(), None);
    let host = TestHost::default();
    Bench { vm, host, loaded }
}

fn bench(texts: &[&str]) -> Bench {
    bench_with(
        texts,
        vec![programs(4), map(MapType::ARRAY, 4, 8, 1)],
        config(2),
    )
}

/// Adds 1 to the value of map 1, with r1 kept in r6.
const COUNT: &str = "
    r6 = r1
    r1 = map_value(1, 0) ll; r2 = *(u64 *)(r1 + 0); r2 += 1; *(u64 *)(r1 + 0) = r2
    ";

#[test]
fn the_called_program_ends_the_run() {
    let main = "
        r2 = map(0) ll; r3 = 1; call 12
        r0 = 1
        exit";
    let wrong = "r0 = 2; exit";
    // Nothing but r1 is handed on.
    let right = "
        r0 = r1; r0 += r6; r0 += r7; r0 += r8; r0 += r9; r0 += r2
        exit";
    let mut bench = bench(&[main, wrong, right]);
    let result = bench.try_run(40).unwrap();
    assert_eq!(result, RunResult { ret: 40, insns: 10 });
    assert_eq!(bench.vm.insns_total(), 10);
}

#[test]
fn a_call_that_leads_nowhere_falls_through() {
    // The index is the context.
    let main = "
        r6 = r1; r7 = 7; r8 = 8
        r2 = map(0) ll; r3 = r6; r4 = 4; r5 = 5; call 12
        r0 = r7; r0 *= 10; r0 += r8
        exit";
    let mut bench = bench(&[main, "r0 = 1; exit"]);
    assert_eq!(bench.run(0), 1);
    for nowhere in [1, 3, 4, 0xffff_ffff] {
        let result = bench.try_run(nowhere).unwrap();
        assert_eq!(result, RunResult { ret: 78, insns: 12 });
    }
    // The index has 32 bits.
    assert_eq!(bench.run(0xff_0000_0000), 1);
    let (map, main) = (bench.loaded.maps[0], bench.loaded.programs[0]);
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    assert_eq!(vm.map_delete(map, &[0; 4], host), Ok(()));
    assert_eq!(vm.map_delete(map, &[0; 4], host), Err(Errno::ENOENT));
    assert_eq!(vm.map_set_program(map, 4, main), Err(Errno::E2BIG));
    assert_eq!(vm.map_set_program(map, 3, bench.loaded.programs[1]), Ok(()));
    assert_eq!(vm.map_program(map, 3), Some(bench.loaded.programs[1]));
    assert_eq!(bench.run(0), 78);
    assert_eq!(bench.run(3), 1);
}

#[test]
fn a_run_makes_33_tail_calls() {
    let again = format!(
        "{COUNT}
        r1 = r6; r2 = map(0) ll; r3 = 3; call 12
        r1 = r6; r2 = map(0) ll; r3 = 0; call 12
        r1 = map_value(1, 0) ll; r0 = *(u64 *)(r1 + 0)
        exit"
    );
    let mut bench = bench(&[&again, &again]);
    // The program itself and 33 others; the entry that is empty does not count.
    assert_eq!(bench.run(0), 34);
    // Each run has its own count.
    assert_eq!(bench.run(0), 68);
}

#[test]
fn only_the_frame_of_a_function_is_replaced() {
    let main = "
        r6 = 60; r7 = 7; r8 = r1
        *(u64 *)(r10 - 8) = 100
        call f
        r0 += r6; r0 += r7
        r1 = *(u64 *)(r10 - 8); r0 += r1
        exit
    f:
        r6 = 1000; r7 = 1000
        r1 = 5
        r2 = map(0) ll; r3 = 0; call 12
        r0 = 1
        exit";
    // Its own functions, and a tail call of its own.
    let second = "
        r6 = r1; r9 = 3000
        *(u64 *)(r10 - 8) = 0
        call g
        r1 = r6; r1 += r0
        r2 = map(0) ll; r3 = 1; call 12
        r0 = 2
        exit
    g:
        r6 = 4000
        *(u64 *)(r10 - 8) = 0
        r0 = 1
        exit";
    let third = "r0 = r1; r0 *= 1000; exit";
    let mut bench = bench(&[main, second, third]);
    let result = bench.try_run(0).unwrap();
    assert_eq!(result.ret, 6000 + 60 + 7 + 100);
    assert_eq!(result.insns, 5 + 6 + 9 + 4 + 3 + 5);
}

#[test]
fn callbacks_are_replaced_like_functions() {
    let main = "
        r1 = 5; r2 = func(each) ll; r3 = 0; r4 = 0; call 181
        exit
    each:
        r2 = map(0) ll; r3 = 0; call 12
        r0 = 0
        exit";
    // Ends the loop at its third round.
    let second = "r0 = 0; if r1 < 2 goto out; r0 = 1; out: exit";
    assert_eq!(bench(&[main, second]).run(0), 3);
}

#[test]
fn tail_calls_and_runs_nest() {
    // The second program runs the third anew, which has its own count of tail calls.
    let main = "r2 = map(0) ll; r3 = 0; call 12; r0 = 1; exit";
    let second = format!("call kfunc {RUN_AGAIN}; r0 += 1; exit");
    let again = format!(
        "{COUNT}
        r1 = r6; r2 = map(0) ll; r3 = 1; call 12
        r1 = map_value(1, 0) ll; r0 = *(u64 *)(r1 + 0)
        exit"
    );
    let mut bench = bench(&[main, &second, &again]);
    bench.host.again = Some(bench.loaded.programs[2]);
    assert_eq!(bench.run(0), 34 + 1);
}

#[test]
fn what_ends_the_called_program_ends_the_run() {
    let main = "
        call f
        r0 = 1
        exit
    f:
        r2 = map(0) ll; r3 = 0; call 12
        r0 = 2
        exit";
    let mut bench = bench(&[main, "r0 = 3; r1 = 0; call 250; exit"]);
    let abort = bench.try_run(0).unwrap_err();
    assert_eq!(
        abort.to_string(),
        "program `p1`, insn 2: helper 250 is not supported"
    );
    assert_eq!(abort.insns, 7);
    // What was running is put away: the next run begins anew.
    assert_eq!(bench.try_run(0).unwrap_err(), abort);
    let thrown = format!("r1 = 77; call kfunc {}; exit", generic("bpf_throw"));
    let mut bench = self::bench(&[main, &thrown]);
    assert_eq!(bench.run(0), 77);
}

#[test]
fn every_budget_ends_where_it_must() {
    let main = "
        r6 = 4
        call f
        r0 += r6
        exit
    f:
        r2 = map(0) ll; r3 = 0; call 12
        r0 = 2
        exit";
    let second = "r1 = 0; r2 = map(0) ll; r3 = 1; call 12; r0 = 0; exit";
    let third = "r0 = 1; r0 += r1; exit";
    let texts = [main, second, third];
    let run = |insn_budget| {
        let config = VmConfig {
            insn_budget,
            ..config(2)
        };
        bench_with(&texts, vec![programs(4)], config).try_run(0)
    };
    let whole = run(1000).unwrap();
    assert_eq!(whole, RunResult { ret: 5, insns: 14 });
    assert_eq!(run(whole.insns), Ok(whole));
    let places: Vec<String> = (1..whole.insns)
        .map(|budget| {
            let abort = run(budget).unwrap_err();
            assert_eq!(abort.cause, AbortCause::Budget { budget });
            assert_eq!(abort.insns, budget);
            format!("{} {}", abort.place.program, abort.place.insn)
        })
        .collect();
    let expected = [
        "p0 1", "p0 4", "p0 6", "p0 7", "p1 0", "p1 1", "p1 3", "p1 4", "p2 0", "p2 1", "p2 2",
        "p0 2", "p0 3",
    ];
    assert_eq!(places, expected);
}

#[test]
fn reports_name_the_program_of_each_frame() {
    // Both programs have an arena of their own, and read a page that is not there.
    let main = "
        r6 = 0x10000000a000 ll
        r6 = addr_space_cast(r6, 0, 1)
        r1 = map(1) ll
        call f
        r7 = r0
        r0 = *(u64 *)(r6 + 0)
        r0 += r7
        exit
    f:
        r2 = map(0) ll; r3 = 0; call 12
        r0 = 2
        exit";
    let second = "
        r1 = map(2) ll
        r1 = 0x200000003000 ll
        r1 = addr_space_cast(r1, 0, 1)
        r0 = *(u64 *)(r1 + 0)
        r0 += 9
        exit";
    let other = LinkedMap {
        map_extra: 0x2000_0000_0000,
        ..arena(16)
    };
    let maps = vec![programs(1), arena(16), other];
    let mut bench = bench_with(&[main, second], maps, config(2));
    assert_eq!(bench.run(0), 9);
    let seen: Vec<(&str, u32, u64)> = bench
        .vm
        .violations()
        .iter()
        .map(|v| (v.program.as_str(), v.insn, v.address))
        .collect();
    let expected = [("p1", 5, 0x2000_0000_3000), ("p0", 7, 0x1000_0000_a000)];
    assert_eq!(seen, expected);
    let [first, second] = [0, 1].map(|n| {
        let prog = bench.loaded.programs[n];
        bench.vm.drain_stream(prog, StreamId::Stderr)
    });
    let trace = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != "Call trace:");
        lines
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(trace(&second), ["p1+0x28/0x40", "p0+0x28/0x50"]);
    assert_eq!(trace(&first), ["p0+0x38/0x50"]);
}

#[test]
fn programs_of_an_array_are_of_one_kind() {
    let using = |kind: ProgType, sleepable: bool| LinkedProgram {
        prog_type: kind,
        sleepable,
        ..program("main", "r2 = map(0) ll; r3 = 0; call 12; r0 = 0; exit")
    };
    let other = |kind: ProgType, sleepable: bool| LinkedProgram {
        prog_type: kind,
        sleepable,
        ..program("other", "r0 = 1; exit")
    };
    let load = |programs: Vec<LinkedProgram>, declared: bool| {
        let mut array = self::programs(2);
        if declared {
            array.slots = [(0, InitialSlot::Program(ProgramIndex(1)))].into();
        }
        let mut vm = Vm::new(config(1)).unwrap();
        let loaded = vm.load(&object(programs, vec![array]), KFUNCS)?;
        Ok::<_, VmLoadError>((vm, loaded))
    };
    let (syscall, ops) = (ProgType::Syscall, ProgType::StructOps);
    assert!(load(vec![using(syscall, false), other(syscall, false)], true).is_ok());
    for other in [other(ops, false), other(syscall, true)] {
        let error = load(vec![using(syscall, false), other.clone()], true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "map `m`: EINVAL: its value 0 does not fit"
        );
        // Undeclared, it is the embedder who is refused.
        let (mut vm, loaded) = load(vec![using(syscall, false), other], false).unwrap();
        let (map, programs) = (loaded.maps[0], loaded.programs);
        assert_eq!(vm.map_set_program(map, 0, programs[1]), Err(Errno::EINVAL));
        assert_eq!(vm.map_set_program(map, 0, programs[0]), Ok(()));
    }
    // Two programs that use the array are tied to it as well.
    let error = load(vec![using(syscall, false), using(ops, false)], false).unwrap_err();
    let why = "map `m`: EINVAL: it is for other programs than `main`";
    assert_eq!(error.to_string(), why);
    // An array that nobody uses belongs to the first program that is put in.
    let both = vec![other(syscall, false), other(ops, false)];
    let (mut vm, loaded) = load(both, false).unwrap();
    let (map, programs) = (loaded.maps[0], loaded.programs);
    assert_eq!(vm.map_set_program(map, 1, programs[1]), Ok(()));
    assert_eq!(vm.map_set_program(map, 0, programs[0]), Err(Errno::EINVAL));
}

#[test]
fn program_arrays_are_made_and_used_as_the_kernels() {
    use Errno::{EINVAL, ENOTSUPP};
    let refused = |spec: LinkedMap| {
        let mut vm = Vm::new(config(1)).unwrap();
        let loaded = vm.load(&object(vec![program("main", "exit")], vec![spec]), KFUNCS);
        match loaded {
            Err(VmLoadError::Map { errno, .. }) => Some(errno),
            Err(_) => panic!("another error"),
            Ok(_) => None,
        }
    };
    let flags = |map_flags| LinkedMap {
        map_flags,
        ..programs(2)
    };
    assert_eq!(refused(programs(2)), None);
    assert_eq!(refused(programs(0)), Some(EINVAL));
    assert_eq!(refused(map(MapType::PROG_ARRAY, 8, 4, 2)), Some(EINVAL));
    assert_eq!(refused(map(MapType::PROG_ARRAY, 4, 8, 2)), Some(EINVAL));
    assert_eq!(refused(flags(1 << 7)), Some(EINVAL));
    assert_eq!(refused(flags(1 << 10)), Some(EINVAL));
    assert_eq!(refused(flags(1 << 3)), None);
    let outer = LinkedMap {
        inner: Some(Box::new(programs(2))),
        ..map(MapType::ARRAY_OF_MAPS, 4, 4, 1)
    };
    assert_eq!(refused(outer), Some(ENOTSUPP));
    let ends = |text: &str| {
        let mut bench = bench(&[text]);
        bench.try_run(0).unwrap_err().cause.to_string()
    };
    let lookup = "*(u64 *)(r10 - 8) = 0; r1 = map(0) ll; r2 = r10; r2 += -8; call 1; exit";
    let why = "`bpf_map_lookup_elem`: map `m` is of type prog_array";
    assert_eq!(ends(lookup), why);
    let no_array = "r2 = 8; r3 = 0; call 12; r0 = 0; exit";
    assert_eq!(ends(no_array), "`bpf_tail_call`: 0x8 is no program array");
    let other_map = ends("r2 = map(1) ll; r3 = 0; call 12; r0 = 0; exit");
    assert!(other_map.ends_with("is no program array"), "{other_map}");
}

#[test]
fn a_short_context_is_the_interpreters() {
    // Machine code relies on a context of two words; there is one.
    let main = "r2 = map(0) ll; r3 = 0; call 12; r0 = 1; exit";
    let second = "r0 = *(u64 *)(r1 + 0); r2 = *(u64 *)(r1 + 8); r0 += r2; exit";
    let mut bench = bench(&[main, second]);
    let long = bench.vm.alloc_args(2).unwrap();
    bench.vm.write_args(long, &[30, 12]).unwrap();
    let prog = bench.loaded.programs[0];
    let args = RunArgs::new(long);
    let result = bench.vm.run(prog, &args, &mut bench.host).unwrap();
    assert_eq!(result, RunResult { ret: 42, insns: 7 });
    let args = RunArgs::new(KernAddr::new(0x10));
    let result = bench.vm.run(prog, &args, &mut bench.host).unwrap();
    assert_eq!(result, RunResult { ret: 0, insns: 7 });
    assert_eq!(bench.vm.violations().len(), 2);
}

/// A kernel refuses to load this: whatever the call leads to, nobody is left to unlock.
#[test]
fn a_run_that_holds_something_makes_no_tail_call() {
    let lock = generic("bpf_rcu_read_lock");
    let main = format!(
        "r6 = r1; call kfunc {lock}; r1 = r6; r2 = map(0) ll; r3 = 7; call 12; r0 = 0; exit"
    );
    let mut bench = bench(&[&main, "r0 = 1; exit"]);
    let error = bench.try_run(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "program `p0`, insn 1: RCU section, entered here by `bpf_rcu_read_lock`, is not left at \
         the tail call"
    );
}

/// No verified program can tell, but both engines must do the same: a function that a tail call
/// ends keeps r1 to r5 as one that exits does.
#[test]
fn a_tail_call_keeps_the_registers_that_its_caller_reads() {
    let main = "
        call f; r0 += r4; exit
        f: r4 = 40; r2 = map(0) ll; r3 = 0; call 12; r0 = 9; exit";
    let mut bench = bench(&[main, "r0 = 2; exit"]);
    assert_eq!(bench.run(0), 42);
}
