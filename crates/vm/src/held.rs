//! What runs hold: references, locks, sections and iterators, and that they give all of it back.
//!
//! A kernel's verifier proves before a program runs that it releases what it acquires, once,
//! and calls nothing under a lock that could wait. Here the same is watched while it runs:
//!
//! ```text
//! call ──before──► misuse: the run ends ──┐
//!   │                                     ├──end──► what is left is given back
//!   └──after──► noted in `Vm::held` ──────┘         and is an error if the run was fine
//! ```
//!
//! What a function acquires and releases is its [`Rules`], which stand in the tables of
//! helpers and kfuncs. A run owns the part of `Vm::held` from its `first_held` on; a callback
//! may only give back what it acquired itself. Mirrors `acquire_reference`, `check_resource_leak`
//! and `kfunc_spin_allowed` of `kernel/bpf/verifier.c`.

use std::fmt;

use harena_abi::KernAddr;
use thiserror::Error;

use crate::error::{Abort, AbortCause, Place};
use crate::host::{Call, Host, Sleepable};
use crate::maps::{Commit, Map};
use crate::owned::{Home, LocalType};
use crate::program::ProgId;
use crate::vm::Vm;

/// Releases that are remembered, to say where something went before it was released again.
const GONE_MAX: usize = 16;

/// What can be acquired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// A counted reference to a kernel object of this type.
    Reference(&'static str),
    /// An object that the program allocated.
    Local,
    /// The same, with a copy per CPU.
    LocalPercpu,
    /// A reference of any type, taken out of a map.
    Kptr,
    /// A reserved record of a ring buffer.
    Record,
    /// The same behind a dynptr: known by the record, or by where the dynptr lies if there is none.
    RecordDynptr,
    /// `bpf_spin_lock`.
    SpinLock,
    /// `bpf_res_spin_lock`.
    ResLock,
    /// `bpf_res_spin_lock_irqsave`: the lock, and the flags in the second argument.
    ResLockIrq,
    /// `bpf_rcu_read_lock`.
    Rcu,
    /// `bpf_preempt_disable`.
    Preempt,
    /// `bpf_local_irq_save`: known by where its flags lie.
    Irq,
    /// An open-coded iterator of this type: known by where it lies.
    Iterator(&'static str),
}

impl Object {
    const fn is_lock(self) -> bool {
        matches!(self, Self::SpinLock | Self::ResLock | Self::ResLockIrq)
    }

    const fn is_irq(self) -> bool {
        matches!(self, Self::Irq | Self::ResLockIrq)
    }

    /// Whether sleeping is not allowed while it is held.
    const fn is_atomic(self) -> bool {
        self.is_lock() || matches!(self, Self::Rcu | Self::Preempt | Self::Irq)
    }

    const fn is_reference(self) -> bool {
        matches!(
            self,
            Self::Reference(_) | Self::Kptr | Self::Local | Self::LocalPercpu
        )
    }

    /// What one does first and last with it.
    const fn verbs(self) -> (&'static str, &'static str) {
        match self {
            Self::Reference(_) | Self::Kptr | Self::Local | Self::LocalPercpu => {
                ("acquired", "released")
            }
            Self::Record | Self::RecordDynptr => ("reserved", "submitted or discarded"),
            Self::SpinLock | Self::ResLock | Self::ResLockIrq => ("locked", "unlocked"),
            Self::Rcu | Self::Preempt | Self::Irq => ("entered", "left"),
            Self::Iterator(_) => ("created", "destroyed"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference(name) | Self::Iterator(name) => name,
            Self::Local => "object",
            Self::LocalPercpu => "per-CPU object",
            Self::Kptr => "kptr",
            Self::Record => "ring buffer record",
            Self::RecordDynptr => "dynptr of ring buffer record",
            Self::SpinLock => "bpf_spin_lock",
            Self::ResLock | Self::ResLockIrq => "bpf_res_spin_lock",
            Self::Rcu => "RCU section",
            Self::Preempt => "section without preemption",
            Self::Irq => "section without interrupts, with flags at",
        })
    }
}

/// What a helper or kfunc does to what its caller holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// The result is acquired, unless it is NULL (`KF_ACQUIRE`).
    Result(Object),
    /// What the first argument names is acquired; a lock only if the call gives 0.
    Begin(Object),
    /// What the first argument names is given back (`KF_RELEASE`).
    End(Object),
    /// The first argument must be held.
    Use(Object),
    /// The second argument, a reference or NULL, is handed over to a map, and the result is
    /// acquired, unless it is NULL.
    Exchange,
}

