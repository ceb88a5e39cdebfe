//! How long a layer's weights take to be packed, in bytes of the model's weights: what the first frame
//! of a plan waits for.

mod cases;

use divan::Bencher;
use divan::counter::BytesCount;
use kernels::PackedModel;
use model::LayerId;
use tiling::Algorithm;

fn main() {
    divan::main();
}

const LAYERS: [&str; 3] = ["VGG 3x3 128@112", "VGG 3x3 512@28", "YOLO 3x3 512-1024@19"];

fn run(bencher: Bencher<'_, '_>, name: &str, algorithm: Algorithm) {
    let model = cases::all().find(|case| case.name == name).expect("a known name").model();
    let is_weighted = |at: &usize| !model.graph.layers[*at].op.weight_ids().is_empty();
    let at = (0..model.graph.layers.len()).find(is_weighted).expect("a layer with weights");
    let layer = LayerId(at as u32);
    let ids = model.graph.layer(layer).op.weight_ids();
    let bytes: usize = ids.iter().map(|&id| model.graph.weight(id).bytes()).sum();
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(|| PackedModel::new(model.graph.clone()))
        .bench_local_refs(|packed| {
            packed.pack(layer, algorithm, &model.weights).expect("a sound model")
        });
}

#[divan::bench(args = LAYERS)]
fn direct(bencher: Bencher<'_, '_>, name: &str) {
    run(bencher, name, Algorithm::Direct);
}

#[divan::bench(args = LAYERS)]
fn winograd4(bencher: Bencher<'_, '_>, name: &str) {
    run(bencher, name, Algorithm::Winograd4);
}

#[divan::bench(args = LAYERS)]
fn winograd6(bencher: Bencher<'_, '_>, name: &str) {
    run(bencher, name, Algorithm::Winograd6);
}
