//! Running programs: entering one, nesting, and what an engine calls back into.

pub(crate) mod access;
mod alu;
mod interp;

use std::sync::Arc;

use crate::error::{Abort, AbortCause};
use crate::host::Host;
use crate::program::{Executable, ProgId, Program};
use crate::vm::{FRAMES_MAX, Frame, NESTED_RUNS_MAX, Run, RunArgs, RunResult, STACK_SIZE, Vm};

/// `BPF_MAX_LOOPS`: `may_goto`s of one frame that fall through.
const MAY_GOTO_MAX: u32 = 8 * 1024 * 1024;

/// [`Vm::run`].
pub(crate) fn run(
    vm: &mut Vm,
    prog: ProgId,
    args: &RunArgs,
    host: &mut dyn Host,
) -> Result<RunResult, Abort> {
    let depth = u32::try_from(vm.runs.len()).unwrap_or(u32::MAX);
    if depth >= NESTED_RUNS_MAX {
        return Err(vm.abort_here(AbortCause::NestedRuns { depth: depth + 1 }));
    }
    if depth == 0 {
        vm.insns_left = vm.config.insn_budget;
    }
    let program = Arc::clone(&vm.programs[prog.index()]);
    let left_before = vm.insns_left;
    let first_frame = vm.frames.len();
    vm.runs.push(Run {
        prog,
        contexts: args.contexts,
        sleepable: program.sleepable(),
        first_frame,
    });
    let result = call_function(vm, host, &program, 0, [args.ctx.raw(), 0, 0, 0, 0]);
    vm.frames.truncate(first_frame);
    vm.runs.pop();
    if depth == 0 {
        vm.insns_total += left_before - vm.insns_left;
    }
    let ret = match result {
        Err(Abort {
            cause: AbortCause::Thrown { cookie },
            ..
        }) => cookie,
        other => other?,
    };
    Ok(RunResult {
        ret,
        insns: left_before - vm.insns_left,
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
    let result = match &program.executable {
        Executable::Decoded(code) => interp::run(vm, host, program, code, start, args),
    };
    vm.frames.truncate(base);
    result
}

/// Adds a frame to the innermost run.
pub(crate) fn push_frame(vm: &mut Vm, start: u32) -> Result<(), Abort> {
    let run = vm.runs.last().expect("a frame belongs to a run");
    let frames = u32::try_from(vm.frames.len() - run.first_frame).unwrap_or(u32::MAX);
    if frames >= FRAMES_MAX {
        return Err(vm.abort_here(AbortCause::CallDepth { frames: frames + 1 }));
    }
    vm.frames.push(Frame {
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
    vm.stacks.raw() + level * STACK_SIZE + frames * 512
}
