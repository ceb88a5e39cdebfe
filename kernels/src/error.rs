//! What can go wrong when a group runs on a tile.

use crate::simd::Isa;
use model::{Element, WeightHash};
use tiling::{Encoding, Region};

/// Why a kernel refused; the fault is in what it was given, not in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The thread pool could not start.
    #[error("cannot start {threads} compute threads: {cause}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        cause: String,
    },
    /// The processor lacks an instruction set.
    #[error("this processor has no {isa}")]
    IsaUnavailable {
        /// Which one.
        isa: Isa,
    },
    /// A weight tensor is not in the store.
    #[error("layer `{layer}` needs weights {hash}, which are not here")]
    MissingWeights {
        /// Name of the layer.
        layer: String,
        /// Content hash of the tensor.
        hash: WeightHash,
    },
    /// A layer's attributes, weights and maps contradict each other.
    #[error("layer `{layer}`: {what}: expected {expected}, got {got}")]
    LayerShape {
        /// Name of the layer.
        layer: String,
        /// Which quantity.
        what: &'static str,
        /// What the graph implies.
        expected: usize,
        /// What it says.
        got: usize,
    },
    /// A layer was asked to run before its weights were packed.
    #[error("layer `{layer}` is not packed")]
    NotPacked {
        /// Name of the layer.
        layer: String,
    },
    /// Values do not fill their region.
    #[error("a piece of {region} with {channels} channels has {expected} values, got {got}")]
    PieceLength {
        /// The region.
        region: Region,
        /// Its channels.
        channels: usize,
        /// Positions times channels.
        expected: usize,
        /// Number of values.
        got: usize,
    },
    /// An encoded piece contradicts itself or its header.
    #[error("a piece of {region} with {channels} channels, encoded as {encoding:?}: {what}")]
    Encoded {
        /// The region.
        region: Region,
        /// Its channels.
        channels: usize,
        /// How it came.
        encoding: Encoding,
        /// What is wrong.
        what: &'static str,
    },
    /// A piece of another map, by its channels.
    #[error("map `{map}` has {expected} channels, got a piece with {got}")]
    PieceChannels {
        /// Name of the map.
        map: String,
        /// Channels of the map.
        expected: usize,
        /// Channels of the piece.
        got: usize,
    },
    /// A piece with values of another type than its map's.
    #[error("map `{map}` has values of {expected}, got a piece of {got}")]
    PieceElement {
        /// Name of the map.
        map: String,
        /// Elements of the map.
        expected: Element,
        /// Elements of the piece.
        got: Element,
    },
    /// A piece reaches outside its map.
    #[error("map `{map}` is {expected}, got a piece of {got}")]
    PieceOutside {
        /// Name of the map.
        map: String,
        /// The whole map.
        expected: Region,
        /// The region of the piece.
        got: Region,
    },
    /// The given pieces leave a part of a needed region uncovered.
    #[error("map `{map}`: {expected} is needed, {uncovered} was not given")]
    MissingInput {
        /// Name of the map.
        map: String,
        /// The needed region.
        expected: Region,
        /// A part of it that no piece covers.
        uncovered: Region,
    },
    /// A layer's region needs more of a map than the tile has of it.
    #[error("layer `{layer}` needs {expected} of map `{map}`, the tile has {got}")]
    TileRegion {
        /// Name of the layer.
        layer: String,
        /// Name of the map.
        map: String,
        /// What the layer's region needs.
        expected: Region,
        /// What the tile has.
        got: Region,
    },
    /// The tile's layers are not layers of the model.
    #[error("the tile has layers {first}..{end}, the model has {layers}")]
    LayerRange {
        /// First layer of the group.
        first: usize,
        /// First layer after it.
        end: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// An output region is not made by the tile's layers.
    #[error("the tile should give {expected} of map `{map}`, it made {got}")]
    MissingOutput {
        /// Name of the map.
        map: String,
        /// The tile's output region.
        expected: Region,
        /// What its layers made.
        got: Region,
    },
}
