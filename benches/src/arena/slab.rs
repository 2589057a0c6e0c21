//! Small objects: the slab allocator against allocators that people use, although its free
//! lists lie in memory that programs can scribble over.
//!
//! | pattern | one operation |
//! |---|---|
//! | pair | alloc and free |
//! | FIFO | free the oldest of 1,000 objects, alloc another |
//! | churn | free a random one of 1,000 objects, alloc another |
//!
//! Each object's first 8 bytes are written when it is allocated and read when it is freed; the
//! sum of what was read is the check value, so two objects in one place would be noticed.
//! Every turn runs in new threads, each with a heap of its own where the allocator has such:
//! objects are freed by the thread that allocated them.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;

use super::heaps::{Glibc, Heap, Heaps};
#[cfg(feature = "peers")]
use super::heaps::{Jemalloc, Mimalloc};
use crate::harness::{BenchError, Contender, Median, Numbers, Suite, Turn, race, timed};

/// Objects that are live in the patterns that keep some.
const LIVE: usize = 1000;
const SIZES: [u32; 7] = [16, 32, 64, 128, 256, 512, 1024];
const MIXED_MIN: u32 = 16;
const MIXED_MAX: u32 = 1024;

/// At most as long as the better of the two fastest peers.
const PAIR_MAX: f64 = 1.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pattern {
    Pair,
    Fifo,
    Churn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    Fixed(u32),
    Mixed,
}

/// What is done, and by how many threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    pattern: Pattern,
    size: Size,
    threads: u32,
}

impl Load {
    fn case(&self) -> String {
        let pattern = match self.pattern {
            Pattern::Pair => "pair",
            Pattern::Fifo => "FIFO of 1000",
            Pattern::Churn => "churn of 1000",
        };
        let size = match self.size {
            Size::Fixed(size) => format!("{size} bytes"),
            Size::Mixed => format!("{MIXED_MIN} to {MIXED_MAX} bytes"),
        };
        let threads = self.threads;
        let plural = if threads == 1 { "" } else { "s" };
        format!("slab: {pattern}, {size}, {threads} thread{plural}")
    }
}

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let heaps = Heaps::new()?;
    for threads in [1, 2] {
        for pattern in [Pattern::Pair, Pattern::Fifo, Pattern::Churn] {
            let fixed = SIZES.map(Size::Fixed);
            let mixed = (pattern == Pattern::Churn).then_some(Size::Mixed);
            for size in fixed.into_iter().chain(mixed) {
                let load = Load {
                    pattern,
                    size,
                    threads,
                };
                compare(suite, &heaps, load)?;
            }
        }
    }
    Ok(())
}

fn compare(suite: &mut Suite, heaps: &Heaps, load: Load) -> Result<(), BenchError> {
    let case = load.case();
    if !suite.wants(&case) {
        return Ok(());
    }
    let mut contenders = contenders(heaps, load);
    let medians = race(&case, suite.plan(50_000, 2_000), &mut contenders)?;
    let fastest = ["mimalloc", "jemalloc"];
    let best = medians
        .iter()
        .filter(|peer| fastest.contains(&peer.name.as_str()))
        .min_by(|a, b| a.ns.total_cmp(&b.ns))
        .map(|peer| peer.name.clone());
    suite.first_against_others(&case, &medians, |peer: &Median| {
        (best.as_ref() == Some(&peer.name)).then_some(PAIR_MAX)
    });
    Ok(())
}

fn contenders(heaps: &Heaps, load: Load) -> Vec<Contender<'_>> {
    let contenders = [
        contender("harena", load, |thread| heaps.ours(thread)),
        contender("glibc", load, |_| Ok(Glibc)),
    ];
    #[cfg(feature = "peers")]
    let contenders = contenders.into_iter().chain([
        contender("mimalloc", load, |_| Ok(Mimalloc)),
        contender("jemalloc", load, |_| Ok(Jemalloc)),
        contender("talc", load, |_| Ok(heaps.talc())),
        contender("buddy", load, |_| Ok(heaps.buddy())),
    ]);
    contenders.into_iter().collect()
}

