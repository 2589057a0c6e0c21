//! Free space as disjoint ranges: best fit by size, exact by offset.
//!
//! Both trees hold the same ranges. Among free ranges of the best size the one that
//! changed last wins, as in the kernel's `range_tree`: an alloc after a free gets the same
//! pages, and programs see the same addresses there and here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Disjoint, non-adjacent ranges of free units (pages here, granules in the pool).
#[derive(Debug, Default, Clone)]
pub(crate) struct RangeTree {
    by_start: BTreeMap<u32, Free>,
    /// Smallest first; of one size, the latest change first.
    by_size: BTreeMap<(u32, Reverse<u64>), u32>,
    changes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    len: u32,
    change: u64,
}

impl RangeTree {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The start of the best free range of at least `len` units.
    pub(crate) fn find(&self, len: u32) -> Option<u32> {
        assert!(len > 0, "an empty range is nowhere");
        // Within one size the latest change comes first: its `Reverse` is the smallest.
        let smallest = (len, Reverse(u64::MAX));
        self.by_size
            .range(smallest..)
            .next()
            .map(|(_, start)| *start)
    }

    /// Whether every unit of the range is free.
    pub(crate) fn is_set(&self, start: u32, len: u32) -> bool {
        self.holding(start).is_some_and(|(first, free)| {
            u64::from(first) + u64::from(free.len) >= u64::from(start) + u64::from(len)
        })
    }

    /// Whether any unit of the range is free.
    pub(crate) fn intersects(&self, start: u32, len: u32) -> bool {
        let end = start.saturating_add(len);
        self.holding(start).is_some() || self.by_start.range(start..end).next().is_some()
    }

    /// Makes the range free, whatever it was. One that is free already is no change.
    pub(crate) fn set(&mut self, start: u32, len: u32) {
        assert!(len > 0, "an empty range cannot be freed");
        if self.is_set(start, len) {
            return;
        }
        self.clear(start, len);
        let (mut first, mut end) = (start, start + len);
        if let Some((left, free)) = self
            .by_start
            .range(..start)
            .next_back()
            .map(|(s, f)| (*s, *f))
            && left + free.len == start
        {
            self.remove(left);
            first = left;
        }
        if let Some(right) = self.remove(end) {
            end += right.len;
        }
        self.insert(first, end - first);
    }

    /// Takes the range out of the free space, whatever of it was there.
    pub(crate) fn clear(&mut self, start: u32, len: u32) {
        assert!(len > 0, "an empty range cannot be taken");
        let end = start + len;
        if let Some((first, free)) = self.holding(start) {
            self.remove(first);
            if first < start {
                self.insert(first, start - first);
            }
            if first + free.len > end {
                self.insert(end, first + free.len - end);
            }
        }
        while let Some((first, free)) = self
            .by_start
            .range(start..end)
            .next()
            .map(|(s, f)| (*s, *f))
        {
            self.remove(first);
            if first + free.len > end {
                self.insert(end, first + free.len - end);
            }
        }
    }

    fn holding(&self, unit: u32) -> Option<(u32, Free)> {
        let (first, free) = self.by_start.range(..=unit).next_back()?;
        (unit - first < free.len).then_some((*first, *free))
    }

    fn insert(&mut self, start: u32, len: u32) {
        assert!(len > 0, "ranges are not empty");
        self.changes += 1;
        let change = self.changes;
        let clash = self.by_start.insert(start, Free { len, change });
        assert!(clash.is_none(), "ranges are disjoint");
        self.by_size.insert((len, Reverse(change)), start);
    }

    fn remove(&mut self, start: u32) -> Option<Free> {
        let free = self.by_start.remove(&start)?;
        let start_by_size = self.by_size.remove(&(free.len, Reverse(free.change)));
        assert_eq!(
            start_by_size,
            Some(start),
            "both trees hold the same ranges"
        );
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS: u32 = 64;

    #[derive(Debug, Clone, Copy)]
    enum Op {
        Set(u32, u32),
        Clear(u32, u32),
        TakeBest(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = (0..UNITS).prop_flat_map(|start| (Just(start), 1..=UNITS - start));
        prop_oneof![
            range.clone().prop_map(|(start, len)| Op::Set(start, len)),
            range.prop_map(|(start, len)| Op::Clear(start, len)),
            (1..=UNITS).prop_map(Op::TakeBest),
        ]
    }

    /// The runs of free units of a plain bitmap.
    fn runs(model: &[bool]) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (unit, _) in (0u32..).zip(model).filter(|(_, free)| **free) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == unit => *len += 1,
                _ => runs.push((unit, 1)),
            }
        }
        runs
    }

    fn fill(model: &mut [bool], start: u32, len: u32, free: bool) {
        model[start as usize..(start + len) as usize].fill(free);
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_a_bitmap(ops in prop::collection::vec(op(), 0..200)) {
            let mut tree = RangeTree::new();
            let mut model = vec![false; UNITS as usize];
            for op in ops {
                match op {
                    Op::Set(start, len) => {
                        tree.set(start, len);
                        fill(&mut model, start, len, true);
                    }
                    Op::Clear(start, len) => {
                        tree.clear(start, len);
                        fill(&mut model, start, len, false);
                    }
                    Op::TakeBest(len) => {
                        let best = runs(&model).into_iter().map(|run| run.1).filter(|l| *l >= len);
                        let best = best.min();
                        let found = tree.find(len);
                        prop_assert_eq!(found.is_some(), best.is_some());
                        if let (Some(start), Some(best)) = (found, best) {
                            prop_assert!(runs(&model).contains(&(start, best)));
                            tree.clear(start, len);
                            fill(&mut model, start, len, false);
                        }
                    }
                }
                let held: Vec<(u32, u32)> =
                    tree.by_start.iter().map(|(start, free)| (*start, free.len)).collect();
                prop_assert_eq!(&held, &runs(&model));
                prop_assert_eq!(tree.by_size.len(), held.len());
                for start in 0..UNITS {
                    let free = model[start as usize];
                    prop_assert_eq!(tree.is_set(start, 1), free);
                    prop_assert_eq!(tree.intersects(start, 1), free);
                }
            }
        }
    }

    #[test]
    fn of_equal_ranges_the_latest_change_wins() {
        let mut tree = RangeTree::new();
        for start in [0, 10, 20] {
            tree.set(start, 2);
        }
        assert_eq!(tree.find(2), Some(20));
        tree.clear(0, 2);
        tree.set(0, 2);
        assert_eq!(tree.find(1), Some(0));
    }

    #[test]
    fn what_was_free_is_not_changed_by_freeing_it() {
        let mut tree = RangeTree::new();
        for start in [0, 10, 20] {
            tree.set(start, 2);
        }
        tree.set(0, 2);
        tree.set(11, 1);
        assert_eq!(tree.find(2), Some(20));
    }
}
