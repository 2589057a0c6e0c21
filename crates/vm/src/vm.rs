//! One simulation's BPF machine: memory, maps, programs, and the run in progress.
//!
//! A `Vm` may move between threads but is used by one at a time. A kfunc gets it back as
//! `&mut` and may run further programs: everything a run needs while it is interrupted
//! lies in `frames` and `runs`, so runs nest like the calls that make them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use harena_abi::KernAddr;
use harena_arena::{FailedAllocs, Report};
use harena_bpf::code::FRAME_SIZE;
use harena_bpf::{LinkedObject, MapIndex};
use harena_jit::Containment;

use crate::error::{
    Abort, AbortCause, NoMachineCode, OutOfGuestMemory, Place, VmCreateError, VmLoadError,
};
use crate::exec::{self, Entry};
use crate::held::Held;
use crate::helpers::dynptr::Dynptr;
use crate::host::{ContextSet, Host, KfuncDesc, Sleepable};
use crate::kfuncs::Bits;
use crate::layout::{CPU_COUNT_MAX, Region};
use crate::listing::{CodeRange, Listing};
use crate::maps::{Map, MapId};
use crate::mem::GuestMem;
use crate::owned::{Objects, Types};
use crate::program::{Engine, ProgId, Program};
use crate::stream::{Stream, StreamId};
use crate::struct_ops::{StructOpsId, StructOpsMap};
use crate::timer::{TimerId, Timers};
use crate::violation::{Violation, Violations};

/// Instructions one outermost run may execute, unless `VmConfig` says otherwise.
pub const INSN_BUDGET_DEFAULT: u64 = 1 << 27;
/// Runs that may nest through kfuncs.
pub const NESTED_RUNS_MAX: u32 = 8;
/// Frames of one run, callbacks included.
pub const FRAMES_MAX: u32 = 8;
/// Bytes that a helper copies, clears or formats in the time of one instruction.
const BYTES_PER_INSN: u64 = 64;
/// Bytes of one frame.
pub(crate) const FRAME_BYTES: u64 = FRAME_SIZE.unsigned_abs() as u64;
/// Bytes of stack one run has.
pub(crate) const STACK_SIZE: u64 = FRAME_BYTES * FRAMES_MAX as u64;

/// What a VM is created with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmConfig {
    /// CPUs, for per-CPU maps.
    pub nr_cpus: u32,
    /// Instructions one outermost run may execute.
    pub insn_budget: u64,
    /// Bytes of pages that each arena may have in use; `None` is all of it.
    pub arena_limit: Option<u64>,
    /// Page allocations of each arena that fail on purpose.
    pub arena_fail: FailedAllocs,
    /// How programs are executed.
    pub engine: Engine,
    /// What keeps them inside.
    pub containment: Containment,
    /// Whether `callx` calls the helper whose number a register holds. No kernel takes it, but the
    /// instruction set's conformance tests have it.
    pub callx: bool,
}

impl VmConfig {
    /// The defaults for a machine of `nr_cpus` CPUs.
    #[must_use]
    pub const fn new(nr_cpus: u32) -> Self {
        Self {
            nr_cpus,
            insn_budget: INSN_BUDGET_DEFAULT,
            arena_limit: None,
            arena_fail: FailedAllocs::None,
            engine: Engine::Interpreter,
            containment: Containment::Mask,
            callx: false,
        }
    }
}

/// What a program is called with, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunArgs {
    /// r1: the context. A struct_ops program gets the address of a `u64[]` of its arguments
    /// (see [`Vm::write_args`]).
    pub ctx: KernAddr,
    /// r2 to r5: 0 wherever a kernel calls programs. Programs may take nothing for granted
    /// about them.
    pub rest: [u64; 4],
    /// Contexts in which the program is called: a kfunc that shares none is refused.
    pub contexts: ContextSet,
}

impl RunArgs {
    /// A call with this context, legal for all kfuncs.
    #[must_use]
    pub const fn new(ctx: KernAddr) -> Self {
        Self {
            ctx,
            rest: [0; 4],
            contexts: ContextSet::ANY,
        }
    }

