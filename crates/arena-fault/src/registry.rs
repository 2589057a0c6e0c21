//! The live arenas, views and compiled code, as the fault handler finds them: the one global
//! of the project.
//!
//! A slot's life, all in one word so that a handler can pin it without a lock:
//!
//! ```text
//! Free ─claim─► Claimed ─publish─► Live ⇄ Live + pins ─retire─► Retiring + pins ─► Free
//! ```
//!
//! A handler reads a slot's other words only while it holds a [`Pin`]; `retire` returns
//! only when no pin is left, so what a pinned slot points to is alive. `retire` waits for
//! handlers. Those of an arena are short and wait for nobody. Those of a view of another
//! process's arena wait for that process: who retires such a slot ends their wait first.

use core::fmt;
use core::ops::Range;

use crate::classify::SavedAction;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, const_unless_loom, spin_hint};
use crate::thread::{Depth, EnterError, Running, ThreadKey, ThreadTable};

/// Arenas that may live at the same time in one process.
pub const ARENAS_MAX: usize = if cfg!(shuttle) { 2 } else { 256 };
/// Images of compiled code that may be known at the same time in one process.
pub const CODES_MAX: usize = if cfg!(shuttle) { 2 } else { 256 };

const LIVE: u32 = 1 << 31;
const CLAIMED: u32 = 1 << 30;
const PINS: u32 = CLAIMED - 1;

/// The registry of this process.
#[cfg(not(any(loom, shuttle)))]
pub static REGISTRY: Registry = Registry::new();

#[cfg(shuttle)]
shuttle::lazy_static! {
    /// The registry of this execution: shuttle's primitives do not outlive one.
    pub static ref REGISTRY: Registry = Registry::new();
}

/// One arena among all that this process ever had (until 2^32 were created in one slot).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArenaId {
    slot: u16,
    generation: u32,
}

impl ArenaId {
    /// The id as one number; never 0.
    #[must_use]
    pub const fn raw(self) -> u64 {
        ((self.generation as u64) << 32) | (self.slot as u64).saturating_add(1)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves of a packed number"
    )]
    pub(crate) const fn from_raw(raw: u64) -> Option<Self> {
        match (raw as u16).checked_sub(1) {
            Some(slot) => Some(Self {
                slot,
                generation: (raw >> 32) as u32,
            }),
            None => None,
        }
    }
}

impl fmt::Debug for ArenaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaId({}.{})", self.slot, self.generation)
    }
}

/// One image of compiled code among all that this process ever had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CodeId(u16);

/// Live arenas, compiled code, threads that run programs, and the signal action that was there
/// before.
#[derive(Debug)]
pub struct Registry {
    slots: [Slot; ARENAS_MAX],
    /// Slots from here on were never used: handlers look at the others only.
    slots_end: AtomicUsize,
    /// Compiled code: the "user view" of such a slot is the code itself.
    codes: [Slot; CODES_MAX],
    codes_end: AtomicUsize,
    pub(crate) threads: ThreadTable,
    /// The action that faults of others are forwarded to.
    pub saved: SavedAction,
    /// The same for touches of a mapping whose file has no page there (`SIGBUS`).
    pub saved_bus: SavedAction,
}

/// Whose arena a slot's user view shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewOf {
    /// The slot's own arena, which lives in this process.
    OwnArena,
    /// An arena of another process; the slot is nothing but that view.
    OtherProcess,
}

/// One arena's place in the registry.
#[derive(Debug)]
pub struct Slot {
    state: AtomicU32,
    generation: AtomicU32,
    /// 1 if the arena lives in another process.
    is_elsewhere: AtomicU32,
    /// Host address of the arena's 32-bit offset 0; of code, where its reach begins.
    host_start: AtomicUsize,
    /// Bytes of code's reach.
    reach_size: AtomicUsize,
    user_start: AtomicUsize,
    /// Bytes of the user's view in this process; 0 while there is none.
    user_size: AtomicUsize,
    /// What the arena's owner wants the handler to give back to it.
    payload: AtomicPtr<()>,
}

/// Proof that an arena stays alive: `retire` waits for it.
#[must_use]
#[derive(Debug)]
pub struct Pin<'a> {
    slot: &'a Slot,
}

