//! Direct access: pointers into an arena against plain ones, and a cmask read in place.
//!
//! Subject and peer run the same generic loops, over the same number of words. The peer's
//! words are ordinary memory of this process, in pages of the same size.

use std::hint::black_box;

use harena_abi::{ArenaOffset, UserAddr};
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
    let ours = ArenaWords {
        arena: &arena,
        first: arena.ptr(ArenaOffset::of(at)),
    };
    let memory = Mapping::anonymous(PAGES as usize * PAGE)?;
    let plain = PlainWords(memory.base().cast());
    for (case, loops) in [
        ("access: array, in sequence", Loop::Sequence),
        ("access: array, at random", Loop::Random),
        ("access: pointers handed in, at random", Loop::HandedIn),
        ("access: list, each word points to the next", Loop::List),
    ] {
        if suite.wants(case) {
            dereference(suite, case, loops, (ours, plain))?;
        }
    }
    cmask(suite, &arena, 64)?;
    cmask(suite, &arena, 1024)?;
    cmask(suite, &arena, 8192)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loop {
    Sequence,
    Random,
    HandedIn,
    List,
}

/// Words that can be read, by index or by address.
trait Words: Copy {
    /// The address of a word, as it is kept in memory.
    fn address(self, index: u32) -> u64;
    fn write(self, index: u32, value: u64);
    fn at(self, address: u64) -> u64;
    fn word(self, index: u32) -> u64;
}

/// Addresses are the user's, which is what programs keep and hand in.
#[derive(Clone, Copy)]
struct ArenaWords<'a> {
    arena: &'a Arena,
    first: ArenaPtr<'a, u64>,
}

impl Words for ArenaWords<'_> {
    fn address(self, index: u32) -> u64 {
        self.first.index(index).user_addr(self.arena).raw()
    }

    fn write(self, index: u32, value: u64) {
        self.first.index(index).write(value);
    }

    #[inline(always)]
    fn at(self, address: u64) -> u64 {
        let offset = ArenaOffset::of(UserAddr::new(address));
        self.arena.ptr::<u64>(offset).read()
    }

    #[inline(always)]
    fn word(self, index: u32) -> u64 {
        self.first.index(index).read()
    }
}

#[derive(Clone, Copy)]
struct PlainWords(*mut u64);

impl Words for PlainWords {
    fn address(self, index: u32) -> u64 {
        self.0.wrapping_add(index as usize).expose_provenance() as u64
    }

    fn write(self, index: u32, value: u64) {
        let word = self.0.wrapping_add(index as usize);
        // SAFETY: the loops stay below `WORDS`, the length of the mapping, which outlives them.
        unsafe { word.write_volatile(value) }
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an address of this process"
    )]
    fn at(self, address: u64) -> u64 {
        let word = core::ptr::with_exposed_provenance::<u64>(address as usize);
        // SAFETY: all addresses are those that `address` gave, of words of the mapping.
        unsafe { word.read_volatile() }
    }

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
        contender("arena pointer", loops, ours),
        contender("plain pointer", loops, plain),
    ];
    let medians = race(case, plan, &mut contenders)?;
    suite.first_against_others(case, &medians, |_| Some(DEREFERENCE_MAX));
    Ok(())
}

fn contender<'a, W: Words + 'a>(name: &str, loops: Loop, words: W) -> Contender<'a> {
    let order = random_order();
    let addresses: Vec<u64> = order.iter().map(|index| words.address(*index)).collect();
    fill(words, loops, &order);
    Contender::timed(name, move |ops| {
        let rounds = ops / u64::from(WORDS);
        let words = black_box(words);
        match loops {
            Loop::Sequence => sequence(words, rounds),
            Loop::Random => random(words, ops),
            Loop::HandedIn => handed_in(words, &addresses, rounds),
            Loop::List => list(words, words.address(order[0]), ops) - words.address(0),
        }
    })
}

/// Each word once, in a random order that is the same for all.
fn random_order() -> Vec<u32> {
    let mut order: Vec<u32> = (0..WORDS).collect();
    let mut numbers = Numbers::new(5);
    for last in (1..WORDS).rev() {
        order.swap(last as usize, numbers.below(last + 1) as usize);
    }
    order
}

