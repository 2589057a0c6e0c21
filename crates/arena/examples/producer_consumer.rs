//! A host and sandboxed code exchange records through a ring in an arena, in place.
//!
//! ```text
//! page 0   tail (the sandbox's) | head (the host's) | 32 descriptors: pointer, length
//! page 1.. 32 records: words, which the host sums where they lie
//! ```
//!
//! The sandboxed side is hostile now and then: it hands in pointers to nowhere, lengths that
//! leave the window, and a tail far ahead. The host neither copies a record nor trusts one: a
//! descriptor is read once, an index is masked, a tail is compared, a length is checked against
//! the window, and empty pages are recovered. Run with
//! `cargo run --package harena-arena --example producer_consumer`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::atomic::Ordering;

use harena_abi::bpf::BPF_F_MMAPABLE;
use harena_abi::{ArenaOffset, Cpu, UserAddr};
use harena_arena::{Arena, ArenaPtr, ArenaSpec, ProgramScope, ProgramTag};

const START: UserAddr = UserAddr::new(0x1000_0000_0000);
const PAGES: u32 = 64;
/// Of which page 0 holds the ring, the next ones a record for each slot, and the rest are empty.
const PAGES_USED: u32 = 1 + SLOTS;
/// A page that stays empty.
const NOWHERE: u64 = 60 * 4096;

const SLOTS: u32 = 32;
const RECORDS: u32 = 20_000;
/// Words of a record at most.
const WORDS_MAX: u32 = 256;
/// A length that no record has: the sandbox has nothing more to say.
const END: u32 = u32::MAX;

/// A descriptor, as the sandboxed code's header declares it.
#[repr(C)]
struct Descriptor {
    /// `__u64 __arena *record`, as stored by a program.
    record: u64,
    words: u32,
}

/// The ring: both sides see the same words.
#[derive(Clone, Copy)]
struct Ring<'a> {
    tail: ArenaPtr<'a, u32>,
    head: ArenaPtr<'a, u32>,
    slots: ArenaPtr<'a, u64>,
}

impl<'a> Ring<'a> {
    fn of(arena: &'a Arena) -> Self {
        let at = |byte| ArenaOffset::of(START).wrapping_add(byte);
        Self {
            tail: arena.ptr(at(0)),
            head: arena.ptr(at(64)),
            slots: arena.ptr(at(128)),
        }
    }

    /// The slot of a position. The mask, not the sandbox's honesty, keeps it in the ring.
    fn slot(self, position: u32) -> ArenaPtr<'a, u64> {
        self.slots.index(position % SLOTS * 2)
    }

    fn words(slot: ArenaPtr<'a, u64>) -> ArenaPtr<'a, u32> {
        slot.field(core::mem::offset_of!(Descriptor, words))
    }
}

/// What the host made of what it was given.
#[derive(Debug, Default)]
struct Consumed {
    records: u32,
    sum: u64,
    refused: u32,
    lies: u32,
}

/// Runs the example; an error is a surprise.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::create(&ArenaSpec {
        max_entries: PAGES,
        map_flags: BPF_F_MMAPABLE,
        map_extra: START.raw(),
        ..ArenaSpec::default()
    })?;
    arena.alloc_pages(Some(START), PAGES_USED, 0)?;
    let (consumed, produced) = std::thread::scope(|threads| {
        let sandbox = threads.spawn(|| produce(&arena));
        (consume(&arena), sandbox.join())
    });
    let (consumed, produced) = (
        consumed?,
        produced.map_err(|_panic| "the sandbox panicked")?,
    );
    println!(
        "{} records of {} words in all, summed in place; the sums agree: {}",
        consumed.records,
        produced.words,
        consumed.sum == produced.sum,
    );
    println!(
        "hostile input: {} lengths refused, a lying tail seen {} times, {} faults recovered",
        consumed.refused,
        consumed.lies,
        arena.faults_recovered(),
    );
    let agree = consumed.sum == produced.sum && consumed.records == RECORDS;
    let survived = consumed.refused == produced.bad_lengths;
    // The page that is nowhere faulted once and is scratch since.
    let faulted = arena.faults_recovered() == 1 && arena.pages_in_use() == PAGES_USED;
    if agree && survived && faulted {
        Ok(())
    } else {
        Err(format!("{consumed:?} differs from {produced:?}").into())
    }
}

