//! Files that keep channels last, and layers that take some places along an axis.

use super::*;
use crate::graph::Layout;

fn operators(model: &LoadedModel) -> Vec<&'static str> {
    model.graph.layers.iter().map(|layer| layer.op.name()).collect()
}

fn turned(input: &str, output: &str, perm: [i64; 4]) -> NodeProto {
    with_ints(node("Transpose", &[input], output), "perm", &perm)
}

const LAST: [i64; 4] = [0, 2, 3, 1];
const SECOND: [i64; 4] = [0, 3, 1, 2];

#[test]
fn a_block_between_transposes_is_made_of_spatial_layers() {
    let nodes = vec![
        turned("x", "t", LAST),
        with_int(node("LayerNormalization", &["t", "g", "b"], "n"), "axis", -1),
        node("MatMul", &["n", "w"], "m"),
        node("Add", &["m", "c"], "a"),
        node("Gelu", &["a"], "e"),
        node("Mul", &["e", "t"], "p"),
        turned("p", "s", SECOND),
        node("Add", &["s", "x"], "y"),
    ];
    let weights = vec![
        floats("g", &[2], vec![1.0, 2.0]),
        floats("b", &[2], vec![0.0, 1.0]),
        floats("w", &[2, 2], vec![1.0, 2.0, 3.0, 4.0]),
        floats("c", &[2], vec![0.5, 0.25]),
    ];
    let model = read(&file(&PICTURE, nodes, weights, "y"), &LoadOptions::default()).unwrap();
    assert_eq!(operators(&model), ["LayerNorm", "Conv", "Combine", "Combine"]);
    // The matrix of (in, out) as filters of (out, in).
    let Op::Conv { weights, bias, .. } = model.graph.layers[1].op else { panic!() };
    assert_eq!(**model.elements(weights), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(**model.elements(bias.unwrap()), [0.5, 0.25]);
}

#[test]
fn a_picture_with_channels_last_needs_no_layer() {
    let dims = [Some(1), Some(8), Some(6), Some(3)];
    let weights = vec![floats("w", &[2, 3, 1, 1], vec![1.0; 6])];
    let nodes =
        vec![turned("x", "t", SECOND), node("Conv", &["t", "w"], "c"), turned("c", "y", LAST)];
    let model = read(&file(&dims, nodes, weights, "y"), &LoadOptions::default()).unwrap();
    assert_eq!(operators(&model), ["Conv"]);
    let (input, output) = (model.graph.map(model.graph.inputs[0]), model.graph.outputs[0]);
    assert_eq!(input.layout, Layout::ChannelsLast);
    assert_eq!(input.shape, Shape::Spatial { channels: 3, rows: 8, cols: 6 });
    assert_eq!(input.dims(), [1, 8, 6, 3]);
    assert_eq!(model.graph.map(output).dims(), [1, 8, 6, 2]);
}

#[test]
fn what_cannot_be_seen_with_channels_second_is_transposed() {
    let nodes = vec![turned("x", "t", LAST), with_int(node("Flatten", &["t"], "y"), "axis", 1)];
    let model = read(&file(&PICTURE, nodes, vec![], "y"), &LoadOptions::default()).unwrap();
    assert_eq!(operators(&model), ["Transpose", "Reshape"]);
}

#[test]
fn slices_and_splits_select() {
    let ints = |name: &str, values: &[i64]| TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::INT64),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    };
    let mut split = with_int(node("Split", &["s"], "a"), "axis", 1);
    split.output.push("b".into());
    let nodes = vec![
        node("Slice", &["x", "starts", "ends", "axes", "steps"], "s"),
        split,
        node("Sub", &["b", "a"], "y"),
    ];
    let constants = vec![
        ints("starts", &[-1, 0]),
        ints("ends", &[i64::MIN, i64::MAX]),
        ints("axes", &[2, 3]),
        ints("steps", &[-2, 2]),
    ];
    let model = read(&file(&PICTURE, nodes, constants, "y"), &LoadOptions::default()).unwrap();
    let selected: Vec<_> = (model.graph.layers.iter())
        .filter_map(|layer| match &layer.op {
            Op::Select { axis, indices } => Some((*axis, indices.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(selected, [(2, vec![3, 1]), (3, vec![0, 2]), (1, vec![0]), (1, vec![1])]);
    assert_eq!(model.graph.shape(model.graph.outputs[0]).dims(), [1, 1, 2, 2]);
}

#[test]
fn a_slice_of_nothing_is_refused() {
    let mut slice = with_ints(node("Slice", &["x"], "y"), "starts", &[3]);
    slice = with_ints(with_ints(slice, "ends", &[3]), "axes", &[2]);
    let failed = error(&file(&PICTURE, vec![slice], vec![], "y"));
    assert!(matches!(failed, ModelError::UnsupportedShape { .. }), "{failed}");
}

#[test]
fn pads_of_the_map_itself_select() {
    let pad = with_string(node("Pad", &["x"], "y"), "mode", "reflect");
    let pad = with_ints(pad, "pads", &[0, 0, 2, 0, 0, 0, 1, 3]);
    let model = read(&file(&PICTURE, vec![pad], vec![], "y"), &LoadOptions::default()).unwrap();
    let selected: Vec<&Op> = model.graph.layers.iter().map(|layer| &layer.op).collect();
    let rows = Op::Select { axis: 2, indices: vec![2, 1, 0, 1, 2, 3, 2] };
    let cols = Op::Select { axis: 3, indices: vec![0, 1, 2, 3, 2, 1, 0] };
    assert_eq!(selected, [&rows, &cols]);
    let pad = with_string(node("Pad", &["x"], "y"), "mode", "reflect");
    let pad = with_ints(pad, "pads", &[0, 0, 4, 0, 0, 0, 0, 0]);
    let failed = error(&file(&PICTURE, vec![pad], vec![], "y"));
    assert!(failed.to_string().contains("at most 3"), "{failed}");
}

#[test]
fn a_tile_repeats_places() {
    let repeats = |values: &[i64]| TensorProto {
        name: Some("times".into()),
        dims: vec![4],
        data_type: Some(DataType::INT64),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    };
    let tile = |times: &[i64]| {
        let nodes = vec![node("Tile", &["x", "times"], "y")];
        file(&PICTURE, nodes, vec![repeats(times)], "y")
    };
    let model = read(&tile(&[1, 2, 1, 1]), &LoadOptions::default()).unwrap();
    let op = &model.graph.layers[0].op;
    assert_eq!(*op, Op::Select { axis: 1, indices: vec![0, 1, 0, 1] });
    // A small file must not ask for much memory.
    for times in [[1, 1 << 40, 1, 1], [1, i64::MAX, 2, 2], [1, 0, 1, 1], [1, -1, 1, 1]] {
        let failed = error(&tile(&times));
        assert!(matches!(failed, ModelError::UnsupportedShape { .. }), "{failed}");
    }
    let pad = with_string(node("Pad", &["x"], "y"), "mode", "edge");
    let pad = with_ints(pad, "pads", &[0, 0, 1 << 40, 0, 0, 0, 0, 0]);
    let failed = error(&file(&PICTURE, vec![pad], vec![], "y"));
    assert!(matches!(failed, ModelError::TooLarge { .. }), "{failed}");
}

#[test]
fn half_floats_are_widened() {
    let weights = TensorProto {
        name: Some("w".into()),
        dims: vec![1, 2, 1, 1],
        data_type: Some(DataType::FLOAT16),
        // 1.5 and -2.
        raw_data: Some(std::cell::RefCell::new(vec![0x00, 0x3e, 0x00, 0xc0])),
        ..TensorProto::default()
    };
    let nodes = vec![node("Conv", &["x", "w"], "y")];
    let model = read(&file(&PICTURE, nodes, vec![weights], "y"), &LoadOptions::default()).unwrap();
    let Op::Conv { weights, .. } = model.graph.layers[0].op else { panic!() };
    assert_eq!(**model.elements(weights), [1.5, -2.0]);
}
