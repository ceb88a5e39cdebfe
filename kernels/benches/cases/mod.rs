//! Models of one layer, whose times say where the time of a network goes.
#![allow(dead_code, unreachable_pub)]

use kernels::Piece;
use model::builder::Builder;
use model::{
    Activation, Axes, CombineKind, DepthOrder, LoadedModel, MapId, ModelError, Op, PoolKind,
    ResizeCoordinates, ResizeMode, Shape, Window,
};
use std::sync::Arc;
use tiling::Region;

/// One layer at the size at which a network has it.
#[derive(Clone, Copy)]
pub struct Case {
    /// Unique; also what the layer is called in tables.
    pub name: &'static str,
    layer: Layer,
}

#[derive(Clone, Copy)]
enum Layer {
    /// Square, with bias and ReLU.
    Conv { kernel: usize, stride: usize, side: usize, inputs: usize, outputs: usize, groups: usize },
    /// Square windows.
    Pool { kind: PoolKind, kernel: usize, stride: usize, side: usize, channels: usize },
    /// A sum of two maps with a ReLU, as residual branches end.
    Add { side: usize, channels: usize },
    /// Twice as many rows and columns.
    Resize { mode: ResizeMode, coordinates: ResizeCoordinates, side: usize, channels: usize },
    /// Two maps of equal size behind each other.
    Concat { side: usize, channels: usize },
    /// Blocks of 2 x 2 positions from channels.
    DepthToSpace { side: usize, channels: usize },
    /// The mean of each channel.
    GlobalPool { side: usize, channels: usize },
    /// Fully connected, with bias.
    Linear { inputs: usize, outputs: usize },
    /// Of a flat map.
    Softmax { elements: usize },
}

const fn conv(
    name: &'static str,
    [kernel, stride, side, inputs, outputs, groups]: [usize; 6],
) -> Case {
    Case { name, layer: Layer::Conv { kernel, stride, side, inputs, outputs, groups } }
}

/// Convolutions of known networks: kernel, stride, side, inputs, outputs, groups.
pub const CONVS: [Case; 15] = [
    conv("VGG 3x3 64@224", [3, 1, 224, 64, 64, 1]),
    conv("VGG 3x3 128@112", [3, 1, 112, 128, 128, 1]),
    conv("VGG 3x3 256@56", [3, 1, 56, 256, 256, 1]),
    conv("VGG 3x3 512@28", [3, 1, 28, 512, 512, 1]),
    conv("YOLO 3x3 32-64@304", [3, 1, 304, 32, 64, 1]),
    conv("YOLO 3x3 512-1024@19", [3, 1, 19, 512, 1024, 1]),
    conv("YOLO 1x1 512-256@38", [1, 1, 38, 512, 256, 1]),
    conv("ResNet 7x7 s2 stem", [7, 2, 224, 3, 64, 1]),
    conv("ResNet 1x1 256-64@56", [1, 1, 56, 256, 64, 1]),
    conv("ResNet 3x3 s2 128@56", [3, 2, 56, 128, 128, 1]),
    conv("ResNet 3x3 512@7", [3, 1, 7, 512, 512, 1]),
    conv("MBv2 dw 3x3 32@112", [3, 1, 112, 32, 32, 32]),
    conv("MBv2 dw 3x3 576@14", [3, 1, 14, 576, 576, 576]),
    conv("MBv2 1x1 24-144@56", [1, 1, 56, 24, 144, 1]),
    conv("MBv2 1x1 96-576@14", [1, 1, 14, 96, 576, 1]),
];

/// Layers that mostly move memory.
pub const OTHERS: [Case; 11] = [
    Case {
        name: "VGG maxpool 2x2 64@224",
        layer: Layer::Pool { kind: PoolKind::Max, kernel: 2, stride: 2, side: 224, channels: 64 },
    },
    Case {
        name: "ResNet maxpool 3x3 s2 64@112",
        layer: Layer::Pool { kind: PoolKind::Max, kernel: 3, stride: 2, side: 112, channels: 64 },
    },
    Case {
        name: "avgpool 3x3 s1 192@28",
        layer: Layer::Pool {
            kind: PoolKind::Average { count_padding: false },
            kernel: 3,
            stride: 1,
            side: 28,
            channels: 192,
        },
    },
    Case {
        name: "ResNet global pool 2048@7",
        layer: Layer::GlobalPool { side: 7, channels: 2048 },
    },
    Case { name: "ResNet add 256@56", layer: Layer::Add { side: 56, channels: 256 } },
    Case { name: "U-Net concat 32+32@256", layer: Layer::Concat { side: 256, channels: 32 } },
    Case {
        name: "U-Net resize nearest 64@128",
        layer: Layer::Resize {
            mode: ResizeMode::NearestFloor,
            coordinates: ResizeCoordinates::Asymmetric,
            side: 128,
            channels: 64,
        },
    },
    Case {
        name: "resize bilinear 64@128",
        layer: Layer::Resize {
            mode: ResizeMode::Bilinear,
            coordinates: ResizeCoordinates::HalfPixel,
            side: 128,
            channels: 64,
        },
    },
    Case {
        name: "superres shuffle 12@256",
        layer: Layer::DepthToSpace { side: 256, channels: 12 },
    },
    Case { name: "VGG fc 4096-4096", layer: Layer::Linear { inputs: 4096, outputs: 4096 } },
    Case { name: "softmax 1000", layer: Layer::Softmax { elements: 1000 } },
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    CONVS.iter().chain(&OTHERS)
}

