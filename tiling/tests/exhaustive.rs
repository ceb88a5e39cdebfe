//! Every small geometry, enumerated: the gathered regions cover each output map exactly once, and
//! each tile's regions are sufficient and minimal against a position-by-position brute force.

use model::{
    Activation, Axes, FeatureMap, Layer, MapId, Model, Op, Pads, PoolKind, Shape, WeightHash,
    WeightId, WeightInfo, Window,
};
use std::collections::BTreeSet;
use tiling::{Grid, Numerics, Region, Slot, Span, Stage, StageGeometry};

type Positions = BTreeSet<(usize, usize)>;

#[derive(Clone, Copy, Debug)]
struct Axis {
    len: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    parts: usize,
}

impl Axis {
    fn out_len(self) -> Option<usize> {
        (self.len + 2 * self.pad).checked_sub(self.kernel).map(|n| n / self.stride + 1)
    }

    fn all() -> Vec<Axis> {
        let mut all = Vec::new();
        for len in 1..=9 {
            for kernel in 1..=3 {
                for stride in 1..=2 {
                    for pad in 0..=1 {
                        for parts in 1..=3 {
                            let axis = Axis { len, kernel, stride, pad, parts };
                            if pad < kernel && axis.out_len().is_some_and(|n| n >= parts) {
                                all.push(axis);
                            }
                        }
                    }
                }
            }
        }
        all
    }
}

fn window(rows: Axis, cols: Axis) -> Window {
    Window {
        kernel: Axes::new(rows.kernel, cols.kernel),
        stride: Axes::new(rows.stride, cols.stride),
        dilation: Axes::new(1, 1),
        pads: Pads { top: rows.pad, left: cols.pad, bottom: rows.pad, right: cols.pad },
    }
}

/// One windowed layer after another, `layers` times, on a single-channel map.
fn chain(rows: Axis, cols: Axis, layers: usize) -> Option<Model> {
    let spatial = |rows, cols| Shape::Spatial { channels: 1, rows, cols };
    let map = |name: usize, shape| FeatureMap::new(format!("m{name}"), shape);
    let mut maps = vec![map(0, spatial(rows.len, cols.len))];
    let (mut r, mut c) = (rows, cols);
    let mut chain = Vec::new();
    for i in 0..layers {
        (r.len, c.len) = (r.out_len()?, c.out_len()?);
        maps.push(map(i + 1, spatial(r.len, c.len)));
        let window = window(rows, cols);
        let op = if i % 2 == 0 {
            let (weights, activation) = (WeightId(0), Activation::None);
            Op::Conv { window, groups: 1, weights, bias: None, activation }
        } else {
            Op::Pool { window, kind: PoolKind::Max }
        };
        let (inputs, output) = (vec![MapId(i as u32)], MapId(i as u32 + 1));
        chain.push(Layer { name: format!("l{i}"), op, inputs, output });
    }
    let weight = WeightInfo::new(WeightHash::of(&[]), &[1, 1, rows.kernel, cols.kernel]);
    let outputs = vec![MapId(layers as u32)];
    let (inputs, weights) = (vec![MapId(0)], vec![weight]);
    Some(Model { name: "chain".into(), maps, layers: chain, inputs, outputs, weights })
}

fn stage(model: &Model, rows: Axis, cols: Axis) -> Stage {
    let placement = vec![Slot(0); rows.parts * cols.parts];
    Stage::cut(0..model.layers.len(), Grid::even(rows.parts, cols.parts), placement)
}

