//! Programs that a verifier would refuse: each is contained or ended, none harms the host.
//!
//! Items 5, 15 and 16 of the adversarial list, and what a loader may be handed.

use std::sync::Arc;

use harena_abi::{ArenaOffset, KernAddr, Nanos, UserAddr};
use harena_arena::{Arena, ArenaSpec};
use harena_bpf::isa::Insn;
use harena_bpf::{LinkedMap, LinkedProgram, MapType, ProgType};
use harena_vm::{
    AbortCause, ContextSet, Engine, RunArgs, ViolationKind, Vm, VmConfig, VmLoadError, layout,
};

use crate::numbers::Random;

use super::ENGINE;
use super::support::{
    Bench, KFUNCS, PANICS, RUN_AGAIN, SLEEPS, arena, config, map, object, program,
};

fn abort(text: &str) -> AbortCause {
    let config = VmConfig {
        insn_budget: 100_000,
        ..config(2)
    };
    let mut bench = Bench::with_config(text, Vec::new(), config);
    bench.try_run(0).expect_err("must not end well").cause
}

/// Stores, updates and loads at `address`, which the program has as its context, as a constant,
/// and from memory: the compiler knows something else of each.
fn accesses(address: u64) -> [String; 3] {
    let constant = format!("r6 = {address:#x} ll");
    let ways = [
        "r6 = r1; r6 += 0",
        &constant,
        "*(u64 *)(r10 - 8) = r1; r6 = *(u64 *)(r10 - 8)",
    ];
    ways.map(|way| {
        format!(
            "{way}; r0 = 7; r1 = 1; *(u64 *)(r6 + 0) = 3; lock *(u64 *)(r6 + 0) += r1
            r0 = *(u64 *)(r6 + 0); exit"
        )
    })
}

/// None of these accesses has an effect, and each is reported at its place.
fn is_out_of_reach(bench: &mut Bench, address: u64, first: u32, text: &str) {
    assert_eq!(bench.run(address), 0, "{address:#x}: {text}");
    let violations = bench.vm.violations().iter();
    let found: Vec<_> = violations
        .map(|v| (v.kind, v.address, v.insn, v.access))
        .collect();
    let expected = [(first, "WRITE"), (first + 1, "WRITE"), (first + 2, "READ")]
        .map(|(insn, access)| (ViolationKind::Wild, address, insn, access));
    assert_eq!(found, expected, "{text}");
}

fn are_out_of_reach(addresses: &[u64]) {
    for &address in addresses {
        for text in accesses(address) {
            is_out_of_reach(&mut Bench::new(&text, Vec::new()), address, 4, &text);
            // Small numbers are places in a program's own arena.
            if address > u64::from(u32::MAX) {
                let text = format!("r9 = map(0) ll; {text}");
                is_out_of_reach(&mut Bench::new(&text, vec![arena(4)]), address, 6, &text);
            }
        }
    }
}

#[test]
fn wild_pointers_are_contained_and_reported() {
    let host = Box::new(0x5a5a_5a5a_u64);
    let host_heap = std::ptr::from_ref(&*host).addr() as u64;
    #[expect(
        clippy::fn_to_numeric_cast_any,
        reason = "the address is what is tried"
    )]
    let own_code = (wild_pointers_are_contained_and_reported as fn() as *const ()).addr() as u64;
    let mut wild = vec![
        0,
        1,
        0xffff_ffff_ffff_fff9,
        0x8000_0000_0000_0000,
        0xffff_ffff_ff60_0000,
        host_heap,
        own_code,
        layout::GUEST_BASE,
        layout::HEAP_END,
        layout::ARENAS_START,
        layout::ARENAS_START + layout::ARENA_STRIDE * 3 + 0x8000,
        layout::TEXT_BASE,
    ];
    let stack = &raw const wild;
    wild.push(stack.addr() as u64);
    are_out_of_reach(&wild);
    assert_eq!(*host, 0x5a5a_5a5a);
}

