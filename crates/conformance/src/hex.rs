//! Bytes as text: two digits each, with white space anywhere.

/// Why text is no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HexError {
    /// Something that is neither a digit nor white space.
    #[error("`{}` at position {at} is no hexadecimal digit", found.escape_ascii())]
    Digit {
        /// The byte.
        found: u8,
        /// Where it stands, from 0.
        at: usize,
    },
    /// Half a byte is left over.
    #[error("{digits} hexadecimal digits are no whole number of bytes")]
    HalfByte {
        /// How many digits there are.
        digits: usize,
    },
}

/// The bytes that `text` stands for.
pub fn decode_hex(text: &[u8]) -> Result<Vec<u8>, HexError> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut digits = 0;
    let mut high = 0;
    for (at, found) in text.iter().copied().enumerate() {
        if found.is_ascii_whitespace() {
            continue;
        }
        let digit = match found {
            b'0'..=b'9' => found - b'0',
            b'a'..=b'f' => found - b'a' + 10,
            b'A'..=b'F' => found - b'A' + 10,
            _ => return Err(HexError::Digit { found, at }),
        };
        if digits % 2 == 0 {
            high = digit << 4;
        } else {
            bytes.push(high | digit);
        }
        digits += 1;
    }
    if digits % 2 == 1 {
        return Err(HexError::HalfByte { digits });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_may_stand_anywhere() {
        assert_eq!(decode_hex(b"00  fF  1\n2 "), Ok(vec![0, 0xff, 0x12]));
        assert_eq!(decode_hex(b" \r\n"), Ok(Vec::new()));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let message = |text: &[u8]| decode_hex(text).unwrap_err().to_string();
        let bad = "`x` at position 3 is no hexadecimal digit";
        assert_eq!(message(b"00 x0"), bad);
        let bad = "`\\xff` at position 0 is no hexadecimal digit";
        assert_eq!(message(b"\xff"), bad);
        let half = "3 hexadecimal digits are no whole number of bytes";
        assert_eq!(message(b"00 1"), half);
    }
}
