//! Ring buffers: records a program writes and the host drains.
//!
//! The data area is guest memory, so a program writes records in place; positions and
//! record headers stay on the host's side, where a program cannot falsify them. A record
//! that does not fit before the end of the area starts at its beginning, so that every
//! record is contiguous (the kernel maps the area twice for that).

use std::collections::{BTreeMap, VecDeque};

use harena_abi::{Errno, KernAddr};

use crate::mem::GuestMem;

/// Bytes of a record's header in the kernel; they count towards the capacity.
pub(super) const BPF_RINGBUF_HDR_SZ: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reserved,
    Submitted,
    Discarded,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Offset of the data in the area.
    offset: u64,
    len: u64,
    /// Bytes of capacity it holds: header, padding, and what was skipped at the end.
    taken: u64,
    state: State,
}

/// One ring buffer.
#[derive(Debug)]
pub(crate) struct RingBuf {
    data: KernAddr,
    capacity: u64,
    used: u64,
    head: u64,
    records: VecDeque<Record>,
    /// Records that were drained before `records`.
    drained: usize,
    /// Numbers of the reserved records, counted from the first ever, by offset.
    reserved: BTreeMap<u64, usize>,
}

impl RingBuf {
    pub(super) fn new(data: KernAddr, capacity: u64) -> Self {
        Self {
            data,
            capacity,
            used: 0,
            head: 0,
            records: VecDeque::new(),
            drained: 0,
            reserved: BTreeMap::new(),
        }
    }

    /// `bpf_ringbuf_reserve`: address of `len` bytes, or `None` if they do not fit.
    pub(crate) fn reserve(&mut self, len: u64) -> Option<KernAddr> {
        let need = len
            .checked_next_multiple_of(8)?
            .checked_add(BPF_RINGBUF_HDR_SZ)?;
        if need > self.capacity {
            return None;
        }
        let to_end = self.capacity - self.head;
        let (start, taken) = if need <= to_end {
            (self.head, need)
        } else {
            (0, need + to_end)
        };
        if taken > self.capacity - self.used {
            return None;
        }
        self.used += taken;
        self.head = (start + need) % self.capacity;
        let offset = start + BPF_RINGBUF_HDR_SZ;
        let number = self.drained + self.records.len();
        self.reserved.insert(offset, number);
        self.records.push_back(Record {
            offset,
            len,
            taken,
            state: State::Reserved,
        });
        self.data.checked_add(offset)
    }

    /// `bpf_ringbuf_submit` or `bpf_ringbuf_discard` of the record at `addr`.
    pub(crate) fn commit(&mut self, addr: KernAddr, commit: Commit) -> Result<(), Errno> {
        let offset = addr.offset_from(self.data).ok_or(Errno::EINVAL)?;
        let number = self.reserved.remove(&offset).ok_or(Errno::EINVAL)?;
        let record = &mut self.records[number - self.drained];
        assert_eq!(record.offset, offset, "a reserved record");
        record.state = match commit {
            Commit::Submit => State::Submitted,
            Commit::Discard => State::Discarded,
        };
        Ok(())
    }

    /// `bpf_ringbuf_query`.
    pub(crate) fn query(&self, flags: u64) -> u64 {
        match flags {
            0 => self.used,
            1 => self.capacity,
            _ => 0,
        }
    }

    /// Takes the records that are complete, in order of reservation.
    pub(crate) fn drain(&mut self, mem: &GuestMem) -> Vec<Vec<u8>> {
        let mut drained = Vec::new();
        while let Some(record) = self.records.front().copied() {
            if record.state == State::Reserved {
                break;
            }
            self.records.pop_front();
            self.drained += 1;
            self.used -= record.taken;
            if record.state == State::Submitted {
                let at = self.data.checked_add(record.offset);
                let mut bytes = vec![0; usize::try_from(record.len).unwrap_or(0)];
                let read = at.map(|at| mem.read_bytes(at, &mut bytes));
                assert_eq!(read, Some(Ok(())), "the ring is backed");
                drained.push(bytes);
            }
        }
        drained
    }
}

/// How a record ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Commit {
    Submit,
    Discard,
}
