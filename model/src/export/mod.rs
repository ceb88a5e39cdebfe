//! Writes a model as ONNX, for other runtimes and as an oracle for our own.

mod nodes;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use writer::{int as int_attribute, ints as ints_attribute};

use crate::error::ModelError;
use crate::graph::{FeatureMap, Layer, LoadedModel, MapId, Model};
use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    TypeProtoTensor, ValueInfoProto,
};
use rten_onnx::protobuf::{EncodeMessage, MessageWriter, ProtobufError, ValueWriter, WriteValue};
use std::fs::File;
use std::path::Path;
use writer::Writer;

/// The first operator set with HardSwish and with dilations of AveragePool.
const OPSET: i64 = 20;

/// The format version that goes with the operator set.
const IR_VERSION: i64 = 9;

/// Largest file that readers of protobuf accept.
const FILE_BYTES_MAX: u64 = (1 << 31) - 1;

/// Writes a model to a file. Fused activations become nodes of their own; reading the file gives
/// the same graph again.
///
/// *Errors* when a layer is quantised, the file cannot be written, or would be above the 2 GiB that
/// ONNX allows.
pub fn write_onnx(model: &LoadedModel, path: &Path) -> Result<(), ModelError> {
    let file: Box<str> = path.display().to_string().into();
    check_size(&model.graph, &file)?;
    let failed = |source| ModelError::Write { file: file.clone(), source };
    let opened = File::create(path).map_err(failed)?;
    let written = to_proto(model)?.encode(ValueWriter::from_file(opened));
    written.map_err(|error| failed(std::io::Error::other(error)))
}

/// A model as the bytes of an ONNX file.
///
/// *Errors* when a layer is quantised, or they would be above the 2 GiB that ONNX allows.
pub fn to_bytes(model: &LoadedModel) -> Result<Vec<u8>, ModelError> {
    check_size(&model.graph, &model.graph.name)?;
    let failed = |error: ProtobufError| ModelError::Write {
        file: model.graph.name.as_str().into(),
        source: std::io::Error::other(error),
    };
    let proto = to_proto(model)?;
    let mut bytes = Vec::new();
    proto.encode(ValueWriter::new(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

fn check_size(model: &Model, file: &str) -> Result<(), ModelError> {
    let bytes: u64 = model.weights.iter().map(|weight| weight.bytes() as u64).sum();
    // Names and numbers take a little more; a few hundred bytes for each layer and weight.
    let bytes = bytes + 512 * (model.layers.len() + model.weights.len()) as u64;
    if bytes <= FILE_BYTES_MAX {
        return Ok(());
    }
    Err(ModelError::TooLarge {
        file: file.into(),
        what: "bytes of an ONNX file".into(),
        limit: FILE_BYTES_MAX,
        got: bytes.to_string().into(),
    })
}

/// A model whose graph has a name: the parser's own types leave it out, and ONNX demands one.
struct NamedModel<'a> {
    name: &'a str,
    graph: GraphProto,
    rest: ModelProto,
}

struct NamedGraph<'a>(&'a NamedModel<'a>);

impl EncodeMessage for NamedModel<'_> {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        self.rest.encode_fields(fields)?;
        fields.write_message(7, &NamedGraph(self))
    }
}

impl EncodeMessage for NamedGraph<'_> {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        let name = if self.0.name.is_empty() { "model" } else { self.0.name };
        fields.write_string(2, name)?;
        self.0.graph.encode_fields(fields)
    }
}

fn to_proto(model: &LoadedModel) -> Result<NamedModel<'_>, ModelError> {
    // A peer's graph may come here too; an index that is out of range must not panic.
    model.graph.validate()?;
    if let Some(layer) = first_of_bytes(&model.graph) {
        return Err(ModelError::UnsupportedOperator {
            operator: layer.op.name().into(),
            layer: layer.name.as_str().into(),
            file: model.graph.name.as_str().into(),
            hint: Some("only models of floats are written: keep the file it came from".into()),
        });
    }
    let mut writer = Writer::new(model);
    for layer in &model.graph.layers {
        writer.layer(layer);
    }
    let value = |map: &MapId| value_info(writer.name(*map), model.graph.map(*map));
    let graph = GraphProto {
        input: model.graph.inputs.iter().map(value).collect(),
        output: model.graph.outputs.iter().map(value).collect(),
        value_info: Vec::new(),
        node: writer.nodes,
        initializer: writer.initializers,
    };
    let rest = ModelProto {
        ir_version: Some(IR_VERSION),
        graph: None,
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        metadata_props: Vec::new(),
        producer_name: Some("tilehive".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
    };
    Ok(NamedModel { name: &model.graph.name, graph, rest })
}

/// The first layer with a map of bytes.
fn first_of_bytes(graph: &Model) -> Option<&Layer> {
    let is_byte = |map: &MapId| graph.element(*map).is_byte();
    graph.layers.iter().find(|layer| layer.inputs.iter().chain([&layer.output]).any(is_byte))
}

fn value_info(name: &str, map: &FeatureMap) -> ValueInfoProto {
    let dim = |dim: usize| Dimension { dim_value: Some(dim as i64), dim_param: None };
    let shape = TensorShapeProto { dim: map.shape.dims().into_iter().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }),
    }
}
