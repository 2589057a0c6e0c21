//! One big range of host addresses, in which everything that programs can name lies.
//!
//! Reserved memory is not there until it is committed; a touch faults. Parts of the range
//! are claimed by arenas for as long as these live; a claimed part cannot be committed.

use crate::lock::locked;
use crate::sync::Mutex;
use crate::sys::{AddressRange, OsError, PAGE, Protection, Span};

/// A reservation of host addresses.
///
/// ```
/// use harena_arena::Reservation;
///
/// let reservation = Reservation::new(1 << 20)?;
/// reservation.commit(0x1000, 0x2000)?;
/// assert_eq!(reservation.len(), 1 << 20);
/// # Ok::<(), harena_arena::ReserveError>(())
/// ```
#[derive(Debug)]
pub struct Reservation {
    range: AddressRange,
    /// Parts that arenas own, in no order.
    claims: Mutex<Vec<Span>>,
}

/// Why reserved memory could not be used as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReserveError {
    /// The part is empty, not page aligned, or leaves the reservation.
    #[error("{len:#x} bytes at {offset:#x} are no pages of a reservation of {size:#x}")]
    Range {
        /// Start of the part.
        offset: usize,
        /// Its bytes.
        len: usize,
        /// Bytes of the reservation.
        size: usize,
    },
    /// The part overlaps an arena.
    #[error("{len:#x} bytes at {offset:#x} overlap an arena")]
    Claimed {
        /// Start of the part.
        offset: usize,
        /// Its bytes.
        len: usize,
    },
    /// The system refused.
    #[error("reserved memory")]
    Os(#[source] OsError),
}

impl From<OsError> for ReserveError {
    fn from(error: OsError) -> Self {
        Self::Os(error)
    }
}

impl Reservation {
    /// Reserves `bytes` bytes, a multiple of the page size, somewhere in the process.
    pub fn new(bytes: usize) -> Result<Self, ReserveError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return Err(ReserveError::Range {
                offset: 0,
                len: bytes,
                size: bytes,
            });
        }
        Ok(Self::of(AddressRange::reserve(bytes)?))
    }

    fn of(range: AddressRange) -> Self {
        Self {
            range,
            claims: Mutex::new(Vec::new()),
        }
    }

    /// The first byte. Memory behind it is only there where it was committed.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.range.base()
    }

    /// Host address of the first byte.
    #[must_use]
    pub fn host_base(&self) -> usize {
        self.range.base().expose_provenance()
    }

    /// Bytes reserved.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a reservation is never empty")]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Makes `len` bytes at `offset` zero memory that can be read and written.
    pub fn commit(&self, offset: usize, len: usize) -> Result<(), ReserveError> {
        self.map(offset, len, Protection::ReadWrite)
    }

    /// Gives the memory of a part back: every touch of it faults again.
    pub fn decommit(&self, offset: usize, len: usize) -> Result<(), ReserveError> {
        self.map(offset, len, Protection::None)
    }

    /// Changes what a part may be used for. What it holds stays; what was never committed is
    /// zero.
    pub fn protect(
        &self,
        offset: usize,
        len: usize,
        protection: Protection,
    ) -> Result<(), ReserveError> {
        self.unclaimed(offset, len, |span| self.range.protect(span, protection))
    }

    /// The host address of `len` bytes at `offset`, if they lie in the reservation.
    #[must_use]
    pub fn window(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.len()).then(|| self.base().wrapping_add(offset))
    }

    fn map(&self, offset: usize, len: usize, prot: Protection) -> Result<(), ReserveError> {
        self.unclaimed(offset, len, |span| self.range.map_anonymous(span, prot))
    }

    fn unclaimed(
        &self,
        offset: usize,
        len: usize,
        change: impl FnOnce(Span) -> Result<(), OsError>,
    ) -> Result<(), ReserveError> {
        let span = self.span(offset, len)?;
        // Held over the call: no arena may claim the part in between.
        let claims = locked(&self.claims);
        if claims.iter().any(|claim| overlap(*claim, span)) {
            return Err(ReserveError::Claimed { offset, len });
        }
        change(span)?;
        drop(claims);
        Ok(())
    }

    /// Takes a part for an arena.
    pub(crate) fn claim(&self, offset: usize, len: usize) -> Result<Span, ReserveError> {
        let span = self.span(offset, len)?;
        let mut claims = locked(&self.claims);
        if claims.iter().any(|claim| overlap(*claim, span)) {
            return Err(ReserveError::Claimed { offset, len });
        }
        claims.push(span);
        Ok(span)
    }

    /// Gives a part back, as it was before it was claimed: reserved, without memory.
    pub(crate) fn unclaim(&self, span: Span) {
        let mut claims = locked(&self.claims);
        // Should the system refuse, the part stays claimed: nobody may use what is mapped there.
        if self.range.map_anonymous(span, Protection::None).is_ok() {
            claims.retain(|claim| *claim != span);
        }
    }

    /// The range itself, for arenas.
    pub(crate) fn range(&self) -> &AddressRange {
        &self.range
    }

    fn span(&self, offset: usize, len: usize) -> Result<Span, ReserveError> {
        let size = self.len();
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let aligned = offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
        if len == 0 || !inside || !aligned {
            return Err(ReserveError::Range { offset, len, size });
        }
        Ok(Span { offset, len })
    }
}

fn overlap(a: Span, b: Span) -> bool {
    a.offset < b.offset + b.len && b.offset < a.offset + a.len
}

/// Reserves a range at a given address, which must be unused.
pub(crate) fn reserve_at(address: usize, len: usize) -> Result<Reservation, OsError> {
    AddressRange::reserve_at(address, len).map(Reservation::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_checked_and_claims_exclude_commits() {
        let reservation = Reservation::new(16 * PAGE).unwrap();
        let size = reservation.len();
        for (offset, len) in [
            (0, 0),
            (1, PAGE),
            (0, 100),
            (15 * PAGE, 2 * PAGE),
            (PAGE, usize::MAX),
        ] {
            let refused = reservation.commit(offset, len).unwrap_err();
            assert_eq!(refused, ReserveError::Range { offset, len, size });
        }
        let claim = reservation.claim(4 * PAGE, 4 * PAGE).unwrap();
        assert!(matches!(
            reservation.commit(7 * PAGE, PAGE),
            Err(ReserveError::Claimed { .. })
        ));
        assert!(matches!(
            reservation.claim(3 * PAGE, 2 * PAGE),
            Err(ReserveError::Claimed { .. })
        ));
        reservation.unclaim(claim);
        reservation.commit(7 * PAGE, PAGE).unwrap();
        reservation
            .protect(7 * PAGE, PAGE, Protection::ReadOnly)
            .unwrap();
        assert!(Reservation::new(100).is_err());
    }
}
