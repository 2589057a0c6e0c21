//! Runs of values and bytes: `ArenaSlice`, `copy_in`, `copy_out`.

use core::ops::Range;

use harena_abi::ArenaOffset;

use super::super::round::{ANYBODYS, OWNED, USERS};
use super::{Pages, Worker};

/// Bytes of a page that are neither `OWNED` nor `ANYBODYS`: its owner alone uses them.
const PRIVATE: Range<u32> = OWNED[1] + 8..ANYBODYS;

impl Worker<'_> {
    /// Pages of this thread's, as bytes and as slices: both show the same, and both write.
    pub(super) fn copies(&mut self) {
        let round = self.round;
        let Some(pages) = self.pages.last().filter(|pages| pages.filled) else {
            return self.foreign_copies();
        };
        let Pages {
            first,
            count,
            stamp,
            ..
        } = *pages;
        // Odd lengths too: the last bytes are copied one by one.
        let len = count * 4096 - self.random.below(8);
        let mut bytes = vec![0; len as usize];
        let copied = round.arena.copy_out(round.place(first, 0), &mut bytes);
        round.ensure(copied.is_ok(), "a page could not be copied", first.into());
        // All but the words that others look at or write to.
        let (from, to) = (PRIVATE.start, PRIVATE.end);
        let fill = self.random.next();
        for (page, bytes) in (first..).zip(bytes.chunks_mut(4096)) {
            let right = word_of(bytes, OWNED[0]) == stamp ^ u64::from(page)
                && word_of(bytes, OWNED[1]) == stamp ^ u64::from(page);
            round.ensure(right, "a copy is not what was written", page.into());
            for (word, at) in (from..to).step_by(8).enumerate() {
                let value = fill.wrapping_add(word as u64).to_ne_bytes();
                bytes[at as usize..][..8].copy_from_slice(&value);
            }
        }
        let copied = round.arena.copy_in(round.place(first, 0), &bytes);
        round.ensure(copied.is_ok(), "a page could not be written", first.into());
        for page in first..first + count {
            self.check_slice(page, fill);
        }
        self.check_pages(&self.pages[self.pages.len() - 1]);
    }

    /// The private words of a page count up from `fill`; then others are written.
    fn check_slice(&mut self, page: u32, fill: u64) {
        let round = self.round;
        let words = (PRIVATE.end - PRIVATE.start) / 8;
        let at = round.place(page, PRIVATE.start);
        let Ok(slice) = round.arena.slice::<u64>(at, words) else {
            return round.violation("no slice of a page", page.into());
        };
        let count_up = (0..).map(|word| fill.wrapping_add(word));
        let right = slice.iter().eq(count_up.take(words as usize));
        round.ensure(right, "a slice differs from the copy", page.into());
        let start = self.random.below(words);
        let part = slice.part(start..start + self.random.below(words - start + 1));
        let Some(part) = part else {
            return round.violation("no part of a slice", start.into());
        };
        let value = self.random.next();
        part.fill(value);
        let mut seen = vec![0; part.len() as usize];
        part.copy_to(&mut seen);
        let right = seen.iter().all(|seen| *seen == value);
        round.ensure(right, "a slice lost what was written", page.into());
        seen.iter_mut().for_each(|word| *word = !value);
        part.copy_from(&seen);
        if !part.is_empty() {
            let last = part.read(part.len() - 1);
            round.ensure(last == !value, "a slice lost a word", page.into());
        }
        let outside = slice.get(words).is_none() && slice.part(0..words + 1).is_none();
        round.ensure(outside, "a slice has no end", page.into());
    }

    /// Pages of anybody, which come and go: nothing is known of them but that nothing breaks.
    fn foreign_copies(&mut self) {
        let round = self.round;
        let first = self.random.below(USERS - 4);
        let at = round.place(first, self.random.below(4096));
        let len = 1 + self.random.below(3 * 4096);
        let mut bytes = vec![0; len as usize];
        if let Err(error) = round.arena.copy_out(at, &mut bytes) {
            let from = u64::from(at.raw());
            let inside = (from..from + u64::from(len)).contains(&error.bad);
            round.ensure(inside, "a copy failed somewhere else", error.bad);
        }
        // One word of each page, which anybody may write to.
        if let Ok(slice) = round.arena.slice::<u64>(round.place(first, ANYBODYS), 1) {
            slice.write(0, self.random.next());
            let _ = slice.read(0);
        }
        let beyond = round.arena.slice::<u64>(ArenaOffset::new(u32::MAX - 15), 3);
        round.ensure(beyond.is_err(), "a slice leaves the window", 0);
    }
}

/// A word of a page that was copied out.
fn word_of(page: &[u8], at: u32) -> u64 {
    let bytes = page[at as usize..].first_chunk();
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}
