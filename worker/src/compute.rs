//! The thread that computes: one job after another, each with all threads of the engine.
//!
//! Tasks go before weights. Those of a plan that is to follow are packed in steps of a few milliseconds, in
//! between the tasks of the plan that is in use, and a frame waits for little more than a step. What is given
//! up waits for what was to be packed before: it may be the same layer.

use crate::blobs::BlobCache;
use crate::pace::{Begun, Pace};
use kernels::wire::{Saturated, round_outputs};
use kernels::{Engine, KernelError, PackedModel, Piece, Pieces};
use model::{LayerId, MapId, WeightHash, WeightStore};
use protocol::{PlanId, TaskId, WeightSet};
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tiling::{Algorithm, LayerWeights, StageGeometry, Wire};
use tokio::sync::mpsc::UnboundedSender;

/// What to compute.
pub(crate) enum Job {
    /// Read the weights of some layers from the cache and pack them.
    Prepare { plan: PlanId, set: WeightSet, model: Arc<PackedModel>, weights: Vec<LayerWeights> },
    /// Let go of what a layer has packed for an algorithm.
    Unpack { model: Arc<PackedModel>, layer: LayerId, algorithm: Algorithm },
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
        let mut thread = Compute { engine, cache, pace, outcomes, queue: Queue::new(queue) };
        while thread.next().is_some() {}
    })?;
    Ok(jobs)
}

/// The thread and all that it uses.
struct Compute {
    engine: Arc<Engine>,
    cache: BlobCache,
    pace: Pace,
    outcomes: UnboundedSender<Outcome>,
    queue: Queue,
}

impl Compute {
    /// Waits for something to do and does it; none when nobody will ask for anything more.
    fn next(&mut self) -> Option<()> {
        self.queue.wait()?;
        let outcome = match self.queue.next()? {
            Step::Task(task) => self.run(task),
            Step::Weights(packing) => self.pack(packing),
        };
        self.outcomes.send(outcome).ok()
    }

    fn run(&mut self, task: Task) -> Outcome {
        let begun = Instant::now();
        let outcome = run(&self.engine, &self.pace, task);
        self.queue.ran(begun.elapsed());
        outcome
    }

    /// Packs some weights, and runs what tasks are due in between.
    fn pack(&mut self, mut packing: Packing) -> Outcome {
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        let mut begun = self.pace.begin();
        packing.run(&engine, &cache, &mut || self.pause(&mut begun));
        match packing.missing.is_empty() {
            true => Outcome::Prepared(packing.plan, packing.set),
            false => Outcome::Missing(packing.missing),
        }
    }

    /// Between two steps of packing, of which one has ended that began then.
    fn pause(&mut self, begun: &mut Begun) {
        let step = std::mem::replace(begun, self.pace.begin());
        let at = step.at;
        self.pace.end(step, None);
        self.queue.packed(at.elapsed());
        while let Some(task) = self.queue.due() {
            let outcome = self.run(task);
            // Nobody listens when the worker ends; the thread then ends after this.
            let _ = self.outcomes.send(outcome);
        }
        *begun = self.pace.begin();
    }
}

/// A worker that is never idle is to have another plan, too: of the time of tasks, the part that packing
/// gets when both are waiting...
const PACKING_SHARE: u32 = 8;

/// ...and what of it it may save up at most: no task waits longer.
const OWED_MAX: Duration = Duration::from_millis(50);

/// What is to be done, in the order that it came, tasks first.
struct Queue {
    jobs: mpsc::Receiver<Job>,
    tasks: VecDeque<Task>,
    weights: VecDeque<Weights>,
    /// How long weights are packed before another task runs.
    owed: Duration,
}

/// What is to be done about weights.
enum Weights {
    Pack(Packing),
    Unpack(Arc<PackedModel>, LayerId, Algorithm),
}

enum Step {
    Task(Task),
    Weights(Packing),
}

impl Queue {
    fn new(jobs: mpsc::Receiver<Job>) -> Self {
        Self { jobs, tasks: VecDeque::new(), weights: VecDeque::new(), owed: Duration::ZERO }
    }

    /// Waits until there is something to do. None when nobody will ask for anything more.
    fn wait(&mut self) -> Option<()> {
        self.give_up();
        while self.tasks.is_empty() && self.weights.is_empty() {
            let job = self.jobs.recv().ok()?;
            self.take(job);
            self.give_up();
        }
        Some(())
    }

    /// What to do next, if there is anything. Nothing is being packed.
    fn next(&mut self) -> Option<Step> {
        self.take_all();
        self.give_up();
        if self.weights.is_empty() {
            self.owed = Duration::ZERO;
        }
        let task = self.due().map(Step::Task);
        task.or_else(|| match self.weights.pop_front()? {
            Weights::Pack(packing) => Some(Step::Weights(packing)),
            Weights::Unpack(..) => unreachable!("these were given up"),
        })
    }

    /// The next task, unless weights must be packed first.
    fn due(&mut self) -> Option<Task> {
        self.take_all();
        if self.owed.is_zero() { self.tasks.pop_front() } else { None }
    }

