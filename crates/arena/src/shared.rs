//! What the fault handler and the allocator share of one arena.
//!
//! ```text
//!  handler: recover, user_touch          allocator (under the lock): populate, empty
//!        │                                        │
//!        └──────► entries (the truth) ◄───────────┘   a claim on an entry is the right to
//!                      │                              change that page's mappings
//!          host view, scratch, user view
//! ```
//!
//! Functions that the handler calls are marked so; they take no lock, allocate nothing, and
//! wait only for threads that are inside system calls: one that opens a region of a view (two),
//! or one that has a claim on the page (see `harena_arena_fault::Entry`).

#![cfg_attr(
    any(
        all(shuttle, not(test)),
        all(any(not(target_os = "linux"), miri), not(shuttle))
    ),
    expect(
        dead_code,
        reason = "without signals nobody calls what the handler calls"
    )
)]
// As in `harena_arena_fault`: the handler runs through here and must not panic.
#![deny(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use harena_abi::{PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::{
    Claim, Cleared, Entry, EntryState, Filled, HALF_GUARD, HostFault, KERN_VM_SIZE, Link, PageList,
    PageRange, Report, ReportRing, ScratchRing, ThreadKey, TouchCounts, WINDOW_PAGES, WINDOW_SIZE,
    WindowPage,
};

use crate::inject::Injected;
use crate::reservation::Reservation;
use crate::spec::ArenaSpec;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, OnceLock, Ordering, fence, spin_loop};
use crate::sys::{MemFile, OsError, PAGE, Protection, Span, SpareMappings, Table, process_id};
use crate::view::View;

/// Entries that may hold scratch at a time; each costs up to two mappings.
pub const SCRATCH_MAX: usize = if cfg!(shuttle) { 2 } else { 256 };
/// Fault reports that wait to be drained; what comes then is dropped and counted.
pub const REPORTS_MAX: usize = if cfg!(shuttle) { 4 } else { 256 };

/// Pages that a free unmaps with one call: it must not need much memory itself.
const RUN_MAX: usize = 4096;

/// For lists that grow with what a program asks for.
const OUT_OF_MEMORY: OsError = OsError {
    call: "allocation",
    len: 0,
    errno: harena_abi::Errno::ENOMEM as i32,
};

#[expect(
    clippy::cast_possible_truncation,
    reason = "these sizes fit a 64-bit usize"
)]
const AREA: usize = KERN_VM_SIZE as usize;
#[expect(
    clippy::cast_possible_truncation,
    reason = "these sizes fit a 64-bit usize"
)]
const LOWER_GUARD: usize = HALF_GUARD as usize;

/// What the handler made of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Run the instruction again.
    Retry,
    /// Not ours after all.
    Forward,
}

/// Where the user window lies, and the host's view of it.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) user_start: UserAddr,
    pub(crate) window: PageRange,
    pub(crate) host: View,
}

/// One arena's state. Its address is what the registry hands to the handler.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spec: ArenaSpec,
    pub(crate) reservation: Arc<Reservation>,
    /// The lower guard, the window and the upper guard in the reservation.
    area: Span,
    pub(crate) file: Arc<MemFile>,
    /// One page, apart from the arena's pages: who is handed their file must not reach what
    /// host code wrote by mistake.
    scratch_file: MemFile,
    /// Other processes that have a view now.
    pub(crate) peers: AtomicU32,
    entries: Table<Entry>,
    pub(crate) placed: OnceLock<Placed>,
    pub(crate) user: OnceLock<View>,
    pub(crate) scratch: Box<ScratchRing<SCRATCH_MAX>>,
    /// What recovery falls back to when the process has no mapping left.
    pub(crate) spare: SpareMappings,
    user_touches: TouchCounts,
    pub(crate) reports: Box<ReportRing<REPORTS_MAX>>,
    pub(crate) faults_recovered: AtomicU64,
    /// Those among them that found the process short of mappings.
    pub(crate) faults_short: AtomicU64,
    /// Pages filled by a user's touch, which the range tree must learn of.
    pub(crate) touched: PageList<Table<Link>>,
    /// Ranges whose free was put off.
    pub(crate) deferred: PageList<Table<Link>>,
    pages_in_use: AtomicU32,
    pub(crate) injected: Injected,
    /// Empty pages may hold what somebody wrote: another process has the file and so can write
    /// into its holes, or a fill failed half way and the system would not take the memory back.
    /// From then on pages are cleared when they are filled.
    unclean: AtomicBool,
    /// A child made by fork has our memory, but not our mappings.
    owner_process: i32,
}

