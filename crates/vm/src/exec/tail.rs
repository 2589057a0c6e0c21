//! Tail calls: `bpf_tail_call`.
//!
//! The called program runs in the frame of the function that calls it, and its result is that
//! function's. As on x86-64, nothing but this frame is replaced: who called the function goes on.
//!
//! ```text
//! main ─ f ─ g      g calls p      main ─ f ─ p      p returns      main ─ f
//! ```
//!
//! Where the function is the first that an engine runs, the engine ends with
//! [`Ended::TailCall`], so a chain of tail calls needs no room. Inside, it asks [`run`] for the
//! result and returns from the function with it.

use std::sync::Arc;

use super::{Ended, MAY_GOTO_MAX, report_earlier_faults, run_frame, scope};
use crate::error::{Abort, AbortCause};
use crate::held;
use crate::host::Host;
use crate::maps::{MapId, MapKind};
use crate::program::ProgId;
use crate::vm::Vm;
use harena_abi::KernAddr;

/// `MAX_TAIL_CALL_CNT`: tail calls of one run, in whatever function.
const MAX_TAIL_CALL_CNT: u32 = 33;

/// A tail call that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailCall {
    prog: ProgId,
    ctx: u64,
}

/// What `bpf_tail_call(ctx, map, index)` leads to; `None`: nowhere, the program goes on. The
/// caller has noted its slot.
pub(super) fn target(vm: &mut Vm, [ctx, map, index]: [u64; 3]) -> Result<Option<TailCall>, Abort> {
    held::before_tail_call(vm)?;
    let found = MapId::from_object(KernAddr::new(map)).and_then(|id| vm.maps.get(id.index()));
    let Some(array) = found.filter(|map| map.kind() == MapKind::ProgArray) else {
        return Err(vm.abort_here(AbortCause::BadArgument {
            function: "bpf_tail_call".to_owned(),
            what: format!("{map:#x} is no program array"),
        }));
    };
    let [a, b, c, d, ..] = index.to_le_bytes();
    let entry = array.object_at(&[a, b, c, d]);
    let run = vm.runs.last_mut().expect("a call belongs to a run");
    if run.tail_calls >= MAX_TAIL_CALL_CNT {
        return Ok(None);
    }
    let prog = entry.and_then(crate::maps::Object::program);
    // As in machine code of the kernel, a call that leads nowhere does not count.
    run.tail_calls += u32::from(prog.is_some());
    Ok(prog.map(|prog| TailCall { prog, ctx }))
}

/// Runs the program in place of the innermost frame's function; the function's result.
pub(super) fn run(vm: &mut Vm, host: &mut dyn Host, call: TailCall) -> Result<u64, Abort> {
    let level = vm.frames.len();
    let caller = *vm.frames.last().expect("a tail call belongs to a frame");
    let mut next = call;
    let result = loop {
        let program = Arc::clone(&vm.programs[next.prog.index()]);
        report_earlier_faults(vm, host, &program)?;
        vm.frames.truncate(level);
        let frame = vm.frames.last_mut().expect("it is not left yet");
        frame.prog = next.prog;
        frame.pc = 0;
        frame.may_goto_left = MAY_GOTO_MAX;
        let run = vm.runs.last_mut().expect("a frame belongs to a run");
        run.prog = next.prog;
        let arena = program.arena_memory().map(Arc::as_ref);
        let _scope = scope(vm, host, &program, arena)?;
        match run_frame(vm, host, &program, 0, [next.ctx, 0, 0, 0, 0])? {
            Ended::Returned(r0) => break r0,
            Ended::TailCall(call) => next = call,
        }
    };
    // An engine that goes on in the frame's function leaves it at once.
    vm.frames.truncate(level);
    vm.frames[level - 1] = caller;
    let run = vm.runs.last_mut().expect("a frame belongs to a run");
    run.prog = caller.prog;
    Ok(result)
}
