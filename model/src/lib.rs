//! The CNN as data: a graph of layers over feature maps, with weights named by content hash.
//!
//! Nothing in this crate knows devices, tiles or wires.
//!
//! A model comes from an ONNX file ([`onnx`]), from the built-in architectures ([`zoo`]) or from
//! code ([`builder`]); [`open`] takes either of the first two by name. Whatever its origin it has
//! been folded and fused, and [`Model::validate`] holds. [`export`] writes it as ONNX.

pub mod builder;
pub mod error;
pub mod export;
pub mod graph;
pub mod infer;
pub mod limits;
pub mod onnx;
pub mod op;
mod passes;
pub mod quant;
mod summary;
mod validate;
pub mod weights;
mod window;
pub mod zoo;

pub use error::ModelError;
pub use export::write_onnx;
pub use graph::{FeatureMap, Layer, LayerId, Layout, LoadedModel, MapId, Model, Shape};
pub use infer::{infer, infer_element};
pub use onnx::{InputSpec, LoadOptions, load};
pub use op::{
    Activation, CombineKind, DepthOrder, Op, PoolKind, QProduct, ReduceKind, ResizeCoordinates,
    ResizeMode,
};
pub use quant::{Element, Quant};
pub use weights::{WeightHash, WeightId, WeightInfo, WeightStore};
pub use window::{Axes, Pads, Window};
pub use zoo::{input_spec, metadata, open};
