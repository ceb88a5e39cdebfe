//! Functions of each element on its own.

use super::{not_spatial, per_channel};
use crate::error::ModelError;
use crate::graph::MapId;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::op::{Activation, Op};

type Lowered = Result<MapId, ModelError>;

pub(super) fn activate(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let mut input = 0;
    let activation = match node.operator {
        "Relu" => plain(node, Activation::Relu)?,
        "Sigmoid" => plain(node, Activation::Sigmoid)?,
        "Tanh" => plain(node, Activation::Tanh)?,
        "HardSwish" => plain(node, Activation::HardSwish)?,
        "Identity" => plain(node, Activation::None)?,
        "LeakyRelu" => {
            node.allow(&["alpha"])?;
            Activation::LeakyRelu { alpha: node.float("alpha", 0.01) }
        }
        "HardSigmoid" => {
            node.allow(&["alpha", "beta"])?;
            Activation::HardSigmoid {
                alpha: node.float("alpha", 0.2),
                beta: node.float("beta", 0.5),
            }
        }
        "Swish" => {
            node.allow(&["alpha"])?;
            match node.float("alpha", 1.0) {
                1.0 => Activation::Silu,
                alpha => return node.unsupported("alpha", "1", alpha.to_string()),
            }
        }
        "Dropout" => dropout(importer, node)?,
        "Clip" => clip(importer, node)?,
        _ => {
            let (map, activation) = bound(importer, node)?;
            input = map;
            activation
        }
    };
    let map = importer.map(node, input)?;
    importer.emit(node, Op::Activate(activation), &[map], None)
}

pub(super) fn prelu(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let Some(slope) = importer.constant(node, 1, "slope")?.cloned() else {
        return node.unsupported("slope", "a constant", "none");
    };
    if let Some([alpha]) = slope.as_floats().map(|values| values.as_slice()) {
        let activation = Activation::LeakyRelu { alpha: *alpha };
        return importer.emit(node, Op::Activate(activation), &[map], None);
    }
    let shape = importer.builder.shape(map);
    if !shape.is_spatial() {
        return Err(not_spatial(node, &shape.dims()));
    }
    let Some(values) = per_channel(&slope, shape) else {
        return node.bad_shape(
            format!("a slope for each channel of {:?}", shape.dims()),
            format!("{:?}", slope.dims),
        );
    };
    let channels = values.len();
    let slope = importer.builder.weight(values, &[channels])?;
    importer.emit(node, Op::PRelu { slope }, &[map], None)
}

fn plain(node: &Node<'_>, activation: Activation) -> Result<Activation, ModelError> {
    node.allow(&[])?;
    Ok(activation)
}

/// Inference leaves elements as they are.
fn dropout(importer: &Importer<'_>, node: &Node<'_>) -> Result<Activation, ModelError> {
    node.allow(&["ratio", "seed"])?;
    let training = importer.constant(node, 2, "training_mode")?;
    match training.and_then(|tensor| tensor.as_ints()) {
        Some([0]) | None => Ok(Activation::None),
        Some(_) => node.unsupported("training_mode", "false", "true"),
    }
}

fn clip(importer: &Importer<'_>, node: &Node<'_>) -> Result<Activation, ModelError> {
    node.allow(&["min", "max"])?;
    let bound = |index: usize, name: &str, default: f32| -> Result<f32, ModelError> {
        match importer.constant(node, index, name)? {
            None => Ok(node.float(name, default)),
            Some(tensor) => match tensor.as_floats().map(|values| values.as_slice()) {
                Some([value]) => Ok(*value),
                _ => node.unsupported(name, "one float", format!("dims {:?}", tensor.dims)),
            },
        }
    };
    let min = bound(1, "min", f32::NEG_INFINITY)?;
    let max = bound(2, "max", f32::INFINITY)?;
    Ok(Activation::Clip { min, max })
}

/// `Min` and `Max` of a map and a number, which some converters write for a clip.
fn bound(importer: &Importer<'_>, node: &Node<'_>) -> Result<(usize, Activation), ModelError> {
    node.allow(&[])?;
    let number = |index: usize| match importer.value(node, index) {
        Ok(Value::Constant(tensor)) if tensor.dims.len() <= 1 => match tensor.as_floats()?[..] {
            [number] => Some(number),
            _ => None,
        },
        _ => None,
    };
    let (map, number) = match (node.proto.input.len(), number(0), number(1)) {
        (2, None, Some(number)) => (0, number),
        (2, Some(number), None) => (1, number),
        _ => return node.unsupported("inputs", "a map and a number", "others"),
    };
    Ok(match node.operator {
        "Max" => (map, Activation::Clip { min: number, max: f32::INFINITY }),
        _ => (map, Activation::Clip { min: f32::NEG_INFINITY, max: number }),
    })
}
