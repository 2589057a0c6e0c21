//! Register values to C arguments and back: the only truncations between them.

/// A `u32` argument: the low half counts.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "C takes the low 32 bits")]
pub(crate) const fn as_u32(reg: u64) -> u32 {
    reg as u32
}

/// An `s32` argument: the low half counts.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "the bits are two's complement")]
pub(crate) const fn as_s32(reg: u64) -> i32 {
    as_u32(reg) as i32
}

/// An `s64` argument.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "the bits are two's complement")]
pub(crate) const fn as_s64(reg: u64) -> i64 {
    reg as i64
}

/// An `s32` result, sign-extended.
#[must_use]
#[expect(
    clippy::cast_sign_loss,
    reason = "registers hold the sign-extended bits"
)]
pub(crate) const fn from_s32(value: i32) -> u64 {
    value as i64 as u64
}
