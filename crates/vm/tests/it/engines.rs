//! Random programs by both engines: everything that anyone can see at their ends is compared.
//!
//! The programs jump, call, loop, cast, and use good and wild pointers of every sort; most
//! budgets end somewhere inside. `HARENA_CASES` and `HARENA_SEED` ask for other cases than those
//! that are always run; `cargo xtask fuzz engines` sets them. A program whose ends differ is shown
//! with all that the difference does not need left out.
#![expect(
    clippy::unwrap_used,
    reason = "a generator that fails is a test that fails"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use harena_abi::{ArenaOffset, Cpu, KernAddr, UserAddr};
use harena_bpf::isa::Insn;
use harena_bpf::{InitialSlot, LinkedProgram, MapIndex, MapType, ProgType, ProgramIndex};
use harena_vm::{
    Abort, Containment, Engine, MapId, Region, RunArgs, RunResult, StreamId, Violation, Vm,
    VmConfig,
};

use super::checked::{HASH_ENTRIES, HASH_VALUE_SIZE};
use super::interpreter::suite::support::{KFUNCS, TestHost, arena, generic, map, object};
use super::numbers::Random;
use super::shrink::{listing, shrink};

const CASES: u64 = 3000;
const SEED: u64 = 0x5eed_0004;
/// Where the arena begins for users.
pub(super) const USER: u64 = 0x1000_0000_0000;
pub(super) const ARENA_PAGES: u32 = 8;
/// Pages of it that are there when a program starts.
pub(super) const PRESENT: [u32; 4] = [0, 1, 3, 5];
/// Bytes of the array map's one value.
pub(super) const VALUE_SIZE: u32 = 4096 + 40;
/// Bytes of the context.
pub(super) const CONTEXT_SIZE: u64 = 4096 + 64;

/// What operands are made of.
impl Random {
    pub(super) fn reg(&mut self) -> u8 {
        u8::try_from(self.below(10)).unwrap()
    }

    pub(super) fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.below(256),
            4 => 0x8000_0000,
            5 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }

    pub(super) fn imm(&mut self) -> i32 {
        let [a, b, c, d, ..] = self.value().to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }
}

/// What stands for a jump or call until all units have their places.
#[derive(Clone, Copy)]
enum Target {
    None,
    /// A unit of any function.
    Jump(usize),
    /// The same, by 32 bits.
    LongJump(usize),
    /// The start of a function.
    Function(usize),
}

/// A unit that no jump may split, and the instruction in it that leads elsewhere.
struct Unit {
    insns: Vec<Insn>,
    target: Target,
}

impl Unit {
    fn plain(insns: impl Into<Vec<Insn>>) -> Self {
        let (insns, target) = (insns.into(), Target::None);
        Self { insns, target }
    }
}

struct Generator {
    random: Random,
    units: Vec<Unit>,
    /// First unit of each function.
    functions: Vec<usize>,
    units_planned: usize,
}

const SIZES: [u8; 4] = [0x10, 0x08, 0x00, 0x18];

