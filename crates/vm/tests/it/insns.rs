//! Every instruction with its edge cases, as a table of text and r0.

use super::support::{Bench, eval, map};
use harena_abi::KernAddr;
use harena_bpf::MapType;
use harena_vm::RunArgs;

/// Runs `body; exit` for each case.
fn check(cases: &[(&str, u64)]) {
    let mut bench = Bench::new("r0 = 0; exit", Vec::new());
    for (body, expected) in cases {
        let object = super::support::object(
            vec![super::support::program("case", &format!("{body}; exit"))],
            Vec::new(),
        );
        bench.loaded = bench
            .vm
            .load(&object, super::support::KFUNCS)
            .expect("loads");
        let found = bench.run(0);
        assert_eq!(found, *expected, "{body}: {found:#x} is not {expected:#x}");
    }
}

const M1: u64 = u64::MAX;
const MIN: &str = "r0 = 0x8000000000000000 ll";

#[test]
fn arithmetic_64() {
    check(&[
        ("r0 = 5; r0 += -7", (-2i64).cast_unsigned()),
        ("r0 = -1; r1 = 2; r0 += r1", 1),
        ("r0 = 0; r0 -= 1", M1),
        ("r0 = -1; r0 *= 3", (-3i64).cast_unsigned()),
        ("r0 = -1; r0 /= 2", M1 / 2),
        ("r0 = 7; r1 = 0; r0 /= r1", 0),
        ("r0 = 7; r1 = 0; r0 %= r1", 7),
        ("r0 = -1; r0 %= 10", M1 % 10),
        ("r0 = -7; r0 s/= 2", (-3i64).cast_unsigned()),
        ("r0 = -7; r1 = -2; r0 s/= r1", 3),
        ("r0 = -7; r0 s%= 2", M1),
        ("r0 = -7; r1 = 0; r0 s/= r1", 0),
        ("r0 = -7; r1 = 0; r0 s%= r1", (-7i64).cast_unsigned()),
        (&format!("{MIN}; r0 s/= -1"), 1 << 63),
        (&format!("{MIN}; r1 = -1; r0 s%= r1"), 0),
        ("r0 = 0xf0; r0 |= 0x0f", 0xff),
        ("r0 = -1; r0 &= 0xff", 0xff),
        ("r0 = -1; r0 &= -256", M1 - 255),
        ("r0 = 5; r0 ^= -1", !5),
        ("r0 = 1; r0 <<= 63", 1 << 63),
        ("r0 = 1; r1 = 65; r0 <<= r1", 2),
        ("r0 = -1; r1 = 64; r0 >>= r1", M1),
        ("r0 = -1; r0 >>= 60", 15),
        (&format!("{MIN}; r0 s>>= 63"), M1),
        ("r0 = 5; r0 = -r0", (-5i64).cast_unsigned()),
        ("r1 = -1; r0 = r1", M1),
        ("r0 = 0x123456789abcdef0 ll", 0x1234_5678_9abc_def0),
    ]);
}

#[test]
fn arithmetic_32_clears_the_high_half() {
    check(&[
        ("r0 = -1; w0 += 1", 0),
        ("r0 = -1; r1 = 1; w0 -= w1", 0xffff_fffe),
        ("r0 = -1; w0 *= 2", 0xffff_fffe),
        ("r0 = -1; w0 /= 2", 0x7fff_ffff),
        ("r0 = -1; r1 = 0; w0 /= w1", 0),
        ("r0 = -1; r1 = 0; w0 %= w1", 0xffff_ffff),
        ("w0 = -7; w0 s/= 2", 0xffff_fffd),
        ("w0 = 0x80000000; w0 s/= -1", 0x8000_0000),
        ("w0 = 0x80000000; r1 = -1; w0 s%= w1", 0),
        ("w0 = -7; w0 s%= 4", 0xffff_fffd),
        ("r0 = -1; w0 |= 0", 0xffff_ffff),
        ("r0 = -1; w0 &= -1", 0xffff_ffff),
        ("r0 = -1; w0 ^= 0", 0xffff_ffff),
        ("w0 = 1; w0 <<= 31", 0x8000_0000),
        ("w0 = 1; r1 = 33; w0 <<= w1", 2),
        ("r0 = -1; r1 = 32; w0 >>= w1", 0xffff_ffff),
        ("w0 = 0x80000000; w0 s>>= 31", 0xffff_ffff),
        ("r0 = -1; w0 = -w0", 1),
        ("w0 = -1", 0xffff_ffff),
        ("r1 = -1; w0 = w1", 0xffff_ffff),
    ]);
}

