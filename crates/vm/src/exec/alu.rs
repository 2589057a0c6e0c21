//! Arithmetic whose meaning the instruction set defines where Rust's would panic.
//!
//! Division by zero gives 0, modulo by zero leaves the dividend; the most negative number
//! divided by -1 is itself, with remainder 0.

pub(super) const fn div64(a: u64, b: u64) -> u64 {
    match a.checked_div(b) {
        Some(q) => q,
        None => 0,
    }
}

pub(super) const fn div32(a: u32, b: u32) -> u32 {
    match a.checked_div(b) {
        Some(q) => q,
        None => 0,
    }
}

pub(super) const fn mod64(a: u64, b: u64) -> u64 {
    match a.checked_rem(b) {
        Some(rest) => rest,
        None => a,
    }
}

pub(super) const fn mod32(a: u32, b: u32) -> u32 {
    match a.checked_rem(b) {
        Some(rest) => rest,
        None => a,
    }
}

pub(super) const fn sdiv64(a: u64, b: u64) -> u64 {
    if b == 0 {
        return 0;
    }
    a.cast_signed()
        .wrapping_div(b.cast_signed())
        .cast_unsigned()
}

pub(super) const fn sdiv32(a: u32, b: u32) -> u32 {
    if b == 0 {
        return 0;
    }
    a.cast_signed()
        .wrapping_div(b.cast_signed())
        .cast_unsigned()
}

pub(super) const fn smod64(a: u64, b: u64) -> u64 {
    if b == 0 {
        return a;
    }
    a.cast_signed()
        .wrapping_rem(b.cast_signed())
        .cast_unsigned()
}

pub(super) const fn smod32(a: u32, b: u32) -> u32 {
    if b == 0 {
        return a;
    }
    a.cast_signed()
        .wrapping_rem(b.cast_signed())
        .cast_unsigned()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "only the low 6 bits of a shift count"
)]
pub(super) const fn arsh64(a: u64, b: u64) -> u64 {
    a.cast_signed().wrapping_shr(b as u32).cast_unsigned()
}

pub(super) const fn arsh32(a: u32, b: u32) -> u32 {
    a.cast_signed().wrapping_shr(b).cast_unsigned()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the sign is in the low byte"
)]
pub(super) const fn sext8(a: u64) -> u64 {
    ((a as u8).cast_signed() as i64).cast_unsigned()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the sign is in the low half word"
)]
pub(super) const fn sext16(a: u64) -> u64 {
    ((a as u16).cast_signed() as i64).cast_unsigned()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the sign is in the low word"
)]
pub(super) const fn sext32(a: u64) -> u64 {
    ((a as u32).cast_signed() as i64).cast_unsigned()
}
