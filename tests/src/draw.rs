//! How the graph of a seed is drawn, layer by layer.

use crate::problem::{GraphProblem, Tail};
use model::builder::Builder;
use model::{
    Activation, Axes, CombineKind, DepthOrder, LoadedModel, MapId, Op, Pads, PoolKind,
    ResizeCoordinates, ResizeMode, Shape, WeightId, Window,
};
use sim::Random;

/// Maps stay small: the suites want many graphs, not large ones.
const POSITIONS_MAX: usize = 300;
const CHANNELS_MAX: usize = 24;

const ACTIVATIONS: [Activation; 7] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu { alpha: 0.1 },
    Activation::Clip { min: -0.5, max: 0.5 },
    Activation::HardSwish,
    Activation::Silu,
    Activation::Sigmoid,
];

pub(crate) fn draw(problem: &GraphProblem, random: &mut Random) -> LoadedModel {
    let GraphProblem { channels, rows, cols, .. } = *problem;
    let mut drawing = Drawing { build: Builder::new("random", "random"), random, layers: 0 };
    let input = drawing.build.input("x", Shape::Spatial { channels, rows, cols });
    let mut maps = vec![input.expect("a small input")];
    for _ in 0..problem.layers {
        let next = drawing.any(&maps);
        maps.push(next);
    }
    let last = maps[maps.len() - 1];
    match problem.tail {
        // A model that gives back its input would have nothing to compute.
        Tail::TwoOutputs if maps.len() > 2 => drawing.build.output(maps[maps.len() / 2]),
        _ => {}
    }
    let last = match problem.tail {
        Tail::Classifier => drawing.classifier(last),
        _ => last,
    };
    if !drawing.build.model().outputs.contains(&last) {
        drawing.build.output(last);
    }
    // Half of the graphs keep their layers as drawn, half are folded and fused.
    let fused = drawing.random.below(2) == 0;
    let built = if fused { drawing.build.finish() } else { drawing.build.finish_unfused() };
    built.expect("a drawn graph is sound")
}

struct Drawing<'a> {
    build: Builder,
    random: &'a mut Random,
    layers: usize,
}