#[test]
fn sign_extension_and_byte_order() {
    check(&[
        ("r1 = 0x80; r0 = (s8)r1", (-128i64).cast_unsigned()),
        ("r1 = 0x8000; r0 = (s16)r1", (-32768i64).cast_unsigned()),
        (
            "w1 = 0x80000000; r0 = (s32)r1",
            (-(1i64 << 31)).cast_unsigned(),
        ),
        ("r1 = 0x80; w0 = (s8)w1", 0xffff_ff80),
        ("r1 = 0x8000; w0 = (s16)w1", 0xffff_8000),
        ("r0 = 0x1122334455667788 ll; r0 = be16 r0", 0x8877),
        ("r0 = 0x1122334455667788 ll; r0 = be32 r0", 0x8877_6655),
        (
            "r0 = 0x1122334455667788 ll; r0 = be64 r0",
            0x8877_6655_4433_2211,
        ),
        ("r0 = 0x1122334455667788 ll; r0 = le16 r0", 0x7788),
        ("r0 = 0x1122334455667788 ll; r0 = le32 r0", 0x5566_7788),
        (
            "r0 = 0x1122334455667788 ll; r0 = le64 r0",
            0x1122_3344_5566_7788,
        ),
        ("r0 = 0x1122334455667788 ll; r0 = bswap16 r0", 0x8877),
        ("r0 = 0x1122334455667788 ll; r0 = bswap32 r0", 0x8877_6655),
        (
            "r0 = 0x1122334455667788 ll; r0 = bswap64 r0",
            0x8877_6655_4433_2211,
        ),
    ]);
}

/// Each condition over pairs, against its meaning in Rust.
#[test]
fn every_jump_condition() {
    let values: [i64; 8] = [0, 1, -1, 5, i64::MIN, i64::MAX, 1 << 31, -(1 << 31)];
    type Meaning = fn(i64, i64) -> bool;
    let conditions: [(&str, Meaning); 11] = [
        ("==", |a, b| a == b),
        ("!=", |a, b| a != b),
        ("&", |a, b| a & b != 0),
        (">", |a, b| a.cast_unsigned() > b.cast_unsigned()),
        (">=", |a, b| a.cast_unsigned() >= b.cast_unsigned()),
        ("<", |a, b| a.cast_unsigned() < b.cast_unsigned()),
        ("<=", |a, b| a.cast_unsigned() <= b.cast_unsigned()),
        ("s>", |a, b| a > b),
        ("s>=", |a, b| a >= b),
        ("s<", |a, b| a < b),
        ("s<=", |a, b| a <= b),
    ];
    let mut cases = Vec::new();
    for (sign, meaning) in conditions {
        for a in values {
            for b in values {
                let set = format!(
                    "r1 = {:#x} ll; r2 = {:#x} ll",
                    a.cast_unsigned(),
                    b.cast_unsigned()
                );
                let tail = "goto yes; r0 = 0; exit; yes: r0 = 1";
                let wide = u64::from(meaning(a, b));
                cases.push((format!("{set}; if r1 {sign} r2 {tail}"), wide));
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "what JMP32 does"
                )]
                let narrow = u64::from(match sign.as_bytes()[0] {
                    b's' => meaning(i64::from(a as i32), i64::from(b as i32)),
                    _ => meaning(i64::from(a as u32), i64::from(b as u32)),
                });
                cases.push((format!("{set}; if w1 {sign} w2 {tail}"), narrow));
                if let Ok(imm) = i32::try_from(b) {
                    let set = format!("r1 = {:#x} ll", a.cast_unsigned());
                    cases.push((format!("{set}; if r1 {sign} {imm} {tail}"), wide));
                    cases.push((format!("{set}; if w1 {sign} {imm} {tail}"), narrow));
                }
            }
        }
    }
    let cases: Vec<(&str, u64)> = cases
        .iter()
        .map(|(text, r0)| (text.as_str(), *r0))
        .collect();
    check(&cases);
}

