//! What can be wrong with a model.

use thiserror::Error;

/// Why a model could not be read, written or accepted.
///
/// `file` is the path, or the model's name where there is no file.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The file system refused to read.
    #[error("cannot read {file}")]
    Read {
        /// The path.
        file: Box<str>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file system refused to write.
    #[error("cannot write {file}")]
    Write {
        /// The path.
        file: Box<str>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not an ONNX model.
    #[error("{file} is not a valid ONNX file: {reason}")]
    Malformed {
        /// The path.
        file: Box<str>,
        /// What is wrong with the bytes.
        reason: Box<str>,
    },
    /// The file uses an operator set that has other meanings of the same names.
    #[error("{file}: operator set {got} is not supported, expected {expected}")]
    UnsupportedOpset {
        /// The path.
        file: Box<str>,
        /// The supported ones.
        expected: Box<str>,
        /// The file's.
        got: Box<str>,
    },
    /// The model uses an operator that no layer here computes.
    #[error("{file}: layer \"{layer}\": operator {operator} is not supported")]
    UnsupportedOperator {
        /// The operator, with its domain where it is not ONNX's own.
        operator: Box<str>,
        /// The layer's name.
        layer: Box<str>,
        /// The path.
        file: Box<str>,
        /// What to do about it.
        hint: Option<Box<str>>,
    },
    /// A supported operator is used in an unsupported way.
    #[error("{file}: layer \"{layer}\" ({operator}): {attribute}: expected {expected}, got {got}")]
    UnsupportedAttribute {
        /// The operator.
        operator: Box<str>,
        /// The layer's name.
        layer: Box<str>,
        /// The path.
        file: Box<str>,
        /// The attribute or the input.
        attribute: Box<str>,
        /// What is supported.
        expected: Box<str>,
        /// What the file has.
        got: Box<str>,
    },
    /// Shapes do not fit the operator, or the operator does not work on such shapes.
    #[error("{file}: layer \"{layer}\" ({operator}): expected {expected}, got {got}")]
    UnsupportedShape {
        /// The operator.
        operator: Box<str>,
        /// The layer's name.
        layer: Box<str>,
        /// The path.
        file: Box<str>,
        /// What would fit.
        expected: Box<str>,
        /// What is there.
        got: Box<str>,
        /// What to do about it.
        hint: Option<Box<str>>,
    },
    /// A dimension of an input is neither in the file nor in the options.
    #[error("{file}: input \"{input}\" has no fixed size: {dims}")]
    DynamicInput {
        /// The path.
        file: Box<str>,
        /// The input's name.
        input: Box<str>,
        /// The dims, with names or `?` where they are not fixed.
        dims: Box<str>,
    },
    /// A tensor in the file does not have the elements that it claims.
    #[error("{file}: tensor \"{tensor}\": expected {expected}, got {got}")]
    TensorData {
        /// The path.
        file: Box<str>,
        /// The tensor's name.
        tensor: Box<str>,
        /// What its dims and type ask for.
        expected: Box<str>,
        /// What is there.
        got: Box<str>,
    },
    /// A layer reads a value that nothing provides.
    #[error("{file}: \"{layer}\" reads \"{value}\", which nothing provides")]
    UnknownValue {
        /// The path.
        file: Box<str>,
        /// The layer's name, or "output".
        layer: Box<str>,
        /// The value's name.
        value: Box<str>,
    },
    /// Layers wait for each other.
    #[error("{file}: layer \"{layer}\" depends on its own output")]
    Cycle {
        /// The path.
        file: Box<str>,
        /// One of the layers.
        layer: Box<str>,
    },
    /// Something is larger than this program accepts.
    #[error("{file}: {what}: at most {limit}, got {got}")]
    TooLarge {
        /// The path.
        file: Box<str>,
        /// What is large.
        what: Box<str>,
        /// The limit (see [`crate::limits`]).
        limit: u64,
        /// The size.
        got: Box<str>,
    },
    /// The graph breaks a rule of the graph itself.
    #[error("model {file}: {place}: expected {expected}, got {got}")]
    InvalidGraph {
        /// The model's name.
        file: Box<str>,
        /// The layer, map or weight.
        place: Box<str>,
        /// The rule.
        expected: Box<str>,
        /// What is there.
        got: Box<str>,
    },
    /// An architecture of the zoo does not work at this input size.
    #[error("{reference}: an input of {got} does not fit, expected {expected}")]
    UnsupportedSize {
        /// What was asked for.
        reference: Box<str>,
        /// What would fit.
        expected: Box<str>,
        /// The size.
        got: Box<str>,
    },
    /// There is no such architecture.
    #[error("there is no \"{reference}\" in the zoo")]
    UnknownArchitecture {
        /// What was asked for.
        reference: Box<str>,
        /// What there is.
        known: Box<str>,
    },
}

impl ModelError {
    /// What the person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelError::UnsupportedOperator { hint, .. }
            | ModelError::UnsupportedShape { hint, .. } => {
                let usual = "export the model without it, or only up to the layer before it";
                Some(hint.as_deref().unwrap_or(usual).to_owned())
            }
            ModelError::UnsupportedOpset { .. } => {
                Some("export the model again with operator set 13 or later".into())
            }
            ModelError::DynamicInput { .. } => Some(
                "give the rows and columns of the input, or export the model with fixed sizes"
                    .into(),
            ),
            ModelError::UnknownArchitecture { known, .. } => {
                Some(format!("known are {known}; a size can follow: zoo:vgg16@224x224"))
            }
            ModelError::Malformed { .. } => {
                Some("check that the download is complete and that it is an .onnx file".into())
            }
            _ => None,
        }
    }
}
