//! The thread that computes: one job after another, each with all threads of the engine.

use crate::blobs::BlobCache;
use crate::pace::Pace;
use kernels::wire::{Saturated, round_outputs};
use kernels::{Engine, KernelError, PackedModel, Piece, Pieces};
use model::{MapId, WeightHash, WeightStore};
use protocol::{PlanId, TaskId, WeightSet};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tiling::{LayerWeights, StageGeometry, Wire};
use tokio::sync::mpsc::UnboundedSender;

/// What to compute.
pub(crate) enum Job {
    /// Read the weights of some layers from the cache and pack them.
    Prepare { plan: PlanId, set: WeightSet, model: Arc<PackedModel>, weights: Vec<LayerWeights> },
    /// Run a task.
    Execute {
        task: TaskId,
        model: Arc<PackedModel>,
        geometry: Arc<Vec<StageGeometry>>,
        wire: Wire,
        inputs: Pieces,
    },
}

/// What came of it.
pub(crate) enum Outcome {
    Prepared(PlanId, WeightSet),
    /// These blobs are not in the cache.
    Missing(Vec<WeightHash>),
    Executed {
        task: TaskId,
        outputs: Pieces,
        busy_ns: u64,
    },
    Broke {
        task: TaskId,
        reason: String,
    },
}

/// Starts the thread; it ends when the sender of its jobs is dropped.
///
/// *Errors*: the system refuses the thread.
pub(crate) fn start(
    engine: Arc<Engine>,
    cache: BlobCache,
    pace: Pace,
    outcomes: UnboundedSender<Outcome>,
) -> std::io::Result<mpsc::Sender<Job>> {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("compute".into()).spawn(move || {
        for job in queue {
            if outcomes.send(run(&engine, &cache, &pace, job)).is_err() {
                return;
            }
        }
    })?;
    Ok(jobs)
}

fn run(engine: &Engine, cache: &BlobCache, pace: &Pace, job: Job) -> Outcome {
    match job {
        Job::Prepare { plan, set, model, weights } => {
            match pace.run(None, || prepare(cache, &model, &weights)) {
                missing if missing.is_empty() => Outcome::Prepared(plan, set),
                missing => Outcome::Missing(missing),
            }
        }
        Job::Execute { task, model, geometry, wire, inputs } => {
            let started = Instant::now();
            let stage = &geometry[task.stage as usize];
            let work = stage.tile_work(model.graph(), task.tile as usize);
            let outputs =
                pace.run(Some(&work), || execute(engine, &model, (&geometry, wire), task, &inputs));
            let busy_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            match outputs {
                Ok(outputs) => {
                    let outputs = outputs.into_iter().map(|(map, p)| (map, Arc::new(p))).collect();
                    Outcome::Executed { task, outputs, busy_ns }
                }
                Err(error) => Outcome::Broke { task, reason: error.to_string() },
            }
        }
    }
}

fn execute(
    engine: &Engine,
    model: &PackedModel,
    (geometry, wire): (&[StageGeometry], Wire),
    task: TaskId,
    inputs: &[(MapId, Arc<Piece>)],
) -> Result<Vec<(MapId, Piece)>, KernelError> {
    let stage = &geometry[task.stage as usize];
    let mut outputs = engine.run_tile(model, stage, task.tile as usize, inputs)?;
    let Saturated(beyond) = round_outputs(model.graph(), wire, &mut outputs);
    if beyond > 0 {
        tracing::warn!("{task}: {beyond} values beyond the range of half floats became its ends");
    }
    Ok(outputs)
}

/// Packs what is not packed yet, one layer at a time, so that raw weights never lie in
/// memory together. Returns the hashes that the cache lacks; then nothing is lost, the rest stays
/// packed.
fn prepare(cache: &BlobCache, model: &PackedModel, weights: &[LayerWeights]) -> Vec<WeightHash> {
    let graph = model.graph().clone();
    let mut missing = Vec::new();
    for LayerWeights { layer, algorithm, ids } in weights {
        let wanted = model.lacking(*layer, *algorithm, ids);
        if wanted.is_empty() {
            continue;
        }
        let mut store = WeightStore::default();
        let lacking: Vec<WeightHash> = wanted
            .into_iter()
            .map(|id| graph.weight(id))
            .filter(|info| match cache.read(info.hash) {
                Some(bytes) => {
                    store.insert_raw(info.element, &bytes);
                    false
                }
                None => true,
            })
            .map(|info| info.hash)
            .collect();
        if lacking.is_empty() {
            // A layer that cannot be packed fails its tasks, with a reason that names it.
            if let Err(error) = model.pack(*layer, *algorithm, &store) {
                tracing::error!("{error}");
            }
            ids.iter().for_each(|id| cache.release(graph.weight(*id).hash));
        }
        missing.extend(lacking);
    }
    missing
}
