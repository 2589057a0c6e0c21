//! Page allocation: what `bpf_arena_alloc_pages` and its partners do.
//!
//! Free space is a range tree under a lock; the entries are the truth. A user's first touch
//! fills an entry inside the fault handler, where the lock cannot be taken; such pages are
//! listed, and who takes the lock next tells the tree. Should the list be a moment late, the
//! entry itself says that it is taken, and the allocator looks elsewhere.
//!
//! Two variants of free: [`Arena::free_pages`] frees at once; [`Arena::free_pages_deferred`]
//! may be called anywhere and puts the range on a lock-free list, which
//! [`Arena::drain_deferred`] (the kernel's worker) works off. Sleepable operations drain
//! first. There is no worker thread: when frees happen must not depend on timing.

use harena_abi::{ArenaOffset, Errno, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::{EntryState, PageRange};

use crate::arena::Arena;
use crate::lock::{LockError, OwnedGuard};
use crate::range_tree::RangeTree;
use crate::shared::{Placed, PopulateError};
use crate::slab::Tag;
use crate::sys::{OsError, thread_key};

/// Why pages were not allocated; a program gets NULL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AllocError {
    /// `flags` must be 0.
    #[error("flags {flags:#x} must be 0")]
    Flags {
        /// As given.
        flags: u64,
    },
    /// No pages, or more than the window has.
    #[error("{page_cnt} pages of an arena of {max_entries}")]
    Count {
        /// As given.
        page_cnt: u32,
        /// Pages of the window.
        max_entries: u32,
    },
    /// The range asked for is not page aligned or leaves the window.
    #[error("{page_cnt} pages at {address} are not in the window")]
    Address {
        /// As given.
        address: UserAddr,
        /// As given.
        page_cnt: u32,
    },
    /// No free range is long enough, or the one asked for is not free.
    #[error("no free range of {page_cnt} pages")]
    NoSpace {
        /// As given.
        page_cnt: u32,
    },
    /// The byte limit.
    #[error("{page_cnt} pages more exceed the byte limit")]
    Limit {
        /// As given.
        page_cnt: u32,
    },
    /// The user window is not known yet.
    #[error("the arena has no user window")]
    NoWindow,
    /// The lock could not be had.
    #[error("page allocation")]
    Lock(#[source] LockError),
    /// The system refused.
    #[error("page allocation")]
    Os(#[source] OsError),
    /// A child made by fork has no arena.
    #[error("the arena belongs to another process")]
    Forked,
    /// It was to fail (see [`crate::Injection`]).
    #[error("allocation {number} was injected to fail")]
    Injected {
        /// Its number, from 1.
        number: u64,
    },
}

/// Why pages were not freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FreeError {
    /// The lock could not be had: put the free off instead.
    #[error("page free")]
    Lock(#[source] LockError),
    /// The system refused; what it refused stays allocated.
    #[error("page free")]
    Os(#[source] OsError),
}

/// Why pages were not reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReservePagesError {
    /// The range leaves the window (or the process is a child made by fork, which has none).
    #[error("{page_cnt} pages at {address} are not in the window")]
    Outside {
        /// As given.
        address: UserAddr,
        /// As given.
        page_cnt: u32,
    },
    /// A page of the range is taken.
    #[error("{page_cnt} pages at {address} are not all free")]
    Taken {
        /// As given.
        address: UserAddr,
        /// As given.
        page_cnt: u32,
    },
    /// The lock could not be had.
    #[error("page reservation")]
    Lock(#[source] LockError),
}

impl ReservePagesError {
    /// What the kfunc returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Outside { .. } => Errno::EINVAL,
            Self::Taken { .. } | Self::Lock(_) => Errno::EBUSY,
        }
    }
}

/// Pages that are freed between two signs of life: some milliseconds' work.
const STEP_PAGES: u32 = 1 << 14;

/// Whether the caller may wait: a sleepable caller works off deferred frees first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Context {
    Sleepable,
    NonSleepable,
}

/// Who frees pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Freed {
    /// A program or the host, at once.
    ByProgram,
    /// Whoever works off what was put off.
    Later,
    /// The slab allocator.
    BySlab,
}

impl Freed {
    fn may_take(self, tag: Tag) -> bool {
        match tag {
            Tag::None => self != Self::BySlab,
            Tag::Released => self != Self::ByProgram,
            Tag::Slab(..) | Tag::Large(_) | Tag::LargeRest(_) | Tag::Dying => false,
        }
    }
}

