//! Files made here, good and bad.

mod layout;
mod quant;

use super::*;
use crate::export::to_bytes;
use crate::graph::Shape;
use crate::op::Op;
use rten_onnx::onnx::{
    AttributeProto, DataType, Dimension, GraphProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

fn value(name: &str, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = |dim: &Option<i64>| Dimension {
        dim_value: *dim,
        dim_param: dim.is_none().then(|| "height".into()),
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }),
    }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        name: Some(format!("{output}_node")),
        input: inputs.iter().map(|input| (*input).into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let (name, i) = (Some(name.into()), Some(value));
    node.attribute.push(AttributeProto { name, i, ..AttributeProto::default() });
    node
}

fn with_ints(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    let (name, ints) = (Some(name.into()), values.to_vec());
    node.attribute.push(AttributeProto { name, ints, ..AttributeProto::default() });
    node
}

fn with_string(mut node: NodeProto, name: &str, value: &str) -> NodeProto {
    let (name, s) = (Some(name.into()), Some(value.into()));
    node.attribute.push(AttributeProto { name, s, ..AttributeProto::default() });
    node
}

fn floats(name: &str, dims: &[i64], values: Vec<f32>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        float_data: values,
        ..TensorProto::default()
    }
}

fn file(
    input: &[Option<i64>],
    nodes: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    output: &str,
) -> ModelProto {
    let set = OperatorSetIdProto { domain: None, version: Some(17) };
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![value("x", input)],
        output: vec![value(output, &[])],
        value_info: vec![],
    };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![set],
        ..ModelProto::default()
    }
}

fn read(proto: &ModelProto, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    from_bytes(&proto.write_buf().unwrap(), "test.onnx", options)
}

fn error(proto: &ModelProto) -> ModelError {
    read(proto, &LoadOptions::default()).err().unwrap()
}

const PICTURE: [Option<i64>; 4] = [Some(1), Some(2), Some(4), Some(4)];

/// A convolution, a normalisation, a rectifier; not in order, and with a node that nobody needs.
fn conv_file() -> ModelProto {
    let nodes = vec![
        node("Relu", &["n"], "y"),
        node("NonsenseThatNobodyNeeds", &["x"], "z"),
        node("BatchNormalization", &["c", "g", "b", "m", "v"], "n"),
        node("Conv", &["x", "w"], "c"),
    ];
    let weights = vec![
        floats("w", &[3, 2, 1, 1], (0..6).map(|i| i as f32).collect()),
        floats("g", &[3], vec![1.0, 2.0, 3.0]),
        floats("b", &[3], vec![0.5; 3]),
        floats("m", &[3], vec![1.0; 3]),
        floats("v", &[3], vec![4.0; 3]),
    ];
    file(&PICTURE, nodes, weights, "y")
}

#[test]
fn one_layer_remains_of_conv_norm_relu() {
    let model = read(&conv_file(), &LoadOptions::default()).unwrap();
    let expected = "\
model test.onnx
input x 2x4x4
0 c_node Conv 1x1 + Relu (x) -> 3x4x4
output y 3x4x4
";
    assert_eq!(model.graph.summary(), expected);
    let Op::Conv { weights, bias: Some(bias), .. } = model.graph.layers[0].op else {
        panic!("a convolution with a bias");
    };
    let factor = 1.0 / (4.0f32 + 1e-5).sqrt();
    let close = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
    let scales = [factor, factor, 2.0 * factor, 2.0 * factor, 3.0 * factor, 3.0 * factor];
    let want: Vec<f32> = scales.iter().enumerate().map(|(i, scale)| i as f32 * scale).collect();
    assert!(close(&model.elements(weights), &want));
    assert!(close(&model.elements(bias), &[1.0, 2.0, 3.0].map(|gamma| 0.5 - gamma * factor)));
    assert_eq!(model.graph.weights.len(), 2);
    assert_eq!(model.weights.hashes().count(), 2);
}

