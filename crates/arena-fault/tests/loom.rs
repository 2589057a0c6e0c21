//! Goal: the protocols between fault handlers, the allocator and arena destruction hold in
//! every interleaving that the memory model allows.
//!
//! Method: loom. A page's mapping is modelled as a relaxed cell that only the owner of the
//! entry changes: each change loads what is there, asserts that the edge is legal, and stores.
//! A lost exclusion or a missing ordering shows as an illegal edge. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p harena-arena-fault --release --test loom`.
#![cfg(loom)]

use harena_abi::{Cpu, PageIndex, UserAddr};
use harena_arena_fault::{
    Access, ActionWords, ClaimError, Cleared, Entry, EntryState, Filled, Link, PageList, PageRange,
    ProgramTag, Report, ReportRing, SavedAction, Slot,
};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

const HIDDEN: u32 = 0;
const SCRATCH: u32 = 1;
const REAL: u32 = 2;

struct Page {
    entry: Entry,
    mapping: AtomicU32,
}

impl Page {
    fn empty() -> Arc<Self> {
        Arc::new(Self {
            entry: Entry::new(),
            mapping: AtomicU32::new(HIDDEN),
        })
    }

    fn filled(filled: Filled) -> Arc<Self> {
        let page = Self::empty();
        let claim = page.entry.try_set().expect("it is empty");
        let to = if filled == Filled::Page {
            REAL
        } else {
            SCRATCH
        };
        page.change(&[HIDDEN], to);
        claim.settle(filled);
        page
    }

    fn change(&self, legal: &[u32], to: u32) {
        let was = self.mapping.load(Ordering::Relaxed);
        assert!(legal.contains(&was), "mapping {was} became {to}");
        self.mapping.store(to, Ordering::Relaxed);
    }

    /// The handler, one entry; true if the instruction may find the page mapped now.
    fn fault_once(&self) -> bool {
        let claim = match self.entry.state() {
            EntryState::Empty => self.entry.try_set(),
            EntryState::Scratch => self.entry.take_scratch(),
            EntryState::Page => return true,
            EntryState::Busy => return false,
        };
        let Ok(claim) = claim else { return false };
        // Never over a real page.
        self.change(&[HIDDEN, SCRATCH], SCRATCH);
        claim.settle(Filled::Scratch);
        true
    }

    /// The faulting instruction, until it is through.
    fn fault(&self) {
        while !self.fault_once() {
            thread::yield_now();
        }
    }

    /// The allocator; false if a user's touch was first.
    fn alloc(&self) -> bool {
        let lift = || {
            self.change(&[SCRATCH], HIDDEN);
            Ok::<(), ()>(())
        };
        match self.entry.claim_for_page(lift) {
            Ok(claim) => {
                // Break before make: only over nothing.
                self.change(&[HIDDEN], REAL);
                claim.settle(Filled::Page);
                true
            }
            Err(ClaimError::Occupied) => false,
            Err(ClaimError::Lift(())) => unreachable!("lifting succeeds"),
        }
    }

    /// Page free.
    fn free(&self) {
        loop {
            match self.entry.get_and_clear() {
                Cleared::WasEmpty => return,
                Cleared::WasBusy => thread::yield_now(),
                Cleared::Was(filled, claim) => {
                    self.change(
                        &[if filled == Filled::Page {
                            REAL
                        } else {
                            SCRATCH
                        }],
                        HIDDEN,
                    );
                    claim.release();
                    return;
                }
            }
        }
    }

    /// A fault elsewhere takes the oldest scratch page back.
    fn take_back(&self) {
        if let Ok(claim) = self.entry.take_scratch() {
            self.change(&[SCRATCH], HIDDEN);
            claim.release();
        }
    }

    /// A user's first touch; true if it filled the page.
    fn touch(&self) -> bool {
        let Ok(claim) = self.entry.try_set() else {
            return false;
        };
        self.change(&[HIDDEN], REAL);
        claim.settle(Filled::Page);
        true
    }

    fn check(&self) -> EntryState {
        let state = self.entry.state();
        let mapped = match state {
            EntryState::Empty => HIDDEN,
            EntryState::Scratch => SCRATCH,
            EntryState::Page => REAL,
            EntryState::Busy => panic!("an entry was left busy"),
        };
        assert_eq!(
            self.mapping.load(Ordering::Relaxed),
            mapped,
            "entry and mapping differ"
        );
        state
    }
}

/// Three threads that each go through several states: at most three preemptions, which finds
/// nearly all bugs (says loom's manual) in seconds instead of half a minute.
fn bounded_model(check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

/// Runs `a` and `b` on threads of their own and `c` on this one.
fn together<T: Send + Sync + 'static>(
    shared: &Arc<T>,
    a: impl FnOnce(&T) + Send + 'static,
    b: impl FnOnce(&T) + Send + 'static,
    c: impl FnOnce(&T),
) {
    let (first, second) = (Arc::clone(shared), Arc::clone(shared));
    let first = thread::spawn(move || a(&first));
    let second = thread::spawn(move || b(&second));
    c(shared);
    first.join().expect("no panic");
    second.join().expect("no panic");
}

