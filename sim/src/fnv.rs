//! A hash of everything that happened, in order: two runs of one seed must have the same.

/// FNV-1a over words, which is enough to tell two runs apart. *Source*: Fowler, Noll, Vo, 1991.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(pub(crate) u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(crate) fn words(&mut self, words: &[u64]) {
        words.iter().for_each(|&word| self.word(word));
    }
}