/// Whether a function may be called while a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnderLock {
    /// The verifier's rule for nearly all functions.
    Refused,
    /// It neither waits nor runs anything else.
    Allowed,
}

/// What a helper or kfunc demands of its caller, beyond its arguments' types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What it acquires or releases.
    pub effect: Effect,
    /// Whether it may be called while a lock is held.
    pub under_lock: UnderLock,
}

impl Rules {
    /// A function that acquires nothing and is refused under locks.
    pub const PLAIN: Self = Self::of(Effect::None);

    /// A function with this effect that is refused under locks.
    #[must_use]
    pub const fn of(effect: Effect) -> Self {
        Self {
            effect,
            under_lock: UnderLock::Refused,
        }
    }

    /// The same, allowed under locks.
    #[must_use]
    pub const fn under_lock(self) -> Self {
        Self {
            under_lock: UnderLock::Allowed,
            ..self
        }
    }
}

/// An object that is or was held, as messages name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holding {
    /// What it is.
    pub object: Object,
    /// For an object of a program's own type, that type's name.
    pub type_name: Option<String>,
    /// The reference, or where the lock, iterator or irq flags lie.
    pub addr: u64,
    /// The function that acquired it (or released it, if it is gone).
    pub by: &'static str,
    /// The call of that function.
    pub place: Place,
}

/// The object and its address.
fn name(object: Object, addr: u64) -> String {
    match object {
        Object::Rcu | Object::Preempt => object.to_string(),
        Object::Reference(_)
        | Object::Local
        | Object::LocalPercpu
        | Object::Kptr
        | Object::Record
        | Object::RecordDynptr
        | Object::SpinLock
        | Object::ResLock
        | Object::ResLockIrq
        | Object::Irq
        | Object::Iterator(_) => format!("{object} {addr:#x}"),
    }
}

impl Holding {
    fn name(&self) -> String {
        let name = name(self.object, self.addr);
        match &self.type_name {
            Some(own) => format!("{own} {name}"),
            None => name,
        }
    }

    /// With where it was acquired.
    fn acquired(&self) -> String {
        let (acquired, _) = self.object.verbs();
        format!(
            "{}, {acquired} by `{}` at {}",
            self.name(),
            self.by,
            self.place
        )
    }
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.acquired())
    }
}

/// Where a program gives up what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The program, or the callback of a timer.
    Program,
    /// A callback of a helper.
    Callback,
    /// A tail call: nobody is left to give it back.
    TailCall,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "program's end",
            Self::Callback => "callback's end",
            Self::TailCall => "tail call",
        })
    }
}

/// What a program did with what it holds, or does not hold, and the verifier had refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Misuse {
    /// Still held at the end. The place of the abort is where it was acquired: that is what
    /// has no counterpart.
    #[error(
        "{}, {} here by `{}`, is not {} at the {end}",
        held.name(), held.object.verbs().0, held.by, held.object.verbs().1
    )]
    NotReleased {
        /// What is held.
        held: Box<Holding>,
        /// The end of what.
        end: End,
    },
    /// Released, unlocked, destroyed or used without being held.
    #[error("`{function}`: {} is not {}{}", name(*object, *addr), object.verbs().0, gone_text(gone))]
    NotHeld {
        /// The function called.
        function: &'static str,
        /// What should be held.
        object: Object,
        /// Its address.
        addr: u64,
        /// Where it was given back, if it was held in this run.
        gone: Option<Box<Holding>>,
    },
    /// Given back in a callback, though it was acquired outside.
    #[error("`{function}`: not the callback's own is {held}")]
    NotOwn {
        /// The function called.
        function: &'static str,
        /// What is held.
        held: Box<Holding>,
    },
    /// Acquired while it is held.
    #[error("`{function}`: already held is {held}")]
    AlreadyHeld {
        /// The function called.
        function: &'static str,
        /// What is held.
        held: Box<Holding>,
    },
    /// Locks and irq sections end in reverse order.
    #[error("`{function}`: {} is {} out of order: still held is {later}",
        name(*object, *addr), object.verbs().1)]
    OutOfOrder {
        /// The function called.
        function: &'static str,
        /// What it was to end.
        object: Object,
        /// Its address.
        addr: u64,
        /// What began later.
        later: Box<Holding>,
    },
    /// Unlocked with flags other than those it was locked with.
    #[error("`{function}`: {flags:#x} are not the irq flags of {held}")]
    IrqFlags {
        /// The function called.
        function: &'static str,
        /// Where the flags given lie.
        flags: u64,
        /// The lock.
        held: Box<Holding>,
    },
    /// A call that is not allowed while a lock is held.
    #[error("`{function}`: not allowed while a lock is held: {held}")]
    UnderLock {
        /// The function called.
        function: &'static str,
        /// The lock.
        held: Box<Holding>,
    },
    /// A call that may sleep where sleeping is not allowed.
    #[error("`{function}`: may sleep, which is not allowed inside {held}")]
    Sleeps {
        /// The function called.
        function: &'static str,
        /// The section.
        held: Box<Holding>,
    },
}

