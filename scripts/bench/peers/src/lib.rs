//! What the engines share: the commands, and the input.

#[path = "../../../../kernels/examples/bench_engine/serve.rs"]
pub mod serve;

/// The input that every engine gets: values from 0 to 1.
pub fn input_values(dims: &[usize]) -> Vec<f32> {
    (0..dims.iter().product()).map(|i: usize| (i * 104_729 % 1000) as f32 / 1000.0).collect()
}
