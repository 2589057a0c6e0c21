//! Guest memory: everything a program can name, and the door to it.
//!
//! Machine code has a door of its own, which `docs/design/0007-jit.md` describes: it has proofs,
//! it cuts addresses to the guest or to the arena's window and relies on the fault handler, or
//! it compares with the bounds that are kept here and only grow. For all others:
//!
//! Invariants
//! - Every access is checked against the heap or an arena's window before a host
//!   address is formed: an address is an allegation until [`GuestMem::host`] has
//!   looked at it.
//! - No reference to guest bytes ever exists, only copies and atomics: a program, a
//!   kfunc or another thread may change them at any time.
//! - What was handed out of the heap is mapped, and stays so; the limits say what that is, and
//!   nothing else is touched. With [`Containment::Mask`] they are multiples of a granule, so that
//!   they say exactly what is mapped.
//! - A page of an arena may be empty; checked accesses see that in the arena's entries and give a
//!   [`MemFault`], they never rely on a signal.
//!
//! Multi-byte values are little-endian, as the programs are.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use harena_abi::{KernAddr, PAGE_SIZE};
use harena_arena::{Arena, ArenaSpec, CreateError, Protection, Reservation, ReserveError};
use harena_arena_fault::{Access, EntryState, WindowPage};
use harena_bpf::analysis::Space;
use harena_jit::{BOUNDS_DISTANCE, BOUNDS_SIZE, BoundOf, Containment, UNIT_SHIFT, bounds_offset};

use crate::error::{MemFault, OutOfGuestMemory, VmCreateError};
use crate::exec::access::Atomic;
use crate::layout::{
    ARENA_COUNT, ARENA_STRIDE, ARENAS_START, GUEST_BASE, GUEST_LEN, HEAP_END, HEAP_START,
    HEAP_WRITABLE, MARGIN, MARGIN_BEHIND, PERCPU_STRIDE, RESERVATION_LEN, Region, contained,
};
use crate::region::RegionAlloc;

const HEAP_LEN: u64 = HEAP_END - HEAP_START;

/// The memory of one VM. Cheap to share; all methods take `&self`.
pub struct GuestMem {
    reservation: Arc<Reservation>,
    /// Host address of `GUEST_BASE`.
    base: NonNull<u8>,
    /// Arenas by number; each slot is filled once.
    arenas: [OnceLock<Arc<Arena>>; ARENA_COUNT],
    regions: Mutex<[RegionAlloc; Region::ALL.len()]>,
    /// Per unit of the heap: bytes at its start that were handed out.
    limits: Box<[AtomicU64]>,
    containment: Containment,
    /// Frozen memory cannot be written at the moment.
    sealed: AtomicBool,
}

/// Heap bytes that share one limit. Regions start and end at units.
const UNIT: u64 = 1 << UNIT_SHIFT;
const _: () = assert!((HEAP_START - GUEST_BASE).is_multiple_of(UNIT));

/// Heap memory is mapped by so many bytes.
const GRANULE: u64 = 64 << 10;

// The bounds are further away than an offset of an instruction leads.
const _: () = assert!(BOUNDS_DISTANCE + BOUNDS_SIZE <= host_size(MARGIN));
const _: () = assert!(BOUNDS_DISTANCE - BOUNDS_SIZE > 2 * (1 << 15));

// SAFETY: `base` points to the reservation, which lives as long as `self`, and is accessed only
// through raw reads and writes and atomics; nothing in it belongs to a thread.
unsafe impl Send for GuestMem {}
// SAFETY: as above; the allocator state is behind a mutex.
unsafe impl Sync for GuestMem {}

impl fmt::Debug for GuestMem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestMem").finish_non_exhaustive()
    }
}

/// Number of an arena in its VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ArenaSlot(usize);

/// Why an arena could not be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateArenaError {
    #[error("a VM holds at most {max} arenas")]
    TooMany { max: usize },
    #[error(transparent)]
    Create(#[from] CreateError),
}

#[expect(clippy::cast_possible_truncation, reason = "64-bit hosts only")]
const fn host_size(bytes: u64) -> usize {
    const _: () = assert!(size_of::<usize>() == 8);
    bytes as usize
}

/// Whether a page (or scratch) is there. A transition in progress takes another thread two
/// system calls at most.
#[inline]
fn is_there(arena: &Arena, page: WindowPage) -> bool {
    loop {
        match arena.window_state(page) {
            EntryState::Busy => std::hint::spin_loop(),
            EntryState::Page | EntryState::Scratch => return true,
            EntryState::Empty => return false,
        }
    }
}

/// An integer that guest memory can hold.
pub(crate) trait Scalar: Copy {
    const LEN: u64;
    /// The value, zero-extended to a register.
    fn to_reg(self) -> u64;
    /// The low bytes of a register.
    fn from_reg(reg: u64) -> Self;
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const LEN: u64 = size_of::<$t>() as u64;
            #[inline]
            fn to_reg(self) -> u64 {
                u64::from(self)
            }
            #[inline]
            #[expect(clippy::cast_possible_truncation, clippy::allow_attributes, reason = "a store keeps the low bytes")]
            fn from_reg(reg: u64) -> Self {
                #[allow(trivial_numeric_casts, reason = "the widest scalar is the register")]
                { reg as $t }
            }
        }
    )*};
}
scalar!(u8, u16, u32);