fn gone_text(gone: &Option<Box<Holding>>) -> String {
    gone.as_ref().map_or(String::new(), |gone| {
        let (_, released) = gone.object.verbs();
        format!(
            " any more: it was {released} by `{}` at {}",
            gone.by, gone.place
        )
    })
}

/// Something a run holds, or gave back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    object: Object,
    /// Of an object, as it may be gone when it is named.
    ty: Option<LocalType>,
    addr: u64,
    /// Where the irq flags of a lock lie.
    flags: u64,
    by: &'static str,
    prog: ProgId,
    pc: u32,
}

impl Held {
    fn is(&self, object: Object, addr: u64) -> bool {
        let is_same = match object {
            Object::Reference(_) => self.object == object || self.object == Object::Kptr,
            // A counter: every entry is like any other.
            Object::Rcu | Object::Preempt => return self.object == object,
            Object::Local | Object::LocalPercpu => {
                self.object == object || self.object == Object::Kptr
            }
            Object::Kptr => self.object.is_reference(),
            Object::Record
            | Object::RecordDynptr
            | Object::SpinLock
            | Object::ResLock
            | Object::ResLockIrq
            | Object::Irq
            | Object::Iterator(_) => self.object == object,
        };
        is_same && self.addr == addr
    }

    /// Where irq flags lie that must not be saved over.
    fn irq_flags(&self) -> Option<u64> {
        match self.object {
            Object::Irq => Some(self.addr),
            Object::ResLockIrq => Some(self.flags),
            Object::Reference(_)
            | Object::Local
            | Object::LocalPercpu
            | Object::Kptr
            | Object::Record
            | Object::RecordDynptr
            | Object::SpinLock
            | Object::ResLock
            | Object::Rcu
            | Object::Preempt
            | Object::Iterator(_) => None,
        }
    }

    fn describe(&self, vm: &Vm) -> Box<Holding> {
        Box::new(Holding {
            object: self.object,
            type_name: self.ty.map(|ty| vm.types.name(ty).to_owned()),
            addr: self.addr,
            by: self.by,
            place: vm.program(self.prog).place(self.pc),
        })
    }
}

/// A call as the books see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) function: &'static str,
    pub(crate) rules: Rules,
    pub(crate) sleepable: Sleepable,
    pub(crate) args: [u64; 5],
}

impl Watched {
    /// A call whose body keeps the books itself.
    fn of(function: &'static str) -> Self {
        Self {
            function,
            rules: Rules::PLAIN,
            sleepable: Sleepable::No,
            args: [0; 5],
        }
    }

    fn entry(&self, vm: &Vm, object: Object, addr: u64) -> Held {
        let run = vm.runs.last().expect("a call belongs to a run");
        let frame = vm.frames.last().expect("a call belongs to a frame");
        let own = vm.objects.get(KernAddr::new(addr));
        Held {
            object,
            ty: own.filter(|_| object.is_reference()).map(|own| own.ty),
            addr,
            flags: self.args[1],
            by: self.function,
            prog: run.prog,
            pc: frame.pc,
        }
    }
}

/// Refuses a call that what is held does not allow. Nothing changes: if the call fails, what it
/// was to release is still held.
#[inline]
pub(crate) fn before(vm: &Vm, call: &Watched) -> Result<(), Abort> {
    let needs_nothing = matches!(
        call.rules.effect,
        Effect::None | Effect::Result(_) | Effect::Begin(_)
    );
    if needs_nothing && vm.held.is_empty() {
        return Ok(());
    }
    judge(vm, call).map_err(|misuse| vm.abort_here(AbortCause::Misuse(misuse)))
}

