//! Helpers and kfuncs that print.

use harena_abi::{Errno, KernAddr};

use super::{Answer, Ctx, Fail};
use crate::format::{ARGS_MAX, MESSAGE_MAX, format, format_all};
use crate::stream::StreamId;

/// `bpf_trace_printk(fmt, fmt_size, a1, a2, a3)`.
pub(super) fn trace_printk(ctx: &mut Ctx<'_>, [fmt, size, a1, a2, a3]: [u64; 5]) -> Answer {
    let fmt = format_of(ctx, fmt, size & 0xffff_ffff)?;
    trace(ctx, &fmt, &[a1, a2, a3])
}

/// `bpf_trace_vprintk(fmt, fmt_size, data, data_len)`.
pub(super) fn trace_vprintk(ctx: &mut Ctx<'_>, [fmt, size, data, len, _]: [u64; 5]) -> Answer {
    let args = arguments(ctx, data, len & 0xffff_ffff)?;
    let fmt = format_of(ctx, fmt, size & 0xffff_ffff)?;
    trace(ctx, &fmt, &args)
}

fn trace(ctx: &mut Ctx<'_>, fmt: &[u8], args: &[u64]) -> Answer {
    let text = format(&ctx.vm.mem, fmt, args)?;
    let len = text.len() as u64;
    ctx.vm.charge_bytes(len)?;
    // A full trace counts what it drops; programs are not told.
    let _full = ctx
        .vm
        .trace
        .push(String::from_utf8_lossy(&text).into_owned());
    Ok(len)
}

/// `bpf_snprintf(str, str_size, fmt, data, data_len)`: length of the whole text with its NUL.
pub(super) fn snprintf(ctx: &mut Ctx<'_>, [to, size, fmt, data, len]: [u64; 5]) -> Answer {
    let args = arguments(ctx, data, len & 0xffff_ffff)?;
    let fmt = string(ctx, fmt)?;
    let mut text = format_all(&ctx.vm.mem, &fmt, &args)?;
    text.push(0);
    let whole = text.len() as u64;
    ctx.vm.charge_bytes(whole)?;
    let room = usize::try_from(size & 0xffff_ffff).unwrap_or(usize::MAX);
    if room > 0 {
        text.truncate(room);
        if let Some(last) = text.last_mut() {
            *last = 0;
        }
        ctx.put(to, &text)?;
    }
    Ok(whole)
}

/// `bpf_stream_vprintk(stream_id, fmt__str, args, len__sz)`.
pub(crate) fn stream_vprintk(ctx: &mut Ctx<'_>, [id, fmt, data, len, _]: [u64; 5]) -> Answer {
    let [a, b, c, d, ..] = id.to_le_bytes();
    let stream = StreamId::from_raw(u32::from_le_bytes([a, b, c, d]))?;
    let args = arguments(ctx, data, len & 0xffff_ffff)?;
    let fmt = string(ctx, fmt)?;
    let text = format(&ctx.vm.mem, &fmt, &args)?;
    let len = text.len() as u64;
    ctx.vm.charge_bytes(len)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    ctx.vm.stream_mut(ctx.program.id, stream).push(text)?;
    Ok(len)
}

/// A format given with its size, which includes the NUL that must end it.
fn format_of(ctx: &mut Ctx<'_>, fmt: u64, size: u64) -> Result<Vec<u8>, Fail> {
    let mut bytes = ctx.bytes(fmt, size.min(1 << 16))?;
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => bytes.truncate(end),
        None => return Err(Errno::EINVAL.into()),
    }
    Ok(bytes)
}

fn string(ctx: &mut Ctx<'_>, at: u64) -> Result<Vec<u8>, Fail> {
    let text = ctx.vm.mem.cstr(KernAddr::new(at), 4 * MESSAGE_MAX as u64);
    let text = text.map_err(|fault| ctx.fault(fault))?;
    ctx.vm.charge_bytes(text.len() as u64)?;
    Ok(text)
}

/// An array of 64-bit values.
fn arguments(ctx: &mut Ctx<'_>, data: u64, len: u64) -> Result<Vec<u64>, Fail> {
    if !len.is_multiple_of(8) || len > ARGS_MAX * 8 || (data == 0 && len != 0) {
        return Err(Errno::EINVAL.into());
    }
    let bytes = ctx.bytes(data, len)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}
