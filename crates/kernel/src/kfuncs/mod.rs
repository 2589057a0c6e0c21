//! The kfuncs of the simulated kernel: one table, in files by notion.
//!
//! A row is the kfunc's name, its C prototype, and what it does; rows stand in blocks that
//! say where they are legal. Prototypes become BTF, against which programs are linked, and
//! their `__arena` suffixes decide which arguments the call rebases. Brackets in a row say what
//! the kfunc acquires, releases or needs to be held: `KF_ACQUIRE`, `KF_RELEASE`, iterators.
//!
//! What the verifier guarantees in a kernel (a task pointer points to a task) is checked
//! here on each call, and ends the program with the kfunc's name when it does not hold.

mod cgroup;
mod context;
mod cpumask;
mod dsq;
mod exit;
mod idle;
mod iters;
mod selftest;
mod task;
mod topo;

use harena_abi::{ArenaOffset, Cpu, KernAddr, Tid};
use harena_arena::Arena;
use harena_scx::{Core, Cx, Form, Machine};
use harena_vm::{
    Abort, Call, ContextSet, Effect, GENERIC_KFUNC_PROTOS, GuestMem, KfuncArg, KfuncDesc, Object,
    Rules, Sleepable, generic_kfuncs,
};

pub(crate) use iters::CssTasks;

pub(crate) use context::{context_of, context_of_type};

use crate::places::TaskRef;
use crate::state::State;
use crate::types::proto::Proto;

/// A kfunc being called.
pub(crate) struct Kf<'a, 'c, 'v> {
    pub(crate) st: &'a mut State,
    pub(crate) cx: &'a mut Cx<'c>,
    pub(crate) call: &'a mut Call<'v>,
}

/// What a kfunc does. The result goes to r0.
pub(crate) type Body = fn(&mut Kf<'_, '_, '_>, [u64; 5]) -> Result<u64, Abort>;

/// One kfunc.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kfunc {
    /// Kernel name.
    pub name: &'static str,
    /// C prototype without the name.
    pub proto: &'static str,
    /// Where it is legal.
    pub contexts: ContextSet,
    /// Whether it needs a sleepable program.
    pub sleepable: Sleepable,
    /// The only form that may call it, if not both.
    pub form: Option<Form>,
    /// What it acquires and releases.
    pub rules: Rules,
    /// How the call treats arguments.
    pub(crate) args: [KfuncArg; 5],
    /// What it does.
    pub(crate) body: Body,
}

/// What a kfunc acquires or releases, from the brackets in its row.
macro_rules! rules {
    () => {
        ::harena_vm::Rules::PLAIN
    };
    ($effect:expr) => {
        ::harena_vm::Rules::of($effect)
    };
}
pub(crate) use rules;

/// A block of rows with common rules; see the module's comment.
macro_rules! kfuncs {
    ($($contexts:expr, $form:expr, $sleepable:ident {
        $($name:ident $proto:literal $([$effect:expr])? => $body:expr;)*
    })*) => {
        pub(super) const KFUNCS: &[$crate::kfuncs::Kfunc] = &[$($($crate::kfuncs::Kfunc {
            name: stringify!($name),
            proto: $proto,
            contexts: $contexts,
            sleepable: ::harena_vm::Sleepable::$sleepable,
            form: $form,
            rules: $crate::kfuncs::rules!($($effect)?),
            args: $crate::kfuncs::args_of($proto),
            body: $body,
        },)*)*];
    };
}
pub(crate) use kfuncs;

/// Every kfunc of the host; its position is its number.
pub(crate) fn all() -> impl Iterator<Item = &'static Kfunc> {
    [
        dsq::KFUNCS,
        idle::KFUNCS,
        task::KFUNCS,
        topo::KFUNCS,
        exit::KFUNCS,
        cpumask::KFUNCS,
        cgroup::KFUNCS,
        selftest::KFUNCS,
        iters::KFUNCS,
    ]
    .into_iter()
    .flatten()
}

/// The host's kfuncs as the engine wants them.
#[must_use]
pub(crate) fn descs() -> Vec<KfuncDesc> {
    (0..)
        .zip(all())
        .map(|(id, kfunc)| KfuncDesc {
            id,
            name: kfunc.name,
            args: &kfunc.args,
            contexts: kfunc.contexts,
            sleepable: kfunc.sleepable,
            rules: kfunc.rules,
        })
        .collect()
}

/// Name, number and prototype of every kfunc that programs can be linked against: the
/// host's, and those that the engine provides itself.
pub(crate) fn linkable() -> impl Iterator<Item = (&'static str, u32, Proto)> {
    let host = (0..)
        .zip(all())
        .map(|(id, kfunc)| (kfunc.name, id, Proto::parse(kfunc.proto).1));
    let engine = generic_kfuncs().iter().zip(GENERIC_KFUNC_PROTOS);
    host.chain(engine.map(|(desc, (name, text))| {
        assert_eq!(desc.name, *name, "the engine's two tables are parallel");
        let mut proto = Proto::parse(text).1;
        // The verifier supplies this argument; only `_impl` variants show it to programs.
        if !name.ends_with("_impl") {
            proto.args.retain(|(arg, _)| arg != "aux__prog");
        }
        (*name, desc.id, proto)
    }))
}

