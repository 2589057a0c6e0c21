//! What of the core can be traced: the kernel's tracepoints, and functions that are entered
//! and left.
//!
//! A scheduler's callbacks take part in what happens; tracing programs look on. The core
//! tells [`SchedOps::trace`](crate::SchedOps::trace) of a moment where the kernel has it, with
//! the locks and the state that it has there, and only if somebody asked for that kind
//! ([`Core::set_traced`]). Whether a scheduler is attached does not matter.

use harena_abi::{Cpu, Nanos, Tid};

use crate::types::Counter;
use crate::{Core, Cx, Env};

/// A moment; `None` for a task is the idle task of the CPU that the moment is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment<'a> {
    /// `sched_switch`: the run queue's `curr` is `next` already, `current` is still `prev`.
    SchedSwitch {
        /// The CPU.
        cpu: Cpu,
        /// Who ran.
        prev: Option<Tid>,
        /// Who runs now.
        next: Option<Tid>,
        /// `prev->__state`.
        prev_state: u32,
    },
    /// `sched_waking`, in the waker's context: the task sleeps, and has no new CPU yet.
    SchedWaking(Tid),
    /// `sched_wakeup`: the task is runnable.
    SchedWakeup(Tid),
    /// `sched_wakeup_new`: the task is runnable for the first time.
    SchedWakeupNew(Tid),
    /// `sched_migrate_task`: the task is still on its old CPU.
    SchedMigrateTask {
        /// The task.
        task: Tid,
        /// Where it goes.
        to: Cpu,
    },
    /// `sched_process_fork`: the child exists and was never woken.
    SchedProcessFork {
        /// `None`: the machine's first task.
        parent: Option<Tid>,
        /// The new task.
        child: Tid,
    },
    /// `sched_process_exit`, by the task itself.
    SchedProcessExit {
        /// The task.
        task: Tid,
        /// Whether it is the last one of its group.
        group_dead: bool,
    },
    /// `sched_process_free`: the last moment at which the task can be looked at.
    SchedProcessFree(Tid),
    /// `sched_stat_runtime`: the current task was charged for time that it ran.
    SchedStatRuntime {
        /// The task.
        task: Tid,
        /// Since it was last charged.
        runtime: Nanos,
    },
    /// An interrupt begins, with the interrupted task as `current`.
    IrqEntry(Interrupt),
    /// It ends.
    IrqExit(Interrupt),
    /// `cpu_idle`: a CPU begins or ends to idle.
    CpuIdle {
        /// The CPU.
        cpu: Cpu,
        /// Whether it begins.
        idle: bool,
    },
    /// `sched_ext_event`: one of the core's event counters was increased.
    SchedExtEvent {
        /// Its name.
        name: &'static str,
        /// By how much.
        delta: i64,
    },
    /// `sched_ext_dump`: a line of the debug dump.
    SchedExtDump(&'a str),
    /// A function is entered.
    Enter(Function),
    /// A function returns; 0 if it returns nothing.
    Return(Function, i32),
}

/// What interrupts a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Its timer: a tick, the end of a sleep, or a timer of the scheduler.
    LocalTimer,
    /// Another CPU's request to reschedule.
    Reschedule,
    /// IRQ work.
    IrqWork,
    /// The softirq that runs timers of the scheduler (`HRTIMER_SOFTIRQ`).
    TimerSoftirq,
}

/// A function of the kernel, with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// `bpf_scx_reg()` or `bpf_scx_reg_cid()`: a scheduler is about to be attached.
    Register,
    /// `sched_tick()`, with the run queue of this CPU not locked yet.
    SchedTick,
    /// `scx_tick(rq)`.
    ScxTick(Cpu),
    /// `schedule()`, of a task that sleeps or is preempted. Its return is not told: it is in
    /// another time.
    Schedule,
    /// `try_to_wake_up(p, state, wake_flags)`.
    TryToWakeUp {
        /// The task.
        task: Tid,
        /// `WF_SYNC`.
        sync: bool,
    },
    /// `wake_up_new_task(p)`.
    WakeUpNewTask(Tid),
}

