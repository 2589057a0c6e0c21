//! Where everything lies in the guest's kernel half.
//!
//! One host reservation backs the drawing below; guest addresses are constants, so
//! they are equal in every run and on every host. `host = base + (guest - GUEST_BASE)`.
//!
//! ```text
//! GUEST_BASE ─► ┌──────────────┐ +0
//!               │ guard        │       where small numbers lead that are no addresses
//!   HEAP_START ►├──────────────┤ +4 GiB
//!               │ Rodata       │       frozen map values: programs load, never store
//!  HEAP_WRITABLE├──────────────┤ +5 GiB
//!               │ Stacks       │       program stacks, one block per nested run
//!               │ Contexts     │       argument vectors, temporary keys
//!               │ MapObjects   │       `struct bpf_map`, MAP_OBJECT_STRIDE each
//!               │ PerCpu       │       per-CPU kernel variables, PERCPU_STRIDE a CPU
//!               │ Kernel       │       everything else a kernel owns
//!               │ Maps         │       map values
//!               │ Tasks        │       `task_struct`s: the kernel crate chooses the stride
//!     HEAP_END ►├──────────────┤ +23 GiB
//!               │ guard        │
//! ARENAS_START ►├──────────────┤ +24 GiB
//!               │ window 0     │       [GUARD_SZ/2][4 GiB][GUARD_SZ/2], ARENA_STRIDE apart
//!               │ …            │
//!               └──────────────┘ +64 GiB
//! ```
//!
//! The whole is a power of two at a multiple of itself, so that an address can be *cut* to lie
//! in it: see [`contained`]. A margin before it holds what an offset of 16 bits leads to, and,
//! further away, the bounds that machine code compares with; the one behind it is as large as
//! the guest, for offsets and for indices that machine code adds to addresses which are cut.

use harena_abi::KernAddr;
use harena_jit::{GUEST_BITS, INDEX_BITS};

const GIB: u64 = 1 << 30;

/// Guest address of the reservation's first byte.
pub const GUEST_BASE: u64 = 0xffff_8800_0000_0000;
/// First guest address that programs may load from.
pub const HEAP_START: u64 = GUEST_BASE + 4 * GIB;
/// First guest address that programs may store to.
pub const HEAP_WRITABLE: u64 = GUEST_BASE + 5 * GIB;
/// End of the heap.
pub const HEAP_END: u64 = GUEST_BASE + 23 * GIB;
/// Guest address where the first arena's reservation begins.
pub const ARENAS_START: u64 = GUEST_BASE + 24 * GIB;
/// Distance of two arenas' reservations.
pub const ARENA_STRIDE: u64 = 5 * GIB;
/// Arenas one VM can hold.
pub const ARENA_COUNT: usize = 8;
/// Bytes of guest addresses one VM has.
pub const GUEST_LEN: u64 = 1 << GUEST_BITS;
/// Host memory before them, in which nothing lies but the bounds.
pub const MARGIN: u64 = 2 << 20;
/// Host memory behind them, in which nothing lies: where the sum of an address and an index leads.
pub const MARGIN_BEHIND: u64 = (1 << INDEX_BITS) + (1 << 20);
/// Bytes of host address space one VM reserves.
pub const RESERVATION_LEN: u64 = MARGIN + GUEST_LEN + MARGIN_BEHIND;

const _: () = assert!(GUEST_BASE.is_multiple_of(GUEST_LEN));
const _: () = assert!(24 * GIB + ARENA_STRIDE * ARENA_COUNT as u64 <= GUEST_LEN);

/// An address of a program, cut to the guest's: what has the right high bits stays as it is.
#[must_use]
pub const fn contained(addr: u64) -> u64 {
    GUEST_BASE | addr & (GUEST_LEN - 1)
}

/// Bytes of one map's kernel object (`struct bpf_map` and what contains it).
pub const MAP_OBJECT_STRIDE: u64 = 1024;
/// Distance of two CPUs' copies of a per-CPU kernel variable.
pub const PERCPU_STRIDE: u64 = 256 * 1024;
/// Most CPUs a VM can have, so that all per-CPU copies fit.
pub const CPU_COUNT_MAX: u32 = 8192;

