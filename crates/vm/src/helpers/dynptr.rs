//! `struct bpf_dynptr`: a pointer with a length, to memory or to a reserved record.
//!
//! ```text
//!   from_mem ──► Local ─┐                       reserve_dynptr ──► Record ──► submit or discard
//!                       ├── clone, adjust ──► the same, elsewhere
//!   drained sample ─────┘
//! ```
//!
//! A dynptr lies on the program's stack, in 16 bytes of the kernel's layout: address, size and
//! type, offset. What it is stands on the host's side, by where it lies; one whose bytes are not
//! those that were written there is none any more, as for a verifier. Mirrors
//! `kernel/bpf/helpers.c` of 7.3, where offsets and lengths have 64 bits.

use harena_abi::{Errno, KernAddr};

use super::maps::{commit_record, reserve_record};
use super::{Answer, Ctx, Fail};
use crate::held::{self, Object};
use crate::layout::Region;
use crate::maps::Commit;

/// Bytes of a dynptr.
pub(super) const DYNPTR_SIZE: u64 = 16;
/// `DYNPTR_MAX_SIZE`: the bits above say the type.
pub(super) const SIZE_MAX: u64 = (1 << 24) - 1;

/// What a dynptr points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing: its creation failed.
    Null,
    /// Memory that is there anyhow.
    Local,
    /// A record of a ring buffer.
    Record,
}

/// One dynptr of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dynptr {
    kind: Kind,
    data: u64,
    offset: u32,
    size: u32,
    /// How deep the run is nested that it belongs to.
    level: usize,
}

impl Dynptr {
    /// Whether it belongs to a run that is nested deeper.
    pub(crate) const fn is_deeper(&self, level: usize) -> bool {
        self.level > level
    }

