//! Direct access: pointers into an arena against plain ones, and a cmask read in place.
//!
//! Subject and peer run the same generic loops, over the same number of words. The peer's
//! words are ordinary memory of this process, in pages of the same size.

use std::hint::black_box;

use harena_abi::ArenaOffset;
use harena_arena::{Arena, ArenaPtr};

use super::bare::Mapping;
use super::common::{PAGE, arena};
use crate::harness::{BenchError, Contender, Numbers, Suite, race};

/// Words that the loops read: 128 KiB, which first-level caches do not hold but TLBs do.
const WORDS: u32 = 16 * 1024;
const PAGES: u32 = 32;
const _: () = assert!(WORDS as usize * 8 == PAGES as usize * PAGE);

/// A host dereference costs at most this many plain ones.
const DEREFERENCE_MAX: f64 = 1.03;
/// In place takes at most this part of copying by checked word reads.
const IN_PLACE_MAX: f64 = 0.2;

pub(super) fn run(suite: &mut Suite) -> Result<(), BenchError> {
    let arena = arena(PAGES)?;
    let at = arena
        .alloc_pages(None, PAGES, 0)
        .map_err(BenchError::setup("allocating pages"))?;
    let ours = ArenaWords(arena.ptr(ArenaOffset::of(at)));
    let memory = Mapping::anonymous(PAGES as usize * PAGE)?;
    let plain = PlainWords(memory.base().cast());
    let mut numbers = Numbers::new(3);
    for index in 0..WORDS {
        let value = numbers.next_u64();
        ours.0.index(index).write(value);
        plain.write(index, value);
    }
    for (case, loops) in [
        ("access: read, sequential", Loop::Sequential),
        ("access: read, random", Loop::Random),
        ("access: read, each names the next", Loop::Chase),
    ] {
        if suite.wants(case) {
            dereference(suite, case, loops, (ours, plain))?;
        }
    }
    cmask(suite, &arena, 64)?;
    cmask(suite, &arena, 1024)?;
    cmask(suite, &arena, 8192)
}

#[derive(Clone, Copy)]
enum Loop {
    Sequential,
    Random,
    Chase,
}

/// Words that can be read.
trait Words: Copy {
    fn word(self, index: u32) -> u64;
}

#[derive(Clone, Copy)]
struct ArenaWords<'a>(ArenaPtr<'a, u64>);

impl Words for ArenaWords<'_> {
    #[inline(always)]
    fn word(self, index: u32) -> u64 {
        self.0.index(index).read()
    }
}

#[derive(Clone, Copy)]
struct PlainWords(*mut u64);

impl PlainWords {
    fn write(self, index: u32, value: u64) {
        let word = self.0.wrapping_add(index as usize);
        // SAFETY: the loops stay below `WORDS`, the length of the mapping, which outlives them.
        unsafe { word.write_volatile(value) }
    }
}

impl Words for PlainWords {
    #[inline(always)]
    fn word(self, index: u32) -> u64 {
        let word = self.0.wrapping_add(index as usize);
        // SAFETY: as in `write`.
        unsafe { word.read_volatile() }
    }
}

fn dereference(
    suite: &mut Suite,
    case: &str,
    loops: Loop,
    (ours, plain): (ArenaWords<'_>, PlainWords),
) -> Result<(), BenchError> {
    let plan = suite.plan(1 << 20, 1 << 14);
    let mut contenders = [
        Contender::timed("arena pointer", |ops| read(loops, black_box(ours), ops)),
        Contender::timed("plain pointer", |ops| read(loops, black_box(plain), ops)),
    ];
    let medians = race(case, plan, &mut contenders)?;
    suite.first_against_others(case, &medians, |_| Some(DEREFERENCE_MAX));
    Ok(())
}

fn read<W: Words>(loops: Loop, words: W, ops: u64) -> u64 {
    match loops {
        Loop::Sequential => sequential(words, ops),
        Loop::Random => random(words, ops),
        Loop::Chase => chase(words, ops),
    }
}

#[inline(never)]
fn sequential<W: Words>(words: W, ops: u64) -> u64 {
    let mut sum = 0u64;
    for _ in 0..ops / u64::from(WORDS) {
        for index in 0..WORDS {
            sum = sum.wrapping_add(words.word(index));
        }
    }
    sum
}

#[inline(never)]
fn random<W: Words>(words: W, ops: u64) -> u64 {
    let (mut sum, mut state) = (0u64, 1u32);
    for _ in 0..ops {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        sum = sum.wrapping_add(words.word((state >> 16) % WORDS));
    }
    sum
}

#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "any low bits will do")]
fn chase<W: Words>(words: W, ops: u64) -> u64 {
    let mut at = 0u64;
    for step in 0..ops {
        // The step keeps it out of a short cycle.
        at = words.word((at as u32).wrapping_add(step as u32) % WORDS);
    }
    at
}

/// Counts the bits of a mask of `nr_cids` cids: in place, and in the ways it was done before.
fn cmask(suite: &mut Suite, arena: &Arena, nr_cids: u32) -> Result<(), BenchError> {
    let case = format!("access: cmask of {nr_cids} cids");
    if !suite.wants(&case) {
        return Ok(());
    }
    let words = nr_cids / 64;
    let mask = arena.ptr::<u64>(ArenaOffset::new(0));
    let window = u64::from(arena.spec().max_entries) << 12;
    let plan = suite.plan((1 << 18) / u64::from(words), 4);
    let mut buffer = vec![0u64; words as usize];
    let mut contenders = [
        Contender::timed("in place", |ops| {
            each(ops, || bits_in_place(black_box(mask), words))
        }),
        Contender::timed("copied by checked word reads", |ops| {
            each(ops, || bits_of_copy(arena, black_box(mask), &mut buffer))
        }),
        Contender::timed("in place, each word's bounds checked", |ops| {
            each(ops, || {
                bits_checked(black_box(mask), words, black_box(window))
            })
        }),
    ];
    let medians = race(&case, plan, &mut contenders)?;
    suite.first_against_others(&case, &medians, |peer| {
        peer.name.starts_with("copied").then_some(IN_PLACE_MAX)
    });
    Ok(())
}

fn each(ops: u64, mut work: impl FnMut() -> u64) -> u64 {
    (0..ops).fold(0, |sum, _| sum + work())
}

#[inline(never)]
fn bits_in_place(mask: ArenaPtr<'_, u64>, words: u32) -> u64 {
    (0..words).fold(0, |sum, word| {
        sum + u64::from(mask.index(word).read().count_ones())
    })
}

/// What programs did when they could not read the kernel's memory: a probe read for each word.
#[inline(never)]
fn bits_of_copy(arena: &Arena, mask: ArenaPtr<'_, u64>, buffer: &mut [u64]) -> u64 {
    let mut at = mask.offset();
    for word in buffer.iter_mut() {
        let mut bytes = [0; 8];
        if arena.copy_out(at, &mut bytes).is_ok() {
            *word = u64::from_ne_bytes(bytes);
        }
        at = at.wrapping_add(8);
    }
    let buffer = black_box(buffer);
    buffer
        .iter()
        .fold(0, |sum, word| sum + u64::from(word.count_ones()))
}

#[inline(never)]
fn bits_checked(mask: ArenaPtr<'_, u64>, words: u32, window: u64) -> u64 {
    (0..words).fold(0, |sum, word| {
        let place = mask.index(word);
        let inside = u64::from(place.offset().raw()) + 8 <= window;
        let bits = if inside { place.read().count_ones() } else { 0 };
        sum + u64::from(bits)
    })
}
