//! Pictures and arrays in and out of files.
//!
//! A picture is values from 0 to 1 in the order rows, cols, channels (RGB, or luminance where the
//! model takes one channel), which is the order of a piece in memory. An array file holds the
//! ONNX dims.

use crate::failure::Failure;
use anyhow::{Context, Result, anyhow, bail};
use image::imageops::FilterType;
use kernels::{Piece, Pieces};
use model::{Axes, Element, FeatureMap, InputSpec, Layout, MapId, Model, Shape};
use ndarray::{ArrayD, ArrayView3, ArrayViewD, IxDyn};
use ndarray_npy::{NpzWriter, ViewNpyExt, WriteNpyExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;
use std::sync::Arc;
use tiling::Region;

/// A file read into memory, before the model that it is for is known.
pub struct Input(Kind);

enum Kind {
    Picture(image::DynamicImage),
    Array(Array),
    Arrays(BTreeMap<String, Array>),
}

struct Array {
    dims: Vec<usize>,
    values: Vec<f32>,
}

/// Reads a picture, a `.npy` array, or a `.npz` file with an array for each input of the model.
///
/// *Errors*: a file that is missing or cannot be understood.
pub fn read_input(path: &Path) -> Result<Input, Failure> {
    let shown = path.display();
    if extension(path) == "npy" {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"));
        let bytes = bytes.map_err(Failure::bad_input)?;
        let array = parse_npy(&bytes).with_context(|| format!("cannot read {shown} as an array"));
        return Ok(Input(Kind::Array(array.map_err(Failure::bad_input)?)));
    }
    if extension(path) == "npz" {
        let arrays = read_npz(path).with_context(|| format!("cannot read {shown} as arrays"));
        return Ok(Input(Kind::Arrays(arrays.map_err(Failure::bad_input)?)));
    }
    let picture = image::ImageReader::open(path)
        .and_then(|reader| reader.with_guessed_format())
        .with_context(|| format!("cannot read {shown}"))
        .map_err(Failure::bad_input)?;
    let picture = picture.decode().with_context(|| format!("cannot read {shown} as a picture"));
    let hint = "inputs are PNG or JPEG pictures, or float32 .npy or .npz arrays";
    Ok(Input(Kind::Picture(picture.map_err(|e| Failure::bad_input(e).hint(hint))?)))
}

/// Views the file in place: nothing is allocated by what its header claims.
fn parse_npy(bytes: &[u8]) -> Result<Array> {
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
fn read_npz(path: &Path) -> Result<BTreeMap<String, Array>> {
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(path)?))?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name().trim_end_matches(".npy").to_owned();
        let limit = (::model::limits::ELEMENTS_MAX * size_of::<f64>()) as u64;
        let mut bytes = Vec::new();
        member.take(limit).read_to_end(&mut bytes)?;
        arrays.insert(name.clone(), parse_npy(&bytes).with_context(|| name)?);
    }
    Ok(arrays)
}

impl Input {
    /// Rows and columns, for models that take any.
    pub fn size(&self) -> Option<Axes<usize>> {
        match &self.0 {
            Kind::Picture(picture) => {
                Some(Axes::new(picture.height() as usize, picture.width() as usize))
            }
            Kind::Array(array) => array.size(),
            Kind::Arrays(arrays) => arrays.values().find_map(Array::size),
        }
    }

    /// Scales a picture to what a model asks for; an array is left as it is.
    pub fn resize(self, spec: &InputSpec) -> Self {
        match (self.0, spec.rows().zip(spec.cols())) {
            (Kind::Picture(picture), Some((rows, cols))) => {
                let (width, height) = (cols as u32, rows as u32);
                Input(Kind::Picture(picture.resize_exact(width, height, FilterType::Triangle)))
            }
            (kind, _) => Input(kind),
        }
    }

