//! Lengths of time as people type them: `10s`, `1.5ms`, `2m30s`.
//!
//! A number needs its unit: whether `10` were seconds or nanoseconds, one of the two
//! readers would be wrong by nine orders of magnitude.

use harena_abi::Nanos;

const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The length that `text` says, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Nanos, String> {
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration is a number and a unit, such as 10s".to_owned());
    }
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        // Where no number stands, all of the rest is what is wrong.
        let ns = match number {
            "" => Err(format!("`{rest}` does not begin with a number")),
            number => part(number, unit),
        };
        let ns = ns.map_err(|why| format!("{why}; try 10s, 1.5ms or 2m30s"))?;
        total = total.checked_add(ns).ok_or("longer than 584 years")?;
        rest = after.trim_start();
    }
    match total {
        0 => Err("must be above zero".to_owned()),
        ns => Ok(Nanos::new(ns)),
    }
}

/// `text` up to the first character that is not `of`, and the rest.
fn split(text: &str, of: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !of(c)).unwrap_or(text.len()))
}

/// `number` times `unit` in nanoseconds.
fn part(number: &str, unit: &str) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(format!("`{number}{unit}` does not begin with a number"));
    }
    let size = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some(&(_, size)) => size,
        None if unit.is_empty() => return Err(format!("`{number}` has no unit")),
        None => return Err(format!("unknown unit `{unit}` (ns, us, ms, s, m, h)")),
    };
    let too_long = || format!("`{number}{unit}` is longer than 584 years");
    let whole: u64 = whole.parse().map_err(|_overflow| too_long())?;
    let mut ns = whole.checked_mul(size).ok_or_else(too_long)?;
    let mut place = size;
    for digit in fraction.bytes() {
        if place % 10 != 0 && digit != b'0' {
            return Err(format!("`{number}{unit}` is finer than a nanosecond"));
        }
        place /= 10;
        ns = ns
            .checked_add(u64::from(digit - b'0') * place)
            .ok_or_else(too_long)?;
    }
    Ok(ns)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_with_units() {
        for (text, ns) in [
            ("10s", 10_000_000_000),
            ("1ns", 1),
            ("1.5us", 1_500),
            ("0.25s", 250_000_000),
            ("200 ms", 200_000_000),
            ("2m30s", 150_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1.50m", 90_000_000_000),
            ("1.0000000000s", 1_000_000_000),
        ] {
            assert_eq!(parse(text).map(|d| d.as_ns()), Ok(ns), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, why) in [
            ("", "a duration is a number"),
            ("10", "`10` has no unit"),
            ("s", "does not begin with a number"),
            ("-1s", "`-1s` does not begin with a number"),
            ("1.2.3s", "does not begin with a number"),
            ("1d", "unknown unit `d`"),
            ("1.5ns", "finer than a nanosecond"),
            ("0s", "above zero"),
            ("99999999999999999999s", "longer than 584 years"),
            ("18446744073709551615ns1ns", "longer than 584 years"),
            ("10µs", "unknown unit `µs`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
