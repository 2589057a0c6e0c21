//! What will happen: a queue of events in order of `(time, seq)`.
//!
//! `seq` counts pushes, so that events of one time keep the order in which they were
//! asked for. An event that must wait keeps its `seq`: when its CPU is free again it comes
//! before all that was asked for later, so that a CPU with ever more to do still gets to each.
//!
//! There is no removal: an event carries what its receiver needs to see that
//! it is stale (a generation number), and is then ignored. Timers of the scheduler are the
//! exception: a program may arm one as often as it likes, so they lie in a list of their own,
//! from which the overtaken are taken out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

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
    OpsTimer { key: u64, cpu: Cpu },
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
    timers: BTreeMap<Slot, Pending>,
    pushed: u64,
}

/// The place of an event in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Slot {
    pub(crate) time: SimTime,
    seq: u64,
}

impl Slot {
    /// The place of the same event at another time.
    pub(crate) const fn at(self, time: SimTime) -> Self {
        Self { time, ..self }
    }
}

impl Queue {
    pub(crate) fn push(&mut self, time: SimTime, pending: Pending) {
        let slot = self.next_slot(time);
        self.put(slot, pending);
    }

    /// Puts an event in its place. Timers must go where they can be taken out again.
    pub(crate) fn put(&mut self, slot: Slot, pending: Pending) {
        if let Pending::OpsTimer { .. } = pending {
            self.timers.insert(slot, pending);
        } else {
            let Slot { time, seq } = slot;
            self.heap.push(Reverse(Entry { time, seq, pending }));
        }
    }

    /// Adds an event that can be taken out again.
    pub(crate) fn push_timer(&mut self, time: SimTime, pending: Pending) -> Slot {
        let slot = self.next_slot(time);
        self.put(slot, pending);
        slot
    }

    /// Takes out what `push_timer` added, if it is still there.
    pub(crate) fn remove_timer(&mut self, slot: Slot) {
        self.timers.remove(&slot);
    }

    fn next_slot(&mut self, time: SimTime) -> Slot {
        let seq = self.pushed;
        self.pushed += 1;
        Slot { time, seq }
    }

    pub(crate) fn pop(&mut self) -> Option<(Slot, Pending)> {
        let heap = self.first_of_heap();
        if let Some(timer) = self.timers.first_entry()
            && heap.is_none_or(|heap| *timer.key() < heap)
        {
            return Some((*timer.key(), timer.remove()));
        }
        let Reverse(Entry { time, seq, pending }) = self.heap.pop()?;
        Some((Slot { time, seq }, pending))
    }

    pub(crate) fn next_time(&self) -> Option<SimTime> {
        let heap = self.first_of_heap();
        let timer = self.timers.first_key_value().map(|(slot, _)| *slot);
        heap.into_iter().chain(timer).min().map(|slot| slot.time)
    }

    fn first_of_heap(&self) -> Option<Slot> {
        let Reverse(Entry { time, seq, .. }) = self.heap.peek()?;
        let (time, seq) = (*time, *seq);
        Some(Slot { time, seq })
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

    #[test]
    fn timers_stand_in_the_same_order_and_can_be_taken_out() {
        let mut queue = Queue::default();
        let timer = |key| Pending::OpsTimer {
            key,
            cpu: Cpu::new(0),
        };
        let wake = Pending::Wake { task: Tid::new(0) };
        let at = SimTime::from_ns;
        let gone = queue.push_timer(at(1), timer(1));
        queue.push_timer(at(5), timer(2));
        queue.push(at(5), wake);
        queue.push_timer(at(5), timer(3));
        queue.remove_timer(gone);
        assert_eq!(queue.next_time(), Some(at(5)));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, e)| e).collect();
        assert_eq!(order, [timer(2), wake, timer(3)]);
        assert_eq!(queue.next_time(), None);
    }

    #[test]
    fn what_had_to_wait_comes_before_what_was_asked_for_later() {
        let mut queue = Queue::default();
        let event = |n| Pending::Wake { task: Tid::new(n) };
        let later = SimTime::from_ns(5);
        queue.push(SimTime::from_ns(1), event(0));
        let (slot, waits) = queue.pop().expect("one was pushed");
        queue.push(later, event(1));
        queue.put(slot.at(later), waits);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, e)| e).collect();
        assert_eq!(order, [0, 1].map(event));
    }
}