#[test]
fn try_set_has_one_winner() {
    loom::model(|| {
        let page = Page::empty();
        let won = Arc::new(AtomicU32::new(0));
        let (their_page, their_won) = (Arc::clone(&page), Arc::clone(&won));
        let attempt = |page: &Page, won: &AtomicU32| {
            if page.touch() {
                won.fetch_add(1, Ordering::Relaxed);
            }
        };
        let other = thread::spawn(move || attempt(&their_page, &their_won));
        attempt(&page, &won);
        other.join().expect("no panic");
        assert_eq!(won.load(Ordering::Relaxed), 1);
        assert_eq!(page.check(), EntryState::Page);
    });
}

#[test]
fn two_faults_share_one_scratch_page() {
    loom::model(|| {
        let page = Page::empty();
        together(&page, Page::fault, Page::fault, |_| ());
        assert_eq!(page.check(), EntryState::Scratch);
    });
}

#[test]
fn alloc_wins_over_faults_and_take_back() {
    loom::model(|| {
        let page = Page::empty();
        together(&page, Page::fault, Page::take_back, |page| {
            assert!(page.alloc())
        });
        assert_eq!(page.check(), EntryState::Page);
    });
}

#[test]
fn alloc_over_scratch_terminates_while_it_is_repaired_and_taken_back() {
    // One handler run, not the retried instruction: loom lets two waiting threads starve the
    // third for ever.
    let repair = |page: &Page| {
        page.fault_once();
    };
    bounded_model(move || {
        let page = Page::filled(Filled::Scratch);
        together(&page, repair, Page::take_back, |page| assert!(page.alloc()));
        assert_eq!(page.check(), EntryState::Page);
    });
}

#[test]
fn free_and_fault_agree_on_one_outcome() {
    loom::model(|| {
        let page = Page::filled(Filled::Page);
        together(&page, Page::fault, Page::free, |_| ());
        // The fault found the page, or it came later and left scratch.
        assert!(matches!(
            page.check(),
            EntryState::Empty | EntryState::Scratch
        ));
    });
}

#[test]
fn free_then_alloc_against_a_fault_loses_nothing() {
    bounded_model(|| {
        let page = Page::filled(Filled::Page);
        let free_and_alloc = |page: &Page| {
            page.free();
            assert!(page.alloc());
        };
        together(&page, Page::fault, Page::take_back, free_and_alloc);
        assert_eq!(page.check(), EntryState::Page);
    });
}

#[test]
fn a_users_touch_and_the_allocator_never_both_fill_a_page() {
    loom::model(|| {
        let page = Page::empty();
        let touched = Arc::new(AtomicU32::new(0));
        let (their_page, their_touched) = (Arc::clone(&page), Arc::clone(&touched));
        let user = thread::spawn(move || {
            their_touched.store(u32::from(their_page.touch()), Ordering::Relaxed);
        });
        let allocated = u32::from(page.alloc());
        user.join().expect("no panic");
        assert_eq!(allocated + touched.load(Ordering::Relaxed), 1);
        assert_eq!(page.check(), EntryState::Page);
    });
}

#[test]
fn a_fault_under_the_arena_lock_needs_no_lock() {
    struct Arena {
        lock: Mutex<()>,
        page: Page,
    }
    loom::model(|| {
        let page = Page {
            entry: Entry::new(),
            mapping: AtomicU32::new(HIDDEN),
        };
        let arena = Arc::new(Arena {
            lock: Mutex::new(()),
            page,
        });
        let theirs = Arc::clone(&arena);
        // Both hold the lock; the handler runs on a thread that holds it.
        let other = thread::spawn(move || {
            let guard = theirs.lock.lock().expect("not poisoned");
            assert!(theirs.page.alloc());
            drop(guard);
        });
        let guard = arena.lock.lock().expect("not poisoned");
        arena.page.fault();
        drop(guard);
        other.join().expect("no panic");
        assert_eq!(arena.page.check(), EntryState::Page);
    });
}

/// The textbook bug, which must be found: an installer looks, then stores blindly.
#[test]
#[should_panic(expected = "became")]
fn canary_load_then_store_maps_over_scratch() {
    loom::model(|| {
        let page = Page::empty();
        let blind = |page: &Page| {
            if page.entry.state() == EntryState::Empty {
                page.change(&[HIDDEN], REAL);
            }
        };
        together(&page, Page::fault, |_| (), blind);
    });
}

#[test]
fn retire_waits_for_the_handler_that_pinned() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        let alive = Arc::new(AtomicU32::new(1));
        assert_eq!(slot.publish(0x1000, std::ptr::null_mut()), Some(1));
        let (their_slot, their_alive) = (Arc::clone(&slot), Arc::clone(&alive));
        let handler = thread::spawn(move || {
            if let Some(pin) = their_slot.pin() {
                assert_eq!(
                    their_alive.load(Ordering::Relaxed),
                    1,
                    "used after it was freed"
                );
                assert_eq!(pin.host_offset(0x1008), Some(8));
            }
        });
        slot.retire();
        alive.store(0, Ordering::Relaxed);
        handler.join().expect("no panic");
        assert!(slot.pin().is_none());
        assert_eq!(slot.publish(0x2000, std::ptr::null_mut()), Some(2));
    });
}