#[test]
fn loads_and_stores_of_every_size() {
    let fill = "r1 = 0x8899aabbccddeeff ll; *(u64 *)(r10 - 8) = r1; r0 = 0";
    let cases = [
        ("w0 = *(u8 *)(r10 - 8)", 0xff),
        ("w0 = *(u16 *)(r10 - 8)", 0xeeff),
        ("w0 = *(u32 *)(r10 - 8)", 0xccdd_eeff),
        ("r0 = *(u64 *)(r10 - 8)", 0x8899_aabb_ccdd_eeff),
        ("r0 = *(s8 *)(r10 - 8)", M1),
        ("r0 = *(s16 *)(r10 - 8)", 0xffff_ffff_ffff_eeff),
        ("r0 = *(s32 *)(r10 - 8)", 0xffff_ffff_ccdd_eeff),
        ("w0 = *(u16 *)(r10 - 7)", 0xddee),
        (
            "*(u8 *)(r10 - 8) = 1; r0 = *(u64 *)(r10 - 8)",
            0x8899_aabb_ccdd_ee01,
        ),
        (
            "*(u16 *)(r10 - 8) = -1; r0 = *(u64 *)(r10 - 8)",
            0x8899_aabb_ccdd_ffff,
        ),
        (
            "*(u32 *)(r10 - 8) = -1; r0 = *(u64 *)(r10 - 8)",
            0x8899_aabb_ffff_ffff,
        ),
        ("*(u64 *)(r10 - 8) = -1; r0 = *(u64 *)(r10 - 8)", M1),
        (
            "r2 = 0x12; *(u8 *)(r10 - 1) = w2; r0 = *(u64 *)(r10 - 8)",
            0x1299_aabb_ccdd_eeff,
        ),
        (
            "r2 = 7; *(u16 *)(r10 - 8) = w2; r0 = *(u64 *)(r10 - 8)",
            0x8899_aabb_ccdd_0007,
        ),
        (
            "r2 = 7; *(u32 *)(r10 - 8) = w2; r0 = *(u64 *)(r10 - 8)",
            0x8899_aabb_0000_0007,
        ),
        ("w0 = load_acquire((u8 *)(r10 - 8))", 0xff),
        ("w0 = load_acquire((u16 *)(r10 - 8))", 0xeeff),
        ("w0 = load_acquire((u32 *)(r10 - 8))", 0xccdd_eeff),
        ("r0 = load_acquire((u64 *)(r10 - 8))", 0x8899_aabb_ccdd_eeff),
        (
            "r2 = 7; store_release((u64 *)(r10 - 8), r2); r0 = *(u64 *)(r10 - 8)",
            7,
        ),
        (
            "r2 = 7; store_release((u8 *)(r10 - 8), w2); w0 = *(u8 *)(r10 - 8)",
            7,
        ),
    ];
    let cases: Vec<(String, u64)> = cases
        .iter()
        .map(|(body, r0)| (format!("{fill}; {body}"), *r0))
        .collect();
    let cases: Vec<(&str, u64)> = cases
        .iter()
        .map(|(text, r0)| (text.as_str(), *r0))
        .collect();
    check(&cases);
}