/// By its addresses in the host and for users; one of its pages is there, the next one is not.
#[test]
fn arenas_of_others_are_out_of_reach() {
    const USER: u64 = 0x2000_0000_0000;
    let spec = ArenaSpec {
        max_entries: 4,
        map_flags: harena_abi::bpf::BPF_F_MMAPABLE,
        map_extra: USER,
        ..ArenaSpec::default()
    };
    let alone = Arc::new(Arena::create(&spec).unwrap());
    let of_map = LinkedMap {
        map_extra: USER,
        ..arena(4)
    };
    let other = Bench::new("r1 = map(0) ll; r0 = 0; exit", vec![of_map]);
    let of_vm = Arc::clone(other.vm.arena(other.loaded.maps[0]).unwrap());
    for arena in [alone, of_vm] {
        let page = arena.alloc_pages(Some(UserAddr::new(USER)), 1, 0);
        assert!(page.is_ok());
        let word = arena.ptr::<u64>(ArenaOffset::new(8));
        word.write(0x5a5a_5a5a);
        let host = arena.host_ptr(ArenaOffset::new(8)).addr() as u64;
        are_out_of_reach(&[host, host + 0x1000, USER + 8, USER + 0x1008]);
        assert_eq!(word.read(), 0x5a5a_5a5a);
        assert_eq!((arena.pages_in_use(), arena.faults_recovered()), (1, 0));
    }
}

/// The handler of faults runs on it.
#[test]
fn the_alternate_signal_stack_is_out_of_reach() {
    let mut stack = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: only asks, and `stack` is ours.
    let asked = unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) };
    assert_eq!((asked, stack.ss_flags & libc::SS_DISABLE), (0, 0));
    let start = stack.ss_sp.addr() as u64;
    are_out_of_reach(&[start, start + stack.ss_size as u64 - 8]);
}

/// Memory that can be executed and belongs to no file, the kernel's own pages aside.
fn machine_code() -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("on Linux");
    let lines = maps.lines().map(|line| line.split_whitespace().collect());
    let code = lines.filter(|fields: &Vec<&str>| fields.len() == 5 && fields[1] == "r-xp");
    let starts = code.filter_map(|fields| fields[0].split('-').next());
    starts
        .map(|start| u64::from_str_radix(start, 16).expect("an address"))
        .collect()
}

#[test]
fn machine_code_is_out_of_reach() {
    let mut other = Bench::new("r0 = 5; exit", Vec::new());
    let code = machine_code();
    assert!(ENGINE == Engine::Interpreter || !code.is_empty());
    are_out_of_reach(&code);
    assert_eq!(other.run(0), 5);
    // A program's own code, which runs the same a second time.
    let [_, _, text] = accesses(0);
    let mut own = Bench::new(&text, Vec::new());
    for address in machine_code() {
        assert_eq!([own.run(address), own.run(address)], [0, 0]);
        let counts: Vec<u64> = own.vm.violations().iter().map(|v| v.count).collect();
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
        assert_eq!(counts.len(), 3);
    }
}

#[test]
fn violations_are_counted_per_place_and_bounded() {
    let text =
        "r6 = r1; r2 = 1000; again: r0 = *(u64 *)(r6 + 0); r2 += -1; if r2 != 0 goto again; exit";
    let mut bench = Bench::new(text, Vec::new());
    bench.run(0);
    assert_eq!(bench.vm.violations().len(), 1);
    assert_eq!(bench.vm.violations()[0].count, 1000);
    // 2,000 places: 1,024 are kept.
    let text = format!("{}exit", "r0 = *(u64 *)(r1 + 0)\n".repeat(2000));
    let mut bench = Bench::new(&text, Vec::new());
    bench.run(0);
    assert_eq!(bench.vm.violations().len(), 1024);
    assert_eq!(bench.vm.violations_dropped(), 976);
}

#[test]
fn frozen_data_is_not_written() {
    let mut data = map(MapType::ARRAY, 4, 8, 1);
    data.frozen = true;
    data.contents = harena_bpf::Contents::from_bytes(vec![9; 8]);
    let text = "r1 = map_value(0, 0) ll; *(u8 *)(r1 + 0) = 1; w0 = *(u8 *)(r1 + 0); exit";
    let mut bench = Bench::new(text, vec![data]);
    assert_eq!(bench.run(0), 9);
    assert_eq!(bench.vm.violations()[0].kind, ViolationKind::Wild);
}

#[test]
fn endless_programs_end_at_exactly_the_budget() {
    let budget = 100_000;
    let endless = [
        "goto -1",
        "r1 = 8388608; r2 = func(body) ll; r3 = 0; r4 = 0; call 181; exit; body: r0 = 0; exit",
        "outer: r1 = 8388608; r2 = func(body) ll; r3 = 0; r4 = 0; call 181; exit
         body: r1 = 8388608; r2 = func(inner) ll; r3 = 0; r4 = 0; call 181; r0 = 0; exit
         inner: r0 = 0; exit",
        "again: may_goto out; goto again; out: exit",
    ];
    for text in endless {
        let config = VmConfig {
            insn_budget: budget,
            ..config(1)
        };
        let mut bench = Bench::with_config(text, Vec::new(), config);
        let abort = bench.try_run(0).expect_err(text);
        assert_eq!(abort.cause, AbortCause::Budget { budget }, "{text}");
        assert_eq!(abort.insns, budget, "{text}");
        assert_eq!(bench.vm.insns_total(), budget);
    }
}

