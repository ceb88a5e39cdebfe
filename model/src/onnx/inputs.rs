//! What a model asks its caller for.

use super::{LoadOptions, malformed, open_scanned};
use crate::error::ModelError;
use crate::graph::Shape;
use crate::quant::Element;
use rten_onnx::onnx::{DataType, ValueInfoProto};
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
}

impl InputSpec {
    /// Channels, where the input has them and they are fixed.
    pub fn channels(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[1])
    }

    /// Rows, where the input has them and they are fixed.
    pub fn rows(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[2])
    }

    /// Columns, where the input has them and they are fixed.
    pub fn cols(&self) -> Option<usize> {
        self.spatial().and_then(|dims| dims[3])
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
    let inputs = model.graph.inputs.iter();
    inputs
        .filter(|input| !constants.contains(input.name.as_deref().unwrap_or_default()))
        .map(|input| declared(input, &file).map(|(spec, _)| spec))
        .collect()
}

/// An input's declaration, with the names of its open dims.
fn declared(input: &ValueInfoProto, file: &str) -> Result<(InputSpec, Vec<String>), ModelError> {
    let name = input.name.clone().unwrap_or_default();
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let kind = tensor.and_then(|tensor| tensor.elem_type).unwrap_or(DataType::FLOAT);
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    let element = match kind {
        DataType::FLOAT => Some(Element::F32),
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
    let dims = shape.dim.iter().map(|dim| dim.dim_value.and_then(fixed)).collect();
    let text = shape.dim.iter().map(|dim| match (dim.dim_value.and_then(fixed), &dim.dim_param) {
        (Some(value), _) => value.to_string(),
        (None, Some(name)) if !name.is_empty() => name.clone(),
        _ => "?".into(),
    });
    Ok((InputSpec { name, dims, element }, text.collect()))
}

/// The shape of an input under the options.
pub(super) fn resolve(
    input: &ValueInfoProto,
    file: &str,
    options: &LoadOptions,
) -> Result<(Shape, Element), ModelError> {
    let (mut spec, text) = declared(input, file)?;
    if let Some(batch) = spec.dims.first_mut() {
        batch.get_or_insert(1);
    }
    match (options.input_size, spec.dims.as_mut_slice()) {
        // Rows first and channels last, as TensorFlow has it.
        (Some(size), [_, rows @ None, cols, Some(1 | 3)]) | (Some(size), [_, _, rows, cols]) => {
            rows.get_or_insert(size.rows);
            cols.get_or_insert(size.cols);
        }
        _ => {}
    }
    match spec.dims.iter().copied().collect::<Option<Vec<usize>>>() {
        Some(dims) => Ok((Shape::from_dims(&dims), spec.element)),
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
    /// Old files list their initializers among the inputs.
    constants: Vec<String>,
}

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
                5 => graph.constants.push(SlimTensor::decode_field(&mut field)?.0),
                11 => graph.inputs.push(ValueInfoProto::decode_field(&mut field)?),
                _ => field.skip()?,
            }
        }
        Ok(graph)
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
