//! Sizes as people type them: `4096`, `64K`, `16MiB`.

/// Units, in bytes. All are powers of two: what is sized here are pages.
const UNITS: [(&str, u64); 7] = [
    ("", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
];

/// A number of bytes above zero.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    if number.is_empty() {
        return Err(format!(
            "`{text}` does not begin with a number; try 64K or 16M"
        ));
    }
    let unit = unit.trim_start();
    let size = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, size) = size.ok_or_else(|| format!("unknown unit `{unit}` (K, M, G)"))?;
    let number: u64 = number.parse().map_err(|_too_large| too_large())?;
    match number.checked_mul(*size).ok_or_else(too_large)? {
        0 => Err("must be above zero".to_owned()),
        bytes => Ok(bytes),
    }
}

fn too_large() -> String {
    "larger than an address space".to_owned()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_numbers_with_binary_units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse(" 64K "), Ok(64 << 10));
        assert_eq!(parse("16 MiB"), Ok(16 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        for bad in [
            "",
            "K",
            "0",
            "0M",
            "-1",
            "1.5M",
            "1T",
            "99999999999G",
            "999999999999999999999",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
