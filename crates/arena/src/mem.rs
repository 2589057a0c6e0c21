//! Access to memory that a program can change, or take away, at any moment.
//!
//! There is never a reference into an arena but to an atomic: the compiler may assume that what
//! another one names does not change. [`ArenaPtr`] reads and writes volatile or atomic values;
//! what it reads is an *allegation* of the program.
//!
//! | access | empty page |
//! |---|---|
//! | [`ArenaPtr`], on a thread that is in a [`crate::ProgramScope`] | recovered through scratch and reported |
//! | [`ArenaPtr`], elsewhere | crashes, as a bad pointer in a kernel would |
//! | [`ArenaSlice`] | as [`ArenaPtr`] |
//! | [`Arena::copy_in`], [`Arena::copy_out`] | an error, as `copy_from_kernel_nofault()` gives |
//!
//! The window and its upper guard are reserved as long as the arena lives, so no access of
//! up to 32 KiB from a 32-bit offset can reach memory of others.

use core::fmt;
use core::marker::PhantomData;
use std::sync::atomic::AtomicU64;

use harena_abi::{ArenaOffset, Errno, PAGE_SIZE, PageIndex, UserAddr};
#[cfg(not(shuttle))]
use harena_arena_fault::{Entry, Link};
use harena_arena_fault::{EntryState, HALF_GUARD, WINDOW_SIZE};

use crate::arena::Arena;
#[cfg(not(shuttle))]
use crate::slab::{PageInfo, PageTag};

mod atomic;
mod slice;
#[cfg(unix)]
mod user;

pub use slice::{ArenaIter, ArenaSlice, SliceError};
#[cfg(unix)]
pub use user::UserPtr;

mod sealed {
    pub trait Sealed: Copy {}
}

/// Integers: types for which any bytes are a value.
pub trait Plain: sealed::Sealed {}

macro_rules! plain {
    ($($int:ty)*) => {
        $(impl sealed::Sealed for $int {}
        impl Plain for $int {}
        const _: () = assert!(size_of::<$int>() as u64 <= HALF_GUARD);)*
    };
}
plain!(u8 u16 u32 u64 i8 i16 i32 i64);

/// A value at an address of any alignment, as BPF programs use them.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned<T>(T);

/// The last offset at which any value ends inside the upper guard.
const LAST: u64 = WINDOW_SIZE + HALF_GUARD - 8;

#[cold]
const fn last() -> u64 {
    LAST
}

/// A typed place in an arena. Holding one proves nothing about what lies there.
///
/// It is the arena's window and an offset into that or into its upper guard, so that no
/// arithmetic leads out of it.
pub struct ArenaPtr<'a, T> {
    window: *mut u8,
    /// At most [`LAST`].
    offset: u64,
    place: PhantomData<(&'a Arena, *mut T)>,
}

impl<T> Clone for ArenaPtr<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ArenaPtr<'_, T> {}

impl<T> fmt::Debug for ArenaPtr<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaPtr({:#x})", self.offset)
    }
}

impl<'a, T: Plain> ArenaPtr<'a, T> {
    /// The place `count` values further. Behind the 4 GiB window lies its upper guard, as in C;
    /// nothing lies behind that, and an index that leads there gives the guard's end. To wrap
    /// inside the window, start from [`ArenaOffset::wrapping_add`].
    #[must_use]
    pub fn index(self, count: u32) -> Self {
        self.further(u64::from(count) * size_of::<T>() as u64)
    }

    /// As [`ArenaPtr::index`], of a place that lies in the window: an `ArenaSlice` has shown that
    /// when it was made, so that a loop over it is plain loads.
    #[inline]
    fn inside(self, count: u32) -> Self {
        let bytes = u64::from(count) * size_of::<T>() as u64;
        let offset = self.offset.wrapping_add(bytes);
        debug_assert!(offset <= WINDOW_SIZE, "a slice lies in the window");
        Self { offset, ..self }
    }

    #[inline]
    fn further(self, bytes: u64) -> Self {
        let sum = self.offset.wrapping_add(bytes);
        // A branch, which is foreseen, rather than a minimum, which every access would wait for.
        let offset = if sum > LAST { last() } else { sum };
        Self { offset, ..self }
    }

    /// The place at another offset of the same arena.
    #[must_use]
    #[inline]
    pub(crate) fn at(self, offset: ArenaOffset) -> Self {
        let offset = u64::from(offset.raw());
        Self { offset, ..self }
    }

    /// The place `bytes` bytes further, which may be in the upper guard, as with
    /// [`ArenaPtr::index`].
    #[must_use]
    pub fn byte_add(self, bytes: u32) -> Self {
        self.further(u64::from(bytes))
    }

