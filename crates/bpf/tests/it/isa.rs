//! Text and bytes of instructions.

use harena_bpf::isa::{Insn, asm, decode, disasm, encode};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

/// Every form that the assembler knows, as the disassembler writes it.
const FORMS: &str = "\
r1 = r2
w1 = w2
r1 = -7
w1 += 5
r1 -= r2
r3 *= 3
r1 /= r2
r1 s/= r2
w1 %= w2
w1 s%= 9
r1 |= 1
r1 &= r2
r1 ^= -1
r1 <<= 3
w1 >>= w2
r1 s>>= 63
r1 = -r1
w2 = -w2
r1 = (s8)r2
w1 = (s16)w2
r1 = (s32)r2
r1 = be16 r1
r1 = le64 r1
r1 = bswap32 r1
r1 = addr_space_cast(r2, 0, 1)
r1 = addr_space_cast(r2, 1, 0)
r1 = 0x123456789abcdef0 ll
r1 = map(3) ll
r1 = map_value(3, 16) ll
r1 = btf_id(9) ll
r1 = func(+4) ll
w1 = *(u8 *)(r2 + 1)
w1 = *(u16 *)(r2 - 2)
w1 = *(u32 *)(r2 + 0)
r1 = *(u64 *)(r10 - 8)
r1 = *(s8 *)(r2 + 0)
r1 = *(s16 *)(r2 + 0)
r1 = *(s32 *)(r2 + 32767)
r0 = *(u8 *)skb[14]
r0 = *(u16 *)skb[r3]
*(u8 *)(r10 - 1) = w2
*(u64 *)(r10 - 8) = r2
*(u32 *)(r10 - 4) = -5
lock *(u64 *)(r1 + 0) += r2
lock *(u32 *)(r1 + 4) |= w2
lock *(u64 *)(r1 + 0) &= r2
lock *(u64 *)(r1 + 0) ^= r2
r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)
w2 = atomic_fetch_or((u32 *)(r1 + 0), w2)
r2 = atomic_fetch_and((u64 *)(r1 + 0), r2)
r2 = atomic_fetch_xor((u64 *)(r1 - 8), r2)
r2 = xchg_64(r1 + 8, r2)
w2 = xchg32_32(r1 + 0, w2)
r0 = cmpxchg_64(r1 + 0, r0, r2)
w0 = cmpxchg32_32(r1 - 4, w0, w2)
w1 = load_acquire((u8 *)(r2 + 0))
r1 = load_acquire((u64 *)(r2 + 0))
store_release((u32 *)(r1 + 0), w2)
if r1 == r2 goto +1
if w1 != 5 goto -2
if r1 > r2 goto +0
if r1 >= 7 goto +0
if r1 s> -5 goto +0
if r1 s>= r2 goto +0
if w1 < w2 goto +0
if r1 <= 1 goto +0
if r1 s< 1 goto +0
if r1 s<= 1 goto +0
if r1 & 8 goto +0
goto -3
gotol +70000
gotox r1
may_goto +2
call 14
call +2
call kfunc 7
callx r1
exit";

#[test]
fn every_form_survives_text_to_slots_to_text() {
    let insns = asm(FORMS).unwrap();
    let text = disasm(&insns);
    let lines = text.lines().map(|line| line.split_once(": ").unwrap().1);
    for (got, want) in lines.zip(FORMS.lines()) {
        assert_eq!(got, want);
    }
}

#[test]
fn labels_count_slots_and_find_each_other() {
    let text = "
        r1 = 1 ll          # two slots
    again:
        if r1 == 0 goto done
        r1 += -1 ; goto again
    done: r2 = func(callback) ll
        call callback
        exit
    callback:
        r0 = 0
        exit";
    insta::assert_snapshot!(disasm(&asm(text).unwrap()));
}

#[test]
fn mistakes_are_named_with_their_line() {
    let mut said: Vec<String> = Vec::new();
    let error = |text| asm(text).unwrap_err().to_string();
    said.push(error("exit\nr11 = 1"));
    said.push(error("goto nowhere"));
    said.push(error("a: exit\na: exit"));
    said.push(error("r1 = w2"));
    said.push(error("r1 = *(u64 *)(r2 + 32768)"));
    said.push(error("r1 = 4294967296"));
    said.push(error("r1 ? 3"));
    said.push(error("exit now"));
    said.push(error("lock *(u64 *)(r1 + 0) -= r2"));
    insta::assert_snapshot!(said.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decode_and_encode_are_inverse(raw in prop::collection::vec(any::<[u8; 8]>(), 0..64)) {
        let bytes = raw.concat();
        let insns = decode(&bytes).unwrap();
        assert_eq!(insns.len(), raw.len());
        assert_eq!(encode(&insns), bytes);
    }

    #[test]
    fn any_slots_survive_their_text(raw in prop::collection::vec(any::<[u8; 8]>(), 0..16)) {
        let insns: Vec<Insn> = raw.iter().map(|b| Insn::from_bytes(*b)).collect();
        let text = disasm(&insns);
        let bare: String = text.lines().map(|l| format!("{}\n", l.split_once(": ").unwrap().1)).collect();
        assert_eq!(asm(&bare).unwrap(), insns);
    }

    #[test]
    fn any_text_is_assembled_or_refused(text in "[-a-z0-9 +*()=&|^<>,.;:\n]{0,80}") {
        drop(asm(&text));
    }
}

#[test]
fn odd_lengths_are_refused() {
    assert_eq!(
        decode(&[0; 12]).unwrap_err().to_string(),
        "12 bytes are no whole number of 8-byte instructions"
    );
}
