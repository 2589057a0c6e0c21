//! LPM tries: the value of the longest prefix of a key that the map holds.
//!
//! A key is a length in bits and data of which only so many bits count, the first byte's highest
//! first. Prefixes lie in a tree map, in the order in which the kernel walks its trie: postorder,
//! so what is more specific comes before what is less.
//!
//! ```text
//! 10.0.0.0/24 < 10.0.1.0/24 < 10.0.0.0/16 < 10.128.0.0/16 < 10.0.0.0/8
//! ```
//!
//! In this order, a prefix of a key never lies before the key, and all that lies between the two
//! begins with that prefix. So the first element behind a key says how many bits of it can match
//! at most. Mirrors `kernel/bpf/lpm_trie.c`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use harena_abi::{Errno, KernAddr};

use super::keyed::ELEMENTS_MAX;
use super::{Map, Storage, UpdateFlags};
use crate::layout::Region;
use crate::mem::GuestMem;

/// Bytes of a key before its data: the length in bits.
pub(super) const LENGTH_SIZE: usize = 4;

/// The first `len` bits of some data.
#[derive(Clone, Debug)]
struct Prefix {
    len: u32,
    /// The bits behind `len` are kept for who asks for the key, and mean nothing.
    data: Box<[u8]>,
}

impl Prefix {
    /// The prefix that a key stands for; `None` if the length is more than it has bits.
    fn of(key: &[u8], data_size: usize) -> Option<Self> {
        let (len, data) = key.split_first_chunk::<LENGTH_SIZE>()?;
        let len = u32::from_le_bytes(*len);
        let fits = data.len() == data_size && u64::from(len) <= data.len() as u64 * 8;
        fits.then(|| Self {
            len,
            data: Box::from(data),
        })
    }

    fn key(&self) -> Box<[u8]> {
        let mut key = Vec::from(self.len.to_le_bytes());
        key.extend_from_slice(&self.data);
        key.into_boxed_slice()
    }

