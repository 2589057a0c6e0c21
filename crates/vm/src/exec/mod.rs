//! Running programs: entering one, nesting, and what an engine calls back into.

pub(crate) mod access;
mod alu;
mod interp;
#[expect(unsafe_code, reason = "maps machine code and enters it")]
mod native;
mod tail;

use std::sync::Arc;

use harena_arena::{Arena, ProgramScope};
use harena_arena_fault::ProgramTag;

use crate::error::{Abort, AbortCause};
use crate::held;
use crate::host::{ContextSet, Host, Sleepable};
use crate::kfuncs::charge_faults;
use crate::program::{ProgId, Program};
use crate::report::host_faults;
use crate::timer::TimerId;
use crate::vm::{FRAME_BYTES, FRAMES_MAX, Frame, NESTED_RUNS_MAX, Run, RunResult, STACK_SIZE, Vm};

pub(crate) use native::{Native, compile, listing};
use tail::TailCall;

/// `BPF_MAX_LOOPS`: `may_goto`s of one frame that fall through.
const MAY_GOTO_MAX: u32 = 8 * 1024 * 1024;

/// How an engine's first function ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// With this r0.
    Returned(u64),
    /// With another program in its place.
    TailCall(TailCall),
}

/// What to run: a program from its start, or one of its callbacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) prog: ProgId,
    pub(crate) slot: u32,
    pub(crate) args: [u64; 5],
    pub(crate) contexts: ContextSet,
    pub(crate) sleepable: Sleepable,
    /// The timer whose callback this is.
    pub(crate) timer: Option<TimerId>,
}

/// Runs a program or callback to its end, inside whatever is running already.
pub(crate) fn enter(vm: &mut Vm, entry: Entry, host: &mut dyn Host) -> Result<RunResult, Abort> {
    let depth = u32::try_from(vm.runs.len()).unwrap_or(u32::MAX);
    if depth >= NESTED_RUNS_MAX {
        return Err(vm.abort_here(AbortCause::NestedRuns { depth: depth + 1 }));
    }
    if depth == 0 {
        vm.insns_left = vm.config.insn_budget;
    }
    seal(vm)?;
    let index = entry.prog.index();
    let program = vm.references[index].take();
    let program = program.unwrap_or_else(|| Arc::clone(&vm.programs[index]));
    let left_before = vm.insns_left;
    report_earlier_faults(vm, host, &program)?;
    let first_frame = vm.frames.len();
    let first_held = vm.held.len();
    vm.runs.push(Run {
        prog: entry.prog,
        contexts: entry.contexts,
        sleepable: entry.sleepable,
        timer: entry.timer,
        comparing: false,
        tail_calls: 0,
        first_frame,
        first_held,
        held_floor: first_held,
    });
    let mut result = in_scope(vm, host, &program, &entry);
    if vm.held.len() > first_held {
        result = held::end(vm, host, result);
    }
    vm.frames.truncate(first_frame);
    vm.runs.pop();
    vm.references[index] = Some(program);
    if !vm.on_stacks.dynptrs.is_empty() {
        let level = vm.runs.len();
        vm.on_stacks
            .dynptrs
            .retain(|_, dynptr| !dynptr.is_deeper(level));
    }
    let insns = left_before - vm.insns_left;
    if depth == 0 {
        vm.insns_total += insns;
        vm.gone.clear();
        vm.objects.free_dying(&vm.mem, vm.config.nr_cpus);
        free_deferred(vm);
    }
    let ret = result.or_else(|abort| {
        if let AbortCause::Thrown { cookie } = abort.cause {
            return Ok(cookie);
        }
        Err(abort)
    })?;
    Ok(RunResult { ret, insns })
}

/// Makes stores to frozen memory fault, before machine code goes on.
#[inline]
fn seal(vm: &Vm) -> Result<(), Abort> {
    vm.mem.seal().map_err(|error| {
        let message = error.to_string();
        vm.abort_here(AbortCause::Host { message })
    })
}

