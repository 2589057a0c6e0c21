//! `bpf_str*`: questions about strings anywhere in memory.
//!
//! Nothing is known about the pointers: one that is no kernel address gives `ERANGE`, bytes that
//! are not there `EFAULT`, and a string is followed for 64 KiB. Mirrors `kernel/bpf/helpers.c` of
//! 7.3.

use harena_abi::{Errno, KernAddr, PAGE_SIZE};

use crate::error::Abort;
use crate::helpers::{Answer, Ctx};
use crate::mem::GuestMem;

/// `XATTR_SIZE_MAX`: bytes of a string that are looked at.
const STRING_MAX: u64 = 1 << 16;

/// First address of the kernel's half.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// Characters that are compared in the time of one instruction.
const CHARS_PER_INSN: u64 = 8;

/// Whether letters of both cases are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Counts,
    Ignored,
}

impl Case {
    /// As the kernel's `tolower()`, which knows Latin-1.
    const fn fold(self, c: u8) -> u8 {
        match (self, c) {
            (Self::Ignored, b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde) => c + 0x20,
            _ => c,
        }
    }
}

/// The beginning of a string, read as far as there is something to read.
struct Text {
    bytes: Vec<u8>,
    /// Memory ended before the string did.
    is_cut: bool,
}

impl Text {
    /// Reads to the NUL, or `max` bytes.
    fn read(mem: &GuestMem, addr: u64, max: u64) -> Result<Self, Errno> {
        if addr < KERNEL_HALF {
            return Err(Errno::ERANGE);
        }
        let mut text = Self {
            bytes: Vec::new(),
            is_cut: false,
        };
        let mut at = addr;
        let mut left = max.min(STRING_MAX);
        while left > 0 {
            let len = left.min(PAGE_SIZE - at % PAGE_SIZE);
            let mut part = vec![0; usize::try_from(len).expect("within a page")];
            if mem.read_bytes(KernAddr::new(at), &mut part).is_err() {
                text.is_cut = true;
                break;
            }
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.bytes.extend(&part[..=end]);
                break;
            }
            text.bytes.extend(part);
            left -= len;
            at = at.wrapping_add(len);
        }
        Ok(text)
    }

    /// The character at an index below what was asked for, not beyond the NUL.
    fn at(&self, index: u64) -> Result<u8, Errno> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.bytes.get(index) {
            Some(byte) => Ok(*byte),
            None if self.is_cut => Err(Errno::EFAULT),
            // Behind the NUL: nobody gets there.
            None => Ok(0),
        }
    }
}

fn text(ctx: &mut Ctx<'_>, addr: u64, max: u64) -> Result<Result<Text, Errno>, Abort> {
    let text = Text::read(&ctx.vm.mem, addr, max);
    let len = text.as_ref().map_or(0, |text| text.bytes.len() as u64);
    ctx.vm.charge(len / CHARS_PER_INSN)?;
    Ok(text)
}

