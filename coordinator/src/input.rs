//! What a person gives a model: a picture, an array, or an array for each input.

use crate::arrays::{self, Array, wrong_shape};
use crate::failure::Failure;
use crate::pictures;
use anyhow::{Context, Result, anyhow, bail};
use image::DynamicImage;
use kernels::{Piece, Pieces};
use model::limits::ELEMENTS_MAX;
use model::{Axes, MapId, Model, Shape};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tiling::Region;
use vision::prepare::prepare;
use vision::{Convention, Fit, Layout, Size};

/// A file read into memory, before the model that it is for is known.
pub(crate) enum Input {
    /// A picture, upright.
    Picture(Arc<DynamicImage>),
    /// The only input of a model.
    Array(Array),
    /// The inputs of a model by name.
    Arrays(BTreeMap<String, Array>),
}

/// Inputs of a model, and where the picture lies in them, if there is one.
pub(crate) struct Prepared {
    pub pieces: Pieces,
    pub fit: Option<Fit>,
}

impl Input {
    /// Reads a picture, a `.npy` array, or a `.npz` file with an array for each input of the model.
    ///
    /// *Errors*: a file that is missing or cannot be understood.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let read = match ending(path).as_str() {
            "npy" => arrays::read_npy(path).map(Self::Array),
            "npz" => arrays::read_npz(path).map(Self::Arrays),
            _ => pictures::read(path).map(|picture| Self::Picture(Arc::new(picture))),
        };
        let hint = "inputs are pictures (PNG, JPEG, WebP, PPM, BMP, TIFF, GIF), or float32 .npy or \
                    .npz arrays";
        read.with_context(|| format!("cannot read {}", path.display()))
            .map_err(|error| Failure::bad_input(error).hint(hint))
    }

    /// Rows and columns, for models that take any.
    pub(crate) fn size(&self) -> Option<Axes<usize>> {
        match self {
            Self::Picture(picture) => {
                Some(Axes::new(picture.height() as usize, picture.width() as usize))
            }
            Self::Array(array) => array.size(),
            Self::Arrays(arrays) => arrays.values().find_map(Array::size),
        }
    }

    /// The picture, where it is one.
    pub(crate) fn picture(&self) -> Option<&Arc<DynamicImage>> {
        match self {
            Self::Picture(picture) => Some(picture),
            _ => None,
        }
    }

    /// The input maps of a model.
    ///
    /// *Errors*: another number of inputs or other shapes than the model takes.
    pub(crate) fn for_model(&self, graph: &Model, convention: &Convention) -> Result<Prepared> {
        let array = |map: MapId, array: &Array| {
            Ok(Prepared { pieces: vec![(map, Arc::new(array.piece(graph, map)?))], fit: None })
        };
        match (self, graph.inputs.as_slice()) {
            (Self::Picture(picture), &[map]) => picture_piece(graph, map, picture, convention),
            (Self::Array(one), &[map]) => array(map, one),
            (Self::Arrays(arrays), maps) => {
                let piece = |&map: &MapId| {
                    let name = &graph.map(map).name;
                    let array = arrays.get(name).ok_or_else(|| {
                        let given: Vec<_> = arrays.keys().collect();
                        anyhow!("the model takes an input `{name}`, the file has {given:?}")
                    })?;
                    Ok((map, Arc::new(array.piece(graph, map)?)))
                };
                let pieces = maps.iter().map(piece).collect::<Result<_>>()?;
                Ok(Prepared { pieces, fit: None })
            }
            (_, maps) => bail!("the model takes {} inputs: give them in one .npz file", maps.len()),
        }
    }
}

/// Where a picture goes in an input: the size it takes, its channels, and where they are.
pub(crate) fn picture_input(graph: &Model, map: MapId) -> Option<(Size, usize, Layout)> {
    let dims: Vec<usize> = graph.map(map).dims();
    let open: Vec<Option<usize>> = dims.iter().copied().map(Some).collect();
    match (Layout::of(&open)?, dims.as_slice()) {
        (Layout::Nchw, &[1, channels, rows, cols]) => {
            Some((Size::new(rows, cols), channels, Layout::Nchw))
        }
        (Layout::Nhwc, &[1, rows, cols, channels]) => {
            Some((Size::new(rows, cols), channels, Layout::Nhwc))
        }
        _ => None,
    }
}

fn picture_piece(
    graph: &Model,
    map: MapId,
    picture: &DynamicImage,
    convention: &Convention,
) -> Result<Prepared> {
    let got = || format!("a picture of {} x {}", picture.height(), picture.width());
    let Some((size, channels, layout)) = picture_input(graph, map) else {
        return Err(wrong_shape(graph, map, got()));
    };
    if size.rows.saturating_mul(size.cols).saturating_mul(channels) > ELEMENTS_MAX {
        bail!("an input of {size} is too large to hold at once; give --max-memory to stream it");
    }
    let prepared = prepare(picture, convention, size, channels)
        .with_context(|| wrong_shape(graph, map, got()))?;
    let shape: &Shape = graph.shape(map);
    let piece = match layout {
        // A piece has the order of a picture.
        Layout::Nchw => Piece::from_values(Region::whole(shape), channels, prepared.values)?,
        Layout::Nhwc => arrays::piece_of(graph.map(map), &prepared.values)?,
    };
    let pieces = vec![(map, Arc::new(piece.cast(graph.element(map))))];
    Ok(Prepared { pieces, fit: Some(prepared.fit) })
}

/// A file's ending in small letters.
pub(crate) fn ending(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}
