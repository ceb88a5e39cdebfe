//! Computes layers whose inputs are all constants: shape arithmetic, and weights that the file
//! derives from others.

use super::dims::{list, reshaped};
use super::elements::{
    broadcast_strides, broadcast_to, join, select, strides_of, transposed, walk,
};
use super::node::Node;
use super::tensor::{self, Data, Tensor};
use crate::error::ModelError;
use crate::infer::broadcast;
use crate::limits;
use rten_onnx::onnx::DataType;
use std::sync::Arc;

/// Elements that an import may still compute.
pub(super) struct Budget(pub(super) usize);

impl Budget {
    fn spend(&mut self, node: &Node<'_>, dims: &[usize]) -> Result<usize, ModelError> {
        let count = limits::elements(dims).filter(|count| *count <= self.0);
        let Some(count) = count else {
            return Err(ModelError::TooLarge {
                file: node.file.into(),
                what: format!("elements of constants, with layer \"{}\"", node.name).into(),
                limit: limits::FOLDED_ELEMENTS_MAX as u64,
                got: format!("{dims:?}").into(),
            });
        };
        self.0 -= count;
        Ok(count)
    }
}

type Folded = Result<Option<Tensor>, ModelError>;

/// The constant that a node gives for constant inputs; none when the operator is not one of those
/// that are computed here.
pub(super) fn fold(node: &Node<'_>, inputs: &[Option<&Tensor>], budget: &mut Budget) -> Folded {
    let fold = Fold { node, inputs };
    match node.operator {
        "Constant" => fold.constant(budget).map(Some),
        "ConstantOfShape" => fold.constant_of_shape(budget).map(Some),
        "Identity" => fold.input(0).cloned().map(Some),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            let input = fold.input(0)?;
            let dims = reshaped(node, &input.dims, fold.optional(1))?;
            if limits::elements(&dims) != Some(input.len()) {
                return node.bad_shape(format!("{} elements", input.len()), format!("{dims:?}"));
            }
            Ok(Some(input.with_dims(dims)))
        }
        "Cast" => fold.cast(budget).map(Some),
        "Gather" => fold.gather(budget).map(Some),
        "Slice" => fold.slice(budget).map(Some),
        "Concat" => fold.concat(budget).map(Some),
        "Transpose" => fold.transpose(budget).map(Some),
        "Expand" => fold.expand(budget).map(Some),
        "Range" => fold.range(budget).map(Some),
        "Add" | "Sub" | "Mul" | "Div" => fold.arithmetic(budget).map(Some),
        "Floor" | "Ceil" | "Sqrt" | "Neg" => fold.unary(budget).map(Some),
        _ => Ok(None),
    }
}

struct Fold<'a> {
    node: &'a Node<'a>,
    inputs: &'a [Option<&'a Tensor>],
}