    /// The same call with these in r2 to r5.
    #[must_use]
    pub const fn with_rest(self, rest: [u64; 4]) -> Self {
        Self { rest, ..self }
    }
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunResult {
    /// r0.
    pub ret: u64,
    /// Instructions executed, nested runs and callbacks included.
    pub insns: u64,
}

/// What [`Vm::load`] made of an object. Positions are those in the object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    /// Its programs.
    pub programs: Vec<ProgId>,
    /// Its maps.
    pub maps: Vec<MapId>,
    /// Its struct_ops variables.
    pub struct_ops: Vec<StructOpsId>,
}

impl Loaded {
    /// The map at this index of the linked object.
    #[must_use]
    pub fn map(&self, index: MapIndex) -> Option<MapId> {
        self.maps.get(index.index()).copied()
    }
}

/// A run in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// The program of the innermost frame: a tail call changes it.
    pub(crate) prog: ProgId,
    pub(crate) contexts: ContextSet,
    pub(crate) sleepable: Sleepable,
    /// The timer whose callback runs.
    pub(crate) timer: Option<TimerId>,
    /// A callback that compares nodes of a tree runs.
    pub(crate) comparing: bool,
    /// Tail calls so far.
    pub(crate) tail_calls: u32,
    /// Index in `frames` of its first frame.
    pub(crate) first_frame: usize,
    /// Index in `held` of the first that is its own.
    pub(crate) first_held: usize,
    /// The same of the innermost callback.
    pub(crate) held_floor: usize,
}

/// A function call in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The program it belongs to.
    pub(crate) prog: ProgId,
    /// The slot that is being executed; of an interrupted frame, the call.
    pub(crate) pc: u32,
    /// r6 to r9 of the caller.
    pub(crate) saved: [u64; 4],
    /// `may_goto`s that may still fall through.
    pub(crate) may_goto_left: u32,
}

/// Streams of one program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
}

/// What lies on programs' stacks and is nobody's business there, by where it lies.
#[derive(Debug, Default)]
pub(crate) struct OnStacks {
    pub(crate) dynptrs: BTreeMap<KernAddr, Dynptr>,
    /// Iterators over bits.
    pub(crate) bits: BTreeMap<KernAddr, Bits>,
}

/// A BPF machine.
#[derive(Debug)]
pub struct Vm {
    pub(crate) mem: Arc<GuestMem>,
    pub(crate) config: VmConfig,
    pub(crate) maps: Vec<Map>,
    pub(crate) programs: Vec<Arc<Program>>,
    /// A second reference to each, which a run takes and gives back: whoever runs one need not
    /// count.
    pub(crate) references: Vec<Option<Arc<Program>>>,
    pub(crate) struct_ops: Vec<StructOpsMap>,
    pub(crate) streams: Vec<Streams>,
    pub(crate) trace: Stream,
    pub(crate) violations: Violations,
    pub(crate) timers: Timers,
    /// The types of the object files that were loaded.
    pub(crate) types: Box<Types>,
    /// What programs allocated.
    pub(crate) objects: Box<Objects>,
    pub(crate) on_stacks: Box<OnStacks>,
    /// Maps whose values hold locks, lists, trees or kptrs.
    pub(crate) owning_maps: Vec<MapId>,
    /// Arenas whose pages were freed where the program could not wait for it.
    pub(crate) deferred_frees: BTreeSet<MapId>,
    /// A tracing program that runs inside the arenas' page allocator.
    pub(crate) alloc_hook: Option<ProgId>,
    /// Recovered faults of kfuncs that were reported, per arena map.
    pub(crate) faults_seen: BTreeMap<MapId, u64>,
    /// Reports with tags that are no program's: of scopes that the embedder entered.
    pub(crate) foreign_reports: Vec<Report>,
    /// Reports that were not written for want of room; those that a ring dropped are not here.
    pub(crate) reports_dropped: u64,
    pub(crate) runs: Vec<Run>,
    pub(crate) frames: Vec<Frame>,
    /// What the runs hold, those of the outermost run first.
    pub(crate) held: Vec<Held>,
    /// What they gave back last.
    pub(crate) gone: Vec<Held>,
    /// Instructions the outermost run may still execute.
    pub(crate) insns_left: u64,
    /// Instructions executed by all runs that have ended.
    pub(crate) insns_total: u64,
    /// One stack per nesting level.
    pub(crate) stacks: KernAddr,
    /// Why programs are interpreted although machine code was asked for.
    pub(crate) jit_refused: Option<Box<str>>,
}

