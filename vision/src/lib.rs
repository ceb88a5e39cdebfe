//! Pictures to tensors by the convention of a model, and its answers as people read them.
//!
//! Nothing in this crate reads a file, and nothing knows devices, tiles or wires: a picture and an
//! array come in, a picture, an array or a list goes out. Sizes are those that the caller has
//! checked before it made the picture or the array.
//!
//! | file | idea |
//! |---|---|
//! | `convention.rs` | what a model wants of a picture: values, channel order, fit |
//! | `fit.rs` | where a picture lies in the model's input, and the way back |
//! | `prepare.rs` | a picture as the values of an input |
//! | `hints.rs`, `literal.rs` | what the metadata of a file says about all this |
//! | `task.rs` | what a model is for, by its metadata or the shapes of its outputs |
//! | `labels.rs`, `classify.rs` | names of classes, the most likely ones |
//! | `detection.rs`, `detect/` | boxes out of the heads of detectors, and suppression |
//! | `segment.rs` | the class of each pixel, the mask of each box |
//! | `picture.rs` | an output map that is a picture |
//! | `draw.rs`, `colours.rs` | results drawn on a picture |

pub mod classify;
pub mod colours;
pub mod convention;
pub mod detect;
pub mod detection;
pub mod draw;
mod error;
pub mod fit;
pub mod hints;
pub mod labels;
mod literal;
pub mod picture;
pub mod prepare;
pub mod segment;
pub mod task;

pub use convention::{ChannelOrder, Convention, FitMode, Layout, Normalize};
pub use detect::Head;
pub use detection::{Bounds, Detection};
pub use error::VisionError;
pub use fit::{Fit, Size};
pub use hints::Hints;
pub use labels::Labels;
pub use task::Task;

use ndarray::ArrayViewD;

/// One output of a model: its name, and its values with their ONNX dims.
#[derive(Clone, Debug)]
pub struct Output<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The values, batch first.
    pub values: ArrayViewD<'a, f32>,
}

impl Output<'_> {
    /// The dims without a batch of 1.
    pub fn dims(&self) -> &[usize] {
        unbatched(self.values.shape())
    }
}

/// Dims without a batch of 1.
pub(crate) fn unbatched(dims: &[usize]) -> &[usize] {
    match dims {
        [1, rest @ ..] if !rest.is_empty() => rest,
        dims => dims,
    }
}
