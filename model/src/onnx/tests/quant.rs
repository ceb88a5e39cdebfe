//! Quantised files, in both forms.

use super::*;
use crate::op::QProduct;
use crate::quant::{Element, Quant};

fn bytes(name: &str, kind: DataType, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(kind),
        int32_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// Scales and zero points: of the input, of the weights (by channel), of the output.
fn numbers() -> Vec<TensorProto> {
    vec![
        floats("xs", &[], vec![0.5]),
        bytes("xz", DataType::UINT8, &[], &[3]),
        floats("ws", &[3], vec![0.25, 0.5, 1.0]),
        bytes("wz", DataType::INT8, &[3], &[0, 0, 0]),
        floats("bs", &[3], vec![0.125, 0.25, 0.5]),
        bytes("bz", DataType::INT32, &[3], &[0, 0, 0]),
        floats("ys", &[], vec![2.0]),
        bytes("yz", DataType::UINT8, &[], &[10]),
        bytes("w", DataType::INT8, &[3, 2, 1, 1], &[1, -2, 3, -4, 5, -128]),
        bytes("b", DataType::INT32, &[3], &[100, -200, 300]),
    ]
}

fn axis(node: NodeProto) -> NodeProto {
    with_int(node, "axis", 0)
}

/// What ONNX Runtime's quantiser writes by default.
fn qdq(relu: bool) -> ModelProto {
    let mut nodes = vec![
        node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
        node("DequantizeLinear", &["xq", "xs", "xz"], "xd"),
        axis(node("DequantizeLinear", &["w", "ws", "wz"], "wd")),
        axis(node("DequantizeLinear", &["b", "bs", "bz"], "bd")),
        node("Conv", &["xd", "wd", "bd"], "c"),
        node("QuantizeLinear", &[if relu { "r" } else { "c" }, "ys", "yz"], "yq"),
        node("DequantizeLinear", &["yq", "ys", "yz"], "y"),
    ];
    if relu {
        nodes.push(node("Relu", &["c"], "r"));
    }
    file(&PICTURE, nodes, numbers(), "y")
}

fn qoperator() -> ModelProto {
    let nodes = vec![
        node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
        node("QLinearConv", &["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], "yq"),
        node("DequantizeLinear", &["yq", "ys", "yz"], "y"),
    ];
    file(&PICTURE, nodes, numbers(), "y")
}

fn product(model: &LoadedModel) -> &QProduct {
    match &model.graph.layers[1].op {
        Op::QConv { product, .. } => product,
        op => panic!("a quantised convolution, not {op:?}"),
    }
}

#[test]
fn both_forms_become_one_graph() {
    let models = [qdq(false), qoperator()].map(|f| read(&f, &LoadOptions::default()).unwrap());
    for model in &models {
        let names: Vec<_> = model.graph.layers.iter().map(|layer| layer.op.name()).collect();
        assert_eq!(names, ["Quantize", "QConv", "Dequantize"]);
        let QProduct { input, output, low, high, zeros, .. } = product(model);
        assert_eq!(*input, Quant { element: Element::U8, scale: 0.5, zero: 3 });
        assert_eq!(*output, Quant { element: Element::U8, scale: 2.0, zero: 10 });
        assert_eq!((*low, *high, *zeros), (0, 255, None));
        let bytes = |id| model.weights.find_bytes(model.graph.weight(id).hash).unwrap().to_vec();
        let weights: Vec<i8> = bytes(product(model).weights).iter().map(|b| *b as i8).collect();
        assert_eq!(weights, [1, -2, 3, -4, 5, -128]);
        let bias: Vec<u8> = [100i32, -200, 300].iter().flat_map(|b| b.to_le_bytes()).collect();
        assert_eq!(bytes(product(model).bias.unwrap()), bias);
        assert_eq!(model.elements(product(model).scales)[..], [0.25, 0.5, 1.0]);
    }
    let hashes = models.each_ref().map(|m| m.weights.hashes().collect::<Vec<_>>());
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_rectifier_becomes_a_bound() {
    let model = read(&qdq(true), &LoadOptions::default()).unwrap();
    assert_eq!(model.graph.layers.len(), 3);
    assert_eq!((product(&model).low, product(&model).high), (10, 255));
}

#[test]
fn weights_of_u8_become_i8() {
    let mut file = qoperator();
    let graph = file.graph.as_mut().unwrap();
    graph.initializer.retain(|tensor| !matches!(tensor.name.as_deref(), Some("w" | "wz")));
    graph.initializer.push(bytes("w", DataType::UINT8, &[3, 2, 1, 1], &[0, 128, 255, 1, 2, 3]));
    graph.initializer.push(bytes("wz", DataType::UINT8, &[], &[128]));
    let model = read(&file, &LoadOptions::default()).unwrap();
    let weights = model.graph.weight(product(&model).weights).hash;
    let weights: Vec<i8> =
        model.weights.find_bytes(weights).unwrap().iter().map(|b| *b as i8).collect();
    assert_eq!(weights, [-128, 0, 127, -127, -126, -125]);
    assert_eq!(product(&model).zeros, None);
}

#[test]
fn a_maximum_between_equal_scales_moves_bytes() {
    let mut pool = node("MaxPool", &["xd"], "p");
    pool.attribute.push(AttributeProto {
        name: Some("kernel_shape".into()),
        ints: vec![2, 2],
        ..AttributeProto::default()
    });
    let nodes = vec![
        node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
        node("DequantizeLinear", &["xq", "xs", "xz"], "xd"),
        pool,
        node("QuantizeLinear", &["p", "xs", "xz"], "pq"),
        node("DequantizeLinear", &["pq", "xs", "xz"], "y"),
    ];
    let model = read(&file(&PICTURE, nodes, numbers(), "y"), &LoadOptions::default()).unwrap();
    let names: Vec<_> = model.graph.layers.iter().map(|layer| layer.op.name()).collect();
    assert_eq!(names, ["Quantize", "MaxPool", "Dequantize"]);
    assert_eq!(model.graph.element(model.graph.layers[1].output), Element::U8);
}

#[test]
fn what_is_left_runs_as_layers() {
    let nodes = vec![
        node("QuantizeLinear", &["x", "xs", "xz"], "xq"),
        node("DequantizeLinear", &["xq", "xs", "xz"], "xd"),
        node("Tanh", &["xd"], "y"),
    ];
    let model = read(&file(&PICTURE, nodes, numbers(), "y"), &LoadOptions::default()).unwrap();
    let names: Vec<_> = model.graph.layers.iter().map(|layer| layer.op.name()).collect();
    assert_eq!(names, ["Quantize", "Dequantize", "Activate"]);
}

#[test]
fn scales_must_be_one_and_positive() {
    let with_scale = |dims: &[i64], values: Vec<f32>| {
        let mut file = qoperator();
        let tensors = &mut file.graph.as_mut().unwrap().initializer;
        tensors.retain(|tensor| tensor.name.as_deref() != Some("xs"));
        tensors.push(floats("xs", dims, values));
        file
    };
    for file in [with_scale(&[], vec![0.0]), with_scale(&[2], vec![1.0, 2.0])] {
        assert!(matches!(error(&file), ModelError::UnsupportedAttribute { .. }));
    }
}

#[test]
fn a_quantised_model_is_not_written() {
    let model = read(&qdq(false), &LoadOptions::default()).unwrap();
    assert!(matches!(to_bytes(&model), Err(ModelError::UnsupportedOperator { .. })));
}