/// Base of the addresses that name program text (callbacks); no memory lies there.
pub const TEXT_BASE: u64 = 0xffff_f000_0000_0000;
/// Distance of two programs' text, log2: 2^20 instructions of 8 bytes.
pub const TEXT_SHIFT: u32 = 23;

/// A named part of the heap. Other crates allocate in `Kernel`, `Tasks` and `PerCpu`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    /// Frozen map values (`.rodata`).
    Rodata,
    /// Program stacks.
    Stacks,
    /// Argument vectors and other short-lived values handed to programs.
    Contexts,
    /// Kernel objects of maps.
    MapObjects,
    /// Per-CPU kernel variables: the first copy; CPU n's lies n * [`PERCPU_STRIDE`] further.
    PerCpu,
    /// Everything else a kernel owns.
    Kernel,
    /// Map values.
    Maps,
    /// `task_struct`s.
    Tasks,
}

impl Region {
    /// All regions, in address order.
    pub const ALL: [Self; 8] = [
        Self::Rodata,
        Self::Stacks,
        Self::Contexts,
        Self::MapObjects,
        Self::PerCpu,
        Self::Kernel,
        Self::Maps,
        Self::Tasks,
    ];

    const fn bounds(self) -> (u64, u64) {
        match self {
            Self::Rodata => (HEAP_START, HEAP_WRITABLE),
            Self::Stacks => (HEAP_WRITABLE, HEAP_WRITABLE + GIB / 2),
            Self::Contexts => (HEAP_WRITABLE + GIB / 2, HEAP_START + 2 * GIB),
            Self::MapObjects => (HEAP_START + 2 * GIB, HEAP_START + 3 * GIB),
            Self::PerCpu => (HEAP_START + 3 * GIB, HEAP_START + 5 * GIB),
            Self::Kernel => (HEAP_START + 5 * GIB, HEAP_START + 9 * GIB),
            Self::Maps => (HEAP_START + 9 * GIB, HEAP_START + 13 * GIB),
            Self::Tasks => (HEAP_START + 13 * GIB, HEAP_END),
        }
    }

    /// First address of the region.
    #[must_use]
    pub const fn start(self) -> KernAddr {
        KernAddr::new(self.bounds().0)
    }

    /// Address behind the region.
    #[must_use]
    pub const fn end(self) -> KernAddr {
        KernAddr::new(self.bounds().1)
    }

    /// The name, for error messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rodata => "rodata",
            Self::Stacks => "stacks",
            Self::Contexts => "contexts",
            Self::MapObjects => "map objects",
            Self::PerCpu => "per-CPU variables",
            Self::Kernel => "kernel",
            Self::Maps => "maps",
            Self::Tasks => "tasks",
        }
    }

    /// Index in [`Region::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

const _: () = assert!(PERCPU_STRIDE * CPU_COUNT_MAX as u64 == 2 * GIB);
const _: () = assert!(HEAP_END < ARENAS_START);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_guests_is_not_cut() {
        for addr in [
            GUEST_BASE,
            HEAP_START,
            HEAP_END - 1,
            GUEST_BASE + GUEST_LEN - 1,
        ] {
            assert_eq!(contained(addr), addr);
        }
        assert_eq!(contained(0), GUEST_BASE);
        assert_eq!(contained(GUEST_BASE + GUEST_LEN), GUEST_BASE);
        assert_eq!(contained(u64::MAX), GUEST_BASE + GUEST_LEN - 1);
        // Arena pointers of users, and text.
        assert!(contained(0x1000_ffff_ffff) < HEAP_START);
        assert!(contained(TEXT_BASE) < HEAP_START);
    }

    #[test]
    fn regions_tile_the_heap() {
        let mut at = HEAP_START;
        for (i, region) in Region::ALL.into_iter().enumerate() {
            assert_eq!(region.index(), i);
            assert_eq!(region.start().raw(), at, "{region:?}");
            at = region.end().raw();
        }
        assert_eq!(at, HEAP_END);
    }
}