impl Arena {
    /// Allocates zeroed pages: exactly at `addr`, or the best free range. May wait.
    pub fn alloc_pages(
        &self,
        addr: Option<UserAddr>,
        page_cnt: u32,
        flags: u64,
    ) -> Result<UserAddr, AllocError> {
        self.alloc(addr, page_cnt, flags, Context::Sleepable, || ())
    }

    /// As [`Arena::alloc_pages`], from any context. Deferred frees are not waited for.
    pub fn alloc_pages_non_sleepable(
        &self,
        addr: Option<UserAddr>,
        page_cnt: u32,
        flags: u64,
    ) -> Result<UserAddr, AllocError> {
        self.alloc(addr, page_cnt, flags, Context::NonSleepable, || ())
    }

    /// As [`Arena::alloc_pages`], and runs `hook` while the lock is held: what a tracing
    /// program attached inside the allocator sees.
    pub fn alloc_pages_traced(
        &self,
        addr: Option<UserAddr>,
        page_cnt: u32,
        hook: impl FnOnce(),
    ) -> Result<UserAddr, AllocError> {
        self.alloc(addr, page_cnt, 0, Context::Sleepable, hook)
    }

    /// As [`Arena::alloc_pages_traced`], from any context.
    pub fn alloc_pages_non_sleepable_traced(
        &self,
        addr: Option<UserAddr>,
        page_cnt: u32,
        hook: impl FnOnce(),
    ) -> Result<UserAddr, AllocError> {
        self.alloc(addr, page_cnt, 0, Context::NonSleepable, hook)
    }

    fn alloc(
        &self,
        addr: Option<UserAddr>,
        page_cnt: u32,
        flags: u64,
        context: Context,
        hook: impl FnOnce(),
    ) -> Result<UserAddr, AllocError> {
        if flags != 0 {
            return Err(AllocError::Flags { flags });
        }
        let placed = self.check_count(page_cnt)?;
        let exact = addr.map(|address| {
            let aligned = address.raw().is_multiple_of(PAGE_SIZE);
            let range = window_range(placed, address, page_cnt).filter(|_| aligned);
            range.ok_or(AllocError::Address { address, page_cnt })
        });
        let exact = exact.transpose()?;
        self.admit()?;
        let mut space = self
            .locked_space(placed, context)
            .map_err(AllocError::Lock)?;
        hook();
        let pages = match exact {
            Some(pages) => self.take_exact(placed, &mut space, pages)?,
            None => self.take_best(placed, &mut space, page_cnt)?,
        };
        Ok(self.user_addr(pages.first().offset()))
    }

    /// Pages for the slab allocator, from any context. `own` runs under the lock: nobody can
    /// free the pages before they are known to be the slab allocator's.
    pub(crate) fn alloc_for_slab(
        &self,
        page_cnt: u32,
        own: impl FnOnce(PageRange),
    ) -> Result<PageRange, AllocError> {
        let placed = self.check_count(page_cnt)?;
        self.admit()?;
        let mut space = self
            .locked_space(placed, Context::NonSleepable)
            .map_err(AllocError::Lock)?;
        let pages = match self.take_best(placed, &mut space, page_cnt) {
            Err(AllocError::NoSpace { .. } | AllocError::Limit { .. })
                if !self.shared.deferred.is_empty() =>
            {
                self.free_deferred(placed, &mut space);
                self.take_best(placed, &mut space, page_cnt)
            }
            done => done,
        }?;
        own(pages);
        Ok(pages)
    }

    /// Frees pages that the slab allocator has marked as released, at once or by the next who
    /// has the lock.
    pub(crate) fn free_for_slab(&self, pages: PageRange) {
        let placed = self.shared.placed.get();
        // A child made by fork may have the cache, but not the memory.
        let Some(placed) = placed.filter(|_| self.shared.is_owner()) else {
            return;
        };
        match self.locked_space(placed, Context::NonSleepable) {
            Ok(mut space) => {
                // What the system refuses to unmap stays out of reach until the arena goes.
                let _ = self.release(placed, &mut space, pages, Freed::BySlab);
            }
            Err(_) => self.defer(pages),
        }
    }

    fn check_count(&self, page_cnt: u32) -> Result<&Placed, AllocError> {
        let max_entries = self.spec().max_entries;
        if page_cnt == 0 || page_cnt > max_entries {
            return Err(AllocError::Count {
                page_cnt,
                max_entries,
            });
        }
        self.shared.placed.get().ok_or(AllocError::NoWindow)
    }

