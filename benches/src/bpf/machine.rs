//! The programs in this engine.

use harena_abi::{ArenaOffset, KernAddr};
use harena_bpf::{LinkedObject, Object, isa};
use harena_kernel::Kernel;
use harena_vm::{Engine, Loaded, NoKernel, ProgId, Region, RunArgs, Vm, VmConfig};

use crate::harness::{BenchError, Numbers};

/// The benchmark's programs, in the order of their source.
pub(super) const NAMES: [&str; 8] = [
    "fnv",
    "sieve",
    "muldiv",
    "search",
    "walk",
    "bits",
    "insertion",
    "copy",
];

/// The program that does nothing.
pub(super) const EMPTY: &str = "empty";

/// Bytes of the programs' buffer.
pub(super) const BUFFER: u64 = 16384;

const PLAIN: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bpf/bench/programs.bpf.o"
));
pub(super) const IN_ARENA: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bpf/bench/programs_arena.bpf.o"
));

/// What every buffer holds at first.
pub(super) fn words() -> Vec<u64> {
    let mut numbers = Numbers::new(1);
    (0..BUFFER / 8).map(|_| numbers.next_u64()).collect()
}

/// An object of this benchmark, or another one that our kernel has the types for.
pub(super) fn link(name: &str, object: &[u8]) -> Result<LinkedObject, BenchError> {
    let object = Object::parse(name, object).map_err(BenchError::setup("an object"))?;
    object
        .link(&Kernel::new(1000))
        .map_err(BenchError::setup("a linked object"))
}

/// The programs over plain memory.
pub(super) fn plain() -> Result<LinkedObject, BenchError> {
    link("programs.bpf.o", PLAIN)
}

/// A program's instructions as they are encoded.
#[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "peers take these"))]
pub(super) fn bytes(object: &LinkedObject, name: &str) -> Vec<u8> {
    isa::encode(&object.programs[index(object, name)].insns)
}

/// Where a program is in an object.
pub(super) fn index(object: &LinkedObject, name: &str) -> usize {
    let found = object.programs.iter().position(|p| p.name == name);
    found.expect("the object has all programs")
}

/// One of our engines with the programs loaded.
pub(super) struct Machine {
    vm: Vm,
    object: LinkedObject,
    loaded: Loaded,
    context: KernAddr,
}

impl Machine {
    /// Over plain memory; the context is the buffer.
    pub(super) fn plain(engine: Engine) -> Result<Self, BenchError> {
        let machine = Self::new(engine, plain()?)?;
        for (at, word) in (0u64..).step_by(8).zip(words()) {
            let at = machine.context.checked_add(at).expect("in the buffer");
            let written = machine.vm.mem().write_u64(at, word);
            written.map_err(BenchError::setup("the buffer"))?;
        }
        Ok(machine)
    }

    /// Over an arena; the context says how often.
    pub(super) fn in_arena(engine: Engine) -> Result<Self, BenchError> {
        let machine = Self::new(engine, link("programs_arena.bpf.o", IN_ARENA)?)?;
        let map = machine.object.arena.and_then(|map| machine.loaded.map(map));
        let arena = map.and_then(|map| machine.vm.arena(map));
        let arena = arena.expect("the object has an arena");
        for (at, word) in (buffer_offset(&machine.object)..).step_by(8).zip(words()) {
            let at = u32::try_from(at).expect("arenas have 32 bits");
            arena.ptr::<u64>(ArenaOffset::new(at)).write(word);
        }
        Ok(machine)
    }

    fn new(engine: Engine, object: LinkedObject) -> Result<Self, BenchError> {
        let config = VmConfig {
            engine,
            insn_budget: u64::MAX >> 1,
            ..VmConfig::new(1)
        };
        let mut vm = Vm::new(config).map_err(BenchError::setup("a machine"))?;
        let loaded = vm
            .load(&object, &[])
            .map_err(BenchError::setup("a loaded object"))?;
        if let Some(why) = vm.jit_refused() {
            return Err(BenchError::setup("machine code")(why.to_owned()));
        }
        let context = vm.mem().alloc(Region::Contexts, BUFFER, 4096);
        let context = context.map_err(BenchError::setup("a buffer"))?;
        Ok(Self {
            vm,
            object,
            loaded,
            context,
        })
    }

    /// A program's number.
    pub(super) fn program(&self, name: &str) -> ProgId {
        self.loaded.programs[index(&self.object, name)]
    }

    /// Runs a program once; r0.
    pub(super) fn call(&mut self, program: ProgId) -> u64 {
        let args = RunArgs::new(self.context);
        let ended = self.vm.run(program, &args, &mut NoKernel);
        ended.expect("the programs end").ret
    }

    /// Lets a program of the arena object make `rounds` of its loop; the last one's result.
    pub(super) fn rounds(&mut self, program: ProgId, rounds: u64) -> u64 {
        self.vm
            .write_args(self.context, &[rounds, 0])
            .expect("the context is ours");
        self.call(program);
        let result = self.context.checked_add(8).expect("in the context");
        self.vm.mem().read_u64(result).expect("in the context")
    }
}

/// Where the buffer is in the arena.
pub(super) fn buffer_offset(object: &LinkedObject) -> u64 {
    object.globals["buffer"].offset
}
