//! Reading JSON as people write it for these tools: comments, trailing commas, and
//! duplicate keys kept in document order. Every value knows its line.
//!
//! Limits: 256 MiB; the parser itself refuses nesting below 512 levels.

use jsonc_parser::ast::{Array, Object, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Bytes of the largest file that is read.
pub(crate) const MAX_TEXT: usize = 256 << 20;

/// A text that is no JSON object.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("line {line}: not UTF-8")]
    Utf8 {
        /// Line of the first bad byte.
        line: usize,
    },
    /// Larger than any sensible file.
    #[error("file has {size} bytes, more than {max}", max = MAX_TEXT)]
    TooBig {
        /// Its size.
        size: usize,
    },
    /// Not JSON.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Not an object.
    #[error("line {line}: expected an object at the top")]
    NoObject {
        /// Line.
        line: usize,
    },
}

/// A parsed file.
pub(crate) struct Document<'a> {
    pub(crate) root: Object<'a>,
    pub(crate) lines: Lines,
}

/// Where lines begin.
pub(crate) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|&(_, b)| b == b'\n');
        Self {
            starts: std::iter::once(0)
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
        }
    }

    /// The line, counted from 1, on which `node` begins.
    pub(crate) fn of_node(&self, node: &impl Ranged) -> usize {
        let start = node.range().start;
        self.starts.partition_point(|&line| line <= start)
    }
}

/// Parses a file whose top level is an object.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document<'_>, JsonError> {
    if bytes.len() > MAX_TEXT {
        return Err(JsonError::TooBig { size: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        JsonError::Utf8 {
            line: 1 + before.iter().filter(|&&b| b == b'\n').count(),
        }
    })?;
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_single_quoted_strings: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options).map_err(|error| {
        JsonError::Syntax {
            line: error.line_display(),
            column: error.column_display(),
            message: error.kind().to_string(),
        }
    })?;
    let lines = Lines::of(text);
    match parsed.value {
        Some(Value::Object(root)) => Ok(Document { root, lines }),
        Some(other) => Err(JsonError::NoObject {
            line: lines.of_node(&other),
        }),
        None => Err(JsonError::NoObject { line: 1 }),
    }
}

/// What kind of value this is, with its article, for messages.
pub(crate) const fn kind_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::StringLit(_) => "a string",
        Value::NumberLit(_) => "a number",
        Value::BooleanLit(_) => "a boolean",
        Value::Object(_) => "an object",
        Value::Array(_) => "an array",
        Value::NullKeyword(_) => "null",
    }
}

/// The value as an integer, or why it is none.
pub(crate) fn integer(value: &Value<'_>) -> Result<i64, String> {
    let Value::NumberLit(number) = value else {
        return Err(format!("expected an integer, found {}", kind_of(value)));
    };
    number
        .value
        .parse()
        .map_err(|error: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            if matches!(error.kind(), PosOverflow | NegOverflow) {
                format!("{} does not fit 64 bits", number.value)
            } else {
                format!("expected an integer, found {}", number.value)
            }
        })
}

/// The value as a string, or why it is none.
pub(crate) fn string<'v>(value: &'v Value<'_>) -> Result<&'v str, String> {
    let Value::StringLit(text) = value else {
        return Err(format!("expected a string, found {}", kind_of(value)));
    };
    Ok(&text.value)
}

/// The value as an object, or why it is none.
pub(crate) fn object<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Object<'a>, String> {
    let Value::Object(object) = value else {
        return Err(format!("expected an object, found {}", kind_of(value)));
    };
    Ok(object)
}

/// The value as an array, or why it is none.
pub(crate) fn array<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Array<'a>, String> {
    let Value::Array(array) = value else {
        return Err(format!("expected an array, found {}", kind_of(value)));
    };
    Ok(array)
}
