//! Where instructions are counted, and how many at once.
//!
//! A block is counted at its start, before it may find that the budget ends in it. Blocks that
//! certainly follow it are counted there too, if nobody looks at the count on the way:
//!
//! ```text
//!   head ──► maybe ──► join        head counts join
//!      └───────────────▲
//!   goto head, at a loop's end     counts head, and leads behind the place where head counts
//! ```
//!
//! Where less is left than a head counts, it is given back, and the interpreter goes on.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "slots of a program; counts of at most a million"
)]

use harena_bpf::analysis::Arena;
use harena_bpf::code::{Class, Op, OpCode};

use crate::image::Source;

/// Blocks between a head and what it counts, at most.
const BETWEEN_MAX: usize = 64;

/// The counts of a program.
#[derive(Debug)]
pub(super) struct Counts {
    /// What is counted at each slot.
    here: Vec<u32>,
    /// What was counted before for blocks behind the slot's.
    ahead: Vec<u32>,
    /// Whether the jump in a slot leads behind the place where its target counts.
    past: Vec<bool>,
}

/// A block.
#[derive(Clone, Copy, Debug)]
struct Block {
    start: usize,
    /// Its last operation.
    last: usize,
    count: u32,
    /// The first and last slots from which control comes, unless it comes from elsewhere, too.
    from: Option<(usize, usize)>,
}

impl Counts {
    /// Decides where a program counts.
    pub(super) fn new(source: &Source<'_>, lengths: &[u32]) -> Self {
        let blocks = blocks(source, lengths);
        let mut numbers = vec![usize::MAX; source.ops.len()];
        for (number, block) in blocks.iter().enumerate() {
            numbers[block.start] = number;
        }
        let joiner = Joiner {
            source,
            blocks: &blocks,
            numbers: &numbers,
        };
        let mut counts = Self {
            here: vec![0; source.ops.len()],
            ahead: vec![0; source.ops.len()],
            past: vec![false; source.ops.len()],
        };
        let mut is_counted = vec![false; blocks.len()];
        // Changes of what is ahead, by block.
        let mut changes = vec![0i64; blocks.len() + 1];
        let mut ahead = 0i64;
        for head in 0..blocks.len() {
            ahead += changes[head];
            if std::mem::replace(&mut is_counted[head], true) {
                continue;
            }
            let mut chain = vec![head];
            let mut last = head;
            while let Some(join) = joiner.join(last).filter(|join| !is_counted[*join]) {
                is_counted[join] = true;
                chain.push(join);
                last = join;
            }
            let mut behind = 0;
            if let Some(again) = joiner
                .again(last)
                .filter(|again| *again < blocks[head].start)
            {
                counts.past[blocks[last].last] = counts.here[again] != 0;
                behind = counts.here[again];
            }
            for pair in chain.windows(2).rev() {
                let [block, join] = *pair else { continue };
                behind += blocks[join].count;
                changes[block + 1] += i64::from(behind);
                changes[join] -= i64::from(behind);
            }
            let start = blocks[head].start;
            counts.here[start] = blocks[head].count + behind;
            counts.ahead[start] = u32::try_from(ahead).expect("what was counted is given back");
        }
        counts
    }

    /// What is counted at a slot.
    pub(super) fn here(&self, slot: usize) -> u32 {
        self.here[slot]
    }

    /// What was counted already, where a slot counts, for what comes behind.
    pub(super) fn ahead(&self, slot: usize) -> u32 {
        self.ahead[slot]
    }

    /// Whether the jump in a slot leads behind the place where its target counts.
    pub(super) fn is_past(&self, slot: usize) -> bool {
        self.past[slot]
    }
}