fn fill<W: Words>(words: W, loops: Loop, order: &[u32]) {
    let next = order.iter().cycle().skip(1);
    for (at, next) in order.iter().zip(next) {
        match loops {
            Loop::List => words.write(*at, words.address(*next)),
            Loop::Sequence | Loop::Random | Loop::HandedIn => words.write(*at, u64::from(*next)),
        }
    }
}

#[inline(never)]
fn sequence<W: Words>(words: W, rounds: u64) -> u64 {
    let mut sum = 0u64;
    for _ in 0..rounds {
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
fn handed_in<W: Words>(words: W, addresses: &[u64], rounds: u64) -> u64 {
    let mut sum = 0u64;
    for _ in 0..rounds {
        for address in addresses {
            sum = sum.wrapping_add(words.at(*address));
        }
    }
    sum
}

#[inline(never)]
fn list<W: Words>(words: W, first: u64, ops: u64) -> u64 {
    (0..ops).fold(first, |address, _| words.at(address))
}

/// Finds the first cid of a mask of `nr_cids`, the last one being its only one: in place, and in
/// the ways it was done before.
fn cmask(suite: &mut Suite, arena: &Arena, nr_cids: u32) -> Result<(), BenchError> {
    let case = format!("access: cmask of {nr_cids} cids, find the next");
    if !suite.wants(&case) {
        return Ok(());
    }
    let words = nr_cids / 64;
    let mask = arena.ptr::<u64>(ArenaOffset::new(0));
    (0..words).for_each(|word| mask.index(word).write(0));
    mask.index(words - 1).write(1 << 63);
    let window = u64::from(arena.spec().max_entries) << 12;
    let plan = suite.plan((1 << 19) / u64::from(words), 4);
    let mut buffer = vec![0u64; words as usize];
    let mut contenders = [
        Contender::timed("in place", |ops| {
            each(ops, || next_in_place(black_box(mask), black_box(words)))
        }),
        Contender::timed("copied by checked word reads", |ops| {
            each(ops, || next_in_copy(arena, black_box(mask), &mut buffer))
        }),
        Contender::timed("in place, each word's bounds checked", |ops| {
            each(ops, || {
                next_checked(black_box(mask), black_box(words), black_box(window))
            })
        }),
    ];
    let medians = race(&case, plan, &mut contenders)?;
    suite.first_against_others(&case, &medians, |peer| {
        peer.name.starts_with("copied").then_some(IN_PLACE_MAX)
    });
    Ok(())
}

fn each(ops: u64, mut work: impl FnMut() -> Option<u32>) -> u64 {
    (0..ops).fold(0, |sum, _| sum + work().map_or(0, u64::from))
}

fn first_of(mut words: impl Iterator<Item = u64>) -> Option<u32> {
    let mut base = 0;
    words.find_map(|word| {
        let found = (word != 0).then(|| base + word.trailing_zeros());
        base += 64;
        found
    })
}

#[inline(never)]
fn next_in_place(mask: ArenaPtr<'_, u64>, words: u32) -> Option<u32> {
    first_of((0..words).map(|word| mask.index(word).read()))
}

/// The way without direct access: each word is copied by a read that fails where there is no
/// page, and the copy is searched.
#[inline(never)]
fn next_in_copy(arena: &Arena, mask: ArenaPtr<'_, u64>, buffer: &mut [u64]) -> Option<u32> {
    let mut at = mask.offset();
    for word in buffer.iter_mut() {
        let mut bytes = [0; 8];
        if arena.copy_out(at, &mut bytes).is_ok() {
            *word = u64::from_ne_bytes(bytes);
        }
        at = at.wrapping_add(8);
    }
    first_of(black_box(buffer).iter().copied())
}

#[inline(never)]
fn next_checked(mask: ArenaPtr<'_, u64>, words: u32, window: u64) -> Option<u32> {
    first_of((0..words).map(|word| {
        let place = mask.index(word);
        let inside = u64::from(place.offset().raw()) + 8 <= window;
        if inside { place.read() } else { 0 }
    }))
}
