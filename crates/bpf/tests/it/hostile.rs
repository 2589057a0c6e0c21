//! Bytes that no compiler wrote: a program or a typed error, never a panic, in bounded time.

use crate::elf_writer::{self, FUNC, Section};
use crate::kernel::{core_kernel, kernel};
use crate::objects::{CORE, OBJECTS, OWNED, SCHED};
use harena_bpf::btf::{Btf, BtfBuilder, IntEncoding, LayoutError, MemberDef, TypeId};
use harena_bpf::isa::{asm, encode};
use harena_bpf::{GlobalValue, Object, ParseError};

/// Does everything that can be done with an object.
fn exercise(bytes: &[u8]) {
    let Ok(mut object) = Object::parse("hostile.o", bytes) else {
        return;
    };
    let names: Vec<String> = object.globals().map(str::to_owned).collect();
    for name in names {
        drop(object.global_info(&name));
        drop(object.global_value(&name));
        drop(object.set_global(&name, &GlobalValue::Int(1)));
    }
    drop(object.link(&kernel()));
    drop(object.problems(&core_kernel()));
}

/// The same numbers in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    /// The file with a few bytes changed.
    pub(crate) fn flipped(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            bytes[at] = match self.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at].wrapping_add(1),
                _ => u8::try_from(self.below(256)).unwrap(),
            };
        }
        bytes
    }
}

#[test]
fn truncation_at_every_byte() {
    for whole in [OBJECTS, SCHED, CORE, OWNED] {
        for len in 0..whole.len() {
            exercise(&whole[..len]);
        }
    }
}

#[test]
fn flipped_bytes() {
    let mut random = Random::new();
    for whole in [OBJECTS, SCHED, CORE, OWNED] {
        for _ in 0..4000 {
            let bytes = random.flipped(whole);
            exercise(&bytes);
        }
    }
}

#[test]
fn words_off_by_one_and_huge() {
    for at in (0..SCHED.len() - 8).step_by(4) {
        let old = u64::from_le_bytes(SCHED[at..at + 8].try_into().unwrap());
        for new in [old.wrapping_add(1), old.wrapping_sub(1), 1 << 63, u64::MAX] {
            let mut bytes = SCHED.to_vec();
            bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
            exercise(&bytes);
        }
    }
}

fn exit_code() -> Vec<u8> {
    encode(&asm("r0 = 0; exit").unwrap())
}

#[test]
fn more_sections_than_the_header_can_count() {
    let mut sections: Vec<Section> = (0..70_000)
        .map(|n| Section::code(&format!("s{n}"), Vec::new()))
        .collect();
    sections[60_000] = Section::code("syscall", exit_code());
    let bytes = elf_writer::write(&sections, &[("main", FUNC, 60_001, 0, 16)]);
    let linked = Object::parse("many.o", &bytes)
        .unwrap()
        .link(&kernel())
        .unwrap();
    assert_eq!(linked.programs.len(), 1);
}

#[test]
fn sections_that_share_their_bytes_are_refused() {
    let sections = vec![Section::code("syscall", exit_code().repeat(100)); 500];
    let mut bytes = elf_writer::write(&sections, &[("main", FUNC, 1, 0, 16)]);
    let headers = usize::try_from(u64::from_le_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    for n in 1..=500 {
        let at = headers + 64 * n + 24;
        bytes[at..at + 8].copy_from_slice(&64u64.to_le_bytes());
        let len = bytes.len() as u64 - 64;
        bytes[at + 8..at + 16].copy_from_slice(&(len / 8 * 8).to_le_bytes());
    }
    let error = Object::parse("shared.o", &bytes).unwrap_err();
    assert!(
        matches!(error, ParseError::OverlappingSections { .. }),
        "{error}"
    );
}

#[test]
fn many_programs_that_share_a_long_function_are_refused() {
    let body = asm("r0 = 0").unwrap();
    let mut text = body.repeat(100_000);
    text.extend(asm("exit").unwrap());
    let mut entry = asm("call +0; exit").unwrap();
    entry[0].imm = -1;
    let count = 100u64;
    let mut relocs = Vec::new();
    for n in 0..count {
        relocs.extend((n * 16).to_le_bytes());
        relocs.extend(((1u64 << 32) | 10).to_le_bytes());
    }
    let sections = [
        Section::code(".text", encode(&text)),
        Section::code("syscall", encode(&entry).repeat(100)),
        Section {
            name: ".relsyscall".to_owned(),
            kind: 9,
            data: relocs,
            link: 4,
            info: 2,
            ..Section::default()
        },
    ];
    let names: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    let mut symbols = vec![("long", FUNC, 1, 0, text.len() as u64 * 8)];
    for (n, name) in (0u64..).zip(&names) {
        symbols.push((name, FUNC, 2, n * 16, 16));
    }
    let bytes = elf_writer::write(&sections, &symbols);
    let error = Object::parse("bomb.o", &bytes)
        .unwrap()
        .link(&kernel())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "bomb.o: all programs together are longer than 8000000 instructions"
    );
}