impl Scalar for u64 {
    const LEN: Self = 8;
    #[inline]
    fn to_reg(self) -> u64 {
        self
    }
    #[inline]
    fn from_reg(reg: u64) -> Self {
        reg
    }
}

impl GuestMem {
    /// Reserves the address space of one VM.
    pub fn new() -> Result<Self, VmCreateError> {
        Self::with(Containment::default())
    }

    /// The same, for programs that are contained in this way.
    pub(crate) fn with(containment: Containment) -> Result<Self, VmCreateError> {
        let failed = |reason: String| VmCreateError::Reserve {
            len: RESERVATION_LEN,
            reason,
        };
        let reservation = Reservation::new(host_size(RESERVATION_LEN));
        let reservation = reservation.map_err(|error| failed(error.to_string()))?;
        // The limits once more, as compiled code reads them; see `Self::set_bounds`.
        let bounds = host_size(MARGIN) - BOUNDS_DISTANCE;
        let bounds = reservation.commit(bounds, BOUNDS_SIZE);
        bounds.map_err(|error| failed(error.to_string()))?;
        let base = reservation.base().wrapping_add(host_size(MARGIN));
        Ok(Self {
            base: NonNull::new(base).ok_or_else(|| failed("it lies at NULL".to_owned()))?,
            reservation: Arc::new(reservation),
            arenas: [const { OnceLock::new() }; ARENA_COUNT],
            regions: Mutex::new(Region::ALL.map(RegionAlloc::new)),
            limits: (0..HEAP_LEN / UNIT).map(|_| AtomicU64::new(0)).collect(),
            containment,
            sealed: AtomicBool::new(false),
        })
    }

    /// Creates an arena in the first free window.
    pub(crate) fn create_arena(&self, spec: &ArenaSpec) -> Result<ArenaSlot, CreateArenaError> {
        let free = self.arenas.iter().position(|slot| slot.get().is_none());
        let index = free.ok_or(CreateArenaError::TooMany { max: ARENA_COUNT })?;
        let guest = ARENAS_START + ARENA_STRIDE * index as u64;
        let offset = host_size(MARGIN + (guest - GUEST_BASE));
        let kern_vm = KernAddr::new(guest);
        let arena = Arena::create_in(&self.reservation, offset, kern_vm, spec)?;
        let filled = self.arenas[index].set(Arc::new(arena));
        assert!(filled.is_ok(), "only one thread loads objects");
        Ok(ArenaSlot(index))
    }

    /// An arena by its slot.
    pub(crate) fn arena(&self, slot: ArenaSlot) -> Option<&Arc<Arena>> {
        self.arenas.get(slot.0)?.get()
    }

    fn regions(&self) -> MutexGuard<'_, [RegionAlloc; Region::ALL.len()]> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `size` zeroed bytes of a region, aligned to `align` (a power of two).
    pub fn alloc(
        &self,
        region: Region,
        size: u64,
        align: u64,
    ) -> Result<KernAddr, OutOfGuestMemory> {
        self.alloc_below(region.end(), region, size, align)
    }

    /// The same before `limit`, for regions that hold copies of their first part.
    pub(crate) fn alloc_below(
        &self,
        limit: KernAddr,
        region: Region,
        size: u64,
        align: u64,
    ) -> Result<KernAddr, OutOfGuestMemory> {
        let addr = self.regions()[region.index()].alloc_below(limit, size, align)?;
        let opened = self.open(addr.raw() - HEAP_START, size);
        opened.map_err(|_refused| OutOfGuestMemory {
            region: region.name(),
            size,
        })?;
        Ok(addr)
    }

    /// Makes `size` bytes at a heap offset be there, and what lies before them in their units:
    /// regions grow upwards. Memory that was never handed out stays out of reach, so a program
    /// cannot make the host commit it.
    fn open(&self, offset: u64, size: u64) -> Result<(), ReserveError> {
        let end = offset.saturating_add(size).min(HEAP_LEN);
        let mut at = offset;
        while at < end {
            let (unit, within) = (at / UNIT, at % UNIT);
            let upto = (within + (end - at)).min(UNIT);
            // Relaxed: a limit guards the extent of memory, not what lies in it.
            let limit = &self.limits[host_size(unit)];
            let was = limit.load(Ordering::Relaxed);
            if was < upto {
                self.unseal_at(at)?;
                let (mapped, there) = (granules(was), granules(upto));
                self.protect(unit * UNIT, mapped..there, Protection::ReadWrite)?;
                let upto = match self.containment {
                    Containment::Mask => there,
                    Containment::Check => upto,
                };
                limit.fetch_max(upto, Ordering::Relaxed);
                self.set_bounds(unit, upto);
            }
            at += upto - within;
        }
        Ok(())
    }

    /// Changes what a part of the heap may be used for, from an offset of it.
    fn protect(
        &self,
        offset: u64,
        part: Range<u64>,
        protection: Protection,
    ) -> Result<(), ReserveError> {
        if part.is_empty() {
            return Ok(());
        }
        let at = MARGIN + (HEAP_START - GUEST_BASE) + offset + part.start;
        let len = host_size(part.end - part.start);
        self.reservation.protect(host_size(at), len, protection)
    }

