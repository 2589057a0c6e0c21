//! The string table of BTF, read at any offset in logarithmic time.
//!
//! Offsets may point into the middle of a string, and a hostile table can make many
//! of them share one long tail; hence no scanning for the end and no copying.

use std::fmt;

/// Strings, each ended by NUL, named by the offset of their first byte.
#[derive(Clone, Default)]
pub(crate) struct Strings {
    text: String,
    /// Offsets of all NUL bytes, ascending.
    ends: Vec<u32>,
}

impl Strings {
    /// Takes over a table; `None` if it is longer than 2^32 bytes.
    pub(crate) fn new(text: String) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let ends = text
            .bytes()
            .zip(0u32..)
            .filter(|(byte, _)| *byte == 0)
            .map(|(_, at)| at)
            .collect();
        Some(Self { text, ends })
    }

    /// The string at `offset`; `None` if there is no end after it or it starts inside
    /// a character.
    pub(crate) fn get(&self, offset: u32) -> Option<&str> {
        let next = self.ends.partition_point(|end| *end < offset);
        let end = *self.ends.get(next)?;
        self.text
            .get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    }

    /// The whole table with its NULs.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Strings({} bytes)", self.text.len())
    }
}
