//! Constants computed element by element.

use super::{Budget, Fold};
use crate::error::ModelError;
use crate::infer::broadcast;
use crate::onnx::elements::{broadcast_strides, walk};
use crate::onnx::tensor::{Data, Tensor};
use std::sync::Arc;

impl Fold<'_> {
    pub(super) fn arithmetic(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, left, right) = (self.node, self.input(0)?, self.input(1)?);
        let dims = broadcast(&left.dims, &right.dims).map_err(|m| node.mismatch(m))?;
        budget.spend(node, &dims)?;
        let pairs = walk(&dims, &broadcast_strides(&left.dims, dims.len()), 0).zip(walk(
            &dims,
            &broadcast_strides(&right.dims, dims.len()),
            0,
        ));
        let data = match (&left.data, &right.data) {
            (Data::Float(a), Data::Float(b)) => {
                let compare: Option<fn(f32, f32) -> bool> = match node.operator {
                    "Equal" => Some(|a, b| a == b),
                    "Less" => Some(|a, b| a < b),
                    "Greater" => Some(|a, b| a > b),
                    _ => None,
                };
                if let Some(compare) = compare {
                    let values = pairs.map(|(i, j)| i64::from(compare(a[i], b[j]))).collect();
                    return Ok(Tensor { dims, data: Data::Int(Arc::new(values)) });
                }
                let compute: fn(f32, f32) -> f32 = match node.operator {
                    "Add" => |a, b| a + b,
                    "Sub" => |a, b| a - b,
                    "Mul" => |a, b| a * b,
                    "Pow" => f32::powf,
                    "Min" => f32::min,
                    "Max" => f32::max,
                    "Div" => |a, b| a / b,
                    other => {
                        return node.unsupported(
                            "inputs",
                            "integers",
                            format!("{other} of floats"),
                        );
                    }
                };
                Data::Float(Arc::new(pairs.map(|(i, j)| compute(a[i], b[j])).collect()))
            }
            (Data::Int(a), Data::Int(b)) => {
                let compute: fn(i64, i64) -> Option<i64> = match node.operator {
                    "Add" => i64::checked_add,
                    "Sub" => i64::checked_sub,
                    "Mul" => i64::checked_mul,
                    "Pow" => |a, b| a.checked_pow(u32::try_from(b).ok()?),
                    // Python's, whose sign is the divisor's.
                    "Mod" => |a, b| a.checked_rem(b)?.checked_add(b)?.checked_rem(b),
                    "Min" => |a, b| Some(a.min(b)),
                    "Max" => |a, b| Some(a.max(b)),
                    "Equal" => |a, b| Some((a == b).into()),
                    "Less" => |a, b| Some((a < b).into()),
                    "Greater" => |a, b| Some((a > b).into()),
                    "And" => |a, b| Some((a != 0 && b != 0).into()),
                    "Or" => |a, b| Some((a != 0 || b != 0).into()),
                    _ => i64::checked_div,
                };
                let values: Option<Vec<i64>> = pairs.map(|(i, j)| compute(a[i], b[j])).collect();
                let Some(values) = values else {
                    return node.unsupported("inputs", "integers with a result", "an overflow");
                };
                Data::Int(Arc::new(values))
            }
            _ => return node.unsupported("inputs", "two of f32 or i64", "other types"),
        };
        Ok(Tensor { dims, data })
    }

    pub(super) fn unary(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        budget.spend(node, &input.dims)?;
        let data = match (&input.data, node.operator) {
            (Data::Float(values), operator) => {
                let compute: fn(f32) -> f32 = match operator {
                    "Floor" => f32::floor,
                    "Ceil" => f32::ceil,
                    "Sqrt" => f32::sqrt,
                    "Exp" => f32::exp,
                    "Log" => f32::ln,
                    "Reciprocal" => f32::recip,
                    "Abs" => f32::abs,
                    "Neg" => |value| -value,
                    _ => return node.unsupported("inputs", "booleans", "floats"),
                };
                Data::Float(Arc::new(values.iter().map(|value| compute(*value)).collect()))
            }
            (Data::Int(values), "Neg") => {
                Data::Int(Arc::new(values.iter().map(|value| value.wrapping_neg()).collect()))
            }
            (Data::Int(values), "Abs") => {
                Data::Int(Arc::new(values.iter().map(|value| value.wrapping_abs()).collect()))
            }
            (Data::Int(values), "Not") => {
                Data::Int(Arc::new(values.iter().map(|value| i64::from(*value == 0)).collect()))
            }
            _ => return node.unsupported("inputs", "floats", "integers"),
        };
        Ok(Tensor { dims: input.dims.clone(), data })
    }

    /// Elements of the second input where the first is true, of the third elsewhere.
    pub(super) fn choose(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, yes, no) = (self.node, self.input(1)?, self.input(2)?);
        let condition = self.input(0)?;
        let mismatch = |m| node.mismatch(m);
        let dims = broadcast(&condition.dims, &yes.dims).map_err(mismatch)?;
        let dims = broadcast(&dims, &no.dims).map_err(mismatch)?;
        budget.spend(node, &dims)?;
        let offsets = |t: &Tensor| walk(&dims, &broadcast_strides(&t.dims, dims.len()), 0);
        let Some(is_true) = condition.as_ints() else {
            return node.unsupported("condition", "booleans", "floats");
        };
        let places = offsets(condition).zip(offsets(yes).zip(offsets(no)));
        let data = match (&yes.data, &no.data) {
            (Data::Float(a), Data::Float(b)) => Data::Float(Arc::new(
                places.map(|(c, (i, j))| if is_true[c] != 0 { a[i] } else { b[j] }).collect(),
            )),
            (Data::Int(a), Data::Int(b)) => Data::Int(Arc::new(
                places.map(|(c, (i, j))| if is_true[c] != 0 { a[i] } else { b[j] }).collect(),
            )),
            _ => return node.unsupported("inputs", "two of f32 or i64", "other types"),
        };
        Ok(Tensor { dims, data })
    }
}
