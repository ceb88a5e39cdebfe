//! Where a stage may start or end.

use crate::cost::Reach;
use model::{MapId, Model};

/// For each layer, how many before it see their whole input.
pub(super) fn wholes(reach: &Reach, layers: usize) -> Vec<usize> {
    let mut wholes = vec![0];
    for i in 0..layers {
        wholes.push(wholes[i] + usize::from(!reach.is_local(i)));
    }
    wholes
}

/// Where a stage may start or end: at both ends of the model, around layers that see their whole
/// input, and where the fewest bytes would have to be gathered.
pub(super) fn places(model: &Model, wholes: &[usize], most: usize) -> Vec<usize> {
    let layers = model.layers.len();
    let crossing = crossing_bytes(model);
    let mut places = vec![0, layers];
    let is_whole = |i: usize| i < layers && wholes[i + 1] > wholes[i];
    let turns = (1..layers).filter(|&i| is_whole(i) != is_whole(i - 1));
    let mut turns: Vec<usize> = turns.collect();
    turns.sort_by_key(|&i| crossing[i]);
    places.extend(turns.into_iter().take(most / 2));
    let mut rest: Vec<usize> = (1..layers).filter(|i| !places.contains(i)).collect();
    // Where a neighbour is narrower, a stage would rather end there.
    let narrower = |&i: &usize| {
        let around = i.saturating_sub(1).max(1)..(i + 2).min(layers);
        around.into_iter().filter(|&j| crossing[j] < crossing[i]).count()
    };
    rest.sort_by_key(|i| (narrower(i), crossing[*i], *i));
    let room = most.saturating_sub(places.len());
    places.extend(rest.into_iter().take(room));
    places.sort_unstable();
    places.dedup();
    places
}

/// For each layer, the bytes of maps that exist before it and are read by it or later.
fn crossing_bytes(model: &Model) -> Vec<usize> {
    let layers = model.layers.len();
    let mut made = vec![0usize; model.maps.len()];
    let mut read = vec![0usize; model.maps.len()];
    for (i, layer) in model.layers.iter().enumerate() {
        made[layer.output.index()] = i + 1;
        layer.inputs.iter().for_each(|map| read[map.index()] = i + 1);
    }
    let mut crossing = vec![0usize; layers + 1];
    for map in 0..model.maps.len() {
        let id = MapId(map as u32);
        let bytes = model.shape(id).elements() * model.element(id).bytes();
        (made[map]..read[map]).for_each(|i| crossing[i] += bytes);
    }
    crossing
}
