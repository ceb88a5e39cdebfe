//! A plan: the ordered stages that compute a model, as plain serialisable data.

use crate::algorithm::Numerics;
use crate::wire::Wire;
use model::{MapId, Model, Shape};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Which device of the plan; the coordinator binds slots to workers when a frame starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl Slot {
    /// Whoever can be done with it first, found out when the frame starts.
    pub const ANY: Slot = Slot(u32::MAX);
}

/// A rows x cols partition of a stage's output maps, by shares.
///
/// With row shares `[2, 1]` the first row of tiles gets two thirds of the rows of every output
/// map. Cuts are `len * prefix / total`, rounded down, so they are the same on every device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// One positive share for each row of tiles.
    pub row_shares: Vec<u32>,
    /// One positive share for each column of tiles.
    pub col_shares: Vec<u32>,
}

impl Grid {
    /// A grid of equal tiles.
    pub fn even(rows: usize, cols: usize) -> Self {
        Self { row_shares: vec![1; rows], col_shares: vec![1; cols] }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.row_shares.len() * self.col_shares.len()
    }
}

/// How a stage is cut into tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Split {
    /// The group on one device.
    Whole,
    /// Each tile computes its region of the output maps, halo recomputed.
    Spatial(Grid),
    /// One row of tiles of a grid: the stage makes only those rows of its output maps. So a map
    /// that nobody can hold is made band by band, each by a plan of its own.
    Band {
        /// The grid over the whole maps.
        grid: Grid,
        /// Which row of its tiles.
        row: u32,
    },
}

/// What happens to a stage's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handover {
    /// The coordinator collects and stitches, then scatters to the next stage.
    Gather,
    /// The output stays on the workers that made it, and the tiles of later stages take what they
    /// need from them, peer to peer. Outputs of the model go to the coordinator all the same.
    Exchange,
}

/// A fused group of consecutive layers, its split and its placement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stage {
    /// First layer of the group, in the model's topological order.
    pub first_layer: u32,
    /// First layer after the group.
    pub end_layer: u32,
    /// How the group is cut.
    pub split: Split,
    /// The device of each tile, in row-major order of the grid.
    pub placement: Vec<Slot>,
    /// What happens to the output.
    pub handover: Handover,
}

impl Stage {
    /// A group of layers on one device; its output is gathered.
    pub fn whole(layers: Range<usize>, slot: Slot) -> Self {
        Self::of(layers, Split::Whole, vec![slot])
    }

    /// A group of layers cut by a grid, with the device of each tile; its output is gathered.
    pub fn cut(layers: Range<usize>, grid: Grid, placement: Vec<Slot>) -> Self {
        Self::of(layers, Split::Spatial(grid), placement)
    }

    /// A group of layers, split in some way; its output is gathered.
    pub fn of(layers: Range<usize>, split: Split, placement: Vec<Slot>) -> Self {
        let (first_layer, end_layer) = (layers.start as u32, layers.end as u32);
        Self { first_layer, end_layer, split, placement, handover: Handover::Gather }
    }

    /// The same with an output that stays on the workers.
    pub fn exchanging(self) -> Self {
        Self { handover: Handover::Exchange, ..self }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        match &self.split {
            Split::Whole => 1,
            Split::Spatial(grid) => grid.tiles(),
            Split::Band { grid, .. } => grid.col_shares.len(),
        }
    }
}

/// How to compute a model: stages in order, together covering every layer once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// The strategy that made it, for people.
    pub strategy: String,
    /// Which answers it may give.
    pub numerics: Numerics,
    /// What may become of values between devices.
    pub wire: Wire,
    /// The stages.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// A plan that changes no value on its way.
    pub fn new(strategy: impl Into<String>, numerics: Numerics, stages: Vec<Stage>) -> Self {
        Self { strategy: strategy.into(), numerics, wire: Wire::Auto, stages }
    }
}