impl Drawing<'_> {
    fn below(&mut self, end: usize) -> usize {
        self.random.below(end as u64) as usize
    }

    fn weight(&mut self, dims: &[usize]) -> WeightId {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.random.value()).collect();
        self.build.weight(values, dims).expect("few weights")
    }

    fn layer(&mut self, op: Op, inputs: &[MapId]) -> MapId {
        self.layer_as(op, inputs, None)
    }

    fn layer_as(&mut self, op: Op, inputs: &[MapId], declared: Option<Shape>) -> MapId {
        self.layers += 1;
        let name = format!("{}{}", op.name(), self.layers);
        let added = self.build.layer_to(&name, op, inputs, &name, declared);
        added.unwrap_or_else(|error| panic!("a drawn layer fits: {error}"))
    }

    fn shape(&self, map: MapId) -> (usize, usize, usize) {
        let shape = self.build.shape(map);
        (shape.channels(), shape.rows(), shape.cols())
    }

    /// One more layer on the last map.
    fn any(&mut self, maps: &[MapId]) -> MapId {
        let at = maps[maps.len() - 1];
        let (channels, rows, cols) = self.shape(at);
        match self.below(18) {
            0..=4 => self.conv(at),
            5 => self.max_pool(at),
            6 => self.average_pool(at),
            7 if rows * cols <= POSITIONS_MAX / 4 => self.resize(at),
            8 if channels * 4 <= CHANNELS_MAX && rows % 2 == 0 && cols % 2 == 0 => {
                let deep = self.layer(Op::SpaceToDepth { block: 2 }, &[at]);
                let order = self.random.pick(&[DepthOrder::Dcr, DepthOrder::Crd]);
                self.layer(Op::DepthToSpace { block: 2, order }, &[deep])
            }
            9 => {
                let slope = self.weight(&[channels]);
                self.layer(Op::PRelu { slope }, &[at])
            }
            10 if rows * cols <= POSITIONS_MAX / 2 => {
                let mut side = || self.random.below(3) as usize;
                let pads = Pads { top: side(), left: side(), bottom: side(), right: side() };
                self.layer(Op::Pad { pads, value: 0.25 }, &[at])
            }
            11 => {
                let (scale, shift) = (self.weight(&[channels]), self.weight(&[channels]));
                let activation = self.random.pick(&ACTIVATIONS);
                self.layer(Op::ChannelAffine { scale, shift, activation }, &[at])
            }
            12 if rows * cols <= POSITIONS_MAX / 6 => self.conv_transpose(at),
            13 => self.select(at),
            14 => self.squeeze_and_excite(at),
            15 => {
                let (scale, shift) = (self.weight(&[channels]), self.weight(&[channels]));
                self.layer(Op::LayerNorm { scale, shift, epsilon: 1e-3 }, &[at])
            }
            _ => self.join(at, maps),
        }
    }

    fn conv(&mut self, at: MapId) -> MapId {
        let (channels, rows, cols) = self.shape(at);
        let dilation = Axes::new(1 + self.below(2), 1 + self.below(2));
        let kernels = [(1, 1), (3, 3), (3, 1), (1, 3), (2, 2), (5, 3)];
        let mut kernel = self.random.pick(&kernels);
        let pads = |kernel: usize, dilation: usize| (kernel - 1) * dilation;
        if pads(kernel.0, dilation.rows) >= rows || pads(kernel.1, dilation.cols) >= cols {
            kernel = (1, 1);
        }
        let (all_rows, all_cols) = (pads(kernel.0, dilation.rows), pads(kernel.1, dilation.cols));
        let (top, left) = (self.below(all_rows + 1), self.below(all_cols + 1));
        let pads = Pads { top, left, bottom: all_rows - top, right: all_cols - left };
        let stride = if rows > 5 && cols > 5 { 1 + self.below(2) } else { 1 };
        let stride = Axes::new(stride, if cols > 5 { stride } else { 1 });
        let (groups, outputs) = match self.below(4) {
            0 => (channels, channels),
            1 if channels % 2 == 0 => (2, 2 * (1 + self.below(4))),
            _ => (1, 1 + self.below(18)),
        };
        let weights = self.weight(&[outputs, channels / groups, kernel.0, kernel.1]);
        let bias = if self.below(2) == 0 { Some(self.weight(&[outputs])) } else { None };
        let window = Window { kernel: Axes::new(kernel.0, kernel.1), stride, dilation, pads };
        let activation = self.random.pick(&ACTIVATIONS);
        self.layer(Op::Conv { window, groups, weights, bias, activation }, &[at])
    }

    /// A shuffle of the channels, some of them, or fewer rows or cols.
    fn select(&mut self, at: MapId) -> MapId {
        let (channels, rows, cols) = self.shape(at);
        let axis = self.random.pick(&[1, 1, 2, 3]);
        let length = [channels, rows, cols][axis - 1];
        let indices: Vec<u32> = match self.below(3) {
            0 => (0..length as u32).rev().collect(),
            1 => (self.below(length) as u32..length as u32).collect(),
            _ => (0..length as u32).step_by(2).collect(),
        };
        self.layer(Op::Select { axis, indices }, &[at])
    }

    /// A mean over the whole map in the middle of the trunk, by way of partial sums where the map
    /// is large enough, and its broadcast over the map.
    fn squeeze_and_excite(&mut self, at: MapId) -> MapId {
        let (channels, rows, cols) = self.shape(at);
        let positions = rows * cols;
        let mut sums = at;
        if rows >= 4 && cols >= 4 {
            let op = Op::Pool { window: window((2, 2), 2, 0), kind: PoolKind::Sum };
            let up = Shape::Spatial { channels, rows: rows.div_ceil(2), cols: cols.div_ceil(2) };
            sums = self.layer_as(op, &[at], Some(up));
        }
        let mean = self.layer(Op::GlobalAveragePool { positions }, &[sums]);
        let gate = self.layer(Op::Activate(Activation::Sigmoid), &[mean]);
        let (kind, activation) = (CombineKind::Mul, Activation::None);
        self.layer(Op::Combine { kind, activation }, &[at, gate])
    }

    fn conv_transpose(&mut self, at: MapId) -> MapId {
        let (channels, ..) = self.shape(at);
        let kernels = [(2, 2), (3, 3), (4, 4), (1, 2), (2, 3)];
        let kernel = self.random.pick(&kernels);
        let mut upto = |end: usize| self.below(end + 1);
        let stride = Axes::new(1 + upto(1), 1 + upto(1));
        let dilation = Axes::new(1 + upto(1), 1);
        let extra = Axes::new(upto(1), upto(1));
        // What it spreads to is at least as long as the kernel.
        let pads = Pads { top: upto(kernel.0 - 1), left: upto(kernel.1 - 1), bottom: 0, right: 0 };
        let (groups, per_group) = match self.below(3) {
            0 => (channels, 1),
            1 if channels % 2 == 0 => (2, 1 + self.below(4)),
            _ => (1, 1 + self.below(18)),
        };
        let weights = self.weight(&[channels, per_group, kernel.0, kernel.1]);
        let outputs = groups * per_group;
        let bias = if self.below(2) == 0 { Some(self.weight(&[outputs])) } else { None };
        let window = Window { kernel: Axes::new(kernel.0, kernel.1), stride, dilation, pads };
        let activation = self.random.pick(&ACTIVATIONS);
        let op = Op::ConvTranspose { window, extra, groups, weights, bias, activation };
        self.layer(op, &[at])
    }

    /// Ceil mode half of the time: then the last window reaches past the map.
    fn max_pool(&mut self, at: MapId) -> MapId {
        let (channels, rows, cols) = self.shape(at);
        if rows < 2 || cols < 2 {
            return self.layer(Op::Activate(Activation::Relu), &[at]);
        }
        let window = window((2, 2), 2, 0);
        let op = Op::Pool { window, kind: PoolKind::Max };
        let up = Shape::Spatial { channels, rows: rows.div_ceil(2), cols: cols.div_ceil(2) };
        let declared = if self.below(2) == 0 { Some(up) } else { None };
        self.layer_as(op, &[at], declared)
    }

    fn average_pool(&mut self, at: MapId) -> MapId {
        let (_, rows, cols) = self.shape(at);
        let count_padding = self.below(2) == 0;
        let kind = self.random.pick(&[PoolKind::Max, PoolKind::Average { count_padding }]);
        let stride = if rows > 4 && cols > 4 { 1 + self.below(2) } else { 1 };
        self.layer(Op::Pool { window: window((3, 3), stride, 1), kind }, &[at])
    }

    fn resize(&mut self, at: MapId) -> MapId {
        let modes = [
            ResizeMode::NearestFloor,
            ResizeMode::NearestRoundPreferFloor,
            ResizeMode::NearestCeil,
            ResizeMode::Bilinear,
        ];
        let coordinates = [
            ResizeCoordinates::HalfPixel,
            ResizeCoordinates::Asymmetric,
            ResizeCoordinates::AlignCorners,
        ];
        let mode = self.random.pick(&modes);
        let coordinates = self.random.pick(&coordinates);
        let scale = Axes::new(2.0, self.random.pick(&[1.0, 2.0]));
        self.layer(Op::Resize { mode, coordinates, scale }, &[at])
    }

    /// A residual sum or a concat with an earlier map of the same size.
    fn join(&mut self, at: MapId, maps: &[MapId]) -> MapId {
        let (channels, rows, cols) = self.shape(at);
        let fits = |map: &MapId| {
            let (others, other_rows, other_cols) = self.shape(*map);
            (other_rows, other_cols) == (rows, cols)
                && (others == channels || others + channels <= CHANNELS_MAX)
        };
        let aligned: Vec<MapId> = maps.iter().copied().filter(fits).collect();
        let other = self.random.pick(&aligned);
        let activation = self.random.pick(&ACTIVATIONS);
        if self.shape(other).0 == channels && self.below(3) > 0 {
            let kind = self.random.pick(&[CombineKind::Add, CombineKind::Mul]);
            self.layer(Op::Combine { kind, activation }, &[other, at])
        } else if self.shape(other).0 + channels <= CHANNELS_MAX {
            self.layer(Op::Concat, &[other, at])
        } else {
            self.layer(Op::Activate(activation), &[at])
        }
    }

    fn classifier(&mut self, at: MapId) -> MapId {
        let elements = self.build.shape(at).elements();
        let bias = Some(self.weight(&[5]));
        let activation = Activation::None;
        if self.below(2) == 0 {
            let slices = [2, 2, 1].map(|rows| self.weight(&[rows, elements])).to_vec();
            let rows = self.layer(Op::LinearRows { slices, bias, activation }, &[at]);
            return self.layer(Op::Activate(Activation::Sigmoid), &[rows]);
        }
        let flat = self.layer_as(Op::Reshape, &[at], Some(Shape::General(vec![1, elements])));
        let weights = self.weight(&[5, elements]);
        let linear = self.layer(Op::Linear { weights, bias, activation }, &[flat]);
        self.layer(Op::Softmax { axis: 1, flattened: false }, &[linear])
    }
}

fn window(kernel: (usize, usize), stride: usize, pad: usize) -> Window {
    Window { kernel: Axes::new(kernel.0, kernel.1), ..Window::square(1, stride, pad) }
}