    /// Bits that both begin with.
    fn common(&self, other: &Self) -> u32 {
        let max = self.len.min(other.len);
        let mut bits = 0;
        for (a, b) in self.data.iter().zip(&other.data) {
            bits += (a ^ b).leading_zeros();
            if bits >= max || a != b {
                break;
            }
        }
        bits.min(max)
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        let common = self.common(other);
        if common == self.len.min(other.len) {
            return other.len.cmp(&self.len);
        }
        // Both have the bit behind the common ones, and it decides.
        let byte = common as usize / 8;
        self.data[byte].cmp(&other.data[byte])
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Prefix {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Prefix {}

/// A lookup's result, and how many elements it looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched {
    pub(crate) value: Option<KernAddr>,
    pub(crate) steps: u64,
}

/// One trie.
#[derive(Debug)]
pub(crate) struct Trie {
    data_size: usize,
    values: BTreeMap<Prefix, KernAddr>,
}

impl Trie {
    pub(super) fn new(key_size: u32) -> Self {
        Self {
            data_size: (key_size as usize).saturating_sub(LENGTH_SIZE),
            values: BTreeMap::new(),
        }
    }

    /// `trie_lookup_elem()`.
    pub(crate) fn lookup(&self, key: &[u8]) -> Matched {
        let mut steps = 0;
        let Some(mut wanted) = Prefix::of(key, self.data_size) else {
            return Matched { value: None, steps };
        };
        loop {
            steps += 1;
            let behind = (Bound::Included(&wanted), Bound::Unbounded);
            let Some((found, value)) = self.values.range::<Prefix, _>(behind).next() else {
                return Matched { value: None, steps };
            };
            let common = wanted.common(found);
            if common == found.len {
                let value = Some(*value);
                return Matched { value, steps };
            }
            assert!(common < wanted.len, "each step asks for fewer bits");
            wanted.len = common;
        }
    }

    /// Every key, more specific ones first.
    pub(super) fn keys(&self) -> Vec<Box<[u8]>> {
        self.values.keys().map(Prefix::key).collect()
    }

    /// `trie_get_next_key()`: a key that is not there starts again.
    pub(super) fn next_key(&self, after: Option<&[u8]>) -> Option<Box<[u8]>> {
        let after = after.and_then(|key| Prefix::of(key, self.data_size));
        let after = after.filter(|prefix| self.values.contains_key(prefix));
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.values.range::<Prefix, _>((from, Bound::Unbounded));
        rest.next().map(|(prefix, _)| prefix.key())
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

impl Map {
    /// `trie_update_elem()`.
    pub(super) fn update_trie(
        &mut self,
        mem: &GuestMem,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), Errno> {
        let size = self.block_size();
        let max_entries = self.spec.max_entries as usize;
        let Storage::Trie(trie) = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        let prefix = Prefix::of(key, trie.data_size).ok_or(Errno::EINVAL)?;
        let at = match (trie.values.get(&prefix).copied(), flags) {
            (Some(_), UpdateFlags::NoExist) => return Err(Errno::EEXIST),
            (None, UpdateFlags::Exist) => return Err(Errno::ENOENT),
            (Some(at), UpdateFlags::Any | UpdateFlags::Exist) => {
                // The new key may differ in bits that do not count.
                trie.values.remove(&prefix);
                at
            }
            (None, UpdateFlags::Any | UpdateFlags::NoExist) => {
                if trie.len() >= max_entries {
                    return Err(Errno::ENOSPC);
                }
                if trie.len() >= ELEMENTS_MAX {
                    return Err(Errno::ENOMEM);
                }
                let block = mem.alloc(Region::Maps, size, 8);
                block.map_err(|_full| Errno::ENOMEM)?
            }
        };
        let old = trie.values.insert(prefix, at);
        assert_eq!(old, None, "a prefix is there once");
        self.write_value(mem, at, value)
    }

    /// `trie_delete_elem()`.
    pub(super) fn delete_trie(&mut self, key: &[u8]) -> Result<KernAddr, Errno> {
        let Storage::Trie(trie) = &mut self.storage else {
            return Err(Errno::EINVAL);
        };
        let prefix = Prefix::of(key, trie.data_size).ok_or(Errno::EINVAL)?;
        trie.values.remove(&prefix).ok_or(Errno::ENOENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(len: u32, data: [u8; 2]) -> Vec<u8> {
        let mut key = Vec::from(len.to_le_bytes());
        key.extend(data);
        key
    }

    /// A trie whose values are the numbers of its prefixes, from 1.
    fn trie(prefixes: &[(u32, [u8; 2])]) -> Trie {
        let mut trie = Trie::new(6);
        for (i, (len, data)) in (1u64..).zip(prefixes) {
            let prefix = Prefix::of(&key(*len, *data), 2).unwrap();
            trie.values.insert(prefix, KernAddr::new(i));
        }
        trie
    }

    fn longest(prefixes: &[(u32, [u8; 2])], len: u32, data: [u8; 2]) -> Option<u64> {
        let bits = |data: [u8; 2], len: u32| u32::from(u16::from_be_bytes(data)) >> (16 - len);
        let found = (1u64..)
            .zip(prefixes)
            .filter(|(_, (l, d))| *l <= len && (*l == 0 || bits(*d, *l) == bits(data, *l)));
        found.max_by_key(|(_, (l, _))| *l).map(|(i, _)| i)
    }

    #[test]
    fn the_longest_prefix_is_found() {
        let mut state = 7u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u16::try_from(state >> 48).unwrap()
        };
        for _ in 0..200 {
            let mut prefixes: Vec<(u32, [u8; 2])> = Vec::new();
            for _ in 0..next() % 20 {
                let len = u32::from(next() % 17);
                // Few values, so that many share a beginning.
                let data = (next() & 0x9003).to_be_bytes();
                let new = Prefix::of(&key(len, data), 2).unwrap();
                let known = |(l, d): &(u32, [u8; 2])| Prefix::of(&key(*l, *d), 2).unwrap() == new;
                if !prefixes.iter().any(known) {
                    prefixes.push((len, data));
                }
            }
            let trie = trie(&prefixes);
            for _ in 0..50 {
                let len = u32::from(next() % 17);
                let data = (next() & 0x9003).to_be_bytes();
                let found = trie.lookup(&key(len, data));
                let expected = longest(&prefixes, len, data);
                assert_eq!(found.value.map(KernAddr::raw), expected, "{len} {data:?}");
                assert!(found.steps <= 17);
            }
        }
    }

    #[test]
    fn the_order_is_the_kernels() {
        // The example in the kernel's source.
        let example = [
            (16, [192, 168]),
            (9, [192, 0]),
            (10, [192, 64]),
            (2, [192, 255]),
            (16, [192, 0]),
        ];
        let keys: Vec<Vec<u8>> = trie(&example).keys().iter().map(|k| k.to_vec()).collect();
        let expected = [
            key(16, [192, 0]),
            key(10, [192, 64]),
            key(9, [192, 0]),
            key(16, [192, 168]),
            key(2, [192, 255]),
        ];
        assert_eq!(keys, expected);
    }
}