impl Shared {
    pub(crate) fn new(
        spec: ArenaSpec,
        reservation: Arc<Reservation>,
        area: Span,
    ) -> Result<Self, OsError> {
        assert_eq!(area.len, AREA, "an arena's area has one size");
        let file = MemFile::create(spec.byte_size())?;
        let spare = SpareMappings::none();
        spare.hold(&file)?;
        Ok(Self {
            spec,
            reservation,
            area,
            file: Arc::new(file),
            scratch_file: MemFile::create_scratch()?,
            peers: AtomicU32::new(0),
            entries: Table::zeroed(WINDOW_PAGES as usize)?,
            placed: OnceLock::new(),
            user: OnceLock::new(),
            scratch: Box::new(ScratchRing::new()),
            spare,
            user_touches: TouchCounts::new(),
            reports: Box::new(ReportRing::new()),
            faults_recovered: AtomicU64::new(0),
            faults_short: AtomicU64::new(0),
            touched: PageList::new(Table::zeroed(PageIndex::COUNT as usize)?),
            deferred: PageList::new(Table::zeroed(PageIndex::COUNT as usize)?),
            pages_in_use: AtomicU32::new(0),
            injected: Injected::default(),
            unclean: AtomicBool::new(false),
            owner_process: process_id(),
        })
    }

    /// Host address of 32-bit offset 0.
    pub(crate) fn host_start(&self) -> *mut u8 {
        self.reservation.base().wrapping_add(self.window_offset())
    }

