//! Hash maps and local storage: one block of guest memory per key.
//!
//! Elements are walked in key order, where the kernel walks in the order of a seeded
//! hash: programs may rely on neither, and ours is equal in every run.

use harena_abi::{Cpu, Errno, KernAddr};

use super::{Entry, Map, Storage, UpdateFlags};
use crate::layout::Region;
use crate::mem::GuestMem;

/// Elements of one map that the host keeps keys for: small ones would fill its memory before
/// they fill the guest's.
pub(super) const ELEMENTS_MAX: usize = 1 << 24;

impl Map {
    pub(super) fn update_keyed(
        &mut self,
        mem: &GuestMem,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
        cpu: Cpu,
    ) -> Result<(), Errno> {
        if key.len() as u64 != u64::from(self.spec.key_size) || value.len() as u64 > self.stride() {
            return Err(Errno::EINVAL);
        }
        let found = self.lookup(key, cpu);
        let at = match (found, flags) {
            (Some(_), UpdateFlags::NoExist) => return Err(Errno::EEXIST),
            (None, UpdateFlags::Exist) => return Err(Errno::ENOENT),
            (Some(at), UpdateFlags::Any | UpdateFlags::Exist) => at,
            (None, UpdateFlags::Any | UpdateFlags::NoExist) => {
                if self.is_full() {
                    return Err(Errno::E2BIG);
                }
                self.insert(mem, key)?;
                self.lookup(key, cpu).ok_or(Errno::E2BIG)?
            }
        };
        self.write_value(mem, at, value)
    }

    fn is_full(&self) -> bool {
        let limit = self.spec.max_entries as usize;
        matches!(&self.storage, Storage::Keyed { blocks, .. } if blocks.len() >= limit)
    }

    /// The key of the least recently used element, if an update of `key` makes a map drop that
    /// one.
    pub(crate) fn victim(&self, key: &[u8], flags: UpdateFlags) -> Option<Box<[u8]>> {
        let Storage::Keyed { blocks, order, .. } = &self.storage else {
            return None;
        };
        let adds = !blocks.contains_key(key) && flags != UpdateFlags::Exist;
        if !adds || !self.is_full() {
            return None;
        }
        let oldest = order.as_ref()?.first_key_value();
        oldest.map(|(_, key)| key.clone())
    }

    /// Adds a zeroed element; there must be none with this key.
    pub(crate) fn insert(&mut self, mem: &GuestMem, key: &[u8]) -> Result<KernAddr, Errno> {
        let size = self.block_size();
        let Storage::Keyed {
            blocks,
            order,
            by_addr,
            next_stamp,
        } = &mut self.storage
        else {
            return Err(Errno::EINVAL);
        };
        if blocks.len() >= ELEMENTS_MAX {
            return Err(Errno::ENOMEM);
        }
        let value = mem
            .alloc(Region::Maps, size, 8)
            .map_err(|_full| Errno::ENOMEM)?;
        let stamp = *next_stamp;
        *next_stamp += 1;
        if let Some(order) = order {
            order.insert(stamp, Box::from(key));
        }
        if let Some(by_addr) = by_addr {
            by_addr.insert(value, Box::from(key));
        }
        let old = blocks.insert(Box::from(key), Entry { value, stamp });
        assert!(old.is_none(), "element inserted twice");
        Ok(value)
    }

    pub(super) fn delete_keyed(&mut self, key: &[u8]) -> Result<KernAddr, Errno> {
        let Storage::Keyed {
            blocks,
            order,
            by_addr,
            ..
        } = &mut self.storage
        else {
            return Err(Errno::EINVAL);
        };
        let entry = blocks.remove(key).ok_or(Errno::ENOENT)?;
        if let Some(order) = order {
            order.remove(&entry.stamp);
        }
        if let Some(by_addr) = by_addr {
            by_addr.remove(&entry.value);
        }
        Ok(entry.value)
    }
}
