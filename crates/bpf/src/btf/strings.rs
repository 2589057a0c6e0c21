//! Tables of NUL-ended strings, as in BTF and ELF.
//!
//! Offsets may point into the middle of a string, and a hostile table can make many
//! of them share one long tail. Hence nothing is copied, and the search for the end
//! stops after [`STRING_LEN_MAX`] bytes.

use std::fmt;

/// Longest string that is found; longer ones count as absent.
const STRING_LEN_MAX: usize = 4096;

/// Strings, each ended by NUL, named by the offset of their first byte.
#[derive(Clone, Default)]
pub(crate) struct Strings {
    text: String,
}

impl Strings {
    /// Takes over a table; `None` if offsets of 32 bits cannot reach all of it.
    pub(crate) fn new(text: String) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        Some(Self { text })
    }

    /// The string at `offset`; `None` if it does not end, is too long or starts inside
    /// a character.
    pub(crate) fn get(&self, offset: u32) -> Option<&str> {
        let start = usize::try_from(offset).ok()?;
        let tail = self.text.as_bytes().get(start..)?;
        let len = tail
            .iter()
            .take(STRING_LEN_MAX)
            .position(|byte| *byte == 0)?;
        self.text.get(start..start.checked_add(len)?)
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