    /// The same place, read and written as another type.
    #[must_use]
    pub fn cast<U: Plain>(self) -> ArenaPtr<'a, U> {
        ArenaPtr {
            window: self.window,
            offset: self.offset,
            place: PhantomData,
        }
    }

    /// A field of the structure that begins here: `offset` is `offset_of!` of a `repr(C)`
    /// structure with the program's layout. There is no reading of whole structures: while
    /// one field is read, a program may change the next.
    ///
    /// A host follows a list that a program built, as far as it trusts its length:
    ///
    /// ```
    /// use core::mem::offset_of;
    /// use harena_abi::{ArenaOffset, UserAddr};
    /// use harena_abi::bpf::BPF_F_MMAPABLE;
    /// use harena_arena::{Arena, ArenaSpec};
    ///
    /// /// `struct node { struct node __arena *next; __u32 value; };`
    /// #[repr(C)]
    /// struct Node {
    ///     next: u64,
    ///     value: u32,
    /// }
    ///
    /// let arena = Arena::create(&ArenaSpec {
    ///     max_entries: 1,
    ///     map_flags: BPF_F_MMAPABLE,
    ///     map_extra: 0x1000_0000_0000,
    ///     ..ArenaSpec::default()
    /// })?;
    /// let page = arena.alloc_pages(None, 1, 0).expect("a page is free");
    /// // The program's part: two nodes, linked by user addresses.
    /// let head = arena.ptr::<u8>(ArenaOffset::of(page)).byte_add(64);
    /// let second = head.byte_add(64);
    /// head.field::<u64>(offset_of!(Node, next)).write(second.user_addr(&arena).raw());
    /// head.field::<u32>(offset_of!(Node, value)).write(1);
    /// second.field::<u32>(offset_of!(Node, value)).write(2);
    ///
    /// // The host's part: a list may be a ring, so the walk has a limit of its own.
    /// let mut sum = 0;
    /// let mut at = Some(head);
    /// for _ in 0..100 {
    ///     let Some(node) = at else { break };
    ///     sum += node.field::<u32>(offset_of!(Node, value)).read();
    ///     at = node.field::<u64>(offset_of!(Node, next)).follow();
    /// }
    /// assert_eq!(sum, 3);
    /// # Ok::<(), harena_arena::CreateError>(())
    /// ```
    #[must_use]
    pub fn field<U: Plain>(self, offset: usize) -> ArenaPtr<'a, U> {
        let bytes = u32::try_from(offset).expect("a structure is smaller than the window");
        self.byte_add(bytes).cast()
    }

    /// Where in the arena it is; of a place in the upper guard the low half, which names a place
    /// at the window's start.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "only the low 32 bits count, by definition"
    )]
    pub fn offset(self) -> ArenaOffset {
        ArenaOffset::new(self.offset as u32)
    }

    /// What a program or a user calls this place: the pointer to store in the arena.
    #[must_use]
    pub fn user_addr(self, arena: &Arena) -> UserAddr {
        debug_assert!(core::ptr::eq(
            self.window,
            arena.host_ptr(ArenaOffset::new(0))
        ));
        arena.shared.user_addr(self.offset)
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most `LAST`, and the reservation is longer"
    )]
    fn host(self) -> *mut T {
        self.window.wrapping_add(self.offset as usize).cast()
    }

    /// Reads the value with one volatile load (of any alignment).
    #[must_use]
    #[inline]
    pub fn read(self) -> T {
        let place = self.host().cast::<Unaligned<T>>();
        // SAFETY: at most `LAST` and at most 8 bytes: in the window and its upper guard, which
        // are the arena's as long as it lives (but for a child made by fork, which is told not to
        // touch it), and it outlives this pointer; any bytes are
        // a `T`; `Unaligned` has alignment 1. An empty page faults and is recovered, or the
        // process ends; neither reads memory of others.
        unsafe { place.read_volatile() }.0
    }

    /// Writes the value with one volatile store (of any alignment).
    #[inline]
    pub fn write(self, value: T) {
        let place = self.host().cast::<Unaligned<T>>();
        // SAFETY: as in `read`; and no reference exists that the store could invalidate.
        unsafe { place.write_volatile(Unaligned(value)) }
    }
}

