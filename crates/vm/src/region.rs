//! Which bytes of a heap region are taken.
//!
//! A bump pointer and, per size, a stack of freed blocks: the same calls give the same
//! addresses in every run. Blocks are zero when handed out; the caller clears what it
//! frees (see `GuestMem::free`).

use std::collections::BTreeMap;

use harena_abi::KernAddr;

use crate::error::OutOfGuestMemory;
use crate::layout::Region;

/// The allocator of one region.
#[derive(Debug)]
pub(crate) struct RegionAlloc {
    region: Region,
    next: u64,
    freed: BTreeMap<(u64, u64), Vec<u64>>,
}

impl RegionAlloc {
    pub(crate) fn new(region: Region) -> Self {
        Self {
            region,
            next: region.start().raw(),
            freed: BTreeMap::new(),
        }
    }

    /// Takes `size` bytes before `limit`, aligned to `align` (a power of two).
    pub(crate) fn alloc_below(
        &mut self,
        limit: KernAddr,
        size: u64,
        align: u64,
    ) -> Result<KernAddr, OutOfGuestMemory> {
        assert!(
            align.is_power_of_two(),
            "alignment {align} is no power of two"
        );
        let size = size.max(1);
        if let Some(addr) = self.freed.get_mut(&(size, align)).and_then(Vec::pop) {
            return Ok(KernAddr::new(addr));
        }
        let full = OutOfGuestMemory {
            region: self.region.name(),
            size,
        };
        let start = self.next.checked_next_multiple_of(align).ok_or(full)?;
        let end = start.checked_add(size).ok_or(full)?;
        if end > limit.min(self.region.end()).raw() {
            return Err(full);
        }
        self.next = end;
        Ok(KernAddr::new(start))
    }

    /// Gives back a block; `size` and `align` are those it was taken with.
    pub(crate) fn free(&mut self, addr: KernAddr, size: u64, align: u64) {
        assert!(
            addr >= self.region.start(),
            "{addr} is below {:?}",
            self.region
        );
        assert!(addr.raw() < self.next, "{addr} was never allocated");
        let blocks = self.freed.entry((size.max(1), align)).or_default();
        blocks.push(addr.raw());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_reused_and_bounded() {
        let mut alloc = RegionAlloc::new(Region::Kernel);
        let end = Region::Kernel.end();
        let a = alloc.alloc_below(end, 3, 1).unwrap();
        let b = alloc.alloc_below(end, 8, 64).unwrap();
        assert_eq!(a, Region::Kernel.start());
        assert_eq!(b.raw() % 64, 0);
        alloc.free(a, 3, 1);
        assert_eq!(alloc.alloc_below(end, 3, 1).unwrap(), a);
        assert!(alloc.alloc_below(end, u64::MAX, 1).is_err());
        assert!(alloc.alloc_below(end, 1 << 40, 8).is_err());
    }
}
