//! Reads ONNX files: every shape concrete, constants folded, operators of the usual CNNs.

mod dims;
mod elements;
mod fold;
mod import;
mod inputs;
mod lower;
mod metadata;
mod node;
mod scan;
mod tensor;
#[cfg(test)]
mod tests;

pub use inputs::{InputSpec, input_spec};
pub use lower::{OPERATORS, Operator, Sharing};
pub use metadata::metadata;

use crate::error::ModelError;
use crate::graph::LoadedModel;
use crate::window::Axes;
use rten_onnx::onnx::ModelProto;
use std::fs::File;
use std::io::{BufReader, Cursor, Seek};
use std::path::Path;

/// What a file may leave open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Rows and columns of the input, used where the file has none.
    pub input_size: Option<Axes<usize>>,
}

/// Reads a model from a file.
///
/// Weights outside the file are read when they lie in the file's folder. A dynamic batch is 1.
///
/// *Errors* when the file is broken, or holds what this crate does not support.
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    let file = path.display().to_string();
    let proto = parse_file(path, &file)?;
    let name = path.file_stem().map_or_else(|| file.clone(), |s| s.to_string_lossy().into());
    // A bare file name has the empty path as its parent, which is not the current folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    import::import(proto, &name, &file, Some(folder.unwrap_or(Path::new("."))), options)
}

/// Reads a model from memory. `name` is the model's name, also in errors.
///
/// *Errors* as [`load`], and when weights are in other files.
pub fn from_bytes(
    bytes: &[u8],
    name: &str,
    options: &LoadOptions,
) -> Result<LoadedModel, ModelError> {
    let checked = scan::scan(Cursor::new(bytes), bytes.len() as u64);
    checked.map_err(|reason| malformed(name, reason))?;
    let proto = ModelProto::parse_buf(bytes).map_err(|e| malformed(name, e.to_string()))?;
    import::import(proto, name, name, None, options)
}

fn parse_file(path: &Path, file: &str) -> Result<ModelProto, ModelError> {
    ModelProto::parse_file(open_scanned(path, file)?).map_err(|e| malformed(file, e.to_string()))
}

/// Opens a file whose framing is sound.
fn open_scanned(path: &Path, file: &str) -> Result<File, ModelError> {
    let failed = |source| ModelError::Read { file: file.into(), source };
    let mut opened = File::open(path).map_err(failed)?;
    let metadata = opened.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(malformed(file, "not a regular file".into()));
    }
    let checked = scan::scan(BufReader::new(&opened), metadata.len());
    checked.map_err(|reason| malformed(file, reason))?;
    opened.rewind().map_err(failed)?;
    Ok(opened)
}

fn malformed(file: &str, reason: String) -> ModelError {
    ModelError::Malformed { file: file.into(), reason: reason.into() }
}
