//! The graph: layers in topological order over feature maps with known shapes.

use crate::op::{Op, QProduct};
use crate::quant::Element;
use crate::weights::{WeightId, WeightInfo, WeightStore};
use crate::window::Axes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which feature map of a model; an index into [`Model::maps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MapId(pub u32);

/// Which layer of a model; an index into [`Model::layers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayerId(pub u32);

impl MapId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl LayerId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The shape of a feature map, batch 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// ONNX dims `[1, channels, rows, cols]`. In memory: rows, cols, channels (NHWC).
    Spatial {
        /// Channels.
        channels: usize,
        /// Height.
        rows: usize,
        /// Width.
        cols: usize,
    },
    /// Any other ONNX dims, in memory in row-major order. As a region it is one position
    /// (1 row, 1 col) with all its elements as channels, so it is never cut.
    General(Vec<usize>),
}

impl Shape {
    /// Channels; all elements for a general shape.
    pub fn channels(&self) -> usize {
        match self {
            Shape::Spatial { channels, .. } => *channels,
            Shape::General(dims) => dims.iter().product(),
        }
    }

    /// The one shape that ONNX dims have here: spatial for rank 4 with batch 1, else general.
    pub fn from_dims(dims: &[usize]) -> Self {
        match *dims {
            [1, channels, rows, cols] => Shape::Spatial { channels, rows, cols },
            _ => Shape::General(dims.to_vec()),
        }
    }

    /// Rows; 1 for a general shape.
    pub fn rows(&self) -> usize {
        match self {
            Shape::Spatial { rows, .. } => *rows,
            Shape::General(_) => 1,
        }
    }

    /// Columns; 1 for a general shape.
    pub fn cols(&self) -> usize {
        match self {
            Shape::Spatial { cols, .. } => *cols,
            Shape::General(_) => 1,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.channels() * self.rows() * self.cols()
    }

    /// Whether rows and columns exist.
    pub fn is_spatial(&self) -> bool {
        matches!(self, Shape::Spatial { .. })
    }

    /// The ONNX dims, batch included.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Shape::Spatial { channels, rows, cols } => vec![1, *channels, *rows, *cols],
            Shape::General(dims) => dims.clone(),
        }
    }
}

/// Where the caller of a model has the channels of a spatial map. In memory they always come last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// `[1, channels, rows, cols]`, as ONNX has it.
    #[default]
    ChannelsSecond,
    /// `[1, rows, cols, channels]`, as files from TensorFlow have it.
    ChannelsLast,
}

/// The tensor between layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureMap {
    /// The name in the file it came from.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// What one element is.
    pub element: Element,
    /// How the caller gives or takes it; it changes nothing inside the model.
    pub layout: Layout,
}

impl FeatureMap {
    /// A map of floats.
    pub fn new(name: impl Into<String>, shape: Shape) -> Self {
        Self::of(name, shape, Element::F32)
    }

    /// A map of any elements.
    pub fn of(name: impl Into<String>, shape: Shape, element: Element) -> Self {
        Self { name: name.into(), shape, element, layout: Layout::default() }
    }

    /// The dims that the caller of the model sees.
    pub fn dims(&self) -> Vec<usize> {
        match (&self.shape, self.layout) {
            (Shape::Spatial { channels, rows, cols }, Layout::ChannelsLast) => {
                vec![1, *rows, *cols, *channels]
            }
            (shape, _) => shape.dims(),
        }
    }
}

/// One operator of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The name in the file it came from.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The maps it reads, in the operator's order.
    pub inputs: Vec<MapId>,
    /// The map it writes; no other layer writes it.
    pub output: MapId,
}

/// A CNN: everything but the elements of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// A name for people.
    pub name: String,
    /// All feature maps.
    pub maps: Vec<FeatureMap>,
    /// All layers; each reads only maps that are inputs or written by an earlier layer.
    pub layers: Vec<Layer>,
    /// The maps the caller provides.
    pub inputs: Vec<MapId>,
    /// The maps the caller wants.
    pub outputs: Vec<MapId>,
    /// The weight tensors.
    pub weights: Vec<WeightInfo>,
}

impl Model {
    /// A feature map.
    pub fn map(&self, map: MapId) -> &FeatureMap {
        &self.maps[map.index()]
    }

    /// The shape of a feature map.
    pub fn shape(&self, map: MapId) -> &Shape {
        &self.maps[map.index()].shape
    }

    /// What one element of a feature map is.
    pub fn element(&self, map: MapId) -> Element {
        self.maps[map.index()].element
    }

    /// Bytes of one position of a feature map, all its channels.
    pub fn pixel_bytes(&self, map: MapId) -> usize {
        self.shape(map).channels() * self.element(map).bytes()
    }

    /// A layer.
    pub fn layer(&self, layer: LayerId) -> &Layer {
        &self.layers[layer.index()]
    }

    /// What is known of a weight tensor.
    pub fn weight(&self, weight: WeightId) -> &WeightInfo {
        &self.weights[weight.0 as usize]
    }

    /// The layer that writes a map; none for a model input.
    pub fn producer(&self, map: MapId) -> Option<LayerId> {
        self.layers.iter().position(|l| l.output == map).map(|i| LayerId(i as u32))
    }

    /// Multiply-adds of one output element of a layer, for all its channels together: the cost of
    /// one position. Zero for layers without a product.
    pub fn multiply_adds_per_position(&self, layer: LayerId) -> u64 {
        let layer = self.layer(layer);
        match &layer.op {
            Op::Conv { weights, .. } | Op::QConv { product: QProduct { weights, .. }, .. } => {
                self.weight(*weights).elements() as u64
            }
            // Every input position is multiplied by all weights; the cost is that of the mean
            // output position.
            Op::ConvTranspose { window, weights, .. } => {
                let Axes { rows, cols } = window.stride;
                self.weight(*weights).elements().div_ceil(rows * cols) as u64
            }
            Op::Linear { weights, .. } | Op::QLinear { product: QProduct { weights, .. } } => {
                let rows: usize =
                    self.shape(layer.output).elements() / self.weight(*weights).dims[0];
                (self.weight(*weights).elements() * rows) as u64
            }
            Op::LinearRows { slices, .. } => self.weight(slices[0]).dims[1] as u64,
            Op::MatMul => {
                let inner = self.shape(layer.inputs[0]).dims().last().copied().unwrap_or(1);
                (self.shape(layer.output).elements() * inner) as u64
            }
            _ => 0,
        }
    }

    /// Multiply-adds of the whole model, untiled.
    pub fn multiply_adds(&self) -> u64 {
        (0..self.layers.len() as u32)
            .map(|i| {
                let shape = self.shape(self.layers[i as usize].output);
                self.multiply_adds_per_position(LayerId(i)) * (shape.rows() * shape.cols()) as u64
            })
            .sum()
    }
}

/// A model together with the elements of its weights.
#[derive(Clone)]
pub struct LoadedModel {
    /// The graph.
    pub graph: Arc<Model>,
    /// The elements, by hash.
    pub weights: WeightStore,
}

impl LoadedModel {
    /// The elements of a weight tensor of floats.
    ///
    /// *Panics* when the store lacks it: a loaded model is complete by construction.
    pub fn elements(&self, weight: WeightId) -> Arc<Vec<f32>> {
        let floats = self.weights.floats(self.graph.weight(weight));
        floats.expect("a loaded model has all its weights")
    }
}