    /// As it lies in memory. `enum bpf_dynptr_type` gives the numbers.
    fn bytes(&self) -> [u8; 16] {
        let kind: u32 = match self.kind {
            Kind::Null => 0,
            Kind::Local => 1,
            Kind::Record => 2,
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.data.to_le_bytes());
        bytes[8..12].copy_from_slice(&(self.size | kind << 28).to_le_bytes());
        bytes[12..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// `bpf_dynptr_check_off_len()`.
    fn check(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let size = u64::from(self.size);
        match size.checked_sub(len) {
            Some(room) if offset <= room => Ok(()),
            _ => Err(Errno::E2BIG),
        }
    }

    /// The address of a part.
    fn part(&self, offset: u64, len: u64) -> Result<KernAddr, Errno> {
        if self.is_null() {
            return Err(Errno::EINVAL);
        }
        self.check(offset, len)?;
        let start = self.data.wrapping_add(u64::from(self.offset));
        Ok(KernAddr::new(start.wrapping_add(offset)))
    }
}

/// The dynptr that an argument points to.
fn known(ctx: &Ctx<'_>, at: u64) -> Result<Dynptr, Fail> {
    let addr = KernAddr::new(at);
    let mut bytes = [0; 16];
    let found = ctx
        .vm
        .on_stacks
        .dynptrs
        .get(&addr)
        .copied()
        .filter(|dynptr| {
            let read = ctx.vm.mem.read_bytes(addr, &mut bytes);
            read.is_ok() && bytes == dynptr.bytes()
        });
    let Some(dynptr) = found else {
        return Err(ctx.bad(format!("{addr} is no dynptr")));
    };
    if dynptr.kind == Kind::Record {
        held::check_used(ctx.vm, ctx.name, Object::RecordDynptr, dynptr.data)?;
    }
    Ok(dynptr)
}

/// Makes a dynptr be at an address.
fn put(ctx: &mut Ctx<'_>, at: KernAddr, dynptr: Dynptr) -> Result<(), Fail> {
    ctx.put(at.raw(), &dynptr.bytes())?;
    ctx.vm.on_stacks.dynptrs.insert(at, dynptr);
    Ok(())
}

/// The same where a program says: on its stack.
fn init(ctx: &mut Ctx<'_>, at: u64, dynptr: Dynptr) -> Result<(), Fail> {
    let addr = KernAddr::new(at);
    if !on_stack(addr) {
        return Err(ctx.bad(format!("a dynptr at {addr}, which is not on the stack")));
    }
    put(ctx, addr, dynptr)
}

fn on_stack(addr: KernAddr) -> bool {
    (Region::Stacks.start()..Region::Stacks.end()).contains(&addr)
}

fn new(ctx: &Ctx<'_>, kind: Kind, data: u64, size: u64) -> Dynptr {
    Dynptr {
        kind,
        data,
        offset: 0,
        size: u32::try_from(size.min(SIZE_MAX)).expect("bounded"),
        level: ctx.vm.runs.len(),
    }
}

/// Makes a dynptr of `len` bytes at `data`, for a callback.
pub(super) fn lend(ctx: &mut Ctx<'_>, at: KernAddr, data: KernAddr, len: u64) -> Result<(), Fail> {
    let dynptr = new(ctx, Kind::Local, data.raw(), len);
    put(ctx, at, dynptr)
}

/// `bpf_dynptr_from_mem(data, size, flags, ptr)`.
pub(super) fn from_mem(ctx: &mut Ctx<'_>, [data, size, flags, ptr, _]: [u64; 5]) -> Answer {
    let error = if size > SIZE_MAX {
        Errno::E2BIG
    } else if flags != 0 {
        Errno::EINVAL
    } else {
        let addr = KernAddr::new(data);
        if on_stack(addr) {
            return Err(ctx.bad(format!("{addr} is on the stack, where a dynptr points not")));
        }
        let there = ctx.vm.mem.writable_by_program(addr, size);
        there.map_err(|fault| ctx.fault(fault))?;
        let dynptr = new(ctx, Kind::Local, data, size);
        init(ctx, ptr, dynptr)?;
        return Ok(0);
    };
    let null = new(ctx, Kind::Null, 0, 0);
    init(ctx, ptr, null)?;
    Err(error.into())
}

/// `bpf_ringbuf_reserve_dynptr(ringbuf, size, flags, ptr)`: what it makes must be submitted or
/// discarded, also if it fails.
pub(super) fn reserve(ctx: &mut Ctx<'_>, [map, size, flags, ptr, _]: [u64; 5]) -> Answer {
    let reserved = if flags != 0 {
        Err(Errno::EINVAL)
    } else if size > SIZE_MAX {
        Err(Errno::E2BIG)
    } else {
        reserve_record(ctx, map, size)?.ok_or(Errno::EINVAL)
    };
    let (dynptr, held) = match reserved {
        Ok(record) => (new(ctx, Kind::Record, record.raw(), size), record.raw()),
        Err(_) => (new(ctx, Kind::Null, 0, 0), ptr),
    };
    held::begin(ctx.vm, ctx.name, Object::RecordDynptr, held);
    init(ctx, ptr, dynptr)?;
    reserved?;
    Ok(0)
}

fn commit(ctx: &mut Ctx<'_>, ptr: u64, commit: Commit) -> Answer {
    let dynptr = known(ctx, ptr)?;
    let held = match dynptr.kind {
        Kind::Record => dynptr.data,
        Kind::Null | Kind::Local => ptr,
    };
    held::check_held(ctx.vm, ctx.name, Object::RecordDynptr, held)?;
    if dynptr.kind == Kind::Record {
        commit_record(ctx, dynptr.data, commit)?;
    }
    held::end_of(ctx.vm, ctx.name, Object::RecordDynptr, held);
    // Clones go with the record; `known` finds that it is not held any more.
    let at = KernAddr::new(ptr);
    ctx.vm.on_stacks.dynptrs.remove(&at);
    ctx.put(ptr, &[0; 16])?;
    Ok(0)
}

/// `bpf_ringbuf_submit_dynptr(ptr, flags)`.
pub(super) fn submit(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    commit(ctx, ptr, Commit::Submit)
}

/// `bpf_ringbuf_discard_dynptr(ptr, flags)`.
pub(super) fn discard(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    commit(ctx, ptr, Commit::Discard)
}

/// Copies between what a dynptr points to and other memory, as `memmove`.
fn transfer(ctx: &mut Ctx<'_>, to: KernAddr, from: KernAddr, len: u64) -> Answer {
    ctx.charge_argument(len)?;
    let copied = ctx.vm.mem.copy_as_program(to, from, len);
    copied.map_err(|fault| ctx.fault(fault))?;
    Ok(0)
}

/// `bpf_dynptr_read(dst, len, src, offset, flags)`.
pub(super) fn read(ctx: &mut Ctx<'_>, [dst, len, src, offset, flags]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, src)?;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let from = dynptr.part(offset, len)?;
    transfer(ctx, KernAddr::new(dst), from, len)
}

/// `bpf_dynptr_write(dst, offset, src, len, flags)`.
pub(super) fn write_to(ctx: &mut Ctx<'_>, [dst, offset, src, len, flags]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, dst)?;
    let to = dynptr.part(offset, len)?;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    transfer(ctx, to, KernAddr::new(src), len)
}

/// `bpf_dynptr_data(ptr, offset, len)`.
pub(super) fn data(ctx: &mut Ctx<'_>, [ptr, offset, len, ..]: [u64; 5]) -> Answer {
    let found = known(ctx, ptr)?.part(offset, len);
    Ok(found.map_or(0, KernAddr::raw))
}

/// `bpf_dynptr_slice(ptr, offset, buffer, len)` and `bpf_dynptr_slice_rdwr`: all memory here lies
/// in one piece, so nothing needs the buffer.
pub(crate) fn slice(ctx: &mut Ctx<'_>, [ptr, offset, _, len, _]: [u64; 5]) -> Answer {
    data(ctx, [ptr, offset, len, 0, 0])
}

/// `bpf_dynptr_adjust(ptr, start, end)`.
pub(crate) fn adjust(ctx: &mut Ctx<'_>, [ptr, start, end, ..]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, ptr)?;
    if dynptr.is_null() || start > end {
        return Err(Errno::EINVAL.into());
    }
    let size = u64::from(dynptr.size);
    let within = |at: u64| u32::try_from(at).ok().filter(|_| at <= size);
    let (Some(start), Some(end)) = (within(start), within(end)) else {
        return Err(Errno::ERANGE.into());
    };
    let adjusted = Dynptr {
        // Never more than the size that it had first.
        offset: dynptr.offset + start,
        size: end - start,
        ..dynptr
    };
    put(ctx, KernAddr::new(ptr), adjusted)?;
    Ok(0)
}

/// `bpf_dynptr_is_null(ptr)`.
pub(crate) fn is_null(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    Ok(known(ctx, ptr)?.is_null().into())
}

/// `bpf_dynptr_is_rdonly(ptr)`: only those of packets can be.
pub(crate) fn is_rdonly(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    known(ctx, ptr)?;
    Ok(0)
}

/// `bpf_dynptr_size(ptr)`.
pub(crate) fn size(ctx: &mut Ctx<'_>, [ptr, ..]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, ptr)?;
    if dynptr.is_null() {
        return Err(Errno::EINVAL.into());
    }
    Ok(dynptr.size.into())
}

/// `bpf_dynptr_clone(ptr, clone)`.
pub(crate) fn clone(ctx: &mut Ctx<'_>, [ptr, to, ..]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, ptr)?;
    let level = ctx.vm.runs.len();
    init(ctx, to, Dynptr { level, ..dynptr })?;
    if dynptr.is_null() {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// `bpf_dynptr_copy(dst, dst_off, src, src_off, size)`.
pub(crate) fn copy(ctx: &mut Ctx<'_>, [dst, dst_off, src, src_off, size]: [u64; 5]) -> Answer {
    let (to, from) = (known(ctx, dst)?, known(ctx, src)?);
    match (to.part(dst_off, size), from.part(src_off, size)) {
        (Ok(to), Ok(from)) => transfer(ctx, to, from, size),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error.into()),
        (Err(_), Err(_)) => {
            to.check(dst_off, size)?;
            from.check(src_off, size)?;
            // Both are NULL, and nothing is to be copied.
            Ok(0)
        }
    }
}

/// `bpf_dynptr_memset(ptr, offset, size, value)`.
pub(crate) fn memset(ctx: &mut Ctx<'_>, [ptr, offset, size, value, _]: [u64; 5]) -> Answer {
    let dynptr = known(ctx, ptr)?;
    if dynptr.is_null() {
        dynptr.check(offset, size)?;
        return Ok(0);
    }
    let to = dynptr.part(offset, size)?;
    ctx.charge_argument(size)?;
    let [value, ..] = value.to_le_bytes();
    let bytes = vec![value; usize::try_from(size).expect("no larger than a dynptr")];
    ctx.put(to.raw(), &bytes)?;
    Ok(0)
}

/// Where a kfunc is to put `size` bytes that it reads elsewhere.
pub(crate) fn room(ctx: &Ctx<'_>, ptr: u64, offset: u64, size: u64) -> Result<KernAddr, Fail> {
    let dynptr = known(ctx, ptr)?;
    dynptr.check(offset, size)?;
    Ok(dynptr.part(offset, size)?)
}
