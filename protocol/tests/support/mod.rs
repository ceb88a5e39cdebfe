//! A model, plans over it, and a coordinator whose outputs are collected.
#![allow(dead_code, unreachable_pub)]

use model::builder::Builder;
use model::{Activation, MapId, Model, Op, Shape, WeightHash, Window};
use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, Bundle, BundleKind, Coordinator, CoordinatorConfig, FrameId, Hello};
use protocol::{
    Message, ModelHash, Nanos, Orders, PieceHeader, PlanId, TaskId, VERSION, WeightSet, WorkerId,
};
use std::sync::Arc;
use tiling::{Grid, Numerics, Plan, Rates, Region, Slot, Stage, StageGeometry};

pub const MODEL: ModelHash = ModelHash(WeightHash([7; 32]));
pub const W0: WorkerId = WorkerId(0);
pub const W1: WorkerId = WorkerId(1);
pub const W2: WorkerId = WorkerId(2);

/// Two 3x3 convolutions over 12 x 12: a strip of 3 rows is some 5000 multiply-adds.
pub fn model() -> Arc<Model> {
    let mut build = Builder::new("two", "two");
    let mut at = build.input("x", Shape::Spatial { channels: 4, rows: 12, cols: 12 }).unwrap();
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        let weights = build.weight(vec![0.5 + i as f32; 4 * 4 * 9], &[4, 4, 3, 3]).unwrap();
        let window = Window::square(3, 1, 1);
        let activation = Activation::None;
        let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
        at = build.layer(name, op, &[at]).unwrap();
    }
    build.output(at);
    build.finish().unwrap().graph
}

/// The first layer in strips, placed as given; the second whole on the first slot.
pub fn plan(placement: &[u32]) -> Plan {
    let slots = placement.iter().map(|&slot| Slot(slot)).collect();
    let strips = Stage::cut(0..1, Grid::even(placement.len(), 1), slots);
    let whole = Stage::whole(1..2, Slot(placement[0]));
    Plan::new("test", Numerics::Exact, vec![strips, whole])
}

pub fn task(frame: u64, stage: u32, tile: u32) -> TaskId {
    TaskId { frame: FrameId(frame), stage, tile }
}

/// Headers of the maps and regions of a tile.
pub fn headers(model: &Model, regions: &[(MapId, Region)]) -> Vec<PieceHeader> {
    let header = |&(map, region): &(MapId, Region)| {
        let channels = model.shape(map).channels() as u32;
        PieceHeader { map, region, channels, element: model::Element::F32 }
    };
    regions.iter().map(header).collect()
}

/// A coordinator, its clock, and what it wanted since last asked.
pub struct Bench {
    pub machine: Coordinator,
    pub now: Nanos,
    pub outputs: Vec<Output>,
    pub model: Arc<Model>,
    pub plan: Arc<ActivePlan>,
}

impl Bench {
    /// A coordinator for plans of this placement over workers 0, 1 and 2.
    pub fn new(placement: &[u32], config: CoordinatorConfig) -> Self {
        let model = model();
        let plan = Self::bind(&model, 1, placement);
        let (machine, outputs) = (Coordinator::new(config), Vec::new());
        Self { machine, now: 0, outputs, model, plan }
    }

    pub fn bind(model: &Arc<Model>, id: u64, placement: &[u32]) -> Arc<ActivePlan> {
        let slots = vec![W0, W1, W2];
        let bound = ActivePlan::new(PlanId(id), model.clone(), MODEL, plan(placement), slots);
        Arc::new(bound.unwrap())
    }