macro_rules! kinds {
    ($($name:ident)*) => {
        /// What can be asked for.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[expect(missing_docs, reason = "each is the moment of that name")]
        pub enum MomentKind { $($name,)* }

        impl MomentKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

kinds! {
    SchedSwitch SchedWaking SchedWakeup SchedWakeupNew SchedMigrateTask
    SchedProcessFork SchedProcessExit SchedProcessFree SchedStatRuntime CpuIdle
    SchedExtEvent SchedExtDump
    LocalTimerEntry LocalTimerExit RescheduleEntry RescheduleExit IrqWorkEntry IrqWorkExit
    SoftirqEntry SoftirqExit
    EnterRegister EnterSchedTick EnterScxTick EnterSchedule EnterTryToWakeUp EnterWakeUpNewTask
    ReturnRegister ReturnSchedTick ReturnScxTick ReturnTryToWakeUp ReturnWakeUpNewTask
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MomentSet(u64);

const _: () = assert!(MomentKind::ALL.len() <= 64);

impl MomentSet {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// This set and a kind.
    #[must_use]
    pub const fn with(self, kind: MomentKind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// Whether the kind is in the set.
    #[must_use]
    pub const fn has(self, kind: MomentKind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }
}

impl Interrupt {
    const fn entry(self) -> MomentKind {
        match self {
            Self::LocalTimer => MomentKind::LocalTimerEntry,
            Self::Reschedule => MomentKind::RescheduleEntry,
            Self::IrqWork => MomentKind::IrqWorkEntry,
            Self::TimerSoftirq => MomentKind::SoftirqEntry,
        }
    }

    const fn exit(self) -> MomentKind {
        match self {
            Self::LocalTimer => MomentKind::LocalTimerExit,
            Self::Reschedule => MomentKind::RescheduleExit,
            Self::IrqWork => MomentKind::IrqWorkExit,
            Self::TimerSoftirq => MomentKind::SoftirqExit,
        }
    }
}

impl Function {
    /// The kind of its entry.
    #[must_use]
    pub const fn enter(self) -> MomentKind {
        match self {
            Self::Register => MomentKind::EnterRegister,
            Self::SchedTick => MomentKind::EnterSchedTick,
            Self::ScxTick(_) => MomentKind::EnterScxTick,
            Self::Schedule => MomentKind::EnterSchedule,
            Self::TryToWakeUp { .. } => MomentKind::EnterTryToWakeUp,
            Self::WakeUpNewTask(_) => MomentKind::EnterWakeUpNewTask,
        }
    }

    /// The kind of its return, if that is told.
    #[must_use]
    pub const fn leave(self) -> Option<MomentKind> {
        Some(match self {
            Self::Register => MomentKind::ReturnRegister,
            Self::SchedTick => MomentKind::ReturnSchedTick,
            Self::ScxTick(_) => MomentKind::ReturnScxTick,
            Self::Schedule => return None,
            Self::TryToWakeUp { .. } => MomentKind::ReturnTryToWakeUp,
            Self::WakeUpNewTask(_) => MomentKind::ReturnWakeUpNewTask,
        })
    }
}

impl Moment<'_> {
    /// Its kind; `None` for a return that is never told.
    #[must_use]
    pub const fn kind(&self) -> Option<MomentKind> {
        Some(match self {
            Self::SchedSwitch { .. } => MomentKind::SchedSwitch,
            Self::SchedWaking(_) => MomentKind::SchedWaking,
            Self::SchedWakeup(_) => MomentKind::SchedWakeup,
            Self::SchedWakeupNew(_) => MomentKind::SchedWakeupNew,
            Self::SchedMigrateTask { .. } => MomentKind::SchedMigrateTask,
            Self::SchedProcessFork { .. } => MomentKind::SchedProcessFork,
            Self::SchedProcessExit { .. } => MomentKind::SchedProcessExit,
            Self::SchedProcessFree(_) => MomentKind::SchedProcessFree,
            Self::SchedStatRuntime { .. } => MomentKind::SchedStatRuntime,
            Self::IrqEntry(interrupt) => interrupt.entry(),
            Self::IrqExit(interrupt) => interrupt.exit(),
            Self::CpuIdle { .. } => MomentKind::CpuIdle,
            Self::SchedExtEvent { .. } => MomentKind::SchedExtEvent,
            Self::SchedExtDump(_) => MomentKind::SchedExtDump,
            Self::Enter(function) => function.enter(),
            Self::Return(function, _) => return function.leave(),
        })
    }
}

impl Core {
    /// From now on moments of these kinds are told, and no others.
    pub fn set_traced(&mut self, kinds: MomentSet) {
        self.traced = kinds;
    }

    /// Runs `body` in an interrupt of the current CPU.
    pub fn interrupt<R>(
        &mut self,
        env: &mut Env<'_>,
        interrupt: Interrupt,
        body: impl FnOnce(&mut Self, &mut Env<'_>) -> R,
    ) -> R {
        self.trace(env, Moment::IrqEntry(interrupt));
        let ret = body(self, env);
        self.trace(env, Moment::IrqExit(interrupt));
        ret
    }

    /// `current` of `cpu`. It is the task that runs there but for the moment of a switch, in
    /// which the run queue has the next one already.
    #[must_use]
    pub fn current(&self, cpu: Cpu) -> Option<Tid> {
        match self.switching_from {
            Some((switching, prev)) if switching == cpu => prev,
            Some(_) | None => self.curr(cpu),
        }
    }

    /// Tells a moment, if somebody asked for it.
    #[inline]
    pub(crate) fn trace(&mut self, env: &mut Env<'_>, moment: Moment<'_>) {
        if moment.kind().is_some_and(|kind| self.traced.has(kind)) {
            self.tell(env, &moment);
        }
    }

    #[inline(never)]
    fn tell(&mut self, env: &mut Env<'_>, moment: &Moment<'_>) {
        let mut cx = Cx {
            core: self,
            machine: &mut *env.machine,
        };
        env.ops.trace(&mut cx, moment);
    }

    /// Increases an event counter of `cpu` (`scx_add_event()`).
    pub(crate) fn count_by(&mut self, env: &mut Env<'_>, cpu: Cpu, counter: Counter, delta: i64) {
        let count = (counter.of)(&mut self.rq_mut(cpu).events);
        *count = count.saturating_add(delta);
        let name = counter.name;
        self.trace(env, Moment::SchedExtEvent { name, delta });
    }

    /// The same by one.
    pub(crate) fn count(&mut self, env: &mut Env<'_>, cpu: Cpu, counter: Counter) {
        self.count_by(env, cpu, counter, 1);
    }

    /// Tells that `function` is entered.
    pub(crate) fn trace_enter(&mut self, env: &mut Env<'_>, function: Function) {
        self.trace(env, Moment::Enter(function));
    }

    /// Tells that `function` returns.
    pub(crate) fn trace_return(&mut self, env: &mut Env<'_>, function: Function, ret: i32) {
        self.trace(env, Moment::Return(function, ret));
    }
}
