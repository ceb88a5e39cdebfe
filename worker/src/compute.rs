//! The thread that computes: one job after another, each with all threads of the engine.
//!
//! Tasks go before weights. Those of a plan that is to follow are packed a layer at a time, in between the
//! tasks of the plan that is in use, and a frame waits for no more than a layer.

use crate::blobs::BlobCache;
use crate::pace::Pace;
use kernels::wire::{Saturated, round_outputs};
use kernels::{Engine, KernelError, PackedModel, Piece, Pieces};
use model::{MapId, WeightHash, WeightStore};
use protocol::{PlanId, TaskId, WeightSet};
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tiling::{LayerWeights, StageGeometry, Wire};
use tokio::sync::mpsc::UnboundedSender;

/// What to compute.
pub(crate) enum Job {
    /// Read the weights of some layers from the cache and pack them.
    Prepare { plan: PlanId, set: WeightSet, model: Arc<PackedModel>, weights: Vec<LayerWeights> },
    /// Run a task.
    Execute(Task),
}

/// A task with all that it takes.
pub(crate) struct Task {
    pub(crate) task: TaskId,
    pub(crate) model: Arc<PackedModel>,
    pub(crate) geometry: Arc<Vec<StageGeometry>>,
    pub(crate) wire: Wire,
    pub(crate) inputs: Pieces,
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
        let mut queue = Queue::new(queue);
        while let Some(step) = queue.next() {
            let outcome = match step {
                Step::Task(task) => Some(run(&engine, &pace, task)),
                Step::Layer(packing) => {
                    pace.run(None, || packing.layer(&cache));
                    queue.take_packed()
                }
            };
            if outcome.is_some_and(|outcome| outcomes.send(outcome).is_err()) {
                return;
            }
        }
    })?;
    Ok(jobs)
}

/// Tasks in a row before a layer is packed all the same: a worker that is never idle is to have another
/// plan, too.
const TASKS_A_LAYER: u32 = 4;

/// What is to be done, in the order that it came, tasks first.
struct Queue {
    jobs: mpsc::Receiver<Job>,
    tasks: VecDeque<Task>,
    packing: VecDeque<Packing>,
    /// Tasks since a layer was packed.
    in_a_row: u32,
}

enum Step<'a> {
    Task(Task),
    /// The next layer of some weights.
    Layer(&'a mut Packing),
}

impl Queue {
    fn new(jobs: mpsc::Receiver<Job>) -> Self {
        Self { jobs, tasks: VecDeque::new(), packing: VecDeque::new(), in_a_row: 0 }
    }

    /// What to do next; waits until there is something. None when nobody will ask for anything more.
    fn next(&mut self) -> Option<Step<'_>> {
        while self.tasks.is_empty() && self.packing.is_empty() {
            let job = self.jobs.recv().ok()?;
            self.take(job);
        }
        while let Ok(job) = self.jobs.try_recv() {
            self.take(job);
        }
        let layer_is_due = self.in_a_row >= TASKS_A_LAYER && !self.packing.is_empty();
        if let Some(task) = (!layer_is_due).then(|| self.tasks.pop_front()).flatten() {
            self.in_a_row = self.in_a_row.saturating_add(1);
            return Some(Step::Task(task));
        }
        self.in_a_row = 0;
        self.packing.front_mut().map(Step::Layer)
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Prepare { plan, set, model, weights } => {
                let (left, missing) = (weights.into(), Vec::new());
                self.packing.push_back(Packing { plan, set, model, left, missing });
            }
            Job::Execute(task) => self.tasks.push_back(task),
        }
    }

    /// What came of the weights that are packed at the moment, when no layer is left.
    fn take_packed(&mut self) -> Option<Outcome> {
        let is_done = self.packing.front().is_some_and(|packing| packing.left.is_empty());
        let done = is_done.then(|| self.packing.pop_front()).flatten()?;
        Some(match done.missing.is_empty() {
            true => Outcome::Prepared(done.plan, done.set),
            false => Outcome::Missing(done.missing),
        })
    }
}

/// Weights that are being packed.
struct Packing {
    plan: PlanId,
    set: WeightSet,
    model: Arc<PackedModel>,
    left: VecDeque<LayerWeights>,
    missing: Vec<WeightHash>,
}