/// Notes what a call acquired and gave back.
#[inline]
pub(crate) fn after(vm: &mut Vm, call: &Watched, ret: u64) {
    if call.rules.effect != Effect::None {
        note(vm, call, ret);
    }
}

#[inline(never)]
fn judge(vm: &Vm, call: &Watched) -> Result<(), Misuse> {
    let run = vm.runs.last().expect("a call belongs to a run");
    let own = &vm.held[run.first_held..];
    let function = call.function;
    match call.rules.effect {
        Effect::None | Effect::Result(_) => {}
        Effect::Begin(object) => judge_begin(vm, call, object)?,
        Effect::End(object) => judge_end(vm, call, object)?,
        Effect::Use(object) => {
            let [addr, ..] = call.args;
            if !own.iter().any(|held| held.is(object, addr)) {
                return Err(not_held(vm, function, object, addr));
            }
        }
        Effect::Exchange => {
            let [_, addr, ..] = call.args;
            if addr != 0 && find(vm, Object::Kptr, addr).is_none() {
                return Err(not_held(vm, function, Object::Kptr, addr));
            }
        }
    }
    let lock = own.iter().rev().find(|held| held.object.is_lock());
    if let Some(lock) = lock.filter(|_| call.rules.under_lock == UnderLock::Refused) {
        let held = lock.describe(vm);
        return Err(Misuse::UnderLock { function, held });
    }
    let section = own.iter().rev().find(|held| held.object.is_atomic());
    if let Some(section) = section.filter(|_| call.sleepable == Sleepable::Yes) {
        let held = section.describe(vm);
        return Err(Misuse::Sleeps { function, held });
    }
    Ok(())
}

fn judge_begin(vm: &Vm, call: &Watched, object: Object) -> Result<(), Misuse> {
    let run = vm.runs.last().expect("a call belongs to a run");
    let own = &vm.held[run.first_held..];
    let [addr, second, ..] = call.args;
    let twice = own.iter().find(|held| match object {
        Object::SpinLock | Object::Iterator(_) => held.is(object, addr),
        Object::Irq => held.irq_flags() == Some(addr),
        Object::ResLockIrq => held.irq_flags() == Some(second),
        // These nest, or say themselves that they cannot.
        Object::Reference(_)
        | Object::Local
        | Object::LocalPercpu
        | Object::Kptr
        | Object::Record
        | Object::RecordDynptr
        | Object::ResLock
        | Object::Rcu
        | Object::Preempt => false,
    });
    match twice {
        None => Ok(()),
        Some(held) => Err(Misuse::AlreadyHeld {
            function: call.function,
            held: held.describe(vm),
        }),
    }
}

fn judge_end(vm: &Vm, call: &Watched, object: Object) -> Result<(), Misuse> {
    let function = call.function;
    let [addr, flags, ..] = call.args;
    let Some(at) = find(vm, object, addr) else {
        return Err(not_held(vm, function, object, addr));
    };
    let held = &vm.held[at];
    let later = vm.held[at + 1..].iter().find(|later| {
        (object.is_lock() && later.object.is_lock()) || (object.is_irq() && later.object.is_irq())
    });
    if let Some(later) = later {
        let later = later.describe(vm);
        return Err(Misuse::OutOfOrder {
            function,
            object,
            addr,
            later,
        });
    }
    if object == Object::ResLockIrq && held.flags != flags {
        let held = held.describe(vm);
        return Err(Misuse::IrqFlags {
            function,
            flags,
            held,
        });
    }
    Ok(())
}

/// The last of what the innermost run or callback acquired itself that is this.
fn find(vm: &Vm, object: Object, addr: u64) -> Option<usize> {
    let run = vm.runs.last().expect("a call belongs to a run");
    let own = vm.held[run.held_floor..]
        .iter()
        .rposition(|held| held.is(object, addr));
    own.map(|at| run.held_floor + at)
}

