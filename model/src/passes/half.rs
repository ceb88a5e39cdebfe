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
        self.halved(|_, half| half.is_finite())
    }

    /// The model with those of these weights as half floats that are some already, as in a file of half
    /// floats: nothing is lost.
    pub(crate) fn with_halves_found(self) -> Self {
        self.halved(|float, half| half.to_f32().to_bits() == float.to_bits())
    }

    fn halved(self, fits: impl Fn(f32, f16) -> bool) -> Self {
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
            let halves = floats.iter().map(|&float| f16::from_f32(float));
            if halves.clone().zip(&**floats).all(|(half, &float)| fits(float, half)) {
                let bytes = halves.flat_map(|half| half.to_le_bytes()).collect();
                (info.hash, info.element) = (weights.insert_bytes(bytes), Element::F16);
            }
        }
        let wanted: BTreeSet<_> = graph.weights.iter().map(|info| info.hash).collect();
        weights.retain(|hash| wanted.contains(&hash));
        Self { graph: Arc::new(graph), weights }
    }
}
