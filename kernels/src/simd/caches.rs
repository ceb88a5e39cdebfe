//! How large a core's caches are, as far as the processor says it.
//!
//! No result depends on it, only how much is computed at a time.

use std::sync::OnceLock;

/// What the blocking was fitted on, and what is assumed where the processor does not say.
const ASSUMED_BYTES: usize = 2 << 20;

/// Bytes of a core's second-level cache.
pub(crate) fn second_level_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| told().filter(|bytes| *bytes > 0).unwrap_or(ASSUMED_BYTES))
}

/// *Source*: Intel's manual, CPUID leaf 4; AMD's has the same numbers in leaf 8000_001D.
#[cfg(target_arch = "x86_64")]
fn told() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const INTEL: u32 = 4;
    const AMD: u32 = 0x8000_001d;
    let has = |leaf: u32| __cpuid(leaf & 0x8000_0000).eax >= leaf;
    let caches = [INTEL, AMD].into_iter().filter(|leaf| has(*leaf)).flat_map(|leaf| {
        let all = (0..16).map(move |index| __cpuid_count(leaf, index));
        all.take_while(|cache| cache.eax & 31 != 0)
    });
    let bits = |of: u32, low: u32, count: u32| (of >> low & ((1 << count) - 1)) as usize;
    let mut unified = caches.filter(|cache| bits(cache.eax, 0, 5) == 3);
    unified.find(|cache| bits(cache.eax, 5, 3) == 2).map(|cache| {
        let (ways, partitions) = (bits(cache.ebx, 22, 10) + 1, bits(cache.ebx, 12, 10) + 1);
        ways * partitions * (bits(cache.ebx, 0, 12) + 1) * (cache.ecx as usize + 1)
    })
}

/// Elsewhere no program may ask, and the blocking stays as it was measured.
#[cfg(not(target_arch = "x86_64"))]
fn told() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_has_the_size_of_one() {
        let bytes = second_level_bytes();
        assert!((128 << 10..=64 << 20).contains(&bytes), "{bytes}");
    }
}
