//! Queues and stacks.

use harena_abi::{Errno, KernAddr};

use super::{Map, MapKind, Storage};
use crate::layout::Region;
use crate::mem::GuestMem;

/// Whether a read leaves the element in the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Take {
    /// `bpf_map_pop_elem`.
    Pop,
    /// `bpf_map_peek_elem`.
    Peek,
}

impl Map {
    /// `bpf_map_push_elem`: on a queue or stack, with `BPF_EXIST` the oldest element makes room.
    pub(crate) fn push(&mut self, mem: &GuestMem, value: &[u8], flags: u64) -> Result<(), Errno> {
        const BPF_EXIST: u64 = 2;
        if self.kind == MapKind::BloomFilter {
            return self.push_bloom(mem, value, flags);
        }
        let size = self.block_size();
        let Storage::Queue { blocks } = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        if flags != 0 && flags != BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        if blocks.len() >= self.spec.max_entries as usize {
            let oldest = (flags == BPF_EXIST).then(|| blocks.pop_front()).flatten();
            mem.free(Region::Maps, oldest.ok_or(Errno::E2BIG)?, size, 8);
        }
        let block = mem
            .alloc(Region::Maps, size, 8)
            .map_err(|_full| Errno::ENOMEM)?;
        mem.write_bytes(block, value)
            .map_err(|_fault| Errno::EFAULT)?;
        blocks.push_back(block);
        Ok(())
    }

    /// `bpf_map_pop_elem` and `bpf_map_peek_elem`; an empty map clears the destination.
    pub(crate) fn take(&mut self, mem: &GuestMem, to: KernAddr, take: Take) -> Result<(), Errno> {
        let size = self.block_size();
        let value_size = u64::from(self.spec.value_size);
        let newest_first = self.kind == MapKind::Stack;
        let Storage::Queue { blocks } = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        let found = if newest_first {
            blocks.back()
        } else {
            blocks.front()
        };
        let Some(block) = found.copied() else {
            mem.zero(to, value_size).map_err(|_fault| Errno::EFAULT)?;
            return Err(Errno::ENOENT);
        };
        mem.copy(to, block, value_size)
            .map_err(|_fault| Errno::EFAULT)?;
        if take == Take::Pop {
            let taken = if newest_first {
                blocks.pop_back()
            } else {
                blocks.pop_front()
            };
            assert_eq!(taken, Some(block), "the element just read");
            mem.free(Region::Maps, block, size, 8);
        }
        Ok(())
    }
}
