//! Arena memory from a program's side: casts, faults, allocation, kfunc arguments.

use harena_abi::{ArenaOffset, Cpu, Errno, UserAddr};
use harena_vm::{UpdateFlags, ViolationKind, Vm, VmLoadError};

use super::support::{
    Bench, KFUNCS, NULLABLE, READ_ARENA, WRITE_ARENA, arena, config, generic, map, object, program,
};
use harena_bpf::{LinkedMap, MapType};

const BASE: u64 = 0x1000_0000_0000;

/// r6: kernel form of the page that `bpf_arena_alloc_pages(map, NULL, 1)` gave.
fn alloc_one() -> String {
    let alloc = generic("bpf_arena_alloc_pages");
    format!(
        "r1 = map(0) ll; r2 = 0; r3 = 1; r4 = -1; r5 = 0
        call kfunc {alloc}
        r6 = addr_space_cast(r0, 0, 1)\n"
    )
}

fn bench(body: &str) -> Bench {
    Bench::new(&format!("r9 = map(0) ll\n{body}\nexit"), vec![arena(16)])
}

#[test]
fn casts_keep_low_bits_and_null() {
    let cast =
        |from: &str| bench(&format!("r1 = {from} ll\nr0 = addr_space_cast(r1, 1, 0)")).run(0);
    assert_eq!(cast("0x7008"), BASE | 0x7008);
    assert_eq!(cast("0"), 0);
    assert_eq!(cast("0x500000000"), 0);
    let to_kernel = "r1 = 0x100000007008 ll\nr0 = addr_space_cast(r1, 0, 1)";
    assert_eq!(bench(to_kernel).run(0), 0x7008);
    let mut map = arena(16);
    map.map_flags |= harena_abi::bpf::BPF_F_NO_USER_CONV;
    let text = "r9 = map(0) ll; r1 = 0x7008; r0 = addr_space_cast(r1, 1, 0); exit";
    assert_eq!(Bench::new(text, vec![map]).run(0), 0x7008);
}

#[test]
fn pages_are_allocated_zeroed_shared_and_freed() {
    let text = format!(
        "{}
        *(u64 *)(r6 + 8) = 42
        r0 = *(u64 *)(r6 + 0)
        r1 = *(u64 *)(r6 + 8)
        r0 += r1",
        alloc_one()
    );
    let mut bench = bench(&text);
    assert_eq!(bench.run(0), 42);
    let arena = bench.vm.arena(bench.loaded.maps[0]).unwrap();
    assert_eq!(arena.pages_in_use(), 1);
    assert_eq!(arena.ptr::<u64>(ArenaOffset::new(8)).read(), 42);
    let kern = arena.kern_addr(ArenaOffset::new(8));
    assert_eq!(bench.vm.mem().read_u64(kern), Ok(42));
    assert!(bench.vm.violations().is_empty());
}

#[test]
fn a_faulting_load_gives_0_and_is_reported_in_the_kernels_layout() {
    let mut bench = bench(
        "r1 = 0x100000007010 ll; r1 = addr_space_cast(r1, 0, 1); r0 = 5; r0 = *(u64 *)(r1 + 8)",
    );
    bench.host.cpu = 3;
    assert_eq!(bench.run(0), 0);
    let expected = "ERROR: Arena READ access at unmapped address 0x100000007018\n\
        CPU: 3 UID: 1000 PID: 41 Comm: worker\n\
        Call trace:\n\
        main+0x30/0x40\n\
        \n";
    assert_eq!(bench.stderr(), expected);
    let found = &bench.vm.violations()[0];
    assert_eq!(
        (found.kind, found.access, found.count),
        (ViolationKind::Arena, "READ", 1)
    );
    assert_eq!((found.address, found.insn), (BASE + 0x7018, 6));
}

#[test]
fn the_call_trace_names_every_frame_innermost_first() {
    let text = "
        r9 = map(0) ll
        call sub
        exit
    sub:
        r1 = 0x7000
        r1 = addr_space_cast(r1, 0, 1)
        *(u32 *)(r1 + 4) = 1
        r0 = 0
        exit";
    let mut bench = Bench::new(text, vec![arena(16)]);
    bench.run(0);
    let report = bench.stderr();
    assert!(
        report.contains("WRITE access at unmapped address 0x100000007004"),
        "{report}"
    );
    assert!(
        report.contains("Call trace:\nmain+4+0x10/0x28\nmain+0x10/0x20\n\n"),
        "{report}"
    );
}

