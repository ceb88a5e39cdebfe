//! All integer geometry: regions, receptive fields, grids, tiles, stages and plans.
//!
//! Total functions of values: no float tensor, no clock, no thread, no randomness. Ranges are
//! half-open and axes are always named.

pub mod algorithm;
pub mod plan;
pub mod receptive;
pub mod region;
pub mod schedule;
pub mod stage;
pub mod wire;
pub mod work;
mod zeros;

pub use algorithm::{Algorithm, Numerics};
pub use plan::{Grid, Handover, Plan, PlanError, Slot, Split, Stage};
pub use receptive::{Locality, locality, receptive_field};
pub use region::{Region, Span};
pub use schedule::{Order, Schedule};
pub use stage::{LayerWeights, StageGeometry, TileGeometry, packed_bytes, weights_of};
pub use wire::{Encoding, Shares, Wire};
pub use work::{OperatorClass, Pace, Rates, Work, layer_work};
