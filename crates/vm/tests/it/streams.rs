//! What programs print, and its limits.

use harena_abi::Errno;
use harena_bpf::MapType;
use harena_vm::StreamId;

use super::support::{Bench, generic, map};

/// Calls `bpf_stream_vprintk(id, fmt, args, len)` with the format in global data.
fn print(id: u32, fmt: &str, len: u32) -> (u64, Bench) {
    let vprintk = generic("bpf_stream_vprintk");
    let text = format!(
        "*(u64 *)(r10 - 8) = -5
        *(u64 *)(r10 - 16) = 7
        r1 = {id}; r2 = map_value(0, 0) ll; r3 = r10; r3 += -16; r4 = {len}; r5 = 0
        call kfunc {vprintk}
        exit"
    );
    let mut data = map(MapType::ARRAY, 4, 64, 1);
    data.contents = harena_bpf::Contents::from_bytes(fmt.as_bytes().to_vec());
    data.frozen = true;
    let mut bench = Bench::new(&text, vec![data]);
    let ret = bench.run(0);
    (ret, bench)
}

#[test]
fn streams_take_formatted_text() {
    let (ret, mut bench) = print(1, "a %d b %lld\n", 16);
    let prog = bench.loaded.programs[0];
    let text = bench.vm.drain_stream(prog, StreamId::Stdout);
    assert_eq!(text, "a 7 b -5\n");
    assert_eq!(ret, text.len() as u64);
    assert_eq!(bench.stderr(), "");
}

#[test]
fn bad_calls_give_the_kernels_errors() {
    assert_eq!(print(3, "x", 0).0, Errno::ENOENT.as_reg());
    assert_eq!(print(0, "x", 0).0, Errno::ENOENT.as_reg());
    assert_eq!(print(1, "%d", 7).0, Errno::EINVAL.as_reg());
    assert_eq!(print(1, "%d", 13 * 8).0, Errno::EINVAL.as_reg());
    assert_eq!(print(1, "%d %d %d", 16).0, Errno::EINVAL.as_reg());
    assert_eq!(print(1, "%q", 8).0, Errno::EINVAL.as_reg());
}

#[test]
fn a_full_stream_gives_enospc() {
    let (_, mut bench) = print(2, "0123456789012345678901234567890123456789012345678%d", 16);
    let mut last = 0;
    for _ in 0..2001 {
        last = bench.run(0);
    }
    assert_eq!(last, Errno::ENOSPC.as_reg());
    assert_eq!(bench.stderr().len(), 100_000);
    let prog = bench.loaded.programs[0];
    assert!(bench.vm.stream_dropped(prog, StreamId::Stderr) > 0);
}

#[test]
fn snprintf_and_trace_printk() {
    let text = "
        r1 = map_value(0, 0) ll; r2 = 9; r3 = 42; r4 = 0; r5 = 0; call 6
        r6 = r0
        *(u64 *)(r10 - 8) = 42
        r1 = r10; r1 += -16; r2 = 4; r3 = map_value(0, 0) ll; r4 = r10; r4 += -8; r5 = 8; call 165
        r0 *= 100
        r0 += r6
        r1 = *(u32 *)(r10 - 16)
        r1 <<= 32
        r0 += r1
        exit";
    let mut data = map(MapType::ARRAY, 4, 64, 1);
    data.contents = harena_bpf::Contents::from_bytes(b"v = %d\n!".to_vec());
    let mut bench = Bench::new(text, vec![data]);
    let ret = bench.run(0);
    assert_eq!(bench.vm.drain_trace(), "v = 42\n!");
    let cut = u64::from(u32::from_le_bytes(*b"v =\0"));
    assert_eq!(ret, 8 + 9 * 100 + (cut << 32));
}
