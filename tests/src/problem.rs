//! A random graph as a value.

use crate::Maps;
use crate::draw::draw;
use kernels::{PackedModel, Piece};
use model::LoadedModel;
use proptest::prelude::*;
use sim::Random;
use std::sync::Arc;
use tiling::{Numerics, Region};

/// A graph problem: everything follows from its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphProblem {
    /// Where the layers, weights and inputs come from.
    pub seed: u64,
    /// Layers that are drawn; some become two, and some are fused away.
    pub layers: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Rows of the input.
    pub rows: usize,
    /// Columns of the input.
    pub cols: usize,
    /// How the graph ends.
    pub tail: Tail,
}

/// How a graph ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With the last map.
    None,
    /// With a classifier: flatten, a fully connected layer, softmax.
    Classifier,
    /// With the last map and one in the middle, so that a map is both read and given back.
    TwoOutputs,
}

/// A problem that is ready to run.
pub struct Built {
    /// The model.
    pub model: LoadedModel,
    /// Its weights, packed.
    pub packed: PackedModel,
    /// Inputs, whole; as many frames as were asked for.
    pub frames: Vec<Maps>,
}

impl GraphProblem {
    /// Small problems of every kind.
    pub fn any() -> impl Strategy<Value = GraphProblem> {
        let tails = [Tail::None, Tail::Classifier, Tail::TwoOutputs];
        let numbers = (any::<u64>(), 1usize..8, 1usize..6, 3usize..15, 3usize..15);
        (numbers, proptest::sample::select(tails.to_vec())).prop_map(
            |((seed, layers, channels, rows, cols), tail)| GraphProblem {
                seed,
                layers,
                channels,
                rows,
                cols,
                tail,
            },
        )
    }

    /// Draws the graph, its weights and the inputs of some frames.
    ///
    /// *Panics* when the drawn graph is not sound: that is a bug of the drawing.
    pub fn build(&self, frames: usize) -> Built {
        let mut random = Random::new(self.seed);
        let model = draw(self, &mut random);
        Built::new(model, frames, random)
    }
}

impl Built {
    /// A model with inputs drawn for some frames.
    ///
    /// *Panics* when the model lacks weights.
    pub fn new(model: LoadedModel, frames: usize, mut random: Random) -> Self {
        let graph = model.graph.clone();
        let packed = PackedModel::new(graph.clone());
        packed.pack_all(&model, Numerics::Exact).expect("the weights are all there");
        let mut frame = || {
            let input = |&map: &model::MapId| {
                let shape = graph.shape(map);
                let values = (0..shape.elements()).map(|_| random.value()).collect();
                let piece = Piece::from_values(Region::whole(shape), shape.channels(), values);
                (map, Arc::new(piece.expect("as many values as elements")))
            };
            graph.inputs.iter().map(input).collect()
        };
        let frames = (0..frames).map(|_| frame()).collect();
        Self { model, packed, frames }
    }
}
