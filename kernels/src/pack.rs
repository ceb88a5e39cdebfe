//! Weights as the kernels want them, made once for all tile shapes and instruction sets.
//!
//! A dense convolution's weights lie in panels of 16 output channels:
//! `[group][panel][kernel row][kernel col][input channel][16]`, the last panel of a group filled
//! with zeros. Two panels side by side feed AVX-512, one feeds AVX2 and NEON.

mod packing;
mod steps;

use crate::conv::transposed::PackedTranspose;
use crate::error::KernelError;
use crate::linear::LinearWeights;
use crate::piece::{AlignedBuffer, Piece};
use crate::quant::PackedQuant;
use half::f16;
use model::{Axes, LayerId, LoadedModel, Model, Op, WeightId, WeightStore};
use packing::Packing;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
pub(crate) use steps::Steps;
use tiling::{Algorithm, Numerics, StageGeometry};

/// Output channels of a panel.
pub(crate) const PANEL: usize = 16;

/// A convolution's weights in panels, or by tap where each channel is its own group.
pub(crate) struct PackedConv {
    pub(crate) groups: usize,
    /// Input channels of a group.
    pub(crate) group_inputs: usize,
    /// Output channels of a group.
    pub(crate) group_outputs: usize,
    pub(crate) kernel: Axes<usize>,
    pub(crate) algorithm: Algorithm,
    /// Depthwise: `[kernel row][kernel col][channel]`; Winograd: panels of transformed weights
    /// for each position; else panels.
    pub(crate) values: AlignedBuffer,
    /// The panels of a dense direct convolution where they are stored as half floats; `values` is
    /// empty then.
    pub(crate) halves: Vec<f16>,
    /// As the output channels of the panels lie; zeros where the layer has no bias.
    pub(crate) bias: Vec<f32>,
}

impl PackedConv {
    /// One input and one output channel for each group.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.group_inputs == 1 && self.group_outputs == 1
    }

    pub(crate) fn panels_per_group(&self) -> usize {
        self.group_outputs.div_ceil(PANEL)
    }

    /// Values of all panels.
    pub(crate) fn elements(&self) -> usize {
        self.values.values().len() + self.halves.len()
    }

    fn bytes(&self) -> usize {
        let singles = self.values.capacity() + self.bias.len();
        singles * size_of::<f32>() + self.halves.len() * size_of::<f16>()
    }

    /// Stores the panels of a dense direct convolution as half floats, which hold them exactly.
    fn narrow(&mut self) {
        if self.algorithm == Algorithm::Direct && !self.is_depthwise() {
            let values = std::mem::take(&mut self.values);
            self.halves = values.values().iter().map(|&value| f16::from_f32(value)).collect();
        }
    }

    /// Products of one output element.
    pub(crate) fn depth(&self) -> usize {
        self.kernel.rows * self.kernel.cols * self.group_inputs
    }

    /// Takes the bias of each output channel, and the weights of the direct algorithm: `from`
    /// knows them by output channel, input channel of the group, and tap.
    fn fill(
        &mut self,
        bias: &[f32],
        steps: &mut Steps<'_>,
        from: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) {
        let taps = self.kernel.rows * self.kernel.cols;
        if self.is_depthwise() {
            let channels = self.groups;
            self.bias = bias.to_vec();
            self.values = AlignedBuffer::zeroed(taps * channels);
            let to = self.values.values_mut();
            for channel in 0..channels {
                for tap in 0..taps {
                    to[tap * channels + channel] = from(channel, 0, tap);
                }
            }
            return;
        }
        let (depth, panels) = (self.depth(), self.panels_per_group());
        let (group_inputs, group_outputs) = (self.group_inputs, self.group_outputs);
        self.values = AlignedBuffer::zeroed(self.groups * panels * depth * PANEL);
        self.bias = vec![0.0; self.groups * panels * PANEL];
        for (panel, to) in self.bias.chunks_mut(PANEL).enumerate() {
            let (outs, lanes) = lanes_of(panel, panels, group_outputs);
            to[..lanes].copy_from_slice(&bias[outs..outs + lanes]);
        }
        // Without inputs there are no values either.
        let to = self.values.values_mut().chunks_mut((depth * PANEL).max(1)).enumerate();
        steps.each(to.collect(), depth * PANEL * size_of::<f32>(), |(panel, to)| {
            let (outs, lanes) = lanes_of(panel, panels, group_outputs);
            for lane in 0..lanes {
                for tap in 0..taps {
                    for c in 0..group_inputs {
                        let k = tap * group_inputs + c;
                        to[k * PANEL + lane] = from(outs + lane, c, tap);
                    }
                }
            }
        });
    }
}

