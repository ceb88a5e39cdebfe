//! `tilehive model`.

use super::{inspect, open_model};
use crate::cli::ModelCommand;
use crate::failure::{Failure, bad_model};
use crate::say::say;
use crate::table;
use model::onnx::{OPERATORS, Sharing};
use model::zoo;
use serde_json::json;

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
        ModelCommand::Operators { json } => operators(json)?,
        ModelCommand::Inspect { model, input_size, json, svg } => {
            let metadata = model::metadata(&model).map_err(bad_model)?;
            let loaded = open_model(&model, input_size)?;
            inspect::run(&loaded, metadata, json, svg.as_deref())?;
        }
    }
    Ok(())
}

/// What a file may use, as a table or as JSON.
fn operators(as_json: bool) -> Result<(), Failure> {
    let sharing = |sharing: Sharing| match sharing {
        Sharing::Tiles => "tiled",
        Sharing::Depends(how) => how,
        Sharing::Whole => "whole",
        Sharing::Constants => "constants only",
    };
    let domain = |is_contributed: bool| if is_contributed { "com.microsoft" } else { "ai.onnx" };
    if as_json {
        let all: Vec<_> = (OPERATORS.iter())
            .map(|operator| {
                json!({
                    "name": operator.name,
                    "domain": domain(operator.is_contributed),
                    "sharing": sharing(operator.sharing),
                    "restrictions": operator.restrictions,
                })
            })
            .collect();
        say!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let rows = OPERATORS.iter().map(|operator| {
        let restrictions = operator.restrictions.to_owned();
        vec![operator.name.to_owned(), sharing(operator.sharing).to_owned(), restrictions]
    });
    say!("{}", table::words(&["operator", "computed", "restrictions"], rows));
    Ok(())
}
