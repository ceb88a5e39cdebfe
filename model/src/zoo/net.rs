//! The layers that architectures are written in.

use super::random::Random;
use crate::builder::Builder;
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::limits;
use crate::op::{Activation, CombineKind, Op, PoolKind};
use crate::weights::WeightId;
use crate::window::Window;
use std::ops::Range;

pub(super) type Built = Result<MapId, ModelError>;

/// Keeps the variance where a ReLU halves it. *Source*: He et al., "Delving deep into
/// rectifiers", ICCV 2015.
pub(super) const GAIN_RELU: f32 = std::f32::consts::SQRT_2;

/// Keeps the variance where no activation follows.
pub(super) const GAIN_LINEAR: f32 = 1.0;

/// For the last layer of a residual branch: a sum of many branches must not grow.
pub(super) const GAIN_BRANCH: f32 = 0.5;

/// A convolution; [`Conv::new`] and the methods after it describe one.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    out: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    is_depthwise: bool,
    gain: f32,
    activation: Activation,
}

impl Conv {
    /// A square kernel whose padding keeps the size.
    pub(super) fn new(out: usize, kernel: usize) -> Self {
        Self {
            out,
            kernel,
            stride: 1,
            pad: kernel / 2,
            is_depthwise: false,
            gain: GAIN_LINEAR,
            activation: Activation::None,
        }
    }

    pub(super) fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub(super) fn pad(self, pad: usize) -> Self {
        Self { pad, ..self }
    }

    pub(super) fn depthwise(self) -> Self {
        Self { is_depthwise: true, ..self }
    }

    pub(super) fn gain(self, gain: f32) -> Self {
        Self { gain, ..self }
    }

    /// A rectifier after it, with the gain that goes with one.
    pub(super) fn then(self, activation: Activation) -> Self {
        Self { activation, gain: GAIN_RELU, ..self }
    }

    pub(super) fn relu(self) -> Self {
        self.then(Activation::Relu)
    }
}

/// A network that grows.
pub(super) struct Net {
    pub(super) builder: Builder,
    name: &'static str,
}

impl Net {
    pub(super) fn new(name: &'static str) -> Self {
        Self { builder: Builder::new(name, &format!("zoo:{name}")), name }
    }

    pub(super) fn conv(&mut self, name: &str, input: MapId, conv: Conv) -> Built {
        let channels = self.builder.shape(input).channels();
        let group_in = if conv.is_depthwise { 1 } else { channels };
        let dims = [conv.out, group_in, conv.kernel, conv.kernel];
        let weights = self.weights(name, &dims, conv.gain)?;
        let bias = Some(self.bias(name, conv.out)?);
        let groups = if conv.is_depthwise { channels } else { 1 };
        let window = Window::square(conv.kernel, conv.stride, conv.pad);
        let op = Op::Conv { window, groups, weights, bias, activation: Activation::None };
        let map = self.builder.layer(name, op, &[input])?;
        self.activate(name, map, conv.activation)
    }

    /// A fully connected layer on `[1, in]`.
    pub(super) fn linear(&mut self, name: &str, input: MapId, out: usize, gain: f32) -> Built {
        let inner = self.builder.shape(input).channels();
        let weights = self.weights(name, &[out, inner], gain)?;
        let bias = Some(self.bias(name, out)?);
        let op = Op::Linear { weights, bias, activation: Activation::None };
        self.builder.layer(name, op, &[input])
    }

    pub(super) fn activate(&mut self, name: &str, input: MapId, activation: Activation) -> Built {
        if activation == Activation::None {
            return Ok(input);
        }
        self.builder.layer(&format!("{name}/activation"), Op::Activate(activation), &[input])
    }

    pub(super) fn max_pool(&mut self, name: &str, input: MapId, window: Window) -> Built {
        self.builder.layer(name, Op::Pool { window, kind: PoolKind::Max }, &[input])
    }

    pub(super) fn add(&mut self, name: &str, inputs: &[MapId]) -> Built {
        let op = Op::Combine { kind: CombineKind::Add, activation: Activation::None };
        self.builder.layer(name, op, inputs)
    }

    pub(super) fn mul(&mut self, name: &str, inputs: &[MapId]) -> Built {
        let op = Op::Combine { kind: CombineKind::Mul, activation: Activation::None };
        self.builder.layer(name, op, inputs)
    }

    pub(super) fn sub(&mut self, name: &str, inputs: &[MapId]) -> Built {
        let op = Op::Combine { kind: CombineKind::Sub, activation: Activation::None };
        self.builder.layer(name, op, inputs)
    }

    pub(super) fn concat(&mut self, name: &str, inputs: &[MapId]) -> Built {
        self.builder.layer(name, Op::Concat, inputs)
    }

    /// Some neighbouring channels.
    pub(super) fn channels(&mut self, name: &str, input: MapId, some: Range<usize>) -> Built {
        let indices = (some.start as u32..some.end as u32).collect();
        self.builder.layer(name, Op::Select { axis: 1, indices }, &[input])
    }

    /// The mean of each channel.
    pub(super) fn global_mean(&mut self, name: &str, input: MapId) -> Built {
        let op = Op::global_average_pool(self.builder.shape(input));
        self.builder.layer(name, op, &[input])
    }

    /// A batch normalisation that no convolution takes in.
    pub(super) fn affine(&mut self, name: &str, input: MapId, activation: Activation) -> Built {
        let channels = self.builder.shape(input).channels();
        let around_one = Random::of(&format!("{}/{name}/scale", self.name)).uniform(channels, 0.3);
        let scale = around_one.into_iter().map(|x| 1.0 + x).collect::<Vec<f32>>();
        let scale = self.builder.weight(scale, &[channels])?;
        let shift = self.bias(name, channels)?;
        let op = Op::ChannelAffine { scale, shift, activation: Activation::None };
        let map = self.builder.layer(name, op, &[input])?;
        self.activate(name, map, activation)
    }

    /// All elements as `[1, count]`.
    pub(super) fn flatten(&mut self, name: &str, input: MapId) -> Built {
        let dims = Shape::General(vec![1, self.builder.shape(input).elements()]);
        self.builder.layer_to(name, Op::Reshape, &[input], name, Some(dims))
    }

    fn weights(&mut self, name: &str, dims: &[usize], gain: f32) -> Result<WeightId, ModelError> {
        let Some(count) = limits::elements(dims) else {
            return Err(ModelError::TooLarge {
                file: format!("zoo:{}", self.name).into(),
                what: format!("weights of layer \"{name}\"").into(),
                limit: limits::ELEMENTS_MAX as u64,
                got: format!("{dims:?}").into(),
            });
        };
        let fan_in: usize = dims[1..].iter().product();
        // A uniform distribution of this bound has the variance gain^2 / fan_in.
        let bound = gain * (3.0 / fan_in as f32).sqrt();
        let values = Random::of(&format!("{}/{name}/weights", self.name)).uniform(count, bound);
        self.builder.weight(values, dims)
    }

    fn bias(&mut self, name: &str, out: usize) -> Result<WeightId, ModelError> {
        let values = Random::of(&format!("{}/{name}/bias", self.name)).uniform(out, 0.1);
        self.builder.weight(values, &[out])
    }
}
