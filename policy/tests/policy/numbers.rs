//! Numbers for the mutations of a corpus.

/// A small generator of numbers, the same in every run (Marsaglia's xorshift64).
pub struct Numbers(pub u64);

impl Numbers {
    /// Below `most`, which counts as 1 where it is 0.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % most.max(1)
    }
}