#[test]
fn atomics_change_memory_and_return_the_old_value() {
    // r1 and memory start as 6 and 10; the result is memory + 1000 * register.
    let sum = "r2 = *(u64 *)(r10 - 8); r1 *= 1000; r0 = r1; r0 += r2";
    let cases = [
        ("lock *(u64 *)(r10 - 8) += r1", 16 + 6000),
        ("lock *(u64 *)(r10 - 8) |= r1", 14 + 6000),
        ("lock *(u64 *)(r10 - 8) &= r1", 2 + 6000),
        ("lock *(u64 *)(r10 - 8) ^= r1", 12 + 6000),
        ("lock *(u32 *)(r10 - 8) += w1", 16 + 6000),
        ("lock *(u32 *)(r10 - 8) |= w1", 14 + 6000),
        ("lock *(u32 *)(r10 - 8) &= w1", 2 + 6000),
        ("lock *(u32 *)(r10 - 8) ^= w1", 12 + 6000),
        ("r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)", 16 + 10_000),
        ("r1 = atomic_fetch_or((u64 *)(r10 - 8), r1)", 14 + 10_000),
        ("r1 = atomic_fetch_and((u64 *)(r10 - 8), r1)", 2 + 10_000),
        ("r1 = atomic_fetch_xor((u64 *)(r10 - 8), r1)", 12 + 10_000),
        ("w1 = atomic_fetch_add((u32 *)(r10 - 8), w1)", 16 + 10_000),
        ("w1 = atomic_fetch_or((u32 *)(r10 - 8), w1)", 14 + 10_000),
        ("w1 = atomic_fetch_and((u32 *)(r10 - 8), w1)", 2 + 10_000),
        ("w1 = atomic_fetch_xor((u32 *)(r10 - 8), w1)", 12 + 10_000),
        ("r1 = xchg_64(r10 - 8, r1)", 6 + 10_000),
        ("w1 = xchg32_32(r10 - 8, w1)", 6 + 10_000),
        (
            "r0 = 10; r0 = cmpxchg_64(r10 - 8, r0, r1); r1 = r0",
            6 + 10_000,
        ),
        (
            "r0 = 11; r0 = cmpxchg_64(r10 - 8, r0, r1); r1 = r0",
            10 + 10_000,
        ),
        (
            "r0 = 10; w0 = cmpxchg32_32(r10 - 8, w0, w1); r1 = r0",
            6 + 10_000,
        ),
        (
            "r0 = -1; w0 = cmpxchg32_32(r10 - 8, w0, w1); r1 = r0",
            10 + 10_000,
        ),
    ];
    let cases: Vec<(String, u64)> = cases
        .iter()
        .map(|(op, r0)| (format!("r1 = 6; *(u64 *)(r10 - 8) = 10; {op}; {sum}"), *r0))
        .collect();
    let cases: Vec<(&str, u64)> = cases
        .iter()
        .map(|(text, r0)| (text.as_str(), *r0))
        .collect();
    check(&cases);
}

#[test]
fn a_32_bit_cmpxchg_compares_and_returns_only_low_halves() {
    let text = "r1 = 6; *(u64 *)(r10 - 8) = 10; r0 = 0xffffffff0000000a ll;
        w0 = cmpxchg32_32(r10 - 8, w0, w1); r2 = *(u64 *)(r10 - 8); r0 += r2; exit";
    assert_eq!(eval(text), 16);
}

#[test]
fn calls_keep_r6_to_r9_and_frames_apart() {
    let text = "
        r6 = 1; r7 = 2; r8 = 3; r9 = 4
        *(u64 *)(r10 - 8) = 100
        r1 = 5
        call sub
        r0 += r6; r0 += r7; r0 += r8; r0 += r9
        r1 = *(u64 *)(r10 - 8)
        r0 += r1
        exit
    sub:
        r6 = 1000; r7 = 1000; r8 = 1000; r9 = 1000
        *(u64 *)(r10 - 8) = 7
        r0 = r1
        exit";
    assert_eq!(eval(text), 5 + 10 + 100);
}

#[test]
fn a_program_finds_all_five_arguments() {
    let text = "r0 = r1; r0 <<= 8; r0 |= r2; r0 <<= 8; r0 |= r3; r0 <<= 8; r0 |= r4; r0 <<= 8;
        r0 |= r5; exit";
    let mut bench = Bench::new(text, Vec::new());
    let args = RunArgs::new(KernAddr::new(1)).with_rest([2, 3, 4, 5]);
    let result = bench
        .vm
        .run(bench.loaded.programs[0], &args, &mut bench.host);
    assert_eq!(result.unwrap().ret, 0x01_0203_0405);
    assert_eq!(bench.run(1), 0x01_0000_0000);
}

