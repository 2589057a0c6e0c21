//! Makes a string from an object file or a workload safe to print.
//!
//! Names, messages and source lines come from files that nobody vouches for. Printed raw
//! they could move the cursor, recolour the terminal, end the line early or reverse the
//! reading order. Everything that a terminal acts on is shown as a Rust-style escape;
//! all other text, of any language, passes unchanged.

use std::borrow::Cow;

/// `text` with control and direction characters escaped.
///
/// ```
/// assert_eq!(harena_report::escape("web\x1b[31m"), r"web\x1b[31m");
/// ```
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(acts_on_terminal) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if !acts_on_terminal(c) => out.push(c),
            c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(out)
}

/// Like [`escape`], but keeps line breaks and tabs: for text that is meant as several lines.
#[must_use]
pub fn escape_lines(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let cells: Vec<Cow<'_, str>> = line.split('\t').map(escape).collect();
            cells.join("\t")
        })
        .collect();
    lines.join("\n")
}

/// Control characters, line and paragraph separators, and the invisible ones that
/// reorder or hide their neighbours.
fn acts_on_terminal(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use super::{escape, escape_lines};

    #[test]
    fn plain_text_of_any_language_passes() {
        for text in ["web 1", "täglich", "日本語", "a\\b", ""] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn terminal_controls_are_shown() {
        assert_eq!(escape("\x1b]0;x\x07"), r"\x1b]0;x\x07");
        assert_eq!(escape("a\nb\tc\rd"), r"a\nb\tc\rd");
        assert_eq!(escape("\u{9b}1m"), r"\u{9b}1m");
        assert_eq!(escape("\u{202e}cba"), r"\u{202e}cba");
        assert_eq!(escape("\x7f"), r"\x7f");
    }

    #[test]
    fn lines_keep_their_breaks_only() {
        assert_eq!(escape_lines("a\n\tb\x1b\nc\n"), "a\n\tb\\x1b\nc");
    }
}