/// Looks at one character after the other until `f` has an answer.
fn scan(
    ctx: &mut Ctx<'_>,
    s: u64,
    count: u64,
    mut f: impl FnMut(u64, u8) -> Option<Result<u64, Errno>>,
) -> Result<Result<Option<u64>, Errno>, Abort> {
    let text = match text(ctx, s, count)? {
        Ok(text) => text,
        Err(error) => return Ok(Err(error)),
    };
    for i in 0..count.min(STRING_MAX) {
        let c = match text.at(i) {
            Ok(c) => c,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(answer) = f(i, c) {
            return Ok(answer.map(Some));
        }
    }
    if count >= STRING_MAX {
        return Ok(Err(Errno::E2BIG));
    }
    Ok(Ok(None))
}

/// `bpf_strnlen(s, count)`.
pub(super) fn strnlen(ctx: &mut Ctx<'_>, [s, count, ..]: [u64; 5]) -> Answer {
    let found = scan(ctx, s, count, |i, c| (c == 0).then_some(Ok(i)))?;
    Ok(found?.unwrap_or(count))
}

/// `bpf_strlen(s)`.
pub(super) fn strlen(ctx: &mut Ctx<'_>, [s, ..]: [u64; 5]) -> Answer {
    strnlen(ctx, [s, STRING_MAX, 0, 0, 0])
}

fn low_byte(arg: u64) -> u8 {
    let [byte, ..] = arg.to_le_bytes();
    byte
}

/// `bpf_strnchr(s, count, c)`: the NUL can be looked for, too.
pub(super) fn strnchr(ctx: &mut Ctx<'_>, [s, count, wanted, ..]: [u64; 5]) -> Answer {
    let wanted = low_byte(wanted);
    let found = scan(ctx, s, count, |i, c| match c {
        _ if c == wanted => Some(Ok(i)),
        0 => Some(Err(Errno::ENOENT)),
        _ => None,
    })?;
    Ok(found?.ok_or(Errno::ENOENT)?)
}

/// `bpf_strchr(s, c)`.
pub(super) fn strchr(ctx: &mut Ctx<'_>, [s, wanted, ..]: [u64; 5]) -> Answer {
    strnchr(ctx, [s, STRING_MAX, wanted, 0, 0])
}

/// `bpf_strchrnul(s, c)`: the string's length if there is none.
pub(super) fn strchrnul(ctx: &mut Ctx<'_>, [s, wanted, ..]: [u64; 5]) -> Answer {
    let wanted = low_byte(wanted);
    let found = scan(ctx, s, STRING_MAX, |i, c| {
        (c == 0 || c == wanted).then_some(Ok(i))
    })?;
    Ok(found?.ok_or(Errno::E2BIG)?)
}

/// `bpf_strrchr(s, c)`: the last one. `c` is an `int` here, all of which counts.
pub(super) fn strrchr(ctx: &mut Ctx<'_>, [s, wanted, ..]: [u64; 5]) -> Answer {
    let wanted = super::s32(wanted);
    let mut last = Err(Errno::ENOENT);
    let found = scan(ctx, s, STRING_MAX, |i, c| {
        if i32::from(c) == wanted {
            last = Ok(i);
        }
        (c == 0).then_some(last)
    })?;
    Ok(found?.ok_or(Errno::E2BIG)?)
}

fn compare(ctx: &mut Ctx<'_>, a: u64, b: u64, len: u64, case: Case) -> Answer {
    let (a, b) = (text(ctx, a, len)?, text(ctx, b, len)?);
    let (a, b) = (a?, b?);
    for i in 0..len.min(STRING_MAX) {
        let (a, b) = (case.fold(a.at(i)?), case.fold(b.at(i)?));
        match a.cmp(&b) {
            std::cmp::Ordering::Less => return Ok(u64::MAX),
            std::cmp::Ordering::Greater => return Ok(1),
            std::cmp::Ordering::Equal if a == 0 => return Ok(0),
            std::cmp::Ordering::Equal => {}
        }
    }
    if len >= STRING_MAX {
        return Err(Errno::E2BIG.into());
    }
    Ok(0)
}

/// `bpf_strcmp(s1, s2)`: -1, 0 or 1.
pub(super) fn strcmp(ctx: &mut Ctx<'_>, [a, b, ..]: [u64; 5]) -> Answer {
    compare(ctx, a, b, STRING_MAX, Case::Counts)
}

/// `bpf_strcasecmp(s1, s2)`.
pub(super) fn strcasecmp(ctx: &mut Ctx<'_>, [a, b, ..]: [u64; 5]) -> Answer {
    compare(ctx, a, b, STRING_MAX, Case::Ignored)
}

/// `bpf_strncasecmp(s1, s2, len)`.
pub(super) fn strncasecmp(ctx: &mut Ctx<'_>, [a, b, len, ..]: [u64; 5]) -> Answer {
    compare(ctx, a, b, len, Case::Ignored)
}

/// The length of the part of `s` whose characters are all in `set` (`wanted`), or all not.
fn span(ctx: &mut Ctx<'_>, s: u64, set: u64, wanted: bool) -> Answer {
    let (s, set) = (text(ctx, s, STRING_MAX)?, text(ctx, set, STRING_MAX)?);
    let (s, set) = (s?, set?);
    for i in 0..STRING_MAX {
        let c = s.at(i)?;
        if c == 0 {
            return Ok(i);
        }
        let mut j = 0;
        let found = loop {
            if j == STRING_MAX {
                return Err(Errno::E2BIG.into());
            }
            match set.at(j)? {
                0 => break false,
                other if other == c => break true,
                _ => j += 1,
            }
        };
        ctx.vm.charge(j / CHARS_PER_INSN)?;
        if found != wanted {
            return Ok(i);
        }
    }
    Err(Errno::E2BIG.into())
}

/// `bpf_strspn(s, accept)`.
pub(super) fn strspn(ctx: &mut Ctx<'_>, [s, accept, ..]: [u64; 5]) -> Answer {
    span(ctx, s, accept, true)
}

/// `bpf_strcspn(s, reject)`.
pub(super) fn strcspn(ctx: &mut Ctx<'_>, [s, reject, ..]: [u64; 5]) -> Answer {
    span(ctx, s, reject, false)
}

/// Where `b` begins in the first `len` characters of `a`.
fn find(ctx: &mut Ctx<'_>, a: u64, b: u64, len: u64, case: Case) -> Answer {
    let (a, b) = (text(ctx, a, STRING_MAX)?, text(ctx, b, STRING_MAX)?);
    let (a, b) = (a?, b?);
    for i in 0..STRING_MAX {
        let mut j = 0;
        while i + j <= len && j < STRING_MAX {
            let wanted = b.at(j)?;
            if wanted == 0 {
                return Ok(i);
            }
            // The end of `b` may lie just behind the part that is searched.
            if i + j == len {
                break;
            }
            let c = a.at(i + j)?;
            if c == 0 {
                return Err(Errno::ENOENT.into());
            }
            if case.fold(c) != case.fold(wanted) {
                break;
            }
            j += 1;
        }
        ctx.vm.charge(j / CHARS_PER_INSN)?;
        if j == STRING_MAX {
            return Err(Errno::E2BIG.into());
        }
        if i + j == len {
            return Err(Errno::ENOENT.into());
        }
    }
    Err(Errno::E2BIG.into())
}

/// `bpf_strstr(s1, s2)`.
pub(super) fn strstr(ctx: &mut Ctx<'_>, [a, b, ..]: [u64; 5]) -> Answer {
    find(ctx, a, b, STRING_MAX, Case::Counts)
}

/// `bpf_strcasestr(s1, s2)`.
pub(super) fn strcasestr(ctx: &mut Ctx<'_>, [a, b, ..]: [u64; 5]) -> Answer {
    find(ctx, a, b, STRING_MAX, Case::Ignored)
}

/// `bpf_strnstr(s1, s2, len)`.
pub(super) fn strnstr(ctx: &mut Ctx<'_>, [a, b, len, ..]: [u64; 5]) -> Answer {
    find(ctx, a, b, len, Case::Counts)
}

/// `bpf_strncasestr(s1, s2, len)`.
pub(super) fn strncasestr(ctx: &mut Ctx<'_>, [a, b, len, ..]: [u64; 5]) -> Answer {
    find(ctx, a, b, len, Case::Ignored)
}
