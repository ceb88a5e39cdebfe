use super::*;
use crate::algorithm::Numerics;
use crate::plan::{Grid, Slot, Stage};
use model::{LoadOptions, zoo};

const ORDERS: [Order; 3] =
    [Order::LayerByLayer, Order::RowByRow, Order::DepthFirst { threads: 2, cache_bytes: 16 << 10 }];

fn models() -> Vec<std::sync::Arc<Model>> {
    let open = |name: &str| zoo::open(name, &LoadOptions::default()).unwrap().graph;
    ["zoo:squeezenet@64x64", "zoo:unet@32x32", "zoo:mobilenetv2@64x64"].map(open).to_vec()
}

fn stages(model: &Model) -> Vec<StageGeometry> {
    let local =
        |i: usize| crate::locality(model, model::LayerId(i as u32)) == crate::Locality::Local;
    let prefix = (0..model.layers.len()).take_while(|&i| local(i)).count();
    let grid = Grid::even(2, 2);
    let placement = vec![Slot(0); grid.tiles()];
    let stage = Stage::cut(0..prefix, grid, placement);
    let whole = StageGeometry::whole(model, Numerics::Fast);
    StageGeometry::new(model, Numerics::Fast, 0, &stage).into_iter().chain([whole]).collect()
}

/// Calls `f` with every schedule of some known networks.
fn each(f: impl Fn(&Model, &StageGeometry, usize, &Schedule)) {
    for model in models() {
        for stage in stages(&model) {
            for tile in 0..stage.tiles.len() {
                for order in ORDERS {
                    f(&model, &stage, tile, &Schedule::new(&model, &stage, tile, order));
                }
            }
        }
    }
}

#[test]
fn each_row_is_done_once_and_after_what_it_reads() {
    each(|model, _, _, schedule| {
        let start = |unit: &Unit| unit.region.rows.start;
        let mut done: Vec<usize> = schedule.units.iter().map(start).collect();
        for step in &schedule.steps {
            let unit = &schedule.units[step.unit];
            assert_eq!(step.rows.start, done[step.unit]);
            let block = unit.algorithm.outputs();
            let rows = unit.region.rows;
            assert!(step.rows.end == rows.end || (step.rows.end - rows.start) % block == 0);
            for (input, map) in unit.inputs.iter().enumerate() {
                let Some(place) = schedule.places.get(map) else { continue };
                let field = unit.field(model, input, step.rows);
                assert!(field.is_empty() || field.rows.end <= done[place.unit]);
            }
            done[step.unit] = step.rows.end;
        }
        let ends: Vec<usize> = schedule.units.iter().map(|unit| unit.region.rows.end).collect();
        assert_eq!(done, ends);
    });
}

/// Plays the steps on numbered cells: what is read is what was written last for that row.
#[test]
fn nothing_is_overwritten_that_is_still_read() {
    each(|model, stage, tile, schedule| {
        // For each line of the arena, which buffer and row of its map it holds.
        let mut arena = vec![(usize::MAX, usize::MAX); schedule.arena_bytes / LINE_BYTES + 1];
        let mut first_row: Vec<usize> =
            schedule.buffers.iter().map(|b| b.region.rows.start).collect();
        let mut written = first_row.clone();
        let lines = |buffer: &Buffer, first_row: usize, row: usize| {
            let start = buffer.offset + (row - first_row) * buffer.row_bytes();
            start / LINE_BYTES..(start + buffer.row_bytes()).div_ceil(LINE_BYTES)
        };
        let mut done: Vec<usize> = schedule.units.iter().map(|u| u.region.rows.start).collect();
        for step in &schedule.steps {
            let unit = &schedule.units[step.unit];
            let place = schedule.places[&unit.output];
            let b = place.buffer;
            let buffer = &schedule.buffers[b];
            if step.rows.end - first_row[b] > buffer.rows {
                assert!(step.rows.end - step.kept_from <= buffer.rows);
                first_row[b] = step.kept_from;
                let kept = step.kept_from..written[b].max(step.kept_from);
                for row in kept.filter(|_| !buffer.given_away) {
                    lines(buffer, first_row[b], row).for_each(|line| arena[line] = (b, row));
                }
            }
            for (input, map) in unit.inputs.iter().enumerate() {
                let Some(from) = schedule.places.get(map) else { continue };
                let held = &schedule.buffers[from.buffer];
                let field = unit.field(model, input, step.rows);
                for row in field.rows.indices().filter(|_| !held.given_away) {
                    assert!(row >= first_row[from.buffer] && row < done[from.unit]);
                    // The first and the last line of a row may be shared with its neighbours.
                    let lines = lines(held, first_row[from.buffer], row);
                    let inner = (lines.start + 1)..lines.end.saturating_sub(1);
                    inner.for_each(|line| assert_eq!(arena[line], (from.buffer, row)));
                }
            }
            for row in step.rows.indices().filter(|_| !buffer.given_away) {
                lines(buffer, first_row[b], row).for_each(|line| arena[line] = (b, row));
            }
            written[b] = written[b].max(step.rows.end);
            done[step.unit] = step.rows.end;
        }
        for (map, _) in &stage.tiles[tile].outputs {
            if let Some(place) = schedule.places.get(map) {
                assert_eq!(
                    first_row[place.buffer],
                    schedule.buffers[place.buffer].region.rows.start
                );
            }
        }
    });
}

#[test]
fn depth_first_takes_less_memory() {
    let options = LoadOptions::default();
    for (name, at_least) in [("zoo:unet@1024x1024", 1.9), ("zoo:yolov2@1024x1024", 4.0)] {
        let Ok(model) = zoo::open(name, &options) else { panic!("{name}") };
        let stage = StageGeometry::whole(&model.graph, Numerics::Fast);
        let bytes = |order| Schedule::new(&model.graph, &stage, 0, order).arena_bytes;
        let [layers, rows, few] = [
            Order::LayerByLayer,
            Order::DepthFirst { threads: 1, cache_bytes: 256 << 10 },
            Order::RowByRow,
        ]
        .map(bytes);
        assert!(
            few <= rows && rows as f64 * at_least < layers as f64,
            "{name}: {layers} {rows} {few}"
        );
    }
}

/// What the default order takes of a network with skip connections: half as one tile, since a
/// skip's rows wait until the deepest layers have come back; under a quarter in 2x2 tiles.
#[test]
fn tiles_of_a_large_picture_take_a_quarter() {
    let model = zoo::open("zoo:unet@1024x1024", &LoadOptions::default()).unwrap().graph;
    let grid = Grid::even(2, 2);
    let placement = vec![Slot(0); grid.tiles()];
    let stage = Stage::cut(0..model.layers.len(), grid, placement);
    for numerics in [Numerics::Exact, Numerics::Fast] {
        let whole = StageGeometry::whole(&model, numerics);
        let cut = StageGeometry::new(&model, numerics, 0, &stage).unwrap();
        let bytes = |stage, tile, order| Schedule::new(&model, stage, tile, order).arena_bytes;
        let layers = bytes(&whole, 0, Order::LayerByLayer);
        assert!(bytes(&whole, 0, Order::depth_first(1)) * 2 < layers);
        assert!((0..4).all(|tile| bytes(&cut, tile, Order::depth_first(1)) * 4 < layers));
    }
}
