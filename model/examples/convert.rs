//! Reads a model, folds and fuses it, and writes it as ONNX again:
//! `cargo run -p model --example convert -- REFERENCE OUTPUT.onnx [ROWSxCOLS]`.
//!
//! `scripts/oracle` compares what ONNX Runtime computes for the file before and after.

use model::{Axes, LoadOptions, ModelError};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(reference), Some(output)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("error: expected REFERENCE OUTPUT.onnx [ROWSxCOLS]");
        return ExitCode::from(2);
    };
    let size = arguments.get(2).and_then(|size| size.split_once('x'));
    let input_size =
        size.and_then(|(rows, cols)| Some(Axes::new(rows.parse().ok()?, cols.parse().ok()?)));
    match convert(reference, Path::new(output), &LoadOptions { input_size }) {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn convert(reference: &str, output: &Path, options: &LoadOptions) -> Result<String, ModelError> {
    let model = model::open(reference, options)?;
    model::write_onnx(&model, output)?;
    Ok(model.graph.summary())
}