    /// Makes stores to frozen memory fault, until the host writes there: whoever enters machine
    /// code, or goes on in it, calls this before.
    #[inline]
    pub(crate) fn seal(&self) -> Result<(), ReserveError> {
        // Relaxed: programs run on one thread at a time, and the host's writes are its own.
        if self.sealed.load(Ordering::Relaxed) || self.containment == Containment::Check {
            return Ok(());
        }
        self.set_sealed(true)
    }

    #[cold]
    fn set_sealed(&self, sealed: bool) -> Result<(), ReserveError> {
        let protection = if sealed {
            Protection::ReadOnly
        } else {
            Protection::ReadWrite
        };
        for unit in 0..(HEAP_WRITABLE - HEAP_START) / UNIT {
            let limit = self.limits[host_size(unit)].load(Ordering::Relaxed);
            self.protect(unit * UNIT, 0..granules(limit), protection)?;
        }
        self.sealed.store(sealed, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the host write at a heap offset, if that is frozen memory.
    fn unseal_at(&self, offset: u64) -> Result<(), ReserveError> {
        if offset < HEAP_WRITABLE - HEAP_START && self.sealed.load(Ordering::Relaxed) {
            return self.set_sealed(false);
        }
        Ok(())
    }

    /// Tells compiled code what [`GuestMem::reachable`] says of accesses that begin in a unit:
    /// a page that no program can reach holds a bound per unit and size.
    fn set_bounds(&self, unit: u64, limit: u64) {
        const FIRST: u64 = (HEAP_START - GUEST_BASE) / UNIT;
        for size_log2 in 0..4 {
            let Some(last) = limit.checked_sub(1 << size_log2) else {
                continue;
            };
            let number = FIRST + unit;
            let bound = number * UNIT + last + 1;
            let number = host_size(number);
            self.set_bound(bounds_offset(number, size_log2, BoundOf::Loads), bound);
            if unit >= (HEAP_WRITABLE - HEAP_START) / UNIT {
                let stores = bounds_offset(number, size_log2, BoundOf::Stores);
                self.set_bound(stores, bound);
            }
        }
    }

    fn set_bound(&self, offset: isize, bound: u64) {
        assert!(offset < 0);
        assert!(offset >= -BOUNDS_DISTANCE.cast_signed());
        // SAFETY: `offset` leads into the page that `with` has committed.
        let at = unsafe { self.base.byte_offset(offset) };
        // SAFETY: the page is mapped as long as `self`, and only atomics of this type touch it;
        // offsets are multiples of 8.
        let cell = unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) };
        // Relaxed: as the limit itself.
        cell.fetch_max(bound, Ordering::Relaxed);
    }