impl Fold<'_> {
    fn optional(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    fn input(&self, index: usize) -> Result<&Tensor, ModelError> {
        match self.optional(index) {
            Some(tensor) => Ok(tensor),
            None => self.node.unsupported("inputs", format!("input {index}"), "none"),
        }
    }

    fn constant(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let node = self.node;
        let Some(attribute) = node.proto.attribute.first() else {
            return node.unsupported("value", "a value", "none");
        };
        match attribute.name.as_deref().unwrap_or_default() {
            "value" => {
                let Some(mut proto) = attribute.t.clone() else {
                    return node.unsupported("value", "a tensor", "none");
                };
                proto.name = Some(node.name.to_owned());
                tensor::read(&mut proto, node.file, None)
            }
            "value_float" => Ok(Tensor::floats(vec![], vec![attribute.f.unwrap_or(0.0)])),
            "value_int" => Ok(Tensor::ints(vec![], vec![attribute.i.unwrap_or(0)])),
            "value_floats" => {
                budget.spend(node, &[attribute.floats.len()])?;
                Ok(Tensor::floats(vec![attribute.floats.len()], attribute.floats.clone()))
            }
            "value_ints" => {
                budget.spend(node, &[attribute.ints.len()])?;
                Ok(Tensor::ints(vec![attribute.ints.len()], attribute.ints.clone()))
            }
            other => node.unsupported(other, "a tensor, numbers or a number", "another kind"),
        }
    }

    fn constant_of_shape(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let node = self.node;
        let dims = self.dims_from(0)?;
        let value = match node.attribute("value").and_then(|attribute| attribute.t.clone()) {
            Some(mut proto) => tensor::read(&mut proto, node.file, None)?,
            None => Tensor::floats(vec![1], vec![0.0]),
        };
        if value.len() != 1 {
            return node.unsupported("value", "1 element", format!("{}", value.len()));
        }
        let count = budget.spend(node, &dims)?;
        Ok(select(&value, dims, std::iter::repeat_n(0, count)))
    }

    fn dims_from(&self, index: usize) -> Result<Vec<usize>, ModelError> {
        let list = self.node.int_list("shape", self.input(index)?)?;
        match list.iter().map(|dim| usize::try_from(*dim).ok()).collect() {
            Some(dims) => Ok(dims),
            None => self.node.bad_shape("lengths from 0", format!("{list:?}")),
        }
    }

    fn cast(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let input = self.input(0)?;
        budget.spend(self.node, &input.dims)?;
        let to = DataType(i32::try_from(self.node.int("to", 0)).unwrap_or(0));
        let data = match (to, &input.data) {
            (DataType::FLOAT | DataType::DOUBLE, Data::Int(ints)) => {
                Data::Float(Arc::new(ints.iter().map(|value| *value as f32).collect()))
            }
            (DataType::FLOAT | DataType::DOUBLE, Data::Float(floats)) => {
                Data::Float(floats.clone())
            }
            (DataType::INT64, Data::Int(ints)) => Data::Int(ints.clone()),
            (DataType::INT32, Data::Int(ints)) => {
                Data::Int(Arc::new(ints.iter().map(|value| i64::from(*value as i32)).collect()))
            }
            (DataType::INT64 | DataType::INT32, Data::Float(floats)) => {
                Data::Int(Arc::new(floats.iter().map(|value| *value as i64).collect()))
            }
            (DataType::FLOAT | DataType::INT64 | DataType::INT32, Data::Bytes(..)) => {
                let ints = input.to_ints().unwrap_or_default();
                match to {
                    DataType::FLOAT => {
                        Data::Float(Arc::new(ints.iter().map(|value| *value as f32).collect()))
                    }
                    _ => Data::Int(Arc::new(ints)),
                }
            }
            (DataType::BOOL, Data::Int(ints)) => {
                Data::Int(Arc::new(ints.iter().map(|value| i64::from(*value != 0)).collect()))
            }
            (to, _) => {
                return self.node.unsupported(
                    "to",
                    "a cast between f32, i64 and i32",
                    to.to_string(),
                );
            }
        };
        Ok(Tensor { dims: input.dims.clone(), data })
    }

    fn gather(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input, indices) = (self.node, self.input(0)?, self.input(1)?);
        let axis = node.axis(node.int("axis", 0), input.dims.len())?;
        let length = input.dims[axis];
        let Some(list) = indices.as_ints() else {
            return node.unsupported("indices", "integers", "floats");
        };
        let mut chosen = Vec::with_capacity(list.len());
        for index in list {
            chosen.push(node.axis(*index, length)?);
        }
        let dims = [&input.dims[..axis], &indices.dims, &input.dims[axis + 1..]].concat();
        let count = budget.spend(node, &dims)?;
        let inner: usize = input.dims[axis + 1..].iter().product();
        let outer: usize = input.dims[..axis].iter().product();
        let chosen = &chosen;
        let from = (0..outer).flat_map(|o| {
            chosen.iter().flat_map(move |i| {
                let start = (o * length + i) * inner;
                start..start + inner
            })
        });
        // An empty result ends at once, however many empty pieces it would have.
        Ok(select(input, dims, from.take(count)))
    }

    fn slice(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        let starts = list(node, "starts", self.optional(1))?;
        let ends = list(node, "ends", self.optional(2))?;
        let (Some(starts), Some(ends)) = (starts, ends) else {
            return node.unsupported("starts and ends", "both", "none");
        };
        let axes = list(node, "axes", self.optional(3))?;
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(node, "steps", self.optional(4))?;
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return node.unsupported("starts", "as many as ends, axes and steps", "others");
        }
        let (mut dims, mut strides) = (input.dims.clone(), strides_of(&input.dims));
        let mut first = 0isize;
        for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let axis = node.axis(*axis, dims.len())?;
            let length = dims[axis] as i64;
            let wrap = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
            let (start, end) = match *step {
                0 => return node.unsupported("steps", "a step other than 0", "0"),
                1.. => (wrap(*start).clamp(0, length), wrap(*end).clamp(0, length)),
                _ => (wrap(*start).clamp(-1, length - 1), wrap(*end).clamp(-1, length - 1)),
            };
            let distance = if *step > 0 { end - start } else { start - end };
            let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as usize;
            if count > 0 {
                first += start as isize * strides[axis];
            }
            dims[axis] = count;
            // With one element or none the stride is not used, and must not overflow.
            strides[axis] = if count > 1 { strides[axis] * *step as isize } else { 0 };
        }
        budget.spend(node, &dims)?;
        let from = walk(&dims, &strides, first);
        Ok(select(input, dims, from))
    }

    fn concat(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, first) = (self.node, self.input(0)?);
        let axis = node.axis(node.int("axis", 0), first.dims.len())?;
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        let mut parts = Vec::with_capacity(self.inputs.len());
        for index in 0..self.inputs.len() {
            let part = self.input(index)?;
            let fits = part.dims.len() == dims.len()
                && (0..dims.len()).all(|i| i == axis || part.dims[i] == dims[i])
                && part.as_ints().is_some() == first.as_ints().is_some()
                && part.as_bytes().map(|b| b.0) == first.as_bytes().map(|b| b.0);
            if !fits {
                return node
                    .bad_shape(format!("dims as {:?}", first.dims), format!("{:?}", part.dims));
            }
            dims[axis] += part.dims[axis];
            parts.push(part);
        }
        budget.spend(node, &dims)?;
        // Empty parts could otherwise make a small file take long.
        parts.retain(|part| part.len() > 0);
        let outer: usize = if parts.is_empty() { 0 } else { dims[..axis].iter().product() };
        let chunk = |part: &Tensor| part.dims[axis..].iter().product::<usize>();
        let data = match &first.data {
            Data::Float(_) => Data::Float(Arc::new(join(&parts, outer, chunk, |part| {
                part.as_floats().map_or(&[], |values| values.as_slice())
            }))),
            Data::Int(_) => Data::Int(Arc::new(join(&parts, outer, chunk, |part| {
                part.as_ints().unwrap_or(&[])
            }))),
            Data::Bytes(element, _) => {
                let bytes = join(&parts, outer, chunk, |part| {
                    part.as_bytes().map_or(&[], |(_, bytes)| bytes)
                });
                Data::Bytes(*element, Arc::new(bytes))
            }
        };
        Ok(Tensor { dims, data })
    }

    fn transpose(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let input = self.input(0)?;
        let perm = permutation(self.node, input.dims.len())?;
        budget.spend(self.node, &input.dims)?;
        Ok(transposed(input, &perm))
    }

    fn expand(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input, target) = (self.node, self.input(0)?, self.dims_from(1)?);
        let dims = broadcast(&input.dims, &target).map_err(|mismatch| node.mismatch(mismatch))?;
        budget.spend(node, &dims)?;
        Ok(broadcast_to(input, dims))
    }

    fn range(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let node = self.node;
        let (start, limit, delta) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let one = |tensor: &Tensor| tensor.as_ints().and_then(|ints| ints.first().copied());
        let (Some(start), Some(limit), Some(delta)) = (one(start), one(limit), one(delta)) else {
            return node.unsupported("inputs", "integers", "others");
        };
        if delta == 0 {
            return node.unsupported("delta", "a step other than 0", "0");
        }
        let distance = (i128::from(limit) - i128::from(start)) * i128::from(delta.signum());
        let count = distance.max(0).unsigned_abs().div_ceil(u128::from(delta.unsigned_abs()));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        budget.spend(node, &[count])?;
        let values = (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta)));
        Ok(Tensor::ints(vec![count], values.collect()))
    }

    fn arithmetic(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
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
                let compute: fn(f32, f32) -> f32 = match node.operator {
                    "Add" => |a, b| a + b,
                    "Sub" => |a, b| a - b,
                    "Mul" => |a, b| a * b,
                    _ => |a, b| a / b,
                };
                Data::Float(Arc::new(pairs.map(|(i, j)| compute(a[i], b[j])).collect()))
            }
            (Data::Int(a), Data::Int(b)) => {
                let compute: fn(i64, i64) -> Option<i64> = match node.operator {
                    "Add" => i64::checked_add,
                    "Sub" => i64::checked_sub,
                    "Mul" => i64::checked_mul,
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

    fn unary(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        budget.spend(node, &input.dims)?;
        let data = match (&input.data, node.operator) {
            (Data::Float(values), operator) => {
                let compute: fn(f32) -> f32 = match operator {
                    "Floor" => f32::floor,
                    "Ceil" => f32::ceil,
                    "Sqrt" => f32::sqrt,
                    _ => |value| -value,
                };
                Data::Float(Arc::new(values.iter().map(|value| compute(*value)).collect()))
            }
            (Data::Int(values), "Neg") => {
                Data::Int(Arc::new(values.iter().map(|value| value.wrapping_neg()).collect()))
            }
            _ => return node.unsupported("inputs", "floats", "integers"),
        };
        Ok(Tensor { dims: input.dims.clone(), data })
    }
}

/// The `perm` attribute; by default all axes in reverse.
pub(super) fn permutation(node: &Node<'_>, rank: usize) -> Result<Vec<usize>, ModelError> {
    node.allow(&["perm"])?;
    let Some(ints) = node.ints("perm") else {
        return Ok((0..rank).rev().collect());
    };
    let perm: Vec<usize> = ints.iter().filter_map(|axis| usize::try_from(*axis).ok()).collect();
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if ints.len() == rank && sorted.into_iter().eq(0..rank) {
        return Ok(perm);
    }
    node.unsupported("perm", format!("a permutation of {rank} axes"), format!("{ints:?}"))
}
