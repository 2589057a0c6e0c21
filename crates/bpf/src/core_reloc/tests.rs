//! Relocations that lie, and kernels that contradict themselves.

use super::patch::{Patched, patch};
use super::{AccessSize, Answer, RelocKind, Relocator};
use crate::btf::{Btf, BtfBuilder, EnumWidth, IntEncoding, Kind, MemberDef, TypeId};
use crate::error::CoReError;
use crate::isa::{Insn, asm};

fn thing(b: &mut BtfBuilder, name: &str, offset: u32) -> TypeId {
    let int = b.int("int", 4, IntEncoding::Signed);
    b.structure(name, offset + 4, &[MemberDef::at("x", int, offset)])
}

fn btf(build: impl FnOnce(&mut BtfBuilder)) -> Btf {
    let mut b = BtfBuilder::new();
    build(&mut b);
    b.finish()
}

fn ask(local: &Btf, kernel: &Btf, kind: RelocKind, access: &str) -> Result<Answer, CoReError> {
    let root = local.find("thing", Kind::Struct).unwrap();
    Relocator::new(local, kernel).answer(kind, root, access)
}

#[test]
fn flavours_that_agree_are_one_and_those_that_differ_are_ambiguous() {
    let local = btf(|b| _ = thing(b, "thing", 0));
    let agree = btf(|b| {
        thing(b, "thing", 8);
        thing(b, "thing___other", 8);
    });
    let answer = ask(&local, &agree, RelocKind::FieldByteOffset, "0:0").unwrap();
    assert_eq!((answer.local, answer.target), (0, Some(8)));
    let differ = btf(|b| {
        thing(b, "thing", 8);
        thing(b, "thing___other", 12);
    });
    let error = ask(&local, &differ, RelocKind::FieldByteOffset, "0:0").unwrap_err();
    assert!(matches!(error, CoReError::Ambiguous { .. }), "{error}");
    // Both say that it exists, but not in the same place.
    let error = ask(&local, &differ, RelocKind::FieldExists, "0:0").unwrap_err();
    assert!(matches!(error, CoReError::Ambiguous { .. }), "{error}");
}

#[test]
fn paths_that_do_not_fit_are_refused() {
    let local = btf(|b| _ = thing(b, "thing", 0));
    for access in [
        "",
        "x",
        "0:",
        "0:1",
        "0:9999999",
        "0:4294967296",
        "-1:0",
        "0:0:0",
        "0:0:0:0",
    ] {
        let error = ask(&local, &local, RelocKind::FieldByteOffset, access).unwrap_err();
        assert!(
            matches!(error, CoReError::Access { .. }),
            "{access}: {error}"
        );
    }
    let long = "0:".repeat(65) + "0";
    for (kind, access) in [
        (RelocKind::TypeSize, "0:0"),
        (RelocKind::TypeExists, "1"),
        (RelocKind::EnumvalValue, "0"),
        (RelocKind::FieldExists, long.as_str()),
    ] {
        let error = ask(&local, &local, kind, access).unwrap_err();
        assert!(
            matches!(error, CoReError::Access { .. }),
            "{access}: {error}"
        );
    }
    // A whole array of structs behind a pointer is fine, as long as it fits 64 bits.
    let answer = ask(&local, &local, RelocKind::FieldByteOffset, "3:0").unwrap();
    assert_eq!(answer.target, Some(12));
}

#[test]
fn a_bitfield_across_words_is_refused() {
    let bitfield = |b: &mut BtfBuilder, bit_offset| {
        let int = b.int("int", 4, IntEncoding::Signed);
        let x = MemberDef {
            bit_offset,
            bit_size: Some(9),
            ..MemberDef::at("x", int, 0)
        };
        b.structure("thing", 32, &[x]);
    };
    let local = btf(|b| bitfield(b, 0));
    let across = btf(|b| bitfield(b, 60));
    let error = ask(&local, &across, RelocKind::FieldByteOffset, "0:0").unwrap_err();
    assert_eq!(error, CoReError::WideBitfield);
}

