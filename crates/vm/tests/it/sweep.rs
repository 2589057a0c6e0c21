//! Accesses of every kind at every distance from the edges of an arena's pages, by both engines:
//! which are reported, and that both do the same.

use harena_arena::HALF_GUARD;
use harena_bpf::isa::{Insn, disasm};
use harena_vm::{Containment, Engine, ViolationKind, layout};

use super::engines::{PRESENT, USER, difference, map_value, run};

/// The register that accesses go through.
const BASE: u8 = 6;
/// Widths in bytes, with their bits in an instruction's code.
const SIZES: [(u8, u8); 4] = [(8, 0x18), (4, 0x00), (2, 0x08), (1, 0x10)];
/// Additions, `or`, `and` and `xor` without and with their old values, exchanges.
const ATOMICS: [i32; 10] = [0x00, 0x40, 0x50, 0xa0, 0x01, 0x41, 0x51, 0xa1, 0xe1, 0xf1];

/// One instruction, how many bytes it touches, and how it is reported.
struct Access {
    insn: Insn,
    size: u8,
    kind: &'static str,
}

fn accesses(off: i16) -> Vec<Access> {
    let mut all = Vec::new();
    for (size, bits) in SIZES {
        let mut add = |kind, insn| all.push(Access { insn, size, kind });
        add("WRITE", Insn::new(0x63 | bits, BASE, 1, off, 0));
        add("READ", Insn::new(0x61 | bits, 0, BASE, off, 0));
        if size < 8 {
            add("READ", Insn::new(0x81 | bits, 0, BASE, off, 0));
        }
        if size >= 4 {
            for atomic in ATOMICS {
                add("WRITE", Insn::new(0xc3 | bits, BASE, 1, off, atomic));
            }
        }
        add("WRITE", Insn::new(0x62 | bits, BASE, 0, off, -2));
        add("READ", Insn::new(0xc3 | bits, 0, BASE, off, 0x100));
        add("WRITE", Insn::new(0xc3 | bits, BASE, 1, off, 0x110));
    }
    all
}

/// How the base register comes by its value, and so what the compiler knows of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    /// Only a cast made it.
    Cast,
    /// A cast or something else: its value decides.
    Either,
    /// The arena's address in a kernel.
    Kernel,
}

impl Way {
    const ALL: [Self; 3] = [Self::Cast, Self::Either, Self::Kernel];

    /// What an address of offset 0 is reported as.
    fn origin(self) -> u64 {
        match self {
            Self::Cast | Self::Either => USER,
            Self::Kernel => layout::ARENAS_START + HALF_GUARD,
        }
    }

    fn kind(self) -> ViolationKind {
        match self {
            Self::Cast | Self::Either => ViolationKind::Arena,
            Self::Kernel => ViolationKind::Wild,
        }
    }

    fn base(self, low: u32) -> Vec<Insn> {
        let load = Insn::ldimm64(BASE, 0, self.origin() + u64::from(low));
        let cast = Insn::new(0xbf, BASE, BASE, 1, 1);
        match self {
            Self::Cast => [&load[..], &[cast]].concat(),
            Self::Either => {
                let other = [
                    Insn::new(0xbf, BASE, 10, 0, 0),
                    Insn::new(0xb7, 8, 0, 0, 0),
                    Insn::new(0x55, 8, 0, 3, 0),
                ];
                [&other[..], &load, &[cast]].concat()
            }
            Self::Kernel => load.to_vec(),
        }
    }
}

/// Whether all bytes lie in pages that are there.
fn is_present(at: i64, size: u8) -> bool {
    (at..at + i64::from(size)).all(|byte| PRESENT.iter().any(|page| byte >> 12 == i64::from(*page)))
}

/// All accesses at one place; what each leaves in registers is kept in the map.
fn check(way: Way, low: u32, off: i16) {
    let mut insns = way.base(low);
    insns.extend(Insn::ldimm64(9, 2, map_value(0)));
    let at = i64::from(low) + i64::from(off);
    let mut expected = Vec::new();
    for (number, access) in (0i16..).zip(accesses(off)) {
        insns.push(Insn::new(0xb7, 0, 0, 0, 17));
        insns.extend(Insn::ldimm64(1, 0, 0x8765_4321_fedc_ba98));
        if !is_present(at, access.size) {
            let slot = u32::try_from(insns.len()).expect("a short program");
            let address = way.origin().wrapping_add_signed(at);
            expected.push((slot, way.kind(), access.kind, address));
        }
        insns.push(access.insn);
        insns.push(Insn::new(0x7b, 9, 0, number * 16, 0));
        insns.push(Insn::new(0x7b, 9, 1, number * 16 + 8, 0));
    }
    insns.push(Insn::new(0x95, 0, 0, 0, 0));
    for containment in [Containment::Mask, Containment::Check] {
        let case = format!("{way:?}, base {low:#x}, offset {off}, {containment:?}");
        compare(&insns, &expected, containment, &case);
    }
}

/// The program runs to its end by both engines, equally, and reports what is expected.
fn compare(
    insns: &[Insn],
    expected: &[(u32, ViolationKind, &'static str, u64)],
    containment: Containment,
    case: &str,
) {
    let [interpreted, compiled] =
        [Engine::Interpreter, Engine::Jit].map(|engine| run(insns, 10_000, engine, containment));
    let violations = interpreted.violations.iter();
    let found: Vec<_> = violations
        .map(|v| (v.insn, v.kind, v.access, v.address))
        .collect();
    assert_eq!(found, expected, "{case}\n{}", disasm(insns));
    assert!(
        interpreted.result.is_ok(),
        "{case}: {:?}",
        interpreted.result
    );
    assert!(
        interpreted == compiled,
        "{case}\n{}\n{}",
        difference(&interpreted, &compiled),
        disasm(insns)
    );
}

/// From nine bytes before an edge to eight behind it, the offset being in the register, in the
/// instruction, or far from the place in both.
fn edge(edge: i64) {
    for way in Way::ALL {
        for at in edge - 9..=edge + 8 {
            for off in [
                0,
                i16::try_from(at - edge).expect("small"),
                i16::MIN,
                i16::MAX,
            ] {
                // A register's low half is what counts: offsets wrap around, the sum does not.
                let low = (at - i64::from(off)).rem_euclid(1 << 32);
                check(way, u32::try_from(low).expect("32 bits"), off);
            }
        }
    }
}

#[test]
fn at_the_start_of_the_window() {
    edge(0);
}

#[test]
fn between_two_pages() {
    edge(0x1000);
}

#[test]
fn from_a_page_to_an_empty_one() {
    edge(0x2000);
}

#[test]
fn from_an_empty_page_to_a_page() {
    edge(0x3000);
}

#[test]
fn at_the_last_page_of_the_map() {
    edge(0x8000);
}

#[test]
fn at_the_end_of_the_window() {
    edge(1 << 32);
}
