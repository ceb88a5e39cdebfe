//! Networks for phones: a global mean in the middle of the trunk, channels that are shuffled.

use super::net::{Built, Conv, GAIN_BRANCH, GAIN_LINEAR, Net};
use crate::graph::MapId;
use crate::op::{Activation, Op};
use crate::window::Window;

const HARD_SIGMOID: Activation = Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };

/// A block of MobileNetV3: kernel, expanded channels, channels, squeeze and excite, activation,
/// stride.
type Bottleneck = (usize, usize, usize, bool, Activation, usize);

/// *Source*: Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1 (large).
pub(super) fn mobilenetv3(net: &mut Net, input: MapId) -> Built {
    let (relu, swish) = (Activation::Relu, Activation::HardSwish);
    let blocks: [Bottleneck; 15] = [
        (3, 16, 16, false, relu, 1),
        (3, 64, 24, false, relu, 2),
        (3, 72, 24, false, relu, 1),
        (5, 72, 40, true, relu, 2),
        (5, 120, 40, true, relu, 1),
        (5, 120, 40, true, relu, 1),
        (3, 240, 80, false, swish, 2),
        (3, 200, 80, false, swish, 1),
        (3, 184, 80, false, swish, 1),
        (3, 184, 80, false, swish, 1),
        (3, 480, 112, true, swish, 1),
        (3, 672, 112, true, swish, 1),
        (5, 672, 160, true, swish, 2),
        (5, 960, 160, true, swish, 1),
        (5, 960, 160, true, swish, 1),
    ];
    let mut map = net.conv("stem", input, Conv::new(16, 3).stride(2).then(swish))?;
    for (i, (kernel, wide, channels, excites, activation, stride)) in blocks.into_iter().enumerate()
    {
        let squeezed = excites.then(|| round_to(wide / 4, 8));
        let block =
            Block { kernel, wide, channels, squeezed, activation, gate: HARD_SIGMOID, stride };
        map = inverted(net, &format!("block{}", i + 1), map, &block)?;
    }
    map = net.conv("head", map, Conv::new(960, 1).then(swish))?;
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    map = net.linear("fc1", map, 1280, GAIN_LINEAR)?;
    map = net.activate("fc1", map, swish)?;
    net.linear("fc2", map, 1000, GAIN_LINEAR)
}

/// *Source*: Tan, Le, "EfficientNet", ICML 2019, table 1 (B0).
pub(super) fn efficientnet_b0(net: &mut Net, input: MapId) -> Built {
    let stages: [(usize, usize, usize, usize, usize); 7] = [
        // Expansion, kernel, channels, blocks, stride of the first block.
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    ];
    let silu = Activation::Silu;
    let mut map = net.conv("stem", input, Conv::new(32, 3).stride(2).then(silu))?;
    for (stage, (expansion, kernel, channels, blocks, first)) in stages.into_iter().enumerate() {
        for i in 0..blocks {
            let before = net.builder.shape(map).channels();
            let block = Block {
                kernel,
                wide: before * expansion,
                channels,
                squeezed: Some(before / 4),
                activation: silu,
                gate: Activation::Sigmoid,
                stride: if i == 0 { first } else { 1 },
            };
            map = inverted(net, &format!("stage{}/block{}", stage + 1, i + 1), map, &block)?;
        }
    }
    map = net.conv("head", map, Conv::new(1280, 1).then(silu))?;
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}

/// An inverted bottleneck, perhaps with squeeze and excite after its depthwise convolution.
struct Block {
    kernel: usize,
    wide: usize,
    channels: usize,
    /// Channels of the squeezed vector.
    squeezed: Option<usize>,
    activation: Activation,
    gate: Activation,
    stride: usize,
}

fn inverted(net: &mut Net, name: &str, input: MapId, block: &Block) -> Built {
    let before = net.builder.shape(input).channels();
    let mut map = input;
    if block.wide > before {
        let conv = Conv::new(block.wide, 1).then(block.activation);
        map = net.conv(&format!("{name}/expand"), map, conv)?;
    }
    let conv = Conv::new(block.wide, block.kernel).depthwise().stride(block.stride);
    map = net.conv(&format!("{name}/depthwise"), map, conv.then(block.activation))?;
    if let Some(squeezed) = block.squeezed {
        let mut gate = net.global_mean(&format!("{name}/squeeze"), map)?;
        let inner = match block.activation {
            Activation::Silu => Activation::Silu,
            _ => Activation::Relu,
        };
        gate = net.conv(&format!("{name}/reduce"), gate, Conv::new(squeezed, 1).then(inner))?;
        gate = net.conv(&format!("{name}/excite"), gate, Conv::new(block.wide, 1))?;
        gate = net.activate(&format!("{name}/gate"), gate, block.gate)?;
        map = net.mul(&format!("{name}/scale"), &[map, gate])?;
    }
    let is_residual = block.stride == 1 && before == block.channels;
    let gain = if is_residual { GAIN_BRANCH } else { GAIN_LINEAR };
    map = net.conv(&format!("{name}/project"), map, Conv::new(block.channels, 1).gain(gain))?;
    if is_residual { net.add(&format!("{name}/add"), &[input, map]) } else { Ok(map) }
}

/// The nearest multiple, not more than a tenth below.
fn round_to(channels: usize, multiple: usize) -> usize {
    let near = ((channels + multiple / 2) / multiple * multiple).max(multiple);
    if 10 * near < 9 * channels { near + multiple } else { near }
}

/// *Source*: Ma et al., "ShuffleNet V2", ECCV 2018, table 5 (1x).
pub(super) fn shufflenetv2(net: &mut Net, input: MapId) -> Built {
    let mut map = net.conv("stem", input, Conv::new(24, 3).stride(2).relu())?;
    map = net.max_pool("stem/pool", map, Window::square(3, 2, 1))?;
    for (stage, (channels, blocks)) in [(116, 4), (232, 8), (464, 4)].into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("stage{}/block{}", stage + 2, block + 1);
            let (stay, branch, stride) = match block {
                0 => {
                    let before = net.builder.shape(map).channels();
                    let conv = Conv::new(before, 3).depthwise().stride(2);
                    let side = net.conv(&format!("{name}/side/depthwise"), map, conv)?;
                    let conv = Conv::new(channels / 2, 1).relu();
                    (net.conv(&format!("{name}/side/project"), side, conv)?, map, 2)
                }
                _ => {
                    let half = channels / 2;
                    let stay = net.channels(&format!("{name}/stay"), map, 0..half)?;
                    (stay, net.channels(&format!("{name}/branch"), map, half..channels)?, 1)
                }
            };
            let half = Conv::new(channels / 2, 1).relu();
            let mut branch = net.conv(&format!("{name}/expand"), branch, half)?;
            let conv = Conv::new(channels / 2, 3).depthwise().stride(stride);
            branch = net.conv(&format!("{name}/depthwise"), branch, conv)?;
            branch = net.conv(&format!("{name}/project"), branch, half)?;
            map = net.concat(&format!("{name}/concat"), &[stay, branch])?;
            // Two groups, one channel of each in turn.
            let shuffled = (0..channels).map(|c| (c % 2 * (channels / 2) + c / 2) as u32);
            let op = Op::Select { axis: 1, indices: shuffled.collect() };
            map = net.builder.layer(&format!("{name}/shuffle"), op, &[map])?;
        }
    }
    map = net.conv("head", map, Conv::new(1024, 1).relu())?;
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}
