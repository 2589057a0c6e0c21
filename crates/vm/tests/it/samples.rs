//! Samples that programs write to perf event arrays, and drain from user ring buffers.

use harena_abi::{Cpu, Errno};
use harena_bpf::{LinkedMap, MapType};
use harena_vm::{PerfCounts, PerfSample, UpdateFlags, Vm, VmLoadError};

use super::support::{Bench, KFUNCS, config, map, object, program};

fn errno(e: Errno) -> u64 {
    i64::from(e.as_ret()).cast_unsigned()
}

fn refusal(spec: LinkedMap) -> Option<Errno> {
    let mut vm = Vm::new(config(1)).expect("address space");
    match vm.load(&object(vec![program("main", "exit")], vec![spec]), KFUNCS) {
        Err(VmLoadError::Map { errno, .. }) => Some(errno),
        Err(_) => panic!("another error"),
        Ok(_) => None,
    }
}

fn flags(map_flags: u32, spec: LinkedMap) -> LinkedMap {
    LinkedMap { map_flags, ..spec }
}

fn perf(entries: u32) -> LinkedMap {
    map(MapType::PERF_EVENT_ARRAY, 4, 4, entries)
}

/// Writes the context to map 0, with these flags and size.
fn output(flags: u64, size: u64) -> String {
    format!(
        "*(u64 *)(r10 - 8) = r1
        r2 = map(0) ll; r3 = {flags:#x} ll; r4 = r10; r4 += -8; r5 = {size}; call 25
        exit"
    )
}

const CURRENT_CPU: u64 = 0xffff_ffff;

#[test]
fn perf_event_arrays_are_created_as_the_kernels() {
    use Errno::EINVAL;
    let preserve = 1 << 11;
    assert_eq!(refusal(perf(4)), None);
    // The loader puts in the number of CPUs.
    assert_eq!(refusal(perf(0)), None);
    assert_eq!(refusal(flags(preserve, perf(4))), None);
    assert_eq!(refusal(flags(1 << 7, perf(4))), Some(EINVAL));
    let wide = map(MapType::PERF_EVENT_ARRAY, 4, 8, 4);
    assert_eq!(refusal(wide), Some(EINVAL));
    let keyed = map(MapType::PERF_EVENT_ARRAY, 8, 4, 4);
    assert_eq!(refusal(keyed), Some(EINVAL));
}

#[test]
fn samples_reach_the_host_in_order() {
    let mut bench = Bench::new(&output(CURRENT_CPU, 8), vec![perf(0)]);
    let m = bench.loaded.maps[0];
    for (cpu, value) in [(0, 5), (3, 6), (0, 7)] {
        bench.host.cpu = cpu;
        assert_eq!(bench.run(value), 0);
    }
    let sample = |cpu: u32, value: u64| PerfSample {
        cpu: Cpu::new(cpu),
        data: value.to_le_bytes().to_vec(),
    };
    let counts = PerfCounts {
        written: 3,
        lost: 0,
    };
    assert_eq!(bench.vm.perf_counts(m), counts);
    let samples = bench.vm.perf_drain(m);
    assert_eq!(samples, [sample(0, 5), sample(3, 6), sample(0, 7)]);
    assert_eq!(bench.vm.perf_drain(m), []);
}

#[test]
fn outputs_fail_as_the_kernels() {
    let run = |text: &str, cpu: u32| {
        let mut bench = Bench::new(text, vec![perf(8)]);
        bench.host.cpu = cpu;
        bench.run(1)
    };
    assert_eq!(run(&output(2, 8), 2), 0);
    assert_eq!(run(&output(2, 8), 1), errno(Errno::EOPNOTSUPP));
    assert_eq!(run(&output(8, 8), 1), errno(Errno::E2BIG));
    assert_eq!(run(&output(1 << 32, 8), 0), errno(Errno::EINVAL));
    // There are four CPUs: nobody opened an event for a fifth.
    assert_eq!(run(&output(5, 8), 1), errno(Errno::ENOENT));
    assert_eq!(run(&output(2, 0), 2), 0);

    let mut bench = Bench::new(&output(CURRENT_CPU, 8), vec![perf(8)]);
    let m = bench.loaded.maps[0];
    // 24 bytes of a buffer of 256 KiB each.
    let room = (256 << 10) / 24;
    for _ in 0..room {
        assert_eq!(bench.run(1), 0);
    }
    assert_eq!(bench.run(1), errno(Errno::ENOSPC));
    let counts = PerfCounts {
        written: room,
        lost: 1,
    };
    assert_eq!(bench.vm.perf_counts(m), counts);
    assert_eq!(bench.vm.perf_drain(m).len() as u64, room);
    assert_eq!(bench.run(1), 0);
    let (vm, host) = (&mut bench.vm, &mut bench.host);
    let update = vm.map_update(m, &[0; 4], &[0; 4], UpdateFlags::Any, host);
    assert_eq!(update, Err(Errno::EBADF));
    assert_eq!(vm.map_delete(m, &[9, 0, 0, 0], host), Err(Errno::E2BIG));
    assert_eq!(vm.map_delete(m, &[0; 4], host), Ok(()));
    assert_eq!(bench.run(1), errno(Errno::ENOENT));
}

#[test]
fn there_are_no_counters_to_read() {
    let read = |flags: u64, size: u64| {
        let text = format!(
            "*(u64 *)(r10 - 24) = -1
            r1 = map(0) ll; r2 = {flags:#x} ll; r3 = r10; r3 += -24; r4 = {size}; call 55
            r1 = *(u64 *)(r10 - 24)
            if r1 == 0 goto cleared
            r0 = 1
        cleared:
            exit"
        );
        Bench::new(&text, vec![perf(4)]).run(0)
    };
    assert_eq!(read(CURRENT_CPU, 24), errno(Errno::ENOENT));
    assert_eq!(read(CURRENT_CPU, 16), errno(Errno::EINVAL));
    assert_eq!(read(4, 24), errno(Errno::E2BIG));
    assert_eq!(read(1 << 32, 24), errno(Errno::EINVAL));
}

#[test]
fn perf_helpers_want_their_map() {
    let mut bench = Bench::new(&output(0, 8), vec![map(MapType::ARRAY, 4, 4, 1)]);
    let abort = bench.try_run(0).unwrap_err();
    let why = "`bpf_perf_event_output`: map `m` is of type array";
    assert_eq!(abort.cause.to_string(), why);
    let lookup = "*(u64 *)(r10 - 8) = 0; r1 = map(0) ll; r2 = r10; r2 += -8; call 1; exit";
    let abort = Bench::new(lookup, vec![perf(1)]).try_run(0).unwrap_err();
    let why = "`bpf_map_lookup_elem`: map `m` is of type perf_event_array";
    assert_eq!(abort.cause.to_string(), why);
}

fn user_ring(size: u32) -> LinkedMap {
    map(MapType::USER_RINGBUF, 0, 0, size)
}

/// Drains map 0; each sample's first 4 bytes are a digit of the result, and its last 4 the
/// callback's answer. Gives digits * 1000 + what the helper said.
const DRAIN: &str = "
    r4 = r1
    *(u64 *)(r10 - 8) = 0
    r1 = map(0) ll; r2 = func(each) ll; r3 = r10; r3 += -8; call 209
    r1 = *(u64 *)(r10 - 8); r1 *= 1000; r0 += r1
    exit
each:
    r6 = r1; r7 = r2
    r2 = 0; r3 = 8; call 203
    if r0 != 0 goto there
    r0 = 1
    exit
there:
    w8 = *(u32 *)(r0 + 0)
    r1 = *(u64 *)(r7 + 0); r1 *= 10; r1 += r8; *(u64 *)(r7 + 0) = r1
    r1 = r10; r1 += -4; r2 = 4; r3 = r6; r4 = 4; r5 = 0; call 201
    r1 = r0
    w0 = *(u32 *)(r10 - 4)
    if r1 == 0 goto out
    r0 = 1
out:
    exit";

fn sample(digit: u32, answer: u32) -> Vec<u8> {
    [digit.to_le_bytes(), answer.to_le_bytes()].concat()
}

#[test]
fn programs_drain_samples_in_order() {
    let mut bench = Bench::new(DRAIN, vec![user_ring(4096)]);
    let m = bench.loaded.maps[0];
    assert_eq!(bench.run(0), 0);
    for digit in [4, 2, 7] {
        let submitted = bench.vm.user_ringbuf_submit(m, &sample(digit, 0));
        assert_eq!(submitted, Ok(()));
    }
    assert_eq!(bench.run(0), 427_003);
    assert_eq!(bench.run(3), 0);
    assert_eq!(bench.run(4), errno(Errno::EINVAL));
    // The callback ends it; what it saw is gone.
    for (digit, answer) in [(1, 0), (2, 1), (3, 0)] {
        let submitted = bench.vm.user_ringbuf_submit(m, &sample(digit, answer));
        assert_eq!(submitted, Ok(()));
    }
    assert_eq!(bench.run(0), 12_002);
    assert_eq!(bench.run(0), 3_001);
    // A sample too short for what the callback wants.
    assert_eq!(bench.vm.user_ringbuf_submit(m, &[1; 4]), Ok(()));
    assert_eq!(bench.run(0), 1);
}

#[test]
fn user_rings_fill_as_the_kernels() {
    let mut bench = Bench::new(DRAIN, vec![user_ring(4096)]);
    let m = bench.loaded.maps[0];
    assert_eq!(
        bench.vm.user_ringbuf_submit(m, &[0; 4089]),
        Err(Errno::E2BIG)
    );
    for _ in 0..4096 / 16 {
        assert_eq!(bench.vm.user_ringbuf_submit(m, &sample(0, 0)), Ok(()));
    }
    assert_eq!(bench.vm.user_ringbuf_submit(m, &[]), Err(Errno::ENOSPC));
    assert_eq!(bench.run(0), 256);
    assert_eq!(bench.vm.user_ringbuf_submit(m, &[0; 4088]), Ok(()));
    assert_eq!(refusal(user_ring(4096)), None);
    assert_eq!(refusal(user_ring(4097)), Some(Errno::EINVAL));
    assert_eq!(
        refusal(map(MapType::USER_RINGBUF, 4, 0, 4096)),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        refusal(flags(1 << 10, user_ring(4096))),
        Some(Errno::EINVAL)
    );
    let no_ring = vec![map(MapType::RINGBUF, 0, 0, 4096)];
    let abort = Bench::new(DRAIN, no_ring).try_run(0).unwrap_err();
    let why = "`bpf_user_ringbuf_drain`: map `m` is of type ringbuf";
    assert_eq!(abort.cause.to_string(), why);
}

#[test]
fn a_ring_is_drained_once_at_a_time() {
    // The callback drains again, and returns what it is told.
    let text = "
        *(u64 *)(r10 - 8) = 0
        r1 = map(0) ll; r2 = func(each) ll; r3 = r10; r3 += -8; r4 = 0; call 209
        r0 = *(u64 *)(r10 - 8)
        exit
    each:
        r6 = r2
        r1 = map(0) ll; r2 = func(each) ll; r3 = 0; r4 = 0; call 209
        *(u64 *)(r6 + 0) = r0
        r0 = 1
        exit";
    let mut bench = Bench::new(text, vec![user_ring(4096)]);
    let m = bench.loaded.maps[0];
    for _ in 0..2 {
        assert_eq!(bench.vm.user_ringbuf_submit(m, &[0; 8]), Ok(()));
        assert_eq!(bench.run(0), errno(Errno::EBUSY));
    }
    // A callback that ends the run leaves the ring usable, and its sample in it.
    let ends = "
        r1 = map(0) ll; r2 = func(each) ll; r3 = 0; r4 = 0; call 209
        exit
    each:
        call 250
        exit";
    let mut bench = Bench::new(ends, vec![user_ring(4096)]);
    let m = bench.loaded.maps[0];
    assert_eq!(bench.vm.user_ringbuf_submit(m, &[0; 8]), Ok(()));
    for _ in 0..2 {
        let abort = bench.try_run(0).unwrap_err();
        assert_eq!(abort.cause.to_string(), "helper 250 is not supported");
    }
}

#[test]
fn dynptrs_reach_no_further_than_their_memory() {
    // Writes to the sample, then reads it back at an offset that the context says.
    let text = "
        *(u64 *)(r10 - 8) = r1
        r1 = map(0) ll; r2 = func(each) ll; r3 = r10; r3 += -8; r4 = 0; call 209
        r0 = *(u64 *)(r10 - 8)
        exit
    each:
        r6 = r1; r7 = r2
        *(u64 *)(r10 - 8) = 77
        r1 = r6; r2 = 8; r3 = r10; r3 += -8; r4 = 8; r5 = 0; call 202
        if r0 != 0 goto out
        r4 = *(u64 *)(r7 + 0)
        r5 = r4; r5 >>= 32
        r1 = r7; r2 = 8; r3 = r6; call 201
        if r0 == 0 goto fine
        *(u64 *)(r7 + 0) = r0
    fine:
    out:
        r0 = 0
        exit";
    let run = |offset: u64| {
        let mut bench = Bench::new(text, vec![user_ring(4096)]);
        let m = bench.loaded.maps[0];
        bench.vm.user_ringbuf_submit(m, &[0; 16]).unwrap();
        bench.run(offset)
    };
    assert_eq!(run(8), 77);
    assert_eq!(run(0), 0);
    assert_eq!(run(9), errno(Errno::E2BIG));
    assert_eq!(run(0xffff_ffff), errno(Errno::E2BIG));
    assert_eq!(run(8 | 1 << 32), errno(Errno::EINVAL));
}

#[test]
fn ring_buffers_refuse_unknown_flags() {
    let run = |flags: u64| {
        let text = format!(
            "*(u64 *)(r10 - 8) = 3
            r1 = map(0) ll; r2 = r10; r2 += -8; r3 = 8; r4 = {flags}; call 130
            exit"
        );
        Bench::new(&text, vec![map(MapType::RINGBUF, 0, 0, 4096)]).run(0)
    };
    assert_eq!(run(3), 0);
    assert_eq!(run(4), errno(Errno::EINVAL));
}
