//! Pseudo-random numbers of these tests, so that a seed names a case.

/// xorshift64*: the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// Any seed will do; neighbours may be equal, as it must not be 0.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).expect("an index of `from`")]
    }

    /// One in `n`.
    pub(crate) fn rarely(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