#[test]
fn instructions_cannot_smuggle_references_past_the_linker() {
    for text in [
        "r1 = map(3) ll; exit",
        "r1 = btf_id(1) ll; exit",
        "call kfunc 7; exit",
    ] {
        let code = encode(&asm(text).unwrap());
        let len = code.len() as u64;
        let bytes = elf_writer::write(
            &[Section::code("syscall", code)],
            &[("main", FUNC, 1, 0, len)],
        );
        let error = Object::parse("smuggler.o", &bytes)
            .unwrap()
            .link(&kernel())
            .unwrap_err();
        assert!(error.to_string().contains("has no relocation"), "{error}");
    }
}

/// Asks everything of every type.
fn interrogate(btf: &Btf) {
    for id in btf.ids() {
        drop(btf.resolve(id));
        drop(btf.size_of(id));
        drop(btf.align_of(id));
        drop(btf.c_declaration(id, "x"));
        drop(btf.field(id, ".no_such_member[3]"));
        drop(btf.value(id, &[0; 64]));
    }
}

#[test]
fn cyclic_and_endless_types_end() {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, IntEncoding::Signed);
    b.typedef("a", TypeId::new(3));
    b.typedef("b", TypeId::new(2));
    b.constant(TypeId::new(4));
    b.array(TypeId::new(5), int, 2);
    b.structure("self", 4, &[MemberDef::at("", TypeId::new(6), 0)]);
    b.func_proto(
        TypeId::new(7),
        &[("f", TypeId::new(7)), ("g", TypeId::new(7))],
    );
    let mut last = int;
    for _ in 0..40 {
        last = b.array(last, int, u32::MAX);
    }
    for _ in 0..2000 {
        last = b.volatile(last);
    }
    // A tree of anonymous structs with 2^40 leaves, in 40 types.
    let mut tree = int;
    for _ in 0..40 {
        let two = [MemberDef::at("", tree, 0), MemberDef::at("", tree, 0)];
        tree = b.structure("", 4, &two);
    }
    let btf = b.finish();
    assert!(matches!(
        btf.size_of(TypeId::new(2)),
        Err(LayoutError::Unbounded { .. })
    ));
    assert!(matches!(
        btf.align_of(tree),
        Err(LayoutError::Unbounded { .. })
    ));
    drop(btf.field(tree, ".x"));
    drop(btf.value(tree, &[0; 4]));
}

#[test]
fn btf_bytes_survive_and_broken_ones_are_refused() {
    let btf = core_kernel().btf;
    let bytes = btf.to_bytes();
    let again = Btf::parse(&bytes).unwrap();
    assert_eq!(again.to_bytes(), bytes);
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "cut at {len}");
    }
    for at in (0..bytes.len() - 4).step_by(4) {
        for word in [
            0u32,
            1,
            0xffff,
            0x0100_ffff,
            0x1f00_0000,
            0x8000_0000,
            u32::MAX,
        ] {
            let mut broken = bytes.clone();
            broken[at..at + 4].copy_from_slice(&word.to_le_bytes());
            if let Ok(btf) = Btf::parse(&broken) {
                interrogate(&btf);
            }
        }
    }
}
