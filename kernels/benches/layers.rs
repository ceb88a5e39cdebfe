//! Single layers on one and two threads: `cargo bench -p kernels [-- NAME]`.

mod cases;

use cases::Case;
use divan::Bencher;
use kernels::{Engine, PackedModel};
use tiling::Numerics;

fn main() {
    divan::main();
}

fn names() -> Vec<String> {
    cases::all().map(|case| case.name.to_owned()).collect()
}

fn run(bencher: Bencher<'_, '_>, name: &str, numerics: Numerics, threads: usize) {
    let case: &Case = cases::all().find(|case| case.name == name).expect("a known name");
    let model = case.model();
    let engine = Engine::new(threads).expect("threads can be had");
    let packed = PackedModel::new(model.graph.clone());
    packed.pack_all(&model, numerics).expect("a sound model");
    let inputs = cases::inputs(&model.graph);
    let flop = 2 * model.graph.multiply_adds();
    let bencher = bencher.counter(divan::counter::ItemsCount::new(flop));
    bencher.bench_local(|| {
        let outputs = engine.run_whole(&packed, numerics, &inputs).expect("a sound model");
        outputs.into_iter().for_each(|(_, piece)| engine.recycle(piece));
    });
}

/// Items are floating point operations of the direct computation.
#[divan::bench(args = names(), consts = [1, 2])]
fn exact<const THREADS: usize>(bencher: Bencher<'_, '_>, name: &str) {
    run(bencher, name, Numerics::Exact, THREADS);
}

/// As above, with Winograd where it pays.
#[divan::bench(args = names(), consts = [1, 2])]
fn fast<const THREADS: usize>(bencher: Bencher<'_, '_>, name: &str) {
    run(bencher, name, Numerics::Fast, THREADS);
}
