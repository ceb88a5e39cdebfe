//! Prints the rate of single convolutions beside the measured peak of the multiply-add units.
//!
//! `cargo run --release -p kernels --example conv_rate`

use kernels::{Engine, Isa, PackedModel, Piece};
use model::{
    Activation, Axes, FeatureMap, Layer, LoadedModel, MapId, Model, Op, Pads, Shape, WeightId,
    WeightInfo, WeightStore, Window,
};
use std::sync::Arc;
use std::time::Instant;
use tiling::{Numerics, Region};

/// A square convolution with bias and ReLU, transposed or not.
struct Case {
    name: &'static str,
    kernel: usize,
    stride: usize,
    side: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    is_transposed: bool,
}

const fn case(
    name: &'static str,
    [kernel, stride, side, inputs, outputs, groups]: [usize; 6],
) -> Case {
    Case { name, kernel, stride, side, inputs, outputs, groups, is_transposed: false }
}

/// As [`case`], with the side of the input; padded so that the output is `stride` times as large.
const fn transposed(name: &'static str, numbers: [usize; 6]) -> Case {
    Case { is_transposed: true, ..case(name, numbers) }
}

const CASES: [Case; 19] = [
    case("VGG 3x3 64@224", [3, 1, 224, 64, 64, 1]),
    case("VGG 3x3 128@112", [3, 1, 112, 128, 128, 1]),
    case("VGG 3x3 256@56", [3, 1, 56, 256, 256, 1]),
    case("VGG 3x3 512@28", [3, 1, 28, 512, 512, 1]),
    case("YOLO 3x3 32->64@304", [3, 1, 304, 32, 64, 1]),
    case("YOLO 3x3 512->1024@19", [3, 1, 19, 512, 1024, 1]),
    case("YOLO 1x1 512->256@38", [1, 1, 38, 512, 256, 1]),
    case("ResNet 7x7 s2 stem", [7, 2, 224, 3, 64, 1]),
    case("ResNet 1x1 256->64@56", [1, 1, 56, 256, 64, 1]),
    case("ResNet 3x3 s2 128@56", [3, 2, 56, 128, 128, 1]),
    case("ResNet 3x3 512@7", [3, 1, 7, 512, 512, 1]),
    case("MBv2 dw 3x3 32@112", [3, 1, 112, 32, 32, 32]),
    case("MBv2 dw 3x3 576@14", [3, 1, 14, 576, 576, 576]),
    case("MBv2 1x1 24->144@56", [1, 1, 56, 24, 144, 1]),
    transposed("UNet up 2x2 s2 128->64@56", [2, 2, 56, 128, 64, 1]),
    transposed("UNet up 2x2 s2 512->256@14", [2, 2, 14, 512, 256, 1]),
    transposed("GAN up 4x4 s2 128->64@32", [4, 2, 32, 128, 64, 1]),
    transposed("FCN up 4x4 s2 21->21@28", [4, 2, 28, 21, 21, 1]),
    transposed("up dw 4x4 s2 64@56", [4, 2, 56, 64, 64, 64]),
];

impl Case {
    fn model(&self) -> LoadedModel {
        let Case { kernel, stride, side, inputs, outputs, groups, .. } = *self;
        let mut weights = WeightStore::default();
        let mut tensor = |dims: Vec<usize>| {
            let n: usize = dims.iter().product();
            let value = |i: usize| (i * 7919 % 1000) as f32 / 1000.0 - 0.5;
            let hash = weights.insert((0..n).map(value).collect());
            WeightInfo::new(hash, &dims)
        };
        let (outer, inner) = match self.is_transposed {
            false => (outputs, inputs / groups),
            true => (inputs, outputs / groups),
        };
        let tensors = vec![tensor(vec![outer, inner, kernel, kernel]), tensor(vec![outputs])];
        let pad = if self.is_transposed { (kernel - stride) / 2 } else { kernel / 2 };
        let window = Window {
            kernel: Axes::new(kernel, kernel),
            stride: Axes::new(stride, stride),
            dilation: Axes::new(1, 1),
            pads: Pads { top: pad, left: pad, bottom: pad, right: pad },
        };
        let (weight, bias, activation) = (WeightId(0), Some(WeightId(1)), Activation::Relu);
        let op = match self.is_transposed {
            false => Op::Conv { window, groups, weights: weight, bias, activation },
            true => {
                let extra = Axes::new(0, 0);
                Op::ConvTranspose { window, extra, groups, weights: weight, bias, activation }
            }
        };
        let made = if self.is_transposed { side * stride } else { side.div_ceil(stride) };
        let map = |name: &str, channels: usize, side: usize| {
            FeatureMap::new(name, Shape::Spatial { channels, rows: side, cols: side })
        };
        let (from, to) = (MapId(0), MapId(1));
        let graph = Model {
            name: self.name.into(),
            maps: vec![map("x", inputs, side), map("y", outputs, made)],
            layers: vec![Layer { name: "conv".into(), op, inputs: vec![from], output: to }],
            inputs: vec![from],
            outputs: vec![to],
            weights: tensors,
        };
        LoadedModel { graph: Arc::new(graph), weights }
    }
}

/// Seconds of the median of some runs.
fn median_s(mut run: impl FnMut()) -> f64 {
    run();
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (started.elapsed().as_secs_f64() < 0.4 && times.len() < 200) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    for isa in Isa::available() {
        if !only.is_empty() && !only.contains(&isa.to_string()) {
            continue;
        }
        let engines = [1, 2].map(|threads| Engine::with_isa(threads, isa).expect("available"));
        // Three times, since a busy machine shows less than it has.
        let peak = (0..3).map(|_| engines[0].peak_gflop_per_s()).fold(0.0, f64::max);
        println!("{isa}: peak {peak:.1} GFLOP/s on one thread");
        println!("{:28}{:>9}{:>10}{:>7}{:>10}", "layer", "exact", "GFLOP/s", "%", "fast");
        for (threads, case) in
            (0..2).flat_map(|threads| CASES.iter().map(move |case| (threads, case)))
        {
            let model = case.model();
            let flop = 2.0 * model.graph.multiply_adds() as f64;
            if isa == Isa::Portable && flop > 3e8 {
                continue;
            }
            let packed = PackedModel::new(model.graph.clone());
            for numerics in [Numerics::Exact, Numerics::Fast] {
                packed.pack_all(&model, numerics).expect("the weights are here");
            }
            let shape = model.graph.shape(MapId(0));
            let values = (0..shape.elements()).map(|i| (i * 104_729 % 1000) as f32 / 1000.0);
            let values = values.collect();
            let piece = Piece::from_values(Region::whole(shape), shape.channels(), values);
            let inputs = [(MapId(0), Arc::new(piece.expect("as long as the map")))];
            let [one, two] = [Numerics::Exact, Numerics::Fast].map(|numerics| {
                median_s(|| {
                    let outputs = engines[threads]
                        .run_whole(&packed, numerics, &inputs)
                        .expect("a sound model");
                    outputs.into_iter().for_each(|(_, piece)| engines[threads].recycle(piece));
                })
            });
            let rate = flop / one / 1e9;
            let percent = 100.0 * rate / peak;
            println!("{:28}{:9.3}{rate:10.1}{percent:7.0}{:10.3}", case.name, one * 1e3, two * 1e3);
        }
    }
}