impl Registry {
    #[cfg(not(loom))]
    #[expect(clippy::large_stack_frames, reason = "only evaluated for a static")]
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; ARENAS_MAX],
            slots_end: AtomicUsize::new(0),
            codes: [const { Slot::new() }; CODES_MAX],
            codes_end: AtomicUsize::new(0),
            threads: ThreadTable::new(),
            saved: SavedAction::new(),
            saved_bus: SavedAction::new(),
        }
    }

    /// Makes an arena known; `None` if [`ARENAS_MAX`] are alive.
    pub fn publish(&self, host_start: usize, payload: *mut ()) -> Option<ArenaId> {
        self.publish_in(|slot| slot.publish(host_start, payload))
    }

    /// Makes a view of another process's arena known: `size` bytes at `start`. `None` if
    /// [`ARENAS_MAX`] arenas and such views are alive.
    pub fn publish_view(&self, start: usize, size: usize, payload: *mut ()) -> Option<ArenaId> {
        self.forget_views(start, size);
        self.publish_in(|slot| slot.publish_view(start, size, payload))
    }

    fn publish_in(&self, publish: impl Fn(&Slot) -> Option<u32>) -> Option<ArenaId> {
        self.slots.iter().zip(0u16..).find_map(|(slot, number)| {
            let generation = publish(slot)?;
            note_used(&self.slots_end, number);
            Some(ArenaId {
                slot: number,
                generation,
            })
        })
    }

    /// Forgets views at addresses where there is a new one now: this is a child made by fork,
    /// and those were its parent's.
    fn forget_views(&self, start: usize, size: usize) {
        let end = start.saturating_add(size);
        for slot in used(&self.slots, &self.slots_end) {
            // Acquire: pairs with the Release in `set_user_view`.
            let theirs = slot.user_size.load(Ordering::Acquire);
            let at = slot.user_start.load(Ordering::Relaxed);
            if theirs != 0 && at < end && start < at.saturating_add(theirs) {
                slot.user_size.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Makes the user's view of an arena known: `size` bytes at `start` in this process.
    pub fn set_user_view(&self, id: ArenaId, start: usize, size: usize) {
        self.forget_views(start, size);
        if let Some(slot) = self.slot(id) {
            slot.user_start.store(start, Ordering::Relaxed);
            // Release: who sees the size sees the start; pairs with `user_offset`.
            slot.user_size.store(size, Ordering::Release);
        }
    }

    /// Whether the user's view of an arena is known.
    #[must_use]
    pub fn has_user_view(&self, id: ArenaId) -> bool {
        // Acquire: pairs with the Release in `set_user_view`.
        self.slot(id)
            .is_some_and(|slot| slot.user_size.load(Ordering::Acquire) != 0)
    }

    /// Forgets an arena; returns when no handler uses it any more.
    pub fn retire(&self, id: ArenaId) {
        if let Some(slot) = self.slot(id) {
            slot.retire();
        }
    }

    /// Forgets an arena without waiting for its pins, and never uses its slot again. What the
    /// slot points to must stay alive.
    pub fn abandon(&self, id: ArenaId) {
        if let Some(slot) = self.slot(id) {
            slot.abandon();
        }
    }

    /// Pins an arena if it is still alive.
    pub fn pin(&self, id: ArenaId) -> Option<Pin<'_>> {
        let pin = self.slot(id)?.pin()?;
        // The slot may have passed to another arena before it was pinned.
        (pin.slot.generation.load(Ordering::Relaxed) == id.generation).then_some(pin)
    }

    /// The slot whose user view, of the kind asked for, holds `address`, pinned, and the offset
    /// in that view.
    pub fn pin_user_view(&self, address: usize, of: ViewOf) -> Option<(Pin<'_>, usize)> {
        let slots = used(&self.slots, &self.slots_end);
        pin_holding(slots, |slot| {
            slot.user_offset(address).filter(|_| slot.view_of() == of)
        })
    }

    /// Makes compiled code known, by its addresses; `None` if [`CODES_MAX`] images are.
    /// `reach` is where it may fault besides the running program's arena. The payload leads the
    /// handler to the exception table.
    pub fn publish_code(
        &self,
        code: Range<usize>,
        reach: Range<usize>,
        payload: *mut (),
    ) -> Option<CodeId> {
        let mut codes = self.codes.iter().zip(0u16..);
        let publish = |slot: &Slot| slot.publish_code(&code, &reach, payload);
        let (_, number) = codes.find(|(slot, _)| publish(slot).is_some())?;
        note_used(&self.codes_end, number);
        Some(CodeId(number))
    }

    /// Forgets compiled code; returns when no handler looks at its table any more.
    pub fn retire_code(&self, id: CodeId) {
        if let Some(slot) = self.codes.get(usize::from(id.0)) {
            slot.retire();
        }
    }

    /// [`Registry::abandon`] for compiled code.
    pub fn abandon_code(&self, id: CodeId) {
        if let Some(slot) = self.codes.get(usize::from(id.0)) {
            slot.abandon();
        }
    }

    /// The compiled code that holds the instruction at `pc`, pinned, and the offset in it.
    pub fn pin_code(&self, pc: usize) -> Option<(Pin<'_>, usize)> {
        let codes = used(&self.codes, &self.codes_end);
        pin_holding(codes, |slot| slot.user_offset(pc))
    }

    /// Marks a program as running on the thread `key`.
    #[inline]
    pub fn enter(&self, key: ThreadKey, running: Running) -> Result<Depth, EnterError> {
        self.threads.enter(key, running)
    }

    /// Ends the program that stands at `depth`. Programs inside it run on.
    #[inline]
    pub fn leave(&self, key: ThreadKey, depth: Depth) {
        self.threads.leave(key, depth);
    }

    /// Whether any arena, view or code is alive; an abandoned one is not.
    #[must_use]
    pub fn any_live(&self) -> bool {
        let mut all = self.slots.iter().chain(&self.codes);
        all.any(|slot| slot.state.load(Ordering::Acquire) & LIVE != 0)
    }

    fn slot(&self, id: ArenaId) -> Option<&Slot> {
        self.slots.get(usize::from(id.slot))
    }
}

/// The first slot that `offset` finds something in, pinned, and what it found.
fn pin_holding(
    slots: &[Slot],
    offset: impl Fn(&Slot) -> Option<usize>,
) -> Option<(Pin<'_>, usize)> {
    let mut holding = slots.iter().filter(|slot| offset(slot).is_some());
    holding.find_map(|slot| {
        let pin = slot.pin()?;
        // Asked again under the pin: the slot may have changed hands.
        Some((pin, offset(slot)?))
    })
}

/// Notes that the slot with this number is used.
fn note_used(end: &AtomicUsize, number: u16) {
    // Release: whoever runs on what was published comes after this; pairs with `used`.
    end.fetch_max(usize::from(number).saturating_add(1), Ordering::Release);
}

/// The slots that were ever used.
fn used<'a>(slots: &'a [Slot], end: &AtomicUsize) -> &'a [Slot] {
    // Acquire: pairs with `note_used`.
    slots.get(..end.load(Ordering::Acquire)).unwrap_or(slots)
}