#[test]
fn a_budget_that_just_suffices_is_not_exceeded() {
    let run = |insn_budget| {
        let config = VmConfig {
            insn_budget,
            ..config(1)
        };
        Bench::with_config("r0 = 1; r0 = 2; exit", Vec::new(), config).try_run(0)
    };
    assert_eq!(run(3).unwrap().insns, 3);
    assert!(run(2).is_err());
}

#[test]
fn stacks_are_bounded() {
    let out_of_frame = [
        "r0 = *(u64 *)(r10 - 520); exit",
        "r0 = *(u64 *)(r10 - 4); exit",
        "r0 = 0; *(u8 *)(r10 + 0) = 1; exit",
        "r1 = 1; lock *(u64 *)(r10 - 513) += r1; exit",
    ];
    for text in out_of_frame {
        assert!(
            matches!(abort(text), AbortCause::StackBounds { .. }),
            "{text}"
        );
    }
    assert_eq!(
        abort("again: call again; exit"),
        AbortCause::CallDepth { frames: 9 }
    );
    let recursion = "body: r1 = 2; r2 = func(body) ll; r3 = 0; r4 = 0; call 181; exit";
    assert_eq!(abort(recursion), AbortCause::CallDepth { frames: 9 });
    // Eight frames of 512 bytes are fine.
    let deep = "r6 = 0; call f; r0 = 3; exit
        f: if r1 == 7 goto out; r1 += 1; *(u64 *)(r10 - 512) = 1; call f; out: r0 = 0; exit";
    let deep = deep.replace("r6 = 0;", "r1 = 1;");
    assert_eq!(Bench::new(&deep, Vec::new()).run(0), 3);
}

#[test]
fn uninitialised_memory_is_equal_in_every_run() {
    let text = "r0 = *(u64 *)(r10 - 8); *(u64 *)(r10 - 8) = 5; exit";
    let runs = || {
        let mut bench = Bench::new(text, Vec::new());
        [bench.run(0), bench.run(0)]
    };
    assert_eq!(runs(), runs());
}

#[test]
fn nested_runs_are_bounded_and_share_the_budget() {
    let text = format!("call kfunc {RUN_AGAIN}; exit");
    let mut bench = Bench::new(&text, Vec::new());
    let abort = bench.try_run(0).expect_err("it calls itself");
    assert_eq!(abort.cause, AbortCause::NestedRuns { depth: 9 });
    // The machine is usable afterwards.
    let other = object(vec![program("other", "r0 = 4; exit")], Vec::new());
    let loaded = bench.vm.load(&other, KFUNCS).unwrap();
    bench.host.again = Some(loaded.programs[0]);
    let result = bench.try_run(0).unwrap();
    assert_eq!((result.ret, result.insns), (4, 4));
}

#[test]
fn kfuncs_are_refused_where_they_are_not_legal() {
    let text = format!("call kfunc {SLEEPS}; exit");
    let mut sleepable = program("main", &text);
    sleepable.sleepable = true;
    for (prog, contexts, legal) in [
        (sleepable.clone(), ContextSet(1), true),
        (sleepable, ContextSet(2), false),
        (program("main", &text), ContextSet(1), false),
    ] {
        let mut bench = Bench::new("exit", Vec::new());
        let loaded = bench
            .vm
            .load(&object(vec![prog], Vec::new()), KFUNCS)
            .unwrap();
        let args = RunArgs {
            contexts,
            ..RunArgs::new(KernAddr::NULL)
        };
        let result = bench.vm.run(loaded.programs[0], &args, &mut bench.host);
        match result {
            Ok(result) => assert!(legal && result.ret == 7),
            Err(abort) => {
                assert!(!legal);
                let name = "test_sleeps".to_owned();
                assert_eq!(abort.cause, AbortCause::KfuncContext { name });
            }
        }
    }
}

