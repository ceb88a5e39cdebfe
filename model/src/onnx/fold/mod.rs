//! Computes layers whose inputs are all constants: shape arithmetic, and weights that the file
//! derives from others.

mod arithmetic;
mod moves;

pub(in crate::onnx) use moves::{cuts, split_parts};

use super::dims::reshaped;
use super::elements::select;
use super::node::Node;
use super::tensor::{self, Data, Tensor};
use crate::error::ModelError;
use crate::limits;
use rten_onnx::onnx::DataType;
use std::sync::Arc;

/// Elements that an import may still compute.
pub(super) struct Budget(pub(super) usize);

impl Budget {
    pub(in crate::onnx) fn spend(
        &mut self,
        node: &Node<'_>,
        dims: &[usize],
    ) -> Result<usize, ModelError> {
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

type Folded = Result<Option<Vec<Tensor>>, ModelError>;

/// The constants that a node gives for constant inputs; none when the operator is not one of those
/// that are computed here.
pub(super) fn fold(node: &Node<'_>, inputs: &[Option<&Tensor>], budget: &mut Budget) -> Folded {
    let fold = Fold { node, inputs };
    if node.operator == "Split" {
        return fold.split(budget).map(Some);
    }
    Ok(fold.one(budget)?.map(|tensor| vec![tensor]))
}

pub(super) struct Fold<'a> {
    node: &'a Node<'a>,
    inputs: &'a [Option<&'a Tensor>],
}

impl Fold<'_> {
    /// The first output, for operators that have no other.
    fn one(&self, budget: &mut Budget) -> Result<Option<Tensor>, ModelError> {
        let (fold, node) = (self, self.node);
        match node.operator {
            "Constant" => fold.constant(budget).map(Some),
            "ConstantOfShape" => fold.constant_of_shape(budget).map(Some),
            "Identity" => fold.input(0).cloned().map(Some),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                let input = fold.input(0)?;
                let dims = reshaped(node, &input.dims, fold.optional(1))?;
                if limits::elements(&dims) != Some(input.len()) {
                    return node
                        .bad_shape(format!("{} elements", input.len()), format!("{dims:?}"));
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
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" | "Less" | "Greater"
            | "And" | "Or" => fold.arithmetic(budget).map(Some),
            "Min" | "Max" if self.inputs.len() == 2 => fold.arithmetic(budget).map(Some),
            "Where" => fold.choose(budget).map(Some),
            "Tile" => fold.tile(budget).map(Some),
            "Floor" | "Ceil" | "Sqrt" | "Neg" | "Exp" | "Log" | "Reciprocal" | "Abs" | "Not" => {
                fold.unary(budget).map(Some)
            }
            _ => Ok(None),
        }
    }

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
            (
                DataType::FLOAT | DataType::DOUBLE | DataType::FLOAT16 | DataType::BFLOAT16,
                Data::Int(ints),
            ) => Data::Float(Arc::new(ints.iter().map(|value| *value as f32).collect())),
            (
                DataType::FLOAT | DataType::DOUBLE | DataType::FLOAT16 | DataType::BFLOAT16,
                Data::Float(floats),
            ) => Data::Float(floats.clone()),
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
            (DataType::BOOL, Data::Float(floats)) => {
                Data::Int(Arc::new(floats.iter().map(|value| i64::from(*value != 0.0)).collect()))
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
