//! Which maps share a buffer, and where the buffers lie in the arena.

use super::{Buffer, LINE_BYTES, Place, Step, Unit};
use crate::region::{Region, Span};
use model::{MapId, Model, Op};
use std::collections::BTreeMap;

/// A map that is made longer than so many units before it is joined would keep an empty place
/// beside it all the while.
const NEAR: usize = 8;

/// Gives each map a buffer of its own, or a part of the buffer of the map it is joined into.
pub(super) fn places(
    model: &Model,
    units: &[Unit],
    outputs: &[(MapId, Region)],
) -> (Vec<Buffer>, BTreeMap<MapId, Place>) {
    let mut buffers = Vec::new();
    let mut places = BTreeMap::new();
    // A concat comes after what it joins.
    for (index, unit) in units.iter().enumerate().rev() {
        if places.contains_key(&unit.output) {
            continue;
        }
        let channels = model.shape(unit.output).channels();
        let given_away = outputs.contains(&(unit.output, unit.region));
        let buffer = buffers.len();
        let region = unit.region;
        let (rows, offset, steps) = (0, 0, Span::EMPTY);
        let element = model.element(unit.output);
        buffers.push(Buffer { region, channels, element, rows, given_away, offset, steps });
        places.insert(unit.output, Place { unit: index, buffer, channel: 0 });
        if model.layer(unit.layer).op != Op::Concat {
            continue;
        }
        let mut channel = 0;
        for (i, &map) in unit.inputs.iter().enumerate() {
            let first = channel;
            channel += model.shape(map).channels();
            let once = !unit.inputs[..i].contains(&map) && !unit.inputs[i + 1..].contains(&map);
            let Some(maker) = units.iter().position(|unit| unit.output == map) else { continue };
            let near = maker + NEAR > index;
            if once
                && near
                && joins(model, units, unit, maker, outputs)
                && !places.contains_key(&map)
            {
                places.insert(map, Place { unit: maker, buffer, channel: first });
            }
        }
    }
    (buffers, places)
}

/// Whether a map can be written right into the concat: a convolution makes it, over the same
/// region, and whoever else reads it can skip the other channels.
fn joins(
    model: &Model,
    units: &[Unit],
    concat: &Unit,
    maker: usize,
    outputs: &[(MapId, Region)],
) -> bool {
    let maker = &units[maker];
    let map = maker.output;
    let made_by_conv = maker.convolution(model).is_some();
    let skips = |unit: &Unit| {
        let op = &model.layer(unit.layer).op;
        unit.layer == concat.layer
            || unit.inputs.first() == Some(&map) && unit.convolution(model).is_some()
            || matches!(op, Op::Pool { .. })
    };
    made_by_conv
        && maker.region == concat.region
        && !outputs.iter().any(|&(output, _)| output == map)
        && units.iter().filter(|unit| unit.inputs.contains(&map)).all(skips)
}

/// Finds out from when to when each buffer is in use.
pub(super) fn lifetimes(
    units: &[Unit],
    steps: &[Step],
    places: &BTreeMap<MapId, Place>,
    outputs: &[(MapId, Region)],
    buffers: &mut [Buffer],
) {
    let mut used = |map: &MapId, step: usize| {
        let Some(place) = places.get(map) else { return };
        let steps = &mut buffers[place.buffer].steps;
        *steps = match steps.is_empty() {
            true => Span::new(step, step + 1),
            false => Span::new(steps.start.min(step), steps.end.max(step + 1)),
        };
    };
    for (i, step) in steps.iter().enumerate() {
        let unit = &units[step.unit];
        unit.inputs.iter().chain([&unit.output]).for_each(|map| used(map, i));
    }
    outputs.iter().for_each(|(map, _)| used(map, steps.len()));
}

/// Gives each buffer of the arena its offset; returns the size of the arena, in bytes.
///
/// First in the order of first use, which tends to reuse what was freed last and is still in the
/// cache; then by size, which packs tighter. The order of use is kept unless it costs an eighth.
pub(super) fn arrange(buffers: &mut [Buffer]) -> usize {
    let inside = |buffers: &[Buffer]| -> Vec<usize> {
        (0..buffers.len()).filter(|&i| !buffers[i].given_away).collect()
    };
    let mut by_use = inside(buffers);
    by_use.sort_by_key(|&i| (buffers[i].steps.start, i));
    let mut by_size = by_use.clone();
    by_size.sort_by_key(|&i| std::cmp::Reverse(buffers[i].bytes()));
    let tight = place_in_order(buffers, &by_size);
    let warm = place_in_order(buffers, &by_use);
    if warm > tight + tight / 8 { place_in_order(buffers, &by_size) } else { warm }
}

/// Puts each buffer at the lowest place that is free while it is in use.
fn place_in_order(buffers: &mut [Buffer], order: &[usize]) -> usize {
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut total = 0;
    for &i in order {
        let len = buffers[i].bytes().next_multiple_of(LINE_BYTES);
        let mut taken: Vec<(usize, usize)> = (placed.iter())
            .filter(|&&other| !buffers[other].steps.intersect(buffers[i].steps).is_empty())
            .map(|&other| (buffers[other].offset, buffers[other].bytes()))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, bytes) in taken {
            if offset + len <= start {
                break;
            }
            offset = offset.max((start + bytes).next_multiple_of(LINE_BYTES));
        }
        buffers[i].offset = offset;
        total = total.max(offset + len);
        placed.push(i);
    }
    total
}