/// The first output channel of a panel, and how many it has.
fn lanes_of(panel: usize, panels_per_group: usize, group_outputs: usize) -> (usize, usize) {
    let (group, first) = (panel / panels_per_group, panel % panels_per_group * PANEL);
    (group * group_outputs + first, PANEL.min(group_outputs - first))
}

/// What a layer needs beside its inputs.
pub(crate) enum Packed {
    Nothing,
    Conv(PackedConv),
    ConvTranspose(PackedTranspose),
    /// Scale and shift, or the slopes of a PRelu.
    Channels(Vec<Arc<Vec<f32>>>),
    Linear {
        weights: LinearWeights,
        bias: Option<Arc<Vec<f32>>>,
    },
    /// A fully connected layer in slices, as they arrive.
    Rows {
        slices: Vec<OnceLock<LinearWeights>>,
        /// Outputs of each slice but the last.
        of_slice: usize,
        bias: Option<Arc<Vec<f32>>>,
    },
    /// A quantised product.
    Quant(Box<PackedQuant>),
    Constant(Piece),
}

/// A layer's weights for one algorithm, from when they are packed until they are given up.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Packed>>>);

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Packed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Option<Arc<Packed>> {
        self.lock().clone()
    }

    /// Takes them in. Two threads may both have packed them; the second result is dropped.
    fn fill(&self, packed: Packed) -> Arc<Packed> {
        self.lock().get_or_insert_with(|| Arc::new(packed)).clone()
    }
}

/// A model with its weights packed, layer by layer, as they arrive.
pub struct PackedModel {
    graph: Arc<Model>,
    /// For each layer, one for each algorithm.
    layers: Vec<[Slot; Algorithm::ALL.len()]>,
    /// What layers without weights have.
    nothing: Arc<Packed>,
}

