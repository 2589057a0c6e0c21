//! Page table entries of an arena, shared with the fault handler.
//!
//! In a kernel an entry *is* the mapping. In user space it is a word (the truth) and a
//! mapping made by `mmap` or `madvise` afterwards, so a transitional state covers the
//! time between the two:
//!
//! ```text
//!            try_set                       settle(Scratch)
//!   Empty ────────────► Busy (one owner) ─────────────────► Scratch ─┐
//!     ▲                  ▲   │                                       │
//!     └──── release ─────┼───┤             settle(Page)              │
//!                        │   └─────────────────────────────► Page    │
//!                        └───── get_and_clear, take_scratch ──┴──────┘
//! ```
//!
//! * Whoever changes the mapping of a page owns its entry's `Busy` state: the owner is
//!   the one thread whose atomic operation made the entry `Busy`, and the proof of that
//!   is a [`Claim`].
//! * There is no edge Scratch → Page: the allocator clears first (break before make),
//!   so no thread can go on reading scratch through a stale translation.
//! * `try_set` and `get_and_clear` never wait and take no lock: the thread that faults may
//!   hold the arena's lock.
//! * An owner does nothing but change the mapping before it gives the entry up: a handler one
//!   or two system calls, the allocator as many as its range has regions to open (two each),
//!   for all entries of the range at once; who needs such an entry spins that long. It
//!   never touches arena memory, so a thread cannot fault on an entry it owns.
//!
//! Plays the part of `ptep_try_set()` and `ptep_get_and_clear()`; the private word makes
//! it impossible to use either on anything but an arena's entry.

use core::mem::ManuallyDrop;

use crate::sync::{AtomicU32, Ordering, const_unless_loom, spin_hint};

const EMPTY: u32 = 0;
const BUSY: u32 = 1;
const SCRATCH: u32 = 2;
const PAGE: u32 = 3;

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// Nothing: the next touch faults.
    Empty,
    /// A thread is changing the mapping; the outcome is open.
    Busy,
    /// The arena's scratch page.
    Scratch,
    /// A page of the arena.
    Page,
}

/// What a claimed entry is made to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// The arena's scratch page.
    Scratch,
    /// A page of the arena.
    Page,
}

/// One entry. All-zero bytes are a valid, empty entry.
#[derive(Debug)]
#[repr(transparent)]
pub struct Entry(AtomicU32);

/// The right to change one page's mapping; ends with [`Claim::settle`] or [`Claim::release`].
///
/// One that is dropped restores the state that it was taken from: no entry stays busy for
/// ever. That is a net for mistakes, not a way to end a claim: only its owner knows whether
/// the mapping still is what it was.
#[must_use = "a claim ends with what the page's mapping has become"]
#[derive(Debug)]
pub struct Claim<'a> {
    entry: &'a Entry,
    /// The entry's word before it was claimed.
    from: u32,
}

/// What [`Entry::get_and_clear`] found.
#[derive(Debug)]
pub enum Cleared<'a> {
    /// The entry was empty and still is.
    WasEmpty,
    /// Another thread owns the entry: nothing was changed.
    WasBusy,
    /// The entry held this; the caller unmaps it and then releases the claim.
    Was(Filled, Claim<'a>),
}

const fn decode(word: u32) -> EntryState {
    match word {
        EMPTY => EntryState::Empty,
        SCRATCH => EntryState::Scratch,
        PAGE => EntryState::Page,
        _ => EntryState::Busy,
    }
}

impl Entry {
    const_unless_loom! {
        /// An empty entry.
        #[must_use]
        pub fn new() -> Self {
            Self(AtomicU32::new(EMPTY))
        }
    }

    /// What the entry holds at this moment.
    #[must_use]
    pub fn state(&self) -> EntryState {
        // Acquire: pairs with the Release in `settle`, so that who sees `Page` may use it.
        decode(self.0.load(Ordering::Acquire))
    }

