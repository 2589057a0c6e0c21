//! Which allocations fail on purpose, as people type it: `5`, `5+`, `every:100`, `1/1000`.

use std::num::{NonZeroU32, NonZeroU64};

/// Allocations that are to fail, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failing {
    /// This one.
    Nth(NonZeroU64),
    /// This one and all after it.
    From(NonZeroU64),
    /// Every so manieth.
    Every(NonZeroU64),
    /// One in so many; the run's seed decides which.
    OneIn(NonZeroU32),
}

/// Reads one of the four forms.
pub(crate) fn parse(text: &str) -> Result<Failing, String> {
    let text = text.trim();
    if let Some(count) = text.strip_prefix("every:") {
        return count
            .parse()
            .map(Failing::Every)
            .map_err(|_not_a_number| refuse(text));
    }
    if let Some(count) = text.strip_prefix("1/") {
        return count
            .parse()
            .map(Failing::OneIn)
            .map_err(|_not_a_number| refuse(text));
    }
    match text.strip_suffix('+') {
        Some(first) => first.parse().map(Failing::From),
        None => text.parse().map(Failing::Nth),
    }
    .map_err(|_not_a_number| refuse(text))
}

fn refuse(text: &str) -> String {
    format!("`{text}` names no allocations; try 5, 5+, every:100 or 1/1000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_and_nothing_else() {
        let count = |n| NonZeroU64::new(n).unwrap();
        assert_eq!(parse("5"), Ok(Failing::Nth(count(5))));
        assert_eq!(parse(" 5+ "), Ok(Failing::From(count(5))));
        assert_eq!(parse("every:100"), Ok(Failing::Every(count(100))));
        let thousand = NonZeroU32::new(1000).unwrap();
        assert_eq!(parse("1/1000"), Ok(Failing::OneIn(thousand)));
        for text in [
            "",
            "0",
            "-1",
            "every:0",
            "1/0",
            "2/3",
            "+",
            "five",
            "1/99999999999",
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains("try 5"), "{refused}");
        }
    }
}
