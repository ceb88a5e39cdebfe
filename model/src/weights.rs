//! Weights, addressed by the BLAKE3 hash of their little-endian bytes.

use crate::quant::Element;
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Which of a model's weight tensors; an index into [`crate::Model::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WeightId(pub u32);

/// BLAKE3 of the elements' little-endian bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WeightHash(pub [u8; 32]);

impl WeightHash {
    /// Hashes elements.
    pub fn of(values: &[f32]) -> Self {
        if cfg!(target_endian = "little") {
            Self::of_bytes(bytemuck::cast_slice(values))
        } else {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Self::of_bytes(&bytes)
        }
    }

    /// Hashes bytes as they lie on disk or on the wire.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for WeightHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WeightHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "{}..", &text[..8])
    }
}

/// What the graph knows of one weight tensor; the elements live in a [`WeightStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightInfo {
    /// Content hash of the elements.
    pub hash: WeightHash,
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// What one element is.
    pub element: Element,
}

impl WeightInfo {
    /// A tensor of floats.
    pub fn new(hash: WeightHash, dims: &[usize]) -> Self {
        Self { hash, dims: dims.to_vec(), element: Element::F32 }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Size on disk and on the wire.
    pub fn bytes(&self) -> usize {
        self.elements() * self.element.bytes()
    }
}

/// Elements by content hash. Cloning shares them.
#[derive(Clone, Default)]
pub struct WeightStore {
    by_hash: BTreeMap<WeightHash, Arc<Vec<f32>>>,
    /// Tensors of other elements, as bytes; equal bytes may also be those of a float tensor.
    others: BTreeMap<WeightHash, Arc<Vec<u8>>>,
}

impl WeightStore {
    /// Keeps elements and returns their hash.
    pub fn insert(&mut self, values: Vec<f32>) -> WeightHash {
        let hash = WeightHash::of(&values);
        self.by_hash.entry(hash).or_insert_with(|| Arc::new(values));
        hash
    }

    /// Keeps elements that others hold too, without copying them, and returns their hash.
    pub fn insert_shared(&mut self, values: Arc<Vec<f32>>) -> WeightHash {
        let hash = WeightHash::of(&values);
        self.by_hash.entry(hash).or_insert(values);
        hash
    }

    /// Keeps a tensor of integers or half floats, as little-endian bytes, and returns its hash.
    pub fn insert_bytes(&mut self, bytes: Vec<u8>) -> WeightHash {
        let hash = WeightHash::of_bytes(&bytes);
        self.others.entry(hash).or_insert_with(|| Arc::new(bytes));
        hash
    }

    /// Keeps the bytes of a tensor of any type, as they lie on disk or on the wire.
    pub fn insert_raw(&mut self, element: Element, bytes: &[u8]) -> WeightHash {
        match element {
            Element::F32 => self.insert(bytemuck::pod_collect_to_vec(bytes)),
            _ => self.insert_bytes(bytes.to_vec()),
        }
    }

    /// Drops all elements whose hash is not wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(WeightHash) -> bool) {
        self.by_hash.retain(|hash, _| wanted(*hash));
        self.others.retain(|hash, _| wanted(*hash));
    }

    /// The bytes of a tensor of integers or half floats, where they are here.
    pub fn find_bytes(&self, hash: WeightHash) -> Option<&Arc<Vec<u8>>> {
        self.others.get(&hash)
    }

    /// The elements of a tensor of floats of either length, where they are here.
    pub fn floats(&self, info: &WeightInfo) -> Option<Arc<Vec<f32>>> {
        if info.element != Element::F16 {
            return self.find(info.hash).cloned();
        }
        let halves = self.find_bytes(info.hash)?.chunks_exact(size_of::<f16>());
        let single = |half: &[u8]| f16::from_le_bytes([half[0], half[1]]).to_f32();
        Some(Arc::new(halves.map(single).collect()))
    }

    /// Whether the elements of a tensor are here.
    pub fn has(&self, info: &WeightInfo) -> bool {
        match info.element {
            Element::F32 => self.by_hash.contains_key(&info.hash),
            _ => self.others.contains_key(&info.hash),
        }
    }

    /// The floats of a hash, where they are here.
    pub fn find(&self, hash: WeightHash) -> Option<&Arc<Vec<f32>>> {
        self.by_hash.get(&hash)
    }

    /// All hashes, in order.
    pub fn hashes(&self) -> impl Iterator<Item = WeightHash> + '_ {
        let others = self.others.keys().filter(|hash| !self.by_hash.contains_key(hash));
        self.by_hash.keys().chain(others).copied()
    }
}
