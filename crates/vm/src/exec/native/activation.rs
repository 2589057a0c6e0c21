//! One run of machine code, and what it asks of its host.
//!
//! ```text
//! run ──► entry ──► function ─┬─► on_call ──► helpers, kfuncs ──► perhaps another activation
//!                             └─► on_access ──► access::perform
//! ```
//!
//! The functions that machine code calls get the address of the [`Activation`], of which the
//! code itself knows the first part. A panic does not pass through machine code: it is kept
//! and goes on behind it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use harena_bpf::code::{Class, OpCode, TAIL_CALL};
use harena_jit::{Context, reply, status};

use super::super::access::{self, ArenaView};
use super::super::tail::{self, TailCall};
use super::super::{Ended, MAY_GOTO_MAX, frame_pointer, interp, seal};
use super::mapped::Function;
use crate::error::Abort;
use crate::host::Host;
use crate::layout::GUEST_BASE;
use crate::program::Program;
use crate::vm::{FRAMES_MAX, Frame, Vm};
use crate::{helpers, kfuncs};

const _: () = assert!(harena_jit::FRAMES_MAX == FRAMES_MAX as usize);

/// A run of machine code in progress.
#[repr(C)]
struct Activation<'a> {
    /// First, so that its address is the activation's.
    context: Context,
    vm: &'a mut Vm,
    host: &'a mut dyn Host,
    program: &'a Program,
    arena: Option<ArenaView<'a>>,
    /// Index in the VM's frames of the first function's.
    first_frame: usize,
    abort: Option<Abort>,
    tail_call: Option<TailCall>,
    panic: Option<Box<dyn Any + Send>>,
}

/// What a call gives to machine code.
#[repr(C)]
struct Reply {
    r0: u64,
    /// See [`reply`].
    then: u64,
}

/// Runs a function in the innermost frame until it returns.
pub(in super::super) fn run(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    function: Function,
    args: [u64; 5],
) -> Result<Ended, Abort> {
    let arena = ArenaView::of(program);
    let context = context(vm, arena.as_ref(), function, args);
    let mut activation = Activation {
        context,
        first_frame: vm.frames.len() - 1,
        vm,
        host,
        program,
        arena,
        abort: None,
        tail_call: None,
        panic: None,
    };
    // SAFETY: `function` comes from a program that the caller holds, so the code is mapped; its
    // entry has this type, and needs a context with its functions, which follow it here.
    let r0 = unsafe { enter(function.entry, (&raw mut activation).cast()) };
    activation.end(r0)
}

#[inline]
fn context(vm: &Vm, arena: Option<&ArenaView<'_>>, function: Function, args: [u64; 5]) -> Context {
    let run = vm.runs.last().expect("a frame belongs to a run");
    let frames = u32::try_from(vm.frames.len() - run.first_frame).unwrap_or(u32::MAX);
    let guest = vm.mem.guest_host();
    let delta = guest.wrapping_sub(GUEST_BASE);
    let [r1, r2, r3, r4, r5] = args;
    let max = MAY_GOTO_MAX;
    Context {
        left: vm.insns_left,
        depth_max: FRAMES_MAX.saturating_sub(frames),
        guest,
        guest_start: GUEST_BASE,
        delta,
        frame: frame_pointer(vm).wrapping_add(delta),
        arena: arena.map_or(0, |view| vm.mem.arena_host(view.arena())),
        user_high: arena.map_or(0, ArenaView::user_high),
        call: address_of_call(),
        access: address_of_access(),
        target: function.target as u64,
        // In one piece: what is written twice makes whoever reads it next wait.
        regs: [0, r1, r2, r3, r4, r5, 0, 0, 0, 0, 0],
        may_goto_left: [max, 0, 0, 0, 0, 0, 0, 0],
        may_goto_max: max,
        ..Context::default()
    }
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "machine code calls it")]
fn address_of_call() -> u64 {
    on_call as *const () as usize as u64
}

#[expect(clippy::fn_to_numeric_cast_any, reason = "machine code calls it")]
fn address_of_access() -> u64 {
    on_access as *const () as usize as u64
}

/// Calls machine code.
///
/// # Safety
///
/// 1. At `entry` lies an `extern "sysv64" fn(*mut Context) -> u64`.
/// 2. The context is the first part of an [`Activation`] that nobody else uses meanwhile.
unsafe fn enter(entry: usize, context: *mut Context) -> u64 {
    let entry = core::ptr::with_exposed_provenance::<()>(entry);
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to call code"
    )]
    // SAFETY: what lies there is such a function (caller).
    let entry = unsafe {
        core::mem::transmute::<*const (), unsafe extern "sysv64" fn(*mut Context) -> u64>(entry)
    };
    // SAFETY: the context is as the code needs it (caller).
    unsafe { entry(context) }
}