impl<'a> ArenaPtr<'a, u64> {
    /// The word that holds this place, for accesses of the slab allocator: its objects are
    /// aligned. (A volatile store of any alignment goes through a temporary on the stack.)
    #[inline]
    pub(crate) fn aligned(self) -> &'a AtomicU64 {
        let offset = self.offset & !7;
        // SAFETY: as in `read`, the word lies in the arena, which outlives the borrow; the window
        // begins at a page, so that the word is aligned; all concurrent accesses are atomic or
        // volatile ones.
        unsafe { AtomicU64::from_ptr(Self { offset, ..self }.host()) }
    }

    /// Reads the pointer that a program or a user stored here, and goes where it points: only
    /// its low 32 bits count, as for the program. `None` if it is NULL.
    #[must_use]
    pub fn follow<U: Plain>(self) -> Option<ArenaPtr<'a, U>> {
        let stored = UserAddr::new(self.read());
        (!stored.is_null()).then(|| ArenaPtr {
            window: self.window,
            offset: u64::from(ArenaOffset::of(stored).raw()),
            place: PhantomData,
        })
    }
}

atomic::operations!(ArenaPtr);

/// A copy that would touch an empty page, or leave the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("copy of {len} bytes at offset {offset:#x}: no memory at {bad:#x}")]
pub struct CopyError {
    /// Where the copy was to begin.
    pub offset: u32,
    /// Its bytes.
    pub len: usize,
    /// Offset of the first byte that is not there.
    pub bad: u64,
}

impl CopyError {
    /// What a helper returns for it.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        Errno::EFAULT
    }
}

impl Arena {
    /// A typed place in this arena.
    #[must_use]
    pub fn ptr<T: Plain>(&self, offset: ArenaOffset) -> ArenaPtr<'_, T> {
        ArenaPtr {
            window: self.host_ptr(ArenaOffset::new(0)),
            offset: u64::from(offset.raw()),
            place: PhantomData,
        }
    }

    /// Copies bytes out of the arena; all of them, or none if a page is empty. While others may
    /// free pages, call it in a [`crate::ProgramScope`]: the check is made before the copy.
    pub fn copy_out(&self, offset: ArenaOffset, to: &mut [u8]) -> Result<(), CopyError> {
        self.check_pages(offset, to.len())?;
        let (words, rest) = to.as_chunks_mut::<8>();
        let mut at = offset;
        for word in words {
            *word = self.ptr::<u64>(at).read().to_ne_bytes();
            at = at.wrapping_add(8);
        }
        for byte in rest {
            *byte = self.ptr::<u8>(at).read();
            at = at.wrapping_add(1);
        }
        Ok(())
    }

    /// Copies bytes into the arena; all of them, or none if a page is empty. The remark at
    /// [`Arena::copy_out`] holds.
    pub fn copy_in(&self, offset: ArenaOffset, from: &[u8]) -> Result<(), CopyError> {
        self.check_pages(offset, from.len())?;
        let (words, rest) = from.as_chunks::<8>();
        let mut at = offset;
        for word in words {
            self.ptr::<u64>(at).write(u64::from_ne_bytes(*word));
            at = at.wrapping_add(8);
        }
        for byte in rest {
            self.ptr::<u8>(at).write(*byte);
            at = at.wrapping_add(1);
        }
        Ok(())
    }

    fn check_pages(&self, offset: ArenaOffset, len: usize) -> Result<(), CopyError> {
        let first = u64::from(offset.raw());
        let end = first.saturating_add(len as u64);
        for page in first / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
            let bad = CopyError {
                offset: offset.raw(),
                len,
                bad: first.max(page * PAGE_SIZE),
            };
            let window_page = u32::try_from(page)
                .ok()
                .and_then(PageIndex::new)
                .ok_or(bad)?;
            let there = loop {
                match self.entry_state(window_page) {
                    EntryState::Busy => crate::sync::spin_loop(),
                    EntryState::Empty => break false,
                    EntryState::Page | EntryState::Scratch => break true,
                }
            };
            if !there {
                return Err(bad);
            }
        }
        Ok(())
    }
}

/// Types of which all-zero bytes are a value: what [`crate::sys::Table`] may hold.
///
/// # Safety
///
/// 1. All-zero bytes are a valid value of the type.
/// 2. Dropping it does nothing.
/// 3. Its alignment is at most a page.
#[cfg(not(shuttle))]
pub(crate) unsafe trait Zeroable: Sync {}

#[cfg(not(shuttle))]
// SAFETY: `repr(transparent)` over an atomic integer; documented to be empty when zero.
unsafe impl Zeroable for Entry {}
#[cfg(not(shuttle))]
// SAFETY: `repr(transparent)` over an atomic integer; documented to be unlisted when zero.
unsafe impl Zeroable for Link {}
#[cfg(not(shuttle))]
// SAFETY: `repr(transparent)` over an atomic integer; documented to be no tag when zero.
unsafe impl Zeroable for PageTag {}
#[cfg(not(shuttle))]
// SAFETY: atomic integers only; documented to be no slab when zero.
unsafe impl Zeroable for PageInfo {}