impl Generator {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            units: Vec::new(),
            functions: Vec::new(),
            units_planned: 0,
        }
    }

    fn program(mut self) -> Vec<Insn> {
        let lengths: Vec<usize> = (0..3)
            .map(|_| usize::try_from(4 + self.random.below(24)).unwrap())
            .collect();
        self.units_planned = lengths.iter().map(|len| len + 3).sum();
        for len in lengths {
            self.functions.push(self.units.len());
            self.start_of_function();
            for _ in 0..len {
                let unit = self.unit();
                self.units.push(unit);
            }
            self.end_of_function();
        }
        self.resolve()
    }

    /// Registers get values of all sorts, pointers above all.
    fn start_of_function(&mut self) {
        let mut insns = Vec::new();
        if self.functions.len() == 1 {
            for reg in 0..10 {
                insns.extend(self.pointer(reg));
            }
        } else {
            let reg = self.random.reg();
            insns.extend(self.pointer(reg));
        }
        self.units.push(Unit::plain(insns));
    }

    /// What registers hold at the end goes to the map.
    fn end_of_function(&mut self) {
        let mut insns = Vec::new();
        if self.functions.len() == 1 {
            insns.push(Insn::new(0x7b, 10, 9, -8, 0));
            insns.extend(Insn::ldimm64(9, 2, map_value(0)));
            for reg in 0..9u8 {
                insns.push(Insn::new(0x7b, 9, reg, i16::from(reg) * 8, 0));
            }
        }
        self.units.push(Unit::plain(insns));
        self.units.push(Unit::plain([Insn::new(0x95, 0, 0, 0, 0)]));
    }

    /// `reg = ` a pointer, or a number.
    fn pointer(&mut self, reg: u8) -> Vec<Insn> {
        let offset = self.random.below(u64::from(VALUE_SIZE) + 16);
        match self.random.below(8) {
            0 => Insn::ldimm64(reg, 2, map_value(offset)).to_vec(),
            1 => {
                let off = -i32::try_from(self.random.below(530)).unwrap();
                let mov = Insn::new(0xbf, reg, 10, 0, 0);
                vec![mov, Insn::new(0x07, reg, 0, 0, off)]
            }
            2 | 3 => {
                let page = self.random.below(u64::from(ARENA_PAGES) + 2);
                let at = match self.random.below(4) {
                    0 => page * 4096 + 4096 - self.random.below(9),
                    1 => 0xffff_ffff - self.random.below(9),
                    _ => page * 4096 + self.random.below(4096),
                };
                let mut insns = Insn::ldimm64(reg, 0, USER + at).to_vec();
                insns.push(Insn::new(0xbf, reg, reg, 1, 1));
                insns
            }
            4 => {
                let start = self.random.pick(&Region::ALL).start().raw();
                let near = start.wrapping_add(self.random.below(64)).wrapping_sub(16);
                Insn::ldimm64(reg, 0, near).to_vec()
            }
            5 => vec![Insn::new(0xbf, reg, 1, 0, 0)],
            _ => Insn::ldimm64(reg, 0, self.random.value()).to_vec(),
        }
    }

    fn unit(&mut self) -> Unit {
        match self.random.below(20) {
            0..=4 => Unit::plain([self.alu()]),
            5..=9 => Unit::plain([self.memory()]),
            10 => Unit::plain([self.atomic()]),
            11 => {
                let reg = self.random.reg();
                Unit::plain(self.pointer(reg))
            }
            12 => Unit::plain([self.mov()]),
            13 | 14 => self.jump(),
            15 => self.call_function(),
            16 | 17 => self.call_host(),
            18 => self.cast(),
            _ => self.rest(),
        }
    }

    fn alu(&mut self) -> Insn {
        let class = self.random.pick(&[0x07, 0x04]);
        let op = self.random.pick(&[
            0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0, 0xb0, 0xc0,
        ]);
        let signed = (op == 0x30 || op == 0x90) && self.random.rarely(2);
        let (dst, off) = (self.random.reg(), i16::from(signed));
        if self.random.rarely(2) {
            return Insn::new(class | op, dst, 0, off, self.random.imm());
        }
        let src = if self.random.rarely(10) {
            10
        } else {
            self.random.reg()
        };
        Insn::new(class | op | 0x08, dst, src, off, 0)
    }

    fn mov(&mut self) -> Insn {
        let (dst, src) = (self.random.reg(), self.random.reg());
        match self.random.below(5) {
            0 => Insn::new(0xbf, dst, src, self.random.pick(&[8, 16, 32]), 0),
            1 => Insn::new(0xbc, dst, src, self.random.pick(&[8, 16]), 0),
            2 => {
                let code = self.random.pick(&[0xd7, 0xd4, 0xdc]);
                Insn::new(code, dst, 0, 0, self.random.pick(&[16, 32, 64]))
            }
            3 => Insn::new(self.random.pick(&[0x87, 0x84]), dst, 0, 0, 0),
            _ => Insn::new(self.random.pick(&[0xbf, 0xbc]), dst, src, 0, 0),
        }
    }

    /// Base register and offset of an access.
    fn place(&mut self) -> (u8, i16) {
        if self.random.rarely(3) {
            let low = if self.random.rarely(40) { 520 } else { 505 };
            let off = -8 - i16::try_from(self.random.below(low)).unwrap();
            return (10, off);
        }
        let off = match self.random.below(6) {
            0 => 0,
            1 => self.random.pick(&[i16::MIN, i16::MAX, -1, 4095]),
            _ => i16::try_from(self.random.below(64)).unwrap() - 16,
        };
        (self.random.reg(), off)
    }

    fn memory(&mut self) -> Insn {
        let (base, off) = self.place();
        let size = self.random.pick(&SIZES);
        let reg = self.random.reg();
        match self.random.below(7) {
            0 | 1 => Insn::new(0x61 & !0x18 | size, reg, base, off, 0),
            2 if size != 0x18 => Insn::new(0x81 & !0x18 | size, reg, base, off, 0),
            3 => Insn::new(0x62 & !0x18 | size, base, 0, off, self.random.imm()),
            4 => Insn::new(0xc3 & !0x18 | size, reg, base, off, 0x100),
            5 => Insn::new(0xc3 & !0x18 | size, base, reg, off, 0x110),
            _ => {
                let src = if self.random.rarely(6) { 10 } else { reg };
                Insn::new(0x63 & !0x18 | size, base, src, off, 0)
            }
        }
    }

    fn atomic(&mut self) -> Insn {
        let (base, off) = self.place();
        let off = if self.random.rarely(4) { off } else { off & !7 };
        let size = self.random.pick(&[0x00, 0x18]);
        let imm = self.random.pick(&[
            0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1, 0xf1, 0x01,
        ]);
        Insn::new(0xc3 & !0x18 | size, base, self.random.reg(), off, imm)
    }

    fn jump(&mut self) -> Unit {
        // Mostly forward, as loops end only with the budget.
        let here = self.units.len();
        let to = if self.random.rarely(6) {
            usize::try_from(self.random.below(self.units_planned as u64)).unwrap()
        } else {
            let step = usize::try_from(1 + self.random.below(6)).unwrap();
            (here + step).min(self.units_planned - 1)
        };
        let op = self.random.pick(&[
            0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0,
        ]);
        let class = self.random.pick(&[0x05, 0x06]);
        let (dst, src) = (self.random.reg(), self.random.reg());
        let dst = if self.random.rarely(20) { 10 } else { dst };
        let (insn, target) = match self.random.below(8) {
            0 => (Insn::new(0x05, 0, 0, 0, 0), Target::Jump(to)),
            1 => (Insn::new(0x06, 0, 0, 0, 0), Target::LongJump(to)),
            2 => (Insn::new(0xe5, 0, 0, 0, 0), Target::Jump(to)),
            3 | 4 => (
                Insn::new(class | op | 0x08, dst, src, 0, 0),
                Target::Jump(to),
            ),
            _ => {
                let imm = self.random.imm();
                (Insn::new(class | op, dst, 0, 0, imm), Target::Jump(to))
            }
        };
        let insns = vec![insn];
        Unit { insns, target }
    }

    fn call_function(&mut self) -> Unit {
        let function = usize::try_from(self.random.below(3)).unwrap();
        // The first function calling itself is rare: it ends too deep.
        let function = if function == 0 && !self.random.rarely(10) {
            2
        } else {
            function
        };
        Unit {
            insns: vec![Insn::new(0x85, 0, 1, 0, 0)],
            target: Target::Function(function),
        }
    }

    fn call_host(&mut self) -> Unit {
        let kfunc = |id: u32| Insn::new(0x85, 0, 2, 0, id.cast_signed());
        match self.random.below(9) {
            0 => Unit::plain([Insn::new(0x85, 0, 0, 0, 7)]),
            1 => Unit::plain([Insn::new(0x85, 0, 0, 0, 14)]),
            2 => Unit::plain([kfunc(5)]),
            3 => Unit::plain([kfunc(1)]),
            4 => Unit::plain([kfunc(2)]),
            5 => {
                let mut insns = Insn::ldimm64(1, 1, 1).to_vec();
                insns.extend(Insn::ldimm64(2, 0, 0));
                insns.push(Insn::new(0xb7, 3, 0, 0, 1));
                insns.push(Insn::new(0xb7, 4, 0, 0, -1));
                insns.push(Insn::new(0xb7, 5, 0, 0, 0));
                insns.push(kfunc(generic("bpf_arena_alloc_pages")));
                Unit::plain(insns)
            }
            6 => {
                let mut insns = Insn::ldimm64(1, 1, 1).to_vec();
                let page = self.random.below(u64::from(ARENA_PAGES)) * 4096;
                insns.extend(Insn::ldimm64(2, 0, USER + page));
                insns.push(Insn::new(0xb7, 3, 0, 0, 1));
                insns.push(kfunc(generic("bpf_arena_free_pages")));
                Unit::plain(insns)
            }
            // The program itself, or nothing.
            7 => {
                let mut insns = Insn::ldimm64(2, 1, 2).to_vec();
                let index = i32::from(self.random.rarely(2));
                insns.push(Insn::new(0xb7, 3, 0, 0, index));
                insns.push(Insn::new(0x85, 0, 0, 0, 12));
                Unit::plain(insns)
            }
            // The callback is the third function; its address is filled in later.
            _ => {
                let mut insns = Insn::ldimm64(2, 4, 0).to_vec();
                insns.push(Insn::new(0xb7, 1, 0, 0, 3));
                insns.push(Insn::new(0xb7, 4, 0, 0, 0));
                insns.push(Insn::new(0x85, 0, 0, 0, 181));
                Unit {
                    insns,
                    target: Target::Function(2),
                }
            }
        }
    }

    fn cast(&mut self) -> Unit {
        let (dst, src) = (self.random.reg(), self.random.reg());
        let imm = self.random.pick(&[1, 1 << 16]);
        Unit::plain([Insn::new(0xbf, dst, src, 1, imm)])
    }

    fn rest(&mut self) -> Unit {
        match self.random.below(30) {
            0 => Unit::plain([Insn::new(0x95, 0, 0, 0, 0)]),
            // An unknown helper ends the run.
            1 => Unit::plain([Insn::new(0x85, 0, 0, 0, 250)]),
            _ => Unit::plain([self.alu()]),
        }
    }

    fn resolve(self) -> Vec<Insn> {
        let mut starts = Vec::new();
        let mut slot = 0i32;
        for unit in &self.units {
            starts.push(slot);
            slot += i32::try_from(unit.insns.len()).unwrap();
        }
        let mut insns: Vec<Insn> = Vec::new();
        for unit in self.units {
            let next = i32::try_from(insns.len()).unwrap() + 1;
            let first = insns.len();
            insns.extend(unit.insns);
            match unit.target {
                Target::None => {}
                Target::Jump(to) => {
                    insns[first].off = i16::try_from(starts[to] - next).unwrap();
                }
                Target::LongJump(to) => insns[first].imm = starts[to] - next,
                Target::Function(function) => {
                    insns[first].imm = starts[self.functions[function]] - next;
                }
            }
        }
        insns
    }
}

