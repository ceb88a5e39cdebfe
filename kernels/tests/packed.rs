//! What packed weights take is what the geometry says: plans and budgets count with that.

use kernels::PackedModel;
use model::{LoadOptions, open};
use tiling::{Numerics, StageGeometry};

#[test]
fn packed_weights_take_what_is_counted() {
    for name in [
        "zoo:resnet50@64x64",
        "zoo:mobilenetv2@96x96",
        "zoo:unet@64x64",
        "zoo:yolov2@96x96",
        "zoo:efficientnet-b0@64x64",
    ] {
        let model = open(name, &LoadOptions::default()).unwrap();
        for numerics in [Numerics::Exact, Numerics::Fast] {
            let stage = StageGeometry::whole(&model.graph, numerics);
            let weights = stage.tile_weights(&model.graph, 0);
            let packed = weights.iter().flat_map(|layer| layer.packed(&model.graph));
            let counted: u64 = packed.map(|(_, bytes)| bytes).sum();
            let really = PackedModel::new(model.graph.clone());
            really.pack_stage(&stage, &model.weights).unwrap();
            let really = really.bytes() as f64;
            let ratio = counted as f64 / really;
            // Biases are filled up to whole panels, too, and transposed convolutions by their phases.
            assert!((0.99..1.01).contains(&ratio), "{name} {numerics:?}: {counted} of {really}");
        }
    }
}
