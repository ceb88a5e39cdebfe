//! Rewrites after the import: fewer layers, the same answer.
//!
//! Each pass takes a valid graph and leaves a valid one, up to layers and maps that nothing reads
//! any more, which the dead pass drops.

mod affine;
mod dead;
mod fuse;
mod half;
mod identity;
mod pad;
mod partial;
mod pattern;
mod quantize;
mod rows;
mod shuffle;
#[cfg(test)]
mod tests;

use crate::graph::{LayerId, MapId, Model};
use crate::weights::{WeightHash, WeightId, WeightInfo, WeightStore};
use std::collections::BTreeSet;

pub(crate) use quantize::{Origin, QuantWeights, run as quantize};

/// Runs all passes until none changes anything.
pub(crate) fn optimize(model: &mut Model, store: &mut WeightStore) {
    loop {
        let mut changed = dead::run(model, store);
        changed |= identity::run(model);
        changed |= pattern::run(model, store);
        changed |= shuffle::run(model);
        // Layers that a pattern replaced must not count as readers below.
        dead::run(model, store);
        changed |= pad::run(model);
        changed |= affine::run(model, store);
        changed |= fuse::run(model);
        if !changed {
            break;
        }
    }
    partial::run(model);
    if rows::run(model, store) {
        // Shapes between two such layers, and the weights from before.
        dead::run(model, store);
    }
}

/// Who writes and reads each map.
struct Links {
    producers: Vec<Option<LayerId>>,
    readers: Vec<Vec<LayerId>>,
    is_input: Vec<bool>,
    is_output: Vec<bool>,
}

impl Links {
    fn of(model: &Model) -> Self {
        let count = model.maps.len();
        let mut links = Self {
            producers: vec![None; count],
            readers: vec![Vec::new(); count],
            is_input: vec![false; count],
            is_output: vec![false; count],
        };
        for (index, layer) in model.layers.iter().enumerate() {
            let id = LayerId(index as u32);
            links.producers[layer.output.index()] = Some(id);
            for map in &layer.inputs {
                links.readers[map.index()].push(id);
            }
        }
        model.inputs.iter().for_each(|map| links.is_input[map.index()] = true);
        model.outputs.iter().for_each(|map| links.is_output[map.index()] = true);
        links
    }

    fn producer(&self, map: MapId) -> Option<LayerId> {
        self.producers[map.index()]
    }

    /// The layer that writes a map which only one layer reads, and which the caller does not see:
    /// the two may become one.
    fn sole_producer(&self, map: MapId) -> Option<LayerId> {
        let is_sole = self.readers[map.index()].len() == 1 && !self.is_output[map.index()];
        self.producer(map).filter(|_| is_sole)
    }
}

/// Removes layers by index.
fn remove_layers(model: &mut Model, removed: &BTreeSet<usize>) {
    let mut index = 0..;
    model.layers.retain(|_| !index.next().is_some_and(|index| removed.contains(&index)));
}

/// Lets the layer that writes `from` write `to` in its place; whoever read `from` now reads `to`.
fn redirect_output(model: &mut Model, producer: LayerId, from: MapId, to: MapId) {
    model.layers[producer.index()].output = to;
    for layer in &mut model.layers {
        layer.inputs.iter_mut().filter(|map| **map == from).for_each(|map| *map = to);
    }
}

/// Adds a weight tensor.
fn add_weight(
    model: &mut Model,
    store: &mut WeightStore,
    values: Vec<f32>,
    dims: &[usize],
) -> WeightId {
    let hash = store.insert(values);
    model.weights.push(WeightInfo::new(hash, dims));
    WeightId(model.weights.len() as u32 - 1)
}

/// The elements of a weight; the builder keeps all that it names.
fn elements<'a>(model: &Model, store: &'a WeightStore, weight: WeightId) -> &'a [f32] {
    let hash: WeightHash = model.weight(weight).hash;
    store.find(hash).map_or(&[], |values| values.as_slice())
}
