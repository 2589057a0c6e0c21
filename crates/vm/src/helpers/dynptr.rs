//! `struct bpf_dynptr`: a pointer with a length.
//!
//! It is 16 bytes of guest memory, in the kernel's layout: address, size, offset. A program can
//! forge one, since nobody verifies it; it gets no further with it than with a plain pointer.

use harena_abi::{Errno, KernAddr};

use super::{Answer, Ctx, Fail};

/// Bytes of a dynptr.
pub(super) const DYNPTR_SIZE: u64 = 16;
/// `DYNPTR_SIZE_MASK`: the bits above say the type.
const SIZE_MASK: u32 = 0x00ff_ffff;
/// `DYNPTR_MAX_SIZE`.
pub(super) const SIZE_MAX: u64 = SIZE_MASK as u64;
/// `BPF_DYNPTR_TYPE_LOCAL` where the type lies.
const TYPE_LOCAL: u32 = 1 << 28;

/// The memory that a dynptr stands for.
#[derive(Clone, Copy, Debug)]
struct Memory {
    start: u64,
    len: u64,
}

/// Writes a dynptr of `len` bytes at `data`.
pub(super) fn write(ctx: &Ctx<'_>, at: KernAddr, data: KernAddr, len: u64) -> Result<(), Fail> {
    let size = u32::try_from(len.min(SIZE_MAX)).expect("bounded");
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&data.raw().to_le_bytes());
    bytes[8..12].copy_from_slice(&(size | TYPE_LOCAL).to_le_bytes());
    ctx.put(at.raw(), &bytes)
}

fn memory(ctx: &mut Ctx<'_>, at: u64) -> Result<Option<Memory>, Fail> {
    let bytes = ctx.bytes(at, DYNPTR_SIZE)?;
    let (words, _) = bytes.as_chunks::<4>();
    let word = |i: usize| u32::from_le_bytes(words[i]);
    let start = u64::from(word(1)) << 32 | u64::from(word(0));
    let memory = Memory {
        start: start.wrapping_add(u64::from(word(3))),
        len: u64::from(word(2) & SIZE_MASK),
    };
    Ok((start != 0).then_some(memory))
}

/// The address of a part, as helpers ask for it.
fn part(memory: Option<Memory>, offset: u64, len: u64) -> Result<u64, Errno> {
    let memory = memory.ok_or(Errno::EINVAL)?;
    let end = offset.checked_add(len).ok_or(Errno::E2BIG)?;
    if end > memory.len {
        return Err(Errno::E2BIG);
    }
    Ok(memory.start.wrapping_add(offset))
}

/// `bpf_dynptr_read(dst, len, src, offset, flags)`.
pub(super) fn read(ctx: &mut Ctx<'_>, [dst, len, src, offset, flags]: [u64; 5]) -> Answer {
    let memory = memory(ctx, src)?.filter(|_| flags == 0);
    let from = part(memory, offset & 0xffff_ffff, len & 0xffff_ffff)?;
    let bytes = ctx.bytes(from, len & 0xffff_ffff)?;
    ctx.put(dst, &bytes)?;
    Ok(0)
}

/// `bpf_dynptr_write(dst, offset, src, len, flags)`.
pub(super) fn write_to(ctx: &mut Ctx<'_>, [dst, offset, src, len, flags]: [u64; 5]) -> Answer {
    let memory = memory(ctx, dst)?.filter(|_| flags == 0);
    let to = part(memory, offset & 0xffff_ffff, len & 0xffff_ffff)?;
    let bytes = ctx.bytes(src, len & 0xffff_ffff)?;
    ctx.put(to, &bytes)?;
    Ok(0)
}

/// `bpf_dynptr_data(ptr, offset, len)`.
pub(super) fn data(ctx: &mut Ctx<'_>, [ptr, offset, len, ..]: [u64; 5]) -> Answer {
    let memory = memory(ctx, ptr)?;
    let found = part(memory, offset & 0xffff_ffff, len & 0xffff_ffff);
    Ok(found.unwrap_or(0))
}