#[test]
fn sign_extending_loads_give_0_and_stores_are_dropped_whole() {
    // The page at 0 is there, the next one is not: a store that straddles changes nothing.
    let text = format!(
        "{}
        r7 = r6; r7 += 4092
        *(u64 *)(r7 + 0) = -1
        r0 = *(u32 *)(r7 + 0)
        r1 = *(s32 *)(r7 + 4)
        r0 += r1",
        alloc_one()
    );
    let mut bench = bench(&text);
    assert_eq!(bench.run(0), 0);
    let kinds: Vec<_> = bench
        .vm
        .violations()
        .iter()
        .map(|v| (v.access, v.address))
        .collect();
    assert_eq!(kinds, [("WRITE", BASE + 4092), ("READ", BASE + 4096)]);
}

#[test]
fn faulting_atomics_leave_their_registers() {
    let faulting = |op: &str, r0: &str| {
        let text =
            format!("r6 = 0x5000; r6 = addr_space_cast(r6, 0, 1); r1 = 7; r0 = 9; {op}; r0 = {r0}");
        let mut bench = bench(&text);
        let r0 = bench.run(0);
        assert_eq!(bench.vm.violations().len(), 1, "{op}");
        assert_eq!(bench.vm.violations()[0].access, "WRITE", "{op}");
        r0
    };
    assert_eq!(
        faulting("r1 = atomic_fetch_add((u64 *)(r6 + 0), r1)", "r1"),
        7
    );
    assert_eq!(
        faulting("w1 = atomic_fetch_or((u32 *)(r6 + 0), w1)", "r1"),
        7
    );
    assert_eq!(faulting("r1 = xchg_64(r6 + 0, r1)", "r1"), 7);
    assert_eq!(faulting("r0 = cmpxchg_64(r6 + 0, r0, r1)", "r0"), 9);
    assert_eq!(faulting("lock *(u64 *)(r6 + 0) += r1", "r1"), 7);
}

#[test]
fn a_load_acquire_that_faults_leaves_its_register() {
    let text = "r6 = 0x5000; r6 = addr_space_cast(r6, 0, 1); r1 = 7; r0 = 9
        store_release((u64 *)(r6 + 0), r1); r0 = load_acquire((u64 *)(r6 + 0))";
    let mut bench = bench(text);
    assert_eq!(bench.run(0), 9);
    let kinds: Vec<_> = bench.vm.violations().iter().map(|v| v.access).collect();
    assert_eq!(kinds, ["WRITE", "READ"]);
}

/// Accesses of every size around the edges of one page, and at the ends of the window.
#[test]
fn edges_of_pages_and_of_the_window() {
    for size in [1u32, 2, 4, 8] {
        let bits = size * 8;
        for start in -9i32..=8 {
            for edge in [0i64, 4096] {
                let at = edge + i64::from(start);
                let text = format!(
                    "{}
                    r6 += {edge}
                    r0 = 0
                    *(u{bits} *)(r6 {start:+}) = 1",
                    alloc_one()
                );
                let mut bench = bench(&text);
                bench.run(0);
                let inside = at >= 0 && at + i64::from(size) <= 4096;
                let count = bench.vm.violations().len();
                assert_eq!(count, usize::from(!inside), "{size} bytes at {at}");
            }
        }
    }
    // Signed 16-bit extremes, the last byte, past 4 GiB: contained and reported.
    for (low, off) in [
        ("0", -32768),
        ("0xffffffff", 0),
        ("0xffffffff", 32767),
        ("0x7000", 32767),
    ] {
        let text =
            format!("r6 = {low} ll; r6 = addr_space_cast(r6, 0, 1); r0 = *(u64 *)(r6 {off:+})");
        let mut bench = bench(&text);
        assert_eq!(bench.run(0), 0);
        assert_eq!(bench.vm.violations().len(), 1, "{low} {off}");
        assert_eq!(bench.vm.violations()[0].kind, ViolationKind::Arena);
    }
}

#[test]
fn kfunc_arguments_are_rebased_and_host_faults_recovered() {
    let text = format!(
        "r1 = 0xdead000000005008 ll; call kfunc {READ_ARENA}
        r6 = r0
        r1 = 0x5010; r2 = 77; call kfunc {WRITE_ARENA}
        r1 = 0x5010; r1 = addr_space_cast(r1, 0, 1)
        r0 = *(u64 *)(r1 + 0)
        r0 += r6"
    );
    let mut bench = bench(&text);
    // The second access and the program's own hit the scratch page, without another fault.
    assert_eq!(bench.run(0), 77);
    let report = bench.stderr();
    let first = "ERROR: Arena READ access at unmapped address 0x100000005000\n";
    assert!(report.starts_with(first), "{report}");
    assert_eq!(report.matches("ERROR").count(), 1, "{report}");
    let found = &bench.vm.violations()[0];
    assert_eq!(
        (found.kind, found.address),
        (ViolationKind::Host, BASE + 0x5000)
    );
    let arena = bench.vm.arena(bench.loaded.maps[0]).unwrap();
    assert_eq!(arena.faults_recovered(), 1);
    assert_eq!(arena.pages_in_use(), 0);
    // Scratch never shows through: the page that comes later is zero.
    let page = arena.alloc_pages(Some(UserAddr::new(BASE + 0x5000)), 1, 0);
    assert!(page.is_ok());
    assert_eq!(arena.ptr::<u64>(ArenaOffset::new(0x5010)).read(), 0);
}