fn consume(arena: &Arena) -> Result<Consumed, Box<dyn Error>> {
    let _program = ProgramScope::enter(ProgramTag::new(1), Some(arena), Cpu::new(0))?;
    let ring = Ring::of(arena);
    let mut consumed = Consumed::default();
    let mut head = 0u32;
    loop {
        // Acquire: the descriptor and the record behind it come before the tail.
        let tail = ring
            .tail
            .load(Ordering::Acquire)
            .ok_or("the tail is aligned")?;
        let waiting = tail.wrapping_sub(head);
        if waiting == 0 || waiting > SLOTS {
            consumed.lies += u32::from(waiting > SLOTS);
            std::thread::yield_now();
            continue;
        }
        let slot = ring.slot(head);
        // Read once: the sandbox may change it while we look.
        let (record, words) = (slot.follow::<u64>(), Ring::words(slot).read());
        if words == END {
            return Ok(consumed);
        }
        match record.and_then(|record| record.slice(words).ok()) {
            Some(values) if words <= WORDS_MAX => {
                consumed.sum = values.iter().fold(consumed.sum, u64::wrapping_add);
            }
            Some(_) | None => consumed.refused += 1,
        }
        consumed.records += 1;
        head = head.wrapping_add(1);
        // Release: the record was read before the sandbox may use its memory again.
        ring.head
            .store(head, Ordering::Release)
            .ok_or("the head is aligned")?;
    }
}

/// What the sandbox put in.
#[derive(Debug, Default)]
struct Produced {
    words: u64,
    sum: u64,
    bad_lengths: u32,
}

/// The sandboxed code: it runs on a thread of its own, and knows the arena's memory only.
fn produce(arena: &Arena) -> Produced {
    let ring = Ring::of(arena);
    let mut produced = Produced::default();
    for number in 0..RECORDS {
        wait_for_slot(ring, number);
        let page = ArenaOffset::of(START).wrapping_add((1 + number % SLOTS) * 4096);
        let pointer = arena.user_addr(page).raw();
        match number % 100 {
            // A record that begins in the window and leaves it; a length of billions.
            33 => put(ring, number, u64::from(u32::MAX), 2),
            66 => put(ring, number, pointer, END - 1),
            // A record on a page that nobody allocated, by a pointer with a silly high half. It
            // reads as scratch, which is zero: nobody writes there.
            99 => put(ring, number, 0xdead_beef_0000_0000 | NOWHERE, 16),
            words => {
                let Ok(record) = arena.slice::<u64>(page, words) else {
                    break;
                };
                record.fill(u64::from(number));
                produced.words += u64::from(words);
                produced.sum += u64::from(words) * u64::from(number);
                put(ring, number, pointer, words);
            }
        }
        produced.bad_lengths += u32::from(matches!(number % 100, 33 | 66));
        if number % 1000 == 500 {
            // A tail that lies for a while.
            ring.tail.write(number ^ 0x4000_0000);
            std::thread::yield_now();
            publish(ring, number + 1);
        }
    }
    wait_for_slot(ring, RECORDS);
    put(ring, RECORDS, 0, END);
    produced
}

/// Until the host has read the record that was at this position a round ago.
fn wait_for_slot(ring: Ring<'_>, position: u32) {
    // Acquire: the host's reads of that record are over; pairs with its Release.
    while position.wrapping_sub(ring.head.load(Ordering::Acquire).unwrap_or(0)) >= SLOTS {
        std::thread::yield_now();
    }
}

fn put(ring: Ring<'_>, position: u32, record: u64, words: u32) {
    let slot = ring.slot(position);
    slot.write(record);
    Ring::words(slot).write(words);
    publish(ring, position.wrapping_add(1));
}

fn publish(ring: Ring<'_>, tail: u32) {
    // Release: publishes the record and its descriptor; pairs with the host's Acquire.
    let stored = ring.tail.store(tail, Ordering::Release);
    assert!(stored.is_some(), "the tail is aligned");
}
