//! BPF helpers, by number.

use crate::error::{Abort, AbortCause};
use crate::host::{Call, Host};
use crate::program::Program;
use crate::vm::Vm;

/// Calls helper number `id`.
pub(crate) fn call(
    vm: &mut Vm,
    host: &mut dyn Host,
    program: &Program,
    id: u32,
    args: [u64; 5],
) -> Result<u64, Abort> {
    match id {
        5 => return Ok(host.now().as_ns()),
        7 => return Ok(u64::from(host.random())),
        8 => return Ok(u64::from(host.cpu().raw())),
        _ => {}
    }
    let mut call = Call {
        vm,
        prog: program.id,
        name: "helper",
    };
    match host.helper(&mut call, id, args)? {
        Some(ret) => Ok(ret),
        None => Err(call.abort(AbortCause::UnsupportedHelper { id, name: "?" })),
    }
}