#[test]
fn nullable_arguments_keep_null() {
    let null = bench(&format!("r1 = 0x500000000 ll; call kfunc {NULLABLE}")).run(0);
    assert_eq!(null, 0);
    let mut other = bench(&format!("r1 = 8; call kfunc {NULLABLE}"));
    let start = other.vm.map_kern_vm_start(other.loaded.maps[0]).unwrap();
    assert_eq!(other.run(0), start.raw() + 8);
}

#[test]
fn arena_arguments_need_an_arena() {
    let mut vm = Vm::new(config(1)).unwrap();
    let prog = program("main", &format!("r1 = 0; call kfunc {READ_ARENA}; exit"));
    let error = vm
        .load(&object(vec![prog], Vec::new()), KFUNCS)
        .unwrap_err();
    assert!(
        matches!(error, VmLoadError::ArenaArgument { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.ends_with("arena pointer requires a program with an associated arena"),
        "{text}"
    );
}

#[test]
fn a_program_has_at_most_one_arena() {
    let mut vm = Vm::new(config(1)).unwrap();
    let other = LinkedMap {
        map_extra: 0x2000_0000_0000,
        name: "n".to_owned(),
        ..arena(1)
    };
    let prog = program("main", "r1 = map(0) ll; r1 = map(1) ll; r0 = 0; exit");
    let error = vm
        .load(&object(vec![prog], vec![arena(1), other]), KFUNCS)
        .unwrap_err();
    let expected = "program `main` uses two arenas, `m` and `n`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn reserve_and_free_answer_as_the_kernel() {
    let reserve = generic("bpf_arena_reserve_pages");
    let free = generic("bpf_arena_free_pages");
    let alloc = generic("bpf_arena_alloc_pages");
    let at = |addr: u64, kfunc: u32| {
        format!("r1 = map(0) ll; r2 = {addr:#x} ll; r3 = 2; r4 = -1; r5 = 0; call kfunc {kfunc}\n")
    };
    let errno = |e: Errno| e.as_reg();
    assert_eq!(bench(&at(BASE, reserve)).run(0), 0);
    assert_eq!(
        bench(&at(BASE + 15 * 4096, reserve)).run(0),
        errno(Errno::EINVAL)
    );
    let twice = at(BASE, reserve) + &at(BASE + 4096, reserve);
    assert_eq!(bench(&twice).run(0), errno(Errno::EBUSY));
    assert_eq!(bench(&(at(BASE, reserve) + &at(BASE, alloc))).run(0), 0);
    // Inside of a page there is nothing to reserve, which is no error.
    let inside = at(BASE + 8, reserve);
    assert_eq!(bench(&inside).run(0), 0);
    assert_eq!(bench(&(inside + &at(BASE, alloc))).run(0), BASE);
    // NULL is no page, though it has the first one's offset.
    let nothing = at(BASE, alloc) + &at(0, free) + &at(BASE, alloc);
    let mut kept = bench(&nothing);
    assert_eq!(kept.run(0), 0);
    let arena = kept.vm.arena(kept.loaded.maps[0]).unwrap();
    assert_eq!(arena.pages_in_use(), 2);
    // A program that may not sleep gets its pages back once it has ended.
    let mut again = bench(&(at(BASE, alloc) + "r6 = r0\n" + &at(BASE, free) + "r0 = r6"));
    assert_eq!(again.run(0), BASE);
    assert_eq!(again.run(0), BASE);
    let arena = again.vm.arena(again.loaded.maps[0]).unwrap();
    assert_eq!(arena.pages_in_use(), 0);
}

#[test]
fn arena_globals_lie_where_the_linker_put_them() {
    let mut map = arena(4);
    map.contents = harena_bpf::Contents::from_bytes(vec![1, 2, 3, 4, 5, 6, 7, 8]);
    map.contents_offset = 3 * 4096;
    let text =
        "r1 = map_value(0, 12288) ll; r1 = addr_space_cast(r1, 0, 1); r0 = *(u64 *)(r1 + 0); exit";
    let mut bench = Bench::new(text, vec![map]);
    assert_eq!(bench.run(0), 0x0807_0605_0403_0201);
    assert!(bench.vm.violations().is_empty());
}

#[test]
fn creation_errors_are_the_kernels() {
    let load = |map: LinkedMap| {
        let mut vm = Vm::new(config(1)).unwrap();
        let prog = program("main", "r0 = 0; exit");
        let error = vm.load(&object(vec![prog], vec![map]), KFUNCS).unwrap_err();
        let VmLoadError::Map { errno, .. } = error else {
            panic!("{error}");
        };
        errno
    };
    assert_eq!(load(map(MapType::ARENA, 0, 0, 1)), Errno::EINVAL);
    assert_eq!(load(arena(0)), Errno::EINVAL);
    assert_eq!(load(arena((1 << 20) + 1)), Errno::E2BIG);
    assert_eq!(
        load(LinkedMap {
            map_extra: 1,
            ..arena(1)
        }),
        Errno::EINVAL
    );
    assert_eq!(
        load(LinkedMap {
            map_extra: 0xffff_f000,
            ..arena(2)
        }),
        Errno::ERANGE
    );
    assert_eq!(
        load(LinkedMap {
            key_size: 4,
            ..arena(1)
        }),
        Errno::EINVAL
    );
}

/// What a register can hold decides where an access goes, not its value alone: a kernel pointer
/// that is NULL must not lead into the arena, though its page 0 is there.
#[test]
fn only_cast_pointers_lead_into_the_arena() {
    let kinds = |body: &str| {
        let mut bench = bench(&format!("{}\n*(u64 *)(r6 + 8) = 42\n{body}", alloc_one()));
        let r0 = bench.run(0);
        let kinds: Vec<_> = bench.vm.violations().iter().map(|v| v.kind).collect();
        (r0, kinds)
    };
    let wild = vec![ViolationKind::Wild];
    // The context is NULL here; a constant is no arena pointer either.
    assert_eq!(
        kinds("r1 = *(u64 *)(r10 - 8); r0 = *(u64 *)(r1 + 8)"),
        (0, wild.clone())
    );
    assert_eq!(kinds("r1 = 0; r0 = *(u64 *)(r1 + 8)"), (0, wild));
    // Arithmetic, spills, calls and returns keep what a cast made; only low halves count.
    let reaches = [
        "r1 = r6; r1 += 16; r1 -= 16; r0 = *(u64 *)(r1 + 8)",
        "r1 = 8; r1 += r6; r0 = *(u64 *)(r1 + 0)",
        "r1 = r6; r2 = 0x100000000 ll; r1 += r2; r0 = *(u64 *)(r1 + 8)",
        "r1 = r6; r1 += 8; *(u64 *)(r10 - 16) = r1; r1 = 0; r2 = *(u64 *)(r10 - 16); r0 = *(u64 *)(r2 + 0)",
        "r1 = r6; call sub; goto out; sub: r0 = *(u64 *)(r1 + 8); exit; out: r0 += 0",
        "r1 = r6; call sub; r0 = *(u64 *)(r0 + 0); goto out; sub: r0 = r1; r0 += 8; exit; out: r0 += 0",
    ];
    for body in reaches {
        assert_eq!(kinds(body), (42, Vec::new()), "{body}");
    }
    // Where both come together, the value decides.
    let both = "r1 = r6; if r0 != 0 goto on; r1 = r10; r1 += -16; on: r0 = *(u64 *)(r1 + 8)";
    assert_eq!(kinds(both), (42, Vec::new()));
}

/// Measured with `bpf(2)` on Linux 6.18.
#[test]
fn elements_of_an_arena_map_are_not_supported() {
    let Bench {
        mut vm,
        mut host,
        loaded,
    } = bench("r0 = 0");
    let map = loaded.maps[0];
    let update = vm.map_update(map, &[], &[], UpdateFlags::Any, &mut host);
    assert_eq!(update, Err(Errno::EOPNOTSUPP));
    let delete = vm.map_delete(map, &[], &mut host);
    assert_eq!(delete, Err(Errno::EOPNOTSUPP));
    assert_eq!(vm.map_lookup(map, &[], Cpu::new(0)), None);
    assert!(vm.map_keys(map).is_empty());
}

#[test]
fn the_user_window_of_an_arena_map_is_known() {
    let given = bench("r0 = 0");
    let start = given.vm.map_user_vm_start(given.loaded.maps[0]);
    assert_eq!(start, Some(UserAddr::new(BASE)));
    // Without `map_extra` the loader's mmap chooses; two arenas do not overlap.
    let free = |name: &str| LinkedMap {
        map_extra: 0,
        name: name.to_owned(),
        ..arena(1 << 20)
    };
    let maps = vec![free("a"), free("b"), map(MapType::ARRAY, 4, 8, 1)];
    let chosen = Bench::new("r0 = 0; exit", maps);
    let start = |index: usize| chosen.vm.map_user_vm_start(chosen.loaded.maps[index]);
    let (a, b) = (start(0).unwrap().raw(), start(1).unwrap().raw());
    assert!(a.abs_diff(b) >= 1 << 32);
    assert_eq!(start(2), None, "no arena");
}
