//! Kfuncs of harena's own that touch arena memory through the pointer they are given.
//!
//! They do what kfuncs with `__arena` arguments may do: dereference, with no check and no
//! copy. If the page is empty, the access lands on the scratch page and is reported; the
//! host never notices. The one rule is the contract's: what reaches further than half the
//! guard past the pointer must check its range.

use harena_arena::{ArenaPtr, HALF_GUARD};
use harena_vm::Abort;

use super::{Kf, context, kfuncs};
use crate::reg::as_u32;

/// Words that may be touched unchecked.
const WORDS_MAX: u32 = {
    assert!(HALF_GUARD / 8 <= u32::MAX as u64);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        (HALF_GUARD / 8) as u32
    }
};

kfuncs! {
    context::ANY, None, No {
        harena_arena_sum "u64 (const u64 *ptr__arena, u32 nr_words)" => sum;
        harena_arena_fill "void (u64 *ptr__arena, u32 nr_words, u64 value)" => fill;
    }
}

fn sum(k: &mut Kf<'_, '_, '_>, [ptr, nr_words, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.with_words(ptr, nr_words, |words, count| {
        (0..count).fold(0u64, |sum, i| sum.wrapping_add(words.index(i).read()))
    })
}

fn fill(k: &mut Kf<'_, '_, '_>, [ptr, nr_words, value, ..]: [u64; 5]) -> Result<u64, Abort> {
    k.with_words(ptr, nr_words, |words, count| {
        (0..count).for_each(|i| words.index(i).write(value));
        0
    })
}

impl Kf<'_, '_, '_> {
    /// Runs `f` on the words behind an arena pointer.
    fn with_words(
        &self,
        ptr: u64,
        nr_words: u64,
        f: impl FnOnce(ArenaPtr<'_, u64>, u32) -> u64,
    ) -> Result<u64, Abort> {
        let count = as_u32(nr_words);
        if count > WORDS_MAX {
            return Err(self
                .call
                .bad_argument(format!("{count} words, unchecked are at most {WORDS_MAX}")));
        }
        let (arena, offset) = self.in_arena(ptr)?;
        Ok(f(arena.ptr(offset), count))
    }
}