impl Slot {
    const_unless_loom! {
        /// A free slot.
        #[must_use]
        pub fn new() -> Self {
            Self {
                state: AtomicU32::new(0),
                generation: AtomicU32::new(0),
                is_elsewhere: AtomicU32::new(0),
                host_start: AtomicUsize::new(0),
                reach_size: AtomicUsize::new(0),
                user_start: AtomicUsize::new(0),
                user_size: AtomicUsize::new(0),
                payload: AtomicPtr::new(core::ptr::null_mut()),
            }
        }
    }

    /// Takes the slot if it is free; gives the new generation.
    pub fn publish(&self, host_start: usize, payload: *mut ()) -> Option<u32> {
        let generation = self.claim()?;
        self.is_elsewhere.store(0, Ordering::Relaxed);
        self.user_size.store(0, Ordering::Relaxed);
        self.host_start.store(host_start, Ordering::Relaxed);
        self.go_live(payload);
        Some(generation)
    }

    /// Takes the slot, if it is free, for a view of another process's arena.
    fn publish_view(&self, start: usize, size: usize, payload: *mut ()) -> Option<u32> {
        let generation = self.claim()?;
        self.is_elsewhere.store(1, Ordering::Relaxed);
        // No program can run on it, so no address is ever compared with this.
        self.host_start.store(usize::MAX, Ordering::Relaxed);
        self.user_start.store(start, Ordering::Relaxed);
        // Release: who sees the size sees the start; pairs with `user_offset`.
        self.user_size.store(size, Ordering::Release);
        self.go_live(payload);
        Some(generation)
    }