fn not_held(vm: &Vm, function: &'static str, object: Object, addr: u64) -> Misuse {
    let run = vm.runs.last().expect("a call belongs to a run");
    let outer = &vm.held[run.first_held..run.held_floor];
    if let Some(held) = outer.iter().rev().find(|held| held.is(object, addr)) {
        let held = held.describe(vm);
        return Misuse::NotOwn { function, held };
    }
    let gone = vm.gone.iter().rev().find(|gone| gone.is(object, addr));
    Misuse::NotHeld {
        function,
        object,
        addr,
        gone: gone.map(|gone| gone.describe(vm)),
    }
}

#[inline(never)]
fn note(vm: &mut Vm, call: &Watched, ret: u64) {
    let [first, second, ..] = call.args;
    match call.rules.effect {
        Effect::None | Effect::Use(_) => {}
        Effect::Result(object) => note_result(vm, call, object, ret),
        Effect::Begin(object) => {
            if !object.is_lock() || ret == 0 {
                let entry = call.entry(vm, object, first);
                vm.held.push(entry);
            }
        }
        Effect::End(object) => note_end(vm, call, object, first),
        Effect::Exchange => {
            if second != 0 {
                note_end(vm, call, Object::Kptr, second);
            }
            note_result(vm, call, Object::Kptr, ret);
        }
    }
}

fn note_result(vm: &mut Vm, call: &Watched, object: Object, ret: u64) {
    if ret != 0 {
        let own = vm.objects.get(KernAddr::new(ret));
        let object = match own.map(|own| own.home) {
            Some(Home::Kernel) if object == Object::Kptr => Object::Local,
            Some(Home::PerCpu) if object == Object::Kptr => Object::LocalPercpu,
            _ => object,
        };
        let entry = call.entry(vm, object, ret);
        vm.held.push(entry);
    }
}

fn note_end(vm: &mut Vm, call: &Watched, object: Object, addr: u64) {
    // `before` found it, but a kfunc may have run programs since.
    let Some(at) = find(vm, object, addr) else {
        return;
    };
    let held = vm.held.remove(at);
    if vm.gone.len() == GONE_MAX {
        vm.gone.remove(0);
    }
    let entry = Held {
        ty: held.ty,
        ..call.entry(vm, held.object, addr)
    };
    vm.gone.push(entry);
}

/// Refuses unless the innermost run or callback holds this as its own.
pub(crate) fn check_held(
    vm: &Vm,
    function: &'static str,
    object: Object,
    addr: u64,
) -> Result<(), Abort> {
    if find(vm, object, addr).is_some() {
        return Ok(());
    }
    let misuse = not_held(vm, function, object, addr);
    Err(vm.abort_here(AbortCause::Misuse(misuse)))
}

/// The same, where a callback may use what is held outside.
pub(crate) fn check_used(
    vm: &Vm,
    function: &'static str,
    object: Object,
    addr: u64,
) -> Result<(), Abort> {
    let run = vm.runs.last().expect("a call belongs to a run");
    let mut own = vm.held[run.first_held..].iter();
    if own.any(|held| held.is(object, addr)) {
        return Ok(());
    }
    let misuse = not_held(vm, function, object, addr);
    Err(vm.abort_here(AbortCause::Misuse(misuse)))
}

/// What the innermost run acquired last as this reference.
pub(crate) fn reference(vm: &Vm, addr: u64) -> Option<Object> {
    let at = find(vm, Object::Kptr, addr)?;
    Some(vm.held[at].object)
}

/// The call has ended the holding of this.
pub(crate) fn end_of(vm: &mut Vm, function: &'static str, object: Object, addr: u64) {
    note_end(vm, &Watched::of(function), object, addr);
}

/// The run holds this from now on.
pub(crate) fn begin(vm: &mut Vm, function: &'static str, object: Object, addr: u64) {
    note_result(vm, &Watched::of(function), object, addr);
}

/// Refuses unless the innermost run holds a lock of this kind there.
pub(crate) fn check_locked(
    vm: &Vm,
    function: &'static str,
    kind: Object,
    at: KernAddr,
) -> Result<(), Abort> {
    let run = vm.runs.last().expect("a call belongs to a run");
    let own = &vm.held[run.first_held..];
    if own
        .iter()
        .any(|held| held.object.is_lock() && held.addr == at.raw())
    {
        return Ok(());
    }
    let misuse = not_held(vm, function, kind, at.raw());
    Err(vm.abort_here(AbortCause::Misuse(misuse)))
}

