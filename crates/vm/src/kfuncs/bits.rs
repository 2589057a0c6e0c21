//! `bpf_iter_bits_*`: the numbers of the bits that are set in some words.
//!
//! The words are copied when the iterator is made, and stay on the host's side; in the program's
//! memory lies the number that it is given last.

use harena_abi::{Errno, KernAddr};

use super::u32_of;
use crate::helpers::{Answer, Ctx};

/// `BITS_ITER_NR_WORDS_MAX`.
const WORDS_MAX: u32 = 511;
/// Iterators that the host keeps words for.
const ITERATORS_MAX: usize = 1 << 16;
/// Where the number lies in the iterator.
const NUMBER_OFFSET: u64 = 12;

/// An iterator: its words, and the first bit that was not looked at.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    next: u32,
}

impl Bits {
    /// The number of the next set bit.
    fn next(&mut self) -> Option<u32> {
        let (word, shift) = ((self.next / 64) as usize, self.next % 64);
        let mut rest = self.words.get(word)? >> shift << shift;
        let mut at = word;
        while rest == 0 {
            at += 1;
            rest = *self.words.get(at)?;
        }
        let base = u32::try_from(at * 64).expect("few words");
        let bit = base + rest.trailing_zeros();
        self.next = bit + 1;
        Some(bit)
    }
}

/// `bpf_iter_bits_new(it, words, nr_words)`.
pub(super) fn new(ctx: &mut Ctx<'_>, [it, from, nr_words, ..]: [u64; 5]) -> Answer {
    let at = KernAddr::new(it);
    ctx.put(it, &[0; 16])?;
    let nr_words = u32_of(nr_words);
    ctx.vm.on_stacks.bits.remove(&at);
    if from == 0 || nr_words == 0 {
        return Err(Errno::EINVAL.into());
    }
    if nr_words > WORDS_MAX {
        return Err(Errno::E2BIG.into());
    }
    if ctx.vm.on_stacks.bits.len() >= ITERATORS_MAX {
        return Err(Errno::ENOMEM.into());
    }
    ctx.vm.charge_bytes(u64::from(nr_words) * 8)?;
    let mut bytes = vec![0; nr_words as usize * 8];
    let read = ctx.vm.mem.read_bytes(KernAddr::new(from), &mut bytes);
    read.map_err(|_fault| Errno::EFAULT)?;
    let (words, _) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    ctx.vm.on_stacks.bits.insert(at, Bits { words, next: 0 });
    Ok(0)
}

/// `bpf_iter_bits_next(it)`: NULL behind the last one, and where the creation failed.
pub(super) fn next(ctx: &mut Ctx<'_>, [it, ..]: [u64; 5]) -> Answer {
    let bits = ctx.vm.on_stacks.bits.get_mut(&KernAddr::new(it));
    let Some(bit) = bits.and_then(Bits::next) else {
        return Ok(0);
    };
    let number = it.wrapping_add(NUMBER_OFFSET);
    ctx.put(number, &bit.to_le_bytes())?;
    Ok(number)
}

/// `bpf_iter_bits_destroy(it)`.
pub(super) fn destroy(ctx: &mut Ctx<'_>, [it, ..]: [u64; 5]) -> Answer {
    ctx.vm.on_stacks.bits.remove(&KernAddr::new(it));
    Ok(0)
}
