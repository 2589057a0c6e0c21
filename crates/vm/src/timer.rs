//! `struct bpf_timer`: timers that live in map values.
//!
//! The 16 bytes in the value are opaque to programs and unused here: what a timer is
//! stays in this table, keyed by its address, so that a program that scribbles over
//! them harms nobody. The host keeps the clock; it calls back when a timer is due.

use std::collections::BTreeMap;

use harena_abi::{Errno, KernAddr};

use crate::maps::MapId;
use crate::program::ProgId;

/// Number of a timer in its VM; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId(pub(crate) u32);

impl TimerId {
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// One initialised timer.
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    pub(crate) map: MapId,
    /// The element it lies in: its key, and where its value starts. It is there as long as the
    /// timer is.
    pub(crate) key: Box<[u8]>,
    pub(crate) value: KernAddr,
    /// The callback: program and first slot of the function.
    pub(crate) callback: Option<(ProgId, u32)>,
    pub(crate) armed: bool,
}

/// All timers of a VM.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_addr: BTreeMap<KernAddr, TimerId>,
    timers: BTreeMap<TimerId, Timer>,
    next: u32,
}

impl Timers {
    /// `bpf_timer_init`.
    pub(crate) fn init(
        &mut self,
        addr: KernAddr,
        map: MapId,
        (key, value): (Box<[u8]>, KernAddr),
    ) -> Result<TimerId, Errno> {
        if self.by_addr.contains_key(&addr) {
            return Err(Errno::EBUSY);
        }
        let id = TimerId(self.next);
        self.next += 1;
        self.by_addr.insert(addr, id);
        self.timers.insert(
            id,
            Timer {
                map,
                key,
                value,
                callback: None,
                armed: false,
            },
        );
        Ok(id)
    }

    pub(crate) fn at(&mut self, addr: KernAddr) -> Option<(TimerId, &mut Timer)> {
        let id = *self.by_addr.get(&addr)?;
        Some((id, self.timers.get_mut(&id)?))
    }

    pub(crate) fn get_mut(&mut self, id: TimerId) -> Option<&mut Timer> {
        self.timers.get_mut(&id)
    }

    /// Forgets the timers that lie in `[start, start + len)`: their map value goes away.
    pub(crate) fn remove_range(&mut self, start: KernAddr, len: u64) -> Vec<TimerId> {
        let end = KernAddr::new(start.raw().saturating_add(len));
        let gone: Vec<(KernAddr, TimerId)> = self
            .by_addr
            .range(start..end)
            .map(|(addr, id)| (*addr, *id))
            .collect();
        for (addr, id) in &gone {
            self.by_addr.remove(addr);
            self.timers.remove(id);
        }
        gone.into_iter().map(|(_, id)| id).collect()
    }
}