#[test]
fn poisoned_instructions_trap_only_if_reached() {
    let load = |text: &str| {
        let mut prog = program("main", text);
        let slot = u32::try_from(prog.insns.len() - 2).unwrap();
        prog.poisoned
            .insert(slot, "field `task_struct.nothing`".into());
        let mut bench = Bench::new("exit", Vec::new());
        bench.loaded = bench
            .vm
            .load(&object(vec![prog], Vec::new()), KFUNCS)
            .unwrap();
        bench.try_run(0)
    };
    assert_eq!(
        load("r0 = 5; goto out; out: exit; r0 = 1; exit")
            .unwrap()
            .ret,
        5
    );
    let abort = load("r0 = 5; call 195896080; exit").unwrap_err();
    assert_eq!(
        abort.to_string(),
        "program `main`, insn 1: reached an instruction that could not be linked: \
         field `task_struct.nothing`"
    );
}

#[test]
fn malformed_programs_are_refused_with_their_place() {
    let bad: &[(&[Insn], &str)] = &[
        (
            &[],
            "program `main` has 0 instructions, allowed are 1 to 1000000",
        ),
        (
            &[Insn::new(0x18, 1, 0, 0, 0)],
            "ldimm64 without its second slot",
        ),
        (&[Insn::new(0xb7, 11, 0, 0, 0)], "no register r11"),
        (
            &[Insn::new(0xb7, 10, 0, 0, 0)],
            "frame pointer is read only",
        ),
        (
            &[Insn::new(0x05, 0, 0, 5, 0)],
            "jump by +5 leads outside the program",
        ),
        (
            &[Insn::new(0x05, 0, 0, -2, 0)],
            "jump by -2 leads outside the program",
        ),
        (&[Insn::new(0xff, 0, 0, 0, 0)], "unknown instruction 0xff"),
        (&[Insn::new(0x8d, 1, 0, 0, 0)], "callx is not supported"),
        (&[Insn::new(0x20, 0, 0, 0, 0)], "unknown instruction 0x20"),
        (
            &[Insn::new(0x18, 1, 1, 0, 9), Insn::new(0, 0, 0, 0, 0)],
            "refers to map number 9",
        ),
        (
            &[Insn::new(0x85, 0, 2, 0, 12345)],
            "no kfunc has number 12345",
        ),
        (
            &[Insn::new(0xdb, 10, 1, -8, 0x77)],
            "unknown instruction 0xdb",
        ),
    ];
    for (insns, expected) in bad {
        let prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns.to_vec());
        let mut vm = Vm::new(config(1)).unwrap();
        let error = vm
            .load(&object(vec![prog], Vec::new()), KFUNCS)
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    // A jump into the middle of a ldimm64.
    let [low, high] = Insn::ldimm64(0, 0, 5);
    let insns = vec![Insn::new(0x05, 0, 0, 1, 0), low, high];
    let prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns);
    let mut vm = Vm::new(config(1)).unwrap();
    let error = vm
        .load(&object(vec![prog], Vec::new()), KFUNCS)
        .unwrap_err();
    assert!(matches!(error, VmLoadError::BadInsn { .. }), "{error}");
}

#[test]
fn what_only_a_verifier_would_catch_ends_the_run() {
    assert_eq!(abort("r0 = 1"), AbortCause::FellOffEnd);
    assert!(matches!(
        abort("call 250; exit"),
        AbortCause::UnsupportedHelper { id: 250 }
    ));
    assert!(matches!(
        abort("call 999999; exit"),
        AbortCause::UnsupportedHelper { .. }
    ));
    assert!(matches!(
        abort("r1 = addr_space_cast(r1, 0, 1); exit"),
        AbortCause::NoArena
    ));
    let bad_map = "r1 = 5; r2 = r10; r2 += -8; call 1; exit";
    assert!(matches!(abort(bad_map), AbortCause::BadArgument { .. }));
    let bad_callback = "r1 = 5; r2 = 77; r3 = 0; r4 = 0; call 181; exit";
    assert_eq!(abort(bad_callback), AbortCause::BadCallback { addr: 77 });
    let on_stack = "*(u64 *)(r10 - 8) = 0; r1 = r10; r1 += -8; call 93; exit";
    let cause = abort(on_stack);
    assert!(
        cause
            .to_string()
            .ends_with("is no bpf_spin_lock in a map value or an object"),
        "{cause}"
    );
}

