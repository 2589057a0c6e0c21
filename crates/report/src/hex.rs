//! Bytes in hexadecimal.

use std::fmt;

use serde::Serializer;

/// Bytes with this between them.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8], pub(crate) &'a str);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { self.1 };
            write!(f, "{between}{byte:02x}")?;
        }
        Ok(())
    }
}

/// As a string without anything between.
pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(bytes, ""))
}
