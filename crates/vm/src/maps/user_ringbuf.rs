//! User ring buffers: samples that the host submits and a program drains.
//!
//! Samples lie on the host's side until they are drained, each in guest memory of its own while
//! the program's callback looks at it; the capacity is counted as if they lay in the ring. Mirrors
//! the second half of `kernel/bpf/ringbuf.c`.

use std::collections::VecDeque;

use harena_abi::Errno;

use super::ringbuf::BPF_RINGBUF_HDR_SZ;

/// One user ring buffer.
#[derive(Debug)]
pub(crate) struct UserRing {
    capacity: u64,
    used: u64,
    samples: VecDeque<Vec<u8>>,
    /// A program drains it.
    busy: bool,
}

impl UserRing {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            used: 0,
            samples: VecDeque::new(),
            busy: false,
        }
    }

    fn size(sample: &[u8]) -> u64 {
        (sample.len() as u64 + BPF_RINGBUF_HDR_SZ).next_multiple_of(8)
    }

    /// Adds a sample, as `user_ring_buffer__reserve()` and `user_ring_buffer__submit()` do.
    pub(crate) fn submit(&mut self, sample: &[u8]) -> Result<(), Errno> {
        let size = Self::size(sample);
        if size > self.capacity {
            return Err(Errno::E2BIG);
        }
        if size > self.capacity - self.used {
            return Err(Errno::ENOSPC);
        }
        self.used += size;
        self.samples.push_back(sample.to_vec());
        Ok(())
    }

    /// Keeps others from draining it; `EBUSY` if somebody does.
    pub(crate) fn begin(&mut self) -> Result<(), Errno> {
        if self.busy {
            return Err(Errno::EBUSY);
        }
        self.busy = true;
        Ok(())
    }

    pub(crate) fn end(&mut self) {
        assert!(self.busy, "it was begun");
        self.busy = false;
    }

    /// The oldest sample; it takes room until it is released.
    pub(crate) fn peek(&self) -> Option<&[u8]> {
        self.samples.front().map(Vec::as_slice)
    }

    pub(crate) fn release(&mut self) {
        let gone = self.samples.pop_front().expect("it was looked at");
        self.used -= Self::size(&gone);
    }
}
