//! Recognises activations that files write as several layers.

use super::{Links, elements};
use crate::graph::{Layer, MapId, Model};
use crate::op::{Activation, CombineKind, Op};
use crate::weights::WeightStore;

/// Turns the spelt out forms of SiLU, HardSwish, Mish and GELU into one layer. What they were made
/// of is left for the dead pass, since others may read it. Returns whether anything changed.
pub(super) fn run(model: &mut Model, store: &WeightStore) -> bool {
    let links = Links::of(model);
    let mut changed = false;
    for index in 0..model.layers.len() {
        let graph = Graph { model, store, links: &links };
        if let Some((value, found)) = graph.activation(&model.layers[index]) {
            let layer = &mut model.layers[index];
            layer.op = Op::Activate(found);
            layer.inputs = vec![value];
            changed = true;
        }
    }
    changed
}

struct Graph<'a> {
    model: &'a Model,
    store: &'a WeightStore,
    links: &'a Links,
}

/// Files write constants with more or fewer digits.
fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * b.abs()
}

impl<'a> Graph<'a> {
    /// The activation that ends with a layer, and what it is of.
    fn activation(&self, layer: &Layer) -> Option<(MapId, Activation)> {
        if let Some([x, y]) = self.product(layer) {
            return self.gated(x, y).or_else(|| self.gated(y, x));
        }
        // The factor of the whole may come last.
        let (factor, map) = self.scaled(layer)?;
        let [x, y] = self.product(self.producer(map)?)?;
        let both = [(x, y), (y, x)];
        both.into_iter().find_map(|(x, gate)| {
            if near(factor, 0.5) && self.is_one_plus_erf(gate, x) {
                Some((x, Activation::Gelu))
            } else if near(factor, 1.0 / 6.0) && self.is_relu6_of_plus_three(gate, x) {
                Some((x, Activation::HardSwish))
            } else {
                None
            }
        })
    }

    /// What `value * gate` is.
    fn gated(&self, value: MapId, gate: MapId) -> Option<(MapId, Activation)> {
        if let Some((half, x)) = self.producer(value).and_then(|layer| self.scaled(layer))
            && near(half, 0.5)
            && self.is_one_plus_erf(gate, x)
        {
            return Some((x, Activation::Gelu));
        }
        let layer = self.producer(gate)?;
        let found = match layer.op {
            Op::Activate(Activation::Sigmoid) if layer.inputs == [value] => Activation::Silu,
            Op::Activate(Activation::HardSigmoid { alpha, beta })
                if layer.inputs == [value] && near(alpha, 1.0 / 6.0) && beta == 0.5 =>
            {
                Activation::HardSwish
            }
            Op::Activate(Activation::Tanh) => {
                let inner = self.producer(layer.inputs[0])?;
                let softplus = inner.op == Op::Activate(Activation::Softplus);
                (softplus && inner.inputs == [value]).then_some(Activation::Mish)?
            }
            _ => {
                let (sixth, clipped) = self.scaled(layer)?;
                let found = near(sixth, 1.0 / 6.0) && self.is_relu6_of_plus_three(clipped, value);
                found.then_some(Activation::HardSwish)?
            }
        };
        Some((value, found))
    }

    fn producer(&self, map: MapId) -> Option<&'a Layer> {
        self.links.producer(map).map(|id| self.model.layer(id))
    }

    /// The factors of a product of two maps with nothing after it.
    fn product(&self, layer: &Layer) -> Option<[MapId; 2]> {
        match layer.op {
            Op::Combine { kind: CombineKind::Mul, activation: Activation::None } => {
                layer.inputs[..].try_into().ok()
            }
            _ => None,
        }
    }

    /// `scale`, `shift` and what comes after, where all channels have the same.
    fn affine(&self, layer: &Layer) -> Option<(f32, f32, Activation)> {
        let Op::ChannelAffine { scale, shift, activation } = layer.op else {
            return None;
        };
        let same = |weight| match elements(self.model, self.store, weight) {
            [first, rest @ ..] => rest.iter().all(|x| x == first).then_some(*first),
            [] => None,
        };
        Some((same(scale)?, same(shift)?, activation))
    }

    /// The number that a layer multiplies a map with.
    fn scaled(&self, layer: &Layer) -> Option<(f32, MapId)> {
        match self.affine(layer)? {
            (factor, 0.0, Activation::None) => Some((factor, layer.inputs[0])),
            _ => None,
        }
    }

    /// Whether a map is `1 + erf(x / sqrt(2))`.
    fn is_one_plus_erf(&self, map: MapId, x: MapId) -> bool {
        let found = || {
            let plus = self.producer(map)?;
            let (1.0, 1.0, Activation::None) = self.affine(plus)? else { return None };
            let erf = self.producer(plus.inputs[0])?;
            let Op::Activate(Activation::Erf) = erf.op else { return None };
            let (factor, inner) = self.scaled(self.producer(erf.inputs[0])?)?;
            Some(inner == x && near(factor, std::f32::consts::FRAC_1_SQRT_2))
        };
        found().unwrap_or(false)
    }

    /// Whether a map is `min(max(x + 3, 0), 6)`.
    fn is_relu6_of_plus_three(&self, map: MapId, x: MapId) -> bool {
        let found = || {
            let clip = self.producer(map)?;
            let six = Activation::Clip { min: 0.0, max: 6.0 };
            let plus = match clip.op {
                Op::Activate(activation) if activation == six => self.producer(clip.inputs[0])?,
                _ => clip,
            };
            let (1.0, 3.0, activation) = self.affine(plus)? else { return None };
            let is_clipped = activation == six || (plus != clip && activation == Activation::None);
            Some(is_clipped && plus.inputs[0] == x)
        };
        found().unwrap_or(false)
    }
}
