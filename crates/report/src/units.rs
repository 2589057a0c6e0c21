//! Numbers as people read them: `12,345`, `3.21 ms`, `73.2 %`.
//!
//! Integers throughout: a value is rounded once, half up, and never depends on how a
//! platform prints floats. Machine-readable output does not come through here.

/// `n` with a comma after every third digit.
#[must_use]
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A length of time to three significant digits, in the unit that suits it.
#[must_use]
pub(crate) fn time(ns: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", SECOND)];
    for (unit, size) in UNITS {
        for decimals in (0..=2).rev() {
            if size == 1 && decimals > 0 {
                continue;
            }
            let scaled = divide(u128::from(ns) * 10u128.pow(decimals), u128::from(size));
            if scaled < 1_000 {
                return format!("{} {unit}", point(scaled, decimals));
            }
        }
    }
    format!("{} s", count(ns / SECOND))
}

/// Seconds with three decimals.
#[must_use]
pub(crate) fn seconds(ns: u64) -> String {
    let ms = u64::try_from(divide(u128::from(ns), 1_000_000)).unwrap_or(u64::MAX);
    format!("{}.{:03} s", count(ms / 1_000), ms % 1_000)
}

/// `part` of `whole` as per cent with one decimal; of nothing it is 0.
#[must_use]
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0.0 %".to_owned();
    }
    let permille = divide(u128::from(part) * 1_000, u128::from(whole));
    format!("{} %", point(permille, 1))
}

/// How often per second `n` things happened in `ns`; `None` if no time passed.
#[must_use]
pub(crate) fn rate(n: u64, ns: u64) -> Option<u64> {
    let per_second = (u128::from(n) * u128::from(SECOND)).checked_div(u128::from(ns))?;
    Some(u64::try_from(per_second).unwrap_or(u64::MAX))
}

const SECOND: u64 = 1_000_000_000;

/// `n / d`, rounded half up.
fn divide(n: u128, d: u128) -> u128 {
    assert!(d > 0, "units and wholes are above zero");
    (n + d / 2) / d
}

/// `scaled` with its last `decimals` digits behind the point.
fn point(scaled: u128, decimals: u32) -> String {
    let one = 10u128.pow(decimals);
    if decimals == 0 {
        return scaled.to_string();
    }
    let width = usize::try_from(decimals).unwrap_or(0);
    format!("{}.{:0width$}", scaled / one, scaled % one)
}

#[cfg(test)]
mod tests {
    use super::{count, percent, rate, seconds, time};

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn times_keep_three_digits_and_carry_into_the_next_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (9_995_000, "10.0 ms"),
            (999_999_999, "1.00 s"),
            (30_000_000_000, "30.0 s"),
            (3_600_000_000_000, "3,600 s"),
            (u64::MAX, "18,446,744,073 s"),
        ] {
            assert_eq!(time(ns), text, "{ns}");
        }
    }

    #[test]
    fn seconds_percent_and_rate() {
        assert_eq!(seconds(10_000_000_000), "10.000 s");
        assert_eq!(seconds(1_234_499_999), "1.234 s");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(5, 0), "0.0 %");
        assert_eq!(rate(500, 250_000_000), Some(2_000));
        assert_eq!(rate(1, 0), None);
    }
}
