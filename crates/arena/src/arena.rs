//! An arena: memory that programs, host code and user code share.
//!
//! One page lies at three addresses. Page `p` of the user window:
//!
//! | who | address |
//! |---|---|
//! | user, and pointers stored in the arena | `user_vm_start + p * 4096` |
//! | guest kernel (BPF registers after a cast) | `kern_vm_start + (u32)(user address)` |
//! | this process | `host_ptr((u32)(user address))` |
//!
//! `kern_vm_start` is a *guest* address: the VM chooses it, so that programs see the same
//! numbers in every run. An arena of its own uses its host address.

use std::mem::{ManuallyDrop, replace, take};

use harena_abi::{ArenaOffset, KernAddr, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::{
    ArenaId, EntryState, HALF_GUARD, KERN_VM_SIZE, PageRange, REGISTRY, Report, WINDOW_SIZE,
    WindowPage,
};

use crate::inject::Injection;
use crate::lock::OwnedLock;
use crate::range_tree::RangeTree;
use crate::reservation::{Reservation, reserve_at};
use crate::shared::{Outcome, Placed, Shared};
use crate::slab::Slab;
use crate::spec::{ArenaSpec, CreateError};
use crate::sync::{Arc, OnceLock, Ordering, fence, spin_loop};
use crate::sys::{FaultSignal, OsError, install_handler};
use crate::view::{Scheme, View};

/// Bytes of address space that every arena takes in its reservation.
#[expect(clippy::cast_possible_truncation, reason = "fits a 64-bit usize")]
pub const ARENA_AREA: usize = KERN_VM_SIZE as usize;

/// An arena. Share it as `Arc<Arena>`; all methods take `&self`.
///
/// ```
/// use harena_abi::bpf::BPF_F_MMAPABLE;
/// use harena_arena::{Arena, ArenaSpec};
///
/// let arena = Arena::create(&ArenaSpec {
///     max_entries: 16,
///     map_flags: BPF_F_MMAPABLE,
///     map_extra: 0x1000_0000_0000,
///     ..ArenaSpec::default()
/// })?;
/// let page = arena.alloc_pages(None, 1, 0).expect("16 pages are free");
/// assert_eq!(page.raw(), 0x1000_0000_0000);
/// # Ok::<(), harena_arena::CreateError>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    id: ArenaId,
    kern_vm_start: KernAddr,
    /// In an `Arc` for its stable address, which the registry knows; there is no second one.
    pub(crate) shared: Arc<Shared>,
    /// Free pages of the window.
    pub(crate) space: OwnedLock<RangeTree>,
    /// Small objects; made when they are first asked for.
    pub(crate) slab: OnceLock<Slab>,
}

/// An arena's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryUse {
    /// Pages that programs, host or user have in use: what the byte limit counts.
    pub pages: u64,
    /// Pages that may be in use at a time.
    pub pages_max: u64,
    /// Bytes of memory behind pages that were touched, and behind the scratch page.
    pub resident_bytes: u64,
}

/// Why a user window or view could not be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UserMapError {
    /// The start is not page aligned.
    #[error("user window at {start} is not page aligned")]
    Unaligned {
        /// As given.
        start: UserAddr,
    },
    /// The window would cross a 4 GiB boundary.
    #[error("user window at {start} crosses a 4 GiB boundary")]
    CrossesBoundary {
        /// As given.
        start: UserAddr,
    },
    /// The window lies elsewhere, or is mapped in this process already.
    #[error("the user window lies at {start} already")]
    Busy {
        /// Where it lies.
        start: UserAddr,
    },
    /// Host code has touched pages already; what lies there cannot become the window's.
    #[error("the user window at {start} comes after the first access")]
    Late {
        /// As given.
        start: UserAddr,
    },
    /// No start is known: give `map_extra` or set the window first.
    #[error("the arena has no user window")]
    NoWindow,
    /// The system refused.
    #[error("user view")]
    Os(#[source] OsError),
    /// A child made by fork has no arena.
    #[error("the arena belongs to another process")]
    Forked,
}