#[test]
fn long_jumps_and_may_goto() {
    assert_eq!(eval("gotol far; r0 = 1; exit; far: r0 = 2; exit"), 2);
    // Falls through 8 Mi times, then jumps.
    let text = "r0 = 0; again: may_goto out; r0 += 1; goto again; out: exit";
    assert_eq!(eval(text), 8 << 20);
}

#[test]
fn bpf_loop_calls_back_and_stops_early() {
    let text = "
        r1 = 100; r2 = func(body) ll; r3 = r10; r3 += -8
        *(u64 *)(r10 - 8) = 0
        r4 = 0
        call 181
        r1 = *(u64 *)(r10 - 8)
        r0 *= 1000
        r0 += r1
        exit
    body:
        r0 = *(u64 *)(r2 + 0)
        r0 += r1
        *(u64 *)(r2 + 0) = r0
        r0 = 0
        if r1 < 9 goto +1
        r0 = 1
        exit";
    assert_eq!(eval(text), 10 * 1000 + 45);
}

#[test]
fn instruction_counts_are_exact() {
    let mut bench = Bench::new(
        "r1 = 3; again: r1 -= 1; if r1 != 0 goto again; r0 = 1 ll; exit",
        Vec::new(),
    );
    let result = bench.try_run(0).unwrap();
    // mov, three rounds of two, ldimm64 (one), exit.
    assert_eq!(result.insns, 1 + 6 + 1 + 1);
    assert_eq!(bench.vm.insns_total(), 9);
}

#[test]
fn number_iterators_walk_their_range() {
    let new = super::support::generic("bpf_iter_num_new");
    let next = super::support::generic("bpf_iter_num_next");
    let destroy = super::support::generic("bpf_iter_num_destroy");
    let text = format!(
        "
        r6 = 0
        r1 = r10; r1 += -8; r2 = -2; r3 = 5
        call kfunc {new}
    again:
        r1 = r10; r1 += -8
        call kfunc {next}
        if r0 == 0 goto done
        r0 = *(s32 *)(r0 + 0)
        r6 += r0
        r6 += 100
        goto again
    done:
        r1 = r10; r1 += -8
        call kfunc {destroy}
        r0 = r6
        exit"
    );
    // -2 to 4.
    assert_eq!(eval(&text), 700 + 7);
    let end = format!("r6 = r0; r1 = r10; r1 += -8; call kfunc {destroy}; r0 = r6; exit");
    let bad = format!("r1 = r10; r1 += -8; r2 = 5; r3 = 4; call kfunc {new}; {end}");
    assert_eq!(eval(&bad), (-22i64).cast_unsigned());
    let big = format!("r1 = r10; r1 += -8; r2 = 0; r3 = 8388609; call kfunc {new}; {end}");
    assert_eq!(eval(&big), (-7i64).cast_unsigned());
}

#[test]
fn exceptions_end_the_program_with_their_cookie() {
    let throw = super::support::generic("bpf_throw");
    let text = format!("call sub; r0 = 1; exit; sub: r1 = 77; call kfunc {throw}; exit");
    assert_eq!(eval(&text), 77);
}

#[test]
fn global_data_is_memory() {
    let data = map(MapType::ARRAY, 4, 16, 1);
    let text = "r1 = map_value(0, 8) ll; *(u64 *)(r1 + 0) = 42; r0 = *(u64 *)(r1 + 0); exit";
    let mut bench = Bench::new(text, vec![data]);
    assert_eq!(bench.run(0), 42);
    let at = bench.vm.map(bench.loaded.maps[0]).value_addr().unwrap();
    assert_eq!(bench.vm.mem().read_u64(at.checked_add(8).unwrap()), Ok(42));
}
