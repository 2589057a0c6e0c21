//! Maps: the kernel's answers, over helpers and over the user side.

use harena_abi::{Cpu, Errno, KernAddr};
use harena_bpf::{LinkedMap, MapType, SpecialField, SpecialKind};
use harena_vm::{Object, UpdateFlags, Vm, VmLoadError};

use super::support::{Bench, KFUNCS, config, map, object, program};

const CPU0: Cpu = Cpu::new(0);

fn key(n: u32) -> [u8; 4] {
    n.to_le_bytes()
}

/// `op(map, &key, &value, flags)` with key and value on the stack; gives r0.
fn helper(id: u32, k: u64, v: u64, flags: u64) -> String {
    format!(
        "r1 = {k:#x} ll; *(u64 *)(r10 - 8) = r1
        r1 = {v:#x} ll; *(u64 *)(r10 - 16) = r1
        r1 = map(0) ll; r2 = r10; r2 += -8; r3 = r10; r3 += -16; r4 = {flags}
        call {id}
        exit"
    )
}

fn run_on(spec: LinkedMap, calls: &[(u32, u64, u64, u64)]) -> Vec<i64> {
    let mut bench = Bench::new("exit", vec![spec]);
    let maps = bench.loaded.maps.clone();
    assert_eq!(maps.len(), 1);
    let mut answers = Vec::new();
    for (id, k, v, flags) in calls {
        // Programs of another object cannot name the map: patch its address in.
        let address = bench.vm.map(maps[0]).object().raw();
        let text = helper(*id, *k, *v, *flags).replace("map(0)", &format!("{address:#x}"));
        let loaded = bench
            .vm
            .load(&object(vec![program("p", &text)], Vec::new()), KFUNCS);
        bench.loaded.programs = loaded.expect("loads").programs;
        answers.push(bench.run(0).cast_signed());
    }
    answers
}

const LOOKUP: u32 = 1;
const UPDATE: u32 = 2;
const DELETE: u32 = 3;

fn errno(e: Errno) -> i64 {
    i64::from(e.as_ret())
}

#[test]
fn arrays_answer_as_the_kernels() {
    let answers = run_on(
        map(MapType::ARRAY, 4, 8, 2),
        &[
            (UPDATE, 1, 7, 0),
            (UPDATE, 2, 7, 0),
            (UPDATE, 1, 7, 1),
            (UPDATE, 1, 7, 2),
            (UPDATE, 1, 7, 8),
            (DELETE, 1, 0, 0),
            (LOOKUP, 2, 0, 0),
        ],
    );
    let expected = [
        0,
        errno(Errno::E2BIG),
        errno(Errno::EEXIST),
        0,
        errno(Errno::EINVAL),
        errno(Errno::EINVAL),
        0,
    ];
    assert_eq!(answers, expected);
}

#[test]
fn hashes_answer_as_the_kernels() {
    for map_type in [MapType::HASH, MapType::PERCPU_HASH] {
        let answers = run_on(
            map(map_type, 8, 8, 2),
            &[
                (LOOKUP, 1, 0, 0),
                (DELETE, 1, 0, 0),
                (UPDATE, 1, 7, 2),
                (UPDATE, 1, 7, 1),
                (UPDATE, 1, 8, 1),
                (UPDATE, 1, 8, 0),
                (UPDATE, 2, 8, 0),
                (UPDATE, 3, 8, 0),
                (DELETE, 1, 0, 0),
                (UPDATE, 3, 8, 0),
                (UPDATE, 3, 8, 16),
            ],
        );
        let expected = [
            0,
            errno(Errno::ENOENT),
            errno(Errno::ENOENT),
            0,
            errno(Errno::EEXIST),
            0,
            0,
            errno(Errno::E2BIG),
            0,
            0,
            errno(Errno::EINVAL),
        ];
        assert_eq!(answers, expected, "{map_type}");
    }
}

#[test]
fn an_lru_hash_drops_what_was_not_used_longest() {
    let mut bench = Bench::new("exit", vec![map(MapType::LRU_HASH, 4, 8, 2)]);
    let m = bench.loaded.maps[0];
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    for n in [1, 2] {
        vm.map_update(m, &key(n), &[0; 8], UpdateFlags::Any, host)
            .unwrap();
    }
    assert!(vm.map_lookup(m, &key(1), CPU0).is_some());
    vm.map_update(m, &key(3), &[0; 8], UpdateFlags::Any, host)
        .unwrap();
    assert!(vm.map_lookup(m, &key(2), CPU0).is_none());
    assert!(vm.map_lookup(m, &key(1), CPU0).is_some());
}

#[test]
fn per_cpu_values_are_apart() {
    let mut bench = Bench::new("exit", vec![map(MapType::PERCPU_ARRAY, 4, 4, 3)]);
    let m = bench.loaded.maps[0];
    let mut seen = Vec::new();
    for cpu in 0..4 {
        for index in 0..3 {
            seen.push(bench.vm.map_lookup(m, &key(index), Cpu::new(cpu)).unwrap());
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12);
    assert!(bench.vm.map_lookup(m, &key(0), Cpu::new(4)).is_none());
    bench.host.cpu = 2;
    bench
        .vm
        .map_update(m, &key(1), &[9; 4], UpdateFlags::Any, &mut bench.host)
        .unwrap();
    let at = bench.vm.map_lookup(m, &key(1), Cpu::new(2)).unwrap();
    assert_eq!(bench.vm.mem().read_u32(at), Ok(0x0909_0909));
}

#[test]
fn queues_and_stacks() {
    for (map_type, first) in [(MapType::QUEUE, 5u64), (MapType::STACK, 6)] {
        let spec = map(map_type, 0, 8, 2);
        let text = "
            *(u64 *)(r10 - 8) = 5; r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 0; call 87
            *(u64 *)(r10 - 8) = 6; r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 0; call 87
            r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 0; call 87
            r6 = r0
            r1 = map(0) ll; r2 = r10; r2 += -16; call 89
            r7 = *(u64 *)(r10 - 16)
            r1 = map(0) ll; r2 = r10; r2 += -16; call 88
            r1 = *(u64 *)(r10 - 16)
            r7 *= 10; r7 += r1
            r1 = map(0) ll; r2 = r10; r2 += -16; call 88
            r1 = map(0) ll; r2 = r10; r2 += -16; call 88
            r7 *= 1000; r7 -= r0; r7 -= r6
            r0 = r7
            exit";
        let empty_and_full = 2 + 7;
        assert_eq!(
            Bench::new(text, vec![spec]).run(0),
            first * 11_000 + empty_and_full
        );
    }
}

#[test]
fn task_storage_is_created_on_demand_and_goes_with_its_task() {
    let mut spec = map(MapType::TASK_STORAGE, 4, 16, 0);
    spec.map_flags = 1;
    let text = "
        r6 = r1
        r1 = map(0) ll; r2 = r6; r3 = 0; r4 = 0; call 156
        r7 = r0
        r1 = map(0) ll; r2 = r6; r3 = 0; r4 = 1; call 156
        if r0 == 0 goto out
        r8 = *(u64 *)(r0 + 0)
        r8 += 1
        *(u64 *)(r0 + 0) = r8
        r0 = r8
        if r7 == 0 goto out
        r0 += 100
    out:
        exit";
    let mut bench = Bench::new(text, vec![spec]);
    assert_eq!(bench.run(0x1000), 1);
    assert_eq!(bench.run(0x1000), 102);
    assert_eq!(bench.run(0x2000), 1);
    assert_eq!(bench.run(0), 0);
    bench
        .vm
        .storage_owner_gone(KernAddr::new(0x1000), &mut bench.host);
    assert_eq!(bench.run(0x1000), 1);
}

#[test]
fn walks_visit_every_element_in_key_order() {
    let text = "
        *(u64 *)(r10 - 8) = 0
        r1 = map(0) ll; r2 = func(each) ll; r3 = r10; r3 += -8; r4 = 0; call 164
        r1 = *(u64 *)(r10 - 8)
        r0 *= 1000; r0 += r1
        exit
    each:
        r0 = *(u64 *)(r4 + 0)
        r1 = *(u32 *)(r2 + 0)
        r0 *= 10; r0 += r1
        *(u64 *)(r4 + 0) = r0
        r0 = 0
        exit";
    let mut bench = Bench::new(text, vec![map(MapType::HASH, 4, 8, 8)]);
    let m = bench.loaded.maps[0];
    for n in [3, 1, 2] {
        let (vm, host) = (&mut bench.vm, &mut bench.host);
        vm.map_update(m, &key(n), &[0; 8], UpdateFlags::Any, host)
            .unwrap();
    }
    assert_eq!(bench.run(0), 3123);
}

#[test]
fn ring_buffers_carry_records_in_order() {
    let text = "
        r1 = map(0) ll; r2 = 8; r3 = 0; call 131
        r6 = r0
        r1 = map(0) ll; r2 = 8; r3 = 0; call 131
        r7 = r0
        *(u64 *)(r6 + 0) = 1
        *(u64 *)(r7 + 0) = 2
        r1 = r7; r2 = 0; call 132
        *(u64 *)(r10 - 8) = 3
        r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 8; r4 = 0; call 130
        r1 = r6; r2 = 0; call 133
        r1 = map(0) ll; r2 = 5000; r3 = 0; call 131
        exit";
    let mut bench = Bench::new(text, vec![map(MapType::RINGBUF, 0, 0, 4096)]);
    assert_eq!(bench.run(0), 0);
    let records = bench.vm.ringbuf_drain(bench.loaded.maps[0]);
    assert_eq!(
        records,
        [2u64.to_le_bytes().to_vec(), 3u64.to_le_bytes().to_vec()]
    );
    // More than the ring holds, drained in between: positions wrap.
    for _ in 0..1000 {
        bench.run(0);
        assert_eq!(bench.vm.ringbuf_drain(bench.loaded.maps[0]).len(), 2);
    }
}

/// A special field that names no types.
fn field(kind: SpecialKind, offset: u32, size: u32) -> SpecialField {
    SpecialField {
        kind,
        offset,
        size,
        target: None,
        contains: None,
    }
}

#[test]
fn updates_copy_around_special_fields_and_drop_what_they_hold() {
    let mut spec = map(MapType::ARRAY, 4, 24, 1);
    spec.special_fields.push(field(SpecialKind::KptrRef, 8, 8));
    let mut bench = Bench::new("exit", vec![spec]);
    let m = bench.loaded.maps[0];
    let at = bench.vm.map(m).value_addr().unwrap();
    let middle = at.checked_add(8).unwrap();
    bench.vm.mem().write_u64(middle, 77).unwrap();
    bench
        .vm
        .map_update(m, &key(0), &[1; 24], UpdateFlags::Any, &mut bench.host)
        .unwrap();
    assert_eq!(bench.vm.mem().read_u64(middle), Ok(0));
    assert_eq!(bench.host.given_back, [(Object::Kptr, 77)]);
    assert_eq!(bench.vm.mem().read_u64(at), Ok(0x0101_0101_0101_0101));
}

#[test]
fn every_copy_of_a_value_gives_back_what_it_owns() {
    let mut spec = map(MapType::PERCPU_HASH, 4, 16, 2);
    spec.special_fields.push(field(SpecialKind::KptrRef, 8, 8));
    let mut bench = Bench::new("exit", vec![spec]);
    let m = bench.loaded.maps[0];
    let Bench { vm, host, .. } = &mut bench;
    vm.map_update(m, &key(0), &[0; 16], UpdateFlags::Any, host)
        .unwrap();
    for cpu in [0, 3] {
        let value = vm.map_lookup(m, &key(0), Cpu::new(cpu)).unwrap();
        let kptr = value.checked_add(8).unwrap();
        vm.mem().write_u64(kptr, 0x70 + u64::from(cpu)).unwrap();
    }
    // An update is about one CPU.
    host.cpu = 3;
    vm.map_update(m, &key(0), &[1; 16], UpdateFlags::Exist, host)
        .unwrap();
    assert_eq!(host.given_back, [(Object::Kptr, 0x73)]);
    vm.map_delete(m, &key(0), host).unwrap();
    assert_eq!(
        host.given_back,
        [(Object::Kptr, 0x73), (Object::Kptr, 0x70)]
    );
}

/// As in the kernel, whose hash makes another element, and whose array empties the one there is.
#[test]
fn timers_go_when_their_value_is_replaced_or_deleted() {
    let start = "
        *(u32 *)(r10 - 4) = 0
        r1 = map(0) ll; r2 = r10; r2 += -4; call 1
        if r0 == 0 goto out
        r6 = r0
        r1 = r6; r2 = map(0) ll; r3 = 1; call 169
        r7 = r0
        r1 = r6; r2 = func(fired) ll; call 170
        r1 = r6; r2 = 1000; r3 = 0; call 171
        r0 += r7
    out:
        exit
    fired:
        r0 = 0
        exit";
    for map_type in [MapType::ARRAY, MapType::HASH] {
        let mut spec = map(map_type, 4, 16, 1);
        spec.special_fields.push(field(SpecialKind::Timer, 0, 16));
        let mut bench = Bench::new(start, vec![spec]);
        let m = bench.loaded.maps[0];
        let update = |bench: &mut Bench| {
            let Bench { vm, host, .. } = bench;
            vm.map_update(m, &key(0), &[0; 16], UpdateFlags::Any, host)
        };
        update(&mut bench).unwrap();
        for _ in 0..2 {
            // Initialising would be EBUSY if the timer were still there.
            assert_eq!((bench.run(0), bench.host.armed.len()), (0, 1));
            update(&mut bench).unwrap();
            assert_eq!(bench.host.armed.len(), 0);
        }
        if map_type == MapType::HASH {
            assert_eq!((bench.run(0), bench.host.armed.len()), (0, 1));
            let Bench { vm, host, .. } = &mut bench;
            vm.map_delete(m, &key(0), host).unwrap();
            assert_eq!(host.armed.len(), 0);
        }
    }
}

#[test]
fn creation_errors_are_the_kernels() {
    let refused = |spec: LinkedMap| {
        let mut vm = Vm::new(config(1)).unwrap();
        let prog = program("main", "r0 = 0; exit");
        match vm.load(&object(vec![prog], vec![spec]), KFUNCS) {
            Err(VmLoadError::Map { errno, .. }) => Some(errno),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    };
    use Errno::{E2BIG, EINVAL};
    let cases = [
        (map(MapType::ARRAY, 4, 8, 0), Some(EINVAL)),
        (map(MapType::ARRAY, 8, 8, 1), Some(EINVAL)),
        (map(MapType::ARRAY, 4, 0, 1), Some(EINVAL)),
        (map(MapType::ARRAY, 4, 1 << 31, 1), Some(E2BIG)),
        (map(MapType::PERCPU_ARRAY, 4, 32_769, 1), Some(E2BIG)),
        (map(MapType::PERCPU_ARRAY, 4, 32_768, 1), None),
        (map(MapType::HASH, 0, 8, 1), Some(EINVAL)),
        (map(MapType::HASH, 8, 1 << 22, 1), Some(E2BIG)),
        (map(MapType::HASH, 8, 8, u32::MAX), None),
        (map(MapType::QUEUE, 4, 8, 1), Some(EINVAL)),
        (map(MapType::RINGBUF, 0, 0, 4095), Some(EINVAL)),
        (map(MapType::RINGBUF, 0, 0, 12_288), Some(EINVAL)),
        (map(MapType::TASK_STORAGE, 4, 8, 0), Some(EINVAL)),
        (
            LinkedMap {
                map_flags: 1,
                ..map(MapType::TASK_STORAGE, 4, 8, 1)
            },
            Some(EINVAL),
        ),
        (
            LinkedMap {
                map_flags: 1 << 20,
                ..map(MapType::HASH, 4, 8, 1)
            },
            Some(EINVAL),
        ),
    ];
    for (spec, expected) in cases {
        let text = format!("{spec:?}");
        assert_eq!(refused(spec), expected, "{text}");
    }
    let mut vm = Vm::new(config(1)).unwrap();
    let huge = object(
        vec![program("main", "exit")],
        vec![map(MapType::ARRAY, 4, 1 << 30, u32::MAX)],
    );
    assert!(matches!(
        vm.load(&huge, KFUNCS),
        Err(VmLoadError::Memory(_))
    ));
    let odd = object(
        vec![program("main", "exit")],
        vec![map(MapType::SOCKMAP, 4, 4, 1)],
    );
    let error = vm.load(&odd, KFUNCS).unwrap_err();
    assert_eq!(error.to_string(), "map `m`: sockmap is not supported");
}

#[test]
fn values_hold_what_their_map_type_supports() {
    use SpecialKind::{KptrRef, ListHead, RbRoot, SpinLock, Timer, Uptr};
    let refused = |map_type: MapType, kind: SpecialKind, map_flags: u32| {
        let mut spec = LinkedMap {
            map_flags,
            ..map(map_type, 4, 16, 1)
        };
        if map_type == MapType::TASK_STORAGE {
            (spec.max_entries, spec.map_flags) = (0, 1);
        }
        if map_type == MapType::QUEUE {
            spec.key_size = 0;
        }
        spec.special_fields.push(field(kind, 0, 16));
        let mut vm = Vm::new(config(1)).unwrap();
        match vm.load(&object(Vec::new(), vec![spec]), KFUNCS) {
            Err(VmLoadError::Map { errno, .. }) => Some(errno),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    };
    let no = Some(Errno::EOPNOTSUPP);
    for (map_type, kinds) in [
        (MapType::HASH, [None, None, None, None, None, no]),
        (MapType::ARRAY, [None, None, None, None, None, no]),
        (MapType::LRU_HASH, [None, None, None, no, None, no]),
        (MapType::PERCPU_HASH, [None, no, no, no, no, no]),
        (MapType::PERCPU_ARRAY, [None, no, no, no, no, no]),
        (MapType::TASK_STORAGE, [None, no, no, None, no, None]),
        (MapType::QUEUE, [no, no, no, no, no, no]),
    ] {
        for (kind, errno) in [KptrRef, ListHead, RbRoot, SpinLock, Timer, Uptr]
            .into_iter()
            .zip(kinds)
        {
            assert_eq!(refused(map_type, kind, 0), errno, "{map_type}: {kind:?}");
        }
    }
    // BPF_F_RDONLY_PROG
    assert_eq!(
        refused(MapType::ARRAY, SpinLock, 1 << 7),
        Some(Errno::EACCES)
    );
}
