//! Arrays of perf events, as far as programs write samples to them.
//!
//! Each CPU's entry holds a buffer, as if user space had opened one for every CPU, which is what
//! loaders do; a deleted entry is closed for good. Samples wait for the host in the order in which
//! they were written. Mirrors `__bpf_perf_event_output()` in `kernel/trace/bpf_trace.c`.

use std::collections::{BTreeMap, VecDeque};

use harena_abi::{Cpu, Errno, PAGE_SIZE};

/// Bytes of one CPU's buffer: 64 pages, which is what most loaders ask for.
const BUFFER_SIZE: u64 = 64 * PAGE_SIZE;
/// Bytes of a record beside its data: `struct perf_event_header`, and the data's size.
const RECORD_HEADER: u64 = 8 + 4;

/// What a program wrote with `bpf_perf_event_output`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PerfSample {
    /// The CPU it was written on.
    pub cpu: Cpu,
    /// The data.
    pub data: Vec<u8>,
}

/// How many samples there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerfCounts {
    /// Samples that were written.
    pub written: u64,
    /// Samples that found the buffer full.
    pub lost: u64,
}

/// The buffers of one array.
#[derive(Debug)]
pub(crate) struct PerfEvents {
    max_entries: u32,
    /// Bytes in use, per entry that is open.
    used: BTreeMap<u32, u64>,
    samples: VecDeque<PerfSample>,
    counts: PerfCounts,
}

impl PerfEvents {
    pub(super) fn new(max_entries: u32, nr_cpus: u32) -> Self {
        Self {
            max_entries,
            used: (0..max_entries.min(nr_cpus)).map(|cpu| (cpu, 0)).collect(),
            samples: VecDeque::new(),
            counts: PerfCounts::default(),
        }
    }

    /// `bpf_perf_event_output` on `cpu`.
    pub(crate) fn output(&mut self, flags: u64, cpu: Cpu, data: Vec<u8>) -> Result<(), Errno> {
        let entry = self.entry(flags, cpu)?;
        let used = self.used.get_mut(&entry).ok_or(Errno::ENOENT)?;
        if entry != cpu.raw() {
            return Err(Errno::EOPNOTSUPP);
        }
        let size = (data.len() as u64 + RECORD_HEADER).next_multiple_of(8);
        if size > BUFFER_SIZE - *used {
            self.counts.lost += 1;
            return Err(Errno::ENOSPC);
        }
        *used += size;
        self.counts.written += 1;
        self.samples.push_back(PerfSample { cpu, data });
        Ok(())
    }

    /// The entry that flags name.
    pub(crate) fn entry(&self, flags: u64, cpu: Cpu) -> Result<u32, Errno> {
        /// `BPF_F_CURRENT_CPU`.
        const CURRENT_CPU: u32 = u32::MAX;
        let index = u32::try_from(flags).map_err(|_unknown| Errno::EINVAL)?;
        let index = if index == CURRENT_CPU {
            cpu.raw()
        } else {
            index
        };
        if index < self.max_entries {
            Ok(index)
        } else {
            Err(Errno::E2BIG)
        }
    }

    pub(super) fn close(&mut self, entry: u32) -> Result<(), Errno> {
        if entry >= self.max_entries {
            return Err(Errno::E2BIG);
        }
        self.used.remove(&entry).map(|_| ()).ok_or(Errno::ENOENT)
    }

    pub(crate) fn drain(&mut self) -> Vec<PerfSample> {
        for used in self.used.values_mut() {
            *used = 0;
        }
        std::mem::take(&mut self.samples).into()
    }

    pub(crate) fn counts(&self) -> PerfCounts {
        self.counts
    }
}
