//! rten as a process that takes commands.

use bench_peers::{input_values, serve};
use rten::{Dimension, Model, ModelOptions, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::Tensor;
use std::path::Path;
use std::sync::Arc;

struct Rten {
    model: Model,
    input: Tensor<f32>,
    options: RunOptions,
}

impl Rten {
    fn compute(&self) -> Result<Value, String> {
        let input = self.input.view().into();
        self.model.run_one(input, Some(self.options.clone())).map_err(|cause| cause.to_string())
    }
}

impl serve::Loaded for Rten {
    fn load(path: &Path, threads: usize) -> Result<Self, String> {
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        let model = options.load_file(path).map_err(|cause| cause.to_string())?;
        let dims = model.input_shape(0).ok_or("the input has no shape")?;
        let dims: Vec<usize> = dims
            .iter()
            .map(|dim| match dim {
                Dimension::Fixed(size) => *size,
                Dimension::Symbolic(_) => 1,
            })
            .collect();
        let input = Tensor::from_data(&dims, input_values(&dims));
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        Ok(Self { model, input, options: RunOptions::default().with_thread_pool(Some(pool)) })
    }

    fn run(&mut self) -> Result<(), String> {
        self.compute().map(drop)
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let output: Tensor<f32> = self.compute()?.try_into().map_err(|_| "an output not of f32")?;
        Ok(output.to_vec())
    }
}

fn main() {
    serve::serve::<Rten>();
}
