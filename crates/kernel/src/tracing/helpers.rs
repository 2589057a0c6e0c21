//! Helpers of tracing programs: `bpf_get_func_arg` and its kin, `bpf_get_attach_cookie`.
//!
//! They are inlined or look beside the context in a kernel; here the running program's place
//! says the same. Which program type has which is as in v7.3: `tracing_prog_func_proto()`,
//! `kprobe_prog_func_proto()`, `tp_prog_func_proto()` and `raw_tp_prog_func_proto()`.

use harena_abi::{Errno, KernAddr};
use harena_vm::{Abort, Call};

use super::points::{Point, Style};
use crate::reg::as_u32;

const GET_FUNC_IP: u32 = 173;
const GET_ATTACH_COOKIE: u32 = 174;
const GET_FUNC_ARG: u32 = 183;
const GET_FUNC_RET: u32 = 184;
const GET_FUNC_ARG_CNT: u32 = 185;

/// What a running tracing program looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(super) point: Point,
    pub(super) args: [u64; 6],
    pub(super) ret: u64,
    pub(super) ctx: KernAddr,
}

/// Calls a helper; `None` if a program of this type has it not.
pub(crate) fn call_helper(
    frame: &Frame,
    call: &Call<'_>,
    id: u32,
    [ctx, a, b, ..]: [u64; 5],
) -> Result<Option<u64>, Abort> {
    let style = frame.point.style;
    let has_args = matches!(style, Style::BtfTracepoint | Style::Entry | Style::Exit);
    let is_function = frame.point.ip != 0;
    let has = match id {
        // Attached by its section's name, a program has no cookie.
        GET_ATTACH_COOKIE => true,
        GET_FUNC_IP => is_function,
        GET_FUNC_ARG | GET_FUNC_ARG_CNT => has_args,
        GET_FUNC_RET => matches!(style, Style::Entry | Style::Exit),
        _ => false,
    };
    if !has {
        return Ok(None);
    }
    if ctx != frame.ctx.raw() {
        return Err(call.bad_argument(format!("{ctx:#x} is not the program's context")));
    }
    let ret = match id {
        GET_FUNC_IP => frame.point.ip,
        GET_FUNC_ARG => match frame.args[..frame.point.nr_args].get(as_u32(a) as usize) {
            Some(arg) => put(call, b, *arg)?,
            None => Errno::EINVAL.as_reg(),
        },
        GET_FUNC_ARG_CNT => frame.point.nr_args as u64,
        GET_FUNC_RET if style == Style::Exit => put(call, a, frame.ret)?,
        GET_FUNC_RET => Errno::EOPNOTSUPP.as_reg(),
        _ => 0,
    };
    Ok(Some(ret))
}

fn put(call: &Call<'_>, at: u64, value: u64) -> Result<u64, Abort> {
    let written = call.mem().write_u64(KernAddr::new(at), value);
    written.map_err(|fault| call.bad_argument(fault.to_string()))?;
    Ok(0)
}