impl Vm {
    /// Creates a machine without programs.
    pub fn new(config: VmConfig) -> Result<Self, VmCreateError> {
        if config.nr_cpus == 0 || config.nr_cpus > CPU_COUNT_MAX {
            return Err(VmCreateError::CpuCount {
                nr_cpus: config.nr_cpus,
                max: CPU_COUNT_MAX,
            });
        }
        let mem = GuestMem::with(config.containment)?;
        mem.open_per_cpu(config.nr_cpus)?;
        let stacks = mem
            .alloc(
                Region::Stacks,
                STACK_SIZE * u64::from(NESTED_RUNS_MAX),
                4096,
            )
            .expect("the region is larger than its first block");
        Ok(Self {
            mem: Arc::new(mem),
            config,
            maps: Vec::new(),
            programs: Vec::new(),
            references: Vec::new(),
            struct_ops: Vec::new(),
            streams: Vec::new(),
            trace: Stream::default(),
            violations: Violations::default(),
            timers: Timers::default(),
            types: Box::default(),
            objects: Box::default(),
            on_stacks: Box::default(),
            owning_maps: Vec::new(),
            deferred_frees: BTreeSet::new(),
            alloc_hook: None,
            faults_seen: BTreeMap::new(),
            foreign_reports: Vec::new(),
            reports_dropped: 0,
            runs: Vec::with_capacity(NESTED_RUNS_MAX as usize),
            frames: Vec::with_capacity((NESTED_RUNS_MAX * FRAMES_MAX) as usize),
            held: Vec::new(),
            gone: Vec::new(),
            insns_left: 0,
            insns_total: 0,
            stacks,
            jit_refused: None,
        })
    }

    /// Creates the maps of an object and makes its programs ready to run. `kfuncs` are the
    /// host's; the engine adds its own (see [`crate::generic_kfuncs`]).
    pub fn load(
        &mut self,
        object: &LinkedObject,
        kfuncs: &[KfuncDesc],
    ) -> Result<Loaded, VmLoadError> {
        crate::load::load(self, object, kfuncs)
    }

    /// Runs a program to its end.
    pub fn run(
        &mut self,
        prog: ProgId,
        args: &RunArgs,
        host: &mut dyn Host,
    ) -> Result<RunResult, Abort> {
        let [r2, r3, r4, r5] = args.rest;
        let entry = Entry {
            prog,
            slot: 0,
            args: [args.ctx.raw(), r2, r3, r4, r5],
            contexts: args.contexts,
            sleepable: self.program(prog).sleepable(),
            timer: None,
        };
        exec::enter(self, entry, host)
    }

    /// Runs the callback of a timer that is due. `None`: it was cancelled meanwhile.
    pub fn fire_timer(
        &mut self,
        timer: TimerId,
        contexts: ContextSet,
        host: &mut dyn Host,
    ) -> Result<Option<RunResult>, Abort> {
        crate::helpers::run_timer(self, timer, contexts, host)
    }

    /// Attaches a tracing program (or none) inside the arenas' page allocator: it runs, with
    /// context NULL, while a program's page allocation holds the arena's lock. As in the
    /// kernel, it is not entered again while it runs.
    pub fn trace_arena_alloc(&mut self, prog: Option<ProgId>) {
        self.alloc_hook = prog;
    }

    /// Guest memory.
    #[must_use]
    pub fn mem(&self) -> &GuestMem {
        &self.mem
    }

    /// Guest memory, to keep.
    #[must_use]
    pub fn shared_mem(&self) -> Arc<GuestMem> {
        Arc::clone(&self.mem)
    }

    /// What the machine was created with.
    #[must_use]
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Why programs are interpreted although [`Engine::Jit`] was asked for, if they are.
    #[must_use]
    pub fn jit_refused(&self) -> Option<&str> {
        self.jit_refused.as_deref()
    }

    /// A program; numbers come from [`Vm::load`].
    #[must_use]
    pub fn program(&self, prog: ProgId) -> &Program {
        &self.programs[prog.index()]
    }

    /// What the compiler makes of a program, whatever engine runs it.
    pub fn listing(&self, prog: ProgId) -> Result<Listing, NoMachineCode> {
        exec::listing(self, self.program(prog)).map_err(|refused| NoMachineCode {
            reason: refused.to_string(),
        })
    }

