//! Randomness that can be repeated: xorshift64*.

use std::hash::{BuildHasher, RandomState};

/// A generator.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Seeded by the operating system.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(std::process::id()))
    }

    /// The same seed, the same numbers.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// True in `part` of `whole` cases.
    pub(crate) fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }
}