    /// Gives the machine an input and returns what it wants.
    pub fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| self.machine.poll_output()).collect();
        self.outputs.extend(outputs.iter().cloned());
        outputs
    }

    pub fn join(&mut self, id: WorkerId, multiply_adds_per_s: u64) -> Vec<Output> {
        self.join_speaking(id, VERSION, multiply_adds_per_s)
    }

    pub fn join_speaking(
        &mut self,
        id: WorkerId,
        version: u32,
        multiply_adds_per_s: u64,
    ) -> Vec<Output> {
        let hello = Hello::new(id.to_string(), 1, Rates::uniform(multiply_adds_per_s), 0);
        self.handle(Input::Joined(id, version, hello))
    }

    pub fn submit(&mut self, frame: u64) -> Vec<Output> {
        self.handle(Input::Submit(FrameId(frame), self.plan.clone()))
    }

    pub fn says(&mut self, id: WorkerId, message: Message) -> Vec<Output> {
        self.handle(Input::Message(id, message))
    }

    /// Lets time pass; all workers but the silent say that they live.
    pub fn wait(&mut self, until: Nanos, silent: &[WorkerId]) -> Vec<Output> {
        let mut outputs = Vec::new();
        while self.now < until {
            self.now = (self.now + protocol::HEARTBEAT_NS).min(until);
            let live: Vec<WorkerId> = self.machine.live().map(|(id, ..)| id).collect();
            for id in live.into_iter().filter(|id| !silent.contains(id)) {
                outputs.extend(self.says(id, Message::Heartbeat));
            }
            outputs.extend(self.handle(Input::Tick));
        }
        outputs
    }

    /// The bundle that a worker owes for a task.
    pub fn result(&self, task: TaskId, attempt: u32) -> Bundle {
        let stage: &StageGeometry = &self.plan.geometry()[task.stage as usize];
        let pieces = headers(&self.model, &stage.tiles[task.tile as usize].outputs);
        let kind = BundleKind::Result { busy_ns: 1_000_000, waited_ns: 0 };
        Bundle {
            kind,
            plan: self.plan.id,
            task,
            attempt,
            pieces,
            forms: Vec::new(),
            orders: Orders::default(),
        }
    }

    pub fn returns(&mut self, id: WorkerId, task: TaskId, attempt: u32) -> Vec<Output> {
        let bundle = self.result(task, attempt);
        self.handle(Input::Bundle(id, bundle, 0))
    }

    /// Answers everything that is out until nothing is, as honest workers would.
    pub fn finish(&mut self) {
        for _ in 0..1000 {
            let held: Vec<_> = self.machine.held().collect();
            let Some(&(id, task, attempt)) = held.first() else { return };
            self.returns(id, task, attempt);
        }
        panic!("the frames do not end: {:?}", self.machine);
    }

    /// How often each output came, all told.
    pub fn count(&self, which: impl Fn(&Output) -> bool) -> usize {
        self.outputs.iter().filter(|output| which(output)).count()
    }

    pub fn gathered(&self, task: TaskId) -> usize {
        self.count(|output| *output == Output::Gather(task))
    }

    pub fn finished(&self, frame: u64) -> bool {
        self.count(|output| *output == Output::Finished(FrameId(frame))) == 1
    }
}

/// Scattered tasks: the worker, the task and the attempt.
pub fn scattered(outputs: &[Output]) -> Vec<(WorkerId, TaskId, u32)> {
    let one = |output: &Output| match output {
        Output::SendBundle(id, bundle) => Some((*id, bundle.task, bundle.attempt)),
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

/// Steals that were ordered: the victim, the task, its attempt, the thief, the thief's attempt.
pub fn yields(outputs: &[Output]) -> Vec<(WorkerId, TaskId, u32, WorkerId, u32)> {
    let one = |output: &Output| match output {
        Output::Send(id, Message::Yield { task, attempt, thief, next_attempt }) => {
            Some((*id, *task, *attempt, *thief, *next_attempt))
        }
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

/// Workers whose connections are ended.
pub fn expelled(outputs: &[Output]) -> Vec<WorkerId> {
    let one = |output: &Output| match output {
        Output::Disconnect(id, _) => Some(*id),
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

/// To whom a message was sent.
pub fn told(outputs: &[Output], message: &Message) -> Vec<WorkerId> {
    let one = |output: &Output| match output {
        Output::Send(id, sent) if sent == message => Some(*id),
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

/// All weights of a stage: its layers lie in one piece each.
pub fn weights_of(stage: u32) -> WeightSet {
    WeightSet { stage, index: 0 }
}
