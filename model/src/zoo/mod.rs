//! Known architectures with made-up weights: the real shapes and the real work, no download.
//!
//! The weights are seeded, so that everybody has the same model, and scaled so that activations
//! stay finite and of ordinary size from the first layer to the last. The answers mean nothing.

mod classifiers;
mod detectors;
mod mobile;
mod net;
mod random;
mod restorers;
mod towers;
mod unet;
mod yolov8;

use crate::error::ModelError;
use crate::graph::{Layout, LoadedModel, MapId, Shape};
use crate::onnx::{self, InputSpec, LoadOptions};
use crate::quant::Element;
use crate::window::Axes;
use net::{Built, Net};
use std::collections::BTreeMap;
use std::path::Path;

/// What a reference to the zoo begins with.
const PREFIX: &str = "zoo:";

/// Largest number of rows or columns of an input.
const SIDE_MAX: usize = 4096;

struct Architecture {
    name: &'static str,
    /// Rows and columns of the input by default.
    side: usize,
    /// What rows and columns must be a multiple of.
    step: usize,
    build: fn(&mut Net, MapId) -> Built,
}

const ARCHITECTURES: [Architecture; 18] = [
    Architecture { name: "vgg16", side: 224, step: 32, build: classifiers::vgg16 },
    Architecture { name: "yolov2", side: 608, step: 32, build: detectors::yolov2 },
    Architecture { name: "tiny-yolov2", side: 416, step: 32, build: detectors::tiny_yolov2 },
    Architecture { name: "resnet50", side: 224, step: 32, build: classifiers::resnet50 },
    Architecture { name: "mobilenetv2", side: 224, step: 32, build: classifiers::mobilenetv2 },
    Architecture { name: "unet", side: 256, step: 16, build: unet::unet },
    Architecture { name: "squeezenet", side: 224, step: 32, build: classifiers::squeezenet },
    Architecture { name: "alexnet", side: 224, step: 32, build: towers::alexnet },
    Architecture { name: "googlenet", side: 224, step: 32, build: towers::googlenet },
    Architecture { name: "densenet121", side: 224, step: 32, build: towers::densenet121 },
    Architecture { name: "mobilenetv3", side: 224, step: 32, build: mobile::mobilenetv3 },
    Architecture { name: "efficientnet-b0", side: 224, step: 32, build: mobile::efficientnet_b0 },
    Architecture { name: "shufflenetv2", side: 224, step: 32, build: mobile::shufflenetv2 },
    Architecture { name: "yolov3-tiny", side: 416, step: 32, build: detectors::yolov3_tiny },
    Architecture { name: "yolov8n", side: 640, step: 32, build: yolov8::yolov8n },
    Architecture { name: "espcn", side: 256, step: 1, build: restorers::espcn },
    Architecture { name: "dncnn", side: 256, step: 1, build: restorers::dncnn },
    Architecture { name: "rrdb", side: 128, step: 1, build: restorers::rrdb },
];

/// The names that [`open`] knows, without `zoo:`.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// Opens a model by reference: the path of an ONNX file, `zoo:NAME` or `zoo:NAME@ROWSxCOLS`. Weights that
/// are half floats in the file stay so.
///
/// The size in a reference goes before the one in the options, that before the usual one.
///
/// *Errors* as [`onnx::load`], or when the zoo has no such model or the model no such size.
pub fn open(reference: &str, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    let loaded = match reference.strip_prefix(PREFIX) {
        None => onnx::load(Path::new(reference), options),
        Some(_) => {
            let (architecture, size) = find(reference, options)?;
            build(architecture, size)
        }
    };
    loaded.map(LoadedModel::with_halves_found)
}

/// The inputs of a model by reference, without building it or reading its weights: what a caller
/// needs to choose the size of a picture.
///
/// *Errors* as [`onnx::input_spec`], or when the zoo has no such model or the model no such size.
pub fn input_spec(reference: &str) -> Result<Vec<InputSpec>, ModelError> {
    if !reference.starts_with(PREFIX) {
        return onnx::input_spec(Path::new(reference));
    }
    let (_, size) = find(reference, &LoadOptions::default())?;
    let dims = vec![Some(1), Some(3), Some(size.rows), Some(size.cols)];
    Ok(vec![InputSpec {
        name: INPUT.into(),
        dims,
        element: Element::F32,
        layout: Layout::ChannelsSecond,
    }])
}

/// The metadata of a model by reference; the zoo has none.
///
/// *Errors* as [`onnx::metadata`].
pub fn metadata(reference: &str) -> Result<BTreeMap<String, String>, ModelError> {
    match reference.starts_with(PREFIX) {
        true => Ok(BTreeMap::new()),
        false => onnx::metadata(Path::new(reference)),
    }
}

/// The name of the input of every architecture.
const INPUT: &str = "input";