    /// Takes the slot, if it is free, for compiled code.
    fn publish_code(
        &self,
        code: &Range<usize>,
        reach: &Range<usize>,
        payload: *mut (),
    ) -> Option<u32> {
        let generation = self.claim()?;
        self.host_start.store(reach.start, Ordering::Relaxed);
        let reach = reach.end.saturating_sub(reach.start);
        self.reach_size.store(reach, Ordering::Relaxed);
        self.user_start.store(code.start, Ordering::Relaxed);
        let size = code.end.saturating_sub(code.start);
        // Release: who sees the size sees the start; pairs with `user_offset`.
        self.user_size.store(size, Ordering::Release);
        self.go_live(payload);
        Some(generation)
    }

    fn claim(&self) -> Option<u32> {
        // Acquire: pairs with the Release in `retire` of the slot's last owner.
        self.state
            .compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        Some(generation)
    }

    fn go_live(&self, payload: *mut ()) {
        self.payload.store(payload, Ordering::Relaxed);
        // Release: publishes the fields; pairs with the Acquire in `pin`.
        self.state.store(CLAIMED | LIVE, Ordering::Release);
    }

    /// Pins the slot if it is live.
    pub fn pin(&self) -> Option<Pin<'_>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & LIVE == 0 || state & PINS == PINS {
                return None;
            }
            // Acquire: pairs with the Release in `publish`.
            match self.state.compare_exchange_weak(
                state,
                state.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Pin { slot: self }),
                Err(seen) => state = seen,
            }
        }
    }

    /// Frees a live slot, after the last pin is gone.
    pub fn retire(&self) {
        self.state.fetch_and(!LIVE, Ordering::Relaxed);
        // Acquire: pairs with the Release in `Pin::drop`; the handler's reads are over.
        while self.state.load(Ordering::Acquire) & PINS != 0 {
            spin_hint();
        }
        self.user_size.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `publish` of the next owner.
        self.state.store(0, Ordering::Release);
    }

    fn abandon(&self) {
        self.user_size.store(0, Ordering::Relaxed);
        // Relaxed: nothing is given back that another owner could take.
        self.state.fetch_and(!LIVE, Ordering::Relaxed);
    }

    fn view_of(&self) -> ViewOf {
        // Relaxed: what counts is asked under a pin, which orders it.
        match self.is_elsewhere.load(Ordering::Relaxed) {
            0 => ViewOf::OwnArena,
            _ => ViewOf::OtherProcess,
        }
    }

    fn user_offset(&self, address: usize) -> Option<usize> {
        // Acquire: pairs with the Release in `set_user_view`.
        let size = self.user_size.load(Ordering::Acquire);
        let offset = address.checked_sub(self.user_start.load(Ordering::Relaxed))?;
        (offset < size).then_some(offset)
    }
}

#[cfg(not(loom))]
impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

