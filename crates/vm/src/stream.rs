//! Program streams: what a program says on stdout (1) and stderr (2).
//!
//! Messages keep the order they were committed in, and the lines of one message stay
//! together. Capacity is the kernel's; what does not fit is counted, not waited for.

use std::collections::VecDeque;

use harena_abi::Errno;

/// Bytes a stream holds before writers get `ENOSPC`.
const STREAM_CAPACITY: usize = 100_000;

/// Which stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StreamId {
    /// `BPF_STDOUT`.
    Stdout,
    /// `BPF_STDERR`.
    Stderr,
}

impl StreamId {
    /// The stream with this number; another is `ENOENT`.
    pub const fn from_raw(raw: u32) -> Result<Self, Errno> {
        match raw {
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            _ => Err(Errno::ENOENT),
        }
    }
}

/// One stream of one program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    messages: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    /// A message did not fit, and nothing was drained since.
    overflowed: bool,
}

impl Stream {
    /// Adds one message, whole or not at all.
    pub(crate) fn push(&mut self, message: String) -> Result<(), Errno> {
        if self.bytes + message.len() > STREAM_CAPACITY {
            self.drop_one();
            return Err(Errno::ENOSPC);
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        Ok(())
    }

    /// Counts a message that was not even written.
    pub(crate) fn drop_one(&mut self) {
        self.dropped += 1;
        self.overflowed = true;
    }

    /// Whether a message did not fit since the stream was last drained.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Takes all text.
    pub(crate) fn drain(&mut self) -> String {
        self.bytes = 0;
        self.overflowed = false;
        self.messages.drain(..).collect()
    }

    /// Messages that did not fit.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_stream_refuses_and_counts_until_it_is_drained() {
        let mut stream = Stream::default();
        let line = "x".repeat(1_000);
        for _ in 0..100 {
            stream.push(line.clone()).unwrap();
        }
        assert_eq!(stream.push("y".to_owned()), Err(Errno::ENOSPC));
        assert_eq!(stream.dropped(), 1);
        assert_eq!(stream.drain().len(), STREAM_CAPACITY);
        stream.push("y".to_owned()).unwrap();
        assert_eq!(stream.drain(), "y");
        assert_eq!(stream.drain(), "");
    }
}