impl UserMapError {
    /// The error number that `mmap` would give.
    #[must_use]
    pub const fn errno(&self) -> harena_abi::Errno {
        use harena_abi::Errno;
        match self {
            Self::Unaligned { .. } | Self::NoWindow | Self::Forked => Errno::EINVAL,
            Self::CrossesBoundary { .. } => Errno::ERANGE,
            Self::Busy { .. } | Self::Late { .. } => Errno::EBUSY,
            Self::Os(_) => Errno::ENOMEM,
        }
    }
}

/// A user's access that is a SIGSEGV.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a user's access to {address} is a SIGSEGV")]
pub struct Segv {
    /// As given.
    pub address: UserAddr,
}

impl Arena {
    /// Creates an arena with a reservation of its own; its guest addresses are host addresses.
    pub fn create(spec: &ArenaSpec) -> Result<Self, CreateError> {
        spec.validate()?;
        let reservation = Reservation::new(ARENA_AREA).map_err(placement_error)?;
        let kern_vm = KernAddr::new(reservation.host_base() as u64);
        Self::create_in(&Arc::new(reservation), 0, kern_vm, spec)
    }

    /// Creates an arena in [`ARENA_AREA`] bytes at `offset` of a reservation. `kern_vm` is the
    /// guest address of that area; `kern_vm_start` lies half a guard behind it.
    pub fn create_in(
        reservation: &Arc<Reservation>,
        offset: usize,
        kern_vm: KernAddr,
        spec: &ArenaSpec,
    ) -> Result<Self, CreateError> {
        spec.validate()?;
        let len = reservation.len();
        let kern_vm_start = kern_vm
            .checked_add(HALF_GUARD)
            .ok_or(CreateError::Placement { offset, len })?;
        let area = reservation
            .claim(offset, ARENA_AREA)
            .map_err(placement_error)?;
        let shared = Shared::new(*spec, Arc::clone(reservation), area).map_err(|error| {
            reservation.unclaim(area);
            CreateError::Os(error)
        })?;
        let shared = Arc::new(shared);
        let payload = Arc::as_ptr(&shared).cast_mut().cast::<()>();
        let id = REGISTRY
            .publish(shared.host_start().expose_provenance(), payload)
            .ok_or(CreateError::TooManyArenas)?;
        let arena = Self {
            id,
            kern_vm_start,
            shared,
            space: OwnedLock::new(RangeTree::new()),
            slab: OnceLock::new(),
        };
        // Published before: see `uninstall_handler`.
        install_handler(FaultSignal::Segv).map_err(CreateError::Os)?;
        if let Some(start) = spec.fixed_user_start() {
            arena.place(start).map_err(CreateError::Os)?;
        }
        Ok(arena)
    }

    /// Fixes the user window at `start`, as the first user mapping does where `map_extra` is 0.
    /// Setting it again to the same address is fine; to another one it is `EBUSY`. It must come
    /// before host code touches an empty page.
    pub fn set_user_window(&self, start: UserAddr) -> Result<(), UserMapError> {
        if !start.raw().is_multiple_of(PAGE_SIZE) || start.is_null() {
            return Err(UserMapError::Unaligned { start });
        }
        if self.shared.spec.check_window(start.raw()).is_err() {
            return Err(UserMapError::CrossesBoundary { start });
        }
        if !self.shared.is_owner() {
            return Err(UserMapError::Forked);
        }
        match self.user_vm_start() {
            Some(at) if at == start => Ok(()),
            Some(at) => Err(UserMapError::Busy { start: at }),
            None => self.place_first(start),
        }
    }

