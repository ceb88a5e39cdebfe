//! Runs a fused group on one tile.
//!
//! An output element never depends on who computed it or with how many threads; tiled equals
//! whole, bit for bit. Outside the map is padding at every layer of the group, not only at its
//! input.
//!
//! ```text
//!  inputs: pieces ──gather──▶ layer ──▶ layer ──▶ ... ──crop──▶ outputs: pieces
//!                               │ each over the tile's own region of its map
//!                             arena: memory of freed pieces, last freed first
//! ```
//!
//! Why it holds: each element has one order of accumulation (said where its kernel is), every
//! vector operation is one correctly rounded IEEE operation per lane, and multiply-adds are fused
//! on every instruction set. The naive reference ([`mod@reference`]) computes in the same order, so the
//! suites can ask for equal bits. Infinite or NaN inputs are computed too, but the bits of a NaN
//! are not promised.

mod arena;
mod cache;
mod check;
mod conv;
mod engine;
mod error;
mod gather;
mod general;
mod heap;
mod layer;
mod linear;
mod math;
mod pack;
mod piece;
mod pointwise;
mod pool;
mod quant;
mod reduce;
pub mod reference;
mod run;
mod simd;
mod spatial;
mod team;
mod threads;
mod view;
pub mod wire;

use model::MapId;
use std::sync::Arc;

/// Pieces of feature maps, shared: what a task reads, and what a frame is made of.
pub type Pieces = Vec<(MapId, Arc<Piece>)>;

pub use engine::{Engine, Given, Made};
pub use error::KernelError;
pub use pack::PackedModel;
pub use piece::Piece;
pub use simd::Isa;
