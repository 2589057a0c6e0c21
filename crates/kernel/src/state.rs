//! What the adapter keeps beside the machine: programs by callback, guest blocks, arena.
//!
//! Callbacks nest (a kfunc called by `ops.dispatch` may call `ops.dequeue`), so everything
//! that is handed to a program by address exists once per nesting level.

use std::collections::{BTreeMap, BTreeSet};

use harena_abi::KernAddr;
use harena_arena::Pool;
use harena_scx::{Op, OpsConfig};
use harena_vm::{
    Abort, ContextSet, GuestMem, MapId, NESTED_RUNS_MAX, OutOfGuestMemory, ProgId, Region, TimerId,
};

use crate::cmasks::Cmasks;
use crate::kfuncs::{self, CssTasks, Kfunc};
use crate::places::Places;
use crate::tracing::{CONTEXT_MAX, Frame, Tracing};
use crate::types::mask::cpumask;

/// Arguments of the longest callback, rounded up.
const ARGS_MAX: u64 = 8;
/// Bytes for what an argument points to (`scx_init_task_args` and its kin).
const POINTEE_MAX: u64 = 64;
const MASK: u64 = size_of::<cpumask>() as u64;
const BLOCK: u64 = ARGS_MAX * 8 + POINTEE_MAX + MASK + CONTEXT_MAX;

/// Guest memory of one nesting level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// The `u64[]` of arguments.
    pub(crate) args: KernAddr,
    /// What one of them points to.
    pub(crate) pointee: KernAddr,
    /// A CPU mask that one of them points to.
    pub(crate) mask: KernAddr,
    /// What a tracing program looks at, if that is no `u64[]`.
    pub(crate) trace: KernAddr,
}

/// A program that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    /// What it may call.
    context: ContextSet,
    /// What it looks at, if it is a tracing program.
    frame: Option<Frame>,
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) places: Places,
    pub(crate) config: OpsConfig,
    /// Programs by callback.
    pub(crate) programs: BTreeMap<Op, ProgId>,
    /// The arena of a cid-form scheduler.
    pub(crate) arena: Option<MapId>,
    /// Kfuncs by id.
    pub(crate) kfuncs: Vec<&'static Kfunc>,
    /// Masks that `bpf_cpumask_create` made and nobody released.
    pub(crate) cpumasks: BTreeSet<KernAddr>,
    /// Timers that were armed and not cancelled, by the key the machine knows, and what their
    /// callbacks may call: what the program that armed them may.
    pub(crate) timers: BTreeMap<u64, (TimerId, ContextSet)>,
    /// The per-CPU cmasks of a cid-form scheduler and their pool, from `prepare` to `release`.
    pub(crate) cmasks: Option<Cmasks>,
    /// The pool meanwhile: its pages are the arena's, so the next `prepare` goes on with it.
    pub(crate) pool: Option<Box<Pool>>,
    /// Why the scheduler was ended, if its program did what a verifier would have refused.
    pub(crate) abort: Option<Abort>,
    /// Iterators over the tasks of cgroups, by number.
    pub(crate) css_tasks: BTreeMap<u32, CssTasks>,
    /// The number of the next one.
    pub(crate) next_css_tasks: u32,
    /// Programs that look on.
    pub(crate) tracing: Tracing,
    levels: Vec<Level>,
    /// The programs that run, the innermost last.
    running: Vec<Running>,
}

impl State {
    pub(crate) fn new(
        mem: &GuestMem,
        places: Places,
        (config, programs): (OpsConfig, BTreeMap<Op, ProgId>),
        arena: Option<MapId>,
        tracing: Tracing,
    ) -> Result<Self, OutOfGuestMemory> {
        // One more than may nest: the engine refuses the run, with its own words.
        let levels = (0..=NESTED_RUNS_MAX)
            .map(|_| mem.alloc(Region::Contexts, BLOCK, 64).map(Level::at))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            places,
            config,
            programs,
            arena,
            kfuncs: kfuncs::all().collect(),
            cpumasks: BTreeSet::new(),
            timers: BTreeMap::new(),
            cmasks: None,
            pool: None,
            abort: None,
            css_tasks: BTreeMap::new(),
            next_css_tasks: 0,
            tracing,
            levels,
            running: Vec::new(),
        })
    }

    /// The guest memory for a call made now; the deepest one beyond the limit, where the
    /// engine refuses to run.
    pub(crate) fn level(&self) -> Level {
        self.levels[self.running.len().min(self.levels.len() - 1)]
    }

    /// Where the innermost program runs.
    pub(crate) fn context(&self) -> ContextSet {
        let innermost = self.running.last();
        innermost.map_or(ContextSet::ANY, |running| running.context)
    }

    /// Whether no program runs.
    pub(crate) const fn is_outermost(&self) -> bool {
        self.running.is_empty()
    }

    /// What the innermost program looks at, if it is a tracing program.
    pub(crate) fn frame(&self) -> Option<Frame> {
        self.running.last()?.frame
    }

    pub(crate) fn enter(&mut self, context: ContextSet, frame: Option<Frame>) {
        self.running.push(Running { context, frame });
    }

    pub(crate) fn leave(&mut self) {
        self.running.pop().expect("enter and leave come in pairs");
    }
}

impl Level {
    fn at(block: KernAddr) -> Self {
        let at = |offset| KernAddr::new(block.raw() + offset);
        Self {
            args: block,
            pointee: at(ARGS_MAX * 8),
            mask: at(ARGS_MAX * 8 + POINTEE_MAX),
            trace: at(ARGS_MAX * 8 + POINTEE_MAX + MASK),
        }
    }
}
