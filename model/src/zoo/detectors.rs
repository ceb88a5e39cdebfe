//! Networks that say where things are, up to the raw grid of boxes.

use super::net::{Built, Conv, Net};
use crate::graph::MapId;
use crate::op::{Activation, Op};
use crate::window::{Pads, Window};

const LEAKY: Activation = Activation::LeakyRelu { alpha: 0.1 };

/// *Source*: Redmon, Farhadi, "YOLO9000", CVPR 2017; the layers and their numbers are those of
/// darknet's `yolov2.cfg` (layers 0 to 30; 80 classes, 5 anchors). The reorg layer is ONNX's
/// SpaceToDepth, whose order of channels is not darknet's; with made-up weights that is the same.
pub(super) fn yolov2(net: &mut Net, input: MapId) -> Built {
    let stages: [(usize, &[(usize, usize)]); 5] = [
        (0, &[(32, 3)]),
        (2, &[(64, 3)]),
        (4, &[(128, 3), (64, 1), (128, 3)]),
        (8, &[(256, 3), (128, 1), (256, 3)]),
        (12, &[(512, 3), (256, 1), (512, 3), (256, 1), (512, 3)]),
    ];
    let mut map = input;
    let mut passthrough = input;
    for (first, convs) in stages {
        map = leaky_convs(net, map, first, convs)?;
        passthrough = map;
        map =
            net.max_pool(&format!("pool{}", first + convs.len()), map, Window::square(2, 2, 0))?;
    }
    let convs = [(1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3), (1024, 3), (1024, 3)];
    map = leaky_convs(net, map, 18, &convs)?;
    let narrow = leaky_convs(net, passthrough, 26, &[(64, 1)])?;
    let reorg = net.builder.layer("reorg27", Op::SpaceToDepth { block: 2 }, &[narrow])?;
    map = net.builder.layer("route28", Op::Concat, &[reorg, map])?;
    map = leaky_convs(net, map, 29, &[(1024, 3)])?;
    net.conv("conv30", map, Conv::new(425, 1))
}

/// *Source*: darknet's `yolov2-tiny-voc.cfg` (20 classes, 5 anchors).
pub(super) fn tiny_yolov2(net: &mut Net, input: MapId) -> Built {
    let mut map = input;
    for (index, channels) in [16, 32, 64, 128, 256, 512].into_iter().enumerate() {
        map = leaky_convs(net, map, 2 * index, &[(channels, 3)])?;
        let pool = match index {
            // The last pool keeps the size: one column and one row of padding at the far ends.
            5 => Window {
                pads: Pads { bottom: 1, right: 1, ..Pads::default() },
                ..Window::square(2, 1, 0)
            },
            _ => Window::square(2, 2, 0),
        };
        map = net.max_pool(&format!("pool{}", 2 * index + 1), map, pool)?;
    }
    map = leaky_convs(net, map, 12, &[(1024, 3), (1024, 3)])?;
    net.conv("conv14", map, Conv::new(125, 1))
}

/// Two outputs, of a coarse and a fine grid. *Source*: darknet's `yolov3-tiny.cfg` (80 classes, 3
/// anchors a scale).
pub(super) fn yolov3_tiny(net: &mut Net, input: MapId) -> Built {
    let (mut map, mut fine) = (input, input);
    for (index, channels) in [16, 32, 64, 128, 256, 512].into_iter().enumerate() {
        map = leaky_convs(net, map, 2 * index, &[(channels, 3)])?;
        if channels == 256 {
            fine = map;
        }
        let pool = match index {
            // As the last pool of the one above.
            5 => Window {
                pads: Pads { bottom: 1, right: 1, ..Pads::default() },
                ..Window::square(2, 1, 0)
            },
            _ => Window::square(2, 2, 0),
        };
        map = net.max_pool(&format!("pool{}", 2 * index + 1), map, pool)?;
    }
    map = leaky_convs(net, map, 12, &[(1024, 3), (256, 1)])?;
    let coarse = leaky_convs(net, map, 14, &[(512, 3)])?;
    let coarse = net.conv("conv15", coarse, Conv::new(255, 1))?;
    net.builder.output(coarse);
    map = leaky_convs(net, map, 18, &[(128, 1)])?;
    map = net.twice("upsample19", map)?;
    map = net.concat("route20", &[map, fine])?;
    map = leaky_convs(net, map, 21, &[(256, 3)])?;
    net.conv("conv22", map, Conv::new(255, 1))
}

/// Convolutions of (channels, kernel), named by darknet's layer numbers.
fn leaky_convs(net: &mut Net, input: MapId, first: usize, convs: &[(usize, usize)]) -> Built {
    let mut map = input;
    for (index, (channels, kernel)) in convs.iter().enumerate() {
        let conv = Conv::new(*channels, *kernel).then(LEAKY);
        map = net.conv(&format!("conv{}", first + index), map, conv)?;
    }
    Ok(map)
}
