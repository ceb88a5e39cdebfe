//! Classifiers of many branches: joined towers, and maps that are joined to all before them.

use super::net::{Built, Conv, GAIN_LINEAR, GAIN_RELU, Net};
use crate::graph::MapId;
use crate::op::{Activation, Op, PoolKind};
use crate::window::Window;

/// *Source*: Krizhevsky, "One weird trick", 2014, as torchvision has it, with the local response
/// normalisation of the first network of that name (NIPS 2012).
pub(super) fn alexnet(net: &mut Net, input: MapId) -> Built {
    let lrn = Op::Lrn { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 };
    let mut map = net.conv("conv1", input, Conv::new(64, 11).stride(4).pad(2).relu())?;
    map = net.builder.layer("norm1", lrn.clone(), &[map])?;
    map = net.max_pool("pool1", map, Window::square(3, 2, 0))?;
    map = net.conv("conv2", map, Conv::new(192, 5).relu())?;
    map = net.builder.layer("norm2", lrn, &[map])?;
    map = net.max_pool("pool2", map, Window::square(3, 2, 0))?;
    for (name, channels) in [("conv3", 384), ("conv4", 256), ("conv5", 256)] {
        map = net.conv(name, map, Conv::new(channels, 3).relu())?;
    }
    map = net.max_pool("pool5", map, Window::square(3, 2, 0))?;
    map = net.flatten("flatten", map)?;
    for name in ["fc6", "fc7"] {
        map = net.linear(name, map, 4096, GAIN_RELU)?;
        map = net.activate(name, map, Activation::Relu)?;
    }
    net.linear("fc8", map, 1000, GAIN_LINEAR)
}

/// An inception module: 1x1; 1x1 to 3x3; 1x1 to 5x5; pool to 1x1.
type Module = (usize, [usize; 2], [usize; 2], usize);

/// *Source*: Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1.
pub(super) fn googlenet(net: &mut Net, input: MapId) -> Built {
    let stages: [&[Module]; 3] = [
        &[(64, [96, 128], [16, 32], 32), (128, [128, 192], [32, 96], 64)],
        &[
            (192, [96, 208], [16, 48], 64),
            (160, [112, 224], [24, 64], 64),
            (128, [128, 256], [24, 64], 64),
            (112, [144, 288], [32, 64], 64),
            (256, [160, 320], [32, 128], 128),
        ],
        &[(256, [160, 320], [32, 128], 128), (384, [192, 384], [48, 128], 128)],
    ];
    let mut map = net.conv("conv1", input, Conv::new(64, 7).stride(2).relu())?;
    map = net.max_pool("pool1", map, Window::square(3, 2, 1))?;
    map = net.conv("conv2/reduce", map, Conv::new(64, 1).relu())?;
    map = net.conv("conv2", map, Conv::new(192, 3).relu())?;
    map = net.max_pool("pool2", map, Window::square(3, 2, 1))?;
    for (stage, modules) in stages.into_iter().enumerate() {
        for (i, (one, three, five, pooled)) in modules.iter().copied().enumerate() {
            let name = format!("inception{}{}", stage + 3, char::from(b'a' + i as u8));
            let relu = |out: usize, kernel: usize| Conv::new(out, kernel).relu();
            let first = net.conv(&format!("{name}/1x1"), map, relu(one, 1))?;
            let mut towers = vec![first];
            for (kernel, [narrow, wide]) in [(3, three), (5, five)] {
                let reduced =
                    net.conv(&format!("{name}/{kernel}x{kernel}/reduce"), map, relu(narrow, 1))?;
                let tower =
                    net.conv(&format!("{name}/{kernel}x{kernel}"), reduced, relu(wide, kernel))?;
                towers.push(tower);
            }
            let pool = net.max_pool(&format!("{name}/pool"), map, Window::square(3, 1, 1))?;
            towers.push(net.conv(&format!("{name}/pool/project"), pool, relu(pooled, 1))?);
            map = net.concat(&name, &towers)?;
        }
        if stage < 2 {
            map = net.max_pool(&format!("pool{}", stage + 3), map, Window::square(3, 2, 1))?;
        }
    }
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}

/// *Source*: Huang et al., "Densely connected convolutional networks", CVPR 2017, table 1
/// (DenseNet-121). Normalisations are folded into convolutions where they follow one.
pub(super) fn densenet121(net: &mut Net, input: MapId) -> Built {
    const GROWTH: usize = 32;
    let mut map = net.conv("stem", input, Conv::new(64, 7).stride(2).relu())?;
    map = net.max_pool("stem/pool", map, Window::square(3, 2, 1))?;
    for (block, layers) in [6, 12, 24, 16].into_iter().enumerate() {
        for layer in 0..layers {
            let name = format!("block{}/layer{}", block + 1, layer + 1);
            // The normalisation before a layer is its own, so that it cannot be folded.
            let normal = net.affine(&format!("{name}/norm"), map, Activation::Relu)?;
            let conv = Conv::new(4 * GROWTH, 1).relu();
            let narrow = net.conv(&format!("{name}/conv1"), normal, conv)?;
            let grown = net.conv(&format!("{name}/conv2"), narrow, Conv::new(GROWTH, 3))?;
            map = net.concat(&format!("{name}/concat"), &[map, grown])?;
        }
        let name = format!("transition{}", block + 1);
        map = net.affine(&format!("{name}/norm"), map, Activation::Relu)?;
        if block < 3 {
            let channels = net.builder.shape(map).channels() / 2;
            map = net.conv(&format!("{name}/conv"), map, Conv::new(channels, 1))?;
            let kind = PoolKind::Average { count_padding: false };
            let op = Op::Pool { window: Window::square(2, 2, 0), kind };
            map = net.builder.layer(&format!("{name}/pool"), op, &[map])?;
        }
    }
    map = net.global_mean("pool", map)?;
    map = net.flatten("flatten", map)?;
    net.linear("fc", map, 1000, GAIN_LINEAR)
}
