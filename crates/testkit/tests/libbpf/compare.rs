//! Instructions of two loaders, side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use harena_bpf::btf::{Btf, TypeId};
use harena_bpf::isa::op::{PseudoCall, PseudoLoad};
use harena_bpf::isa::{Insn, disasm_one, ldimm64_value};
use harena_bpf::{
    KFUNC_ADDRESS_BASE, KernelSymbols, LinkedObject, LinkedProgram, MapOrigin, MapType,
};
use harena_testkit::libbpf::Relocated;

/// What libbpf makes of an instruction whose relocation failed: a call of this helper.
const POISONED: i32 = 0x0bad_2310;
/// What it makes of a call of a weak kfunc that is missing: this, and the extern's number.
const MISSING_KFUNC: i32 = 2_002_000_000;

/// One object by both.
pub(crate) struct Sides<'a> {
    pub(crate) ours: &'a LinkedObject,
    pub(crate) theirs: &'a Relocated,
    pub(crate) kernel: &'a dyn KernelSymbols,
    /// The types that libbpf took for the kernel's.
    pub(crate) types: &'a Btf,
}

/// What was compared, and where the two differ.
#[derive(Default)]
pub(crate) struct Comparison {
    pub(crate) programs: usize,
    pub(crate) insns: usize,
    /// Instructions of them whose relocation failed, in both.
    pub(crate) poisoned: usize,
    pub(crate) differences: Vec<String>,
    /// Which of their descriptors stands for which of our maps.
    maps: BTreeMap<i32, i32>,
    /// How much farther our globals lie in the arena.
    moved: Option<i32>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} programs, {} instructions, {} of them poisoned, {} differences",
            self.programs,
            self.insns,
            self.poisoned,
            self.differences.len()
        )
    }
}

