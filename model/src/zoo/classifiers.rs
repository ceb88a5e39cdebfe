//! Networks that name what a picture shows.

use super::net::{Built, Conv, GAIN_BRANCH, GAIN_LINEAR, GAIN_RELU, Net};
use crate::graph::MapId;
use crate::op::{Activation, Op};
use crate::window::Window;

/// *Source*: Simonyan, Zisserman, "Very deep convolutional networks", ICLR 2015, configuration D.
pub(super) fn vgg16(net: &mut Net, input: MapId) -> Built {
    let mut map = input;
    let stages: [(usize, usize); 5] = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
    for (stage, (channels, convs)) in stages.into_iter().enumerate() {
        for conv in 0..convs {
            let name = format!("conv{}_{}", stage + 1, conv + 1);
            map = net.conv(&name, map, Conv::new(channels, 3).relu())?;
        }
        map = net.max_pool(&format!("pool{}", stage + 1), map, Window::square(2, 2, 0))?;
    }
    map = net.flatten("flatten", map)?;
    for (name, out) in [("fc6", 4096), ("fc7", 4096)] {
        map = net.linear(name, map, out, GAIN_RELU)?;
        map = net.activate(name, map, Activation::Relu)?;
    }
    map = net.linear("fc8", map, 1000, GAIN_LINEAR)?;
    net.builder.layer("prob", Op::Softmax { axis: 1, flattened: false }, &[map])
}

/// *Source*: He et al., "Deep residual learning", CVPR 2016, with the stride in the 3x3
/// convolution (v1.5, as torchvision has it).
pub(super) fn resnet50(net: &mut Net, input: MapId) -> Built {
    let mut map = net.conv("stem", input, Conv::new(64, 7).stride(2).relu())?;
    map = net.max_pool("stem/pool", map, Window::square(3, 2, 1))?;
    let stages: [(usize, usize); 4] = [(64, 3), (128, 4), (256, 6), (512, 3)];
    for (stage, (width, blocks)) in stages.into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("stage{}/block{}", stage + 1, block + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut branch = net.conv(&format!("{name}/conv1"), map, Conv::new(width, 1).relu())?;
            let conv = Conv::new(width, 3).stride(stride).relu();
            branch = net.conv(&format!("{name}/conv2"), branch, conv)?;
            let conv = Conv::new(4 * width, 1).gain(GAIN_BRANCH);
            branch = net.conv(&format!("{name}/conv3"), branch, conv)?;
            if block == 0 {
                let conv = Conv::new(4 * width, 1).stride(stride);
                map = net.conv(&format!("{name}/shortcut"), map, conv)?;
            }
            let name = format!("{name}/add");
            map = net.add(&name, &[branch, map])?;
            map = net.activate(&name, map, Activation::Relu)?;
        }
    }
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}

/// *Source*: Sandler et al., "MobileNetV2", CVPR 2018, table 2.
pub(super) fn mobilenetv2(net: &mut Net, input: MapId) -> Built {
    let relu6 = Activation::Clip { min: 0.0, max: 6.0 };
    let mut map = net.conv("stem", input, Conv::new(32, 3).stride(2).then(relu6))?;
    let stages: [(usize, usize, usize, usize); 7] = [
        // Expansion, channels, blocks, stride of the first block.
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (stage, (expansion, channels, blocks, first_stride)) in stages.into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("stage{}/block{}", stage + 1, block + 1);
            let stride = if block == 0 { first_stride } else { 1 };
            let before = net.builder.shape(map).channels();
            let wide = before * expansion;
            let mut branch = map;
            if expansion > 1 {
                let conv = Conv::new(wide, 1).then(relu6);
                branch = net.conv(&format!("{name}/expand"), branch, conv)?;
            }
            let conv = Conv::new(wide, 3).depthwise().stride(stride).then(relu6);
            branch = net.conv(&format!("{name}/depthwise"), branch, conv)?;
            let is_residual = stride == 1 && before == channels;
            let gain = if is_residual { GAIN_BRANCH } else { GAIN_LINEAR };
            let conv = Conv::new(channels, 1).gain(gain);
            branch = net.conv(&format!("{name}/project"), branch, conv)?;
            map = match is_residual {
                true => net.add(&format!("{name}/add"), &[map, branch])?,
                false => branch,
            };
        }
    }
    map = net.conv("head", map, Conv::new(1280, 1).then(relu6))?;
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}

/// *Source*: Iandola et al., "SqueezeNet", 2016, in the authors' version 1.1.
pub(super) fn squeezenet(net: &mut Net, input: MapId) -> Built {
    let mut map = net.conv("conv1", input, Conv::new(64, 3).stride(2).pad(0).relu())?;
    let mut fire_at = 2;
    for (pool, fires) in [[(16, 64), (16, 64)], [(32, 128), (32, 128)]].iter().enumerate() {
        map = pool_up(net, &format!("pool{}", pool + 1), map)?;
        for fire in fires {
            map = self::fire(net, fire_at, map, *fire)?;
            fire_at += 1;
        }
    }
    map = pool_up(net, "pool3", map)?;
    for fire in [(48, 192), (48, 192), (64, 256), (64, 256)] {
        map = self::fire(net, fire_at, map, fire)?;
        fire_at += 1;
    }
    map = net.conv("conv10", map, Conv::new(1000, 1).relu())?;
    map = net.global_mean("pool10", map)?;
    net.flatten("flatten", map)
}

/// A pool of 3x3 with stride 2 that rounds up.
fn pool_up(net: &mut Net, name: &str, input: MapId) -> Built {
    use crate::graph::Shape;
    use crate::op::PoolKind;
    let shape = net.builder.shape(input);
    let up = |length: usize| length.saturating_sub(3).div_ceil(2) + 1;
    let shape = Shape::Spatial {
        channels: shape.channels(),
        rows: up(shape.rows()),
        cols: up(shape.cols()),
    };
    let op = Op::Pool { window: Window::square(3, 2, 0), kind: PoolKind::Max };
    net.builder.layer_to(name, op, &[input], name, Some(shape))
}

fn fire(net: &mut Net, at: usize, input: MapId, (squeeze, expand): (usize, usize)) -> Built {
    let name = format!("fire{at}");
    let narrow = net.conv(&format!("{name}/squeeze"), input, Conv::new(squeeze, 1).relu())?;
    let small = net.conv(&format!("{name}/expand1x1"), narrow, Conv::new(expand, 1).relu())?;
    let large = net.conv(&format!("{name}/expand3x3"), narrow, Conv::new(expand, 3).relu())?;
    net.builder.layer(&format!("{name}/concat"), Op::Concat, &[small, large])
}
