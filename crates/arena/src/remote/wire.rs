//! What owner and peer say to each other, byte by byte.
//!
//! | message | bytes | with it |
//! |---|---|---|
//! | `Hello` | magic 8, version 4, map flags 4, `user_vm_start` 8, byte size 8 | memory file, pidfd |
//! | `Welcome` | magic 8, version 4, errno 4 (0: the view is there) | pidfd, slots |
//! | `Touch` | `TOUCH` 4, page 4 | |
//! | `Answer` | `READY`, `AGAIN` or `SEGV` 4, page 4 | |
//! | `GOODBYE` | 1 | |
//!
//! Numbers are little-endian. Readers are total: any bytes are a message or an error.

// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use harena_abi::UserAddr;

/// Changes with every change of what is said.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"harenaUV";

/// What a peer says before it leaves.
pub(super) const GOODBYE: u8 = 0x42;

pub(super) const HELLO_LEN: usize = 32;
pub(super) const WELCOME_LEN: usize = 16;
/// Of requests and answers.
pub(super) const PACKET_LEN: usize = 8;

const TOUCH: u32 = 1;
const READY: u32 = 2;
const AGAIN: u32 = 3;
const SEGV: u32 = 4;

/// Why bytes are not the message that was due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Not one of ours.
    #[error("the other side does not speak of arenas")]
    Magic,
    /// Another version of this library.
    #[error("the other side speaks version {theirs}, this one {VERSION}")]
    Version {
        /// Of the other side.
        theirs: u32,
    },
    /// A message of another length.
    #[error("a message of {len} bytes in place of {expected}")]
    Length {
        /// Bytes received.
        len: usize,
        /// Bytes due.
        expected: usize,
    },
    /// A message that has no meaning.
    #[error("message {kind} about page {page}")]
    Kind {
        /// What it is said to be.
        kind: u32,
        /// The page it is said to be about.
        page: u32,
    },
    /// A page that is not of the arena.
    #[error("a touch of page {page} of an arena of {max_entries}")]
    Page {
        /// As received.
        page: u32,
        /// Pages of the arena.
        max_entries: u32,
    },
    /// More or fewer descriptors than are due.
    #[error("a message with {count} descriptors in place of {expected}")]
    Files {
        /// Received.
        count: usize,
        /// Due.
        expected: usize,
    },
    /// Answers that are not read pile up.
    #[error("the other side does not read its answers")]
    Unread,
}

/// The arena's geometry, as the owner gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) map_flags: u32,
    pub(super) user_start: UserAddr,
    pub(super) byte_size: u64,
}

impl Hello {
    pub(super) fn encode(self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        put(&mut bytes, 12, self.map_flags.to_le_bytes());
        put(&mut bytes, 16, self.user_start.raw().to_le_bytes());
        put(&mut bytes, 24, self.byte_size.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self, WireError> {
        check_head(bytes)?;
        Ok(Self {
            map_flags: u32::from_le_bytes(take(bytes, 12)),
            user_start: UserAddr::new(u64::from_le_bytes(take(bytes, 16))),
            byte_size: u64::from_le_bytes(take(bytes, 24)),
        })
    }
}

/// Whether the peer has its view now: 0, or an error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Welcome {
    pub(super) errno: i32,
}

impl Welcome {
    pub(super) fn encode(self) -> [u8; WELCOME_LEN] {
        let mut bytes = [0; WELCOME_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        put(&mut bytes, 12, self.errno.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; WELCOME_LEN]) -> Result<Self, WireError> {
        check_head(bytes)?;
        Ok(Self {
            errno: i32::from_le_bytes(take(bytes, 12)),
        })
    }
}

fn check_head<const N: usize>(bytes: &[u8; N]) -> Result<(), WireError> {
    if take(bytes, 0) != MAGIC {
        return Err(WireError::Magic);
    }
    let theirs = u32::from_le_bytes(take(bytes, 8));
    if theirs != VERSION {
        return Err(WireError::Version { theirs });
    }
    Ok(())
}

/// A peer's touch of a page that the file does not have, counted from `user_vm_start`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Touch {
    pub(super) page: u32,
}

impl Touch {
    pub(super) fn encode(self) -> [u8; PACKET_LEN] {
        packet(TOUCH, self.page)
    }

