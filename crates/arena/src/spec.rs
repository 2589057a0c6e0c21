//! What an arena is created from, and why that may be refused.
//!
//! Checks and error numbers are those of the kernel's map creation, in its order.

use harena_abi::bpf::{BPF_F_MMAPABLE, BPF_F_NO_USER_CONV, BPF_F_SEGV_ON_FAULT};
use harena_abi::{Errno, PAGE_SIZE, PageIndex, UserAddr};
use harena_arena_fault::{KERN_VM_SIZE, WINDOW_SIZE};

use crate::sys::OsError;

/// The attributes of an arena map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArenaSpec {
    /// Size in pages.
    pub max_entries: u32,
    /// `BPF_F_*`; `BPF_F_MMAPABLE` is obligatory.
    pub map_flags: u32,
    /// `user_vm_start`, or 0 to take the address of the first user mapping.
    pub map_extra: u64,
    /// Must be 0.
    pub key_size: u32,
    /// Must be 0.
    pub value_size: u32,
    /// Bytes of pages that may be in use at a time; without limit if `None`.
    pub byte_limit: Option<u64>,
}

/// Why an arena could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateError {
    /// An arena has neither keys nor values.
    #[error("key_size {key_size} and value_size {value_size} of an arena must be 0")]
    KeyOrValue {
        /// As given.
        key_size: u32,
        /// As given.
        value_size: u32,
    },
    /// `max_entries` is 0.
    #[error("max_entries of an arena must not be 0")]
    NoPages,
    /// `BPF_F_MMAPABLE` is missing, or a flag is unknown.
    #[error("map_flags {map_flags:#x} of an arena: BPF_F_MMAPABLE missing or a flag unknown")]
    Flags {
        /// As given.
        map_flags: u32,
    },
    /// `map_extra` is not page aligned.
    #[error("map_extra {map_extra:#x} is not page aligned")]
    Unaligned {
        /// As given.
        map_extra: u64,
    },
    /// More than 4 GiB.
    #[error("{max_entries} pages are more than 4 GiB")]
    TooBig {
        /// As given.
        max_entries: u32,
    },
    /// The user window crosses a 4 GiB boundary (or the end of the address space).
    #[error("{max_entries} pages at {start:#x} cross a 4 GiB boundary")]
    CrossesBoundary {
        /// First address of the window.
        start: u64,
        /// As given.
        max_entries: u32,
    },
    /// The area given for the arena does not fit into the reservation, or overlaps another use.
    #[error("{KERN_VM_SIZE:#x} bytes at {offset:#x} do not fit the reservation of {len:#x}")]
    Placement {
        /// Where the arena was to lie.
        offset: usize,
        /// Bytes of the reservation.
        len: usize,
    },
    /// The process has as many arenas as the fault handler can know.
    #[error("too many live arenas")]
    TooManyArenas,
    /// The system refused memory, addresses or the signal handler.
    #[error("arena memory")]
    Os(#[source] OsError),
}

impl CreateError {
    /// The error number that `bpf(BPF_MAP_CREATE)` would give.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::KeyOrValue { .. }
            | Self::NoPages
            | Self::Flags { .. }
            | Self::Unaligned { .. }
            | Self::Placement { .. } => Errno::EINVAL,
            Self::TooBig { .. } => Errno::E2BIG,
            Self::CrossesBoundary { .. } => Errno::ERANGE,
            Self::TooManyArenas | Self::Os(_) => Errno::ENOMEM,
        }
    }
}

impl ArenaSpec {
    /// Whether the kernel would create such an arena.
    pub fn validate(&self) -> Result<(), CreateError> {
        let Self {
            max_entries,
            map_flags,
            map_extra,
            key_size,
            value_size,
            ..
        } = *self;
        const KNOWN: u32 = BPF_F_MMAPABLE | BPF_F_SEGV_ON_FAULT | BPF_F_NO_USER_CONV;
        if key_size != 0 || value_size != 0 {
            return Err(CreateError::KeyOrValue {
                key_size,
                value_size,
            });
        }
        if max_entries == 0 {
            return Err(CreateError::NoPages);
        }
        if map_flags & BPF_F_MMAPABLE == 0 || map_flags & !KNOWN != 0 {
            return Err(CreateError::Flags { map_flags });
        }
        if !map_extra.is_multiple_of(PAGE_SIZE) {
            return Err(CreateError::Unaligned { map_extra });
        }
        if max_entries > PageIndex::COUNT {
            return Err(CreateError::TooBig { max_entries });
        }
        self.check_window(map_extra)
    }

    /// Whether a user window may begin at `start`.
    pub(crate) fn check_window(&self, start: u64) -> Result<(), CreateError> {
        let last = start.checked_add(self.byte_size() - 1);
        if last.is_none_or(|last| start / WINDOW_SIZE != last / WINDOW_SIZE) {
            return Err(CreateError::CrossesBoundary {
                start,
                max_entries: self.max_entries,
            });
        }
        Ok(())
    }

    /// Bytes of the user window. `max_entries` must not be 0.
    #[must_use]
    pub const fn byte_size(&self) -> u64 {
        self.max_entries as u64 * PAGE_SIZE
    }

    /// Whether a user's touch of an empty page is a SIGSEGV.
    #[must_use]
    pub const fn segv_on_fault(&self) -> bool {
        self.map_flags & BPF_F_SEGV_ON_FAULT != 0
    }

    /// The user window's start, if the attributes give it.
    #[must_use]
    pub(crate) fn fixed_user_start(&self) -> Option<UserAddr> {
        (self.map_extra != 0).then_some(UserAddr::new(self.map_extra))
    }

    /// Pages that may be in use at a time.
    #[must_use]
    pub fn page_limit(&self) -> u32 {
        let limit = self.byte_limit.map_or(u64::MAX, |bytes| bytes / PAGE_SIZE);
        u32::try_from(limit)
            .unwrap_or(u32::MAX)
            .min(self.max_entries)
    }
}