    /// Offset in the reservation of 32-bit offset 0.
    pub(crate) fn window_offset(&self) -> usize {
        // Inside the area, so it cannot overflow.
        self.area.offset.wrapping_add(LOWER_GUARD)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a `WindowPage` is below the table's length"
    )]
    pub(crate) fn entry(&self, page: WindowPage) -> &Entry {
        // In range by the type's invariant; the table has an entry for each.
        &self.entries.as_ref()[page.index()]
    }

    pub(crate) fn pages_in_use(&self) -> u32 {
        self.pages_in_use.load(Ordering::Relaxed)
    }

    /// Bytes of memory behind pages and scratch.
    pub(crate) fn resident(&self) -> Result<u64, OsError> {
        let pages = self.file.resident()?;
        Ok(pages.saturating_add(self.scratch_file.resident()?))
    }

    /// Whether this process created the arena, rather than inherited its ruins.
    pub(crate) fn is_owner(&self) -> bool {
        self.owner_process == process_id()
    }

    // ---- called by the fault handler ------------------------------------------------

    /// Host code under a program touched a page of the window.
    pub(crate) fn recover(&self, fault: &HostFault<'_>) -> Outcome {
        if !self.is_owner() {
            return Outcome::Forward;
        }
        let entry = self.entry(fault.page);
        match entry.state() {
            EntryState::Empty => self.install_scratch(fault, entry),
            EntryState::Scratch => match entry.take_scratch() {
                Ok(claim) => self.repair_scratch(fault, claim),
                Err(_) => Outcome::Retry,
            },
            EntryState::Busy => Outcome::Retry,
            EntryState::Page if fault.spurious() => Outcome::Retry,
            EntryState::Page => Outcome::Forward,
        }
    }

    fn install_scratch(&self, fault: &HostFault<'_>, entry: &Entry) -> Outcome {
        // Losing the race is fine: the winner's page is valid.
        if let Ok(claim) = entry.try_set()
            && !self.lay_scratch(fault.page, claim)
        {
            return Self::try_again_later(fault);
        }
        fault.progressed();
        self.reports.push(Report {
            address: self.user_addr(fault.page.byte_offset()),
            access: fault.access,
            program: fault.program,
            cpu: fault.cpu,
        });
        // Release: who sees the count finds the report; pairs with `faults_recovered`.
        self.faults_recovered.fetch_add(1, Ordering::Release);
        Outcome::Retry
    }

    /// Whether the page can be touched now.
    fn lay_scratch(&self, page: WindowPage, claim: Claim<'_>) -> bool {
        self.keep_scratch_short();
        let mapped = self.map_scratch(page);
        let mapped = mapped.or_else(|error| self.map_scratch_short(page, error));
        let there = if mapped.is_ok() {
            claim.settle(Filled::Scratch);
            self.remember_scratch(page);
            true
        } else {
            self.fill_instead(page, claim)
        };
        if there && self.is_short() {
            self.count_short();
        }
        there
    }

    /// A scratch page faulted. A marker hides it (a region was opened around it), or another
    /// thread has just put it there: mapping it again is right in both cases, and there is
    /// nothing to report.
    fn repair_scratch(&self, fault: &HostFault<'_>, claim: Claim<'_>) -> Outcome {
        let mapped = self.map_scratch(fault.page);
        let mapped = mapped.or_else(|error| self.map_scratch_short(fault.page, error));
        if mapped.is_err() {
            // No mapping is left, but a marker can be removed without one. Below it may lie the
            // page's own memory instead of scratch.
            self.unclean.store(true, Ordering::Relaxed);
            let _ = self.reservation.range().unguard(self.span(fault.page));
        }
        claim.settle(Filled::Scratch);
        self.remember_scratch(fault.page);
        if mapped.is_ok() {
            fault.progressed();
            Outcome::Retry
        } else {
            Self::try_again_later(fault)
        }
    }

    pub(crate) fn map_scratch(&self, page: WindowPage) -> Result<(), OsError> {
        let range = self.reservation.range();
        range.map_file(
            self.span(page),
            &self.scratch_file,
            0,
            Protection::ReadWrite,
        )
    }

    /// The process has no mapping left for scratch. Host code must not crash for that: a page
    /// of the window, which needs none, becomes real, as by a user's touch. Whether it worked.
    fn fill_instead(&self, page: WindowPage, claim: Claim<'_>) -> bool {
        if let (Some(index), Some(placed)) = (page.in_window(), self.placed.get())
            && placed.host.holds(index)
        {
            return self.fill(placed, index, claim) == Outcome::Retry;
        }
        claim.release();
        false
    }

    /// Clears an entry that still holds scratch, so that the number of mappings stays bounded.
    /// An entry that holds something else is none of ours any more, and that is fine.
    pub(crate) fn take_back(&self, page: WindowPage) -> Result<(), OsError> {
        let Ok(claim) = self.entry(page).take_scratch() else {
            return Ok(());
        };
        let lifted = self.lift_scratch(page);
        match lifted {
            Ok(()) => claim.release(),
            Err(_) => claim.settle(Filled::Scratch),
        }
        lifted
    }

    /// A user's view was touched `offset` bytes behind `user_vm_start`, on the thread `key`.
    pub(crate) fn user_touch(&self, key: ThreadKey, offset: usize) -> Outcome {
        let Some(placed) = self.placed.get() else {
            return Outcome::Forward;
        };
        let page = u32::try_from(offset / PAGE).ok();
        match page.and_then(|page| placed.window.first().checked_add(page)) {
            Some(page) if placed.host.holds(page) && self.is_owner() => {
                self.touch_or_give_up(placed, key, page)
            }
            Some(_) | None => Outcome::Forward,
        }
    }

    /// The user may have made its view of a page that is there inaccessible, and is to crash
    /// for that.
    fn touch_or_give_up(&self, placed: &Placed, key: ThreadKey, page: PageIndex) -> Outcome {
        match self.entry(page.into()).state() {
            EntryState::Page if self.user_touches.spurious(key, page) => Outcome::Retry,
            EntryState::Page => Outcome::Forward,
            EntryState::Empty | EntryState::Scratch => {
                self.user_touches.progressed(key);
                self.touch(placed, page)
            }
            EntryState::Busy => Outcome::Retry,
        }
    }

    /// First touch of a page of the window by the user: it is there afterwards, or it is a
    /// SIGSEGV.
    pub(crate) fn touch(&self, placed: &Placed, page: PageIndex) -> Outcome {
        let entry = self.entry(page.into());
        match entry.state() {
            EntryState::Page | EntryState::Busy => return Outcome::Retry,
            // Never a lazily allocated page over scratch.
            EntryState::Scratch => return Outcome::Forward,
            EntryState::Empty if self.spec.segv_on_fault() => return Outcome::Forward,
            EntryState::Empty => {}
        }
        match entry.try_set() {
            Ok(claim) => self.fill(placed, page, claim),
            Err(_) => Outcome::Retry,
        }
    }

    /// Makes one claimed page real without the allocator's lock.
    fn fill(&self, placed: &Placed, page: PageIndex, claim: Claim<'_>) -> Outcome {
        let pages = PageRange::from(page);
        if self.injected.alloc().is_err() || !self.charge(1) {
            claim.release();
            return Outcome::Forward;
        }
        if self.expose(placed, pages).is_err() {
            self.uncharge(1);
            claim.release();
            return Outcome::Forward;
        }
        claim.settle(Filled::Page);
        // The table has a link for every page, so this cannot fail; if it did, the allocator
        // would still find the entry taken. No assertion: the handler must not panic.
        let _listed = self.touched.push(pages);
        Outcome::Retry
    }

    /// Shows claimed pages, zeroed, in both views; on an error in neither.
    fn expose(&self, placed: &Placed, pages: PageRange) -> Result<(), OsError> {
        // Relaxed: set under a claim on the page, and this comes under a later one (or see
        // `set_file_shared`).
        if self.unclean.load(Ordering::Relaxed) {
            self.punch(placed, pages)?;
        }
        let done = self
            .injected
            .map(pages)
            .and_then(|()| self.show(placed, pages));
        if done.is_err() {
            // Half exposed pages must not be seen empty, and what was written through the view
            // that showed them must not be seen at all. The claims still keep others off.
            let gone = self.hide(placed, pages);
            if gone.and_then(|()| self.punch(placed, pages)).is_err() {
                self.unclean.store(true, Ordering::Relaxed);
            }
        }
        done
    }

    fn show(&self, placed: &Placed, pages: PageRange) -> Result<(), OsError> {
        placed.host.expose(pages)?;
        // SeqCst: either this looks after a view was set, or who set it finds these entries
        // busy or filled; pairs with the fence in `Arena::expose_to_user`.
        fence(Ordering::SeqCst);
        self.user.get().map_or(Ok(()), |user| user.expose(pages))
    }

    /// From now on another process may have the file. What it writes into a hole before the
    /// page is allocated is wiped then; what it writes later it could write into any page.
    pub(crate) fn set_file_shared(&self) {
        // Relaxed: the descriptor that makes it matter goes out by a system call after this; a
        // page that is being exposed meanwhile was allocated before.
        self.unclean.store(true, Ordering::Relaxed);
    }

    fn punch(&self, placed: &Placed, pages: PageRange) -> Result<(), OsError> {
        let len = u64::from(pages.len()).saturating_mul(PAGE_SIZE);
        self.file.punch(placed.host.file_offset(pages.first()), len)
    }

    /// Counts pages that come into use; false at the limit.
    fn charge(&self, pages: u32) -> bool {
        let limit = self.spec.page_limit();
        let charged =
            self.pages_in_use
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                    used.checked_add(pages).filter(|sum| *sum <= limit)
                });
        charged.is_ok()
    }

    fn uncharge(&self, pages: u32) {
        self.pages_in_use.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Removes the scratch mapping of a page whose entry the caller owns.
    fn lift_scratch(&self, page: WindowPage) -> Result<(), OsError> {
        if let (Some(index), Some(placed)) = (page.in_window(), self.placed.get())
            && placed.host.holds(index)
        {
            return placed.host.lift_scratch(index);
        }
        self.reservation
            .range()
            .map_anonymous(self.span(page), Protection::None)
    }

    fn span(&self, page: WindowPage) -> Span {
        Span {
            // Inside the area, so neither can overflow.
            offset: self
                .window_offset()
                .wrapping_add(page.index().wrapping_mul(PAGE)),
            len: PAGE,
        }
    }

    /// The user address of a byte of the window: the high half of `user_vm_start` plus its
    /// offset.
    pub(crate) fn user_addr(&self, offset: u64) -> UserAddr {
        let start = self
            .placed
            .get()
            .map_or(0, |placed| placed.user_start.raw());
        // Wraps for the upper guard of a window in the last 4 GiB of the address space.
        let high = start & !WINDOW_SIZE.wrapping_sub(1);
        UserAddr::new(high.wrapping_add(offset))
    }

    // ---- called by the allocator, under the arena's lock -----------------------------

    /// Fills empty entries with zeroed pages: all of them, or none.
    pub(crate) fn populate(&self, placed: &Placed, pages: PageRange) -> Result<(), PopulateError> {
        let claims = self.claim_all(pages)?;
        // Charged only now: a user's touch must not be refused for pages that are not given out
        // after all.
        if !self.charge(pages.len()) {
            claims.into_iter().for_each(Claim::release);
            return Err(PopulateError::Limit);
        }
        if let Err(error) = self.expose(placed, pages) {
            self.uncharge(pages.len());
            claims.into_iter().for_each(Claim::release);
            return Err(PopulateError::Os(error));
        }
        for claim in claims {
            claim.settle(Filled::Page);
        }
        Ok(())
    }

    fn claim_all(&self, pages: PageRange) -> Result<Vec<Claim<'_>>, PopulateError> {
        let mut claims = Vec::new();
        let room = claims.try_reserve_exact(pages.len() as usize);
        room.map_err(|_no_memory| PopulateError::Os(OUT_OF_MEMORY))?;
        for page in pages.pages() {
            match self
                .entry(page.into())
                .claim_for_page(|| self.lift_scratch(page.into()))
            {
                Ok(claim) => claims.push(claim),
                Err(error) => {
                    claims.into_iter().for_each(Claim::release);
                    return Err(PopulateError::from_claim(error, page));
                }
            }
        }
        Ok(claims)
    }

    /// Empties entries, whatever they hold. Pages are gone from the host's view, then from
    /// the user's, before their memory is given back and before they can be filled again.
    /// `emptied` is told of each run of pages that is empty now; what the system refuses to
    /// unmap stays as it was, and the first refusal is the result.
    pub(crate) fn empty(
        &self,
        placed: &Placed,
        pages: PageRange,
        mut emptied: impl FnMut(PageRange),
    ) -> Result<(), OsError> {
        let mut emptying = Emptying {
            shared: self,
            placed,
            claims: Vec::new(),
            first: pages.first(),
            empty: None,
            emptied: &mut emptied,
            result: Ok(()),
        };
        for page in pages.pages() {
            emptying.page(page);
        }
        emptying.finish()
    }

    /// The claim on a page that was mapped; scratch is lifted at once.
    fn clear_entry(&self, page: PageIndex) -> Result<Option<Claim<'_>>, OsError> {
        loop {
            match self.entry(page.into()).get_and_clear() {
                Cleared::Was(Filled::Page, claim) => return Ok(Some(claim)),
                Cleared::WasEmpty => return Ok(None),
                Cleared::Was(Filled::Scratch, claim) => {
                    if let Err(error) = self.lift_scratch(page.into()) {
                        claim.settle(Filled::Scratch);
                        return Err(error);
                    }
                    claim.release();
                    return Ok(None);
                }
                // A handler on another thread, inside a system call or two.
                Cleared::WasBusy => spin_loop(),
            }
        }
    }

    /// Unmaps claimed pages and gives their memory back; if the system refuses, they stay.
    fn empty_run(
        &self,
        placed: &Placed,
        pages: PageRange,
        claims: Vec<Claim<'_>>,
    ) -> Result<(), OsError> {
        assert_eq!(claims.len(), pages.len() as usize, "a claim a page");
        let hidden = self.hide(placed, pages);
        let done = hidden.and_then(|()| self.punch(placed, pages));
        // Still reachable, or not zeroed: the pages stay allocated, if they can be shown again. A
        // page that is out of reach must not say that it is there: who touches it would fault
        // for ever. Then it is empty, but not free.
        if done.is_err() && self.show(placed, pages).is_ok() {
            for claim in claims {
                claim.settle(Filled::Page);
            }
            return done;
        }
        if done.is_err() {
            self.unclean.store(true, Ordering::Relaxed);
            let _ = self.hide(placed, pages);
        }
        claims.into_iter().for_each(Claim::release);
        self.uncharge(pages.len());
        done
    }

    fn hide(&self, placed: &Placed, pages: PageRange) -> Result<(), OsError> {
        self.injected.unmap(pages)?;
        placed.host.hide(pages)?;
        self.user.get().map_or(Ok(()), |user| user.hide(pages))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The area becomes reserved and empty again: real pages, scratch and all. The file, and
        // with it all memory, goes with its last view.
        self.reservation.unclaim(self.area);
    }
}