/// A transposed convolution on a single-channel map, dilated or not.
fn spread(rows: Axis, cols: Axis, dilation: usize, extra: usize) -> Option<Model> {
    let length = |axis: Axis| {
        let all = (axis.len - 1) * axis.stride + (axis.kernel - 1) * dilation + 1 + extra;
        all.checked_sub(2 * axis.pad).filter(|&len| len >= axis.parts)
    };
    let spatial = |rows, cols| Shape::Spatial { channels: 1, rows, cols };
    let maps = vec![
        FeatureMap::new("m0", spatial(rows.len, cols.len)),
        FeatureMap::new("m1", spatial(length(rows)?, length(cols)?)),
    ];
    let window = Window { dilation: Axes::new(dilation, dilation), ..window(rows, cols) };
    let (extra, weights, activation) = (Axes::new(extra, extra), WeightId(0), Activation::None);
    let op = Op::ConvTranspose { window, extra, groups: 1, weights, bias: None, activation };
    let layer = Layer { name: "l0".into(), op, inputs: vec![MapId(0)], output: MapId(1) };
    let weight = WeightInfo::new(WeightHash::of(&[]), &[1, 1, rows.kernel, cols.kernel]);
    let (inputs, outputs) = (vec![MapId(0)], vec![MapId(1)]);
    let (layers, weights) = (vec![layer], vec![weight]);
    Some(Model { name: "spread".into(), maps, layers, inputs, outputs, weights })
}

/// The input positions that output positions of a windowed layer really touch, tap by tap.
fn touched(model: &Model, layer: &Layer, outputs: &Positions) -> Positions {
    let w = match &layer.op {
        Op::Conv { window, .. } | Op::Pool { window, .. } => window,
        Op::ConvTranspose { window, .. } => return hit(model, layer, window, outputs),
        _ => unreachable!("the chains are made of windows"),
    };
    let shape = model.shape(layer.inputs[0]);
    let mut touched = Positions::new();
    for &(row, col) in outputs {
        for kr in 0..w.kernel.rows {
            for kc in 0..w.kernel.cols {
                let r = (row * w.stride.rows + kr).checked_sub(w.pads.top);
                let c = (col * w.stride.cols + kc).checked_sub(w.pads.left);
                if let (Some(r), Some(c)) = (r, c)
                    && r < shape.rows()
                    && c < shape.cols()
                {
                    touched.insert((r, c));
                }
            }
        }
    }
    touched
}

/// The input positions of which a tap hits one of the output positions, tap by tap.
fn hit(model: &Model, layer: &Layer, w: &Window, outputs: &Positions) -> Positions {
    let inputs = Region::whole(model.shape(layer.inputs[0]));
    let hits = |&(row, col): &(usize, usize)| {
        (0..w.kernel.rows).any(|kr| {
            (0..w.kernel.cols).any(|kc| {
                let r = (row * w.stride.rows + kr * w.dilation.rows).checked_sub(w.pads.top);
                let c = (col * w.stride.cols + kc * w.dilation.cols).checked_sub(w.pads.left);
                r.zip(c).is_some_and(|at| outputs.contains(&at))
            })
        })
    };
    positions(inputs).into_iter().filter(hits).collect()
}

fn positions(region: Region) -> Positions {
    region.rows.indices().flat_map(|r| region.cols.indices().map(move |c| (r, c))).collect()
}

fn hull(positions: &Positions) -> Region {
    positions.iter().fold(Region::EMPTY, |hull, &(r, c)| {
        hull.hull(Region::new(Span::new(r, r + 1), Span::new(c, c + 1)))
    })
}

/// The judge: also given broken geometries by the canaries below.
fn check(model: &Model, geometry: &StageGeometry) -> Result<(), String> {
    let output = model.outputs[0];
    let mut covered = Positions::new();
    for tile in &geometry.tiles {
        let (_, region) = tile.outputs[0];
        for position in positions(region) {
            if !covered.insert(position) {
                return Err(format!("{position:?} gathered twice"));
            }
        }
        let mut needed = positions(region);
        for (layer, &computed) in model.layers.iter().zip(&tile.layers).rev() {
            if computed != hull(&needed) {
                return Err(format!("{} computes {computed}, needs {}", layer.name, hull(&needed)));
            }
            needed = touched(model, layer, &needed);
        }
        let given = tile.inputs.first().map(|&(_, region)| region).unwrap_or_default();
        if given != hull(&needed) {
            return Err(format!("reads {given}, needs {}", hull(&needed)));
        }
    }
    if covered != positions(Region::whole(model.shape(output))) {
        return Err("the tiles leave a gap".into());
    }
    Ok(())
}

