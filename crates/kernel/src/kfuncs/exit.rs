//! Kfuncs that take a format: errors, exits and dump text.
//!
//! A format that cannot be read or that says something unknown is an error of the
//! scheduler, with the kernel's words, as is any use of these kfuncs that makes no sense.

use harena_abi::KernAddr;
use harena_vm::{Abort, FORMAT_ARGS_MAX, bprintf};

use super::{Kf, context, kfuncs};
use crate::reg::{as_s64, as_u32};

/// Bytes of a format that are looked at; a message has room for fewer.
const FORMAT_LEN_MAX: u64 = 4096;

kfuncs! {
    context::ANY, None, No {
        scx_bpf_error_bstr "void (char *fmt, u64 *data, u32 data__sz)"
            => |k, [fmt, data, size, ..]| {
                let text = k.bstr(fmt, data, size)?;
                let (core, machine) = k.core();
                core.kf_error(machine, &text.unwrap_or_else(|problem| problem));
                Ok(0)
            };
        scx_bpf_exit_bstr "void (s64 exit_code, char *fmt, u64 *data, u32 data__sz)"
            => |k, [code, fmt, data, size, _]| {
                let text = k.bstr(fmt, data, size)?;
                let (core, machine) = k.core();
                match text {
                    Ok(text) => core.kf_exit(machine, as_s64(code), &text),
                    Err(problem) => core.kf_error(machine, &problem),
                }
                Ok(0)
            };
        scx_bpf_dump_bstr "void (char *fmt, u64 *data, u32 data__sz)"
            => |k, [fmt, data, size, ..]| {
                let text = k.bstr(fmt, data, size)?;
                let (core, machine) = k.core();
                core.kf_dump(machine, &text.unwrap_or_else(|problem| problem));
                Ok(0)
            };
    }
}

impl Kf<'_, '_, '_> {
    /// The message, or what is wrong with it. Formatting counts as work of the program.
    fn bstr(&mut self, fmt: u64, data: u64, size: u64) -> Result<Result<String, String>, Abort> {
        let text = self.message(fmt, data, size);
        let (Ok(message) | Err(message)) = &text;
        self.call.charge_bytes(message.len() as u64)?;
        Ok(text)
    }

    fn message(&self, fmt: u64, data: u64, size: u64) -> Result<String, String> {
        let size = u64::from(as_u32(size));
        if !size.is_multiple_of(8) || size > FORMAT_ARGS_MAX * 8 || (size != 0 && data == 0) {
            return Err(format!("invalid data={data:#x} and data__sz={size}"));
        }
        let mem = self.mem();
        let args: Vec<u64> = (0..size / 8)
            .map(|i| mem.read_u64(KernAddr::new(data.wrapping_add(i * 8))))
            .collect::<Result<_, _>>()
            .map_err(|fault| format!("failed to read data fields ({fault})"))?;
        let fmt = mem
            .cstr(KernAddr::new(fmt), FORMAT_LEN_MAX)
            .map_err(|fault| format!("failed to read the format ({fault})"))?;
        let text = bprintf(mem, &fmt, &args)
            .map_err(|errno| format!("format preparation failed ({})", errno.as_ret()))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
