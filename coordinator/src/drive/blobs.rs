//! Weights as they travel.

use model::{WeightHash, WeightStore};
use net::Owner;
use std::sync::Arc;

/// The bytes of all tensors, from where they lie.
pub(super) fn blobs(weights: &WeightStore) -> impl Iterator<Item = (WeightHash, Owner)> {
    weights.hashes().filter_map(|hash| {
        let floats = weights.find(hash).map(|v| Arc::new(WeightBytes(v.clone())) as Owner);
        let others = || Some(Arc::new(RawBytes(weights.find_bytes(hash)?.clone())) as Owner);
        Some((hash, floats.or_else(others)?))
    })
}

struct RawBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for RawBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Little-endian machines only, as all the supported ones are.
struct WeightBytes(Arc<Vec<f32>>);

impl AsRef<[u8]> for WeightBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