    /// Places the window, unless another thread does so at the same time.
    fn place_first(&self, start: UserAddr) -> Result<(), UserMapError> {
        if self.faults_recovered() != 0 {
            return Err(UserMapError::Late { start });
        }
        match (self.place(start), self.user_vm_start()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(at)) if at == start => Ok(()),
            (Err(_), Some(at)) => Err(UserMapError::Busy { start: at }),
            (Err(error), None) => Err(UserMapError::Os(error)),
        }
    }

    fn place(&self, user_start: UserAddr) -> Result<(), OsError> {
        let first = ArenaOffset::of(user_start).page();
        let window = PageRange::new(first, self.shared.spec.max_entries);
        let window = window.expect("a validated window is not empty and does not cross 4 GiB");
        let shared = &self.shared;
        let start = shared.window_offset() + page_bytes(first);
        // Under the lock, lest two threads place it twice.
        let Ok(mut space) = self.space.lock(crate::sys::thread_key()) else {
            return Err(OsError {
                call: "arena lock",
                len: 0,
                errno: EBUSY,
            });
        };
        if shared.placed.get().is_some() {
            return Err(OsError {
                call: "user window",
                len: 0,
                errno: EBUSY,
            });
        }
        let (reservation, file) = (Arc::clone(&shared.reservation), Arc::clone(&shared.file));
        let host = View::new(reservation, file, start, window)?;
        space.set(window.first().raw(), window.len());
        let placed = Placed {
            user_start,
            window,
            host,
        };
        let unplaced = shared.placed.set(placed).is_ok();
        assert!(unplaced, "the lock is held, and nothing was placed before");
        Ok(())
    }

    /// Maps the user's view into this process at `user_vm_start`. First touches of empty pages
    /// allocate them (or are a SIGSEGV with `BPF_F_SEGV_ON_FAULT`). The view lasts as long as
    /// the arena; a second one is `EBUSY`.
    pub fn map_user(&self) -> Result<*mut u8, UserMapError> {
        if !self.shared.is_owner() {
            return Err(UserMapError::Forked);
        }
        let placed = self.shared.placed.get().ok_or(UserMapError::NoWindow)?;
        let busy = UserMapError::Busy {
            start: placed.user_start,
        };
        let Ok(guard) = self.space.lock(crate::sys::thread_key()) else {
            return Err(busy);
        };
        if REGISTRY.has_user_view(self.id) {
            return Err(busy);
        }
        let (address, size) = (placed.user_start.raw(), self.shared.spec.byte_size());
        let as_usize = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (address, size) = (as_usize(address), as_usize(size));
        let done = match self.shared.user.get() {
            // One that failed half way: nobody knows of it yet.
            Some(view) => Ok(view),
            None => self.reserve_user_view(placed, (address, size)),
        };
        let view = done
            .and_then(|view| self.expose_to_user(view, placed.window).map(|()| view))
            .map_err(UserMapError::Os)?;
        REGISTRY.set_user_view(self.id, address, size);
        drop(guard);
        Ok(view.base())
    }

    /// Maps the view with all pages hidden. From here on the allocator shows pages in it.
    fn reserve_user_view(
        &self,
        placed: &Placed,
        (address, size): (usize, usize),
    ) -> Result<&View, OsError> {
        let reservation = Arc::new(reserve_at(address, size)?);
        let file = Arc::clone(&self.shared.file);
        let view = View::new(reservation, file, 0, placed.window)?;
        let unmapped = self.shared.user.set(view).is_ok();
        assert!(unmapped, "the lock is held, and no view was there before");
        Ok(self.shared.user.get().expect("just set"))
    }

    /// Shows the pages that were there before the view. Under the lock, so none goes meanwhile;
    /// a page that a touch adds meanwhile is shown twice. Should the system refuse, what was
    /// shown is hidden again, which gives back the mappings that it took.
    fn expose_to_user(&self, user: &View, window: PageRange) -> Result<(), OsError> {
        // SeqCst: either these looks find an entry that is being filled, or who fills it finds
        // the view; pairs with the fence in `Shared::show`.
        fence(Ordering::SeqCst);
        let done = self.expose_present(user, window);
        if done.is_err() && user.scheme() == Scheme::Protect {
            let _ = user.hide(window);
        }
        done
    }

    fn expose_present(&self, user: &View, window: PageRange) -> Result<(), OsError> {
        let present = |page: &PageIndex| {
            let entry = self.shared.entry((*page).into());
            matches!(entry.state(), EntryState::Page | EntryState::Busy)
        };
        for page in window.pages().filter(present) {
            while self.shared.entry(page.into()).state() == EntryState::Busy {
                spin_loop();
            }
            if present(&page) {
                user.expose(PageRange::from(page))?;
            }
        }
        Ok(())
    }

    /// What a user's access to `address` does: allocates the page if it is empty, or is a
    /// SIGSEGV. For users that are simulated rather than threads with a view.
    pub fn touch_user(&self, address: UserAddr) -> Result<(), Segv> {
        let segv = Segv { address };
        let placed = self.shared.placed.get().ok_or(segv)?;
        if !self.shared.is_owner() {
            return Err(segv);
        }
        let offset = address.offset_from(placed.user_start).ok_or(segv)?;
        loop {
            if offset >= self.shared.spec.byte_size() {
                return Err(segv);
            }
            let page = ArenaOffset::of(address).page();
            match (
                self.shared.touch(placed, page),
                self.shared.entry(page.into()).state(),
            ) {
                (Outcome::Forward, _) => return Err(segv),
                (Outcome::Retry, EntryState::Page) => return Ok(()),
                (Outcome::Retry, _) => spin_loop(),
            }
        }
    }

    /// Which arena of this process it is.
    #[must_use]
    pub fn id(&self) -> ArenaId {
        self.id
    }

    /// What it was created from.
    #[must_use]
    pub fn spec(&self) -> &ArenaSpec {
        &self.shared.spec
    }

    /// Guest address of 32-bit offset 0.
    #[must_use]
    pub fn kern_vm_start(&self) -> KernAddr {
        self.kern_vm_start
    }

    /// First address of the user window, once known.
    #[must_use]
    pub fn user_vm_start(&self) -> Option<UserAddr> {
        self.shared.placed.get().map(|placed| placed.user_start)
    }

    /// The address behind the user window, once known.
    #[must_use]
    pub fn user_vm_end(&self) -> Option<UserAddr> {
        self.user_vm_start()?
            .checked_add(self.shared.spec.byte_size())
    }

    /// Host address of an offset. What lies there is shared with programs and may vanish: go
    /// through [`crate::ArenaPtr`], never make a reference.
    #[must_use]
    pub fn host_ptr(&self, offset: ArenaOffset) -> *mut u8 {
        self.shared.host_start().wrapping_add(offset.raw() as usize)
    }

    /// The full user address of an offset, as a cast of a host pointer gives it.
    #[must_use]
    pub fn user_addr(&self, offset: ArenaOffset) -> UserAddr {
        self.shared.user_addr(u64::from(offset.raw()))
    }

    /// Guest address of an offset.
    #[must_use]
    pub fn kern_addr(&self, offset: ArenaOffset) -> KernAddr {
        let at = self.kern_vm_start.checked_add(u64::from(offset.raw()));
        at.unwrap_or(self.kern_vm_start)
    }

    /// The offset that a guest address of the 4 GiB window names.
    #[must_use]
    pub fn offset_of(&self, address: KernAddr) -> Option<ArenaOffset> {
        let offset = address.offset_from(self.kern_vm_start)?;
        u32::try_from(offset).ok().map(ArenaOffset::new)
    }

    /// What the entry of a page holds: one atomic load. An interpreter asks before each access,
    /// since a *program's* fault must not install scratch.
    #[must_use]
    pub fn entry_state(&self, page: PageIndex) -> EntryState {
        self.shared.entry(page.into()).state()
    }

    /// As [`Arena::entry_state`], for pages of the upper half guard too.
    #[must_use]
    pub fn window_state(&self, page: WindowPage) -> EntryState {
        self.shared.entry(page).state()
    }

    /// Pages that programs, host or user have in use.
    #[must_use]
    pub fn pages_in_use(&self) -> u32 {
        self.shared.pages_in_use()
    }

    /// Makes allocations fail on purpose from now on, and forgets what was asked before.
    pub fn inject(&self, injection: &Injection) {
        self.shared.injected.set(injection);
    }

    /// Allocations that failed on purpose since [`Arena::inject`].
    #[must_use]
    pub fn injected_failures(&self) -> u64 {
        self.shared.injected.failures()
    }

    /// What the arena uses and may use. The file's size is asked of the system.
    pub fn memory_use(&self) -> Result<MemoryUse, OsError> {
        let pages = u64::from(self.pages_in_use());
        Ok(MemoryUse {
            pages,
            pages_max: u64::from(self.shared.spec.page_limit()),
            resident_bytes: self.shared.resident()?,
        })
    }

    /// Faults of host code that were recovered so far. Their reports can be drained now, unless
    /// they were dropped.
    #[must_use]
    pub fn faults_recovered(&self) -> u64 {
        // Acquire: pairs with the Release in `Shared::install_scratch`.
        self.shared.faults_recovered.load(Ordering::Acquire)
    }

    /// Faults among [`Arena::faults_recovered`] that found the process short of mappings
    /// (`vm.max_map_count`). While this grows, an older scratch page is given up for each new
    /// one, or a page becomes real that should be scratch: raise the limit.
    #[must_use]
    pub fn faults_recovered_short(&self) -> u64 {
        self.shared.faults_short.load(Ordering::Relaxed)
    }

    /// Whether the process is short of mappings: a fault has used up the arena's reserve, which
    /// the next sleepable alloc or free makes anew if it can.
    #[must_use]
    pub fn is_short_of_mappings(&self) -> bool {
        self.shared.is_short()
    }

    /// Entries that hold scratch now. Counts by looking: for tests and statistics.
    #[must_use]
    pub fn scratch_count(&self) -> usize {
        let pages = (0..).map_while(WindowPage::new);
        pages
            .filter(|page| self.window_state(*page) == EntryState::Scratch)
            .count()
    }

    /// Takes the reports of recovered faults, oldest first. At most as many as the ring holds
    /// ([`crate::REPORTS_MAX`]), though faults go on.
    pub fn drain_reports(&self) -> impl Iterator<Item = Report> + '_ {
        std::iter::from_fn(|| self.shared.reports.pop()).take(crate::shared::REPORTS_MAX)
    }

    /// Reports that were dropped because nobody drained them.
    #[must_use]
    pub fn reports_dropped(&self) -> u64 {
        self.shared.reports.dropped()
    }

    /// Whether pages are hidden by guard markers (Linux 6.15) rather than by protection.
    #[must_use]
    pub fn has_guard_markers(&self) -> bool {
        self.shared
            .placed
            .get()
            .is_some_and(|placed| placed.host.scheme() == Scheme::Guard)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.shared.is_owner() {
            // A child made by fork: a thread that was in the handler then does not exist here and
            // never gives its pin back. Nothing is mapped here, so only memory is lost.
            REGISTRY.abandon(self.id);
            let _ = ManuallyDrop::new(Arc::clone(&self.shared));
            // Another thread may have been changing them: what is half changed cannot be dropped.
            let space = replace(&mut self.space, OwnedLock::new(RangeTree::new()));
            let _ = (
                ManuallyDrop::new(space),
                ManuallyDrop::new(take(&mut self.slab)),
            );
            return;
        }
        // No handler uses the shared state once this returns; then the fields drop.
        REGISTRY.retire(self.id);
    }
}

const EBUSY: i32 = harena_abi::Errno::EBUSY as i32;

#[expect(clippy::cast_possible_truncation, reason = "below 4 GiB")]
fn page_bytes(page: PageIndex) -> usize {
    const _: () = assert!(WINDOW_SIZE <= usize::MAX as u64);
    (u64::from(page.raw()) * PAGE_SIZE) as usize
}

fn placement_error(error: crate::ReserveError) -> CreateError {
    match error {
        crate::ReserveError::Range { offset, size, .. } => {
            CreateError::Placement { offset, len: size }
        }
        crate::ReserveError::Claimed { offset, len } => CreateError::Placement { offset, len },
        crate::ReserveError::Os(error) => CreateError::Os(error),
    }
}
