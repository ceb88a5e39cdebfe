//! A network that labels each pixel.

use super::net::{Built, Conv, Net};
use crate::graph::MapId;
use crate::op::{Activation, Op, ResizeCoordinates, ResizeMode};
use crate::window::Axes;
use crate::window::Window;

/// *Source*: Ronneberger et al., "U-Net", MICCAI 2015, with padded convolutions and half the
/// channels, going up by nearest neighbours and a convolution.
pub(super) fn unet(net: &mut Net, input: MapId) -> Built {
    let mut map = input;
    let mut skips = Vec::new();
    for (level, channels) in [32, 64, 128, 256].into_iter().enumerate() {
        map = double(net, &format!("down{}", level + 1), map, channels)?;
        skips.push((level + 1, channels, map));
        map = net.max_pool(&format!("down{}/pool", level + 1), map, Window::square(2, 2, 0))?;
    }
    map = double(net, "bottom", map, 512)?;
    for (level, channels, skip) in skips.into_iter().rev() {
        let name = format!("up{level}");
        let resize = Op::Resize {
            mode: ResizeMode::NearestFloor,
            coordinates: ResizeCoordinates::Asymmetric,
            scale: Axes::new(2.0, 2.0),
        };
        map = net.builder.layer(&format!("{name}/resize"), resize, &[map])?;
        map = net.conv(&format!("{name}/conv"), map, Conv::new(channels, 3).relu())?;
        map = net.builder.layer(&format!("{name}/concat"), Op::Concat, &[skip, map])?;
        map = double(net, &name, map, channels)?;
    }
    map = net.conv("mask", map, Conv::new(1, 1))?;
    net.activate("mask", map, Activation::Sigmoid)
}

fn double(net: &mut Net, name: &str, input: MapId, channels: usize) -> Built {
    let map = net.conv(&format!("{name}/conv1"), input, Conv::new(channels, 3).relu())?;
    net.conv(&format!("{name}/conv2"), map, Conv::new(channels, 3).relu())
}
