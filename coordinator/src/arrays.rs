//! Arrays in and out of `.npy` and `.npz` files: the numbers as a model takes and gives them.
//!
//! An array file holds the ONNX dims; a piece in memory has the order rows, cols, channels.

use anyhow::{Context, Result, anyhow, bail};
use kernels::{Piece, Pieces};
use model::{Axes, Element, FeatureMap, Layout, MapId, Model, Shape};
use ndarray::{ArrayD, ArrayView3, ArrayViewD, IxDyn};
use ndarray_npy::{NpzWriter, ViewNpyExt, WriteNpyExt};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek};
use std::path::Path;
use tiling::Region;

/// An array read from a file.
pub(crate) struct Array {
    pub dims: Vec<usize>,
    values: Vec<f32>,
}

/// Reads a `.npy` file.
///
/// *Errors*: a file that is missing, larger than a map may be, or no array of numbers.
pub(crate) fn read_npy(path: &Path) -> Result<Array> {
    let limit = (::model::limits::ELEMENTS_MAX * size_of::<f64>()) as u64;
    let length = std::fs::metadata(path)?.len();
    if length > limit {
        bail!("an array of {length} bytes: at most {limit} can be read");
    }
    parse_npy(&std::fs::read(path)?)
}

/// Views the file in place: nothing is allocated by what its header claims.
pub(crate) fn parse_npy(bytes: &[u8]) -> Result<Array> {
    fn array<T: Copy>(view: ArrayViewD<'_, T>, value: impl Fn(T) -> f32) -> Array {
        Array { dims: view.shape().to_vec(), values: view.iter().map(|&v| value(v)).collect() }
    }
    if let Ok(view) = ArrayViewD::<f32>::view_npy(bytes) {
        return Ok(array(view, |v| v));
    }
    if let Ok(view) = ArrayViewD::<f64>::view_npy(bytes) {
        return Ok(array(view, |v| v as f32));
    }
    if let Ok(view) = ArrayViewD::<i8>::view_npy(bytes) {
        return Ok(array(view, f32::from));
    }
    match ArrayViewD::<u8>::view_npy(bytes) {
        Ok(view) => Ok(array(view, f32::from)),
        Err(error) => bail!("expected a float32, float64, uint8 or int8 .npy file: {error}"),
    }
}

/// Reads the members of an archive, each no larger than a map may be.
pub(crate) fn read_npz(path: &Path) -> Result<BTreeMap<String, Array>> {
    let limit = (::model::limits::ELEMENTS_MAX * size_of::<f64>()) as u64;
    parse_npz(BufReader::new(File::open(path)?), limit)
}

/// Reads an archive whose members have at most so many bytes each.
pub(crate) fn parse_npz(file: impl Read + Seek, limit: u64) -> Result<BTreeMap<String, Array>> {
    let mut archive = zip::ZipArchive::new(file)?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name().trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        member.take(limit).read_to_end(&mut bytes)?;
        arrays.insert(name.clone(), parse_npy(&bytes).with_context(|| name)?);
    }
    Ok(arrays)
}

impl Array {
    /// Rows and columns, for models that take any.
    pub(crate) fn size(&self) -> Option<Axes<usize>> {
        match self.dims.as_slice() {
            [.., _, rows, cols] => Some(Axes::new(*rows, *cols)),
            _ => None,
        }
    }

    /// The array as a whole map; a missing batch of 1 is forgiven.
    pub(crate) fn piece(&self, graph: &Model, map: MapId) -> Result<Piece> {
        let dims = graph.map(map).dims();
        let batched: Vec<usize> = std::iter::once(1).chain(self.dims.iter().copied()).collect();
        if self.dims != dims && batched != dims {
            return Err(wrong_shape(graph, map, format!("an array of {:?}", self.dims)));
        }
        let piece = piece_of(graph.map(map), &self.values)?;
        let element = graph.element(map);
        if element == Element::F32 {
            return Ok(piece);
        }
        let cast = piece.cast(element);
        if cast.cast(Element::F32).values() != piece.values() {
            bail!("input `{}` takes {element}, got other numbers", graph.map(map).name);
        }
        Ok(cast)
    }
}