impl Packing {
    /// Packs the next layer that is not packed yet: one at a time, so that raw weights never lie in memory
    /// together. Where the cache lacks some of it nothing is lost, the rest stays packed.
    fn layer(&mut self, cache: &BlobCache) {
        while let Some(LayerWeights { layer, algorithm, ids }) = self.left.pop_front() {
            let wanted = self.model.lacking(layer, algorithm, &ids);
            if wanted.is_empty() {
                continue;
            }
            let graph = self.model.graph().clone();
            let mut store = WeightStore::default();
            let infos = wanted.into_iter().map(|id| graph.weight(id));
            let lacking = infos.filter(|info| match cache.read(info.hash) {
                Some(bytes) => {
                    store.insert_raw(info.element, &bytes);
                    false
                }
                None => true,
            });
            let lacking: Vec<WeightHash> = lacking.map(|info| info.hash).collect();
            if !lacking.is_empty() {
                self.missing.extend(lacking);
                continue;
            }
            // A layer that cannot be packed fails its tasks, with a reason that names it.
            if let Err(error) = self.model.pack(layer, algorithm, &store) {
                tracing::error!("{error}");
            }
            ids.iter().for_each(|id| cache.release(graph.weight(*id).hash));
            return;
        }
    }
}

fn run(engine: &Engine, pace: &Pace, job: Task) -> Outcome {
    let Task { task, model, geometry, wire, inputs } = job;
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

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LayerId, LoadOptions, open};
    use protocol::FrameId;
    use tiling::{Algorithm, Numerics};

    fn task(tile: u32, model: &Arc<PackedModel>) -> Job {
        let task = TaskId { frame: FrameId(0), stage: 0, tile };
        let geometry = Arc::new(vec![StageGeometry::whole(model.graph(), Numerics::Exact)]);
        let (model, inputs) = (model.clone(), Pieces::new());
        Job::Execute(Task { task, model, geometry, wire: Wire::Raw, inputs })
    }

    /// What is done, one after another: the tiles of tasks, and nothing where a layer is packed.
    fn order(queue: &mut Queue, cache: &BlobCache) -> Vec<Option<u32>> {
        let mut done = Vec::new();
        while !(queue.tasks.is_empty() && queue.packing.is_empty() && !done.is_empty()) {
            match queue.next() {
                Some(Step::Task(task)) => done.push(Some(task.task.tile)),
                Some(Step::Layer(packing)) => {
                    packing.layer(cache);
                    queue.take_packed();
                    done.push(None);
                }
                None => break,
            }
        }
        done
    }

    #[test]
    fn tasks_go_first_and_weights_come_in_between() {
        let loaded = open("zoo:unet@32x32", &LoadOptions::default()).unwrap();
        let cache = BlobCache::in_memory();
        for info in &loaded.graph.weights {
            let values = loaded.weights.find(info.hash).unwrap();
            cache.write(info.hash, bytemuck::cast_slice(values).to_vec());
        }
        let model = Arc::new(PackedModel::new(loaded.graph.clone()));
        let layers = (0..3).map(|layer| {
            let ids = loaded.graph.layer(LayerId(layer)).op.weight_ids();
            LayerWeights { layer: LayerId(layer), algorithm: Algorithm::Direct, ids }
        });
        let weights: Vec<LayerWeights> = layers.filter(|layer| !layer.ids.is_empty()).collect();
        assert!(weights.len() >= 2);
        let (jobs, queue) = mpsc::channel();
        let mut queue = Queue::new(queue);
        let set = WeightSet { stage: 0, index: 0 };
        let count = weights.len();
        let prepare = Job::Prepare { plan: PlanId(1), set, model: model.clone(), weights };
        jobs.send(prepare).unwrap();
        (0..6).for_each(|tile| jobs.send(task(tile, &model)).unwrap());
        let done = order(&mut queue, &cache);
        // Whoever always has a task packs a layer now and then.
        let mut expected = vec![Some(0), Some(1), Some(2), Some(3), None, Some(4), Some(5)];
        expected.extend(std::iter::repeat_n(None, count - 1));
        assert_eq!(done, expected);
        assert!(model.is_packed(LayerId(0), Algorithm::Direct));
    }
}
