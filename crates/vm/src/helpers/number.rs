//! `bpf_strtol` and `bpf_strtoul`: numbers in text.
//!
//! Mirrors `__bpf_strtoull()` of `kernel/bpf/helpers.c` and what it uses of `lib/kstrtox.c`.

use harena_abi::Errno;

use super::{Answer, Ctx, Fail};

/// The base is all that flags say; 0 is found in the text.
const BASE_MASK: u64 = 0x1f;
/// Digits and prefix that are looked at.
const DIGITS_MAX: usize = 63;

/// A number as it was found.
struct Number {
    magnitude: u64,
    is_negative: bool,
    /// Bytes of the text that it takes, with what stands before it.
    len: usize,
}

/// As the kernel's `isspace()`, which knows Latin-1.
const fn is_space(c: u8) -> bool {
    matches!(c, b'\t'..=b'\r' | b' ' | 0xa0)
}

fn digit(c: u8, base: u64) -> Option<u64> {
    let digit = char::from(c).to_digit(16)?;
    Some(u64::from(digit)).filter(|digit| *digit < base)
}

/// The base that a prefix says, where it is asked for.
fn base_of(digits: &[u8], base: u64) -> u64 {
    match (base, digits) {
        (0, [b'0', b'x' | b'X', c, ..]) if c.is_ascii_hexdigit() => 16,
        (0, [b'0', ..]) => 8,
        (0, _) => 10,
        (base, _) => base,
    }
}

fn parse(text: &[u8], flags: u64) -> Result<Number, Errno> {
    let base = flags & BASE_MASK;
    if text.is_empty() || !matches!(base, 0 | 8 | 10 | 16) || flags & !BASE_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let spaces = text.iter().take_while(|c| is_space(**c)).count();
    let is_negative = text.get(spaces) == Some(&b'-');
    let before = spaces + usize::from(is_negative);
    let digits = &text[before..];
    let digits = &digits[..digits.len().min(DIGITS_MAX)];
    let base = base_of(digits, base);
    let prefix = match digits {
        [b'0', b'x' | b'X', ..] if base == 16 => 2,
        _ => 0,
    };
    let digits = digits[prefix..].iter().map_while(|c| digit(*c, base));
    let mut number = Some(0u64);
    let mut count = 0;
    for digit in digits {
        number = number.and_then(|n| n.checked_mul(base)?.checked_add(digit));
        count += 1;
    }
    // Overflow counts before absence of digits, of which there are some then.
    let magnitude = number.ok_or(Errno::ERANGE)?;
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Number {
        magnitude,
        is_negative,
        len: before + prefix + count,
    })
}

/// Parses the text and leaves the number that `value` makes of it, or 0.
fn convert(
    ctx: &mut Ctx<'_>,
    [text, len, flags, to, _]: [u64; 5],
    value: fn(&Number) -> Result<u64, Errno>,
) -> Answer {
    let text = ctx.bytes(text, len)?;
    let number = parse(&text, flags);
    let value = number.as_ref().map_err(|errno| *errno).and_then(value);
    ctx.put(to, &value.unwrap_or(0).to_le_bytes())?;
    value?;
    let len = number.map_err(Fail::Errno)?.len;
    Ok(len as u64)
}

/// `bpf_strtol(buf, len, flags, res)`: bytes that the number takes.
pub(super) fn strtol(ctx: &mut Ctx<'_>, args: [u64; 5]) -> Answer {
    convert(ctx, args, |number| {
        let value = if number.is_negative {
            number.magnitude.wrapping_neg()
        } else {
            number.magnitude
        };
        // The sign that the value has must be the one that was written; 0 has either.
        let fits = value == 0 || (value.cast_signed() < 0) == number.is_negative;
        fits.then_some(value).ok_or(Errno::ERANGE)
    })
}

/// `bpf_strtoul(buf, len, flags, res)`.
pub(super) fn strtoul(ctx: &mut Ctx<'_>, args: [u64; 5]) -> Answer {
    convert(ctx, args, |number| {
        let value = Some(number.magnitude).filter(|_| !number.is_negative);
        value.ok_or(Errno::EINVAL)
    })
}