/// Whether the innermost run may not sleep because of what it holds.
pub(crate) fn is_atomic(vm: &Vm) -> bool {
    let run = vm.runs.last();
    run.is_some_and(|run| {
        let own = &vm.held[run.first_held..];
        own.iter().any(|held| held.object.is_atomic())
    })
}

/// Whether the innermost run is in an RCU section; see [`Call::in_rcu`].
pub(crate) fn in_rcu(vm: &Vm, since: Option<(Object, u64)>) -> bool {
    let run = vm.runs.last().expect("a call belongs to a run");
    if run.sleepable == Sleepable::No {
        return true;
    }
    let own = &vm.held[run.first_held..];
    let at = since.and_then(|(object, addr)| own.iter().rposition(|held| held.is(object, addr)));
    let earlier = &own[..at.unwrap_or(own.len())];
    earlier
        .iter()
        .any(|held| held.object == Object::Rcu || held.object.is_lock())
}

/// Runs a callback of the innermost run, which must give back all it acquires, and nothing else.
pub(crate) fn in_callback(
    vm: &mut Vm,
    host: &mut dyn Host,
    body: impl FnOnce(&mut Vm, &mut dyn Host) -> Result<u64, Abort>,
) -> Result<u64, Abort> {
    let floor = vm.held.len();
    let run = vm.runs.last_mut().expect("a callback belongs to a run");
    let outer = std::mem::replace(&mut run.held_floor, floor);
    let result = body(vm, host);
    let run = vm.runs.last_mut().expect("runs end in order");
    run.held_floor = outer;
    match (result, vm.held.get(floor)) {
        (Ok(_), Some(held)) => Err(not_released(vm, held, End::Callback)),
        (result, _) => result,
    }
}

/// Gives back what the innermost run still holds, which is an error unless the run ended by
/// another one.
#[inline(never)]
pub(crate) fn end(
    vm: &mut Vm,
    host: &mut dyn Host,
    result: Result<u64, Abort>,
) -> Result<u64, Abort> {
    let run = *vm.runs.last().expect("the run that ends");
    let result = match (result, vm.held.get(run.first_held)) {
        // An exception is no excuse: nothing unwinds.
        (Ok(_), Some(held)) => Err(not_released(vm, held, End::Program)),
        (Err(abort), Some(held)) if matches!(abort.cause, AbortCause::Thrown { .. }) => {
            Err(not_released(vm, held, End::Program))
        }
        (result, _) => result,
    };
    for held in vm.held.split_off(run.first_held).iter().rev() {
        give_back(vm, host, held);
    }
    result
}

/// Refuses a tail call of a run that holds something, as the verifier does.
pub(crate) fn before_tail_call(vm: &Vm) -> Result<(), Abort> {
    let run = vm.runs.last().expect("a call belongs to a run");
    match vm.held.get(run.first_held) {
        None => Ok(()),
        Some(held) => Err(not_released(vm, held, End::TailCall)),
    }
}

fn not_released(vm: &Vm, held: &Held, end: End) -> Abort {
    let held = held.describe(vm);
    let place = Box::new(held.place.clone());
    let abort = vm.abort_here(AbortCause::Misuse(Misuse::NotReleased { held, end }));
    Abort { place, ..abort }
}

fn give_back(vm: &mut Vm, host: &mut dyn Host, held: &Held) {
    let addr = KernAddr::new(held.addr);
    match held.object {
        Object::SpinLock | Object::ResLock | Object::ResLockIrq => {
            // It was written when it was taken; if it is gone since, so is the lock.
            let _gone = vm.mem.write_as_program(addr, &[0; 4]);
        }
        Object::Record | Object::RecordDynptr => {
            let mut rings = vm.maps.iter_mut().filter_map(Map::ring);
            let _gone = rings.any(|ring| ring.commit(addr, Commit::Discard).is_ok());
        }
        Object::Rcu | Object::Preempt | Object::Irq => {}
        Object::Local | Object::LocalPercpu => vm.drop_object(addr, host),
        Object::Kptr if vm.objects.get(addr).is_some() => vm.drop_object(addr, host),
        Object::Iterator(_) if vm.on_stacks.bits.remove(&addr).is_some() => {}
        Object::Reference(_) | Object::Kptr | Object::Iterator(_) => {
            let mut call = Call {
                vm,
                prog: held.prog,
                name: held.by,
            };
            host.give_back(&mut call, held.object, held.addr);
        }
    }
}