/// Why a plan does not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Stages leave a gap, overlap or run past the model.
    #[error(
        "stage {stage} covers layers {first}..{end}, expected it to start at {expected} and stay within {layers} layers"
    )]
    Layers {
        /// Which stage.
        stage: usize,
        /// Its first layer.
        first: u32,
        /// Its end.
        end: u32,
        /// Where it should start.
        expected: u32,
        /// Layers in the model.
        layers: usize,
    },
    /// A layer that needs its whole input stands in a stage that is cut.
    #[error("layer `{layer}` needs its whole input and cannot be cut into tiles (stage {stage})")]
    NotLocal {
        /// Which stage.
        stage: usize,
        /// Name of the layer.
        layer: String,
    },
    /// More tiles along an axis than the map has rows or columns, or a zero share.
    #[error(
        "a grid of {grid_rows} x {grid_cols} does not fit map `{map}` of {rows} rows x {cols} cols (stage {stage})"
    )]
    Grid {
        /// Which stage.
        stage: usize,
        /// Rows of tiles.
        grid_rows: usize,
        /// Columns of tiles.
        grid_cols: usize,
        /// Name of the map.
        map: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// A band that its grid does not have, or beside other stages, which would miss the rows that
    /// it does not make.
    #[error(
        "band {row} of {rows} cannot be stage {stage} of {stages}: a band is a plan of its own"
    )]
    Band {
        /// Which stage.
        stage: usize,
        /// Stages of the plan.
        stages: usize,
        /// The band.
        row: u32,
        /// Rows of tiles.
        rows: usize,
    },
    /// A part of a map is larger than a device may be asked to hold.
    #[error(
        "stage {stage} holds {elements} values of map `{map}` at a time, at most {limit} are \
         possible: cut it into more tiles"
    )]
    TooLarge {
        /// Which stage.
        stage: usize,
        /// Name of the map.
        map: String,
        /// Values held.
        elements: usize,
        /// The most.
        limit: usize,
    },
    /// The placement does not name one device for each tile.
    #[error("stage {stage} has {tiles} tiles and {placed} placements")]
    Placement {
        /// Which stage.
        stage: usize,
        /// Tiles of its grid.
        tiles: usize,
        /// Entries of its placement.
        placed: usize,
    },
}

/// More tiles than any map could use; a bound on what a plan from the wire may ask for.
pub(crate) const TILES_MAX: usize = 1 << 16;

impl Plan {
    /// Number of devices the plan speaks of.
    pub fn slots(&self) -> usize {
        let slots = self.stages.iter().flat_map(|s| s.placement.iter());
        let slots = slots.filter(|&&slot| slot != Slot::ANY);
        slots.map(|s| s.0 as usize + 1).max().unwrap_or(0)
    }

    /// Checks that the stages cover the layers of a model in order, with sound placements.
    ///
    /// *Errors*: the first [`PlanError`] found. Grids are checked by
    /// [`crate::StageGeometry::new`].
    pub fn check(&self, model: &Model) -> Result<(), PlanError> {
        let layers = model.layers.len();
        let mut expected = 0;
        for (stage, s) in self.stages.iter().enumerate() {
            let (first, end) = (s.first_layer, s.end_layer);
            if first != expected || end <= first || end as usize > layers {
                return Err(PlanError::Layers { stage, first, end, expected, layers });
            }
            if s.tiles() != s.placement.len() || s.tiles() > TILES_MAX {
                let (tiles, placed) = (s.tiles(), s.placement.len());
                return Err(PlanError::Placement { stage, tiles, placed });
            }
            if let Split::Band { grid, row } = &s.split {
                let (rows, stages, row) = (grid.row_shares.len(), self.stages.len(), *row);
                if row as usize >= rows || stages > 1 || rows > TILES_MAX {
                    return Err(PlanError::Band { stage, stages, row, rows });
                }
            }
            expected = end;
        }
        if expected as usize != layers {
            let (stage, first, end) = (self.stages.len(), expected, layers as u32);
            return Err(PlanError::Layers { stage, first, end, expected, layers });
        }
        Ok(())
    }
}

/// Name and shape of a map, for messages.
pub(crate) fn describe(model: &Model, map: MapId) -> (String, &Shape) {
    (model.map(map).name.clone(), model.shape(map))
}
