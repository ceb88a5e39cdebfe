//! Bands of maps that nobody can hold.

use model::builder::Builder;
use model::limits::ELEMENTS_MAX;
use model::{Activation, Model, Op, Shape, Window};
use tiling::{Grid, Numerics, Plan, PlanError, Slot, Split, Stage, StageGeometry};

/// Two 3x3 convolutions, the first to 256 channels: 2^34 values at 8192 x 8192.
fn large(side: usize) -> Model {
    let mut builder = Builder::new("large", "large");
    let shape = Shape::Spatial { channels: 1, rows: side, cols: side };
    let mut map = builder.input("in", shape).unwrap();
    for (name, channels_in, channels_out) in [("wide", 1, 256), ("narrow", 256, 1)] {
        let elements = channels_in * channels_out * 9;
        let weights = builder.weight(vec![0.0; elements], &[channels_out, channels_in, 3, 3]);
        let window = Window::square(3, 1, 1);
        let (weights, activation) = (weights.unwrap(), Activation::Relu);
        let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
        map = builder.layer(name, op, &[map]).unwrap();
    }
    builder.output(map);
    (*builder.finish().unwrap().graph).clone()
}

fn stage(model: &Model, split: Split) -> Stage {
    let placement = match &split {
        Split::Whole => vec![Slot(0)],
        Split::Spatial(grid) => vec![Slot(0); grid.tiles()],
        Split::Band { grid, .. } => vec![Slot(0); grid.col_shares.len()],
    };
    Stage::of(0..model.layers.len(), split, placement)
}

#[test]
fn a_map_may_be_larger_than_what_is_held_of_it() {
    let model = large(8192);
    assert!(model.shape(model.layers[0].output).elements() > ELEMENTS_MAX);
    let whole = stage(&model, Split::Whole);
    let refused = StageGeometry::new(&model, Numerics::Exact, 0, &whole).unwrap_err();
    assert!(matches!(&refused, PlanError::TooLarge { map, .. } if map == "wide"), "{refused}");
    let grid = Grid::even(128, 16);
    let band = stage(&model, Split::Band { grid, row: 1 });
    let geometry = StageGeometry::new(&model, Numerics::Exact, 0, &band).unwrap();
    assert_eq!(geometry.tiles.len(), 16);
    // 64 rows of the answer, two more on either side of the input.
    let (_, region) = geometry.tiles[3].inputs[0];
    assert_eq!((region.rows.start, region.rows.end), (62, 130));
    // What a whole model would take can still be asked.
    assert!(StageGeometry::whole(&model, Numerics::Exact).tile_multiply_adds(&model, 0) > 0);
}

#[test]
fn all_bands_together_make_the_map_once() {
    let model = large(37);
    let grid = Grid { row_shares: vec![3, 1, 2], col_shares: vec![1, 1] };
    let mut made = vec![0; 37 * 37];
    for row in 0..3 {
        let stage = stage(&model, Split::Band { grid: grid.clone(), row });
        let plan = Plan::new("t", Numerics::Exact, vec![stage]);
        plan.check(&model).unwrap();
        let geometry = StageGeometry::new(&model, Numerics::Exact, 0, &plan.stages[0]).unwrap();
        for (_, region) in geometry.tiles.iter().flat_map(|t| &t.outputs) {
            for r in region.rows.indices() {
                region.cols.indices().for_each(|c| made[r * 37 + c] += 1);
            }
        }
    }
    assert!(made.iter().all(|count| *count == 1));
}

#[test]
fn a_band_is_a_plan_of_its_own() {
    let model = large(37);
    let plan = |stages| Plan::new("t", Numerics::Exact, stages);
    let band = |row| stage(&model, Split::Band { grid: Grid::even(4, 2), row });
    assert!(plan(vec![band(3)]).check(&model).is_ok());
    let refused = plan(vec![band(4)]).check(&model).unwrap_err();
    assert!(matches!(refused, PlanError::Band { row: 4, rows: 4, .. }), "{refused}");
    let first = Stage { end_layer: 1, ..band(0) };
    let second = Stage { first_layer: 1, ..stage(&model, Split::Whole) };
    assert!(plan(vec![first, second]).check(&model).is_err());
}