    /// Where the programs' machine code lies in this process; nothing of interpreted ones.
    #[must_use]
    pub fn code_ranges(&self) -> Vec<CodeRange> {
        let ranges = self.programs.iter().filter_map(|program| {
            let native = program.executable.native.as_ref()?;
            Some(native.ranges(program))
        });
        ranges.flatten().collect()
    }

    /// A map; numbers come from [`Vm::load`].
    #[must_use]
    pub fn map(&self, map: MapId) -> &Map {
        &self.maps[map.index()]
    }

    /// Places `args` as a `u64[]` in guest memory at `at`, a context for a struct_ops program.
    pub fn write_args(&self, at: KernAddr, args: &[u64]) -> Result<(), crate::MemFault> {
        for (i, arg) in (0u64..).zip(args) {
            let slot = at.checked_add(i * 8).unwrap_or(KernAddr::NULL);
            self.mem.write_u64(slot, *arg)?;
        }
        Ok(())
    }

    /// Allocates a context of `args` 64-bit arguments; reuse it over calls.
    pub fn alloc_args(&self, args: usize) -> Result<KernAddr, OutOfGuestMemory> {
        self.mem.alloc(Region::Contexts, args as u64 * 8, 8)
    }

    /// Instructions executed since the machine was created.
    #[must_use]
    pub fn insns_total(&self) -> u64 {
        self.insns_total
    }

    /// Takes what a program wrote to one of its streams.
    pub fn drain_stream(&mut self, prog: ProgId, stream: StreamId) -> String {
        self.stream_mut(prog, stream).drain()
    }

    /// Messages that a program's stream had no room for.
    #[must_use]
    pub fn stream_dropped(&self, prog: ProgId, stream: StreamId) -> u64 {
        let streams = &self.streams[prog.index()];
        match stream {
            StreamId::Stdout => streams.stdout.dropped(),
            StreamId::Stderr => streams.stderr.dropped(),
        }
    }

    pub(crate) fn stream_mut(&mut self, prog: ProgId, stream: StreamId) -> &mut Stream {
        let streams = &mut self.streams[prog.index()];
        match stream {
            StreamId::Stdout => &mut streams.stdout,
            StreamId::Stderr => &mut streams.stderr,
        }
    }

    /// Fault reports that are in no stream, for want of room there or on the way.
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        let arenas = self.maps.iter().filter_map(|map| self.arena(map.id()));
        self.reports_dropped + arenas.map(|arena| arena.reports_dropped()).sum::<u64>()
    }

    /// Takes reports of faults that happened in scopes of the embedder's own, whose tags are no
    /// number of a program ([`ProgId::raw`]).
    pub fn take_foreign_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.foreign_reports)
    }

    /// Takes what programs wrote with `bpf_trace_printk`.
    pub fn drain_trace(&mut self) -> String {
        self.trace.drain()
    }

    /// Violations so far, in order of first occurrence.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.violations.list()
    }

    /// Violations at places beyond those that are kept.
    #[must_use]
    pub fn violations_dropped(&self) -> u64 {
        self.violations.dropped()
    }

    /// The place of the instruction that is being executed.
    #[must_use]
    pub fn place(&self) -> Place {
        let frame = self.frames.last();
        let place = frame.map(|frame| self.program(frame.prog).place(frame.pc));
        place.unwrap_or_default()
    }

    /// Counts work of a helper or kfunc beyond the call as instructions, so that the budget
    /// bounds what a program can make the host do, and the simulated time that it takes.
    pub(crate) fn charge(&mut self, insns: u64) -> Result<(), Abort> {
        if let Some(left) = self.insns_left.checked_sub(insns) {
            self.insns_left = left;
            return Ok(());
        }
        self.insns_left = 0;
        let budget = self.config.insn_budget;
        Err(self.abort_here(AbortCause::Budget { budget }))
    }

    /// [`Vm::charge`] for bytes that are copied, cleared or formatted.
    pub(crate) fn charge_bytes(&mut self, bytes: u64) -> Result<(), Abort> {
        self.charge(bytes / BYTES_PER_INSN)
    }

    /// An abort at the instruction that is being executed.
    pub(crate) fn abort_here(&self, cause: AbortCause) -> Abort {
        Abort {
            place: Box::new(self.place()),
            cause,
            insns: self.config.insn_budget - self.insns_left,
        }
    }
}
