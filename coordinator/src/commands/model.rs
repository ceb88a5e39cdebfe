//! `tilehive model`.

use super::open_model;
use crate::cli::ModelCommand;
use crate::failure::{Failure, bad_model};
use crate::table;
use model::onnx::{OPERATORS, Sharing};
use model::{LayerId, zoo};
use serde_json::json;
use tiling::{Locality, locality};

pub(crate) fn run(command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::List => {
            for name in zoo::names() {
                println!("zoo:{name}");
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
        ModelCommand::Inspect { model, input_size } => inspect(&open_model(&model, input_size)?),
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
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let rows = OPERATORS.iter().map(|operator| {
        let restrictions = operator.restrictions.to_owned();
        vec![operator.name.to_owned(), sharing(operator.sharing).to_owned(), restrictions]
    });
    println!("{}", table::table(&["operator", "computed", "restrictions"], rows));
    Ok(())
}

fn inspect(loaded: &model::LoadedModel) {
    let graph = &loaded.graph;
    let header = ["layer", "operator", "output", "mult-adds", "weights", "tiled"];
    let rows = (0..graph.layers.len() as u32).map(|i| {
        let layer = graph.layer(LayerId(i));
        let shape = graph.shape(layer.output);
        let positions = (shape.rows() * shape.cols()) as u64;
        let weights =
            layer.op.weight_ids().into_iter().map(|w| graph.weight(w).bytes() as u64).sum();
        let tiled = match locality(graph, LayerId(i)) {
            Locality::Local => "yes",
            Locality::Whole => "no: needs its whole input",
        };
        vec![
            layer.name.clone(),
            layer.op.name().to_owned(),
            format!("{:?}", shape.dims()),
            table::amount(graph.multiply_adds_per_position(LayerId(i)) * positions),
            table::bytes(weights),
            tiled.to_owned(),
        ]
    });
    println!("{}", table::table(&header, rows));
    let weights: u64 = graph.weights.iter().map(|w| w.bytes() as u64).sum();
    let (layers, work) = (graph.layers.len(), table::amount(graph.multiply_adds()));
    println!(
        "{}: {layers} layers, {work} multiply-adds, {} of weights",
        graph.name,
        table::bytes(weights)
    );
}