    fn take_all(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            self.take(job);
        }
    }

    /// Gives up what nothing is to be packed before.
    fn give_up(&mut self) {
        let is_unpack = |weights: &mut Weights| matches!(weights, Weights::Unpack(..));
        while let Some(Weights::Unpack(model, layer, algorithm)) =
            self.weights.pop_front_if(is_unpack)
        {
            model.unpack(layer, algorithm);
        }
    }

    /// A task took so long.
    fn ran(&mut self, took: Duration) {
        self.owed = (self.owed + took / PACKING_SHARE).min(OWED_MAX);
    }

    /// Weights were packed for so long.
    fn packed(&mut self, took: Duration) {
        self.owed = self.owed.saturating_sub(took);
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Prepare { plan, set, model, weights } => {
                let missing = Vec::new();
                let packing = Packing { plan, set, model, weights, missing };
                self.weights.push_back(Weights::Pack(packing));
            }
            Job::Unpack { model, layer, algorithm } => {
                self.weights.push_back(Weights::Unpack(model, layer, algorithm));
            }
            Job::Execute(task) => self.tasks.push_back(task),
        }
    }
}

/// Weights that are to be packed.
struct Packing {
    plan: PlanId,
    set: WeightSet,
    model: Arc<PackedModel>,
    weights: Vec<LayerWeights>,
    /// What the cache lacks.
    missing: Vec<WeightHash>,
}

impl Packing {
    /// Packs the layers that are not packed yet: one at a time, so that raw weights never lie in memory
    /// together. Where the cache lacks some of it nothing is lost, the rest stays packed.
    fn run(&mut self, engine: &Engine, cache: &BlobCache, pause: &mut dyn FnMut()) {
        for LayerWeights { layer, algorithm, ids } in std::mem::take(&mut self.weights) {
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
                    pause();
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
            if let Err(error) = engine.pack(&self.model, layer, algorithm, &store, pause) {
                tracing::error!("{error}");
            }
            ids.iter().for_each(|id| cache.release(graph.weight(*id).hash));
        }
    }
}

fn run(engine: &Engine, pace: &Pace, job: Task) -> Outcome {
    let Task { task, model, geometry, wire, inputs } = job;
    let started = Instant::now();
    let stage = &geometry[task.stage as usize];
    let work = stage.tile_work(model.graph(), task.tile as usize);
    let begun = pace.begin();
    let outputs = execute(engine, &model, (&geometry, wire), task, &inputs);
    pace.end(begun, Some(&work));
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
    use model::{LoadOptions, open};
    use protocol::FrameId;
    use tiling::Numerics;

    fn task(frame: u64, model: &Arc<PackedModel>) -> Job {
        let task = TaskId { frame: FrameId(frame), stage: 0, tile: 0 };
        let geometry = Arc::new(vec![StageGeometry::whole(model.graph(), Numerics::Exact)]);
        let (model, inputs) = (model.clone(), Pieces::new());
        Job::Execute(Task { task, model, geometry, wire: Wire::Raw, inputs })
    }

    /// Three layers of a network, whose weights are in the cache.
    fn weights(cache: &BlobCache) -> (Arc<PackedModel>, Job) {
        let loaded = open("zoo:unet@32x32", &LoadOptions::default()).unwrap();
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
        let set = WeightSet { stage: 0, index: 0 };
        (model.clone(), Job::Prepare { plan: PlanId(1), set, model, weights })
    }

    #[test]
    fn tasks_go_first_and_weights_get_a_part_of_the_time() {
        let (model, prepare) = weights(&BlobCache::in_memory());
        let (jobs, queue) = mpsc::channel();
        let mut queue = Queue::new(queue);
        jobs.send(prepare).unwrap();
        (0..4).for_each(|frame| jobs.send(task(frame, &model)).unwrap());
        let ms = Duration::from_millis;
        queue.wait().unwrap();
        assert!(matches!(queue.next(), Some(Step::Task(task)) if task.task.frame.0 == 0));
        // An eighth of it is packed before the next one.
        queue.ran(ms(80));
        assert!(matches!(queue.next(), Some(Step::Weights(_))));
        queue.packed(ms(6));
        assert!(queue.due().is_none());
        queue.packed(ms(6));
        assert_eq!(queue.due().unwrap().task.frame.0, 1);
        queue.ran(ms(16));
        assert!(queue.due().is_none());
        queue.packed(ms(3));
        assert_eq!(queue.due().unwrap().task.frame.0, 2);
        // No task waits for long, whatever the one before took...
        queue.ran(ms(60_000));
        queue.packed(OWED_MAX);
        assert_eq!(queue.due().unwrap().task.frame.0, 3);
        // ...nor where nothing is to be packed.
        queue.ran(ms(80));
        jobs.send(task(4, &model)).unwrap();
        assert!(matches!(queue.next(), Some(Step::Task(task)) if task.task.frame.0 == 4));
    }

    #[test]
    fn tasks_that_come_while_weights_are_packed_lose_nothing() {
        let cache = BlobCache::in_memory();
        let (model, prepare) = weights(&cache);
        let (outcomes, mut done) = tokio::sync::mpsc::unbounded_channel();
        let engine = Arc::new(Engine::new(2).unwrap());
        let jobs = start(engine, cache, Pace::own(), outcomes).unwrap();
        jobs.send(prepare).unwrap();
        (0..6).for_each(|frame| jobs.send(task(frame, &model)).unwrap());
        drop(jobs);
        let (mut frames, mut prepared) = (Vec::new(), 0);
        while let Some(outcome) = done.blocking_recv() {
            match outcome {
                // These have no inputs.
                Outcome::Broke { task, .. } => frames.push(task.frame.0),
                Outcome::Prepared(..) => prepared += 1,
                _ => unreachable!("nothing is missing"),
            }
        }
        assert_eq!((frames, prepared), ((0..6).collect(), 1));
        assert!(model.is_packed(LayerId(0), Algorithm::Direct));
    }
}
