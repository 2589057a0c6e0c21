//! Fault reports on their way from the handler to the stream of the program they concern.
//!
//! A bounded queue of many producers (handlers on any thread) and consumers. A producer
//! never waits: if the ring is full, the report is dropped and counted. Slot `i` cycles
//! through tickets:
//!
//! ```text
//! ticket == position          free for the producer that takes `position`
//! ticket == position + 1      filled, for the consumer that takes `position`
//! ticket == position + N      free again, one lap later
//! ```

use harena_abi::{Cpu, UserAddr};

use crate::sync::{AtomicU32, AtomicU64, Ordering, const_unless_loom};

/// The number a program's owner knows it by; reports carry it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProgramTag(u32);

impl ProgramTag {
    /// Wraps a number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// What the faulting instruction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store or an atomic operation.
    Write,
}

/// One recovered fault of host code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// High half of `user_vm_start` plus the offset of the page.
    pub address: UserAddr,
    /// Load or store.
    pub access: Access,
    /// The innermost program that ran on the faulting thread.
    pub program: ProgramTag,
    /// The CPU that the program ran on.
    pub cpu: Cpu,
}

/// A bounded ring of `N` reports. `N` is a power of two.
#[derive(Debug)]
pub struct ReportRing<const N: usize> {
    tail: AtomicU64,
    head: AtomicU64,
    dropped: AtomicU64,
    slots: [Slot; N],
}

#[derive(Debug)]
struct Slot {
    ticket: AtomicU64,
    address: AtomicU64,
    program: AtomicU32,
    /// CPU number shifted left by one, bit 0 set for a write.
    cpu_access: AtomicU64,
}

impl<const N: usize> ReportRing<N> {
    const SIZE: u64 = {
        assert!(N.is_power_of_two());
        assert!(N >= 2);
        N as u64
    };

    /// An empty ring.
    #[must_use]
    pub fn new() -> Self {
        let mut position = 0u64;
        let slots = [(); N].map(|()| {
            let slot = Slot::new(position);
            position = position.wrapping_add(1);
            slot
        });
        Self {
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            slots,
        }
    }

    /// Adds a report, or drops and counts it if the ring is full. Never waits.
    pub fn push(&self, report: Report) {
        let mut position = self.tail.load(Ordering::Relaxed);
        loop {
            let Some(slot) = self.slot(position) else {
                return;
            };
            // Acquire: pairs with the consumer's Release; its reads are over.
            let ticket = slot.ticket.load(Ordering::Acquire);
            if ticket < position {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if ticket > position {
                position = self.tail.load(Ordering::Relaxed);
                continue;
            }
            match self.tail.compare_exchange_weak(
                position,
                position.wrapping_add(1),
                // Relaxed: the ticket, not the tail, publishes the report.
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    slot.write(report);
                    // Release: publishes the fields; pairs with the Acquire in `pop`.
                    slot.ticket
                        .store(position.wrapping_add(1), Ordering::Release);
                    return;
                }
                Err(seen) => position = seen,
            }
        }
    }

    /// Takes the oldest report.
    pub fn pop(&self) -> Option<Report> {
        let mut position = self.head.load(Ordering::Relaxed);
        loop {
            let slot = self.slot(position)?;
            // Acquire: pairs with the producer's Release of the fields.
            let ticket = slot.ticket.load(Ordering::Acquire);
            if ticket <= position {
                return None;
            }
            if ticket > position.wrapping_add(1) {
                position = self.head.load(Ordering::Relaxed);
                continue;
            }
            match self.head.compare_exchange_weak(
                position,
                position.wrapping_add(1),
                // Relaxed: the ticket orders the slot's reuse.
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let report = slot.read();
                    // Release: the slot may be reused; pairs with the Acquire in `push`.
                    slot.ticket
                        .store(position.wrapping_add(Self::SIZE), Ordering::Release);
                    return Some(report);
                }
                Err(seen) => position = seen,
            }
        }
    }

    /// Reports dropped so far because the ring was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn slot(&self, position: u64) -> Option<&Slot> {
        let index = usize::try_from(position & (Self::SIZE.wrapping_sub(1))).ok()?;
        self.slots.get(index)
    }
}

impl<const N: usize> Default for ReportRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    const_unless_loom! {
        fn new(ticket: u64) -> Self {
            Self {
                ticket: AtomicU64::new(ticket),
                address: AtomicU64::new(0),
                program: AtomicU32::new(0),
                cpu_access: AtomicU64::new(0),
            }
        }
    }

    // Relaxed throughout: the ticket's Release and Acquire order these fields.
    fn write(&self, report: Report) {
        let write_bit = match report.access {
            Access::Read => 0,
            Access::Write => 1,
        };
        let cpu = u64::from(report.cpu.raw());
        self.address.store(report.address.raw(), Ordering::Relaxed);
        self.program.store(report.program.raw(), Ordering::Relaxed);
        self.cpu_access
            .store((cpu << 1) | write_bit, Ordering::Relaxed);
    }

    fn read(&self) -> Report {
        let cpu_access = self.cpu_access.load(Ordering::Relaxed);
        Report {
            address: UserAddr::new(self.address.load(Ordering::Relaxed)),
            access: if cpu_access & 1 == 1 {
                Access::Write
            } else {
                Access::Read
            },
            program: ProgramTag::new(self.program.load(Ordering::Relaxed)),
            cpu: Cpu::new(u32::try_from(cpu_access >> 1).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn report(address: u64) -> Report {
        Report {
            address: UserAddr::new(address),
            access: Access::Write,
            program: ProgramTag::new(7),
            cpu: Cpu::new(u32::MAX),
        }
    }

    #[test]
    fn reports_come_out_in_order_and_unchanged() {
        let ring = ReportRing::<4>::new();
        for lap in 0..5 {
            for i in 0..3 {
                ring.push(report(lap * 10 + i));
            }
            for i in 0..3 {
                assert_eq!(ring.pop(), Some(report(lap * 10 + i)));
            }
            assert_eq!(ring.pop(), None);
        }
        assert_eq!(ring.dropped(), 0);
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let ring = ReportRing::<2>::new();
        for i in 0..5 {
            ring.push(report(i));
        }
        assert_eq!(ring.dropped(), 3);
        assert_eq!(ring.pop(), Some(report(0)));
        assert_eq!(ring.pop(), Some(report(1)));
        assert_eq!(ring.pop(), None);
    }
}
