//! Where a kfunc may be called from.
//!
//! The verifier decides by the struct_ops member that a program implements. Each program
//! has one context bit; each kfunc has the set of contexts of its group. What a timer's
//! callback may call is what the program that set it up may call.

use harena_bpf::ProgType;
use harena_scx::Op;
use harena_vm::ContextSet;

/// `ops.select_cpu`, `ops.enqueue`.
const ENQUEUEING: u32 = 1 << 0;
/// `ops.dispatch`.
const DISPATCHING: u32 = 1 << 1;
/// `ops.cpu_release`.
const RELEASING: u32 = 1 << 2;
/// Other callbacks under a run queue's lock.
const LOCKED: u32 = 1 << 3;
/// Callbacks without a run queue's lock: `init`, `exit`, `init_task`, dumps.
const NO_LOCK: u32 = 1 << 4;
/// `ops.init_cids`.
const NUMBERING: u32 = 1 << 5;
/// `SEC("syscall")` programs.
const SYSCALL: u32 = 1 << 6;
/// Programs that look on, but those of type `kprobe` (`BTF_KFUNC_HOOK_TRACING`).
const TRACING: u32 = 1 << 7;
/// Those of type `kprobe`: no set of kfuncs but the common one is for them.
const KPROBE: u32 = 1 << 8;

/// Legal in all programs that have to do with schedulers.
pub(super) const ANY: ContextSet = ContextSet(!KPROBE);
/// CPU selection.
pub(super) const SELECT: ContextSet = ContextSet(ENQUEUEING | NO_LOCK | SYSCALL);
/// Inserting into a queue.
pub(super) const INSERT: ContextSet = ContextSet(ENQUEUEING | DISPATCHING);
/// Consuming from a queue.
pub(super) const DISPATCH: ContextSet = ContextSet(DISPATCHING);
/// Moving between queues by iterator.
pub(super) const MOVE: ContextSet = ContextSet(DISPATCHING | NO_LOCK | SYSCALL);
/// Giving tasks back when a CPU is taken away.
pub(super) const RELEASE: ContextSet = ContextSet(RELEASING);
/// What sleeps or takes other locks.
pub(super) const UNLOCKED: ContextSet = ContextSet(NO_LOCK | NUMBERING | SYSCALL);
/// Numbering of cids.
pub(super) const INIT_CIDS: ContextSet = ContextSet(NUMBERING);

/// The context of a program of this type that no scheduler calls (`bpf_prog_type_to_kfunc_hook()`).
#[must_use]
pub(crate) const fn context_of_type(kind: ProgType) -> ContextSet {
    ContextSet(if matches!(kind, ProgType::Syscall) {
        SYSCALL
    } else if matches!(kind, ProgType::Kprobe) {
        KPROBE
    } else {
        TRACING
    })
}

/// The context of a program that implements `op`.
#[must_use]
pub(crate) const fn context_of(op: Op) -> ContextSet {
    ContextSet(match op {
        Op::SelectCpu | Op::Enqueue => ENQUEUEING,
        Op::Dispatch => DISPATCHING,
        Op::CpuRelease => RELEASING,
        Op::InitCids => NUMBERING,
        Op::InitTask | Op::Dump | Op::DumpCpu | Op::DumpTask | Op::Init | Op::Exit => NO_LOCK,
        Op::Dequeue
        | Op::Tick
        | Op::Runnable
        | Op::Running
        | Op::Stopping
        | Op::Quiescent
        | Op::Yield
        | Op::CoreSchedBefore
        | Op::SetWeight
        | Op::SetCpumask
        | Op::UpdateIdle
        | Op::ExitTask
        | Op::Enable
        | Op::Disable
        | Op::CpuAcquire => LOCKED,
    })
}
