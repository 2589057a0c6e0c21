//! Bloom filters: whether a value was ever pushed; a wrong yes is possible, a wrong no is not.
//!
//! The bits lie in guest memory. The hash is seeded by the map's number, where the kernel draws a
//! random one, so a wrong yes is the same in every run. Mirrors `kernel/bpf/bloom_filter.c`.

use harena_abi::{Errno, KernAddr};

use super::{Map, MapId, Storage};
use crate::mem::GuestMem;

/// Bits of `map_extra` that say how many hash functions there are.
pub(super) const HASH_FUNCS_MASK: u64 = 0xf;
/// The hash functions of a filter that does not say.
const HASH_FUNCS_DEFAULT: u64 = 5;

/// One filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bloom {
    bits: KernAddr,
    mask: u64,
    seed: u64,
    hash_funcs: u64,
}

/// Bits of a filter for so many elements: about 1.4 for each element and hash function, and a
/// power of two from 64 to 2^32.
pub(super) fn bit_count(max_entries: u32, map_extra: u64) -> u64 {
    let wanted = u64::from(max_entries) * hash_funcs(map_extra);
    let overflows = |bits: u64| u32::try_from(bits).is_err();
    let bits = wanted / 5 * 7;
    if overflows(wanted) || overflows(bits) {
        return 1 << 32;
    }
    bits.max(64).next_power_of_two()
}

fn hash_funcs(map_extra: u64) -> u64 {
    match map_extra & HASH_FUNCS_MASK {
        0 => HASH_FUNCS_DEFAULT,
        given => given,
    }
}

/// How the hash begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seed {
    /// `BPF_F_ZERO_SEED`.
    Zero,
    /// By the map's number.
    Of(MapId),
}

/// The finaliser of `splitmix64`: every bit of the input moves about half of the output's.
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Bloom {
    pub(super) fn new(bits: KernAddr, bit_count: u64, map_extra: u64, seed: Seed) -> Self {
        assert!(bit_count.is_power_of_two());
        Self {
            bits,
            mask: bit_count - 1,
            seed: match seed {
                Seed::Zero => 0,
                Seed::Of(map) => mix(STEP.wrapping_mul(u64::from(map.raw()) + 1)),
            },
            hash_funcs: hash_funcs(map_extra),
        }
    }

    /// The words that hold a value's bits, and which bits of them.
    fn places(self, value: &[u8]) -> impl Iterator<Item = (KernAddr, u64)> {
        let hash = value.chunks(8).fold(self.seed, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash.wrapping_add(STEP) ^ u64::from_le_bytes(word))
        });
        (1..=self.hash_funcs).map(move |number| {
            let bit = mix(hash.wrapping_add(STEP.wrapping_mul(number))) & self.mask;
            let word = self.bits.checked_add(bit / 64 * 8);
            (
                word.expect("the filter lies in one region"),
                1 << (bit % 64),
            )
        })
    }
}

impl Map {
    /// `bloom_map_push_elem()`.
    pub(super) fn push_bloom(&self, mem: &GuestMem, value: &[u8], flags: u64) -> Result<(), Errno> {
        let Storage::Bloom(bloom) = self.storage else {
            return Err(Errno::EINVAL);
        };
        if flags != 0 || value.len() as u64 != u64::from(self.spec.value_size) {
            return Err(Errno::EINVAL);
        }
        for (at, bit) in bloom.places(value) {
            let word = mem.read_u64(at).map_err(|_fault| Errno::EFAULT)?;
            let set = mem.write_u64(at, word | bit);
            set.map_err(|_fault| Errno::EFAULT)?;
        }
        Ok(())
    }

    /// `bloom_map_peek_elem()`.
    pub(crate) fn peek_bloom(&self, mem: &GuestMem, value: &[u8]) -> Result<(), Errno> {
        let Storage::Bloom(bloom) = self.storage else {
            return Err(Errno::EINVAL);
        };
        if value.len() as u64 != u64::from(self.spec.value_size) {
            return Err(Errno::EINVAL);
        }
        let is_set = |(at, bit)| mem.read_u64(at).is_ok_and(|word| word & bit != 0);
        let all = bloom.places(value).all(is_set);
        if all { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!(bit_count(1, 0), 64);
        assert_eq!(bit_count(9, 0), 64);
        assert_eq!(bit_count(10, 0), 128);
        assert_eq!(bit_count(100, 3), 512);
        assert_eq!(bit_count(1 << 28, 15), 1 << 33 >> 1);
        assert_eq!(bit_count(u32::MAX, 15), 1 << 32);
    }
}