/// The ways in which a file may say how large the output of a transposed convolution is.
#[test]
fn a_transposed_convolution_has_the_size_that_the_file_asks_for() {
    type Change = fn(NodeProto) -> NodeProto;
    // Kernel 3x3 and stride 3x2 over 4x4: it spreads to 12x9.
    let cases: [(Change, &str); 8] = [
        (|node| node, " -> 4x12x9"),
        (|node| with_ints(node, "pads", &[1, 2, 0, 1]), " pad 1,2,0,1 -> 4x11x6"),
        (|node| with_ints(node, "output_padding", &[2, 1]), " extra 2,1 -> 4x14x10"),
        (|node| with_string(node, "auto_pad", "VALID"), " -> 4x12x9"),
        (|node| with_string(node, "auto_pad", "SAME_UPPER"), " pad 0,0,0,1 -> 4x12x8"),
        (|node| with_string(node, "auto_pad", "SAME_LOWER"), " pad 0,1,0,0 -> 4x12x8"),
        (|node| with_ints(node, "output_shape", &[9, 12]), " pad 2,0,1,0 extra 0,3 -> 4x9x12"),
        (|node| with_ints(node, "dilations", &[2, 1]), " dilated 2x1 -> 4x14x9"),
    ];
    for (change, expected) in cases {
        let up = with_ints(node("ConvTranspose", &["x", "w"], "u"), "strides", &[3, 2]);
        let nodes = vec![change(with_int(up, "group", 2)), node("Relu", &["u"], "y")];
        let weights = vec![floats("w", &[2, 2, 3, 3], vec![0.5; 36])];
        let model = read(&file(&PICTURE, nodes, weights, "y"), &LoadOptions::default()).unwrap();
        let summary = model.graph.summary();
        let line = summary.lines().nth(2).unwrap();
        let line = line.replace(" groups 2 + Relu (x)", "");
        assert_eq!(line, format!("0 u_node ConvTranspose 3x3 /3x2{expected}"));
    }
}

#[test]
fn dynamic_sizes_come_from_the_options() {
    let dims = [None, Some(3), None, None];
    let proto = file(&dims, vec![node("Relu", &["x"], "y")], vec![], "y");
    let failed = error(&proto);
    assert!(matches!(failed, ModelError::DynamicInput { .. }));
    assert!(failed.to_string().contains("height x 3 x height"), "{failed}");
    assert!(failed.hint().is_some());
    let options = LoadOptions { input_size: Some(Axes::new(6, 8)) };
    let model = read(&proto, &options).unwrap();
    let expected = Shape::Spatial { channels: 3, rows: 6, cols: 8 };
    assert_eq!(*model.graph.shape(model.graph.inputs[0]), expected);
}

#[test]
fn a_batch_is_refused_with_advice() {
    let dims = [Some(2), Some(3), Some(4), Some(4)];
    let failed = error(&file(&dims, vec![node("GlobalAveragePool", &["x"], "y")], vec![], "y"));
    assert!(failed.hint().is_some_and(|hint| hint.contains("batch 2")));
    assert!(failed.to_string().contains("y_node"), "{failed}");
    let slopes = vec![floats("s", &[3, 1, 1], vec![0.5; 3])];
    let failed = error(&file(&dims, vec![node("PRelu", &["x", "s"], "y")], slopes, "y"));
    assert!(failed.hint().is_some_and(|hint| hint.contains("batch 2")), "{failed}");
}

#[test]
fn what_is_not_supported_is_named() {
    let failed = error(&file(&PICTURE, vec![node("TopK", &["x"], "y")], vec![], "y"));
    let text = failed.to_string();
    assert!(["TopK", "y_node", "test.onnx"].iter().all(|part| text.contains(part)));
    assert!(failed.hint().is_some());

    let strange = with_int(node("Relu", &["x"], "y"), "strange", 1);
    let failed = error(&file(&PICTURE, vec![strange], vec![], "y"));
    assert!(matches!(failed, ModelError::UnsupportedAttribute { .. }), "{failed}");

    // Operator set 28 gave SpaceToDepth a mode, of which there is one here.
    let mut blocks = with_int(node("SpaceToDepth", &["x"], "y"), "blocksize", 2);
    let (name, mode) = (Some("mode".into()), Some("CRD".into()));
    blocks.attribute.push(AttributeProto { name, s: mode, ..AttributeProto::default() });
    let failed = error(&file(&PICTURE, vec![blocks], vec![], "y"));
    assert!(failed.to_string().contains("expected DCR, got CRD"), "{failed}");

    let mut proto = conv_file();
    proto.opset_import[0].version = Some(6);
    assert!(matches!(error(&proto), ModelError::UnsupportedOpset { .. }));
}

