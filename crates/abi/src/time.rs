//! Simulated time: a point (`SimTime`) and a length (`Nanos`).

use core::fmt;

/// A point in simulated time, nanoseconds since boot. One base for every clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct SimTime(u64);

/// A length of simulated time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Nanos(u64);

impl SimTime {
    /// Boot.
    pub const ZERO: Self = Self(0);

    /// The point `ns` nanoseconds after boot.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The point `d` later; the end of time is never passed.
    #[must_use]
    pub const fn after(self, d: Nanos) -> Self {
        Self(self.0.saturating_add(d.0))
    }

    /// The length from `earlier` to here, or `None` if that lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Option<Nanos> {
        match self.0.checked_sub(earlier.0) {
            Some(ns) => Some(Nanos(ns)),
            None => None,
        }
    }
}

impl Nanos {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// A length of `ns` nanoseconds.
    #[must_use]
    pub const fn new(ns: u64) -> Self {
        Self(ns)
    }

    /// A length of `us` microseconds; saturates.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// A length of `ms` milliseconds; saturates.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// The length in nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The sum; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, not below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Nanos {
    /// Milliseconds with three decimals, the kernel's `%u.%03us` being seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}