    /// Whether this process may allocate, and this allocation is not to fail.
    fn admit(&self) -> Result<(), AllocError> {
        if !self.shared.is_owner() {
            return Err(AllocError::Forked);
        }
        let injected = self.shared.injected.alloc();
        injected.map_err(|number| AllocError::Injected { number })
    }

    fn take_exact(
        &self,
        placed: &Placed,
        space: &mut RangeTree,
        pages: PageRange,
    ) -> Result<PageRange, AllocError> {
        let page_cnt = pages.len();
        if !space.is_set(pages.first().raw(), page_cnt) {
            return Err(AllocError::NoSpace { page_cnt });
        }
        self.take(placed, space, pages)
            .map_err(|error| alloc_error(error, page_cnt))?;
        Ok(pages)
    }

    fn take_best(
        &self,
        placed: &Placed,
        space: &mut RangeTree,
        page_cnt: u32,
    ) -> Result<PageRange, AllocError> {
        // Ends: every round but the last takes a page out of the tree for good.
        loop {
            let first = space.find(page_cnt).and_then(PageIndex::new);
            let pages = first.and_then(|first| PageRange::new(first, page_cnt));
            let pages = pages.ok_or(AllocError::NoSpace { page_cnt })?;
            match self.take(placed, space, pages) {
                Ok(()) => return Ok(pages),
                Err(PopulateError::Occupied(_)) => {}
                Err(error) => return Err(alloc_error(error, page_cnt)),
            }
        }
    }

    /// Fills the pages and takes them out of the tree. What a user's touch filled first is
    /// taken out of the tree instead.
    fn take(
        &self,
        placed: &Placed,
        space: &mut RangeTree,
        pages: PageRange,
    ) -> Result<(), PopulateError> {
        let done = self.shared.populate(placed, pages);
        match done {
            Ok(()) => space.clear(pages.first().raw(), pages.len()),
            Err(PopulateError::Occupied(page)) => space.clear(page.raw(), 1),
            Err(PopulateError::Limit | PopulateError::Os(_)) => {}
        }
        done
    }

    /// Frees pages at once: unmapped from host and user before anybody can have them again.
    /// Only the low 32 bits of `ptr` count, rounded down to a page and clipped to the window.
    pub fn free_pages(&self, ptr: UserAddr, page_cnt: u32) -> Result<(), FreeError> {
        let Some((placed, pages)) = self.clipped(ptr, page_cnt) else {
            return Ok(());
        };
        let mut space = self
            .locked_space(placed, Context::Sleepable)
            .map_err(FreeError::Lock)?;
        self.release_stepwise(placed, &mut space, pages, Freed::ByProgram)
            .map_err(FreeError::Os)
    }

    /// Frees pages later, from any context: never waits, never fails.
    pub fn free_pages_deferred(&self, ptr: UserAddr, page_cnt: u32) {
        if let Some((_, pages)) = self.clipped(ptr, page_cnt) {
            self.defer(pages);
        }
    }

    fn defer(&self, pages: PageRange) {
        let listed = self.shared.deferred.push(pages);
        assert!(listed, "every page of the window has a link");
    }

    /// Works off the deferred frees. The VM calls it between programs; ranges that the system
    /// refuses to unmap stay allocated until the arena goes.
    pub fn drain_deferred(&self) -> Result<(), FreeError> {
        let placed = self.shared.placed.get();
        let Some(placed) = placed.filter(|_| self.shared.is_owner()) else {
            return Ok(());
        };
        self.locked_space(placed, Context::Sleepable)
            .map(drop)
            .map_err(FreeError::Lock)
    }

    /// Takes a range out of the allocator without filling it.
    pub fn reserve_pages(&self, ptr: UserAddr, page_cnt: u32) -> Result<(), ReservePagesError> {
        let outside = ReservePagesError::Outside {
            address: ptr,
            page_cnt,
        };
        if page_cnt == 0 {
            return Ok(());
        }
        let placed = self.shared.placed.get();
        // A child made by fork has no window.
        let placed = placed.filter(|_| self.shared.is_owner()).ok_or(outside)?;
        let pages = window_range(placed, ptr, page_cnt).ok_or(outside)?;
        let space = self.locked_space(placed, Context::Sleepable);
        let mut space = space.map_err(ReservePagesError::Lock)?;
        let taken = pages
            .pages()
            .any(|page| self.entry_state(page) == EntryState::Page);
        if taken || !space.is_set(pages.first().raw(), page_cnt) {
            return Err(ReservePagesError::Taken {
                address: ptr,
                page_cnt,
            });
        }
        space.clear(pages.first().raw(), page_cnt);
        Ok(())
    }