/// A contender of which each thread makes its heap by `make`, for its number.
fn contender<'a, H: Heap>(
    name: &str,
    load: Load,
    make: impl Fn(u32) -> Result<H, BenchError> + Sync + 'a,
) -> Contender<'a> {
    Contender::new(name, move |ops| {
        let barrier = Barrier::new(load.threads as usize);
        let work = |thread| {
            let worker = make(thread).map(|heap| Worker::new(heap, load));
            let worker = worker.map(Worker::filled);
            // One that could not be made must not keep the others waiting.
            barrier.wait();
            worker.map(|worker| worker.turn(ops))
        };
        slowest(load.threads, work)
    })
}

/// All threads begin together; the slowest one counts.
fn slowest(
    threads: u32,
    work: impl Fn(u32) -> Result<Turn, BenchError> + Sync,
) -> Result<Turn, BenchError> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        threads
            .into_iter()
            .try_fold(Turn::default(), |sum, thread| {
                let turn = thread.join().expect("a worker does not panic")?;
                Ok(Turn {
                    elapsed: sum.elapsed.max(turn.elapsed),
                    check: sum.check.wrapping_add(turn.check),
                })
            })
    })
}

/// One thread's objects.
struct Worker<H: Heap> {
    heap: H,
    load: Load,
    live: Vec<(H::Place, u32)>,
    numbers: Numbers,
    allocated: u64,
    sum: u64,
}

impl<H: Heap> Worker<H> {
    fn new(heap: H, load: Load) -> Self {
        Self {
            heap,
            load,
            live: Vec::with_capacity(LIVE),
            numbers: Numbers::new(9),
            allocated: 0,
            sum: 0,
        }
    }

    fn filled(mut self) -> Self {
        for _ in 0..LIVE {
            let object = self.alloc();
            self.live.push(object);
        }
        self
    }

    fn turn(mut self, ops: u64) -> Turn {
        let turn = timed(|| {
            match (self.load.pattern, self.load.size) {
                (Pattern::Pair, _) => self.pair(ops),
                (Pattern::Fifo, _) => self.fifo(ops),
                (Pattern::Churn, _) => self.churn(ops),
            }
            self.sum
        });
        while let Some(object) = self.live.pop() {
            self.free(object);
        }
        Turn {
            check: self.sum,
            ..turn
        }
    }

    #[inline(never)]
    fn pair(&mut self, ops: u64) {
        for _ in 0..ops {
            let object = self.alloc();
            self.free(black_box(object));
        }
    }

    #[inline(never)]
    fn fifo(&mut self, ops: u64) {
        let mut oldest = 0;
        for _ in 0..ops {
            self.free(self.live[oldest]);
            self.live[oldest] = self.alloc();
            oldest = if oldest + 1 == LIVE { 0 } else { oldest + 1 };
        }
    }

    #[inline(never)]
    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    fn churn(&mut self, ops: u64) {
        for _ in 0..ops {
            let slot = self.numbers.below(LIVE as u32) as usize;
            self.free(self.live[slot]);
            self.live[slot] = self.alloc();
        }
    }

    #[inline(always)]
    fn alloc(&mut self) -> (H::Place, u32) {
        let size = match self.load.size {
            Size::Fixed(size) => size,
            Size::Mixed => MIXED_MIN + self.numbers.below(MIXED_MAX - MIXED_MIN + 1),
        };
        let place = self.heap.alloc(size);
        self.heap.write(place, self.allocated);
        self.allocated += 1;
        (place, size)
    }

    #[inline(always)]
    fn free(&mut self, (place, size): (H::Place, u32)) {
        self.sum = self.sum.wrapping_add(self.heap.read(place));
        self.heap.free(place, size);
    }
}
