//! What a model asks its caller for.

use super::{LoadOptions, malformed, open_scanned};
use crate::error::ModelError;
use crate::graph::{Layout, Shape};
use crate::quant::Element;
use rten_onnx::onnx::{DataType, GraphProto, ValueInfoProto};
use rten_onnx::protobuf::{
    DecodeMessage, Fields, OwnedValues, ProtobufError, ReadValue, ValueReader,
};
use std::collections::HashSet;
use std::path::Path;

/// One input as the model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// Its ONNX dims, batch first; none where the model leaves one open.
    pub dims: Vec<Option<usize>>,
    /// What one element is.
    pub element: Element,
    /// Where its channels are, if it has any.
    pub layout: Layout,
}

impl InputSpec {
    /// Channels, where the input has them and they are fixed.
    pub fn channels(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[self.axes()[0]])
    }

    /// Rows, where the input has them and they are fixed.
    pub fn rows(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[self.axes()[1]])
    }

    /// Columns, where the input has them and they are fixed.
    pub fn cols(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[self.axes()[2]])
    }

    /// Which dims are channels, rows and columns.
    fn axes(&self) -> [usize; 3] {
        match self.layout {
            Layout::ChannelsSecond => [1, 2, 3],
            Layout::ChannelsLast => [3, 1, 2],
        }
    }

    fn spatial(&self) -> Option<&[Option<usize>]> {
        Some(self.dims.as_slice()).filter(|dims| dims.len() == 4)
    }
}

/// The inputs of a file, without reading its weights.
///
/// *Errors* when the file cannot be read or is not a well-framed ONNX model.
pub fn input_spec(path: &Path) -> Result<Vec<InputSpec>, ModelError> {
    let file = path.display().to_string();
    let reader = ValueReader::from_file(open_scanned(path, &file)?);
    let model = SlimModel::decode(reader).map_err(|e| malformed(&file, e.to_string()))?;
    let constants: HashSet<&str> = model.graph.constants.iter().map(String::as_str).collect();
    let readers = model.graph.nodes.iter();
    let last = channels_last(
        readers.map(|node| (node.operator.as_str(), node.inputs.as_slice(), node.ints.as_slice())),
    );
    let inputs = model.graph.inputs.iter();
    inputs
        .filter(|input| !constants.contains(input.name.as_deref().unwrap_or_default()))
        .map(|input| declared(input, &last, &file).map(|(spec, _)| spec))
        .collect()
}

/// The values of which all readers first move the channels from the end to the second place, as
/// files from TensorFlow do with their inputs. A reader is its operator, its inputs, and the
/// integers of its attributes.
fn channels_last<'a>(
    readers: impl Iterator<Item = (&'a str, &'a [String], &'a [i64])>,
) -> HashSet<&'a str> {
    let (mut last, mut others) = (HashSet::new(), HashSet::new());
    for (operator, inputs, ints) in readers {
        let names = inputs.iter().map(String::as_str);
        match operator == "Transpose" && ints == [0, 3, 1, 2] {
            true => last.extend(names),
            false => others.extend(names),
        }
    }
    last.retain(|name| !others.contains(name));
    last
}

/// As [`channels_last`], of a graph that was read whole.
pub(super) fn channels_last_in(graph: &GraphProto) -> HashSet<&str> {
    channels_last(graph.node.iter().map(|node| {
        let perm = node.attribute.iter().find(|a| a.name.as_deref() == Some("perm"));
        let operator = node.op_type.as_deref().unwrap_or_default();
        (operator, node.input.as_slice(), perm.map_or(&[][..], |perm| perm.ints.as_slice()))
    }))
}