#[test]
fn a_pin_sees_what_was_published() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        let theirs = Arc::clone(&slot);
        let creator = thread::spawn(move || theirs.publish(0x1000, std::ptr::null_mut()));
        if let Some(pin) = slot.pin() {
            assert_eq!(pin.host_offset(0x1000), Some(0));
        }
        assert_eq!(creator.join().expect("no panic"), Some(1));
    });
}

fn report(address: u64) -> Report {
    Report {
        address: UserAddr::new(address),
        access: Access::Write,
        program: ProgramTag::new(7),
        cpu: Cpu::new(1),
    }
}

#[test]
fn every_report_is_taken_whole_or_counted_as_dropped() {
    loom::model(|| {
        let ring = Arc::new(ReportRing::<2>::new());
        ring.push(report(10));
        let (a, b) = (Arc::clone(&ring), Arc::clone(&ring));
        let a = thread::spawn(move || a.push(report(20)));
        let b = thread::spawn(move || b.push(report(30)));
        let mut taken = Vec::from_iter(ring.pop());
        a.join().expect("no panic");
        b.join().expect("no panic");
        taken.extend(std::iter::from_fn(|| ring.pop()));
        for address in taken.iter().map(|report| report.address.raw()) {
            assert!([10, 20, 30].contains(&address));
        }
        assert!(taken.iter().all(|seen| *seen == report(seen.address.raw())));
        assert_eq!(taken.len() as u64 + ring.dropped(), 3);
        assert!(ring.dropped() <= 1);
    });
}

fn range(first: u32, count: u32) -> PageRange {
    let first = PageIndex::new(first).expect("in the window");
    PageRange::new(first, count).expect("a valid range")
}

type List = PageList<[Link; 2]>;

fn list() -> Arc<List> {
    Arc::new(PageList::new([Link::new(), Link::new()]))
}

#[test]
fn pushed_ranges_are_taken_once() {
    loom::model(|| {
        let list = list();
        let (a, b) = (Arc::clone(&list), Arc::clone(&list));
        let a = thread::spawn(move || assert!(a.push(range(0, 1))));
        let b = thread::spawn(move || assert!(b.push(range(1, 1))));
        let mut taken: Vec<u32> = list.take().map(|r| r.first().raw()).collect();
        a.join().expect("no panic");
        b.join().expect("no panic");
        taken.extend(list.take().map(|r| r.first().raw()));
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
    });
}

#[test]
fn a_double_free_races_into_one_or_two_entries_and_loses_no_page() {
    loom::model(|| {
        let list = list();
        let (a, b) = (Arc::clone(&list), Arc::clone(&list));
        let a = thread::spawn(move || assert!(a.push(range(0, 1))));
        let b = thread::spawn(move || assert!(b.push(range(0, 2))));
        let mut taken: Vec<u32> = list.take().map(PageRange::len).collect();
        a.join().expect("no panic");
        b.join().expect("no panic");
        taken.extend(list.take().map(PageRange::len));
        assert!(taken.len() <= 2);
        assert_eq!(taken.iter().max(), Some(&2));
    });
}

#[test]
fn the_handler_is_installed_for_an_arena_that_is_created_while_it_is_removed() {
    loom::model(|| {
        let shared = Arc::new((SavedAction::new(), Slot::new()));
        assert_eq!(shared.0.begin_change(), Some(false));
        shared.0.end_change(true);
        let theirs = Arc::clone(&shared);
        let creator = thread::spawn(move || {
            let (saved, slot) = &*theirs;
            assert_eq!(slot.publish(0x1000, std::ptr::null_mut()), Some(1));
            // Where it would wait for its turn (in loom for ever) it comes later.
            let its_turn = saved.begin_change().is_some();
            if its_turn {
                saved.end_change(true);
            }
            its_turn
        });
        let (saved, slot) = &*shared;
        if saved.begin_change().is_some() {
            let needed = slot.pin().is_some();
            saved.end_change(needed);
        }
        let installed = creator.join().expect("no panic");
        assert!(!installed || saved.begin_change() == Some(true));
    });
}

#[test]
fn a_saved_action_is_never_torn() {
    bounded_model(|| {
        let words = |handler: usize| ActionWords {
            handler,
            flags: handler as u64,
            mask: handler as u64,
        };
        let saved = Arc::new(SavedAction::new());
        let theirs = Arc::clone(&saved);
        let installer = thread::spawn(move || {
            theirs.save(words(1));
            theirs.save(words(2));
        });
        let (seen, version) = saved.load();
        assert_eq!(seen, words(seen.handler));
        installer.join().expect("no panic");
        let (seen, last) = saved.load();
        assert_eq!(seen, words(2));
        assert!(saved.spend(last));
        assert!(version == last || !saved.is_spent(version));
    });
}