#[test]
fn fields_of_other_kinds_do_not_exist() {
    let local = btf(|b| _ = thing(b, "thing", 0));
    let other = btf(|b| {
        let inner = thing(b, "inner", 0);
        b.structure("thing", 8, &[MemberDef::at("x", inner, 0)]);
    });
    let exists = ask(&local, &other, RelocKind::FieldExists, "0:0").unwrap();
    assert_eq!(exists.target, Some(0));
    let offset = ask(&local, &other, RelocKind::FieldByteOffset, "0:0").unwrap();
    assert_eq!(offset.target, None);
}

#[test]
fn enums_of_other_width_and_flavour_are_found() {
    let local = btf(|b| _ = b.enumeration("thing___old", EnumWidth::U32, &[("A___x", 1)]));
    let kernel = btf(|b| _ = b.enumeration("thing", EnumWidth::I64, &[("B", 1), ("A", u64::MAX)]));
    let root = local.find("thing___old", Kind::Enum).unwrap();
    let answer = Relocator::new(&local, &kernel).answer(RelocKind::EnumvalValue, root, "0");
    assert_eq!(answer.unwrap().target, Some(u64::MAX));
}

fn answer(local: u64, target: Option<u64>) -> Answer {
    Answer {
        local,
        target,
        validate: true,
        access: AccessSize::Keep,
    }
}

fn patched(text: &str, answer: &Answer) -> Result<(Patched, Vec<Insn>), CoReError> {
    let mut insns = asm(text).unwrap();
    let done = patch(&mut insns, 0, answer)?;
    Ok((done, insns))
}

#[test]
fn answers_go_into_immediates_offsets_and_pairs() {
    let check = |text, answer, expected| {
        let (done, insns) = patched(text, &answer).unwrap();
        assert_eq!(done, Patched::Done);
        assert_eq!(insns, asm(expected).unwrap(), "{text}");
    };
    check("r1 += 4", answer(4, Some(70000)), "r1 += 70000");
    check("w1 = 1", answer(1, Some(u64::MAX)), "w1 = -1");
    check(
        "r1 = *(u32 *)(r2 + 4)",
        answer(4, Some(8)),
        "r1 = *(u32 *)(r2 + 8)",
    );
    check(
        "*(u64 *)(r2 + 4) = 1",
        answer(4, Some(8)),
        "*(u64 *)(r2 + 8) = 1",
    );
    check(
        "r1 = 1 ll",
        answer(1, Some(1 << 40)),
        "r1 = 0x10000000000 ll",
    );
    let resize = Answer {
        access: AccessSize::Change { from: 4, to: 1 },
        ..answer(4, Some(8))
    };
    check("w1 = *(u32 *)(r2 + 4)", resize, "w1 = *(u8 *)(r2 + 8)");
}

#[test]
fn instructions_that_cannot_take_an_answer_are_refused() {
    let refuse = |text: &str, answer| patched(text, &answer).unwrap_err();
    let class = |error| matches!(error, CoReError::InsnClass { .. });
    assert!(class(refuse("exit", answer(0, Some(1)))));
    assert!(class(refuse("r1 += r2", answer(0, Some(1)))));
    assert!(class(refuse("r1 = map(0) ll", answer(0, Some(1)))));
    assert!(class(refuse("if r1 == 0 goto +0", answer(0, Some(1)))));
    let mismatch = |error| matches!(error, CoReError::Mismatch { .. });
    assert!(mismatch(refuse("r1 += 5", answer(4, Some(1)))));
    assert!(mismatch(refuse("r1 = 5 ll", answer(4, Some(1)))));
    assert!(mismatch(refuse(
        "r1 = *(u64 *)(r2 + 5)",
        answer(4, Some(1))
    )));
    let range = |error| matches!(error, CoReError::OutOfRange { .. });
    assert!(range(refuse("r1 += 4", answer(4, Some(1 << 33)))));
    assert!(range(refuse(
        "r1 = *(u64 *)(r2 + 4)",
        answer(4, Some(32768))
    )));
}

#[test]
fn no_answer_poisons_both_slots_of_a_pair() {
    let (done, insns) = patched("r1 = 1 ll; exit", &answer(1, None)).unwrap();
    assert_eq!(done, Patched::Poisoned);
    let expected = asm("call 195896080; call 195896080; exit").unwrap();
    assert_eq!(insns, expected);
}