/// How a call treats its arguments, from the suffixes of the parameters' names.
pub(crate) const fn args_of(proto: &str) -> [KfuncArg; 5] {
    let text = proto.as_bytes();
    let mut args = [KfuncArg::Plain; 5];
    let (mut i, mut arg) = (0, 0);
    while i < text.len() && arg < args.len() {
        if matches!(text[i], b',' | b')') {
            if ends_with(text, i, b"__arena__nullable") {
                args[arg] = KfuncArg::ArenaNullable;
            } else if ends_with(text, i, b"__arena") {
                args[arg] = KfuncArg::Arena;
            }
            arg += 1;
        }
        i += 1;
    }
    args
}

const fn ends_with(text: &[u8], end: usize, suffix: &[u8]) -> bool {
    if end < suffix.len() {
        return false;
    }
    let mut i = 0;
    while i < suffix.len() {
        if text[end - suffix.len() + i] != suffix[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Does for a run that ended what it should have done: calls what ends the holding of `object`.
pub(crate) fn give_back(k: &mut Kf<'_, '_, '_>, object: Object, addr: u64) {
    // What a map held may be anything; only masks are counted.
    let object = if object == Object::Kptr {
        cpumask::BPF_CPUMASK
    } else {
        object
    };
    let end = Effect::End(object);
    if let Some(kfunc) = all().find(|kfunc| kfunc.rules.effect == end) {
        // What is not there any more, or was scribbled over, needs no release.
        let _gone = (kfunc.body)(k, [addr, 0, 0, 0, 0]);
    }
}

impl Kf<'_, '_, '_> {
    /// The core and the machine, for kfuncs that call no other callback.
    pub(crate) fn core(&mut self) -> (&mut Core, &mut dyn Machine) {
        (self.cx.core, self.cx.machine)
    }

    pub(crate) fn mem(&self) -> &GuestMem {
        self.call.mem()
    }

    /// The task behind a pointer that must name one.
    pub(crate) fn task(&self, ptr: u64) -> Result<Tid, Abort> {
        match self.task_ref(ptr)? {
            TaskRef::Task(tid) => Ok(tid),
            TaskRef::Idle(cpu) => Err(self.call.bad_argument(format!(
                "{ptr:#x} is the idle task of CPU {cpu}, which sched_ext does not schedule"
            ))),
        }
    }

    /// The task behind a pointer, idle tasks included.
    pub(crate) fn task_ref(&self, ptr: u64) -> Result<TaskRef, Abort> {
        let task = self.st.places.task_at(KernAddr::new(ptr));
        match task {
            Some(TaskRef::Task(tid)) if self.cx.core.task(tid).is_none() => Err(self
                .call
                .bad_argument(format!("{ptr:#x} is task {tid}, which is gone"))),
            Some(task) => Ok(task),
            None => Err(self
                .call
                .bad_argument(format!("{ptr:#x} is not a task_struct"))),
        }
    }

    /// The pointer a program gets for `task`; `None` is NULL.
    pub(crate) fn task_ptr(&self, task: Option<Tid>) -> u64 {
        task.map_or(0, |tid| self.st.places.task(tid).raw())
    }

    /// The pointer for what runs on a CPU: `None` inside is its idle task.
    pub(crate) fn curr_ptr(&self, cpu: Cpu, curr: Option<Tid>) -> u64 {
        match curr {
            Some(tid) => self.st.places.task(tid).raw(),
            None => self.st.places.idle_task(cpu).raw(),
        }
    }

    /// The arena of the calling program, and the place in it that an `__arena` argument names.
    pub(crate) fn in_arena(&self, ptr: u64) -> Result<(&Arena, ArenaOffset), Abort> {
        let vm = &*self.call.vm;
        let map = vm.program(self.call.prog()).arena();
        let arena = map
            .and_then(|map| vm.arena(map).map(AsRef::as_ref))
            .ok_or_else(|| self.call.abort(harena_vm::AbortCause::NoArena))?;
        // The call rebased the pointer into the window, whatever the program gave.
        let offset = arena.offset_of(KernAddr::new(ptr)).ok_or_else(|| {
            self.call
                .bad_argument(format!("{ptr:#x} is not in the arena"))
        })?;
        Ok((arena, offset))
    }

    /// An abort because of memory that a program handed in and that is not there.
    pub(crate) fn bad_memory(&self, fault: &harena_vm::MemFault) -> Abort {
        self.call.bad_argument(fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_prototype_parses_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for (name, _, proto) in linkable() {
            assert!(names.insert(name), "{name} is there twice");
            assert!(proto.args.len() <= 5, "{name}");
        }
    }

    #[test]
    fn suffixes_decide_which_arguments_are_rebased() {
        let args = args_of("void (const s32 *map__arena, u32 bytes, u64 *x__arena__nullable)");
        assert_eq!(
            &args[..3],
            [KfuncArg::Arena, KfuncArg::Plain, KfuncArg::ArenaNullable]
        );
    }
}