    /// The input maps of a model.
    ///
    /// *Errors*: another number of inputs or other shapes than the model takes.
    pub fn for_model(&self, graph: &Model) -> Result<Pieces> {
        let one = |map: MapId, piece: Piece| vec![(map, Arc::new(piece))];
        match (&self.0, graph.inputs.as_slice()) {
            (Kind::Picture(picture), &[map]) => Ok(one(map, picture_piece(graph, map, picture)?)),
            (Kind::Array(array), &[map]) => Ok(one(map, array.piece(graph, map)?)),
            (Kind::Arrays(arrays), maps) => {
                let piece = |&map: &MapId| {
                    let name = &graph.map(map).name;
                    let array = arrays.get(name).ok_or_else(|| {
                        let given: Vec<_> = arrays.keys().collect();
                        anyhow!("the model takes an input `{name}`, the file has {given:?}")
                    })?;
                    Ok((map, Arc::new(array.piece(graph, map)?)))
                };
                maps.iter().map(piece).collect()
            }
            (_, maps) => bail!("the model takes {} inputs: give them in one .npz file", maps.len()),
        }
    }
}

/// What a model takes, and what it got instead.
fn wrong_shape(graph: &Model, map: MapId, got: String) -> anyhow::Error {
    let name = &graph.map(map).name;
    anyhow!("input `{name}` takes {:?}, got {got}", graph.map(map).dims())
}

fn picture_piece(graph: &Model, map: MapId, picture: &image::DynamicImage) -> Result<Piece> {
    let shape = graph.shape(map);
    let (rows, cols) = (picture.height() as usize, picture.width() as usize);
    let wrong = || wrong_shape(graph, map, format!("a picture of {rows} x {cols}"));
    let values = match shape.channels() {
        3 => picture.to_rgb8().into_raw(),
        1 => picture.to_luma8().into_raw(),
        _ => return Err(wrong()),
    };
    if !shape.is_spatial() || (rows, cols) != (shape.rows(), shape.cols()) {
        return Err(wrong());
    }
    let region = Region::whole(shape);
    if graph.element(map) == Element::U8 {
        return Ok(Piece::from_bytes(region, shape.channels(), Element::U8, &values)?);
    }
    let values = values.into_iter().map(|v| f32::from(v) / 255.0).collect();
    Ok(Piece::from_values(region, shape.channels(), values)?.cast(graph.element(map)))
}

impl Array {
    fn size(&self) -> Option<Axes<usize>> {
        match self.dims.as_slice() {
            [.., _, rows, cols] => Some(Axes::new(*rows, *cols)),
            _ => None,
        }
    }

    /// The array as a whole map; a missing batch of 1 is forgiven.
    fn piece(&self, graph: &Model, map: MapId) -> Result<Piece> {
        let dims = graph.map(map).dims();
        let batched: Vec<usize> = std::iter::once(1).chain(self.dims.iter().copied()).collect();
        if self.dims != dims && batched != dims {
            return Err(wrong_shape(graph, map, format!("an array of {:?}", self.dims)));
        }
        let piece = piece_of(graph.map(map), &self.values)?;
        let element = graph.element(map);
        let cast = piece.cast(element);
        if cast.cast(Element::F32).values() != piece.values() {
            bail!("input `{}` takes {element}, got other numbers", graph.map(map).name);
        }
        Ok(cast)
    }
}

