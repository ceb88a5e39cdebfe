//! A model as text, for people and for golden tests.

use crate::graph::{LayerId, MapId, Model, Shape};
use crate::op::{Activation, Op, PoolKind, ReduceKind};
use crate::window::Axes;
use std::fmt::{self, Write};

impl Op {
    /// The operator's name, without its numbers.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv { .. } => "Conv",
            Op::ConvTranspose { .. } => "ConvTranspose",
            Op::Pool { kind: PoolKind::Max, .. } => "MaxPool",
            Op::Pool { kind: PoolKind::Average { .. }, .. } => "AveragePool",
            Op::Pool { kind: PoolKind::Sum, .. } => "SumPool",
            Op::Activate(_) => "Activate",
            Op::ChannelAffine { .. } => "ChannelAffine",
            Op::PRelu { .. } => "PRelu",
            Op::Combine { .. } => "Combine",
            Op::Concat => "Concat",
            Op::ConcatGeneral { .. } => "ConcatGeneral",
            Op::Pad { .. } => "Pad",
            Op::Resize { .. } => "Resize",
            Op::DepthToSpace { .. } => "DepthToSpace",
            Op::SpaceToDepth { .. } => "SpaceToDepth",
            Op::Lrn { .. } => "Lrn",
            Op::GlobalAveragePool { .. } => "GlobalAveragePool",
            Op::Reduce { kind: ReduceKind::Sum, .. } => "ReduceSum",
            Op::Reduce { kind: ReduceKind::Mean, .. } => "ReduceMean",
            Op::Reduce { kind: ReduceKind::Max, .. } => "ReduceMax",
            Op::Reduce { kind: ReduceKind::Min, .. } => "ReduceMin",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::Select { .. } => "Select",
            Op::Reshape => "Reshape",
            Op::Transpose { .. } => "Transpose",
            Op::Linear { .. } => "Linear",
            Op::LinearRows { .. } => "LinearRows",
            Op::MatMul => "MatMul",
            Op::Softmax { .. } => "Softmax",
            Op::Constant { .. } => "Constant",
            Op::Quantize { .. } => "Quantize",
            Op::Dequantize { .. } => "Dequantize",
            Op::Requantize { .. } => "Requantize",
            Op::QConv { .. } => "QConv",
            Op::QLinear { .. } => "QLinear",
            Op::QCombine { .. } => "QCombine",
            Op::QGlobalAveragePool { .. } => "QGlobalAveragePool",
        }
    }

    /// The activation at its end, for the operators that can take one in.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Op::Conv { activation, .. }
            | Op::ConvTranspose { activation, .. }
            | Op::ChannelAffine { activation, .. }
            | Op::Combine { activation, .. }
            | Op::Linear { activation, .. }
            | Op::LinearRows { activation, .. } => Some(*activation),
            _ => None,
        }
    }

    /// As [`Op::activation`], to change it.
    pub fn activation_mut(&mut self) -> Option<&mut Activation> {
        match self {
            Op::Conv { activation, .. }
            | Op::ConvTranspose { activation, .. }
            | Op::ChannelAffine { activation, .. }
            | Op::Combine { activation, .. }
            | Op::Linear { activation, .. }
            | Op::LinearRows { activation, .. } => Some(activation),
            _ => None,
        }
    }
}

impl fmt::Display for Shape {
    /// `64x112x112` for channels, rows and columns; `[1, 1000]` for other dims.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Spatial { channels, rows, cols } => write!(f, "{channels}x{rows}x{cols}"),
            Shape::General(dims) => write!(f, "{dims:?}"),
        }
    }
}

impl Model {
    /// One line a layer: its index, name, operator, inputs and output shape.
    pub fn summary(&self) -> String {
        let mut text = format!("model {}\n", self.name);
        for map in &self.inputs {
            let map = self.map(*map);
            let _ = writeln!(text, "input {} {}", map.name, map.shape);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let inputs: Vec<String> = layer.inputs.iter().map(|map| self.source(*map)).collect();
            let _ = writeln!(
                text,
                "{index} {} {} ({}) -> {}",
                layer.name,
                self.describe(LayerId(index as u32)),
                inputs.join(", "),
                self.shape(layer.output),
            );
        }
        for map in &self.outputs {
            let _ = writeln!(text, "output {} {}", self.map(*map).name, self.shape(*map));
        }
        text
    }

    fn source(&self, map: MapId) -> String {
        match self.producer(map) {
            Some(layer) => layer.0.to_string(),
            None => self.map(map).name.clone(),
        }
    }

    /// What a layer computes, on one line: its operator and the operator's numbers.
    pub fn describe(&self, layer: LayerId) -> String {
        let op = &self.layer(layer).op;
        let mut text = op.name().to_owned();
        if let Op::Conv { window, .. }
        | Op::ConvTranspose { window, .. }
        | Op::QConv { window, .. }
        | Op::Pool { window, .. } = op
        {
            let (kernel, stride, pads) = (window.kernel, window.stride, window.pads);
            let _ = write!(text, " {}x{}", kernel.rows, kernel.cols);
            if (stride.rows, stride.cols) != (1, 1) {
                let _ = write!(text, " /{}x{}", stride.rows, stride.cols);
            }
            if (window.dilation.rows, window.dilation.cols) != (1, 1) {
                let _ = write!(text, " dilated {}x{}", window.dilation.rows, window.dilation.cols);
            }
            if pads != Default::default() {
                let _ =
                    write!(text, " pad {},{},{},{}", pads.top, pads.left, pads.bottom, pads.right);
            }
        }
        if let Op::ConvTranspose { extra, .. } = op
            && *extra != Axes::new(0, 0)
        {
            let _ = write!(text, " extra {},{}", extra.rows, extra.cols);
        }
        match op {
            Op::Conv { groups, .. }
            | Op::ConvTranspose { groups, .. }
            | Op::QConv { groups, .. }
                if *groups > 1 =>
            {
                let _ = write!(text, " groups {groups}");
            }
            Op::LinearRows { slices, .. } => {
                let _ = write!(text, " in {} slices", slices.len());
            }
            Op::Combine { kind, .. } | Op::QCombine { kind, .. } => {
                let _ = write!(text, " {kind:?}");
            }
            Op::Activate(activation) => {
                let _ = write!(text, " {activation:?}");
            }
            _ => {}
        }
        match op.activation() {
            None | Some(Activation::None) => {}
            Some(activation) => {
                let _ = write!(text, " + {activation:?}");
            }
        }
        text
    }
}
