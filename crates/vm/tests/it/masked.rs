//! Pointers of unknown origin where addresses are cut to the guest: what is not there is
//! reported as the program alleged it; what is there is reached, whatever the high bits say.

use harena_bpf::{Contents, LinkedMap, MapType};
use harena_vm::{Containment, Region, ViolationKind, VmConfig, layout};

use super::support::{Bench, WRITE, config, map};

/// A program that stores, updates and loads through the pointer it is given.
const ACCESSES: &str = "
    *(u64 *)(r10 - 8) = r1
    r6 = *(u64 *)(r10 - 8)
    r0 = 7
    r1 = 1
    *(u64 *)(r6 + OFF) = 3
    lock *(u64 *)(r6 + OFF) += r1
    r0 = *(u64 *)(r6 + OFF)
    exit";

fn masked(text: &str, maps: Vec<LinkedMap>) -> Bench {
    let config = VmConfig {
        containment: Containment::Mask,
        ..config(2)
    };
    Bench::with_config(text, maps, config)
}

fn accesses(off: i16) -> Bench {
    let text = ACCESSES.replace(
        "+ OFF",
        &format!("{} {}", if off < 0 { '-' } else { '+' }, off.unsigned_abs()),
    );
    masked(&text, Vec::new())
}

/// Behind everything that is there of a region of which one block was handed out.
const GRANULE: u64 = 64 << 10;

#[test]
fn what_is_not_there_is_reported_as_it_was_alleged() {
    let end = layout::GUEST_BASE + layout::GUEST_LEN;
    for off in [0, i16::MIN, -8, i16::MAX - 7] {
        for address in [
            0,
            8,
            0x10_0000,
            0x1000_0000_0000,
            0xdead_beef,
            0x8000_0000_0000_0000,
            layout::GUEST_BASE,
            layout::HEAP_END,
            layout::ARENAS_START,
            layout::ARENAS_START + layout::ARENA_STRIDE * 3 + 0x8000,
            layout::TEXT_BASE,
            end - 8,
            end,
            u64::MAX - 7,
        ] {
            let mut bench = accesses(off);
            assert_eq!(bench.run(address), 0, "{address:#x}");
            let place = address.wrapping_add_signed(off.into());
            let found = bench.vm.violations().iter();
            let found: Vec<_> = found
                .map(|v| (v.kind, v.address, v.insn, v.access))
                .collect();
            let expected = [(4, "WRITE"), (5, "WRITE"), (6, "READ")]
                .map(|(insn, access)| (ViolationKind::Wild, place, insn, access));
            assert_eq!(found, expected, "{address:#x} {off}");
        }
    }
}

#[test]
fn what_is_there_is_reached_whatever_the_high_bits_say() {
    for high in [0, 0x1234_5670_0000_0000, !(layout::GUEST_LEN - 1)] {
        for off in [0, -24, 24, i16::MIN, i16::MAX - 7] {
            let mut bench = accesses(off);
            let block = bench
                .vm
                .mem()
                .alloc(Region::Maps, 1 << 17, 8)
                .expect("room");
            let word = block.checked_add(1 << 16).expect("inside");
            let low = word.raw() & (layout::GUEST_LEN - 1);
            let base = (high | low).wrapping_add_signed(-i64::from(off));
            assert_eq!(bench.run(base), 4, "{base:#x} {off}");
            assert_eq!(bench.vm.violations(), []);
            assert_eq!(bench.vm.mem().read_u64(word), Ok(4));
        }
    }
}

/// Memory is there in granules, of which the rest is zero; an access that leaves the last one is
/// dropped as a whole.
#[test]
fn regions_end_with_a_granule() {
    let block = |bench: &Bench| {
        let block = bench.vm.mem().alloc(Region::Maps, 8, 8).expect("room");
        block.raw()
    };
    let mut bench = accesses(0);
    let last = block(&bench) + GRANULE - 8;
    assert_eq!(bench.run(last), 4);
    assert_eq!(bench.vm.violations(), []);
    for straddling in 1..8 {
        assert_eq!(bench.run(last + straddling), 0);
    }
    let word = harena_abi::KernAddr::new(last);
    assert_eq!(bench.vm.mem().read_u64(word), Ok(4));
    let counts: Vec<_> = bench.vm.violations().iter().map(|v| v.count).collect();
    assert_eq!(counts, [7, 7, 7]);
}

/// 16 frozen bytes, each 9.
fn frozen() -> LinkedMap {
    LinkedMap {
        frozen: true,
        contents: Contents::from_bytes(vec![9; 16]),
        ..map(MapType::ARRAY, 4, 16, 1)
    }
}

