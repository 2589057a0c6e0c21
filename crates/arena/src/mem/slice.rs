//! Runs of values in an arena.
//!
//! ```text
//! |<------------------- 4 GiB window ------------------->|<- upper guard ->|
//!        |<-- count * size_of::<T>() -->|
//!        ^ first                        ^ at most the window's end
//! ```
//!
//! A slice lies inside the window, which is checked once, when it is made; after that no place
//! of it wraps or leaves the window, so a loop over it is plain loads. What lies there is still
//! an allegation, each element is one volatile access, and an empty page is what it is for
//! [`ArenaPtr`].
//!
//! An index that a program gave goes through [`ArenaSlice::get`]. The methods that panic are
//! for indices of the host's own, like those of Rust's slices.

use core::fmt;
use core::iter::FusedIterator;
use core::ops::Range;

use harena_abi::{ArenaOffset, Errno};
use harena_arena_fault::WINDOW_SIZE;

use super::{ArenaPtr, Plain};
use crate::arena::Arena;

/// `len` values of type `T` in an arena. Copying it copies the place, not the values.
///
/// ```
/// use harena_abi::ArenaOffset;
/// use harena_abi::bpf::BPF_F_MMAPABLE;
/// use harena_arena::{Arena, ArenaSpec};
///
/// let arena = Arena::create(&ArenaSpec {
///     max_entries: 1,
///     map_flags: BPF_F_MMAPABLE,
///     map_extra: 0x1000_0000_0000,
///     ..ArenaSpec::default()
/// })?;
/// let at = ArenaOffset::of(arena.alloc_pages(None, 1, 0).expect("a page is free"));
/// let cmask = arena.slice::<u64>(at, 16).expect("16 words fit the window");
/// cmask.copy_from(&[1; 16]);
/// cmask.write(3, 0b1011);
/// let set: u32 = cmask.iter().map(u64::count_ones).sum();
/// assert_eq!(set, 15 + 3);
/// // What a program names is checked.
/// assert!(cmask.get(16).is_none());
/// # Ok::<(), harena_arena::CreateError>(())
/// ```
pub struct ArenaSlice<'a, T> {
    first: ArenaPtr<'a, T>,
    /// Invariant: `first.offset + len * size_of::<T>() <= WINDOW_SIZE`.
    len: u32,
}

/// A slice that would leave the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{len} values of {size} bytes at offset {offset:#x} leave the 4 GiB window")]
pub struct SliceError {
    /// Where it was to begin: in the upper guard, if 4 GiB or more.
    pub offset: u64,
    /// How many values it was to have.
    pub len: u32,
    /// Bytes of one of them.
    pub size: usize,
}

impl SliceError {
    /// What a helper returns for it.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        Errno::EFAULT
    }
}

impl<T> Clone for ArenaSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ArenaSlice<'_, T> {}

impl<T> fmt::Debug for ArenaSlice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaSlice({:?}, {})", self.first, self.len)
    }
}

impl<'a, T: Plain> ArenaSlice<'a, T> {
    fn new(first: ArenaPtr<'a, T>, len: u32) -> Result<Self, SliceError> {
        // Not its low half, which for a place in the upper guard is one in the window.
        let offset = first.offset;
        let bytes = u64::from(len) * size_of::<T>() as u64;
        if offset + bytes > WINDOW_SIZE {
            let size = size_of::<T>();
            return Err(SliceError { offset, len, size });
        }
        Ok(Self { first, len })
    }

    /// How many values it has.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The place of the first value (of the one behind it all, if there is none).
    #[must_use]
    pub const fn first(self) -> ArenaPtr<'a, T> {
        self.first
    }

    /// The place of a value, for any use of [`ArenaPtr`] (atomic access, say), or `None`
    /// outside the slice.
    #[must_use]
    pub fn get(self, index: u32) -> Option<ArenaPtr<'a, T>> {
        (index < self.len).then(|| self.first.inside(index))
    }

    /// The place of a value. Panics outside the slice.
    #[must_use]
    pub fn index(self, index: u32) -> ArenaPtr<'a, T> {
        let Self { first, len } = self;
        assert!(index < len, "index {index} of an arena slice of {len}");
        first.inside(index)
    }

    /// Reads a value. Panics outside the slice.
    #[must_use]
    pub fn read(self, index: u32) -> T {
        self.index(index).read()
    }

    /// Writes a value. Panics outside the slice.
    pub fn write(self, index: u32, value: T) {
        self.index(index).write(value);
    }

    /// The part with these indices, or `None` if it is not one.
    #[must_use]
    pub fn part(self, range: Range<u32>) -> Option<Self> {
        let len = range.end.checked_sub(range.start)?;
        (range.end <= self.len).then(|| Self {
            first: self.first.inside(range.start),
            len,
        })
    }

    /// Reads the values one by one, in order.
    #[must_use]
    pub fn iter(self) -> ArenaIter<'a, T> {
        ArenaIter { rest: self }
    }

    /// Reads all values. Panics if `to` has another length.
    pub fn copy_to(self, to: &mut [T]) {
        assert_eq!(self.len as usize, to.len(), "a copy has one length");
        let mut at = self.first;
        for to in to {
            *to = at.read();
            at = at.inside(1);
        }
    }

    /// Writes all values. Panics if `from` has another length.
    pub fn copy_from(self, from: &[T]) {
        assert_eq!(self.len as usize, from.len(), "a copy has one length");
        let mut at = self.first;
        for value in from {
            at.write(*value);
            at = at.inside(1);
        }
    }

    /// Writes one value everywhere.
    pub fn fill(self, value: T) {
        let mut at = self.first;
        for _ in 0..self.len {
            at.write(value);
            at = at.inside(1);
        }
    }
}

impl<'a, T: Plain> IntoIterator for ArenaSlice<'a, T> {
    type Item = T;
    type IntoIter = ArenaIter<'a, T>;

    fn into_iter(self) -> ArenaIter<'a, T> {
        self.iter()
    }
}

/// Reads the values of an [`ArenaSlice`], one volatile load each.
pub struct ArenaIter<'a, T> {
    rest: ArenaSlice<'a, T>,
}

impl<T> fmt::Debug for ArenaIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ArenaIter").field(&self.rest).finish()
    }
}

impl<T: Plain> Iterator for ArenaIter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let ArenaSlice { first, len } = self.rest;
        let len = len.checked_sub(1)?;
        self.rest = ArenaSlice {
            first: first.inside(1),
            len,
        };
        Some(first.read())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.rest.len as usize;
        (len, Some(len))
    }
}

impl<T: Plain> ExactSizeIterator for ArenaIter<'_, T> {}
impl<T: Plain> FusedIterator for ArenaIter<'_, T> {}

impl Arena {
    /// `len` values at `offset`, which must lie inside the 4 GiB window as a whole. Whether
    /// their pages are there is another question, and its answer may change.
    pub fn slice<T: Plain>(
        &self,
        offset: ArenaOffset,
        len: u32,
    ) -> Result<ArenaSlice<'_, T>, SliceError> {
        ArenaSlice::new(self.ptr(offset), len)
    }
}

impl<'a, T: Plain> ArenaPtr<'a, T> {
    /// `len` values from here on, which must lie inside the 4 GiB window as a whole.
    pub fn slice(self, len: u32) -> Result<ArenaSlice<'a, T>, SliceError> {
        ArenaSlice::new(self, len)
    }
}