/// No sequence of bytes may bring the loader or the engine down.
#[test]
fn random_slots_never_panic() {
    let mut random = Random::new(1);
    let config = VmConfig {
        insn_budget: 2_000,
        ..config(2)
    };
    let data = map(MapType::ARRAY, 4, 64, 4);
    let mut bench = Bench::with_config("exit", vec![data, arena(4)], config);
    let codes: Vec<u8> = (0..=255).filter(|c| c & 7 != 0 || *c == 0x18).collect();
    let mut ran = 0;
    for _ in 0..20_000 {
        let len = random.below(12) + 1;
        let mut insns = Vec::new();
        for _ in 0..len {
            let code = random.pick(&codes);
            let [dst, src, off, imm, ..] = random.next().to_le_bytes();
            let imm = if code == 0x85 {
                i32::from(imm)
            } else {
                i32::from(imm.cast_signed())
            };
            let off = i16::from(off.cast_signed()) % 9;
            let is_load = code == 0x18;
            let src = if is_load || code == 0x85 { 0 } else { src % 11 };
            insns.push(Insn::new(code, dst % 10, src, off, imm));
            if is_load {
                insns.push(Insn::new(0, 0, 0, 0, 0));
            }
        }
        insns.push(Insn::new(0x95, 0, 0, 0, 0));
        let prog = LinkedProgram::from_insns("random", ProgType::Syscall, insns);
        let Ok(loaded) = bench.vm.load(&object(vec![prog], Vec::new()), KFUNCS) else {
            continue;
        };
        let args = RunArgs::new(KernAddr::new(random.next()));
        let _any = bench.vm.run(loaded.programs[0], &args, &mut bench.host);
        ran += 1;
    }
    assert!(ran > 100, "only {ran} programs were loadable");
}

#[test]
fn timers_fire_rearm_and_cancel() {
    let mut data = map(MapType::ARRAY, 4, 32, 2);
    data.name = "timers".to_owned();
    let text = "
        r6 = map_value(0, 48) ll
        r1 = r6; r2 = map(0) ll; r3 = 1; call 169
        r7 = r0
        r1 = r6; r2 = map(0) ll; r3 = 1; call 169
        r8 = r0
        r1 = r6; r2 = func(fired) ll; call 170
        r1 = r6; r2 = 1000; r3 = 0; call 171
        r0 += r7
        r0 += r8
        exit
    fired:
        r6 = r3
        r7 = *(u32 *)(r2 + 0)
        *(u64 *)(r6 + 0) = r7
        r1 = r6; r1 += 16; call 172
        r9 = r0
        r1 = r6; r1 += 16; r2 = 500; r3 = 0; call 171
        r0 = r9
        exit";
    let mut bench = Bench::new(text, vec![data]);
    bench.host.now = harena_abi::SimTime::from_ns(5_000);
    // Initialising twice is EBUSY.
    assert_eq!(bench.run(0), (-16i64).cast_unsigned());
    let (&timer, arm) = bench.host.armed.iter().next().unwrap();
    assert_eq!(arm.at.as_ns(), 6_000);
    bench.host.now = bench.host.now.after(Nanos::new(1_000));
    bench.host.armed.clear();
    let fired = bench
        .vm
        .fire_timer(timer, ContextSet::ANY, &mut bench.host)
        .unwrap();
    // A callback cannot cancel its own timer: EDEADLK. It may arm it again.
    assert_eq!(fired.unwrap().ret, (-35i64).cast_unsigned());
    assert_eq!(bench.host.armed[&timer].at.as_ns(), 6_500);
    let values = bench.vm.map(bench.loaded.maps[0]).value_addr().unwrap();
    let second = values.checked_add(32).unwrap();
    assert_eq!(bench.vm.mem().read_u64(second), Ok(1));
    bench.vm.cancel_all_timers(&mut bench.host);
    assert!(bench.host.armed.is_empty());
    let late = bench
        .vm
        .fire_timer(timer, ContextSet::ANY, &mut bench.host)
        .unwrap();
    assert_eq!(late, None);
}

