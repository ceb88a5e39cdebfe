//! YOLOv8 in its smallest size, up to the raw maps of its anchor-free head.

use super::net::{Built, Conv, GAIN_BRANCH, Net};
use crate::graph::MapId;
use crate::op::Activation;
use crate::window::Window;

/// Values of a box (4 sides in 16 steps each) and of the classes.
const BOX: usize = 64;
const CLASSES: usize = 80;

/// *Source*: Ultralytics' `yolov8.yaml`, scale n. One output for each of three scales, of 144
/// channels: the steps of four sides, then the classes.
pub(super) fn yolov8n(net: &mut Net, input: MapId) -> Built {
    let mut map = down(net, "0", input, 16)?;
    map = down(net, "1", map, 32)?;
    map = split_join(net, "2", map, 32, 1, true)?;
    map = down(net, "3", map, 64)?;
    let fine = split_join(net, "4", map, 64, 2, true)?;
    map = down(net, "5", fine, 128)?;
    let middle = split_join(net, "6", map, 128, 2, true)?;
    map = down(net, "7", middle, 256)?;
    map = split_join(net, "8", map, 256, 1, true)?;
    let coarse = pyramid(net, "9", map)?;

    map = net.twice("10", coarse)?;
    map = net.concat("11", &[map, middle])?;
    let middle = split_join(net, "12", map, 128, 1, false)?;
    map = net.twice("13", middle)?;
    map = net.concat("14", &[map, fine])?;
    let fine = split_join(net, "15", map, 64, 1, false)?;
    map = down(net, "16", fine, 64)?;
    map = net.concat("17", &[map, middle])?;
    let middle = split_join(net, "18", map, 128, 1, false)?;
    map = down(net, "19", middle, 128)?;
    map = net.concat("20", &[map, coarse])?;
    let coarse = split_join(net, "21", map, 256, 1, false)?;

    let first = head(net, "22/0", fine)?;
    let second = head(net, "22/1", middle)?;
    net.builder.output(first);
    net.builder.output(second);
    head(net, "22/2", coarse)
}

fn silu(out: usize, kernel: usize) -> Conv {
    Conv::new(out, kernel).then(Activation::Silu)
}

fn down(net: &mut Net, name: &str, input: MapId, out: usize) -> Built {
    net.conv(name, input, silu(out, 3).stride(2))
}

/// `C2f`: half of the channels go on, the other half through blocks, and all are joined.
fn split_join(
    net: &mut Net,
    name: &str,
    input: MapId,
    out: usize,
    blocks: usize,
    adds: bool,
) -> Built {
    let half = out / 2;
    let both = net.conv(&format!("{name}/cv1"), input, silu(out, 1))?;
    let stay = net.channels(&format!("{name}/stay"), both, 0..half)?;
    let mut last = net.channels(&format!("{name}/branch"), both, half..out)?;
    let mut maps = vec![stay, last];
    for block in 0..blocks {
        let name = format!("{name}/m{block}");
        let inner = net.conv(&format!("{name}/cv1"), last, silu(half, 3))?;
        let gain = if adds { GAIN_BRANCH } else { std::f32::consts::SQRT_2 };
        let made = net.conv(&format!("{name}/cv2"), inner, silu(half, 3).gain(gain))?;
        last = if adds { net.add(&format!("{name}/add"), &[last, made])? } else { made };
        maps.push(last);
    }
    let joined = net.concat(&format!("{name}/concat"), &maps)?;
    net.conv(&format!("{name}/cv2"), joined, silu(out, 1))
}

/// `SPPF`: pools of growing reach, one after another.
fn pyramid(net: &mut Net, name: &str, input: MapId) -> Built {
    let channels = net.builder.shape(input).channels();
    let mut maps = vec![net.conv(&format!("{name}/cv1"), input, silu(channels / 2, 1))?];
    for pool in 0..3 {
        maps.push(net.max_pool(
            &format!("{name}/pool{pool}"),
            maps[pool],
            Window::square(5, 1, 2),
        )?);
    }
    let joined = net.concat(&format!("{name}/concat"), &maps)?;
    net.conv(&format!("{name}/cv2"), joined, silu(channels, 1))
}

/// Boxes and classes of one scale.
fn head(net: &mut Net, name: &str, input: MapId) -> Built {
    let mut parts = Vec::with_capacity(2);
    for (part, out) in [("box", BOX), ("class", CLASSES)] {
        let name = format!("{name}/{part}");
        let mut map = net.conv(&format!("{name}/0"), input, silu(out, 3))?;
        map = net.conv(&format!("{name}/1"), map, silu(out, 3))?;
        parts.push(net.conv(&format!("{name}/2"), map, Conv::new(out, 1))?);
    }
    net.concat(name, &parts)
}
