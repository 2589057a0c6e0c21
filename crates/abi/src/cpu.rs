//! CPU, task and queue numbers.
//!
//! `Cpu` is raw and may be sparse; `Cid` is dense and topology-ordered. There is no
//! conversion between them but the table of the scheduler core (`CidMap`).

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u32);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: u32) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn raw(self) -> u32 {
                self.0
            }

            /// The number as an index of a table.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The number a program gave as an `s32`, or `None` if it is negative.
            #[must_use]
            #[expect(clippy::cast_sign_loss, reason = "negative values are refused first")]
            pub const fn from_s32(raw: i32) -> Option<Self> {
                if raw < 0 { None } else { Some(Self(raw as u32)) }
            }

            /// The number as the kernel's `s32`.
            #[must_use]
            #[expect(clippy::cast_possible_wrap, reason = "numbers stay far below 2^31")]
            pub const fn as_s32(self) -> i32 {
                self.0 as i32
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A raw CPU number, as `smp_processor_id()` gives it.
    Cpu
}
number! {
    /// A dense, topology-ordered CPU number (the kernel's `cid`).
    Cid
}
number! {
    /// A thread id: `task_struct::pid`. Unique over a simulation, never reused in it.
    Tid
}

/// A dispatch queue id, built-in bits included (`SCX_DSQ_*`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DsqId(u64);

impl DsqId {
    /// Wraps a raw id.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw id.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for DsqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DsqId({:#x})", self.0)
    }
}

impl fmt::Display for DsqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
