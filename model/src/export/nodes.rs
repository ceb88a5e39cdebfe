//! Layers as ONNX nodes.

use super::writer::{Writer, float, int, ints, le_bytes, string, to_i64};
use crate::graph::Layer;
use crate::infer::infer;
use crate::op::{
    Activation, CombineKind, DepthOrder, Op, PoolKind, ReduceKind, ResizeCoordinates, ResizeMode,
};
use crate::weights::WeightId;
use crate::window::Window;
use rten_onnx::onnx::{AttributeProto, DataType};

impl Writer<'_> {
    /// Adds the nodes of a layer, its activation after it.
    pub(super) fn layer(&mut self, layer: &Layer) {
        let output = self.name(layer.output).to_owned();
        let activation = layer.op.activation().unwrap_or_default();
        if activation == Activation::None {
            self.bare(layer, output);
        } else {
            let before = self.unique(&format!("{output}/before"));
            self.bare(layer, before.clone());
            let name = format!("{}/activation", layer.name);
            self.activation(&name, activation, before, output);
        }
    }

    /// A layer without its activation.
    fn bare(&mut self, layer: &Layer, output: String) {
        let graph = &self.model.graph;
        let inputs: Vec<String> = layer.inputs.iter().map(|map| self.name(*map).into()).collect();
        let shape = graph.shape(layer.output);
        let name = layer.name.as_str();
        match &layer.op {
            Op::Conv { window, groups, weights, bias, .. } => {
                let mut attributes = window_attributes(window);
                attributes.push(int("group", *groups as i64));
                let inputs = inputs.into_iter().chain(self.weights(*weights, *bias)).collect();
                self.node("Conv", name, inputs, output, attributes);
            }
            Op::ConvTranspose { window, extra, groups, weights, bias, .. } => {
                let mut attributes = window_attributes(window);
                attributes.push(int("group", *groups as i64));
                if (extra.rows, extra.cols) != (0, 0) {
                    attributes.push(ints("output_padding", [extra.rows as i64, extra.cols as i64]));
                }
                let inputs = inputs.into_iter().chain(self.weights(*weights, *bias)).collect();
                self.node("ConvTranspose", name, inputs, output, attributes);
            }
            Op::Pool { window, kind } => self.pool(layer, window, *kind, inputs, output),
            Op::Activate(activation) => {
                let input = inputs.into_iter().next().unwrap_or_default();
                self.activation(name, *activation, input, output);
            }
            Op::ChannelAffine { scale, shift, .. } => {
                self.channel_affine(layer, *scale, *shift, inputs, output);
            }
            Op::PRelu { slope } => {
                let slope = self.weight_as(*slope, &[shape.channels(), 1, 1]);
                self.node("PRelu", name, [inputs, vec![slope]].concat(), output, vec![]);
            }
            Op::Combine { kind, .. } => self.combine(name, *kind, inputs, output),
            Op::Concat => self.node("Concat", name, inputs, output, vec![int("axis", 1)]),
            Op::ConcatGeneral { axis } => {
                self.node("Concat", name, inputs, output, vec![int("axis", *axis as i64)]);
            }
            Op::Pad { pads, value } => {
                let ends = [0, 0, pads.top, pads.left, 0, 0, pads.bottom, pads.right];
                let pads = self.list(&ends.map(|pad| pad as i64));
                let value = self.number(*value);
                self.node("Pad", name, [inputs, vec![pads, value]].concat(), output, vec![]);
            }
            Op::Resize { .. } => self.resize(layer, inputs, output),
            Op::DepthToSpace { block, order } => {
                let mode = if *order == DepthOrder::Dcr { "DCR" } else { "CRD" };
                let attributes = vec![int("blocksize", *block as i64), string("mode", mode)];
                self.node("DepthToSpace", name, inputs, output, attributes);
            }
            Op::SpaceToDepth { block } => {
                let attributes = vec![int("blocksize", *block as i64)];
                self.node("SpaceToDepth", name, inputs, output, attributes);
            }
            Op::Lrn { size, alpha, beta, bias } => {
                let attributes = vec![
                    int("size", *size as i64),
                    float("alpha", *alpha),
                    float("beta", *beta),
                    float("bias", *bias),
                ];
                self.node("LRN", name, inputs, output, attributes);
            }
            Op::GlobalAveragePool { .. } => {
                // Partial sums are the reader's business: it makes them again.
                let sums = graph.producer(layer.inputs[0]).map(|id| graph.layer(id));
                let inputs = match sums {
                    Some(Layer { op: Op::Pool { kind: PoolKind::Sum, .. }, inputs, .. }) => {
                        vec![self.name(inputs[0]).to_owned()]
                    }
                    _ => inputs,
                };
                self.node("GlobalAveragePool", name, inputs, output, vec![]);
            }
            Op::Reduce { kind, axes } => {
                let operator = match kind {
                    ReduceKind::Sum => "ReduceSum",
                    ReduceKind::Mean => "ReduceMean",
                    ReduceKind::Max => "ReduceMax",
                    ReduceKind::Min => "ReduceMin",
                };
                let axes = self.list(&to_i64(axes));
                self.node(operator, name, [inputs, vec![axes]].concat(), output, vec![]);
            }
            Op::LayerNorm { scale, shift, epsilon } => {
                self.layer_norm(layer, *scale, *shift, *epsilon, inputs, output);
            }
            Op::Select { axis, indices } => {
                let indices: Vec<i64> = indices.iter().map(|&index| index.into()).collect();
                let indices = self.list(&indices);
                let inputs = [inputs, vec![indices]].concat();
                self.node("Gather", name, inputs, output, vec![int("axis", *axis as i64)]);
            }
            Op::Reshape => self.reshape(name, inputs, &shape.dims(), output),
            Op::Transpose { perm } => {
                let perm = ints("perm", perm.iter().map(|axis| *axis as i64));
                self.node("Transpose", name, inputs, output, vec![perm]);
            }
            Op::Linear { weights, bias, .. } => {
                self.linear(layer, *weights, *bias, inputs, output);
            }
            Op::LinearRows { slices, bias, .. } => {
                self.linear_rows(layer, slices, *bias, inputs, output);
            }
            Op::MatMul => self.node("MatMul", name, inputs, output, vec![]),
            Op::Softmax { axis, flattened: false } => {
                self.node("Softmax", name, inputs, output, vec![int("axis", *axis as i64)]);
            }
            Op::Softmax { axis, flattened: true } => {
                let dims = shape.dims();
                let matrix = [dims[..*axis].iter().product(), dims[*axis..].iter().product()];
                let flat = self.unique(&format!("{output}/flat"));
                let soft = self.unique(&format!("{output}/soft"));
                self.reshape(&format!("{name}/flatten"), inputs, &matrix, flat.clone());
                self.node("Softmax", name, vec![flat], soft.clone(), vec![int("axis", 1)]);
                self.reshape(&format!("{name}/unflatten"), vec![soft], &dims, output);
            }
            Op::Constant { value } => {
                let dims = graph.weight(*value).dims.clone();
                if graph.outputs.contains(&layer.output) {
                    // An output must be written by a node.
                    let value = self.weight_as(*value, &dims);
                    self.node("Identity", name, vec![value], output, vec![]);
                } else {
                    let bytes = le_bytes(&self.model.elements(*value));
                    self.initializer(output, to_i64(&dims), DataType::FLOAT, bytes);
                }
            }
            Op::Quantize { .. }
            | Op::Dequantize { .. }
            | Op::Requantize { .. }
            | Op::QConv { .. }
            | Op::QLinear { .. }
            | Op::QCombine { .. }
            | Op::QGlobalAveragePool { .. } => {
                unreachable!("a model with maps of bytes was refused")
            }
        }
    }

    fn pool(
        &mut self,
        layer: &Layer,
        window: &Window,
        kind: PoolKind,
        inputs: Vec<String>,
        output: String,
    ) {
        let graph = &self.model.graph;
        let mut attributes = window_attributes(window);
        let rounded_down = infer(&layer.op, &[graph.shape(layer.inputs[0])], &graph.weights, None);
        if rounded_down.as_ref().ok() != Some(graph.shape(layer.output)) {
            attributes.push(int("ceil_mode", 1));
        }
        match kind {
            PoolKind::Max => self.node("MaxPool", &layer.name, inputs, output, attributes),
            // Only the reader of partial sums is written.
            PoolKind::Sum => {}
            PoolKind::Average { count_padding } => {
                attributes.push(int("count_include_pad", count_padding.into()));
                self.node("AveragePool", &layer.name, inputs, output, attributes);
            }
        }
    }

    fn channel_affine(
        &mut self,
        layer: &Layer,
        scale: WeightId,
        shift: WeightId,
        mut inputs: Vec<String>,
        output: String,
    ) {
        let shape = self.model.graph.shape(layer.output);
        let dims = shape.dims();
        if shape.is_spatial() {
            let channels = [shape.channels()];
            inputs.push(self.weight_as(scale, &channels));
            inputs.push(self.weight_as(shift, &channels));
            inputs.push(self.floats("zeros", &[0.0], shape.channels()));
            inputs.push(self.floats("ones", &[1.0], shape.channels()));
            let attributes = vec![float("epsilon", 0.0)];
            self.node("BatchNormalization", &layer.name, inputs, output, attributes);
            return;
        }
        let scaled = self.unique(&format!("{output}/scaled"));
        inputs.push(self.weight_as(scale, &dims));
        let name = format!("{}/scale", layer.name);
        self.node("Mul", &name, inputs, scaled.clone(), vec![]);
        let shift = self.weight_as(shift, &dims);
        self.node("Add", &layer.name, vec![scaled, shift], output, vec![]);
    }

    fn combine(&mut self, name: &str, kind: CombineKind, inputs: Vec<String>, output: String) {
        let operator = match kind {
            CombineKind::Add if inputs.len() > 2 => "Sum",
            CombineKind::Add => "Add",
            CombineKind::Mul => "Mul",
            CombineKind::Sub => "Sub",
            CombineKind::Div => "Div",
            CombineKind::Max => "Max",
            CombineKind::Min => "Min",
        };
        if operator != "Mul" {
            return self.node(operator, name, inputs, output, vec![]);
        }
        // Mul takes two; the last one writes the output.
        let last = inputs.len().saturating_sub(2);
        let mut inputs = inputs.into_iter();
        let mut product = inputs.next().unwrap_or_default();
        for (index, factor) in inputs.enumerate() {
            let (name, to) = match index == last {
                true => (name.to_owned(), output.clone()),
                false => {
                    (format!("{name}/{index}"), self.unique(&format!("{output}/product{index}")))
                }
            };
            self.node("Mul", &name, vec![product, factor], to.clone(), vec![]);
            product = to;
        }
    }

    /// The operator normalises the last axes; channels go there for a moment.
    fn layer_norm(
        &mut self,
        layer: &Layer,
        scale: WeightId,
        shift: WeightId,
        epsilon: f32,
        mut inputs: Vec<String>,
        output: String,
    ) {
        let name = layer.name.as_str();
        let is_spatial = self.model.graph.shape(layer.output).is_spatial();
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        if is_spatial {
            let last = self.unique(&format!("{output}/last"));
            let perm = vec![ints("perm", [0, 2, 3, 1])];
            self.node("Transpose", &format!("{name}/last"), inputs, last.clone(), perm);
            inputs = vec![last];
        }
        inputs.extend(self.weights(scale, Some(shift)));
        if !is_spatial {
            return self.node("LayerNormalization", name, inputs, output, attributes);
        }
        let normal = self.unique(&format!("{output}/normal"));
        self.node("LayerNormalization", name, inputs, normal.clone(), attributes);
        let perm = vec![ints("perm", [0, 3, 1, 2])];
        self.node("Transpose", &format!("{name}/back"), vec![normal], output, perm);
    }

    fn resize(&mut self, layer: &Layer, mut inputs: Vec<String>, output: String) {
        let Op::Resize { mode, coordinates, scale } = layer.op else {
            return;
        };
        let graph = &self.model.graph;
        let shape = graph.shape(layer.output);
        let rounded_down = infer(&layer.op, &[graph.shape(layer.inputs[0])], &graph.weights, None);
        inputs.push(String::new());
        if rounded_down.as_ref().ok() == Some(shape) {
            inputs.push(self.floats("scales", &[1.0, 1.0, scale.rows, scale.cols], 1));
        } else {
            inputs.push(String::new());
            inputs.push(self.list(&to_i64(&shape.dims())));
        }
        let (mode, nearest) = match mode {
            ResizeMode::Bilinear => ("linear", None),
            ResizeMode::NearestFloor => ("nearest", Some("floor")),
            ResizeMode::NearestCeil => ("nearest", Some("ceil")),
            ResizeMode::NearestRoundPreferFloor => ("nearest", Some("round_prefer_floor")),
            ResizeMode::NearestRoundPreferCeil => ("nearest", Some("round_prefer_ceil")),
        };
        let coordinates = match coordinates {
            ResizeCoordinates::HalfPixel => "half_pixel",
            ResizeCoordinates::PytorchHalfPixel => "pytorch_half_pixel",
            ResizeCoordinates::Asymmetric => "asymmetric",
            ResizeCoordinates::AlignCorners => "align_corners",
        };
        let mut attributes =
            vec![string("mode", mode), string("coordinate_transformation_mode", coordinates)];
        attributes.extend(nearest.map(|nearest| string("nearest_mode", nearest)));
        self.node("Resize", &layer.name, inputs, output, attributes);
    }

    fn linear(
        &mut self,
        layer: &Layer,
        weights: WeightId,
        bias: Option<WeightId>,
        mut inputs: Vec<String>,
        output: String,
    ) {
        let name = layer.name.as_str();
        if self.model.graph.shape(layer.inputs[0]).dims().len() == 2 {
            inputs.extend(self.weights(weights, bias));
            return self.node("Gemm", name, inputs, output, vec![int("transB", 1)]);
        }
        // A matrix product takes the matrix the other way round.
        inputs.push(self.transposed(weights));
        let Some(bias) = bias else {
            return self.node("MatMul", name, inputs, output, vec![]);
        };
        let product = self.unique(&format!("{output}/product"));
        self.node("MatMul", name, inputs, product.clone(), vec![]);
        let bias = self.weights(bias, None).collect();
        let inputs = [vec![product], bias].concat();
        self.node("Add", &format!("{name}/bias"), inputs, output, vec![]);
    }

    /// The layer that the slices were made of: the reader makes them again.
    fn linear_rows(
        &mut self,
        layer: &Layer,
        slices: &[WeightId],
        bias: Option<WeightId>,
        inputs: Vec<String>,
        output: String,
    ) {
        let name = layer.name.as_str();
        let shape = self.model.graph.shape(layer.output);
        let (outputs, inner) = (shape.rows(), self.model.graph.weight(slices[0]).dims[1]);
        let flat = self.unique(&format!("{output}/flat"));
        self.reshape(&format!("{name}/flatten"), inputs, &[1, inner], flat.clone());
        let product = self.unique(&format!("{output}/product"));
        let inputs =
            [Some(flat), Some(self.joined(slices)), bias.map(|b| self.weight_as(b, &[outputs]))];
        let inputs = inputs.into_iter().flatten().collect();
        self.node("Gemm", name, inputs, product.clone(), vec![int("transB", 1)]);
        self.reshape(&format!("{name}/rows"), vec![product], &shape.dims(), output);
    }

    fn activation(&mut self, name: &str, activation: Activation, input: String, output: String) {
        let mut inputs = vec![input];
        let (operator, attributes) = match activation {
            Activation::None => ("Identity", vec![]),
            Activation::Relu => ("Relu", vec![]),
            Activation::LeakyRelu { alpha } => ("LeakyRelu", vec![float("alpha", alpha)]),
            Activation::Clip { min, max } => {
                inputs.push(if min == f32::NEG_INFINITY {
                    String::new()
                } else {
                    self.number(min)
                });
                inputs.extend((max != f32::INFINITY).then(|| self.number(max)));
                ("Clip", vec![])
            }
            Activation::Sigmoid => ("Sigmoid", vec![]),
            Activation::HardSigmoid { alpha, beta } => {
                ("HardSigmoid", vec![float("alpha", alpha), float("beta", beta)])
            }
            Activation::HardSwish => ("HardSwish", vec![]),
            Activation::Tanh => ("Tanh", vec![]),
            Activation::Elu { alpha } => ("Elu", vec![float("alpha", alpha)]),
            Activation::Softplus => ("Softplus", vec![]),
            Activation::Softsign => ("Softsign", vec![]),
            Activation::Mish => ("Mish", vec![]),
            Activation::Gelu => ("Gelu", vec![]),
            Activation::GeluTanh => ("Gelu", vec![string("approximate", "tanh")]),
            Activation::Erf => ("Erf", vec![]),
            Activation::Exp => ("Exp", vec![]),
            Activation::Sqrt => ("Sqrt", vec![]),
            Activation::Abs => ("Abs", vec![]),
            Activation::Silu => {
                let gate = self.unique(&format!("{output}/gate"));
                let gate_name = format!("{name}/gate");
                self.node("Sigmoid", &gate_name, inputs.clone(), gate.clone(), vec![]);
                inputs.push(gate);
                ("Mul", vec![])
            }
        };
        self.node(operator, name, inputs, output, attributes);
    }

    fn reshape(&mut self, name: &str, mut inputs: Vec<String>, dims: &[usize], output: String) {
        inputs.push(self.list(&to_i64(dims)));
        self.node("Reshape", name, inputs, output, vec![]);
    }
}

fn window_attributes(window: &Window) -> Vec<AttributeProto> {
    let Window { kernel, stride, dilation, pads } = window;
    let all = |values: &[usize]| values.iter().map(|value| *value as i64).collect::<Vec<_>>();
    let mut attributes = vec![
        ints("kernel_shape", all(&[kernel.rows, kernel.cols])),
        ints("strides", all(&[stride.rows, stride.cols])),
        ints("pads", all(&[pads.top, pads.left, pads.bottom, pads.right])),
    ];
    if (dilation.rows, dilation.cols) != (1, 1) {
        attributes.push(ints("dilations", all(&[dilation.rows, dilation.cols])));
    }
    attributes
}