/// Both halves of a map value's address in a wide load: map 0, offset.
pub(super) fn map_value(offset: u64) -> u64 {
    offset << 32
}

/// Everything that can be seen at a run's end.
#[derive(PartialEq, Debug)]
pub(super) struct End {
    pub(super) result: Result<RunResult, Abort>,
    insns_total: u64,
    pub(super) violations: Vec<Violation>,
    violations_dropped: u64,
    stderr: String,
    random: u32,
    pub(super) heap: Vec<(Region, Vec<u8>)>,
    /// The array's value.
    pub(super) value: Vec<u8>,
    /// Values of the hash map, by key.
    pub(super) hash: BTreeMap<u32, Vec<u8>>,
    pub(super) arena: Vec<Option<Vec<u8>>>,
}

/// What programs find in their context, by place.
pub(super) fn context_words() -> Vec<(KernAddr, u64)> {
    let places = (0..CONTEXT_SIZE / 8).map(|word| Region::Contexts.start().raw() + word * 8);
    places
        .map(|at| (KernAddr::new(at), at.wrapping_mul(0x9e37_79b9)))
        .collect()
}

pub(super) fn run(insns: &[Insn], budget: u64, engine: Engine, containment: Containment) -> End {
    let prog = LinkedProgram::from_insns("main", ProgType::Syscall, insns.to_vec());
    run_program(prog, budget, engine, containment)
}

