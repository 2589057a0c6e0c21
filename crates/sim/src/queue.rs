//! What will happen: a queue of events in order of `(time, seq)`.
//!
//! `seq` counts pushes, so that events of one time keep the order in which they were
//! asked for. There is no removal: an event carries what its receiver needs to see that
//! it is stale (a generation number), and is then ignored.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use harena_abi::{Cpu, SimTime, Tid};

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Pending {
    /// The current task of the CPU has nothing left of its step.
    StepDone { cpu: Cpu, generation: u32 },
    /// A reschedule request reaches the CPU.
    Resched { cpu: Cpu, generation: u32 },
    /// The CPU's timer tick.
    Tick { cpu: Cpu },
    /// A sleep or timer of the task ends.
    Wake { task: Tid },
    /// The task, which exists, is to be woken for the first time.
    Start { task: Tid },
    /// An instance of a task definition is to be forked.
    Fork { def: u32, instance: u32 },
    /// An alarm of the core.
    Alarm { generation: u32 },
    /// A timer of the scheduler.
    OpsTimer { key: u64, generation: u32 },
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    time: SimTime,
    seq: u64,
    pending: Pending,
}

/// The queue.
#[derive(Default, Debug)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, time: SimTime, pending: Pending) {
        let seq = self.pushed;
        self.pushed += 1;
        self.heap.push(Reverse(Entry { time, seq, pending }));
    }

    pub(crate) fn pop(&mut self) -> Option<(SimTime, Pending)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.time, entry.pending))
    }

    pub(crate) fn next_time(&self) -> Option<SimTime> {
        self.heap.peek().map(|Reverse(entry)| entry.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut queue = Queue::default();
        let event = |n| Pending::Wake { task: Tid::new(n) };
        for (ns, n) in [(5, 9), (3, 8), (5, 1), (3, 2), (5, 0)] {
            queue.push(SimTime::from_ns(ns), event(n));
        }
        assert_eq!(queue.next_time(), Some(SimTime::from_ns(3)));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, e)| e).collect();
        assert_eq!(order, [8, 2, 9, 1, 0].map(event));
    }
}
