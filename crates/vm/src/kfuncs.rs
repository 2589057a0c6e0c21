//! Calling kfuncs: the engine's own table, and the way to the host's.

use crate::error::{Abort, AbortCause};
use crate::host::{Call, Host, KfuncDesc, Sleepable};
use crate::program::Program;
use crate::vm::Vm;

/// First number of the engine's own kfuncs; a host's lie below.
pub const GENERIC_KFUNC_BASE: u32 = 1 << 24;

/// The kfuncs that the engine provides itself; a host adds them to the table that objects are
/// linked against.
#[must_use]
pub fn generic_kfuncs() -> &'static [KfuncDesc] {
    &[]
}

/// Calls kfunc number `index` of the program's table.
pub(crate) fn call(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    index: u32,
    args: [u64; 5],
) -> Result<u64, Abort> {
    let desc = program.kfuncs[index as usize];
    let run = *vm.runs.last().expect("a call belongs to a run");
    let sleeps_illegally = desc.sleepable == Sleepable::Yes && run.sleepable == Sleepable::No;
    if sleeps_illegally || !desc.contexts.meets(run.contexts) {
        return Err(vm.abort_here(AbortCause::KfuncContext {
            name: desc.name.to_owned(),
        }));
    }
    let mut call = Call {
        vm,
        prog: program.id,
        name: desc.name,
    };
    host.kfunc(&mut call, desc.id, args)
}