/// Runs a program with the maps of all these programs.
pub(super) fn run_program(
    prog: LinkedProgram,
    budget: u64,
    engine: Engine,
    containment: Containment,
) -> End {
    let config = VmConfig {
        insn_budget: budget,
        engine,
        containment,
        ..VmConfig::new(2)
    };
    let mut vm = Vm::new(config).unwrap();
    let prog = LinkedProgram {
        arena: Some(MapIndex(1)),
        ..prog
    };
    let array = map(MapType::ARRAY, 4, VALUE_SIZE, 1);
    let mut programs = map(MapType::PROG_ARRAY, 4, 4, 2);
    programs.slots = [(0, InitialSlot::Program(ProgramIndex(0)))].into();
    let hash = map(MapType::HASH, 4, HASH_VALUE_SIZE, HASH_ENTRIES);
    let maps = vec![array, arena(ARENA_PAGES), programs, hash];
    let object = object(vec![prog], maps);
    let loaded = vm.load(&object, KFUNCS).unwrap();
    assert_eq!(vm.jit_refused(), None);
    let context = vm
        .alloc_args(usize::try_from(CONTEXT_SIZE / 8).unwrap())
        .unwrap();
    assert_eq!(context, Region::Contexts.start());
    for (at, word) in context_words() {
        vm.mem().write_u64(at, word).unwrap();
    }
    vm.mem().alloc(Region::Kernel, 64, 8).unwrap();
    let pages = std::sync::Arc::clone(vm.arena(loaded.maps[1]).unwrap());
    for page in PRESENT {
        let at = UserAddr::new(USER + u64::from(page) * 4096);
        assert!(pages.alloc_pages(Some(at), 1, 0).is_ok());
    }
    let mut host = TestHost::default();
    let prog = loaded.programs[0];
    let result = vm.run(prog, &RunArgs::new(context), &mut host);
    let heap = [
        (Region::Stacks, 8 * 4096),
        (Region::Contexts, CONTEXT_SIZE),
        (Region::Maps, u64::from(VALUE_SIZE) + 64),
        (Region::Kernel, 64),
    ];
    let heap = heap.into_iter().map(|(region, len)| {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        vm.mem().read_bytes(region.start(), &mut bytes).unwrap();
        (region, bytes)
    });
    let heap = heap.collect();
    let mut value = vec![0; usize::try_from(VALUE_SIZE).unwrap()];
    let at = vm.map(loaded.maps[0]).value_addr().unwrap();
    vm.mem().read_bytes(at, &mut value).unwrap();
    let hash = hash_contents(&mut vm, loaded.maps[3]);
    let arena = (0..ARENA_PAGES).map(|page| {
        let mut bytes = vec![0; 4096];
        let copied = pages.copy_out(ArenaOffset::new(page * 4096), &mut bytes);
        copied.is_ok().then_some(bytes)
    });
    let arena = arena.collect();
    End {
        result,
        insns_total: vm.insns_total(),
        violations: vm.violations().to_vec(),
        violations_dropped: vm.violations_dropped(),
        stderr: vm.drain_stream(prog, StreamId::Stderr),
        random: host.random,
        heap,
        value,
        hash,
        arena,
    }
}

