//! A large fully connected layer, cut by its outputs.

mod support;

use model::builder::Builder;
use model::{Activation, Op, Shape, Window};
use ndarray::ArrayD;
use ndarray_npy::{read_npy, write_npy};
use support::{Folder, text};

const LAYER_BYTES: u64 = 4 << 22;

/// A convolution, a fully connected layer of 16 MB, and a small one.
fn write_model(folder: &Folder) -> std::path::PathBuf {
    let mut builder = Builder::new("rows", "rows");
    let shape = Shape::Spatial { channels: 3, rows: 16, cols: 16 };
    let input = builder.input("x", shape).unwrap();
    let mut state = 1u32;
    let mut values = |count: usize| -> Vec<f32> {
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    };
    let activation = Activation::None;
    let weights = builder.weight(values(16 * 3 * 9), &[16, 3, 3, 3]).unwrap();
    let window = Window::square(3, 1, 1);
    let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
    let map = builder.layer("conv", op, &[input]).unwrap();
    let flat = Some(Shape::General(vec![1, 4096]));
    let map = builder.layer_to("flat", Op::Reshape, &[map], "flat", flat).unwrap();
    let weights = builder.weight(values(1024 * 4096), &[1024, 4096]).unwrap();
    let bias = Some(builder.weight(values(1024), &[1024]).unwrap());
    let activation = Activation::Relu;
    let map = builder.layer("large", Op::Linear { weights, bias, activation }, &[map]).unwrap();
    let weights = builder.weight(values(10 * 1024), &[10, 1024]).unwrap();
    let activation = Activation::None;
    let map =
        builder.layer("small", Op::Linear { weights, bias: None, activation }, &[map]).unwrap();
    builder.output(map);
    let path = folder.path("rows.onnx");
    model::write_onnx(&builder.finish().unwrap(), &path).unwrap();
    path
}

#[test]
fn devices_get_the_weights_of_their_own_rows() {
    let folder = Folder::new();
    let model = write_model(&folder);
    let input = folder.path("x.npy");
    let values =
        ArrayD::from_shape_fn(vec![1, 3, 16, 16], |at| ((at[1] + at[2] * at[3]) % 7) as f32);
    write_npy(&input, &values).unwrap();
    let run = |extra: &[&str]| {
        let answer = folder.path("y.npy");
        let start = ["run", text(&model), text(&input), "-o", text(&answer)];
        let report = folder.report(&[&start, extra].concat());
        let weights: Vec<u64> = (report["workers"].as_array().unwrap().iter())
            .map(|worker| worker["weight_bytes"].as_u64().unwrap())
            .collect();
        (read_npy::<_, ArrayD<f32>>(&answer).unwrap(), weights)
    };
    let (alone, _) = run(&["--strategy", "local"]);
    let (cut, weights) = run(&["--strategy", "modnn", "--workers", "2", "--no-stealing"]);
    assert!(alone == cut);
    let all: u64 = weights.iter().sum();
    assert!((LAYER_BYTES..LAYER_BYTES * 9 / 8).contains(&all), "{weights:?}");
    assert!(weights.iter().all(|&sent| sent < LAYER_BYTES * 3 / 4), "{weights:?}");
}