#[test]
fn work_of_helpers_and_kfuncs_counts_against_the_budget() {
    const MIB: u32 = 1 << 20;
    let alloc = super::support::generic("bpf_arena_alloc_pages");
    let free = super::support::generic("bpf_arena_free_pages");
    let value = "r1 = map_value(0, 0) ll; r3 = map_value(0, 0) ll; r2 = 1048576";
    let texts = [
        // Copy, compare and clear a mebibyte.
        format!("{value}; call 113; exit"),
        format!("{value}; *(u8 *)(r1 + 0) = 1; call 182; exit"),
        format!("{value}; call 115; exit"),
        format!("{value}; call 112; exit"),
        // Update and delete a large element.
        "r1 = map(1) ll; r2 = map_value(0, 0) ll; r3 = r2; r4 = 0; call 2; exit".to_owned(),
        "r1 = map(1) ll; r2 = map_value(0, 0) ll; call 3; exit".to_owned(),
        // Many pages.
        format!("r1 = map(2) ll; r2 = 0; r3 = 1024; r4 = -1; r5 = 0; call kfunc {alloc}; exit"),
        format!("r1 = map(2) ll; r2 = 0; r3 = -1; call kfunc {free}; exit"),
    ];
    for text in texts {
        let maps = vec![
            map(MapType::ARRAY, 4, MIB, 1),
            map(MapType::HASH, 4, 2 * MIB, 4),
            arena(2048),
        ];
        let config = VmConfig {
            insn_budget: 10_000,
            ..config(1)
        };
        let mut bench = Bench::with_config(&text, maps, config);
        let ended = bench.try_run(0).expect_err(&text);
        assert_eq!(ended.cause, AbortCause::Budget { budget: 10_000 }, "{text}");
        assert_eq!(bench.vm.insns_total(), 10_000, "{text}");
    }
}

#[test]
fn no_argument_is_longer_than_a_verifier_allows() {
    for helper in [113, 112, 115, 182] {
        let text = format!(
            "r1 = map_value(0, 0) ll; r2 = 536870913; r3 = map_value(0, 0) ll; call {helper}; exit"
        );
        let mut bench = Bench::new(&text, vec![map(MapType::ARRAY, 4, 1 << 16, 1 << 16)]);
        let cause = bench.try_run(0).expect_err(&text).cause;
        assert!(matches!(cause, AbortCause::BadArgument { .. }), "{cause}");
    }
}

#[test]
fn a_walk_over_a_huge_array_needs_no_list_of_its_keys() {
    let text = "r1 = map(0) ll; r2 = func(stop) ll; r3 = 0; r4 = 0; call 164; exit
        stop: r0 = 1; exit";
    let mut bench = Bench::new(text, vec![map(MapType::ARRAY, 4, 8, 1 << 29)]);
    assert_eq!(bench.run(0), 1);
}

#[test]
fn a_walk_goes_on_behind_an_element_that_its_callback_deletes() {
    let fill = |key: u32| {
        format!(
            "*(u32 *)(r10 - 4) = {key}; r1 = map(0) ll; r2 = r10; r2 += -4; r3 = r2; r4 = 0; call 2\n"
        )
    };
    let text = format!(
        "{}{}{} r1 = map(0) ll; r2 = func(delete) ll; r3 = 0; r4 = 0; call 164; exit
        delete: call 3; r0 = 0; exit",
        fill(1),
        fill(2),
        fill(3)
    );
    let mut bench = Bench::new(&text, vec![map(MapType::HASH, 4, 4, 8)]);
    assert_eq!(bench.run(0), 3);
    assert!(bench.vm.map_keys(bench.loaded.maps[0]).is_empty());
}

/// Each of these takes minutes if an operation goes over all elements.
#[test]
fn operations_on_large_maps_do_not_go_over_all_elements() {
    let ring = "r7 = 200000
        again: r1 = map(0) ll; r2 = 8; r3 = 0; call 131
        r1 = r0; r2 = 0; call 133; r7 += -1; if r7 != 0 goto again; r0 = 0; exit";
    let mut bench = Bench::new(ring, vec![map(MapType::RINGBUF, 0, 0, 1 << 22)]);
    assert_eq!(bench.run(0), 0);
    let lru = "r7 = 200000
        again: *(u32 *)(r10 - 4) = r7; r1 = map(0) ll; r2 = r10; r2 += -4; r3 = r2; r4 = 0
        call 2; r7 += -1; if r7 != 0 goto again; exit";
    let mut bench = Bench::new(lru, vec![map(MapType::LRU_HASH, 4, 4, 100_000)]);
    assert_eq!(bench.run(0), 0);
    let keys = bench.vm.map_keys(bench.loaded.maps[0]);
    assert_eq!(keys.len(), 100_000);
    assert!(!keys.contains(&Box::from(200_000u32.to_le_bytes())));
}

#[test]
fn a_panic_of_the_host_reaches_who_runs_the_program() {
    let text = format!("call f; exit; f: r6 = 5; r1 = 0x77; call kfunc {PANICS}; exit");
    let mut bench = Bench::new(&text, Vec::new());
    let run = std::panic::AssertUnwindSafe(|| bench.try_run(0));
    let panic = std::panic::catch_unwind(run).expect_err("the kfunc panics");
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "kfunc 0x77");
}
