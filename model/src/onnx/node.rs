//! One node of the file, with typed access to its attributes and with errors that name it.

use super::tensor::Tensor;
use crate::error::ModelError;
use crate::infer::Mismatch;
use rten_onnx::onnx::{AttributeProto, NodeProto};

/// A node and where it is.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) proto: &'a NodeProto,
    pub(super) operator: &'a str,
    /// The node's own name, or that of its output.
    pub(super) name: &'a str,
    pub(super) file: &'a str,
    /// The version of the operator set.
    pub(super) opset: i64,
}

impl<'a> Node<'a> {
    pub(super) fn new(proto: &'a NodeProto, file: &'a str, opset: i64) -> Self {
        let name = proto.name.as_deref().filter(|name| !name.is_empty());
        let output = proto.output.first().map(String::as_str);
        Self {
            proto,
            operator: proto.op_type.as_deref().unwrap_or_default(),
            name: name.or(output).unwrap_or_default(),
            file,
            opset,
        }
    }

    /// The name of an input; none when it is left out.
    pub(super) fn input(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }

    /// Rejects attributes that the caller does not know: to ignore one would be to guess.
    pub(super) fn allow(&self, known: &[&str]) -> Result<(), ModelError> {
        for attribute in &self.proto.attribute {
            let name = attribute.name.as_deref().unwrap_or_default();
            if !known.contains(&name) {
                return self.unsupported(name, "no such attribute", "one");
            }
        }
        Ok(())
    }

    // An absent number in an attribute that is there means zero: writers of proto3 leave it out.

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i.unwrap_or(0))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f.unwrap_or(0.0))
    }

    pub(super) fn string(&self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).map_or(default, |a| a.s.as_deref().unwrap_or_default())
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    pub(super) fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|a| a.floats.as_slice())
    }

    /// Exactly `N` lengths; `default` when the attribute is absent.
    pub(super) fn lengths<const N: usize>(
        &self,
        name: &str,
        default: [usize; N],
    ) -> Result<[usize; N], ModelError> {
        let Some(ints) = self.ints(name) else {
            return Ok(default);
        };
        let lengths: Option<Vec<usize>> =
            ints.iter().map(|value| usize::try_from(*value).ok()).collect();
        match lengths.and_then(|lengths| <[usize; N]>::try_from(lengths).ok()) {
            Some(lengths) => Ok(lengths),
            None => self.unsupported(name, format!("{N} numbers from 0"), format!("{ints:?}")),
        }
    }

    /// An axis counted from the front, from one that may be counted from the back.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, ModelError> {
        let from_front = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        match usize::try_from(from_front) {
            Ok(axis) if axis < rank => Ok(axis),
            _ => self.unsupported("axis", format!("an axis of {rank} dims"), axis.to_string()),
        }
    }

    pub(super) fn unsupported<T>(
        &self,
        attribute: &str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Result<T, ModelError> {
        Err(ModelError::UnsupportedAttribute {
            operator: self.operator.into(),
            layer: self.name.into(),
            file: self.file.into(),
            attribute: attribute.into(),
            expected: expected.into().into(),
            got: got.into().into(),
        })
    }

    pub(super) fn bad_shape<T>(
        &self,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Result<T, ModelError> {
        Err(self.mismatch(Mismatch::new(expected, got)))
    }

    pub(super) fn mismatch(&self, mismatch: Mismatch) -> ModelError {
        ModelError::UnsupportedShape {
            operator: self.operator.into(),
            layer: self.name.into(),
            file: self.file.into(),
            expected: mismatch.expected.into(),
            got: mismatch.got.into(),
            hint: None,
        }
    }

    /// Ints of a constant input that holds a list (shapes, axes, pads).
    pub(super) fn int_list(&self, what: &str, tensor: &Tensor) -> Result<Vec<i64>, ModelError> {
        match tensor.as_ints() {
            Some(ints) if tensor.dims.len() <= 1 => Ok(ints.to_vec()),
            _ => self.unsupported(what, "a list of integers", format!("dims {:?}", tensor.dims)),
        }
    }
}