fn hash_contents(vm: &mut Vm, hash: MapId) -> BTreeMap<u32, Vec<u8>> {
    let keys = vm.map_keys(hash).into_iter();
    keys.map(|key| {
        let at = vm.map_lookup(hash, &key, Cpu::new(0)).unwrap();
        let mut value = vec![0; usize::try_from(HASH_VALUE_SIZE).unwrap()];
        vm.mem().read_bytes(at, &mut value).unwrap();
        let key = key[..].try_into().unwrap();
        (u32::from_le_bytes(key), value)
    })
    .collect()
}

/// Where two ends differ, in few words.
pub(super) fn difference(a: &End, b: &End) -> String {
    let mut text = String::new();
    let mut line = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        writeln!(text, "{what}:\n  interpreter {a:?}\n  jit         {b:?}").unwrap();
    };
    if a.result != b.result {
        line("result", &a.result, &b.result);
    }
    if a.insns_total != b.insns_total {
        line("instructions", &a.insns_total, &b.insns_total);
    }
    if a.violations != b.violations {
        line("violations", &a.violations, &b.violations);
    }
    if a.violations_dropped != b.violations_dropped {
        let (a, b) = (a.violations_dropped, b.violations_dropped);
        line("violations dropped", &a, &b);
    }
    if a.random != b.random {
        line("random numbers", &a.random, &b.random);
    }
    if a.hash != b.hash {
        line("hash map", &a.hash, &b.hash);
    }
    if a.stderr != b.stderr {
        line("stderr", &a.stderr, &b.stderr);
    }
    for ((region, a), (_, b)) in a.heap.iter().zip(&b.heap) {
        if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
            line(&format!("{region:?}+{at}"), &a[at], &b[at]);
        }
    }
    for (page, (a, b)) in a.arena.iter().zip(&b.arena).enumerate() {
        let (Some(a), Some(b)) = (a, b) else {
            if a.is_some() != b.is_some() {
                line(&format!("arena page {page}"), &a.is_some(), &b.is_some());
            }
            continue;
        };
        if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
            line(&format!("arena page {page}+{at}"), &a[at], &b[at]);
        }
    }
    text
}