    /// The message in the first `len` bytes, from a peer of an arena of `max_entries` pages.
    pub(super) fn decode(
        bytes: [u8; PACKET_LEN],
        len: usize,
        max_entries: u32,
    ) -> Result<Self, WireError> {
        match unpack(bytes, len)? {
            (TOUCH, page) if page < max_entries => Ok(Self { page }),
            (TOUCH, page) => Err(WireError::Page { page, max_entries }),
            (kind, page) => Err(WireError::Kind { kind, page }),
        }
    }
}

/// What the owner makes of a touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The page is in the file.
    Ready,
    /// The owner was busy for too long: touch it again.
    Again,
    /// The touch is a SIGSEGV.
    Segv,
}

impl Answer {
    pub(super) fn encode(self, to: Touch) -> [u8; PACKET_LEN] {
        let kind = match self {
            Self::Ready => READY,
            Self::Again => AGAIN,
            Self::Segv => SEGV,
        };
        packet(kind, to.page)
    }

    /// The message in the first `len` bytes, if it answers this touch.
    pub(super) fn decode(
        bytes: [u8; PACKET_LEN],
        len: usize,
        to: Touch,
    ) -> Result<Self, WireError> {
        match unpack(bytes, len)? {
            (READY, page) if page == to.page => Ok(Self::Ready),
            (AGAIN, page) if page == to.page => Ok(Self::Again),
            (SEGV, page) if page == to.page => Ok(Self::Segv),
            (kind, page) => Err(WireError::Kind { kind, page }),
        }
    }
}

fn packet(kind: u32, page: u32) -> [u8; PACKET_LEN] {
    let mut bytes = [0; PACKET_LEN];
    put(&mut bytes, 0, kind.to_le_bytes());
    put(&mut bytes, 4, page.to_le_bytes());
    bytes
}

fn unpack(bytes: [u8; PACKET_LEN], len: usize) -> Result<(u32, u32), WireError> {
    if len != PACKET_LEN {
        return Err(WireError::Length {
            len,
            expected: PACKET_LEN,
        });
    }
    let word = |at| u32::from_le_bytes(take(&bytes, at));
    Ok((word(0), word(4)))
}

/// All callers' places are constants inside the message.
fn put<const N: usize, const M: usize>(bytes: &mut [u8; N], at: usize, field: [u8; M]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(field) {
        *to = from;
    }
}

fn take<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut field = [0; M];
    for (to, from) in field.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let hello = Hello {
            map_flags: 0x2_0400,
            user_start: UserAddr::new(0x1000_0000_0000),
            byte_size: 0x1_0000_0000,
        };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        let welcome = Welcome { errno: 17 };
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        let touch = Touch { page: 0xf_ffff };
        assert_eq!(
            Touch::decode(touch.encode(), PACKET_LEN, 1 << 20),
            Ok(touch)
        );
        for answer in [Answer::Ready, Answer::Again, Answer::Segv] {
            let bytes = answer.encode(touch);
            assert_eq!(Answer::decode(bytes, PACKET_LEN, touch), Ok(answer));
        }
    }

    #[test]
    fn other_bytes_are_an_error() {
        let hello = Hello {
            map_flags: 0,
            user_start: UserAddr::new(0),
            byte_size: 0,
        };
        let mut bytes = hello.encode();
        bytes[8] = 9;
        assert_eq!(Hello::decode(&bytes), Err(WireError::Version { theirs: 9 }));
        bytes[0] = 0;
        assert_eq!(Hello::decode(&bytes), Err(WireError::Magic));
        assert_eq!(Welcome::decode(&[0xff; 16]), Err(WireError::Magic));
        let touch = Touch { page: 7 };
        let page = Touch::decode(touch.encode(), PACKET_LEN, 7);
        let max_entries = 7;
        assert_eq!(
            page,
            Err(WireError::Page {
                page: 7,
                max_entries
            })
        );
        for len in [0, 1, 7, 9, usize::MAX] {
            let expected = PACKET_LEN;
            let wrong = Err(WireError::Length { len, expected });
            assert_eq!(Touch::decode(touch.encode(), len, 8), wrong);
        }
        let kind = Touch::decode([0; 8], PACKET_LEN, 8);
        assert_eq!(kind, Err(WireError::Kind { kind: 0, page: 0 }));
        let other = Answer::Ready.encode(Touch { page: 8 });
        assert_eq!(
            Answer::decode(other, PACKET_LEN, touch),
            Err(WireError::Kind {
                kind: READY,
                page: 8
            })
        );
    }
}