#[test]
fn broken_graphs_are_refused() {
    let failed = error(&file(&PICTURE, vec![node("Relu", &["q"], "y")], vec![], "y"));
    assert!(matches!(failed, ModelError::UnknownValue { .. }), "{failed}");
    let cycle = vec![node("Add", &["x", "b"], "a"), node("Relu", &["a"], "b")];
    let failed = error(&file(&PICTURE, cycle, vec![], "b"));
    assert!(matches!(failed, ModelError::Cycle { .. }), "{failed}");
    let twice = vec![node("Relu", &["x"], "y"), node("Tanh", &["x"], "y")];
    let failed = error(&file(&PICTURE, twice, vec![], "y"));
    assert!(matches!(failed, ModelError::Malformed { .. }), "{failed}");
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    // A weight that claims more than it has, and one whose dims overflow.
    for dims in [vec![1 << 20, 2, 1, 1], vec![i64::MAX, i64::MAX, 1, 1], vec![-1, 2, 1, 1]] {
        let conv = node("Conv", &["x", "w"], "y");
        let weights = floats("w", &dims, vec![1.0; 4]);
        let failed = error(&file(&PICTURE, vec![conv], vec![weights], "y"));
        assert!(matches!(failed, ModelError::TensorData { .. }), "{failed}");
    }
    // A constant that a few bytes ask to be enormous.
    let mut shape = floats("s", &[2], vec![]);
    shape.data_type = Some(DataType::INT64);
    shape.int64_data = vec![1 << 20, 1 << 20];
    let nodes = vec![node("ConstantOfShape", &["s"], "c"), node("Add", &["x", "c"], "y")];
    let failed = error(&file(&PICTURE, nodes, vec![shape], "y"));
    assert!(matches!(failed, ModelError::TooLarge { .. }), "{failed}");
    // An input beyond any memory.
    let huge = [Some(1), Some(1 << 20), Some(1 << 20), Some(1 << 20)];
    let failed = error(&file(&huge, vec![node("Relu", &["x"], "y")], vec![], "y"));
    assert!(matches!(failed, ModelError::UnsupportedShape { .. }), "{failed}");
}

#[test]
fn external_data_stays_in_its_folder() {
    use rten_onnx::onnx::{DataLocation, StringStringEntryProto};
    let folder = std::env::temp_dir().join(format!("tilehive-model-{}", std::process::id()));
    let inner = folder.join("inner");
    std::fs::create_dir_all(&inner).unwrap();
    let bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(inner.join("weights.bin"), [vec![0; 8], bytes.clone()].concat()).unwrap();
    std::fs::write(folder.join("outside.bin"), bytes).unwrap();
    let load_from = |location: &str, offset: &str| {
        let mut proto = conv_file();
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        let weights = &mut proto.graph.as_mut().unwrap().initializer[0];
        weights.float_data.clear();
        weights.data_location = Some(DataLocation::EXTERNAL);
        weights.external_data = vec![entry("location", location), entry("offset", offset)];
        let path = inner.join("model.onnx");
        std::fs::write(&path, proto.write_buf().unwrap()).unwrap();
        load(&path, &LoadOptions::default())
    };
    let inside = load_from("weights.bin", "8").unwrap();
    let expected = read(&conv_file(), &LoadOptions::default()).unwrap();
    assert_eq!(inside.graph.weights, expected.graph.weights);
    assert_eq!(inside.graph.name, "model");
    for (location, offset) in [
        ("weights.bin", "9"),
        ("weights.bin", "99999999999999999999"),
        ("../outside.bin", "0"),
        ("/etc/passwd", "0"),
        ("", "0"),
    ] {
        let failed = load_from(location, offset).err().unwrap();
        assert!(matches!(failed, ModelError::TensorData { .. }), "{failed}");
    }
    assert!(matches!(load_from("absent.bin", "0").err().unwrap(), ModelError::Read { .. }));
    let spec = input_spec(&inner.join("model.onnx")).unwrap();
    assert_eq!((spec.len(), spec[0].channels(), spec[0].rows()), (1, Some(2), Some(4)));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every byte of a small file is changed to some others, and the file is cut at every byte: all
/// of that gives a model or an error.
#[test]
fn damage_never_panics() {
    let model = read(&conv_file(), &LoadOptions::default()).unwrap();
    for good in [conv_file().write_buf().unwrap(), to_bytes(&model).unwrap()] {
        for at in 0..good.len() {
            let _ = from_bytes(&good[..at], "cut", &LoadOptions::default());
            for change in [0x00, 0x01, 0x08, 0x3a, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = change;
                let _ = from_bytes(&bad, "changed", &LoadOptions::default());
                bad[at] = good[at] ^ (1 << (at % 8));
                let _ = from_bytes(&bad, "flipped", &LoadOptions::default());
            }
        }
    }
}