impl Sides<'_> {
    pub(crate) fn compare(&self) -> Comparison {
        let mut comparison = Comparison::default();
        for ours in &self.ours.programs {
            let mut found = self.theirs.programs.iter();
            let Some((_, theirs)) = found.find(|(name, _)| *name == ours.name) else {
                let name = &ours.name;
                comparison
                    .differences
                    .push(format!("{name}: libbpf has none"));
                continue;
            };
            self.program(ours, theirs, &mut comparison);
        }
        comparison
    }

    fn program(&self, ours: &LinkedProgram, theirs: &[Insn], comparison: &mut Comparison) {
        comparison.programs += 1;
        comparison.insns += theirs.len();
        if ours.insns.len() != theirs.len() {
            comparison.differences.push(format!(
                "{}: {} instructions, libbpf has {}",
                ours.name,
                ours.insns.len(),
                theirs.len()
            ));
            return;
        }
        let mut slot = 0;
        while slot < theirs.len() {
            let wide = ours.insns[slot].is_ldimm64() || theirs[slot].is_ldimm64();
            let slots = slot..slot + if wide { 2 } else { 1 };
            if !self.is_same(ours, theirs, slots.clone(), comparison) {
                let shown = |insns: &[Insn]| {
                    let text = disasm_one(&insns[slot..]).map(|shown| shown.text);
                    format!("{} {:?}", text.unwrap_or_default(), &insns[slots.clone()])
                };
                comparison.differences.push(format!(
                    "{} {slot}:\n  ours   {}\n  libbpf {}",
                    ours.name,
                    shown(&ours.insns),
                    shown(theirs),
                ));
            }
            slot = slots.end;
        }
    }

    fn is_same(
        &self,
        program: &LinkedProgram,
        theirs: &[Insn],
        slots: Range<usize>,
        comparison: &mut Comparison,
    ) -> bool {
        let slot = u32::try_from(slots.start).expect("programs are short");
        let (Some(ours), Some(theirs)) = (program.insns.get(slots.clone()), theirs.get(slots))
        else {
            return false;
        };
        let (a, b) = (ours[0], theirs[0]);
        if program.poisoned.contains_key(&slot) {
            let is_call = b.pseudo_call() == Some(PseudoCall::Kfunc) || b.src == 0;
            let is_missing = b.imm == POISONED || b.imm >= MISSING_KFUNC;
            comparison.poisoned += 1;
            return b.code == 0x85 && is_call && is_missing;
        }
        if program.jump_tables.contains_key(&slot) {
            // There it is a map of its own.
            return a.dst == b.dst && b.pseudo_load() == Some(PseudoLoad::MapValue);
        }
        if let (Some(PseudoCall::Kfunc), Some(PseudoCall::Kfunc)) =
            (a.pseudo_call(), b.pseudo_call())
        {
            let name = self.type_name(b.imm);
            let same = Insn { imm: 0, ..a } == Insn { imm: 0, ..b };
            return same && program.kfuncs.get(&name) == Some(&a.imm.cast_unsigned());
        }
        match (a.pseudo_load(), b.pseudo_load()) {
            (_, Some(PseudoLoad::BtfId)) if a.is_ldimm64() && a.src == 0 => {
                let address = ldimm64_value(a.imm, ours[1].imm);
                a.dst == b.dst && self.stands_for(address, &self.type_name(b.imm))
            }
            (Some(PseudoLoad::Value), Some(PseudoLoad::Value)) if ours != theirs => {
                let address = ldimm64_value(a.imm, ours[1].imm);
                let theirs = ldimm64_value(b.imm, theirs[1].imm);
                let mut names = names_at(theirs).into_iter();
                a.dst == b.dst && names.any(|name| self.stands_for(address, &name))
            }
            (Some(wanted), Some(found)) if wanted == found && is_of_map(wanted) => {
                let known = *comparison.maps.entry(b.imm).or_insert(a.imm);
                let same = Insn { imm: 0, ..a } == Insn { imm: 0, ..b };
                same && known == a.imm
                    && self.map_is_called(a.imm, b.imm)
                    && if wanted == PseudoLoad::Map {
                        ours[1] == theirs[1]
                    } else {
                        self.is_at_offset(a.imm, ours[1].imm - theirs[1].imm, comparison)
                    }
            }
            _ => ours == theirs,
        }
    }

    fn type_name(&self, id: i32) -> String {
        let id = TypeId::new(id.cast_unsigned());
        self.types.name_of(id).to_owned()
    }

    /// Whether the linker gives this kfunc or variable that address.
    fn stands_for(&self, address: u64, name: &str) -> bool {
        let kfunc = self.kernel.kfunc(name);
        let kfunc = kfunc.map(|kfunc| KFUNC_ADDRESS_BASE + u64::from(kfunc.id));
        kfunc.or(self.kernel.ksym(name).map(|ksym| ksym.addr)) == Some(address)
    }

    /// Where libbpf has created the map, it tells its name.
    fn map_is_called(&self, index: i32, fd: i32) -> bool {
        let map = usize::try_from(index)
            .ok()
            .and_then(|index| self.ours.maps.get(index));
        let Some(map) = map else { return false };
        let mut named = self.theirs.maps.iter().filter(|(known, _)| *known == fd);
        // It puts the object's name before those of globals' sections.
        named.all(|(_, name)| match map.origin {
            MapOrigin::Explicit => *name == map.name,
            MapOrigin::Data | MapOrigin::Rodata | MapOrigin::Bss | MapOrigin::Kconfig => {
                map.name.ends_with(name.as_str()) || name.ends_with(&map.name)
            }
        })
    }

    /// Whether our offset in a map may be so much greater. Our globals lie at an arena's end, as
    /// libbpf's do if it finds a kernel that allows that: all of them, or none.
    fn is_at_offset(&self, index: i32, farther: i32, comparison: &mut Comparison) -> bool {
        let map = &self.ours.maps[usize::try_from(index).expect("an index")];
        if map.map_type != MapType::ARENA {
            return farther == 0;
        }
        let start = i32::try_from(map.contents_offset).expect("arenas of tests are small");
        let moved = *comparison.moved.get_or_insert(farther);
        farther == moved && (moved == 0 || moved == start)
    }
}

/// What lies at an address of the running kernel, where libbpf looks for what has no type.
fn names_at(address: u64) -> Vec<String> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let names = symbols.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let at = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = words.nth(1)?;
        (at == address).then(|| name.to_owned())
    });
    names.collect()
}

fn is_of_map(load: PseudoLoad) -> bool {
    matches!(load, PseudoLoad::Map | PseudoLoad::MapValue)
}

/// The bytes of an object's section.
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> &'a [u8] {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(file).expect("an ELF file");
    let section = file.section_by_name(name).expect("it has this section");
    section.data().expect("it lies in the file")
}