fn blocks(source: &Source<'_>, lengths: &[u32]) -> Vec<Block> {
    let ops = source.ops;
    let mut blocks: Vec<Block> = Vec::new();
    for (slot, count) in lengths.iter().enumerate() {
        if *count != 0 {
            blocks.push(Block {
                start: slot,
                last: slot,
                count: *count,
                from: Some((usize::MAX, 0)),
            });
        } else if let Some(block) = blocks.last_mut().filter(|_| ops[slot].code != OpCode::Hole) {
            block.last = slot;
        }
    }
    let number_of = |slot: usize| blocks.binary_search_by_key(&slot, |block| block.start);
    let mut ways = Vec::new();
    for block in &blocks {
        let op = &ops[block.last];
        let target = op.off.cast_unsigned() as usize;
        match op.code.class() {
            Class::Jump => ways.push((block.last, number_of(target))),
            Class::Branch => ways.push((block.last, number_of(target))),
            // Neither counts together with anything.
            Class::CallFunction => ways.push((usize::MAX, number_of(target))),
            _ => {}
        }
        if !matches!(op.code.class(), Class::Jump | Class::Computed) {
            ways.push((block.last, number_of(behind(ops, block.last))));
        }
    }
    let entries = source.entries();
    let entries = entries.iter().map(|start| *start as usize).chain([0]);
    ways.extend(entries.map(|start| (usize::MAX, number_of(start))));
    for (from, to) in ways {
        let Some(block) = to.ok().and_then(|number| blocks.get_mut(number)) else {
            continue;
        };
        block.from = block
            .from
            .filter(|_| from != usize::MAX)
            .map(|(first, last)| (first.min(from), last.max(from)));
    }
    blocks
}

fn behind(ops: &[Op], slot: usize) -> usize {
    slot + if ops[slot].code == OpCode::LdImm64 {
        2
    } else {
        1
    }
}

struct Joiner<'a> {
    source: &'a Source<'a>,
    blocks: &'a [Block],
    /// Of the block that begins at each slot.
    numbers: &'a [usize],
}

impl Joiner<'_> {
    /// The block to which all ways from a block lead that leave what lies between, and which
    /// nothing else leads to.
    fn join(&self, block: usize) -> Option<usize> {
        let start = self.blocks[block].last;
        let mut join = self.forward(block)?;
        let mut furthest = 0;
        let mut at = block + 1;
        while at < join {
            if at - block > BETWEEN_MAX {
                return None;
            }
            join = join.max(self.forward(at)?);
            let (first, last) = self.blocks[at].from?;
            if first < start {
                return None;
            }
            furthest = furthest.max(last);
            at += 1;
        }
        let (first, last) = self.blocks.get(join)?.from?;
        (first >= start && last.max(furthest) < self.blocks[join].start).then_some(join)
    }

    /// The furthest block that a block leads to, if all it leads to lie behind it and nobody looks
    /// at the count.
    fn forward(&self, block: usize) -> Option<usize> {
        let last = self.blocks[block].last;
        let op = &self.source.ops[last];
        let target = op.off.cast_unsigned() as usize;
        match op.code.class() {
            Class::Branch if op.code == OpCode::MayGoto => None,
            Class::Jump | Class::Branch => {
                let target = *self.numbers.get(target)?;
                (target > block && target < self.blocks.len()).then_some(target)
            }
            Class::Call | Class::CallFunction | Class::Exit | Class::End => None,
            Class::Computed => None,
            Class::CastToKernel | Class::CastToUser => {
                let ends = arena(self.source) == Arena::None;
                (!ends).then_some(block + 1)
            }
            Class::AluK | Class::AluX | Class::Move | Class::Set => Some(block + 1),
            Class::Load | Class::Store | Class::Atomic => Some(block + 1),
        }
    }

    /// The slot that a block jumps back to.
    fn again(&self, block: usize) -> Option<usize> {
        let op = &self.source.ops[self.blocks[block].last];
        (op.code.class() == Class::Jump).then_some(op.off.cast_unsigned() as usize)
    }
}

fn arena(source: &Source<'_>) -> Arena {
    source.arena.map_or(Arena::None, |_| Arena::Some)
}
