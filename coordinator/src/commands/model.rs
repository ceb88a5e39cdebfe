//! `tilehive model`.

use super::{inspect, open_model};
use crate::cli::ModelCommand;
use crate::failure::{Failure, bad_model};
use crate::say::say;
use model::zoo;

pub(crate) fn run(command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::List => {
            for name in zoo::names() {
                say!("zoo:{name}");
            }
            eprintln!(
                "Another input size: zoo:NAME@ROWSxCOLS. The weights are random, with a fixed seed."
            );
        }
        ModelCommand::Export { model, output, input_size } => {
            let loaded = open_model(&model, input_size)?;
            model::write_onnx(&loaded, &output).map_err(bad_model)?;
            eprintln!("wrote {}", output.display());
        }
        ModelCommand::Inspect { model, input_size, json, svg } => {
            let metadata = model::metadata(&model).map_err(bad_model)?;
            let loaded = open_model(&model, input_size)?;
            inspect::run(&loaded, metadata, json, svg.as_deref())?;
        }
    }
    Ok(())
}