    /// Host address of the guest's first byte, for compiled code.
    pub(crate) fn guest_host(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Host addresses at which a masked access may fault: the guest's, and what an offset or an
    /// index leads to from there.
    pub(crate) fn reach(&self) -> Range<usize> {
        let start = self.base.as_ptr().expose_provenance();
        start - (1 << 16)..start + host_size(GUEST_LEN + MARGIN_BEHIND)
    }

    /// How programs are contained.
    pub(crate) fn containment(&self) -> Containment {
        self.containment
    }

    /// The address that a program's instruction accesses, which has this base and offset.
    #[inline]
    pub(crate) fn address(&self, base: u64, off: i64, space: Space) -> u64 {
        let base = match (self.containment, space) {
            (Containment::Mask, Space::Kernel) => contained(base),
            // Small numbers may be arena pointers, so the value decides as it is.
            (Containment::Mask, Space::Either | Space::Arena) | (Containment::Check, _) => base,
        };
        base.wrapping_add_signed(off)
    }

    /// Host address of an arena's 32-bit offset 0, for compiled code.
    pub(crate) fn arena_host(&self, arena: &Arena) -> u64 {
        let start = arena.kern_vm_start().raw();
        self.at(start).as_ptr().expose_provenance() as u64
    }

    /// Whether a program may reach `len` bytes at `addr`, from `start` of the heap on.
    #[inline]
    fn reachable(&self, addr: u64, len: u64, start: u64) -> bool {
        heap_offset(addr, len, start).is_some() && self.has(addr - HEAP_START, len, |limit| limit)
    }

    /// Whether `len` bytes at a heap offset lie below what `end` makes of their unit's limits.
    #[inline]
    fn has(&self, offset: u64, len: u64, end: impl Fn(u64) -> u64) -> bool {
        let limit = self.limits[host_size(offset / UNIT)].load(Ordering::Relaxed);
        offset % UNIT + len <= end(limit) || self.has_over_units(offset, len, end)
    }

    /// Whether all loads of a program from `len` bytes at `addr` are good, now and later: what was
    /// handed out stays so.
    pub(crate) fn loads_reach(&self, addr: u64, len: u64) -> bool {
        self.reachable(addr, len, HEAP_START)
    }

    /// The same for stores.
    pub(crate) fn stores_reach(&self, addr: u64, len: u64) -> bool {
        self.reachable(addr, len, HEAP_WRITABLE)
    }

    #[cold]
    fn has_over_units(&self, offset: u64, len: u64, end: impl Fn(u64) -> u64) -> bool {
        let behind = offset + len;
        let mut at = offset;
        while at < behind {
            let limit = self.limits[host_size(at / UNIT)].load(Ordering::Relaxed);
            let upto = (at % UNIT + (behind - at)).min(UNIT);
            if upto > end(limit) {
                return false;
            }
            at += upto - at % UNIT;
        }
        true
    }

    /// Gives back what [`GuestMem::alloc`] gave; `size` and `align` must be the same.
    pub fn free(&self, region: Region, addr: KernAddr, size: u64, align: u64) {
        self.zero(addr, size).expect("an allocated block is backed");
        self.regions()[region.index()].free(addr, size, align);
    }

    /// Host address of `len` bytes that a kernel may access.
    #[inline]
    fn host(&self, addr: KernAddr, len: u64, access: Access) -> Result<NonNull<u8>, MemFault> {
        let fault = MemFault { addr, len, access };
        if let Some(offset) = heap_offset(addr.raw(), len, HEAP_START) {
            let is_there = match access {
                Access::Write => self.prepare_write(addr, offset, len),
                Access::Read => self.has(offset, len, granules),
            };
            return is_there.then(|| self.at(addr.raw())).ok_or(fault);
        }
        self.arena_at(addr.raw())
            .and_then(|(arena, offset)| self.in_arena(arena, offset, len))
            .ok_or(fault)
    }

    /// Whether the host may write to bytes of the heap; afterwards it may.
    #[inline]
    fn prepare_write(&self, addr: KernAddr, offset: u64, len: u64) -> bool {
        if addr >= Region::Tasks.start() {
            return self.open_by_write(offset, len);
        }
        self.has(offset, len, granules) && self.unseal_at(offset).is_ok()
    }

    /// Tasks have their places by arithmetic, not by allocation: they are there once the kernel
    /// has written to them, with a margin for what lies behind the bytes it wrote.
    #[inline]
    fn open_by_write(&self, offset: u64, len: u64) -> bool {
        const TASK_SIZE_MAX: u64 = 16 << 10;
        let len = (len + TASK_SIZE_MAX).min(HEAP_LEN - offset);
        self.has(offset, len, |limit| limit) || self.open(offset, len).is_ok()
    }

    /// Lets programs reach the copies of per-CPU variables of that many CPUs.
    pub(crate) fn open_per_cpu(&self, nr_cpus: u32) -> Result<(), VmCreateError> {
        let start = Region::PerCpu.start().raw() - HEAP_START;
        let len = u64::from(nr_cpus) * PERCPU_STRIDE;
        self.open(start, len)
            .map_err(|error| VmCreateError::Reserve {
                len,
                reason: error.to_string(),
            })
    }

    /// Host address of a guest address in the heap or in an arena's area.
    #[inline]
    fn at(&self, addr: u64) -> NonNull<u8> {
        let offset = addr.wrapping_sub(GUEST_BASE);
        debug_assert!(offset < GUEST_LEN, "{addr:#x}");
        // SAFETY: every caller has found `addr` in the heap or in an arena's area, both of which
        // lie in the reservation.
        unsafe { self.base.add(host_size(offset)) }
    }

    /// The arena whose area holds a kernel address, and the offset from its 32-bit offset 0.
    fn arena_at(&self, addr: u64) -> Option<(&Arena, i64)> {
        let offset = addr.checked_sub(ARENAS_START)?;
        let index = usize::try_from(offset / ARENA_STRIDE).ok()?;
        let arena = self.arenas.get(index)?.get()?;
        let offset = addr.wrapping_sub(arena.kern_vm_start().raw());
        Some((arena, offset.cast_signed()))
    }

    /// Host address of `len` bytes at `offset` from an arena's 32-bit offset 0, if there is a
    /// page (or scratch) under each of them.
    #[inline]
    pub(crate) fn in_arena(&self, arena: &Arena, offset: i64, len: u64) -> Option<NonNull<u8>> {
        let first = u64::try_from(offset).ok()?;
        let last = first.checked_add(len.max(1) - 1)?;
        for page in first / PAGE_SIZE..=last / PAGE_SIZE {
            let page = WindowPage::new(u32::try_from(page).ok()?)?;
            if !is_there(arena, page) {
                return None;
            }
        }
        Some(self.at(arena.kern_vm_start().raw() + first))
    }

    /// Loads for a program: from all of the heap.
    #[inline]
    pub(crate) fn load<T: Scalar>(&self, addr: u64) -> Option<u64> {
        if !self.reachable(addr, T::LEN, HEAP_START) {
            return None;
        }
        // SAFETY: the bytes lie in the heap and were handed out, so they are mapped.
        Some(unsafe { read::<T>(self.at(addr)) }.to_reg())
    }

    /// Stores for a program: to the writable part of the heap.
    #[inline]
    pub(crate) fn store<T: Scalar>(&self, addr: u64, value: u64) -> Option<()> {
        if !self.reachable(addr, T::LEN, HEAP_WRITABLE) {
            return None;
        }
        // SAFETY: the bytes lie in the heap and were handed out, so they are mapped.
        unsafe { write(self.at(addr), T::from_reg(value)) };
        Some(())
    }

    /// An atomic read-modify-write of a program, giving the old value. A word that is not
    /// aligned is read and written in two steps, as no other thread may rely on it.
    pub(crate) fn atomic<T: Word>(&self, addr: u64, request: Atomic) -> Option<u64> {
        if !self.reachable(addr, T::LEN, HEAP_WRITABLE) {
            let (arena, offset) = self.arena_at(addr)?;
            return self.atomic_in::<T>(arena, offset, request);
        }
        // SAFETY: the bytes lie in the heap and were handed out, so they are mapped.
        Some(unsafe { update::<T>(self.at(addr), request) })
    }

    /// [`GuestMem::load`] from an offset of an arena.
    pub(crate) fn load_in<T: Scalar>(&self, arena: &Arena, offset: i64) -> Option<u64> {
        let at = self.in_arena(arena, offset, T::LEN)?;
        // SAFETY: the pages are there; should another thread free one now, the read faults and
        // is recovered for the running program.
        Some(unsafe { read::<T>(at) }.to_reg())
    }

    /// [`GuestMem::store`] to an offset of an arena.
    pub(crate) fn store_in<T: Scalar>(&self, arena: &Arena, offset: i64, value: u64) -> Option<()> {
        let at = self.in_arena(arena, offset, T::LEN)?;
        // SAFETY: as in `load_in`.
        unsafe { write(at, T::from_reg(value)) };
        Some(())
    }

    /// [`GuestMem::atomic`] at an offset of an arena.
    pub(crate) fn atomic_in<T: Word>(
        &self,
        arena: &Arena,
        offset: i64,
        request: Atomic,
    ) -> Option<u64> {
        let at = self.in_arena(arena, offset, T::LEN)?;
        // SAFETY: as in `load_in`.
        Some(unsafe { update::<T>(at, request) })
    }

    /// [`GuestMem::load`] of a kernel address in an arena's window.
    pub(crate) fn load_window<T: Scalar>(&self, addr: u64) -> Option<u64> {
        let (arena, offset) = self.arena_at(addr)?;
        self.load_in::<T>(arena, offset)
    }

    /// [`GuestMem::store`] to a kernel address in an arena's window.
    pub(crate) fn store_window<T: Scalar>(&self, addr: u64, value: u64) -> Option<()> {
        let (arena, offset) = self.arena_at(addr)?;
        self.store_in::<T>(arena, offset, value)
    }
}

/// One atomic read-modify-write, giving the old value.
///
/// # Safety
/// 1. The bytes are mapped.
unsafe fn update<T: Word>(at: NonNull<u8>, request: Atomic) -> u64 {
    if !at.as_ptr().addr().is_multiple_of(size_of::<T>()) {
        // SAFETY: mapped (caller).
        let old = unsafe { read::<T>(at) }.to_reg();
        // SAFETY: mapped (caller).
        unsafe { write(at, T::from_reg(request.apply::<T>(old))) };
        return old;
    }
    // SAFETY: mapped (caller) and aligned (checked above).
    unsafe { T::fetch_update(at, |old| request.apply::<T>(old)) }
}

/// A word that atomics work on.
pub(crate) trait Word: Scalar {
    /// Atomically replaces the word by `f` of it; gives the old one.
    ///
    /// # Safety
    /// 1. The bytes are mapped.
    /// 2. They are aligned to the word's size.
    unsafe fn fetch_update(at: NonNull<u8>, f: impl Fn(u64) -> u64) -> u64;
}

macro_rules! word {
    ($t:ty, $atomic:ty) => {
        impl Word for $t {
            unsafe fn fetch_update(at: NonNull<u8>, f: impl Fn(u64) -> u64) -> u64 {
                // SAFETY: mapped and aligned (caller); only atomics and volatile accesses
                // touch guest memory.
                let cell = unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) };
                let mut old = cell.load(Ordering::Relaxed);
                loop {
                    let new = <$t>::from_reg(f(old.to_reg()));
                    // SeqCst: BPF atomics that fetch are full barriers, as in the kernel.
                    match cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                        Ok(_) => return old.to_reg(),
                        Err(found) => old = found,
                    }
                }
            }
        }
    };
}
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// The end of the granule that holds the byte before this heap offset.
const fn granules(bytes: u64) -> u64 {
    bytes.next_multiple_of(GRANULE)
}