/// A range on its way to being empty: runs of claimed pages are unmapped together, and runs
/// of empty ones are reported together.
struct Emptying<'a, F: FnMut(PageRange)> {
    shared: &'a Shared,
    placed: &'a Placed,
    /// Claims on the pages from `first` on.
    claims: Vec<Claim<'a>>,
    first: PageIndex,
    /// Pages that are empty and not reported yet.
    empty: Option<PageRange>,
    emptied: F,
    result: Result<(), OsError>,
}

impl<F: FnMut(PageRange)> Emptying<'_, F> {
    fn page(&mut self, page: PageIndex) {
        match self.shared.clear_entry(page) {
            Ok(Some(claim)) => {
                if self.claims.len() >= RUN_MAX {
                    self.unmap();
                }
                if self.claims.is_empty() {
                    self.first = page;
                }
                self.claims.push(claim);
            }
            Ok(None) => {
                self.unmap();
                self.found_empty(page.into());
            }
            Err(error) => {
                self.unmap();
                self.refused(error);
            }
        }
    }

    fn unmap(&mut self) {
        let claims = core::mem::take(&mut self.claims);
        let count = u32::try_from(claims.len()).unwrap_or(u32::MAX);
        let Some(pages) = PageRange::new(self.first, count) else {
            return;
        };
        match self.shared.empty_run(self.placed, pages, claims) {
            Ok(()) => self.found_empty(pages),
            Err(error) => self.refused(error),
        }
    }

    fn found_empty(&mut self, pages: PageRange) {
        match self.empty.and_then(|before| before.joined(pages)) {
            Some(both) => self.empty = Some(both),
            None => {
                self.report();
                self.empty = Some(pages);
            }
        }
    }

    fn refused(&mut self, error: OsError) {
        self.report();
        self.result = self.result.and(Err(error));
    }

    fn report(&mut self) {
        if let Some(pages) = self.empty.take() {
            (self.emptied)(pages);
        }
    }

    fn finish(mut self) -> Result<(), OsError> {
        self.unmap();
        self.report();
        self.result
    }
}

/// Why pages could not be filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PopulateError {
    /// The byte limit.
    Limit,
    /// A user's touch filled this page first.
    Occupied(PageIndex),
    /// The system refused.
    Os(OsError),
}

impl PopulateError {
    fn from_claim(error: harena_arena_fault::ClaimError<OsError>, page: PageIndex) -> Self {
        match error {
            harena_arena_fault::ClaimError::Occupied => Self::Occupied(page),
            harena_arena_fault::ClaimError::Lift(error) => Self::Os(error),
        }
    }
}