/// One random program and what decides how it ends.
struct Case {
    seed: u64,
    budget: u64,
    containment: Containment,
}

impl Case {
    fn next(number: u64, seeds: &mut Random) -> Self {
        let seed = seeds.next();
        Self {
            seed,
            budget: 1 + seeds.below(if number.is_multiple_of(4) { 100 } else { 3000 }),
            containment: match number % 2 {
                0 => Containment::Mask,
                _ => Containment::Check,
            },
        }
    }

    fn ends(&self, insns: &[Insn]) -> [End; 2] {
        [Engine::Interpreter, Engine::Jit]
            .map(|engine| run(insns, self.budget, engine, self.containment))
    }
}

/// All that tells somebody why two ends differ: the smallest program found for which they do.
fn disagreement(insns: &[Insn], ends: impl Fn(&[Insn]) -> [End; 2]) -> String {
    let differ = |insns: &[Insn]| {
        let [a, b] = ends(insns);
        a != b
    };
    let smallest = shrink(insns, differ);
    let [a, b] = ends(&smallest);
    format!("{}\n{}", difference(&a, &b), listing(&smallest))
}

/// A number that the environment may set.
pub(super) fn asked(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test may be asked for more")]
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn random_programs_end_the_same_in_both_engines() {
    let cases = asked("HARENA_CASES").unwrap_or(CASES);
    let start = asked("HARENA_SEED").unwrap_or(SEED);
    println!("seed {start:#x}");
    let mut seeds = Random::new(start);
    let (mut returned, mut aborted, mut violations, mut insns) = (0u64, 0u64, 0u64, 0u64);
    for number in 0..cases {
        let case = Case::next(number, &mut seeds);
        let program = Generator::new(case.seed).program();
        let [interpreted, compiled] = case.ends(&program);
        assert!(
            interpreted == compiled,
            "seed {start:#x}, program {number} (seed {:#x}), budget {}, {:?}\n{}",
            case.seed,
            case.budget,
            case.containment,
            disagreement(&program, |insns| case.ends(insns)),
        );
        match interpreted.result {
            Ok(_) => returned += 1,
            Err(_) => aborted += 1,
        }
        violations += interpreted.violations.len() as u64;
        insns += interpreted.insns_total;
    }
    println!("{cases} programs: {returned} returned, {aborted} ended early");
    println!("{insns} instructions by each engine, {violations} places with violations");
    println!("0 disagreements");
    // The programs must reach what they are for.
    if cases >= CASES {
        assert!(returned * 10 > cases);
        assert!(aborted * 10 > cases);
        assert!(violations > cases);
    }
}

#[test]
fn a_disagreement_is_shown_by_a_small_program() {
    let program = Generator::new(SEED).program();
    // Engines that disagree about budgets, as long as the program asks for a number first.
    let asks = Insn::new(0x85, 0, 0, 0, 7);
    let program = [vec![asks], program].concat();
    let ends = |insns: &[Insn]| {
        [Engine::Interpreter, Engine::Jit].map(|engine| {
            let is_wrong = engine == Engine::Jit && insns[0] == asks;
            run(
                insns,
                if is_wrong { 1 } else { 2 },
                engine,
                Containment::Mask,
            )
        })
    };
    let text = disagreement(&program, ends);
    assert!(text.starts_with("result:\n  interpreter Err"), "{text}");
    assert!(text.ends_with("\n\n   0: call 7\n"), "{text}");
}

/// Compiled programs with objects, dynptrs and strings, whatever they are asked: results, counts,
/// messages and memory are equal.
#[test]
fn compiled_programs_end_the_same_in_both_engines() {
    for file in ["owned", "owned7", "disowned", "dynptr", "strings"] {
        let ends = [Engine::Interpreter, Engine::Jit].map(|engine| ends_of(file, engine));
        let [interpreted, compiled] = ends;
        assert_eq!(interpreted, compiled, "{file}");
        assert!(interpreted.iter().any(|end| end.contains("Ok")), "{file}");
    }
}

/// What each program of a file ends with, for small arguments.
fn ends_of(file: &str, engine: Engine) -> Vec<String> {
    let object = super::interpreter::suite::objects::link(file);
    let mut vm = Vm::new(VmConfig {
        engine,
        containment: Containment::Check,
        insn_budget: 100_000,
        ..VmConfig::new(2)
    })
    .unwrap();
    let loaded = vm.load(&object, KFUNCS).unwrap();
    assert_eq!(vm.jit_refused(), None);
    let ctx = vm.mem().alloc(Region::Contexts, CONTEXT_SIZE, 8).unwrap();
    let mut host = TestHost::default();
    let mut ends = Vec::new();
    for round in 0..30 {
        for prog in &loaded.programs {
            vm.write_args(ctx, &[round, round % 3, 7, 9]).unwrap();
            let result = vm.run(*prog, &RunArgs::new(ctx), &mut host);
            let result = result.map_err(|abort| (abort.insns, abort.to_string()));
            let mut context = [0; 128];
            vm.mem().read_bytes(ctx, &mut context).unwrap();
            let owned = vm.objects_owned();
            ends.push(format!("{result:?} {context:?} {owned}"));
        }
    }
    ends.push(format!("{:?} {:?}", vm.violations(), host.given_back));
    ends
}
