//! Addresses: what a value points into, and what holding one proves (nothing).
//!
//! | type | points into | proves |
//! |---|---|---|
//! | `UserAddr` | the arena's user window, or anywhere | nothing: an allegation of a program |
//! | `KernAddr` | the guest's kernel half (what a BPF register holds) | nothing |
//! | `ArenaOffset` | the 4 GiB host window of one arena | in range by construction |
//! | `PageIndex` | pages of that 4 GiB window | below 2^20 |
//!
//! There are no arithmetic operators: `checked_add` and `offset_from` make the
//! question of wrapping visible where it is answered.

use core::fmt;

/// Bytes in a page, as on every host this runs on.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The null address.
            pub const NULL: Self = Self(0);

            /// Wraps a raw value; any value is allowed.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw value.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// Whether this is address 0.
            #[must_use]
            pub const fn is_null(self) -> bool {
                self.0 == 0
            }

            /// The address `bytes` further, or `None` past 2^64.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// Bytes from `base` up to here, or `None` if this lies below.
            #[must_use]
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An address as user space (and a program that stores pointers in an arena) sees it.
    UserAddr
}
address! {
    /// An address in the guest's kernel half: what kernel code and BPF registers hold.
    ///
    /// It is a *guest* address, equal in every run and on every host; only the memory
    /// layer translates it to host memory.
    KernAddr
}

/// A byte offset into an arena's 4 GiB host window. Every value is valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct ArenaOffset(u32);

impl ArenaOffset {
    /// Wraps a raw offset.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The offset a user address names on the host side: its low 32 bits.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "only the low 32 bits count, by definition"
    )]
    pub const fn of(user: UserAddr) -> Self {
        Self(user.raw() as u32)
    }

    /// The raw offset in bytes.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The page this offset lies in.
    #[must_use]
    pub const fn page(self) -> PageIndex {
        PageIndex(self.0 >> 12)
    }

    /// The offset `bytes` further, wrapping inside the 4 GiB window.
    #[must_use]
    pub const fn wrapping_add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl fmt::Debug for ArenaOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaOffset({:#x})", self.0)
    }
}

/// A page of an arena's 4 GiB host window; always below 2^20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct PageIndex(u32);

impl PageIndex {
    /// Pages in the 4 GiB window.
    pub const COUNT: u32 = 1 << 20;

    /// The page with this number, or `None` if the window ends before it.
    #[must_use]
    pub const fn new(raw: u32) -> Option<Self> {
        if raw < Self::COUNT {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The page number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Offset of the page's first byte.
    #[must_use]
    pub const fn offset(self) -> ArenaOffset {
        ArenaOffset(self.0 << 12)
    }

    /// The page `pages` further, or `None` past the window's end.
    #[must_use]
    pub const fn checked_add(self, pages: u32) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(raw) => Self::new(raw),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_low_bits_of_a_user_address_count() {
        assert_eq!(
            ArenaOffset::of(UserAddr::new(0xdead_beef_0000_1fff)).raw(),
            0x1fff
        );
        assert_eq!(ArenaOffset::new(0x1fff).page(), PageIndex::new(1).unwrap());
    }

    #[test]
    fn page_index_refuses_what_lies_past_the_window() {
        assert!(PageIndex::new(PageIndex::COUNT).is_none());
        let last = PageIndex::new(PageIndex::COUNT - 1).unwrap();
        assert!(last.checked_add(1).is_none());
        assert_eq!(last.offset().raw(), 0xffff_f000);
    }
}