/// An input's declaration, with the names of its open dims.
fn declared(
    input: &ValueInfoProto,
    last: &HashSet<&str>,
    file: &str,
) -> Result<(InputSpec, Vec<String>), ModelError> {
    let name = input.name.clone().unwrap_or_default();
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let kind = tensor.and_then(|tensor| tensor.elem_type).unwrap_or(DataType::FLOAT);
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    let element = match kind {
        // Maps are computed as f32, whatever the width of the file's floats.
        DataType::FLOAT | DataType::FLOAT16 | DataType::BFLOAT16 | DataType::DOUBLE => {
            Some(Element::F32)
        }
        DataType::UINT8 => Some(Element::U8),
        DataType::INT8 => Some(Element::I8),
        _ => None,
    };
    let (Some(shape), Some(element)) = (shape, element) else {
        return Err(ModelError::TensorData {
            file: file.into(),
            tensor: name.into(),
            expected: "an input of f32, u8 or i8 with dims".into(),
            got: format!("{kind}{}", if shape.is_some() { "" } else { " without dims" }).into(),
        });
    };
    // Some writers say 0 or -1 for a dim that is open.
    let fixed = |value: i64| usize::try_from(value).ok().filter(|value| *value > 0);
    let dims: Vec<Option<usize>> =
        shape.dim.iter().map(|dim| dim.dim_value.and_then(fixed)).collect();
    let text = shape.dim.iter().map(|dim| match (dim.dim_value.and_then(fixed), &dim.dim_param) {
        (Some(value), _) => value.to_string(),
        (None, Some(name)) if !name.is_empty() => name.clone(),
        _ => "?".into(),
    });
    let text = text.collect();
    let layout = match dims.len() == 4 && last.contains(name.as_str()) {
        true => Layout::ChannelsLast,
        false => Layout::ChannelsSecond,
    };
    Ok((InputSpec { name, dims, element, layout }, text))
}

/// The shape of an input under the options, its elements, and how the caller gives it.
pub(super) fn resolve(
    input: &ValueInfoProto,
    last: &HashSet<&str>,
    file: &str,
    options: &LoadOptions,
) -> Result<(Shape, Element, Layout), ModelError> {
    let (mut spec, text) = declared(input, last, file)?;
    if let Some(batch) = spec.dims.first_mut() {
        batch.get_or_insert(1);
    }
    let [_, rows, cols] = spec.axes();
    if let (Some(size), 4) = (options.input_size, spec.dims.len()) {
        spec.dims[rows].get_or_insert(size.rows);
        spec.dims[cols].get_or_insert(size.cols);
    }
    match spec.dims.iter().copied().collect::<Option<Vec<usize>>>() {
        Some(dims) => match (spec.layout, dims.as_slice()) {
            (Layout::ChannelsLast, &[1, rows, cols, channels]) => {
                Ok((Shape::Spatial { channels, rows, cols }, spec.element, spec.layout))
            }
            _ => Ok((Shape::from_dims(&dims), spec.element, Layout::ChannelsSecond)),
        },
        None => Err(ModelError::DynamicInput {
            file: file.into(),
            input: spec.name.into(),
            dims: text.join(" x ").into(),
        }),
    }
}

/// A model of which only the inputs are kept.
#[derive(Default)]
struct SlimModel {
    graph: SlimGraph,
}

#[derive(Default)]
struct SlimGraph {
    inputs: Vec<ValueInfoProto>,
    nodes: Vec<SlimNode>,
    /// Old files list their initializers among the inputs.
    constants: Vec<String>,
}

/// A node of which only is kept what tells a transpose.
#[derive(Default)]
struct SlimNode {
    operator: String,
    inputs: Vec<String>,
    ints: Vec<i64>,
}

/// The integers of an attribute.
struct SlimAttribute(Vec<i64>);

/// A tensor of which only the name is kept.
struct SlimTensor(String);

impl DecodeMessage for SlimModel {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut model = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                7 => model.graph = SlimGraph::decode_field(&mut field)?,
                _ => field.skip()?,
            }
        }
        Ok(model)
    }
}

impl DecodeMessage for SlimGraph {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut graph = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                1 => graph.nodes.push(SlimNode::decode_field(&mut field)?),
                5 => graph.constants.push(SlimTensor::decode_field(&mut field)?.0),
                11 => graph.inputs.push(ValueInfoProto::decode_field(&mut field)?),
                _ => field.skip()?,
            }
        }
        Ok(graph)
    }
}

impl DecodeMessage for SlimNode {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut node = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                1 => node.inputs.push(field.read_string()?),
                4 => node.operator = field.read_string()?,
                5 => node.ints.extend(SlimAttribute::decode_field(&mut field)?.0),
                _ => field.skip()?,
            }
        }
        Ok(node)
    }
}

impl DecodeMessage for SlimAttribute {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut ints = Vec::new();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                8 => ints.push(field.get_int64()?),
                _ => field.skip()?,
            }
        }
        Ok(Self(ints))
    }
}

impl DecodeMessage for SlimTensor {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut name = String::new();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                8 => name = field.read_string()?,
                _ => field.skip()?,
            }
        }
        Ok(Self(name))
    }
}