/// Offset of an access from `start` of the heap, if all of it lies below `HEAP_END`; also one
/// of no bytes begins there.
#[inline]
fn heap_offset(addr: u64, len: u64, start: u64) -> Option<u64> {
    let offset = addr.wrapping_sub(start);
    let room = (HEAP_END - start).checked_sub(len.max(1))?;
    (offset <= room).then_some(offset)
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// One volatile read of any alignment.
///
/// # Safety
/// 1. The bytes are mapped.
#[inline]
unsafe fn read<T: Scalar>(at: NonNull<u8>) -> T {
    // SAFETY: mapped (caller); `Unaligned` has alignment 1; every bit pattern is a `T`.
    unsafe { at.cast::<Unaligned<T>>().read_volatile() }.0
}

/// One volatile write of any alignment.
///
/// # Safety
/// 1. The bytes are mapped.
#[inline]
unsafe fn write<T: Scalar>(at: NonNull<u8>, value: T) {
    // SAFETY: mapped (caller); `Unaligned` has alignment 1.
    unsafe { at.cast::<Unaligned<T>>().write_volatile(Unaligned(value)) };
}

macro_rules! accessors {
    ($($t:ty, $read:ident, $write:ident;)*) => {$(
        /// Reads one value with the kernel's rights.
        pub fn $read(&self, addr: KernAddr) -> Result<$t, MemFault> {
            let at = self.host(addr, <$t>::LEN, Access::Read)?;
            // SAFETY: `host` found the bytes mapped.
            Ok(unsafe { read::<$t>(at) })
        }

        /// Writes one value with the kernel's rights (also frozen maps).
        pub fn $write(&self, addr: KernAddr, value: $t) -> Result<(), MemFault> {
            let at = self.host(addr, <$t>::LEN, Access::Write)?;
            // SAFETY: `host` found the bytes mapped.
            unsafe { write(at, value) };
            Ok(())
        }
    )*};
}

impl GuestMem {
    accessors! {
        u8, read_u8, write_u8;
        u16, read_u16, write_u16;
        u32, read_u32, write_u32;
        u64, read_u64, write_u64;
    }

    /// Copies guest bytes out.
    pub fn read_bytes(&self, addr: KernAddr, into: &mut [u8]) -> Result<(), MemFault> {
        let from = self.host(addr, into.len() as u64, Access::Read)?;
        // SAFETY: `host` found the bytes mapped; `into` is the host's own, thus elsewhere.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *into).cast(), into.len()) };
        Ok(())
    }

    /// Copies bytes into the guest, with the kernel's rights (also frozen maps).
    pub fn write_bytes(&self, addr: KernAddr, from: &[u8]) -> Result<(), MemFault> {
        let to = self.host(addr, from.len() as u64, Access::Write)?;
        // SAFETY: `host` found the bytes mapped; `from` is the host's own, thus elsewhere.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) };
        Ok(())
    }

    /// Copies `len` bytes from one guest address to another, as `memmove`.
    pub fn copy(&self, to: KernAddr, from: KernAddr, len: u64) -> Result<(), MemFault> {
        let src = self.host(from, len, Access::Read)?;
        let dst = self.host(to, len, Access::Write)?;
        // SAFETY: `host` found both ranges mapped; `copy_to` allows them to overlap.
        unsafe { src.copy_to(dst, host_size(len)) };
        Ok(())
    }

    /// Clears `len` bytes.
    pub fn zero(&self, addr: KernAddr, len: u64) -> Result<(), MemFault> {
        let at = self.host(addr, len, Access::Write)?;
        // SAFETY: `host` found the bytes mapped.
        unsafe { at.write_bytes(0, host_size(len)) };
        Ok(())
    }

    /// Whether a program may read `len` bytes.
    #[must_use]
    pub fn readable(&self, addr: KernAddr, len: u64) -> bool {
        self.reachable(addr.raw(), len, HEAP_START)
            || (addr.raw() >= ARENAS_START && self.host(addr, len, Access::Read).is_ok())
    }

    /// Refuses what a program may not write: frozen memory, and memory that nobody handed out.
    pub(crate) fn writable_by_program(&self, addr: KernAddr, len: u64) -> Result<(), MemFault> {
        let in_heap = self.reachable(addr.raw(), len, HEAP_WRITABLE);
        if in_heap || addr.raw() >= ARENAS_START {
            return Ok(());
        }
        let access = Access::Write;
        Err(MemFault { addr, len, access })
    }

    /// As [`GuestMem::write_bytes`], with a program's rights.
    pub(crate) fn write_as_program(&self, addr: KernAddr, from: &[u8]) -> Result<(), MemFault> {
        self.writable_by_program(addr, from.len() as u64)?;
        self.write_bytes(addr, from)
    }

    /// As [`GuestMem::copy`], with a program's rights.
    pub(crate) fn copy_as_program(
        &self,
        to: KernAddr,
        from: KernAddr,
        len: u64,
    ) -> Result<(), MemFault> {
        self.writable_by_program(to, len)?;
        self.copy(to, from, len)
    }

    /// As [`GuestMem::zero`], with a program's rights.
    pub(crate) fn zero_as_program(&self, addr: KernAddr, len: u64) -> Result<(), MemFault> {
        self.writable_by_program(addr, len)?;
        self.zero(addr, len)
    }

    /// The bytes from `addr` up to, not including, a NUL, at most `max` of them. A string that
    /// runs into unmapped memory gives the fault.
    pub fn cstr(&self, addr: KernAddr, max: u64) -> Result<Vec<u8>, MemFault> {
        let mut bytes = Vec::new();
        let mut left = max;
        let mut at = addr;
        while left > 0 {
            // Not over the end of a page: what follows may not be there, nor be needed.
            let len = left.min(PAGE_SIZE - at.raw() % PAGE_SIZE);
            let start = bytes.len();
            bytes.resize(start + host_size(len), 0);
            self.read_bytes(at, &mut bytes[start..])?;
            if let Some(end) = bytes[start..].iter().position(|byte| *byte == 0) {
                bytes.truncate(start + end);
                break;
            }
            left -= len;
            let access = Access::Read;
            let fault = MemFault { addr, len, access };
            at = at.checked_add(len).ok_or(fault)?;
        }
        Ok(bytes)
    }

    /// Atomically replaces a value, giving the old one. `addr` must be 8-byte aligned.
    pub fn swap_u64(&self, addr: KernAddr, value: u64) -> Result<u64, MemFault> {
        let at = self.aligned(addr, 8)?;
        // SAFETY: mapped and aligned (checked by `aligned`); only atomics and volatile
        // accesses touch guest memory.
        let cell = unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) };
        // AcqRel: what the pointer leads to was written before it was stored by the other side.
        Ok(cell.swap(value, Ordering::AcqRel))
    }

    /// Atomically replaces `old` by `new`; gives what was there. `addr` must be 4-byte aligned.
    pub fn cmpxchg_u32(&self, addr: KernAddr, old: u32, new: u32) -> Result<u32, MemFault> {
        let at = self.aligned(addr, 4)?;
        // SAFETY: mapped and aligned (checked by `aligned`); only atomics and volatile
        // accesses touch guest memory.
        let cell = unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) };
        // AcqRel: used for locks; pairs with the release of the other holder.
        let result = cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        Ok(result.unwrap_or_else(|found| found))
    }

    fn aligned(&self, addr: KernAddr, align: u64) -> Result<NonNull<u8>, MemFault> {
        if !addr.raw().is_multiple_of(align) {
            return Err(MemFault {
                addr,
                len: align,
                access: Access::Write,
            });
        }
        self.host(addr, align, Access::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(raw: u64) -> KernAddr {
        KernAddr::new(raw)
    }

    #[test]
    fn only_what_was_handed_out_is_backed() {
        let mem = GuestMem::new().unwrap();
        let block = mem.alloc(Region::Kernel, 8, 8).unwrap().raw();
        for bad in [
            0,
            1,
            HEAP_START - 1,
            HEAP_START,
            block - 8,
            block - 1,
            block + GRANULE - 7,
            block + GRANULE,
            Region::Tasks.start().raw() - 8,
            HEAP_END,
            1 << 47,
            u64::MAX,
            u64::MAX - 7,
        ] {
            assert!(mem.read_u64(at(bad)).is_err(), "{bad:#x}");
            assert!(mem.write_u64(at(bad), 1).is_err(), "{bad:#x}");
            assert_eq!(mem.load::<u64>(bad), None, "{bad:#x}");
            assert_eq!(mem.store::<u64>(bad, 1), None, "{bad:#x}");
        }
        // Memory comes in granules.
        for good in [block, block + 1, block + GRANULE - 8] {
            mem.write_u64(at(good), good).unwrap();
            assert_eq!(mem.read_u64(at(good)), Ok(good));
            assert_eq!(mem.load::<u64>(good), Some(good));
        }
    }

    #[test]
    fn addresses_are_cut_to_the_guest_unless_they_may_be_the_arenas() {
        let mem = GuestMem::new().unwrap();
        let wild = 0x1234_0000_0000_0000 | HEAP_START & (GUEST_LEN - 1);
        assert_eq!(mem.address(wild, -8, Space::Kernel), HEAP_START - 8);
        assert_eq!(mem.address(wild, 8, Space::Either), wild + 8);
        let mem = GuestMem::with(Containment::Check).unwrap();
        assert_eq!(mem.address(wild, 8, Space::Kernel), wild + 8);
    }

    #[test]
    fn frozen_memory_is_sealed_until_the_host_writes() {
        let mem = GuestMem::new().unwrap();
        let block = mem.alloc(Region::Rodata, 8, 8).unwrap();
        let is_writable = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let start = format!("{:x}-", mem.at(block.raw()).as_ptr().addr());
            let line = maps.lines().find(|line| line.starts_with(&start));
            line.unwrap().contains(" rw-p ")
        };
        assert!(is_writable());
        mem.seal().unwrap();
        assert!(!is_writable());
        mem.write_u64(block, 7).unwrap();
        assert!(is_writable());
        mem.seal().unwrap();
        // What is handed out later can be written too.
        let next = mem.alloc(Region::Rodata, GRANULE, 8).unwrap();
        mem.write_u64(next, 8).unwrap();
        mem.seal().unwrap();
        assert!(!is_writable());
        assert_eq!(mem.read_u64(block), Ok(7));
        assert_eq!(mem.read_u64(next), Ok(8));
    }

    #[test]
    fn programs_reach_only_what_was_handed_out() {
        let mem = GuestMem::with(Containment::Check).unwrap();
        let block = mem.alloc(Region::Kernel, 24, 8).unwrap().raw();
        assert_eq!(mem.load::<u64>(block + 16), Some(0));
        assert_eq!(mem.load::<u64>(block + 17), None);
        assert_eq!(mem.store::<u8>(block + 24, 1), None);
        // A block over several units, and an access across two of them.
        let big = mem.alloc(Region::Maps, 2 * UNIT + 8, 8).unwrap().raw();
        assert_eq!(mem.store::<u64>(big + UNIT - 4, 7), Some(()));
        assert_eq!(mem.load::<u64>(big + UNIT - 4), Some(7));
        assert_eq!(mem.load::<u64>(big + 2 * UNIT), Some(0));
        assert_eq!(mem.load::<u64>(big + 2 * UNIT + 1), None);
        // Tasks are where the kernel puts them.
        let task = Region::Tasks.start().raw() + 4096;
        assert_eq!(mem.load::<u64>(task), None);
        mem.write_u64(at(task), 5).unwrap();
        assert_eq!(mem.load::<u64>(task), Some(5));
        assert_eq!(mem.load::<u64>(task + (1 << 20)), None);
    }

    #[test]
    fn programs_cannot_store_to_frozen_memory() {
        let mem = GuestMem::with(Containment::Check).unwrap();
        mem.alloc(Region::Rodata, HEAP_WRITABLE - HEAP_START, 8)
            .unwrap();
        mem.alloc(Region::Stacks, 8, 8).unwrap();
        assert_eq!(mem.store::<u64>(HEAP_WRITABLE - 1, 1), None);
        assert_eq!(mem.store::<u64>(HEAP_WRITABLE, 1), Some(()));
        mem.write_u8(at(HEAP_WRITABLE - 1), 7).unwrap();
        assert_eq!(mem.load::<u8>(HEAP_WRITABLE - 1), Some(7));
    }

    #[test]
    fn bounds_say_what_limits_say() {
        let mem = GuestMem::with(Containment::Check).unwrap();
        mem.alloc(Region::Rodata, 5, 1).unwrap();
        mem.alloc(Region::Maps, UNIT + 12, 8).unwrap();
        let bound = |unit, size_log2, access| {
            let offset = bounds_offset(unit, size_log2, access);
            let at = mem.at(GUEST_BASE).as_ptr().cast::<u64>();
            // SAFETY: the page of the bounds is mapped.
            let at = unsafe { at.byte_offset(offset) };
            // SAFETY: as above.
            unsafe { at.read_volatile() }
        };
        let unit_of = |region: Region| (region.start().raw() - GUEST_BASE) / UNIT;
        let unit = unit_of(Region::Rodata);
        let first = host_size(unit);
        assert_eq!(bound(first, 0, BoundOf::Loads), unit * UNIT + 5);
        assert_eq!(bound(first, 2, BoundOf::Loads), unit * UNIT + 2);
        assert_eq!(bound(first, 3, BoundOf::Loads), 0);
        assert_eq!(bound(first, 0, BoundOf::Stores), 0);
        let unit = unit_of(Region::Maps);
        let first = host_size(unit);
        assert_eq!(bound(first, 3, BoundOf::Stores), unit * UNIT + UNIT - 7);
        assert_eq!(
            bound(first + 1, 3, BoundOf::Loads),
            (unit + 1) * UNIT + 12 - 7
        );
        assert_eq!(bound(first + 2, 0, BoundOf::Loads), 0);
    }

    #[test]
    fn lengths_do_not_overflow() {
        let mem = GuestMem::new().unwrap();
        assert!(mem.zero(at(HEAP_START), u64::MAX).is_err());
        assert!(mem.zero(at(HEAP_START), HEAP_LEN + 1).is_err());
        assert!(mem.copy(at(HEAP_START), at(HEAP_END - 4), 8).is_err());
    }

    #[test]
    fn no_bytes_end_where_some_would() {
        let mem = GuestMem::new().unwrap();
        let block = mem.alloc(Region::Kernel, 8, 8).unwrap();
        for (addr, is_there) in [(block, true), (at(HEAP_END), false), (at(u64::MAX), false)] {
            assert_eq!(mem.readable(addr, 0), is_there);
            assert_eq!(mem.read_bytes(addr, &mut []).is_ok(), is_there);
            assert_eq!(mem.write_bytes(addr, &[]).is_ok(), is_there);
            assert_eq!(mem.zero_as_program(addr, 0).is_ok(), is_there);
        }
    }

    #[test]
    fn freed_memory_is_zero_when_it_comes_back() {
        let mem = GuestMem::new().unwrap();
        let block = mem.alloc(Region::Kernel, 16, 8).unwrap();
        mem.write_u64(block, u64::MAX).unwrap();
        mem.free(Region::Kernel, block, 16, 8);
        assert_eq!(mem.alloc(Region::Kernel, 16, 8).unwrap(), block);
        assert_eq!(mem.read_u64(block).unwrap(), 0);
    }

    #[test]
    fn strings_end_at_nul_or_limit() {
        let mem = GuestMem::new().unwrap();
        let block = mem.alloc(Region::Kernel, 16, 8).unwrap();
        mem.write_bytes(block, b"abc\0def").unwrap();
        assert_eq!(mem.cstr(block, 16).unwrap(), b"abc");
        assert_eq!(mem.cstr(block, 2).unwrap(), b"ab");
    }
}