fn build(architecture: &Architecture, size: Axes<usize>) -> Result<LoadedModel, ModelError> {
    let mut net = Net::new(architecture.name);
    let shape = Shape::Spatial { channels: 3, rows: size.rows, cols: size.cols };
    let input = net.builder.input(INPUT, shape)?;
    let output = (architecture.build)(&mut net, input)?;
    net.builder.output(output);
    net.builder.finish()
}

fn find(
    reference: &str,
    options: &LoadOptions,
) -> Result<(&'static Architecture, Axes<usize>), ModelError> {
    let unknown = || ModelError::UnknownArchitecture {
        reference: reference.into(),
        known: names().map(|name| format!("{PREFIX}{name}")).collect::<Vec<_>>().join(", ").into(),
    };
    let name = reference.strip_prefix(PREFIX).ok_or_else(unknown)?;
    let (name, size) = match name.split_once('@') {
        Some((name, size)) => (name, Some(size)),
        None => (name, None),
    };
    let architecture = ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(unknown)?;
    let step = architecture.step;
    let wrong = |got: String| ModelError::UnsupportedSize {
        reference: reference.into(),
        expected: format!("ROWSxCOLS, multiples of {step} up to {SIDE_MAX}").into(),
        got: got.into(),
    };
    let size = match size {
        None => options.input_size.unwrap_or(Axes::new(architecture.side, architecture.side)),
        Some(text) => {
            let sides = text.split_once('x').map(|(rows, cols)| (rows.parse(), cols.parse()));
            match sides {
                Some((Ok(rows), Ok(cols))) => Axes::new(rows, cols),
                _ => return Err(wrong(text.into())),
            }
        }
    };
    let fits = |side: usize| side > 0 && side <= SIDE_MAX && side.is_multiple_of(step);
    if !fits(size.rows) || !fits(size.cols) {
        return Err(wrong(format!("{}x{}", size.rows, size.cols)));
    }
    Ok((architecture, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let find = |reference| {
            find(reference, &LoadOptions::default()).map(|(a, size)| (a.name, size.rows, size.cols))
        };
        assert_eq!(find("zoo:yolov2").unwrap(), ("yolov2", 608, 608));
        assert_eq!(find("zoo:unet@64x96").unwrap(), ("unet", 64, 96));
        assert!(matches!(find("zoo:unet@64x90"), Err(ModelError::UnsupportedSize { .. })));
        assert!(matches!(find("zoo:unet@64"), Err(ModelError::UnsupportedSize { .. })));
        assert!(matches!(find("zoo:unet@0x0"), Err(ModelError::UnsupportedSize { .. })));
        assert!(matches!(find("zoo:lenet"), Err(ModelError::UnknownArchitecture { .. })));
    }

    #[test]
    fn inputs_without_building() {
        let inputs = input_spec("zoo:vgg16").unwrap();
        assert_eq!(inputs[0].channels(), Some(3));
        assert_eq!(inputs[0].rows(), Some(224));
    }

    #[test]
    fn work_is_that_of_the_published_networks() {
        // Multiply-adds in units of 10^7, as the papers and model cards have them.
        let work = |reference: &str| {
            let model = open(reference, &LoadOptions::default()).unwrap();
            (model.graph.multiply_adds() as f64 / 1e7).round() as u64
        };
        assert_eq!(work("zoo:resnet50"), 409);
        assert_eq!(work("zoo:mobilenetv2"), 30);
        assert_eq!(work("zoo:squeezenet"), 35);
        assert_eq!(work("zoo:alexnet"), 71);
        assert_eq!(work("zoo:googlenet"), 158);
        assert_eq!(work("zoo:densenet121"), 283);
        assert_eq!(work("zoo:mobilenetv3"), 22);
        assert_eq!(work("zoo:efficientnet-b0"), 39);
        assert_eq!(work("zoo:shufflenetv2"), 14);
        // Darknet counts 62.94 billion operations, which are two for each multiply-add.
        assert_eq!(work("zoo:yolov2"), 3147);
    }

    #[test]
    fn yolov2_has_the_layers_of_darknet() {
        let model = open("zoo:yolov2@64x64", &LoadOptions::default()).unwrap();
        let count = |name: &str| model.graph.layers.iter().filter(|l| l.op.name() == name).count();
        assert_eq!([count("Conv"), count("MaxPool"), count("SpaceToDepth")], [23, 5, 1]);
        assert_eq!(model.graph.shape(model.graph.outputs[0]).to_string(), "425x2x2");
    }

    #[test]
    fn the_same_weights_for_everybody() {
        let model = open("zoo:unet@16x16", &LoadOptions::default()).unwrap();
        let hash = model.graph.weights[0].hash.to_string();
        assert_eq!(hash[..16], *"50a1e89b098ad545");
    }
}
