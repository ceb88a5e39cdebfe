//! Networks that give a picture for a picture.

use super::net::{Built, Conv, GAIN_BRANCH, GAIN_LINEAR, Net};
use crate::graph::MapId;
use crate::op::{Activation, DepthOrder, Op, ResizeCoordinates, ResizeMode};
use crate::window::Axes;

const LEAKY: Activation = Activation::LeakyRelu { alpha: 0.2 };

/// Three times larger. *Source*: Shi et al., "Real-time single image super-resolution", CVPR 2016.
pub(super) fn espcn(net: &mut Net, input: MapId) -> Built {
    let mut map = net.conv("conv1", input, Conv::new(64, 5).then(Activation::Tanh))?;
    map = net.conv("conv2", map, Conv::new(32, 3).then(Activation::Tanh))?;
    map = net.conv("conv3", map, Conv::new(27, 3))?;
    net.builder.layer("shuffle", Op::DepthToSpace { block: 3, order: DepthOrder::Crd }, &[map])
}

/// The picture without its noise. *Source*: Zhang et al., "Beyond a Gaussian denoiser", TIP 2017,
/// 17 layers.
pub(super) fn dncnn(net: &mut Net, input: MapId) -> Built {
    let mut map = net.conv("conv1", input, Conv::new(64, 3).relu())?;
    for layer in 2..17 {
        map = net.conv(&format!("conv{layer}"), map, Conv::new(64, 3).relu())?;
    }
    map = net.conv("conv17", map, Conv::new(3, 3).gain(GAIN_BRANCH))?;
    net.sub("clean", &[input, map])
}

/// Four times larger: residual blocks of dense blocks. *Source*: Wang et al., "ESRGAN", ECCVW 2018,
/// with 4 blocks of 32 channels in place of 23 of 64.
pub(super) fn rrdb(net: &mut Net, input: MapId) -> Built {
    const WIDTH: usize = 32;
    const GROWTH: usize = 16;
    let first = net.conv("first", input, Conv::new(WIDTH, 3))?;
    let mut map = first;
    for block in 1..=4 {
        let before = map;
        for dense in 1..=3 {
            let name = format!("block{block}/dense{dense}");
            let mut maps = vec![map];
            for layer in 1..=4 {
                let joined = match maps.len() {
                    1 => maps[0],
                    _ => net.concat(&format!("{name}/concat{layer}"), &maps)?,
                };
                let conv = Conv::new(GROWTH, 3).then(LEAKY);
                maps.push(net.conv(&format!("{name}/conv{layer}"), joined, conv)?);
            }
            let joined = net.concat(&format!("{name}/concat5"), &maps)?;
            let conv = Conv::new(WIDTH, 3).gain(0.2);
            let branch = net.conv(&format!("{name}/conv5"), joined, conv)?;
            map = net.add(&format!("{name}/add"), &[map, branch])?;
        }
        map = net.add(&format!("block{block}/add"), &[before, map])?;
    }
    map = net.conv("trunk", map, Conv::new(WIDTH, 3).gain(0.2))?;
    map = net.add("trunk/add", &[first, map])?;
    for step in 1..=2 {
        map = net.twice(&format!("up{step}"), map)?;
        map = net.conv(&format!("up{step}/conv"), map, Conv::new(WIDTH, 3).then(LEAKY))?;
    }
    net.conv("last", map, Conv::new(3, 3).gain(GAIN_LINEAR))
}

impl Net {
    /// Each position as four.
    pub(super) fn twice(&mut self, name: &str, input: MapId) -> Built {
        let (mode, coordinates) = (ResizeMode::NearestFloor, ResizeCoordinates::Asymmetric);
        let op = Op::Resize { mode, coordinates, scale: Axes::new(2.0, 2.0) };
        self.builder.layer(name, op, &[input])
    }
}