/// A helper or kfunc call.
extern "sysv64" fn on_call(
    r1: u64,
    r2: u64,
    r3: u64,
    r4: u64,
    r5: u64,
    context: *mut Context,
) -> Reply {
    // SAFETY: machine code hands on the address of the activation that entered it (`run`), and
    // uses none of it while it waits.
    let activation = unsafe { &mut *context.cast::<Activation<'_>>() };
    let args = [r1, r2, r3, r4, r5];
    let called = catch_unwind(AssertUnwindSafe(|| activation.call(args)));
    let (r0, then) = called.unwrap_or_else(|panic| {
        activation.panic = Some(panic);
        (0, reply::STOP)
    });
    Reply { r0, then }
}

/// A memory operation that machine code does not make itself.
extern "sysv64" fn on_access(context: *mut Context, base: u64, value: u64, r0: u64) -> u64 {
    // SAFETY: as in `on_call`.
    let activation = unsafe { &mut *context.cast::<Activation<'_>>() };
    let made = catch_unwind(AssertUnwindSafe(|| activation.access(base, value, r0)));
    made.unwrap_or_else(|panic| {
        // Memory operations go on whatever happens; the panic does too, at the run's end.
        activation.panic.get_or_insert(panic);
        0
    })
}

impl Activation<'_> {
    /// Makes the VM's frames those of the code.
    fn sync_frames(&mut self) {
        let context = &self.context;
        let depth = context.depth as usize;
        let frames = &mut self.vm.frames;
        frames.truncate(self.first_frame + 1);
        if depth == 0 {
            frames[self.first_frame].pc = context.pc;
            return;
        }
        frames[self.first_frame].pc = context.pcs[0];
        for frame in 1..=depth {
            let innermost = frame == depth;
            frames.push(Frame {
                pc: if innermost {
                    context.pc
                } else {
                    context.pcs[frame]
                },
                prog: self.program.id(),
                saved: [0; 4],
                may_goto_left: 0,
            });
        }
    }

    /// Makes the call that the code stands at; r0, and what the code does then.
    fn call(&mut self, args: [u64; 5]) -> (u64, u64) {
        self.sync_frames();
        self.vm.insns_left = self.context.left;
        let answer = self.try_call(args);
        // The kernel may have written to frozen memory, which the code must not find writable.
        let answer = answer.and_then(|answer| seal(self.vm).map(|()| answer));
        self.context.left = self.vm.insns_left;
        answer.unwrap_or_else(|abort| {
            self.abort = Some(abort);
            (0, reply::STOP)
        })
    }

    fn try_call(&mut self, args: [u64; 5]) -> Result<(u64, u64), Abort> {
        let op = self.program.executable.code.ops[self.context.pc as usize];
        assert_eq!(op.code.class(), Class::Call, "{op:?}");
        if op.code == OpCode::CallX {
            let callee = self.context.callee;
            let r0 = helpers::call_by_register(self.vm, self.host, self.program, callee, args)?;
            return Ok((r0, reply::GO_ON));
        }
        let number = u32::try_from(op.imm).expect("numbers of calls have 32 bits");
        if op.code == OpCode::CallKfunc {
            let r0 = kfuncs::call(self.vm, self.host, self.program, number, args)?;
            return Ok((r0, reply::GO_ON));
        }
        if number == TAIL_CALL {
            let [ctx, map, index, ..] = args;
            return self.tail_call([ctx, map, index]);
        }
        let r0 = helpers::call(self.vm, self.host, self.program, number, args)?;
        Ok((r0, reply::GO_ON))
    }

    fn tail_call(&mut self, args: [u64; 3]) -> Result<(u64, u64), Abort> {
        let Some(next) = tail::target(self.vm, args)? else {
            return Ok((0, reply::GO_ON));
        };
        if self.context.depth == 0 {
            self.tail_call = Some(next);
            return Ok((0, reply::STOP));
        }
        let r0 = tail::run(self.vm, self.host, next)?;
        Ok((r0, reply::RETURN))
    }

    fn access(&mut self, base: u64, value: u64, r0: u64) -> u64 {
        self.sync_frames();
        let op = &self.program.executable.code.ops[self.context.pc as usize];
        let request = access::Request {
            op,
            base,
            value,
            r0,
        };
        let arena = self.arena.as_ref();
        access::perform(self.vm, self.host, self.program, arena, request)
    }

    /// Does what the code's end asks for.
    fn end(&mut self, r0: u64) -> Result<Ended, Abort> {
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        if self.context.status == status::STOPPED {
            // What is left is what the call left.
            if let Some(next) = self.tail_call.take() {
                return Ok(Ended::TailCall(next));
            }
            return Err(self.abort.take().expect("a call that stops says why"));
        }
        self.vm.insns_left = self.context.left;
        if self.context.status == status::RETURNED {
            return Ok(Ended::Returned(r0));
        }
        assert_eq!(self.context.status, status::INTERPRET);
        self.sync_frames();
        let mut regs = [0; 16];
        regs[..10].copy_from_slice(&self.context.regs[..10]);
        let ended = interp::run(self.vm, self.host, self.program, self.context.pc, regs);
        assert!(
            ended.is_err(),
            "the interpreter only ends what cannot go on"
        );
        ended
    }
}
