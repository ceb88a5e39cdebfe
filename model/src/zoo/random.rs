//! Numbers that look random and are the same everywhere.

/// SplitMix64. *Source*: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014.
pub(super) struct Random(u64);

impl Random {
    /// Numbers for one named thing, whatever came before it.
    pub(super) fn of(name: &str) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `count` numbers, uniform from `-bound` to `bound`.
    pub(super) fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        let one = |bits: u64| (bits >> 40) as f32 * (2.0 / (1u32 << 24) as f32) - 1.0;
        (0..count).map(|_| one(self.next()) * bound).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_as_published() {
        let mut random = Random(1234567);
        assert_eq!(random.next(), 6457827717110365317);
        assert_eq!(random.next(), 3203168211198807973);
    }
}
