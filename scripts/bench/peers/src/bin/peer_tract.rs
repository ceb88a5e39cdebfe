//! tract as a process that takes commands.

use bench_peers::{input_values, serve};
use std::path::Path;
use std::sync::Arc;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

struct Tract {
    plan: Arc<TypedRunnableModel>,
    input: TValue,
}

impl Tract {
    fn compute(&self) -> TractResult<TVec<TValue>> {
        self.plan.run(tvec!(self.input.clone()))
    }
}

fn load(path: &Path, threads: usize) -> TractResult<Tract> {
    set_default_executor(match threads {
        1 => Executor::SingleThread,
        threads => Executor::multithread(threads),
    });
    let model = tract_onnx::onnx().model_for_path(path)?.into_optimized()?;
    let fact = model.input_fact(0)?;
    // A model whose input has no fixed dims fails right below.
    let dims = fact.shape.as_concrete().map(<[usize]>::to_vec).unwrap_or_default();
    let input = Tensor::from_shape(&dims, &input_values(&dims))?.into_tvalue();
    Ok(Tract { plan: model.into_runnable()?, input })
}

impl serve::Loaded for Tract {
    fn load(path: &Path, threads: usize) -> Result<Self, String> {
        load(path, threads).map_err(|cause| format!("{cause:#}"))
    }

    fn run(&mut self) -> Result<(), String> {
        self.compute().map(drop).map_err(|cause| format!("{cause:#}"))
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let values = || -> TractResult<Vec<f32>> {
            let outputs = self.compute()?;
            Ok(outputs[0].cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
        };
        values().map_err(|cause| format!("{cause:#}"))
    }
}

fn main() {
    serve::serve::<Tract>();
}