/// What a model takes, and what it got instead.
pub(crate) fn wrong_shape(graph: &Model, map: MapId, got: String) -> anyhow::Error {
    let name = &graph.map(map).name;
    anyhow!("input `{name}` takes {:?}, got {got}", graph.map(map).dims())
}

/// A whole map from values in the order of its file's dims.
pub(crate) fn piece_of(map: &FeatureMap, values: &[f32]) -> Result<Piece> {
    match (&map.shape, map.layout) {
        (Shape::Spatial { channels, rows, cols }, Layout::ChannelsSecond) => {
            Ok(Piece::from_chw(ArrayView3::from_shape((*channels, *rows, *cols), values)?))
        }
        // That is the order in memory.
        (shape, _) => {
            Ok(Piece::from_values(Region::whole(shape), shape.channels(), values.to_vec())?)
        }
    }
}

/// A whole map as an array with the dims that the model's file gives it.
pub(crate) fn file_array_of(map: &FeatureMap, piece: &Piece) -> Result<ArrayD<f32>> {
    match (&map.shape, map.layout) {
        (Shape::Spatial { .. }, Layout::ChannelsLast) => {
            let values = piece.cast(Element::F32).values().to_vec();
            Ok(ArrayD::from_shape_vec(IxDyn(&map.dims()), values)?)
        }
        (shape, _) => array_of(shape, piece),
    }
}

/// A whole map as an array with its ONNX dims, channels second.
pub(crate) fn array_of(shape: &Shape, piece: &Piece) -> Result<ArrayD<f32>> {
    let piece = &piece.cast(Element::F32);
    let values = match shape {
        Shape::Spatial { .. } => piece.to_chw().into_iter().collect(),
        Shape::General(_) => piece.values().to_vec(),
    };
    Ok(ArrayD::from_shape_vec(IxDyn(&shape.dims()), values)?)
}

/// Writes the only output of a model.
///
/// *Errors*: several outputs, a disk that cannot be written.
pub(crate) fn write_npy(path: &Path, graph: &Model, outputs: &Pieces) -> Result<()> {
    let [(map, piece)] = outputs.as_slice() else {
        bail!("the model has {} outputs: write them as .npz or .json", outputs.len());
    };
    let file = BufWriter::new(File::create(path)?);
    let array = file_array_of(graph.map(*map), piece)?;
    Ok(match piece.element() {
        Element::U8 => array.mapv(|v| v as u8).write_npy(file),
        Element::I8 => array.mapv(|v| v as i8).write_npy(file),
        _ => array.write_npy(file),
    }?)
}

/// Writes all outputs of a model by name.
///
/// *Errors*: a disk that cannot be written.
pub(crate) fn write_npz(path: &Path, graph: &Model, outputs: &Pieces) -> Result<()> {
    let mut writer = NpzWriter::new(File::create(path)?);
    for (map, piece) in outputs {
        let array = file_array_of(graph.map(*map), piece)?;
        let name = &graph.map(*map).name;
        match piece.element() {
            Element::U8 => writer.add_array(name, &array.mapv(|v| v as u8)),
            Element::I8 => writer.add_array(name, &array.mapv(|v| v as i8)),
            _ => writer.add_array(name, &array),
        }?;
    }
    Ok(writer.finish().map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lying_array_header_is_an_error() {
        let mut bytes = Vec::new();
        ArrayD::<f32>::zeros(IxDyn(&[1, 2, 3])).write_npy(&mut bytes).unwrap();
        assert_eq!(parse_npy(&bytes).unwrap().dims, [1, 2, 3]);
        let text = String::from_utf8_lossy(&bytes).replace("(1, 2, 3)", "(1, 2, 99999999999)");
        assert!(parse_npy(text.as_bytes()).is_err());
        assert!(parse_npy(&bytes[..bytes.len() - 1]).is_err());
        assert!(parse_npy(b"").is_err());
    }
}
