//! The small networks that a device measures itself on: a few layers of each operator class, at the
//! sizes and in the company in which networks have them. A depthwise layer that finds its input in
//! the cache, as behind a 1x1 layer, is three times as fast as one alone.

use model::builder::Builder;
use model::{
    Activation, Axes, CombineKind, LoadedModel, MapId, ModelError, Op, PoolKind, ResizeCoordinates,
    ResizeMode, Shape, Window,
};
use tiling::Numerics;

/// A few layers.
pub(super) struct Probe {
    pub(super) numerics: Numerics,
    pub(super) model: LoadedModel,
}

/// One layer after another.
#[derive(Clone, Copy)]
enum Step {
    /// A square window, its stride, and output channels.
    Conv(usize, usize, usize),
    /// 3x3, with a stride.
    Depthwise(usize),
    /// The largest of each square, every second position.
    Pool(usize),
    /// The input of the whole is added.
    Add,
    /// Twice as many rows and columns.
    Resize,
    /// Fully connected.
    Linear(usize),
}

use Step::{Add, Conv, Depthwise, Linear, Pool, Resize};

/// Channels and side of the input, and the layers.
type Layers = (usize, usize, &'static [Step]);

/// As plans compute them.
const FAST: [Layers; 31] = [
    (32, 56, &[Conv(3, 1, 32), Conv(3, 1, 32)]),
    (64, 28, &[Conv(3, 1, 64), Conv(3, 1, 64)]),
    (64, 112, &[Conv(3, 1, 64)]),
    (64, 56, &[Conv(3, 1, 128), Conv(3, 1, 64)]),
    (128, 14, &[Conv(3, 1, 128), Conv(3, 1, 128)]),
    (128, 64, &[Conv(3, 1, 128)]),
    (256, 14, &[Conv(3, 1, 256)]),
    (256, 32, &[Conv(3, 1, 256)]),
    (256, 7, &[Conv(3, 1, 512)]),
    (64, 28, &[Conv(1, 1, 256), Conv(1, 1, 64)]),
    (256, 28, &[Conv(1, 1, 128)]),
    (512, 14, &[Conv(1, 1, 128), Conv(1, 1, 512)]),
    (512, 7, &[Conv(1, 1, 1024)]),
    (160, 7, &[Conv(1, 1, 960), Conv(1, 1, 160)]),
    (3, 112, &[Conv(7, 2, 64), Pool(3)]),
    (3, 112, &[Conv(3, 2, 32)]),
    (3, 64, &[Conv(3, 1, 32), Pool(2)]),
    (128, 28, &[Conv(3, 2, 128)]),
    (32, 28, &[Conv(5, 1, 64)]),
    (256, 28, &[Conv(1, 1, 64), Conv(3, 1, 64), Conv(1, 1, 256), Add]),
    (24, 56, &[Conv(1, 1, 144), Depthwise(1), Conv(1, 1, 24), Add]),
    (32, 28, &[Conv(1, 1, 192), Depthwise(2), Conv(1, 1, 64)]),
    (96, 14, &[Conv(1, 1, 576), Depthwise(1), Conv(1, 1, 96), Add]),
    (64, 28, &[Depthwise(1), Depthwise(1), Depthwise(1), Depthwise(1)]),
    (32, 112, &[Depthwise(1), Depthwise(2)]),
    (64, 128, &[Pool(2), Resize]),
    (64, 56, &[Pool(3), Resize, Add]),
    (128, 28, &[Resize, Pool(2)]),
    (3072, 1, &[Linear(2048)]),
    (2048, 1, &[Linear(1000)]),
    (16, 4, &[Conv(1, 1, 16), Depthwise(1), Conv(1, 1, 16), Add, Conv(1, 1, 16), Depthwise(1)]),
];

/// Direct 3x3 convolutions: what the exact mode has instead of Winograd.
const EXACT: [Layers; 4] = [
    (64, 28, &[Conv(3, 1, 64), Conv(3, 1, 64)]),
    (256, 14, &[Conv(3, 1, 256)]),
    (16, 56, &[Conv(3, 1, 32)]),
    (64, 112, &[Conv(3, 1, 32)]),
];

/// How many there are.
pub(super) const COUNT: usize = FAST.len() + EXACT.len();

/// All of them, each made when it is asked for: together they would take more memory than a small
/// board has to give.
pub(super) fn all() -> impl Iterator<Item = Probe> {
    let fast = FAST.iter().map(|layers| (Numerics::Fast, layers));
    let exact = EXACT.iter().map(|layers| (Numerics::Exact, layers));
    let probe = |(numerics, layers): (Numerics, &Layers)| Probe {
        numerics,
        model: network(*layers).expect("a probe is a sound model"),
    };
    fast.chain(exact).map(probe)
}

fn network((channels, side, steps): Layers) -> Result<LoadedModel, ModelError> {
    let mut net = Builder::new("probe", "probe");
    let shape = match side {
        1 => Shape::from_dims(&[channels]),
        _ => Shape::Spatial { channels, rows: side, cols: side },
    };
    let input = net.input("x", shape)?;
    let mut map = input;
    for (i, step) in steps.iter().enumerate() {
        let inputs = net.shape(map).channels();
        let op = match *step {
            Conv(kernel, stride, outputs) => {
                convolution(&mut net, i, (kernel, stride, 1), [outputs, inputs])?
            }
            Depthwise(stride) => convolution(&mut net, i, (3, stride, inputs), [inputs, 1])?,
            Pool(kernel) => {
                let pad = (kernel - 1) / 2;
                Op::Pool { window: Window::square(kernel, 2, pad), kind: PoolKind::Max }
            }
            Add => Op::Combine { kind: CombineKind::Add, activation: Activation::Relu },
            Resize => Op::Resize {
                mode: ResizeMode::NearestFloor,
                coordinates: ResizeCoordinates::Asymmetric,
                scale: Axes::new(2.0, 2.0),
            },
            Linear(outputs) => {
                let weights = net.weight(values(inputs * outputs, i), &[outputs, inputs])?;
                Op::Linear { weights, bias: None, activation: Activation::None }
            }
        };
        let read = if matches!(step, Add) { vec![map, input] } else { vec![map] };
        map = net.layer(&format!("layer{i}"), op, &read)?;
    }
    finished(net, map)
}

fn convolution(
    net: &mut Builder,
    seed: usize,
    (kernel, stride, groups): (usize, usize, usize),
    [outputs, inputs]: [usize; 2],
) -> Result<Op, ModelError> {
    let dims = [outputs, inputs, kernel, kernel];
    let weights = net.weight(values(dims.iter().product(), seed), &dims)?;
    let bias = Some(net.weight(values(outputs, seed + 1), &[outputs])?);
    let window = Window::square(kernel, stride, kernel / 2);
    Ok(Op::Conv { window, groups, weights, bias, activation: Activation::Relu })
}

/// Values that differ from layer to layer, small enough that sums stay ordinary numbers.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 31) % 1000) as f32 * 1e-5 - 0.005).collect()
}

fn finished(mut net: Builder, output: MapId) -> Result<LoadedModel, ModelError> {
    net.output(output);
    net.finish()
}