#[test]
fn frozen_data_is_read_and_not_written_until_the_host_writes() {
    // The address has been through memory, so that nothing is known of it.
    let text = "
        r1 = map_value(0, 0) ll
        *(u64 *)(r10 - 8) = r1
        r1 = *(u64 *)(r10 - 8)
        *(u8 *)(r1 + 0) = 1
        r2 = 5
        lock *(u64 *)(r1 + 8) += r2
        r0 = *(u8 *)(r1 + 0)
        exit";
    let mut bench = masked(text, vec![frozen()]);
    assert_eq!([bench.run(0), bench.run(0)], [9, 9]);
    let found = bench.vm.violations().iter();
    let found: Vec<_> = found.map(|v| (v.kind, v.access, v.count)).collect();
    assert_eq!(found, [(ViolationKind::Wild, "WRITE", 2); 2]);
    let frozen = Region::Rodata.start();
    bench.vm.mem().write_u8(frozen, 8).expect("the host may");
    assert_eq!(bench.run(0), 8);
    assert_eq!(bench.vm.violations()[0].count, 3);
    assert_eq!(bench.vm.mem().read_u8(frozen), Ok(8));
}

#[test]
fn frozen_data_is_not_written_behind_a_kfunc_that_wrote_it() {
    let text = format!(
        "r6 = map_value(0, 0) ll
        *(u64 *)(r10 - 8) = r6
        r6 = *(u64 *)(r10 - 8)
        r1 = r6; call kfunc {WRITE}
        *(u8 *)(r6 + 0) = 1
        r0 = *(u8 *)(r6 + 0)
        exit"
    );
    let mut bench = masked(&text, vec![frozen()]);
    assert_eq!(bench.run(0), 7);
    let found = bench.vm.violations().iter();
    let found: Vec<_> = found.map(|v| (v.kind, v.access)).collect();
    assert_eq!(found, [(ViolationKind::Wild, "WRITE")]);
}

/// Three times the same sums of a pointer and an index, one of which is overwritten while another
/// access still needs it, as compilers make them. r0 is what was loaded.
const SUMS: &str = "
    r6 = r1
    r0 = 0
    r7 = 0
    again: w2 = LOW
    r2 <<= 4
    r3 = r6
    r3 += r2
    *(u64 *)(r3 + 8) = r7
    r2 = *(u64 *)(r3 + 0)
    r0 += r2
    r4 = *(u64 *)(r3 + 8)
    r0 += r4
    r2 = *(u32 *)(r3 + 16)
    r3 += r2
    r5 = *(u8 *)(r3 - 16)
    r4 = *(u8 *)(r3 + 16)
    r4 = *(u8 *)(r3 - 8)
    r7 += 1
    if r7 != 3 goto again
    exit";

/// Indices, by 16: none, some, and the largest.
const INDICES: [u64; 6] = [0, 1, 0x800, 0x0fff_ffff, 0xffff_f000, 0xffff_ffff];

fn sums(low: u64) -> Bench {
    masked(&SUMS.replace("LOW", &low.to_string()), Vec::new())
}

#[test]
fn a_sum_with_an_index_reaches_what_is_there() {
    for low in INDICES {
        for high in [0, 0x1234_5670_0000_0000, !(layout::GUEST_LEN - 1)] {
            let mut bench = sums(low);
            let block = bench.vm.mem().alloc(Region::Maps, 64, 8).expect("room");
            let word = block.checked_add(32).expect("inside");
            bench.vm.mem().write_u64(word, 5).expect("there");
            let target = high | word.raw() & (layout::GUEST_LEN - 1);
            let r0 = bench.run(target.wrapping_sub(low << 4));
            assert_eq!(r0, 3 * 5 + 1 + 2, "{target:#x} by {low:#x}");
            assert_eq!(bench.vm.violations(), []);
        }
    }
}

#[test]
fn a_sum_with_an_index_is_reported_as_it_was_alleged() {
    let end = layout::GUEST_BASE + layout::GUEST_LEN;
    for low in INDICES {
        let index = low << 4;
        // At both ends, behind them, and around all addresses.
        for target in [
            layout::GUEST_BASE,
            layout::HEAP_END,
            end - 8,
            end,
            end + index,
            0,
            u64::MAX - 15,
        ] {
            let mut bench = sums(low);
            assert_eq!(bench.run(target.wrapping_sub(index)), 0);
            let found = bench.vm.violations().iter();
            let found: Vec<_> = found.map(|v| (v.address, v.count)).collect();
            let expected = [8, 0, 8, 16, -16, 16, -8];
            let expected = expected.map(|off| (target.wrapping_add_signed(off), 3));
            assert_eq!(found, expected, "{target:#x} by {index:#x}");
        }
    }
}

/// A function that calls itself comes back with its own pointer, not with its callee's.
#[test]
fn a_pointer_outlives_a_recursion() {
    let text = "
        r6 = r1
        r7 = 0
        r0 = 0
        if r2 == 1 goto sum
        r1 = r6
        r1 += 4096
        r2 = 1
        call -8
        r7 = 0
        sum: r1 = *(u64 *)(r6 + 0)
        r0 += r1
        r7 += 1
        if r7 != 5 goto sum
        exit";
    let mut bench = masked(text, Vec::new());
    let block = bench.vm.mem().alloc(Region::Maps, 1 << 13, 8);
    let block = block.expect("room");
    bench.vm.mem().write_u64(block, 3).expect("there");
    let next = block.checked_add(4096).expect("inside");
    bench.vm.mem().write_u64(next, 100).expect("there");
    assert_eq!(bench.run(block.raw()), 5 * 100 + 5 * 3);
}