    /// The lock, with the tree up to date.
    fn locked_space(
        &self,
        placed: &Placed,
        context: Context,
    ) -> Result<OwnedGuard<'_, RangeTree>, LockError> {
        let mut space = self.space.lock(thread_key())?;
        self.learn_touched(&mut space);
        if context == Context::Sleepable {
            self.shared.restore_spare();
            self.free_deferred(placed, &mut space);
        }
        Ok(space)
    }

    fn free_deferred(&self, placed: &Placed, space: &mut OwnedGuard<'_, RangeTree>) {
        if self.shared.deferred.is_empty() {
            return;
        }
        for pages in self.shared.deferred.take() {
            // What cannot be unmapped stays out of reach of the allocator.
            let _ = self.release_stepwise(placed, space, pages, Freed::Later);
        }
    }

    /// Takes pages that users touched out of the tree.
    fn learn_touched(&self, space: &mut RangeTree) {
        if self.shared.touched.is_empty() {
            return;
        }
        for pages in self.shared.touched.take() {
            // It may have been freed since it was listed.
            if self.entry_state(pages.first()) == EntryState::Page {
                space.clear(pages.first().raw(), pages.len());
            }
        }
    }

    /// Releases all that can be released; gives the first error. Who waits for the lock is
    /// told of each step: 4 GiB at once take longer than a waiter has patience.
    fn release_stepwise(
        &self,
        placed: &Placed,
        space: &mut OwnedGuard<'_, RangeTree>,
        pages: PageRange,
        freed: Freed,
    ) -> Result<(), OsError> {
        let mut done = Ok(());
        let starts = (pages.first().raw()..pages.end()).step_by(STEP_PAGES as usize);
        for start in starts {
            let count = STEP_PAGES.min(pages.end() - start);
            let step = PageIndex::new(start).and_then(|first| PageRange::new(first, count));
            let step = step.expect("a part of a valid range");
            done = done.and(self.release(placed, space, step, freed));
            space.progressed();
        }
        done
    }

    /// Frees the pages of a range that may be freed this way. What the system refuses to
    /// unmap stays allocated; the rest is free.
    fn release(
        &self,
        placed: &Placed,
        space: &mut RangeTree,
        pages: PageRange,
        freed: Freed,
    ) -> Result<(), OsError> {
        let mut done = Ok(());
        for run in self.freeable(pages, freed) {
            let emptied = self.shared.empty(placed, run, |emptied| {
                space.set(emptied.first().raw(), emptied.len());
            });
            done = done.and(emptied);
        }
        done
    }

    /// The runs of a range that may be freed: the slab allocator's pages are its own.
    fn freeable(&self, pages: PageRange, freed: Freed) -> Vec<PageRange> {
        let Some(slab) = self.slab.get() else {
            return vec![pages];
        };
        let mut runs: Vec<PageRange> = Vec::new();
        for page in pages.pages().filter(|page| freed.may_take(slab.tag(*page))) {
            slab.untag(page);
            let page = PageRange::from(page);
            match runs.last().and_then(|last| last.joined(page)) {
                Some(both) => *runs.last_mut().expect("there is a last one") = both,
                None => runs.push(page),
            }
        }
        runs
    }

    /// The part of a freed range that lies in the window.
    fn clipped(&self, ptr: UserAddr, page_cnt: u32) -> Option<(&Placed, PageRange)> {
        let placed = self
            .shared
            .placed
            .get()
            .filter(|_| self.shared.is_owner())?;
        let start = u64::from(ArenaOffset::of(ptr).page().raw());
        let first = start.max(u64::from(placed.window.first().raw()));
        let end = (start + u64::from(page_cnt)).min(u64::from(placed.window.end()));
        let count = u32::try_from(end.checked_sub(first)?).ok()?;
        let first = PageIndex::new(u32::try_from(first).ok()?)?;
        Some((placed, PageRange::new(first, count)?))
    }
}

/// The pages at an address of which only the low 32 bits count, if all lie in the window.
fn window_range(placed: &Placed, address: UserAddr, page_cnt: u32) -> Option<PageRange> {
    let pages = PageRange::new(ArenaOffset::of(address).page(), page_cnt)?;
    let inside = pages.first() >= placed.window.first() && pages.end() <= placed.window.end();
    inside.then_some(pages)
}

fn alloc_error(error: PopulateError, page_cnt: u32) -> AllocError {
    match error {
        PopulateError::Limit => AllocError::Limit { page_cnt },
        PopulateError::Occupied(_) => AllocError::NoSpace { page_cnt },
        PopulateError::Os(error) => AllocError::Os(error),
    }
}