/// Reports what the host did on behalf of the programs so far, while their frames still stand
/// as they stood then.
fn report_earlier_faults(
    vm: &mut Vm,
    host: &dyn Host,
    program: &Arc<Program>,
) -> Result<(), Abort> {
    let outer = vm.runs.last().map(|run| run.prog);
    let outer = outer.map(|prog| Arc::clone(&vm.programs[prog.index()]));
    let mut faults = 0;
    for program in outer.iter().chain([program]) {
        faults += host_faults(vm, host, program);
    }
    charge_faults(vm, faults)
}

/// Frees the arena pages that programs put off: the work of the kernel's irq worker, done when
/// the outermost run has ended.
fn free_deferred(vm: &mut Vm) {
    if vm.deferred_frees.is_empty() {
        return;
    }
    for map in std::mem::take(&mut vm.deferred_frees) {
        // Without the arena's lock nothing is freed: the next run's end asks again.
        if vm.arena(map).is_some_and(|a| a.drain_deferred().is_err()) {
            vm.deferred_frees.insert(map);
        }
    }
}

/// Marks the program as running on this thread, so that faults of kfuncs on its arena are
/// recovered, and runs it.
fn in_scope(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    entry: &Entry,
) -> Result<u64, Abort> {
    let arena = program.arena_memory().map(Arc::as_ref);
    let _scope = scope(vm, host, program, arena)?;
    call_function(vm, host, program, entry.slot, entry.args)
}

/// The scope of a program with this arena. Also without one: that of an outer program, or of a
/// scope that the embedder is in, must not be meant.
fn scope<'a>(
    vm: &Vm,
    host: &dyn Host,
    program: &Program,
    arena: Option<&'a Arena>,
) -> Result<ProgramScope<'a>, Abort> {
    let tag = ProgramTag::new(program.id.raw());
    ProgramScope::enter(tag, arena, host.cpu()).map_err(|error| {
        let message = error.to_string();
        vm.abort_here(AbortCause::Host { message })
    })
}

/// Runs one function of the program of the innermost run, in a new frame: the program itself,
/// or a callback.
pub(crate) fn call_function(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    start: u32,
    args: [u64; 5],
) -> Result<u64, Abort> {
    let base = vm.frames.len();
    push_frame(vm, start)?;
    let ended = run_frame(vm, host, program, start, args);
    let result = match ended {
        Ok(Ended::Returned(r0)) => Ok(r0),
        Ok(Ended::TailCall(call)) => {
            vm.frames.truncate(base + 1);
            tail::run(vm, host, call)
        }
        Err(abort) => Err(abort),
    };
    vm.frames.truncate(base);
    result
}

/// Runs a function in the innermost frame, which was made for it.
fn run_frame(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    start: u32,
    args: [u64; 5],
) -> Result<Ended, Abort> {
    let native = program.executable.native.as_ref();
    match native.and_then(|native| native.function(&vm.mem, start, args[0])) {
        Some(function) => native::run(vm, host, program, function, args),
        None => interp::run(vm, host, program, start, interp::entry(args)),
    }
}

/// Adds a frame to the innermost run.
pub(crate) fn push_frame(vm: &mut Vm, start: u32) -> Result<(), Abort> {
    let run = vm.runs.last().expect("a frame belongs to a run");
    let frames = u32::try_from(vm.frames.len() - run.first_frame).unwrap_or(u32::MAX);
    if frames >= FRAMES_MAX {
        return Err(vm.abort_here(AbortCause::CallDepth { frames: frames + 1 }));
    }
    let prog = run.prog;
    vm.frames.push(Frame {
        prog,
        pc: start,
        saved: [0; 4],
        may_goto_left: MAY_GOTO_MAX,
    });
    Ok(())
}

/// r10 of the innermost frame.
pub(crate) fn frame_pointer(vm: &Vm) -> u64 {
    let run = vm.runs.last().expect("a frame belongs to a run");
    let frames = (vm.frames.len() - run.first_frame) as u64;
    let level = vm.runs.len() as u64 - 1;
    vm.stacks.raw() + level * STACK_SIZE + frames * FRAME_BYTES
}
