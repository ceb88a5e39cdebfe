//! What a simulated device holds: inputs, kept pieces, weights, and what of it counts.

use super::{Device, Held};
use kernels::{PackedModel, Piece, Pieces};
use model::{LayerId, MapId, Model, WeightHash, WeightStore};
use protocol::{Bundle, FrameId, ModelHash, TaskId};
use std::sync::Arc;
use tiling::{Algorithm, LayerWeights};

impl Device {
    /// What counts against its memory budget.
    pub(crate) fn held_bytes(&self) -> u64 {
        let tensors = self.inputs_bytes + self.kept_bytes + self.unsent_bytes;
        tensors + self.running_bytes + self.packed_bytes
    }

    pub(super) fn note_peak(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.held_bytes());
    }

    pub(super) fn keep_given(&mut self, frame: FrameId) {
        let kept = self.kept.entry(frame).or_default();
        for (i, header) in self.given.headers.iter().enumerate() {
            self.kept_bytes += header.byte_len().unwrap_or(0) as u64;
            kept.push((*header, self.given.pieces.get(i).map(|(_, piece)| piece.clone())));
        }
        self.note_peak();
    }

    /// Lets go of what is kept of a frame, as far as it is of these maps.
    pub(super) fn let_go_kept(&mut self, frame: FrameId, gone: impl Fn(MapId) -> bool) {
        let Some(kept) = self.kept.get_mut(&frame) else { return };
        for (header, _) in kept.extract_if(.., |(header, _)| gone(header.map)) {
            self.kept_bytes -= header.byte_len().unwrap_or(0) as u64;
        }
        if kept.is_empty() {
            self.kept.remove(&frame);
        }
    }

    /// The values that are kept of a frame.
    pub(super) fn kept_values(&self, frame: FrameId) -> impl Iterator<Item = (MapId, Arc<Piece>)> {
        let kept = self.kept.get(&frame).into_iter().flatten();
        kept.filter_map(|(header, piece)| Some((header.map, piece.clone()?)))
    }

    pub(super) fn keep(&mut self, bundle: &Bundle, pieces: Pieces) {
        let bytes = bundle.byte_len().unwrap_or(0) as u64;
        let key = (bundle.task, bundle.attempt);
        let source_bytes = bundle.source_bytes().unwrap_or(0) as u64;
        if let Some(old) = self.inputs.insert(key, Held { pieces, bytes, source_bytes }) {
            self.inputs_bytes -= old.bytes;
        }
        self.inputs_bytes += bytes;
    }

    pub(super) fn let_go(&mut self, task: TaskId, attempt: u32) {
        if let Some(held) = self.inputs.remove(&(task, attempt)) {
            self.inputs_bytes -= held.bytes;
        }
    }

    /// The hashes of weights that it lacks.
    pub(super) fn lacking(&self, weights: &[LayerWeights], graph: &Model) -> Vec<WeightHash> {
        let ids = weights.iter().flat_map(|layer| &layer.ids);
        let hashes = ids.map(|&id| graph.weight(id).hash);
        hashes.filter(|hash| !self.blobs.contains(hash)).collect()
    }

    pub(super) fn close(&mut self, model: ModelHash) {
        self.models.remove(&model);
        self.packed.clear();
        self.packed_bytes = 0;
    }

    /// Lets go of what a layer has packed. Values are there only where they are computed.
    pub(super) fn unpack(
        &mut self,
        (model, graph): (ModelHash, &Model),
        layer: LayerId,
        algorithm: Algorithm,
    ) {
        if let Some(packed) = self.models.get(&model) {
            packed.unpack(layer, algorithm);
        }
        let ids = graph.layer(layer).op.weight_ids();
        for (id, bytes) in (LayerWeights { layer, algorithm, ids }).packed(graph) {
            if self.packed.remove(&(layer, algorithm, id)) {
                self.packed_bytes -= bytes;
            }
        }
    }

    /// Packs what can be packed.
    pub(super) fn pack(
        &mut self,
        weights: &[LayerWeights],
        graph: &Model,
        packed: Option<&PackedModel>,
        all: &WeightStore,
    ) {
        for of_layer in weights {
            let LayerWeights { layer, algorithm, ids } = of_layer;
            if !ids.iter().all(|&id| self.blobs.contains(&graph.weight(id).hash)) {
                continue;
            }
            for (id, bytes) in of_layer.packed(graph) {
                if self.packed.insert((*layer, *algorithm, id)) {
                    self.packed_bytes += bytes;
                }
            }
            if let Some(packed) = packed.filter(|p| !p.is_packed(*layer, *algorithm)) {
                packed.pack(*layer, *algorithm, all).expect("a simulated model is sound");
            }
        }
        self.note_peak();
    }
}