    /// Claims the entry iff it is empty; else says what somebody put there.
    pub fn try_set(&self) -> Result<Claim<'_>, EntryState> {
        self.exchange(EMPTY)
    }

    /// Claims the entry iff it holds scratch: to take it back, or to map it anew.
    pub fn take_scratch(&self) -> Result<Claim<'_>, EntryState> {
        self.exchange(SCRATCH)
    }

    /// Clears the entry with one exchange, whatever it holds.
    pub fn get_and_clear(&self) -> Cleared<'_> {
        // AcqRel: the Acquire half pairs with the Release in `settle`, the Release half with
        // the Acquire of whoever sees the entry busy. Exchanging `Busy` for `Busy` changes
        // nothing, so the true owner keeps its claim.
        match decode(self.0.swap(BUSY, Ordering::AcqRel)) {
            EntryState::Busy => Cleared::WasBusy,
            EntryState::Empty => {
                self.claim_from(EMPTY).release();
                Cleared::WasEmpty
            }
            EntryState::Scratch => Cleared::Was(Filled::Scratch, self.claim_from(SCRATCH)),
            EntryState::Page => Cleared::Was(Filled::Page, self.claim_from(PAGE)),
        }
    }

    /// Claims the entry for a real page: the allocator's loop around [`Entry::try_set`].
    ///
    /// Scratch is cleared first through `lift_scratch`, which must remove its mapping;
    /// should it fail, the scratch page stays. A page is in the way only if a user's touch
    /// put it there since the caller looked; the caller then looks elsewhere.
    pub fn claim_for_page<E>(
        &self,
        mut lift_scratch: impl FnMut() -> Result<(), E>,
    ) -> Result<Claim<'_>, ClaimError<E>> {
        loop {
            match self.try_set() {
                Ok(claim) => return Ok(claim),
                Err(EntryState::Page) => return Err(ClaimError::Occupied),
                Err(EntryState::Scratch) => {
                    if let Ok(claim) = self.take_scratch() {
                        if let Err(error) = lift_scratch() {
                            claim.settle(Filled::Scratch);
                            return Err(ClaimError::Lift(error));
                        }
                        claim.release();
                    } else {
                        spin_hint();
                    }
                }
                // The owner is another thread inside system calls (see the header).
                Err(EntryState::Busy | EntryState::Empty) => spin_hint(),
            }
        }
    }

    fn exchange(&self, from: u32) -> Result<Claim<'_>, EntryState> {
        // Acquire on both outcomes: pairs with the Release in `settle` and `release`, so the
        // new owner's mapping calls come after the old owner's.
        match self
            .0
            .compare_exchange(from, BUSY, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(self.claim_from(from)),
            Err(word) => Err(decode(word)),
        }
    }

    /// For who has just made the entry busy.
    const fn claim_from(&self, from: u32) -> Claim<'_> {
        Claim { entry: self, from }
    }
}

#[cfg(not(loom))]
impl Default for Entry {
    fn default() -> Self {
        Self::new()
    }
}

/// Why [`Entry::claim_for_page`] failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimError<E> {
    /// The entry holds a page already.
    Occupied,
    /// The scratch page could not be unmapped.
    Lift(E),
}

impl Claim<'_> {
    /// Ends the claim: the page is mapped as `filled`.
    pub fn settle(self, filled: Filled) {
        let word = match filled {
            Filled::Scratch => SCRATCH,
            Filled::Page => PAGE,
        };
        self.end(word);
    }

    /// Ends the claim: nothing is mapped.
    pub fn release(self) {
        self.end(EMPTY);
    }

    fn end(self, word: u32) {
        let claim = ManuallyDrop::new(self);
        // Release: publishes the mapping, or that it is gone; pairs with the Acquire in `state`
        // and `exchange`.
        claim.entry.0.store(word, Ordering::Release);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: as in `end`.
        self.entry.0.store(self.from, Ordering::Release);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn try_set_succeeds_only_on_an_empty_entry() {
        let entry = Entry::new();
        let claim = entry.try_set().unwrap();
        assert_eq!(entry.try_set().unwrap_err(), EntryState::Busy);
        claim.settle(Filled::Scratch);
        assert_eq!(entry.try_set().unwrap_err(), EntryState::Scratch);
        entry.take_scratch().unwrap().release();
        entry.try_set().unwrap().settle(Filled::Page);
        assert_eq!(entry.try_set().unwrap_err(), EntryState::Page);
    }

    #[test]
    fn get_and_clear_leaves_an_owned_entry_to_its_owner() {
        let entry = Entry::new();
        let claim = entry.try_set().unwrap();
        assert!(matches!(entry.get_and_clear(), Cleared::WasBusy));
        claim.settle(Filled::Page);
        let Cleared::Was(Filled::Page, claim) = entry.get_and_clear() else {
            panic!("the entry held a page");
        };
        claim.release();
        assert!(matches!(entry.get_and_clear(), Cleared::WasEmpty));
        assert_eq!(entry.state(), EntryState::Empty);
    }

    #[test]
    fn a_claim_that_is_dropped_restores_what_was_there() {
        let entry = Entry::new();
        drop(entry.try_set().unwrap());
        assert_eq!(entry.state(), EntryState::Empty);
        for filled in [Filled::Scratch, Filled::Page] {
            entry.try_set().unwrap().settle(filled);
            let before = entry.state();
            drop(entry.get_and_clear());
            assert_eq!(entry.state(), before);
            let Cleared::Was(_, claim) = entry.get_and_clear() else {
                panic!("the entry was filled");
            };
            claim.release();
        }
    }

    #[test]
    fn claim_for_page_lifts_scratch_and_refuses_a_page() {
        let entry = Entry::new();
        entry.try_set().unwrap().settle(Filled::Scratch);
        let refused = entry.claim_for_page(|| Err("no memory")).unwrap_err();
        assert_eq!(refused, ClaimError::Lift("no memory"));
        assert_eq!(entry.state(), EntryState::Scratch);
        let mut lifted = 0;
        let claim = entry.claim_for_page(|| {
            lifted += 1;
            Ok::<(), ()>(())
        });
        claim.unwrap().settle(Filled::Page);
        assert_eq!(lifted, 1);
        assert_eq!(
            entry.claim_for_page(|| Ok::<(), ()>(())).unwrap_err(),
            ClaimError::Occupied
        );
    }
}
