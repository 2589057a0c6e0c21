//! The kernel behind a program, as the engine sees it.
//!
//! The engine knows instructions, maps and memory; who is `current`, what time it is
//! and what a `scx_bpf_*` kfunc does is the host's. A kfunc gets a [`Call`], through
//! which it reaches guest memory and may run further programs; the engine holds no
//! borrow of its own across that call.

use harena_abi::{Cpu, KernAddr, SimTime, Tid};

use crate::error::{Abort, AbortCause};
use crate::held::{self, Object, Rules};
use crate::mem::GuestMem;
use crate::program::ProgId;
use crate::timer::TimerId;
use crate::vm::{RunArgs, RunResult, Vm};

/// What reports say about the task that was `current` when something happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrentTask {
    /// `task_struct` of the task, NULL if the CPU has none.
    pub task: KernAddr,
    /// Thread id.
    pub pid: Tid,
    /// Thread group id.
    pub tgid: Tid,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Name, without the terminating NUL.
    pub comm: String,
}

/// What a host does with a timer that is to fire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerArm {
    /// Which timer; give it to [`Vm::fire_timer`].
    pub timer: TimerId,
    /// When.
    pub at: SimTime,
    /// On which CPU.
    pub cpu: Cpu,
}

/// The kernel half of a simulation.
///
/// Everything a program can observe comes from here or from guest memory, so equal
/// hosts give equal runs.
pub trait Host {
    /// Executes host kfunc `id` (its [`KfuncDesc::id`]). `__arena` arguments are already
    /// rebased to kernel addresses.
    fn kfunc(&mut self, call: &mut Call<'_>, id: u32, args: [u64; 5]) -> Result<u64, Abort>;

    /// Executes a helper that the engine does not know itself (cgroups, perf events).
    /// `None`: not supported, which ends the run.
    fn helper(
        &mut self,
        call: &mut Call<'_>,
        id: u32,
        args: [u64; 5],
    ) -> Result<Option<u64>, Abort> {
        let (_, _, _) = (call, id, args);
        Ok(None)
    }

    /// A run ended that held this reference or iterator, which a kfunc of the host gave: what its
    /// release would do is to be done.
    fn give_back(&mut self, call: &mut Call<'_>, object: Object, addr: u64) {
        let (_, _, _) = (call, object, addr);
    }

    /// The simulated clock.
    fn now(&self) -> SimTime;

    /// The CPU the program runs on.
    fn cpu(&self) -> Cpu;

    /// The task that is `current` on that CPU.
    fn current_task(&self) -> KernAddr;

    /// The same, with what reports and `bpf_get_current_*` need.
    fn current(&self) -> CurrentTask;

    /// NUMA node of a CPU.
    fn numa_node(&self) -> u32 {
        0
    }

    /// The next number of the simulation's seeded generator.
    fn random(&mut self) -> u32;

    /// A timer was started: call [`Vm::fire_timer`] at that time. Replaces an earlier arm of
    /// the same timer.
    fn timer_arm(&mut self, arm: TimerArm);

    /// A timer was cancelled. A timer that is due in spite of that does nothing.
    fn timer_cancel(&mut self, timer: TimerId);
}

/// No kernel: time stands still on CPU 0, one task is `current` and known by its number only,
/// and there are no kfuncs but the engine's own. For programs that need no more than that.
#[derive(Clone, Copy, Debug)]
pub struct NoKernel;

impl Host for NoKernel {
    fn kfunc(&mut self, call: &mut Call<'_>, _id: u32, _args: [u64; 5]) -> Result<u64, Abort> {
        Err(call.host_error("there is no kernel that has this kfunc"))
    }

    fn now(&self) -> SimTime {
        SimTime::ZERO
    }

    fn cpu(&self) -> Cpu {
        Cpu::new(0)
    }

    fn current_task(&self) -> KernAddr {
        KernAddr::NULL
    }

    fn current(&self) -> CurrentTask {
        CurrentTask {
            task: KernAddr::NULL,
            pid: Tid::new(1),
            tgid: Tid::new(1),
            uid: 0,
            gid: 0,
            comm: "none".to_owned(),
        }
    }

    /// Always 0.
    fn random(&mut self) -> u32 {
        0
    }

    /// Timers never fire.
    fn timer_arm(&mut self, _arm: TimerArm) {}

    fn timer_cancel(&mut self, _timer: TimerId) {}
}

/// What one parameter of a kfunc is, as far as the call itself cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KfuncArg {
    /// Handed over as it is.
    Plain,
    /// `__arena`: rebased to `kern_vm_start + (u32)arg`.
    Arena,
    /// `__arena__nullable`: as `Arena`, but zero low bits give NULL.
    ArenaNullable,
}

/// A bit set of contexts in which kfuncs are legal. The bits are the host's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextSet(pub u32);

impl ContextSet {
    /// Legal everywhere.
    pub const ANY: Self = Self(u32::MAX);

    /// Whether the two sets share a context.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One kfunc of the host.
#[derive(Clone, Copy, Debug)]
pub struct KfuncDesc {
    /// Number given to [`Host::kfunc`].
    pub id: u32,
    /// Kernel name.
    pub name: &'static str,
    /// Parameters in order; missing ones are `Plain`.
    pub args: &'static [KfuncArg],
    /// Where it is legal.
    pub contexts: ContextSet,
    /// Whether it may sleep, thus needs a sleepable program.
    pub sleepable: Sleepable,
    /// What it acquires and releases, and whether it may be called under a lock.
    pub rules: Rules,
}

/// Whether a kfunc or a program may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleepable {
    /// It may.
    Yes,
    /// It does not.
    No,
}

/// A kfunc or helper call in progress.
#[derive(Debug)]
pub struct Call<'a> {
    /// The engine; a kfunc may run further programs on it.
    pub vm: &'a mut Vm,
    pub(crate) prog: ProgId,
    pub(crate) name: &'static str,
}

impl Call<'_> {
    /// Guest memory.
    #[must_use]
    pub fn mem(&self) -> &GuestMem {
        self.vm.mem()
    }

    /// The calling program.
    #[must_use]
    pub fn prog(&self) -> ProgId {
        self.prog
    }

    /// What is being called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the program is in an RCU section, as programs that may not sleep always are. With
    /// `since`, in one that began before that was acquired.
    #[must_use]
    pub fn in_rcu(&self, since: Option<(Object, u64)>) -> bool {
        held::in_rcu(self.vm, since)
    }

    /// Runs another program inside this call.
    pub fn run(
        &mut self,
        prog: ProgId,
        args: &RunArgs,
        host: &mut dyn Host,
    ) -> Result<RunResult, Abort> {
        self.vm.run(prog, args, host)
    }

    /// Counts bytes that the kfunc copies or formats for the program as instructions; fails
    /// where the budget ends.
    pub fn charge_bytes(&mut self, bytes: u64) -> Result<(), Abort> {
        self.vm.charge_bytes(bytes)
    }

    /// An abort at the calling instruction.
    #[must_use]
    pub fn abort(&self, cause: AbortCause) -> Abort {
        self.vm.abort_here(cause)
    }

    /// An abort at the calling instruction because of a bad argument.
    #[must_use]
    pub fn bad_argument(&self, what: impl Into<String>) -> Abort {
        self.abort(AbortCause::BadArgument {
            function: self.name.to_owned(),
            what: what.into(),
        })
    }

    /// An abort at the calling instruction with the host's own message.
    #[must_use]
    pub fn host_error(&self, message: impl Into<String>) -> Abort {
        self.abort(AbortCause::Host {
            message: message.into(),
        })
    }
}