impl Pin<'_> {
    /// What the arena's owner gave to `publish`.
    #[must_use]
    pub fn payload(&self) -> *mut () {
        self.slot.payload.load(Ordering::Relaxed)
    }

    /// Bytes from the arena's `kern_vm_start` to a host address, if it does not lie below.
    #[must_use]
    pub fn host_offset(&self, address: usize) -> Option<u64> {
        let offset = address.checked_sub(self.slot.host_start.load(Ordering::Relaxed))?;
        u64::try_from(offset).ok()
    }

    /// Whether code may fault at this address, whatever arena its program has.
    #[must_use]
    pub fn reaches(&self, address: usize) -> bool {
        let start = self.slot.host_start.load(Ordering::Relaxed);
        let size = self.slot.reach_size.load(Ordering::Relaxed);
        address
            .checked_sub(start)
            .is_some_and(|offset| offset < size)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `retire`.
        self.slot.state.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    static LOCAL: Registry = Registry::new();

    #[test]
    fn an_id_of_a_dead_arena_does_not_find_its_successor() {
        let first = LOCAL.publish(0x1000, core::ptr::null_mut()).unwrap();
        assert!(LOCAL.pin(first).is_some());
        LOCAL.retire(first);
        assert!(LOCAL.pin(first).is_none());
        let second = LOCAL.publish(0x1000, core::ptr::null_mut()).unwrap();
        assert!(LOCAL.pin(first).is_none());
        assert_eq!(ArenaId::from_raw(second.raw()), Some(second));
        LOCAL.set_user_view(second, 0x5000, 0x1000);
        let found = LOCAL.pin_user_view(0x5fff, ViewOf::OwnArena);
        assert!(found.is_some_and(|(_, offset)| offset == 0xfff));
        assert!(LOCAL.pin_user_view(0x6000, ViewOf::OwnArena).is_none());
        assert!(LOCAL.pin_user_view(0x5fff, ViewOf::OtherProcess).is_none());
        LOCAL.retire(second);
        assert!(LOCAL.pin_user_view(0x5fff, ViewOf::OwnArena).is_none());
    }

    #[test]
    fn a_view_of_another_process_is_found_by_its_addresses_only() {
        static VIEWS: Registry = Registry::new();
        let view = VIEWS.publish_view(0x5000, 0x1000, core::ptr::null_mut());
        let view = view.expect("slots are free");
        let of = ViewOf::OtherProcess;
        assert!(VIEWS.pin_user_view(0x4fff, of).is_none());
        let (pin, offset) = VIEWS.pin_user_view(0x5008, of).expect("inside");
        assert_eq!(offset, 8);
        assert_eq!(pin.host_offset(0x5008), None, "it has no host window");
        drop(pin);
        assert!(VIEWS.pin_user_view(0x5008, ViewOf::OwnArena).is_none());
        VIEWS.retire(view);
        assert!(VIEWS.pin_user_view(0x5008, of).is_none());
    }

    #[test]
    fn a_new_view_replaces_what_a_parent_had_there() {
        static CHILD: Registry = Registry::new();
        let null = core::ptr::null_mut();
        let parents = CHILD.publish(0x1000, null).unwrap();
        CHILD.set_user_view(parents, 0x5000, 0x2000);
        let elsewhere = CHILD.publish(0x1000, null).unwrap();
        CHILD.set_user_view(elsewhere, 0x8000, 0x1000);
        let of = ViewOf::OwnArena;
        for (start, size) in [(0x6000, 0x2000), (0x4000, 0x2000), (0x5000, 0x1000)] {
            CHILD.set_user_view(parents, 0x5000, 0x2000);
            let own = CHILD.publish(0x1000, null).unwrap();
            CHILD.set_user_view(own, start, size);
            assert!(!CHILD.has_user_view(parents), "{start:#x}");
            assert!(CHILD.has_user_view(own) && CHILD.has_user_view(elsewhere));
            assert!(
                CHILD
                    .pin_user_view(start, of)
                    .is_some_and(|(_, at)| at == 0)
            );
            CHILD.retire(own);
        }
    }

    #[test]
    fn an_abandoned_arena_is_not_found_and_its_slot_not_used_again() {
        static LEFT: Registry = Registry::new();
        let left = LEFT.publish(0x1000, core::ptr::null_mut()).unwrap();
        let pin = LEFT.pin(left).unwrap();
        LEFT.abandon(left);
        assert!(LEFT.pin(left).is_none() && !LEFT.any_live());
        let next = LEFT.publish(0x1000, core::ptr::null_mut()).unwrap();
        assert_ne!(next.slot, left.slot);
        drop(pin);
    }

    #[test]
    fn code_is_found_by_its_instructions_until_it_is_retired() {
        let mut table = 7u8;
        let payload = (&raw mut table).cast();
        let id = LOCAL.publish_code(0x9000..0x9100, 0x200..0x300, payload);
        let (pin, offset) = LOCAL.pin_code(0x90ff).unwrap();
        assert_eq!((pin.payload(), offset), (payload, 0xff));
        assert!(pin.reaches(0x200));
        assert!(pin.reaches(0x2ff));
        assert!(!pin.reaches(0x1ff));
        assert!(!pin.reaches(0x300));
        drop(pin);
        assert!(LOCAL.pin_code(0x9100).is_none());
        assert!(LOCAL.pin_code(0x8fff).is_none());
        LOCAL.retire_code(id.unwrap());
        assert!(LOCAL.pin_code(0x9000).is_none());
    }
}
