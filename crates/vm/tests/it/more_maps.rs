//! Tries, filters, and maps that refer to maps and programs: the kernel's answers.

use std::collections::BTreeMap;

use harena_abi::{Cpu, Errno};
use harena_bpf::{InitialSlot, LinkedMap, MapIndex, MapType};
use harena_vm::{UpdateFlags, Vm, VmLoadError};

use super::support::{Bench, KFUNCS, config, map, object, program};

const CPU0: Cpu = Cpu::new(0);

fn errno(e: Errno) -> u64 {
    i64::from(e.as_ret()).cast_unsigned()
}

/// What the kernel says to the creation of a map.
fn refusal(spec: LinkedMap) -> Option<Errno> {
    let mut vm = Vm::new(config(1)).expect("address space");
    let prog = program("main", "r0 = 0; exit");
    match vm.load(&object(vec![prog], vec![spec]), KFUNCS) {
        Err(VmLoadError::Map { errno, .. }) => Some(errno),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

/// Checks what is said to each of these.
fn refusals(cases: impl IntoIterator<Item = (LinkedMap, Option<Errno>)>) {
    for (spec, expected) in cases {
        let text = format!("{spec:?}");
        assert_eq!(refusal(spec), expected, "{text}");
    }
}

fn flags(map_flags: u32, spec: LinkedMap) -> LinkedMap {
    LinkedMap { map_flags, ..spec }
}

/// What ends the program, as text.
fn end(bench: &mut Bench) -> String {
    let abort = bench.try_run(0).expect_err("the run ends early");
    abort.cause.to_string()
}

const NO_PREALLOC: u32 = 1;

fn trie(entries: u32) -> LinkedMap {
    flags(NO_PREALLOC, map(MapType::LPM_TRIE, 8, 8, entries))
}

fn prefix(len: u32, address: [u8; 4]) -> Vec<u8> {
    let mut key = Vec::from(len.to_le_bytes());
    key.extend(address);
    key
}

#[test]
fn tries_are_created_as_the_kernels() {
    use Errno::EINVAL;
    let sized = |key, value, entries| {
        let spec = map(MapType::LPM_TRIE, key, value, entries);
        flags(NO_PREALLOC, spec)
    };
    refusals([
        (trie(1), None),
        (sized(5, 1, 1), None),
        (sized(260, 1, 1), None),
        (sized(4, 8, 1), Some(EINVAL)),
        (sized(261, 8, 1), Some(EINVAL)),
        (sized(8, 0, 1), Some(EINVAL)),
        (sized(8, 8, 0), Some(EINVAL)),
        (sized(8, (1 << 22) - 256, 1), Some(EINVAL)),
        (flags(0, trie(1)), Some(EINVAL)),
        (flags(NO_PREALLOC | 1 << 6, trie(1)), Some(EINVAL)),
        (flags(NO_PREALLOC | 1 << 10, trie(1)), Some(EINVAL)),
        (flags(NO_PREALLOC | 1 << 2 | 1 << 7, trie(1)), None),
    ]);
}

#[test]
fn the_longest_prefix_answers_a_program() {
    // The address to look up is the context; its value comes back, or 0.
    let text = "
        *(u32 *)(r10 - 8) = 32
        *(u32 *)(r10 - 4) = r1
        r1 = map(0) ll; r2 = r10; r2 += -8; call 1
        if r0 == 0 goto out
        r0 = *(u64 *)(r0 + 0)
    out:
        exit";
    let mut bench = Bench::new(text, vec![trie(4)]);
    let m = bench.loaded.maps[0];
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    let any = UpdateFlags::Any;
    for (value, len, address) in [
        (1u64, 8, [10, 99, 99, 99]),
        (2, 16, [10, 1, 0, 0]),
        (3, 32, [10, 1, 2, 3]),
        (4, 25, [10, 2, 0, 128]),
    ] {
        let key = prefix(len, address);
        vm.map_update(m, &key, &value.to_le_bytes(), any, host)
            .unwrap();
    }
    let full = vm.map_update(m, &prefix(0, [0; 4]), &[0; 8], any, host);
    assert_eq!(full, Err(Errno::ENOSPC));
    // What is there may still be replaced.
    let again = vm.map_update(
        m,
        &prefix(8, [10, 0, 0, 0]),
        &[1, 0, 0, 0, 0, 0, 0, 0],
        any,
        host,
    );
    assert_eq!(again, Ok(()));
    for (address, expected) in [
        ([10, 1, 2, 3], 3),
        ([10, 1, 2, 4], 2),
        ([10, 2, 0, 129], 4),
        ([10, 2, 0, 1], 1),
        ([11, 1, 2, 3], 0),
    ] {
        let ctx = u64::from(u32::from_le_bytes(address));
        assert_eq!(bench.run(ctx), expected, "{address:?}");
    }
    // A shorter key is matched by what is no longer than it.
    let found = bench.vm.map_lookup(m, &prefix(20, [10, 1, 2, 3]), CPU0);
    let found = found.map(|at| bench.vm.mem().read_u64(at));
    assert_eq!(found, Some(Ok(2)));
    let too_long = bench.vm.map_lookup(m, &prefix(33, [10, 1, 2, 3]), CPU0);
    assert_eq!(too_long, None);
}

#[test]
fn tries_are_updated_and_deleted_as_the_kernels() {
    // update(prefix / context, flags in the high half), then delete; gives the first answer.
    let text = "
        r6 = r1; r6 >>= 32
        *(u32 *)(r10 - 8) = r1
        *(u32 *)(r10 - 4) = 0x0a0a0a0a
        *(u64 *)(r10 - 16) = 5
        r1 = map(0) ll; r2 = r10; r2 += -8; r3 = r10; r3 += -16; r4 = r6; call 2
        exit";
    let mut bench = Bench::new(text, vec![trie(2)]);
    let m = bench.loaded.maps[0];
    let update = |bench: &mut Bench, len: u64, flags: u64| bench.run(len | flags << 32);
    assert_eq!(update(&mut bench, 8, 2), errno(Errno::ENOENT));
    assert_eq!(update(&mut bench, 8, 1), 0);
    assert_eq!(update(&mut bench, 8, 1), errno(Errno::EEXIST));
    assert_eq!(update(&mut bench, 8, 2), 0);
    assert_eq!(update(&mut bench, 33, 0), errno(Errno::EINVAL));
    assert_eq!(update(&mut bench, 8, 3), errno(Errno::EINVAL));
    assert_eq!(update(&mut bench, 8, 4), errno(Errno::EINVAL));
    assert_eq!(update(&mut bench, 32, 0), 0);
    assert_eq!(update(&mut bench, 0, 2), errno(Errno::ENOENT));
    assert_eq!(update(&mut bench, 0, 0), errno(Errno::ENOSPC));
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    let key = |len| prefix(len, [10; 4]);
    assert_eq!(vm.map_delete(m, &key(9), host), Err(Errno::ENOENT));
    assert_eq!(vm.map_delete(m, &key(33), host), Err(Errno::EINVAL));
    assert_eq!(vm.map_delete(m, &key(8), host), Ok(()));
    assert_eq!(vm.map_delete(m, &key(8), host), Err(Errno::ENOENT));
    assert_eq!(update(&mut bench, 0, 0), 0);
}

#[test]
fn tries_are_walked_from_specific_to_general() {
    let mut bench = Bench::new("exit", vec![trie(8)]);
    let m = bench.loaded.maps[0];
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    assert_eq!(vm.map_next_key(m, None), Err(Errno::ENOENT));
    // The example in the kernel's source; the last key has bits that do not count.
    let mut keys = [
        prefix(24, [192, 168, 0, 0]),
        prefix(24, [192, 168, 1, 0]),
        prefix(24, [192, 168, 128, 0]),
        prefix(16, [192, 168, 7, 7]),
    ];
    for key in keys.iter().rev() {
        vm.map_update(m, key, &[0; 8], UpdateFlags::Any, host)
            .unwrap();
    }
    let mut walked = vec![vm.map_next_key(m, None).unwrap()];
    while let Ok(key) = vm.map_next_key(m, walked.last().map(AsRef::as_ref)) {
        walked.push(key);
    }
    assert_eq!(
        walked,
        keys.each_ref().map(|k| k.clone().into_boxed_slice())
    );
    assert_eq!(vm.map_keys(m), walked);
    // A node that only holds others apart is no key: the walk starts again.
    let between = prefix(23, [192, 168, 0, 0]);
    assert_eq!(vm.map_next_key(m, Some(&between)), Ok(walked[0].clone()));
    assert_eq!(vm.map_next_key(m, Some(&[1; 3])), Err(Errno::EINVAL));
    keys[3] = prefix(16, [192, 168, 0, 0]);
    vm.map_update(m, &keys[3], &[0; 8], UpdateFlags::Any, host)
        .unwrap();
    assert_eq!(vm.map_keys(m)[3], keys[3].clone().into_boxed_slice());
}

#[test]
fn programs_do_not_walk_tries() {
    let text = "
        r1 = map(0) ll; r2 = func(each) ll; r3 = 0; r4 = 0; call 164
        exit
    each:
        r0 = 0
        exit";
    let mut bench = Bench::new(text, vec![trie(8)]);
    let why = "`bpf_for_each_map_elem`: map `m` is of type lpm_trie";
    assert_eq!(end(&mut bench), why);
}

#[test]
fn other_maps_give_the_next_key() {
    let walk = |spec: LinkedMap, after: Option<u32>| {
        let mut bench = Bench::new("exit", vec![spec]);
        let m = bench.loaded.maps[0];
        let (vm, host) = (&mut bench.vm, &mut bench.host);
        for n in [0u32, 2] {
            // Not every map takes one.
            let _refused = vm.map_update(m, &n.to_le_bytes(), &[0; 8], UpdateFlags::Any, host);
        }
        let after = after.map(u32::to_le_bytes);
        let next = vm.map_next_key(m, after.as_ref().map(<[u8; 4]>::as_slice));
        next.map(|key| u32::from_le_bytes((*key).try_into().unwrap()))
    };
    let array = || map(MapType::ARRAY, 4, 8, 3);
    assert_eq!(walk(array(), None), Ok(0));
    assert_eq!(walk(array(), Some(0)), Ok(1));
    assert_eq!(walk(array(), Some(2)), Err(Errno::ENOENT));
    assert_eq!(walk(array(), Some(3)), Ok(0));
    let hash = || map(MapType::HASH, 4, 8, 3);
    assert_eq!(walk(hash(), Some(0)), Ok(2));
    assert_eq!(walk(hash(), Some(1)), Ok(0));
    assert_eq!(walk(hash(), Some(2)), Err(Errno::ENOENT));
    let queue = map(MapType::QUEUE, 0, 8, 3);
    assert_eq!(walk(queue, None), Err(Errno::EINVAL));
    let ring = map(MapType::RINGBUF, 0, 0, 4096);
    assert_eq!(walk(ring, None), Err(Errno::ENOTSUPP));
}

fn bloom(entries: u32, map_extra: u64) -> LinkedMap {
    LinkedMap {
        map_extra,
        ..map(MapType::BLOOM_FILTER, 0, 8, entries)
    }
}

#[test]
fn filters_are_created_as_the_kernels() {
    use Errno::{E2BIG, EINVAL};
    refusals([
        (bloom(1, 0), None),
        (bloom(1, 15), None),
        (bloom(1, 16), Some(EINVAL)),
        (bloom(0, 0), Some(EINVAL)),
        (map(MapType::BLOOM_FILTER, 4, 8, 1), Some(EINVAL)),
        (map(MapType::BLOOM_FILTER, 0, 0, 1), Some(EINVAL)),
        (map(MapType::BLOOM_FILTER, 0, (1 << 22) + 1, 1), Some(E2BIG)),
        (flags(1 << 6 | 1 << 2, bloom(1, 0)), None),
        (flags(NO_PREALLOC, bloom(1, 0)), Some(EINVAL)),
        // Half a gigabyte of bits, of which no page is touched.
        (bloom(u32::MAX, 15), None),
    ]);
    let extra = LinkedMap {
        map_extra: 1,
        ..map(MapType::HASH, 4, 4, 1)
    };
    assert_eq!(refusal(extra), Some(EINVAL));
}

/// Pushes the context if it is odd, then peeks for it; both answers.
const PUSH_AND_PEEK: &str = "
    r6 = 0
    *(u64 *)(r10 - 8) = r1
    r1 &= 1
    if r1 == 0 goto peek
    r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 0; call 87
    r6 = r0
peek:
    r1 = map(0) ll; r2 = r10; r2 += -8; call 89
    r6 *= 1000
    r0 += r6
    exit";

#[test]
fn filters_know_what_was_pushed() {
    for extra in [0, 1, 15] {
        let mut bench = Bench::new(PUSH_AND_PEEK, vec![bloom(1000, extra)]);
        let m = bench.loaded.maps[0];
        for value in (1..2000).step_by(2) {
            assert_eq!(bench.run(value), 0, "{value}");
        }
        let wrong = (0..2000).step_by(2).filter(|value| bench.run(*value) == 0);
        let wrong = wrong.count();
        // A filter that says yes to all would be right, too, and of no use.
        assert!(wrong < 600, "{wrong} of 1000 are wrong");
        assert_eq!(bench.vm.bloom_holds(m, &1u64.to_le_bytes()), Ok(true));
        assert_eq!(bench.vm.bloom_holds(m, &[0; 4]), Err(Errno::EINVAL));
    }
    let mut bench = Bench::new(PUSH_AND_PEEK, vec![bloom(1000, 0)]);
    assert_eq!(bench.run(2), errno(Errno::ENOENT));
}

#[test]
fn filters_err_the_same_in_every_run() {
    let wrong = || {
        let mut bench = Bench::new(PUSH_AND_PEEK, vec![bloom(8, 2)]);
        for value in [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21] {
            assert_eq!(bench.run(value), 0);
        }
        let values = (100..2100).step_by(2);
        values.filter(|v| bench.run(*v) == 0).collect::<Vec<_>>()
    };
    assert!(!wrong().is_empty());
    assert_eq!(wrong(), wrong());
}

#[test]
fn filters_are_pushed_and_peeked_only() {
    let call = |id: u32, flags: u32| {
        let text = format!(
            "*(u64 *)(r10 - 8) = 1
            r1 = map(0) ll; r2 = r10; r2 += -8; r3 = {flags}; r4 = 0
            call {id}
            exit"
        );
        Bench::new(&text, vec![bloom(8, 0)])
    };
    assert_eq!(call(87, 0).run(0), 0);
    assert_eq!(call(87, 2).run(0), errno(Errno::EINVAL));
    for (id, name) in [
        (1, "bpf_map_lookup_elem"),
        (2, "bpf_map_update_elem"),
        (3, "bpf_map_delete_elem"),
        (88, "bpf_map_pop_elem"),
    ] {
        let why = format!("`{name}`: map `m` is of type bloom_filter");
        assert_eq!(end(&mut call(id, 0)), why);
    }
    let mut bench = call(87, 0);
    let m = bench.loaded.maps[0];
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    let value = 7u64.to_le_bytes();
    assert_eq!(
        vm.map_push(m, &value, UpdateFlags::Exist),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        vm.map_push(m, &[0; 3], UpdateFlags::Any),
        Err(Errno::EINVAL)
    );
    assert_eq!(vm.bloom_holds(m, &value), Ok(false));
    assert_eq!(vm.map_push(m, &value, UpdateFlags::Any), Ok(()));
    assert_eq!(vm.bloom_holds(m, &value), Ok(true));
    let update = vm.map_update(m, &[], &value, UpdateFlags::Any, host);
    assert_eq!(update, Err(Errno::EINVAL));
    assert_eq!(vm.map_delete(m, &[], host), Err(Errno::EOPNOTSUPP));
    assert_eq!(vm.map_next_key(m, None), Err(Errno::EOPNOTSUPP));
}

fn of_maps(map_type: MapType, entries: u32, inner: LinkedMap) -> LinkedMap {
    LinkedMap {
        inner: Some(Box::new(inner)),
        ..map(map_type, 4, 4, entries)
    }
}

fn array(value_size: u32, entries: u32) -> LinkedMap {
    map(MapType::ARRAY, 4, value_size, entries)
}

#[test]
fn maps_of_maps_are_created_as_the_kernels() {
    use Errno::{E2BIG, EBADF, EINVAL};
    let (arrays, hashes) = (MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS);
    let inner = || array(8, 2);
    for kind in [arrays, hashes] {
        let nested = of_maps(kind, 2, of_maps(kind, 2, inner()));
        let value_size = LinkedMap {
            value_size: 8,
            ..of_maps(kind, 2, inner())
        };
        refusals([
            (of_maps(kind, 2, inner()), None),
            (of_maps(kind, 0, inner()), Some(EINVAL)),
            (of_maps(kind, 2, array(0, 2)), Some(EINVAL)),
            (of_maps(kind, 2, array(1 << 31, 2)), Some(E2BIG)),
            (of_maps(kind, 2, trie(2)), None),
            (map(kind, 4, 4, 2), Some(EBADF)),
            (nested, Some(EINVAL)),
            (value_size, Some(EINVAL)),
        ]);
    }
    let long_key = |kind| LinkedMap {
        key_size: 8,
        ..of_maps(kind, 2, inner())
    };
    let inner_map = 1 << 12;
    refusals([
        (long_key(arrays), Some(EINVAL)),
        (long_key(hashes), None),
        (flags(1 << 7, of_maps(arrays, 2, inner())), Some(EINVAL)),
        (flags(1 << 10, of_maps(arrays, 2, inner())), Some(EINVAL)),
        (flags(inner_map, array(8, 2)), None),
        (flags(inner_map, of_maps(arrays, 2, inner())), Some(EINVAL)),
        (flags(1 << 11, array(8, 2)), Some(EINVAL)),
        (flags(NO_PREALLOC, of_maps(hashes, 2, inner())), None),
    ]);
}

/// Looks the low half of the context up in map 0, the high half in what it finds there; adds 1 to
/// the value and returns it. -1: no map; -2: no value.
const IN_AND_IN: &str = "
    *(u32 *)(r10 - 8) = r1
    r1 >>= 32
    *(u32 *)(r10 - 4) = r1
    r1 = map(0) ll; r2 = r10; r2 += -8; call 1
    if r0 != 0 goto inner
    r0 = -1
    exit
inner:
    r1 = r0; r2 = r10; r2 += -4; call 1
    if r0 != 0 goto value
    r0 = -2
    exit
value:
    r1 = *(u64 *)(r0 + 0)
    r1 += 1
    *(u64 *)(r0 + 0) = r1
    r0 = r1
    exit";

const NO_MAP: u64 = u64::MAX;
const NO_VALUE: u64 = u64::MAX - 1;

#[test]
fn programs_reach_maps_through_maps() {
    for kind in [MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS] {
        let mut outer = of_maps(kind, 3, array(8, 2));
        let slots = [(0, MapIndex(1)), (2, MapIndex(2))];
        outer.slots = slots.map(|(at, map)| (at, InitialSlot::Map(map))).into();
        let mut bench = Bench::new(IN_AND_IN, vec![outer, array(8, 2), array(8, 2)]);
        let (outer, one, two) = (
            bench.loaded.maps[0],
            bench.loaded.maps[1],
            bench.loaded.maps[2],
        );
        let at = |outer: u64, inner: u64| outer | inner << 32;
        assert_eq!(bench.run(at(0, 1)), 1);
        assert_eq!(bench.run(at(0, 1)), 2);
        assert_eq!(bench.run(at(2, 1)), 1);
        assert_eq!(bench.run(at(0, 2)), NO_VALUE);
        assert_eq!(bench.run(at(1, 0)), NO_MAP);
        assert_eq!(bench.run(at(3, 0)), NO_MAP);
        let (vm, host) = (&mut bench.vm, &mut bench.host);
        let key = |n: u32| n.to_le_bytes();
        assert_eq!(vm.map_inner(outer, &key(2)), Some(two));
        let object = vm.map_lookup(outer, &key(0), CPU0);
        assert_eq!(object, Some(vm.map(one).object()));
        vm.map_set_inner(outer, &key(1), one, UpdateFlags::Any)
            .unwrap();
        assert_eq!(vm.map_delete(outer, &key(0), host), Ok(()));
        assert_eq!(vm.map_delete(outer, &key(0), host), Err(Errno::ENOENT));
        assert_eq!(bench.run(at(1, 1)), 3);
        assert_eq!(bench.run(at(0, 1)), NO_MAP);
    }
}

#[test]
fn entries_of_maps_of_maps_are_set_as_the_kernels() {
    use Errno::{E2BIG, EBADF, EEXIST, EINVAL, ENOENT};
    use UpdateFlags::{Any, Exist, NoExist};
    let key = |n: u32| n.to_le_bytes();
    let outer = of_maps(MapType::ARRAY_OF_MAPS, 2, array(8, 2));
    let mut bench = Bench::new("exit", vec![outer, array(8, 2)]);
    let (vm, host, m) = (&mut bench.vm, &mut bench.host, bench.loaded.maps.clone());
    let (arrays, inner) = (m[0], m[1]);
    assert_eq!(vm.map_set_inner(arrays, &key(1), inner, Any), Ok(()));
    assert_eq!(vm.map_set_inner(arrays, &key(2), inner, Any), Err(E2BIG));
    assert_eq!(vm.map_set_inner(arrays, &key(1), inner, Exist), Err(EINVAL));
    assert_eq!(vm.map_set_inner(arrays, &[0; 8], inner, Any), Err(EINVAL));
    assert_eq!(vm.map_set_inner(inner, &key(1), inner, Any), Err(EINVAL));
    assert_eq!(vm.map_set_inner(arrays, &key(1), arrays, Any), Err(EINVAL));
    let raw = vm.map_update(arrays, &key(0), &[3, 0, 0, 0], Any, host);
    assert_eq!(raw, Err(EBADF));
    assert_eq!(vm.map_delete(arrays, &key(2), host), Err(E2BIG));
    assert_eq!(vm.map_keys(arrays).len(), 2);
    assert_eq!(vm.map_next_key(arrays, None).as_deref(), Ok(&key(0)[..]));

    let outer = of_maps(MapType::HASH_OF_MAPS, 2, array(8, 2));
    let mut bench = Bench::new("exit", vec![outer, array(8, 2)]);
    let (vm, host, m) = (&mut bench.vm, &mut bench.host, bench.loaded.maps.clone());
    let (hashes, inner) = (m[0], m[1]);
    assert_eq!(vm.map_next_key(hashes, None), Err(ENOENT));
    assert_eq!(vm.map_set_inner(hashes, &key(7), inner, Exist), Err(ENOENT));
    assert_eq!(vm.map_set_inner(hashes, &key(7), inner, NoExist), Ok(()));
    assert_eq!(
        vm.map_set_inner(hashes, &key(7), inner, NoExist),
        Err(EEXIST)
    );
    assert_eq!(vm.map_set_inner(hashes, &key(8), inner, Any), Ok(()));
    assert_eq!(vm.map_set_inner(hashes, &key(9), inner, Any), Err(E2BIG));
    assert_eq!(vm.map_set_inner(hashes, &key(8), inner, Exist), Ok(()));
    let next = vm.map_next_key(hashes, Some(&key(7)));
    assert_eq!(next.as_deref(), Ok(&key(8)[..]));
    assert_eq!(vm.map_keys(hashes).len(), 2);
    assert_eq!(vm.map_delete(hashes, &key(9), host), Err(ENOENT));
}

#[test]
fn inner_maps_are_like_their_template() {
    let fits = |template: LinkedMap, inner: LinkedMap| {
        let outer = of_maps(MapType::ARRAY_OF_MAPS, 1, template);
        let mut bench = Bench::new("exit", vec![outer, inner]);
        let (outer, inner) = (bench.loaded.maps[0], bench.loaded.maps[1]);
        let set = bench
            .vm
            .map_set_inner(outer, &[0; 4], inner, UpdateFlags::Any);
        set.map_err(|errno| assert_eq!(errno, Errno::EINVAL))
            .is_ok()
    };
    let hash = |key, entries| map(MapType::HASH, key, 8, entries);
    let any_length = |entries| flags(1 << 12, array(8, entries));
    assert!(fits(array(8, 2), array(8, 2)));
    assert!(!fits(array(8, 2), array(8, 3)));
    assert!(!fits(array(8, 2), array(4, 2)));
    assert!(!fits(array(8, 2), map(MapType::PERCPU_ARRAY, 4, 8, 2)));
    assert!(fits(any_length(2), any_length(3)));
    assert!(!fits(any_length(2), array(8, 2)));
    assert!(fits(hash(8, 2), hash(8, 3)));
    assert!(!fits(hash(8, 2), hash(4, 2)));
    assert!(!fits(hash(8, 2), flags(NO_PREALLOC, hash(8, 2))));
}

#[test]
fn declared_maps_must_fit() {
    let load = |at: u32, inner: u32| {
        let mut outer = of_maps(MapType::ARRAY_OF_MAPS, 1, array(8, 2));
        outer.slots = BTreeMap::from([(at, InitialSlot::Map(MapIndex(inner)))]);
        let maps = vec![outer, array(8, 2), array(8, 3)];
        let mut vm = Vm::new(config(1)).unwrap();
        let loaded = vm.load(&object(vec![program("main", "exit")], maps), KFUNCS);
        loaded.map(|_| ()).map_err(|error| error.to_string())
    };
    let bad = |why: &str| Err(format!("map `m`: {why}"));
    assert_eq!(load(0, 1), Ok(()));
    assert_eq!(load(1, 1), bad("E2BIG: its value 1 does not fit"));
    assert_eq!(load(0, 2), bad("EINVAL: its value 0 does not fit"));
    assert_eq!(load(0, 0), bad("EINVAL: its value 0 does not fit"));
    assert_eq!(load(0, 3), bad("EBADF: its value 0 does not fit"));
}

#[test]
fn programs_only_look_up_in_maps_of_maps() {
    for (id, name) in [(2, "bpf_map_update_elem"), (3, "bpf_map_delete_elem")] {
        let text = format!(
            "*(u64 *)(r10 - 8) = 0
            r1 = map(0) ll; r2 = r10; r2 += -8; r3 = r2; r4 = 0
            call {id}
            exit"
        );
        let outer = of_maps(MapType::ARRAY_OF_MAPS, 1, array(8, 2));
        let mut bench = Bench::new(&text, vec![outer]);
        let why = format!("`{name}`: map `m` is of type array_of_maps");
        assert_eq!(end(&mut bench), why);
    }
}
