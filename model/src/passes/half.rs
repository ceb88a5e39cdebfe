//! Weights as half floats.

use crate::graph::LoadedModel;
use crate::quant::Element;
use crate::weights::WeightId;
use half::f16;
use std::collections::BTreeSet;
use std::sync::Arc;

impl LoadedModel {
    /// The model with the weights of its convolutions and fully connected layers rounded to half floats:
    /// half the bytes on the wire, on disk, and in memory where a layer is computed directly. Its answers
    /// are those of the model with rounded weights, bit for bit. A tensor with a value beyond the range of
    /// half floats stays as it is, and so do biases and what is read as something else too.
    pub fn with_half_weights(self) -> Self {
        let Self { graph, mut weights } = self;
        let mut graph = Arc::unwrap_or_clone(graph);
        let factors: BTreeSet<WeightId> =
            graph.layers.iter().flat_map(|layer| layer.op.factors()).collect();
        let others = graph.layers.iter().flat_map(|layer| {
            let factors = layer.op.factors();
            layer.op.weight_ids().into_iter().filter(move |id| !factors.contains(id))
        });
        let others: BTreeSet<WeightId> = others.collect();
        for id in factors.difference(&others) {
            let info = &mut graph.weights[id.0 as usize];
            let floats = weights.find(info.hash).filter(|_| info.element == Element::F32);
            let Some(floats) = floats else { continue };
            let halves: Vec<f16> = floats.iter().map(|&float| f16::from_f32(float)).collect();
            if halves.iter().all(|half| half.is_finite()) {
                let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
                (info.hash, info.element) = (weights.insert_bytes(bytes), Element::F16);
            }
        }
        let wanted: BTreeSet<_> = graph.weights.iter().map(|info| info.hash).collect();
        weights.retain(|hash| wanted.contains(&hash));
        Self { graph: Arc::new(graph), weights }
    }
}
