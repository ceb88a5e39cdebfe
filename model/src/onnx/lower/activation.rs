//! Functions of each element on its own.

use super::arithmetic::arithmetic;
use super::{not_spatial, per_channel};
use crate::error::ModelError;
use crate::graph::MapId;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::op::{Activation, Op};
use rten_onnx::onnx::DataType;

type Lowered = Result<MapId, ModelError>;

pub(super) fn activate(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let activation = match node.operator {
        "Relu" => plain(node, Activation::Relu)?,
        "Sigmoid" => plain(node, Activation::Sigmoid)?,
        "Tanh" => plain(node, Activation::Tanh)?,
        "HardSwish" => plain(node, Activation::HardSwish)?,
        "Identity" => plain(node, Activation::None)?,
        "Softplus" => plain(node, Activation::Softplus)?,
        "Softsign" => plain(node, Activation::Softsign)?,
        "Mish" => plain(node, Activation::Mish)?,
        "Erf" => plain(node, Activation::Erf)?,
        "Exp" => plain(node, Activation::Exp)?,
        "Sqrt" => plain(node, Activation::Sqrt)?,
        "Abs" => plain(node, Activation::Abs)?,
        "Cast" => cast(node)?,
        "Elu" => {
            node.allow(&["alpha"])?;
            Activation::Elu { alpha: node.float("alpha", 1.0) }
        }
        "Gelu" => {
            node.allow(&["approximate"])?;
            match node.string("approximate", "none") {
                "none" => Activation::Gelu,
                "tanh" => Activation::GeluTanh,
                other => return node.unsupported("approximate", "none or tanh", other),
            }
        }
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
        _ => clip(importer, node)?,
    };
    let map = importer.map(node, 0)?;
    importer.emit(node, Op::Activate(activation), &[map], None)
}

/// Selu is `gamma * elu(x)`, Celu `alpha * elu(x / alpha)`.
pub(super) fn scaled_elu(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["alpha", "gamma"])?;
    let (before, alpha, after) = match node.operator {
        "Selu" => (1.0, node.float("alpha", 1.673_263_2), node.float("gamma", 1.050_701)),
        _ => {
            let alpha = node.float("alpha", 1.0);
            (alpha.recip(), 1.0, alpha)
        }
    };
    let mut map = importer.map(node, 0)?;
    if before != 1.0 {
        let op = scale(importer, node, map, before)?;
        map = importer.emit_helper(node, op, &[map], None)?;
    }
    let elu = Op::Activate(Activation::Elu { alpha });
    let map = importer.emit_helper(node, elu, &[map], None)?;
    let op = scale(importer, node, map, after)?;
    importer.emit(node, op, &[map], None)
}

/// The product with a number.
fn scale(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    map: MapId,
    factor: f32,
) -> Result<Op, ModelError> {
    let channels = importer.builder.shape(map).channels();
    importer.spend(node, channels)?;
    Ok(Op::ChannelAffine {
        scale: importer.builder.weight(vec![factor; channels], &[channels])?,
        shift: importer.builder.weight(vec![0.0; channels], &[channels])?,
        activation: Activation::None,
    })
}

/// Floats of every width are computed as f32.
fn cast(node: &Node<'_>) -> Result<Activation, ModelError> {
    node.allow(&["to", "saturate", "round_mode"])?;
    let to = DataType(i32::try_from(node.int("to", 0)).unwrap_or(0));
    match to {
        DataType::FLOAT | DataType::FLOAT16 | DataType::BFLOAT16 | DataType::DOUBLE => {
            Ok(Activation::None)
        }
        to => node.unsupported("to", "a float type", to.to_string()),
    }
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

/// `Min` and `Max`: of a map and a number, as some converters write a clip, or of maps.
pub(super) fn bound(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
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
        _ => return arithmetic(importer, node),
    };
    let clip = match node.operator {
        "Max" => Activation::Clip { min: number, max: f32::INFINITY },
        _ => Activation::Clip { min: f32::NEG_INFINITY, max: number },
    };
    let map = importer.map(node, map)?;
    importer.emit(node, Op::Activate(clip), &[map], None)
}