impl PackedModel {
    /// A model of which nothing is packed yet.
    pub fn new(graph: Arc<Model>) -> Self {
        let layers = graph.layers.iter().map(|_| Default::default()).collect();
        Self { graph, layers, nothing: Arc::new(Packed::Nothing) }
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Model> {
        &self.graph
    }

    /// Packs one layer for an algorithm; does nothing where that was done. Any thread may call it.
    /// Of a layer in slices, those are packed that the store has.
    ///
    /// *Errors*: a weight tensor is not in the store, or does not fit the layer.
    pub fn pack(
        &self,
        layer: LayerId,
        algorithm: Algorithm,
        weights: &WeightStore,
    ) -> Result<(), KernelError> {
        self.pack_in(layer, algorithm, weights, Steps { threads: None, pause: &mut || () })
    }

    pub(crate) fn pack_in(
        &self,
        layer: LayerId,
        algorithm: Algorithm,
        weights: &WeightStore,
        mut steps: Steps<'_>,
    ) -> Result<(), KernelError> {
        let slot = &self.layers[layer.index()][algorithm as usize];
        let packing = Packing { graph: &self.graph, layer, algorithm, weights };
        let packed = match slot.get() {
            Some(packed) => packed,
            None => slot.fill(packing.run(&mut steps)?),
        };
        match &*packed {
            Packed::Rows { slices, .. } => packing.slices(slices),
            _ => Ok(()),
        }
    }

    /// Gives up what a layer has packed for an algorithm. A run that has begun goes on with it.
    pub fn unpack(&self, layer: LayerId, algorithm: Algorithm) {
        self.layers[layer.index()][algorithm as usize].lock().take();
    }

    /// Packs every layer for [`crate::Engine::run_whole`], several at a time.
    ///
    /// *Errors*: as [`PackedModel::pack`].
    pub fn pack_all(&self, model: &LoadedModel, numerics: Numerics) -> Result<(), KernelError> {
        self.pack_stage(&StageGeometry::whole(&self.graph, numerics), &model.weights)
    }

    /// Packs the layers of a stage.
    ///
    /// *Errors*: as [`PackedModel::pack`].
    pub fn pack_stage(
        &self,
        stage: &StageGeometry,
        weights: &WeightStore,
    ) -> Result<(), KernelError> {
        stage.algorithms.par_iter().enumerate().try_for_each(|(i, &algorithm)| {
            self.pack(LayerId(stage.first_layer.0 + i as u32), algorithm, weights)
        })
    }

    /// Whether a layer can run over any region: it is packed, or has no weights.
    pub fn is_packed(&self, layer: LayerId, algorithm: Algorithm) -> bool {
        let ids = self.graph.layer(layer).op.weight_ids();
        self.lacking(layer, algorithm, &ids).is_empty()
    }

    /// Of some weights of a layer, all that have to be in the store when it is packed for them: none
    /// where that was done.
    pub fn lacking(&self, layer: LayerId, algorithm: Algorithm, ids: &[WeightId]) -> Vec<WeightId> {
        let Some(packed) = self.layers[layer.index()][algorithm as usize].get() else {
            return ids.to_vec();
        };
        match (&*packed, &self.graph.layer(layer).op) {
            (Packed::Rows { slices: packed, .. }, Op::LinearRows { slices, .. }) => {
                let missing = slices.iter().zip(packed).filter(|(_, slice)| slice.get().is_none());
                missing.map(|(&id, _)| id).filter(|id| ids.contains(id)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Memory that the packed weights take. Fully connected layers use the elements as they are
    /// in the store; they are counted too.
    pub fn bytes(&self) -> usize {
        let singles = |values: &Vec<f32>| values.len() * size_of::<f32>();
        let bytes = |packed: &Packed| match packed {
            Packed::Nothing => 0,
            Packed::Conv(conv) => conv.bytes(),
            Packed::ConvTranspose(PackedTranspose { phases, bias }) => {
                phases.iter().map(|(_, conv)| conv.bytes()).sum::<usize>() + singles(bias)
            }
            Packed::Channels(all) => all.iter().map(|values| singles(values)).sum(),
            Packed::Linear { weights, bias } => {
                weights.bytes() + bias.as_ref().map_or(0, |bias| singles(bias))
            }
            Packed::Rows { slices, bias, .. } => {
                let slices = slices.iter().filter_map(OnceLock::get).map(LinearWeights::bytes);
                slices.sum::<usize>() + bias.as_ref().map_or(0, |bias| singles(bias))
            }
            Packed::Quant(product) => product.bytes(),
            Packed::Constant(piece) => piece.byte_len(),
        };
        let layers = self.layers.iter().flatten().filter_map(Slot::get);
        layers.map(|packed| bytes(&packed)).sum()
    }

    pub(crate) fn find(&self, layer: LayerId, algorithm: Algorithm) -> Option<Arc<Packed>> {
        let has_weights = matches!(
            &self.graph.layer(layer).op,
            Op::Conv { .. }
                | Op::ConvTranspose { .. }
                | Op::ChannelAffine { .. }
                | Op::LayerNorm { .. }
                | Op::PRelu { .. }
                | Op::Linear { .. }
                | Op::LinearRows { .. }
                | Op::QConv { .. }
                | Op::QLinear { .. }
                | Op::Constant { .. }
        );
        let packed = self.layers[layer.index()][algorithm as usize].get();
        if has_weights { packed } else { Some(packed.unwrap_or_else(|| self.nothing.clone())) }
    }
}