fn square(channels: usize, side: usize) -> Shape {
    Shape::Spatial { channels, rows: side, cols: side }
}

/// Made-up weights, small enough that a long sum stays of ordinary size.
fn weight_values(dims: &[usize]) -> Vec<f32> {
    let scale = (dims[1..].iter().product::<usize>().max(1) as f32).sqrt();
    let value = |i: usize| ((i * 7919 % 1000) as f32 / 1000.0 - 0.5) / scale;
    (0..dims.iter().product()).map(value).collect()
}

impl Case {
    /// The model of this layer alone.
    ///
    /// *Panics* when the case contradicts itself.
    pub fn model(&self) -> LoadedModel {
        self.build().expect("a case is a sound model")
    }

    fn build(&self) -> Result<LoadedModel, ModelError> {
        let mut net = Builder::new(self.name, self.name);
        let output = match self.layer {
            Layer::Conv { kernel, stride, side, inputs, outputs, groups } => {
                let input = net.input("x", square(inputs, side))?;
                let dims = [outputs, inputs / groups, kernel, kernel];
                let weights = net.weight(weight_values(&dims), &dims)?;
                let bias = Some(net.weight(weight_values(&[outputs]), &[outputs])?);
                let window = Window::square(kernel, stride, kernel / 2);
                let activation = Activation::Relu;
                let op = Op::Conv { window, groups, weights, bias, activation };
                net.layer("conv", op, &[input])?
            }
            Layer::Pool { kind, kernel, stride, side, channels } => {
                let input = net.input("x", square(channels, side))?;
                let window = Window::square(kernel, stride, (kernel - 1) / 2);
                net.layer("pool", Op::Pool { window, kind }, &[input])?
            }
            Layer::GlobalPool { side, channels } => {
                let input = net.input("x", square(channels, side))?;
                net.layer("pool", Op::global_average_pool(&square(channels, side)), &[input])?
            }
            Layer::Add { side, channels } => {
                let inputs = [
                    net.input("a", square(channels, side))?,
                    net.input("b", square(channels, side))?,
                ];
                let op = Op::Combine { kind: CombineKind::Add, activation: Activation::Relu };
                net.layer("add", op, &inputs)?
            }
            Layer::Concat { side, channels } => {
                let inputs = [
                    net.input("a", square(channels, side))?,
                    net.input("b", square(channels, side))?,
                ];
                net.layer("concat", Op::Concat, &inputs)?
            }
            Layer::Resize { mode, coordinates, side, channels } => {
                let input = net.input("x", square(channels, side))?;
                let scale = Axes::new(2.0, 2.0);
                net.layer("resize", Op::Resize { mode, coordinates, scale }, &[input])?
            }
            Layer::DepthToSpace { side, channels } => {
                let input = net.input("x", square(channels, side))?;
                net.layer(
                    "shuffle",
                    Op::DepthToSpace { block: 2, order: DepthOrder::Crd },
                    &[input],
                )?
            }
            Layer::Linear { inputs, outputs } => {
                let input = net.input("x", Shape::from_dims(&[inputs]))?;
                let dims = [outputs, inputs];
                let weights = net.weight(weight_values(&dims), &dims)?;
                let bias = Some(net.weight(weight_values(&[outputs]), &[outputs])?);
                let activation = Activation::None;
                net.layer("fc", Op::Linear { weights, bias, activation }, &[input])?
            }
            Layer::Softmax { elements } => {
                let input = net.input("x", Shape::from_dims(&[elements]))?;
                net.layer("softmax", Op::Softmax { axis: 0, flattened: false }, &[input])?
            }
        };
        net.output(output);
        net.finish()
    }
}

/// The same input for every engine: values from 0 to 1 by their place in (channels, rows, cols).
pub fn input_value(i: usize) -> f32 {
    (i * 104_729 % 1000) as f32 / 1000.0
}

/// The inputs of a model, filled with [`input_value`].
pub fn inputs(graph: &model::Model) -> Vec<(MapId, Arc<Piece>)> {
    let inputs = graph.inputs.iter().map(|&map| {
        let shape = graph.shape(map);
        let (channels, positions) = (shape.channels(), shape.rows() * shape.cols());
        // Of the logical order to that in memory, where the channels of a position come together.
        let value = |i: usize| input_value(i % channels * positions + i / channels);
        let values = (0..shape.elements()).map(value).collect();
        let piece = Piece::from_values(Region::whole(shape), channels, values);
        (map, Arc::new(piece.expect("as long as the map")))
    });
    inputs.collect()
}
