//! `scx_exit_info` and `scx_dump_ctx` in guest memory, for the callbacks that get them.

use harena_abi::{KernAddr, scx};
use harena_scx::{CpuSet, DumpCtx, ExitInfo};
use harena_vm::{GuestMem, OutOfGuestMemory, Region};

use crate::access::Fields;
use crate::types::ctype::field;
use crate::types::mask::cpumask;
use crate::types::scx::{scx_dump_ctx, scx_exit_info};

const REASON_LEN: u64 = 128;
const BT_LEN: u64 = scx::SCX_EXIT_BT_LEN * 8;
const HEADER: u64 = size_of::<scx_exit_info>() as u64;

/// An exit info with its texts behind it, alive during `ops.exit`.
#[derive(Debug)]
pub(crate) struct ExitBlock {
    addr: KernAddr,
    size: u64,
}

impl ExitBlock {
    /// Lays out `info`: the struct, reason, backtrace (empty), message, dump.
    pub(crate) fn new(mem: &GuestMem, info: &ExitInfo) -> Result<Self, OutOfGuestMemory> {
        let dump_len = info.dump.len() as u64 + 1;
        let size = HEADER + REASON_LEN + BT_LEN + scx::SCX_EXIT_MSG_LEN + dump_len;
        let addr = mem.alloc(Region::Kernel, size, 64)?;
        let at = |offset: u64| KernAddr::new(addr.raw() + offset);
        let reason = at(HEADER);
        let bt = at(HEADER + REASON_LEN);
        let msg = at(HEADER + REASON_LEN + BT_LEN);
        let dump = at(HEADER + REASON_LEN + BT_LEN + scx::SCX_EXIT_MSG_LEN);
        write_text(mem, reason, REASON_LEN, &info.reason);
        write_text(mem, msg, scx::SCX_EXIT_MSG_LEN, &info.message);
        write_text(mem, dump, dump_len, &info.dump);
        mem.put(addr, field!(scx_exit_info, kind.0), info.kind);
        let cpu = info.cpu.map_or(-1, harena_abi::Cpu::as_s32);
        mem.put(addr, field!(scx_exit_info, exit_cpu), cpu);
        mem.put(addr, field!(scx_exit_info, exit_code), info.code);
        mem.put(addr, field!(scx_exit_info, flags), info.flags);
        mem.put_ptr(addr, field!(scx_exit_info, reason), reason);
        mem.put_ptr(addr, field!(scx_exit_info, bt), bt);
        mem.put_ptr(addr, field!(scx_exit_info, msg), msg);
        mem.put_ptr(addr, field!(scx_exit_info, dump), dump);
        Ok(Self { addr, size })
    }

    pub(crate) const fn addr(&self) -> KernAddr {
        self.addr
    }

    pub(crate) fn free(self, mem: &GuestMem) {
        mem.free(Region::Kernel, self.addr, self.size, 64);
    }
}

/// Writes a dump's context at `at`, with its reason's text at `text`; gives `at`.
pub(crate) fn write_dump_ctx(
    mem: &GuestMem,
    at: KernAddr,
    text: KernAddr,
    ctx: &DumpCtx,
) -> KernAddr {
    write_text(mem, text, size_of::<cpumask>() as u64, ctx.reason);
    mem.put(at, field!(scx_dump_ctx, kind.0), ctx.kind);
    mem.put(at, field!(scx_dump_ctx, exit_code), ctx.exit_code);
    mem.put_ptr(at, field!(scx_dump_ctx, reason), text);
    mem.put(at, field!(scx_dump_ctx, at_ns), ctx.at.as_ns());
    mem.put(at, field!(scx_dump_ctx, at_jiffies), ctx.at_jiffies);
    at
}

/// Writes a CPU mask; gives its address as a program gets it.
pub(crate) fn write_mask(mem: &GuestMem, at: KernAddr, cpus: &CpuSet) -> u64 {
    let mut bytes = [0; size_of::<cpumask>()];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(cpus.words()) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    mem.write_bytes(at, &bytes)
        .expect("kernel masks are mapped");
    at.raw()
}

/// Writes a NUL-terminated text of at most `room` bytes.
fn write_text(mem: &GuestMem, at: KernAddr, room: u64, text: &str) {
    let fits = usize::try_from(room.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut bytes = text.as_bytes()[..text.len().min(fits)].to_vec();
    bytes.push(0);
    mem.write_bytes(at, &bytes)
        .expect("the block was allocated with room for its texts");
}
