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

const NAMES: [(u32, &str); 5] = [
    (GET_FUNC_IP, "bpf_get_func_ip"),
    (GET_ATTACH_COOKIE, "bpf_get_attach_cookie"),
    (GET_FUNC_ARG, "bpf_get_func_arg"),
    (GET_FUNC_RET, "bpf_get_func_ret"),
    (GET_FUNC_ARG_CNT, "bpf_get_func_arg_cnt"),
];

/// What a running tracing program looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(super) point: Point,
    pub(super) args: [u64; 6],
    pub(super) ret: u64,
    pub(super) ctx: KernAddr,
}

/// Calls one of these helpers; `None` if it is another one. Without a frame the program looks at
/// nothing.
pub(crate) fn call_helper(
    frame: Option<&Frame>,
    call: &Call<'_>,
    id: u32,
    [ctx, a, b, ..]: [u64; 5],
) -> Result<Option<u64>, Abort> {
    let Some((_, name)) = NAMES.iter().find(|(number, _)| *number == id) else {
        return Ok(None);
    };
    let Some(frame) = frame.filter(|frame| frame.has(id)) else {
        return Err(call.host_error(format!(
            "program of this type cannot use helper {name}#{id}"
        )));
    };
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
        GET_FUNC_RET if frame.point.style == Style::Exit => put(call, a, frame.ret)?,
        GET_FUNC_RET => Errno::EOPNOTSUPP.as_reg(),
        // Attached by its section's name, a program has no cookie.
        _ => 0,
    };
    Ok(Some(ret))
}

impl Frame {
    /// Whether a program that looks at this has a helper.
    fn has(&self, id: u32) -> bool {
        let style = self.point.style;
        match id {
            GET_FUNC_IP => self.point.ip != 0,
            GET_FUNC_ARG | GET_FUNC_ARG_CNT => {
                matches!(style, Style::BtfTracepoint | Style::Entry | Style::Exit)
            }
            GET_FUNC_RET => matches!(style, Style::Entry | Style::Exit),
            _ => true,
        }
    }
}

fn put(call: &Call<'_>, at: u64, value: u64) -> Result<u64, Abort> {
    let written = call.mem().write_u64(KernAddr::new(at), value);
    written.map_err(|fault| call.bad_argument(fault.to_string()))?;
    Ok(0)
}
