//! The type of every operator's output elements, and of its weights.

use super::{Mismatch, one_element};
use crate::op::{Activation, Op, PoolKind, QProduct, ResizeMode};
use crate::quant::Element;
use crate::weights::{WeightId, WeightInfo};

/// What the elements of a layer's output are.
///
/// *Errors* when an input or a weight tensor has elements that the operator does not take.
pub fn infer_element(
    op: &Op,
    inputs: &[Element],
    weights: &[WeightInfo],
) -> Result<Element, Mismatch> {
    let weight = |id: WeightId, expected: Element| match weights.get(id.0 as usize) {
        Some(info) if info.element == expected => Ok(()),
        Some(info) => {
            Err(Mismatch::new(format!("a weight of {expected}"), info.element.to_string()))
        }
        None => Err(Mismatch::new(format!("a weight below {}", weights.len()), id.0.to_string())),
    };
    let product = |product: &QProduct| {
        weight(product.weights, Element::I8)?;
        weight(product.scales, Element::F32)?;
        product.zeros.map_or(Ok(()), |zeros| weight(zeros, Element::I8))?;
        product.bias.map_or(Ok(()), |bias| weight(bias, Element::I32))?;
        all(inputs, product.input.element)?;
        Ok(product.output.element)
    };
    match op {
        Op::Quantize { output } => all(inputs, Element::F32).map(|()| output.element),
        Op::Dequantize { input } => all(inputs, input.element).map(|()| Element::F32),
        Op::Requantize { input, output, .. } | Op::QGlobalAveragePool { input, output } => {
            all(inputs, input.element).map(|()| output.element)
        }
        Op::QConv { product: p, .. } | Op::QLinear { product: p } => product(p),
        Op::QCombine { inputs: quants, output, .. } => {
            for (input, quant) in inputs.iter().zip(quants) {
                all(&[*input], quant.element)?;
            }
            Ok(output.element)
        }
        Op::Constant { value } => {
            let info = weights.get(value.0 as usize);
            let info = info.filter(|info| info.element.is_of_maps());
            info.map(|info| info.element).ok_or_else(|| {
                Mismatch::new("a constant of f32, u8 or i8", "another, or none".to_string())
            })
        }
        Op::Pool { kind: PoolKind::Max, .. }
        | Op::Activate(Activation::None)
        | Op::Concat
        | Op::ConcatGeneral { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. }
        | Op::Reshape
        | Op::Select { .. }
        | Op::Transpose { .. } => one_element(inputs),
        Op::Resize { mode, .. } if *mode != ResizeMode::Bilinear => one_element(inputs),
        Op::Pad { value, .. } => {
            let element = one_element(inputs)?;
            let (low, high) = element.range();
            let fits = (low as f32..=high as f32).contains(value) && value.fract() == 0.0;
            if element == Element::F32 || fits {
                return Ok(element);
            }
            Err(Mismatch::new(format!("padding that is a value of {element}"), value.to_string()))
        }
        _ => {
            let factors = op.factors();
            let is_half = |id: WeightId| {
                let info = weights.get(id.0 as usize);
                factors.contains(&id) && info.is_some_and(|info| info.element == Element::F16)
            };
            let whole = op.weight_ids().into_iter().filter(|&id| !is_half(id));
            whole.into_iter().try_for_each(|id| weight(id, Element::F32))?;
            all(inputs, Element::F32).map(|()| Element::F32)
        }
    }
}

/// All inputs have elements of one kind.
fn all(inputs: &[Element], expected: Element) -> Result<(), Mismatch> {
    match inputs.iter().find(|input| **input != expected) {
        None => Ok(()),
        Some(got) => Err(Mismatch::new(format!("inputs of {expected}"), got.to_string())),
    }
}
