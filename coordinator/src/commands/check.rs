//! Whether an answer is that of one device.

use crate::cluster::HostedModel;
use kernels::{Engine, PackedModel, Piece};
use model::{Element, MapId};
use planner::{PlanOptions, Strategy};
use serde::Serialize;
use std::sync::Arc;
use tiling::{Numerics, Rates, Wire};

/// The largest relative difference that Winograd transforms may make.
const DIFFERENCE_MAX: f32 = 1e-4;

/// The largest that half floats on the wire may make. They have 11 bits, and a rounded map may be one of
/// many in a row.
const HALVES_DIFFERENCE_MAX: f32 = 3e-2;

/// Whether the answer is that of one device, computed exactly.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Check {
    pub identical: bool,
    /// Largest difference / largest value, over all maps.
    pub relative: f32,
    pub max_difference: f32,
}

impl Check {
    /// Compares whole maps bit by bit.
    pub(crate) fn compare(a: &[(MapId, Arc<Piece>)], b: &[(MapId, Piece)]) -> Self {
        let mut check = Self { identical: a.len() == b.len(), relative: 0.0, max_difference: 0.0 };
        let mut largest = f32::MIN_POSITIVE;
        for ((map, ours), (other, theirs)) in a.iter().zip(b) {
            check.identical &= map == other && ours.as_bytes() == theirs.as_bytes();
            let (ours, theirs) = (ours.cast(Element::F32), theirs.cast(Element::F32));
            for (x, y) in ours.values().iter().zip(theirs.values()) {
                check.max_difference = check.max_difference.max((x - y).abs());
                largest = largest.max(y.abs());
            }
        }
        check.relative = check.max_difference / largest;
        check
    }

    /// Whether the answer may differ so much.
    pub(crate) fn passes(&self, numerics: Numerics, wire: Wire) -> bool {
        match (wire, numerics) {
            (Wire::F16, _) => self.relative <= HALVES_DIFFERENCE_MAX,
            (_, Numerics::Exact) => self.identical,
            (_, Numerics::Fast01 | Numerics::Fast) => self.relative <= DIFFERENCE_MAX,
        }
    }
}

/// The answer of this device alone, without any cluster.
pub(crate) fn alone(
    model: &HostedModel,
    numerics: Numerics,
    inputs: &[(MapId, Arc<Piece>)],
) -> anyhow::Result<Vec<(MapId, Piece)>> {
    // What is too large to hold is refused here, where the engine would ask for the memory.
    let graph = &model.loaded.graph;
    planner::plan(
        graph,
        &[planner::DeviceProfile::wired("this device", Rates::default())],
        Strategy::Local,
        PlanOptions { numerics, ..PlanOptions::EXACT },
    )?;
    let packed = PackedModel::new(model.loaded.graph.clone());
    packed.pack_all(&model.loaded, numerics)?;
    Ok(Engine::new(super::cores())?.run_whole(&packed, numerics, inputs)?)
}