/// Every row axis with every column axis.
fn axes() -> impl Iterator<Item = (Axis, Axis)> {
    let all = Axis::all();
    let cols = all.clone();
    all.into_iter().flat_map(move |r| cols.clone().into_iter().map(move |c| (r, c)))
}

#[test]
fn one_layer_covers_once_with_the_exact_halo() {
    for (rows, cols) in axes() {
        let model = chain(rows, cols, 1).expect("out_len was checked");
        let geometry =
            StageGeometry::new(&model, Numerics::Exact, 0, &stage(&model, rows, cols)).unwrap();
        check(&model, &geometry).unwrap_or_else(|e| panic!("{rows:?} {cols:?}: {e}"));
    }
}

#[test]
fn a_transposed_convolution_covers_once_with_the_exact_halo() {
    // Of the axes, those of every third length: each is paired with each.
    let axes: Vec<Axis> = Axis::all().into_iter().filter(|axis| axis.len % 3 == 1).collect();
    for (dilation, extra) in [(1, 0), (1, 1), (2, 0), (3, 2), (8, 0)] {
        for (&rows, &cols) in axes.iter().flat_map(|r| axes.iter().map(move |c| (r, c))) {
            // The columns are given another stride, 3 or 1, above most kernels.
            let cols = Axis { stride: 5 - 2 * cols.stride, ..cols };
            let Some(model) = spread(rows, cols, dilation, extra) else { continue };
            let stage = stage(&model, rows, cols);
            let geometry = StageGeometry::new(&model, Numerics::Exact, 0, &stage).unwrap();
            let checked = check(&model, &geometry);
            checked.unwrap_or_else(|e| panic!("{rows:?} {cols:?} dilation {dilation}: {e}"));
        }
    }
}

#[test]
fn fused_layers_cover_once_with_the_exact_halo() {
    for (rows, cols) in axes() {
        let Some(model) = chain(rows, cols, 3) else { continue };
        let Ok(geometry) =
            StageGeometry::new(&model, Numerics::Exact, 0, &stage(&model, rows, cols))
        else {
            continue; // The grid no longer fits the last map.
        };
        check(&model, &geometry).unwrap_or_else(|e| panic!("{rows:?} {cols:?}: {e}"));
    }
}

fn canary_subject() -> (Model, StageGeometry) {
    let axis = Axis { len: 9, kernel: 3, stride: 1, pad: 1, parts: 3 };
    let model = chain(axis, axis, 2).unwrap();
    let geometry =
        StageGeometry::new(&model, Numerics::Exact, 0, &stage(&model, axis, axis)).unwrap();
    check(&model, &geometry).expect("sound before it is broken");
    (model, geometry)
}

#[test]
fn canary_a_halo_short_by_one_is_caught() {
    let (model, mut geometry) = canary_subject();
    geometry.tiles[4].inputs[0].1.rows.start += 1;
    assert!(check(&model, &geometry).unwrap_err().contains("needs"));
}

#[test]
fn canary_a_halo_one_too_wide_is_caught() {
    let (model, mut geometry) = canary_subject();
    geometry.tiles[0].inputs[0].1.cols.end += 1;
    assert!(check(&model, &geometry).unwrap_err().contains("needs"));
}

#[test]
fn canary_a_double_gather_is_caught() {
    let (model, mut geometry) = canary_subject();
    geometry.tiles[1] = geometry.tiles[0].clone();
    assert!(check(&model, &geometry).unwrap_err().contains("twice"));
}

#[test]
fn a_grid_larger_than_the_map_is_refused() {
    let axis = Axis { len: 2, kernel: 1, stride: 1, pad: 0, parts: 3 };
    let model = chain(axis, axis, 1).unwrap();
    let error =
        StageGeometry::new(&model, Numerics::Exact, 0, &stage(&model, axis, axis)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a grid of 3 x 3 does not fit map `m1` of 2 rows x 2 cols (stage 0)"
    );
}