/// A whole map from values in the order of its dims.
fn piece_of(map: &FeatureMap, values: &[f32]) -> Result<Piece> {
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
fn array_of(map: &FeatureMap, piece: &Piece) -> Result<ArrayD<f32>> {
    let piece = &piece.cast(Element::F32);
    let values = match (&map.shape, map.layout) {
        (Shape::Spatial { .. }, Layout::ChannelsSecond) => piece.to_chw().into_iter().collect(),
        _ => piece.values().to_vec(),
    };
    Ok(ArrayD::from_shape_vec(IxDyn(&map.dims()), values)?)
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Checks, before anything runs, that an output file has an ending we can write.
///
/// *Errors*: another ending.
pub(crate) fn check_output(path: &Path) -> Result<(), Failure> {
    match extension(path).as_str() {
        "png" | "npy" | "npz" | "json" => Ok(()),
        other => {
            Err(Failure::bad_input(anyhow!("cannot write `.{other}` files ({})", path.display()))
                .hint("name the output .png (a picture), .npy or .npz (arrays), or .json"))
        }
    }
}

/// Writes a model's outputs, in the format of the file's ending.
///
/// *Errors*: an output that the format cannot hold, a disk that cannot be written.
pub fn write_output(path: &Path, graph: &Model, outputs: &[(MapId, Arc<Piece>)]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    match extension(path).as_str() {
        "png" => write_picture(path, graph, outputs).with_context(cannot),
        "npy" => {
            let [(map, piece)] = outputs else {
                bail!("the model has {} outputs: write them as .npz or .json", outputs.len());
            };
            let file = BufWriter::new(File::create(path).with_context(cannot)?);
            let array = array_of(graph.map(*map), piece)?;
            match piece.element() {
                Element::U8 => array.mapv(|v| v as u8).write_npy(file),
                Element::I8 => array.mapv(|v| v as i8).write_npy(file),
                _ => array.write_npy(file),
            }
            .with_context(cannot)
        }
        "npz" => {
            let mut writer = NpzWriter::new(File::create(path).with_context(cannot)?);
            for (map, piece) in outputs {
                let array = array_of(graph.map(*map), piece)?;
                let name = &graph.map(*map).name;
                match piece.element() {
                    Element::U8 => writer.add_array(name, &array.mapv(|v| v as u8)),
                    Element::I8 => writer.add_array(name, &array.mapv(|v| v as i8)),
                    _ => writer.add_array(name, &array),
                }
                .with_context(cannot)?;
            }
            writer.finish().map(drop).with_context(cannot)
        }
        _ => {
            let file = BufWriter::new(File::create(path).with_context(cannot)?);
            serde_json::to_writer(file, &json_of(graph, outputs)?).with_context(cannot)
        }
    }
}

fn write_picture(path: &Path, graph: &Model, outputs: &[(MapId, Arc<Piece>)]) -> Result<()> {
    let picture = outputs.iter().find_map(|(map, piece)| {
        let shape = graph.shape(*map);
        let colours = matches!(shape.channels(), 1 | 3) && shape.is_spatial();
        let bytes = piece.element() == Element::F32;
        (colours && bytes).then_some((shape, piece))
    });
    let Some((shape, piece)) = picture else {
        bail!("no output of the model is a picture (1 or 3 channels): write .npy, .npz or .json");
    };
    let byte = |v: &f32| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
    let bytes: Vec<u8> = piece.values().iter().map(byte).collect();
    let colour = if shape.channels() == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    image::save_buffer(path, &bytes, shape.cols() as u32, shape.rows() as u32, colour)?;
    Ok(())
}

/// Names, dims and values of all outputs; for a vector also its largest entries.
fn json_of(graph: &Model, outputs: &[(MapId, Arc<Piece>)]) -> Result<serde_json::Value> {
    let output = |(map, piece): &(MapId, Arc<Piece>)| {
        let array = array_of(graph.map(*map), piece)?;
        let values: Vec<f32> = array.iter().copied().collect();
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let top: Vec<_> =
            order.iter().take(5).map(|&i| json!({"index": i, "value": values[i]})).collect();
        Ok(json!({
            "name": graph.map(*map).name,
            "dims": array.shape(),
            "top": top,
            "values": values,
        }))
    };
    let outputs = outputs.iter().map(output).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "model": graph.name, "outputs": outputs }))
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

    #[test]
    fn output_endings_are_checked_early() {
        assert!(check_output(Path::new("a.PNG")).is_ok());
        assert!(check_output(Path::new("a.tiff")).is_err());
    }
}
