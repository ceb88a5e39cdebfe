//! What can be wrong with a convention or a result.

use thiserror::Error;

/// Why a picture cannot be prepared or an answer not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VisionError {
    /// A word of the command line or the metadata that means nothing.
    #[error("`{got}` is no {what}: expected {expected}")]
    Word {
        /// What it should name.
        what: &'static str,
        /// What would do.
        expected: &'static str,
        /// What was there.
        got: String,
    },
    /// An input that no picture fits.
    #[error("an input of {got} takes no picture: expected {expected}")]
    Input {
        /// What would fit.
        expected: &'static str,
        /// Its dims.
        got: String,
    },
    /// A picture that does not have the size of the input, where it may not be scaled.
    #[error("the input takes {expected}, the picture has {got}")]
    Size {
        /// Rows x cols of the input.
        expected: String,
        /// Rows x cols of the picture.
        got: String,
    },
    /// Outputs that are not those of the task.
    #[error("no {what} in the outputs {got}: expected {expected}")]
    Outputs {
        /// What was looked for.
        what: &'static str,
        /// What it would look like.
        expected: String,
        /// Names and dims.
        got: String,
    },
    /// A file of labels that cannot be understood.
    #[error("cannot read the labels: {reason}")]
    Labels {
        /// What is wrong.
        reason: String,
    },
}

/// Names and dims of outputs, for messages.
pub(crate) fn describe(outputs: &[crate::Output<'_>]) -> String {
    let one = |o: &crate::Output<'_>| format!("`{}` {:?}", o.name, o.values.shape());
    outputs.iter().map(one).collect::<Vec<_>>().join(", ")
}
