//! How many zeros maps are taken to have before anybody has seen them.

use model::{Activation, CombineKind, Layer, MapId, Model, Op, PoolKind, ResizeMode};

/// A convolution's values are above zero as often as below. *Source*: our own measurement of the 49
/// rectified convolutions of U-Net, VGG16, ResNet-50 and MobileNetV2 of the zoo that are no sums: 39 to
/// 62 % are zeros, 50 % on average.
const RECTIFIED_PER_MILLE: u32 = 500;

/// One of the summands of a residual block was rectified itself. *Source*: as above, 19 to 33 %.
const RECTIFIED_SUM_PER_MILLE: u32 = 250;

/// The largest of four neighbours is a zero where all are, which are alike. *Source*: as above, eight
/// pools of two by two: 8 to 44 % of what was a half, 32 % on average. Of nine neighbours none was left.
const POOLED_PER_MILLE: u32 = 640;
const POOLED_MAX: usize = 4;

/// Of each map, how many of a thousand values are likely to be zeros.
pub(crate) fn expected(model: &Model) -> Vec<u32> {
    let mut zeros = vec![0; model.maps.len()];
    for layer in &model.layers {
        let made = of_layer(model, layer, &zeros);
        if let Some(zeros) = zeros.get_mut(layer.output.index()) {
            *zeros = made;
        }
    }
    zeros
}

fn of_layer(model: &Model, layer: &Layer, zeros: &[u32]) -> u32 {
    let of = |map: &MapId| zeros.get(map.index()).copied().unwrap_or(0);
    let first = layer.inputs.first().map_or(0, of);
    match &layer.op {
        Op::Combine { kind: CombineKind::Add, activation } => match rectifies(activation) {
            true => RECTIFIED_SUM_PER_MILLE,
            false => 0,
        },
        Op::Conv { activation, .. }
        | Op::ConvTranspose { activation, .. }
        | Op::ChannelAffine { activation, .. }
        | Op::Linear { activation, .. }
        | Op::LinearRows { activation, .. }
        | Op::Activate(activation) => match rectifies(activation) {
            true => RECTIFIED_PER_MILLE,
            false => 0,
        },
        Op::Pool { window, kind: PoolKind::Max }
            if window.kernel.rows * window.kernel.cols <= POOLED_MAX =>
        {
            first * POOLED_PER_MILLE / 1000
        }
        Op::Resize { mode: ResizeMode::Bilinear, .. } => 0,
        // The same values again, as many of each as before.
        Op::Resize { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. }
        | Op::Select { .. }
        | Op::Reshape
        | Op::Transpose { .. } => first,
        Op::Concat => {
            let channels = |map: &MapId| model.shape(*map).channels() as u64;
            let all: u64 = layer.inputs.iter().map(channels).sum();
            let sum: u64 = layer.inputs.iter().map(|map| channels(map) * u64::from(of(map))).sum();
            (sum / all.max(1)) as u32
        }
        _ => 0,
    }
}

/// Whether an activation makes zeros of all that is below.
fn rectifies(activation: &Activation) -> bool {
    match activation {
        Activation::Relu => true,
        Activation::Clip { min, max } => *min == 0.0 && *max > 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, open};

    #[test]
    fn maps_after_a_rectifier_are_half_zeros() {
        let model = open("zoo:unet@32x32", &LoadOptions::default()).unwrap().graph;
        let zeros = expected(&model);
        let of = |is: &dyn Fn(&Op) -> bool| -> Vec<u32> {
            let layers = model.layers.iter().filter(|layer| is(&layer.op));
            layers.map(|layer| zeros[layer.output.index()]).collect()
        };
        assert_eq!(zeros[model.inputs[0].index()], 0);
        assert_eq!(of(&|op| matches!(op, Op::Pool { .. })), [320; 4]);
        assert_eq!(of(&|op| matches!(op, Op::Resize { .. } | Op::Concat)), [500; 8]);
        // The answer has a sigmoid.
        assert_eq!(zeros[model.outputs[0].index()], 0);
        let leaky = open("zoo:yolov2@64x64", &LoadOptions::default()).unwrap().graph;
        assert!(expected(&leaky).iter().all(|&zeros| zeros == 0));
        let sums = open("zoo:resnet50@64x64", &LoadOptions::default()).unwrap().graph;
        let zeros = expected(&sums);
        let of = |layer: &Layer| zeros[layer.output.index()];
        let is_sum = |layer: &&Layer| matches!(layer.op, Op::Combine { .. });
        assert!(sums.layers.iter().filter(is_sum).all(|sum| of(sum) == RECTIFIED_SUM_PER_MILLE));
        assert!(sums.layers.iter().any(|layer| of(layer) == RECTIFIED_PER_MILLE));
    }
}
