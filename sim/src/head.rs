//! The coordinator's driver: what `coordinator::drive` does with sockets, done with events.

use crate::cluster::{Cluster, Event, Parcel, Sender};
use crate::invariants::Violation;
use crate::link::End;
use crate::scenario::{Sabotage, Scenario};
use kernels::{Piece, Pieces};
use model::{MapId, WeightHash};
use planner::DeviceProfile;
use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, Bundle, Coordinator, FrameId, Member, Message, ModelHash, Nanos};
use protocol::{PieceHeader, PlanId, WorkerId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::Region;

type Maps = BTreeMap<MapId, Arc<Piece>>;

/// The coordinator and what its driver holds.
pub(crate) struct Head {
    pub(crate) machine: Coordinator,
    /// The connection of each device, as seen from here.
    pub(crate) sessions: Vec<Option<u32>>,
    /// The connection over which each device last said hello.
    pub(crate) joined: Vec<Option<u32>>,
    pub(crate) frames: BTreeMap<FrameId, Maps>,
    pub(crate) outputs: Vec<Option<Pieces>>,
    pub(crate) first_scatter_ns: Option<Nanos>,
    pub(crate) model_hash: ModelHash,
    graph_bytes: u64,
    /// Frames that wait for the first worker.
    waiting: Vec<usize>,
    planned: Option<Arc<ActivePlan>>,
    next_plan: u32,
    scattered: u64,
}

impl Head {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let graph = format!("{:?}", scenario.model.graph);
        Self {
            machine: Coordinator::new(scenario.machine.clone()),
            sessions: vec![None; scenario.workers.len()],
            joined: vec![None; scenario.workers.len()],
            frames: BTreeMap::new(),
            outputs: vec![None; scenario.frames.len()],
            first_scatter_ns: None,
            model_hash: ModelHash(WeightHash::of_bytes(graph.as_bytes())),
            graph_bytes: graph.len() as u64,
            waiting: Vec::new(),
            planned: None,
            next_plan: 0,
            scattered: 0,
        }
    }

    /// Frames that have not ended.
    pub(crate) fn missing(&self) -> usize {
        self.outputs.iter().filter(|o| o.is_none()).count()
    }

    fn cut(&self, bundle: &Bundle) -> Pieces {
        let maps = &self.frames[&bundle.task.frame];
        let piece = |header: &PieceHeader| {
            let map = maps.get(&header.map).expect("a scattered map is complete");
            (header.map, Arc::new(map.crop(header.region)))
        };
        bundle.pieces.iter().map(piece).collect()
    }
}

impl Cluster {
    /// Gives the machine an input; `values` are those of a bundle, until the machine has judged it.
    pub(crate) fn head_handle(&mut self, input: Input, values: Option<(WorkerId, Bundle, Pieces)>) {
        self.head.machine.handle(self.now, input);
        while let Some(output) = self.head.machine.poll_output() {
            self.head_carry_out(output, values.as_ref());
        }
    }

    fn head_carry_out(&mut self, output: Output, values: Option<&(WorkerId, Bundle, Pieces)>) {
        match output {
            Output::Send(to, message) => {
                if let Message::Yield { task, thief, next_attempt, .. } = &message {
                    self.invariants.issue(*thief, *task, *next_attempt);
                }
                self.head_send(to, Parcel::Message(message));
            }
            Output::SendBundle(to, bundle) => {
                self.invariants.issue(to, bundle.task, bundle.attempt);
                self.head.first_scatter_ns.get_or_insert(self.now);
                self.head.scattered += 1;
                if self.scenario.sabotage == Sabotage::LoseScatter && self.head.scattered == 2 {
                    return;
                }
                let pieces = self.head.cut(&bundle);
                self.head_send(to, Parcel::Bundle(bundle, pieces));
            }
            Output::SendBlobs(to, hashes) => {
                for hash in hashes {
                    let weights = &self.scenario.model.weights;
                    let integers = weights.find_bytes(hash).map(|v| v.len() as u64);
                    let bytes = weights.find(hash).map(|v| 4 * v.len() as u64).or(integers);
                    let bytes = bytes.unwrap_or(self.head.graph_bytes);
                    self.head_send(to, Parcel::Blob(hash, bytes));
                }
            }
            Output::Gather(task) => {
                let (worker, bundle, pieces) = values.expect("only a bundle is gathered");
                assert_eq!(bundle.task, task, "the bundle just given is gathered");
                let times = if self.scenario.sabotage == Sabotage::GatherTwice { 2 } else { 1 };
                for _ in 0..times {
                    if let Err(violation) = self.invariants.gather(*worker, bundle) {
                        self.violation.get_or_insert(violation);
                    }
                    self.stitch(task.frame, pieces);
                }
            }
            Output::Release(frame, map) => {
                if let Some(maps) = self.head.frames.get_mut(&frame) {
                    maps.remove(&map);
                }
            }
            Output::Finished(frame) => {
                let maps = self.head.frames.remove(&frame).expect("a frame ends once");
                let wanted = self.scenario.model.graph.outputs.iter();
                let outputs = wanted.map(|map| (*map, maps[map].clone())).collect();
                self.head.outputs[frame.0 as usize] = Some(outputs);
            }
            Output::FrameFailed(frame, reason) => {
                self.violation.get_or_insert(Violation::FrameFailed { frame, reason });
            }
            Output::Disconnect(id, _) => {
                let device = id.0 as usize;
                if let Some(session) = self.head.sessions[device].take() {
                    let at = self.now + self.link(End::Head, End::Device(device)).latency_ns;
                    self.schedule(at, Event::DeviceLost { device, session });
                }
            }
            Output::MembershipChanged => {
                // Frames that follow are planned for those who are there now.
                self.head.planned = None;
                self.send_roster();
            }
        }
    }

    fn head_send(&mut self, to: WorkerId, parcel: Parcel) {
        let to = to.0 as usize;
        match self.head.sessions[to] {
            Some(session) => {
                let from = Sender::Head { session };
                let event = Event::ToDevice { to, from, parcel: parcel.clone() };
                self.transmit(End::Head, End::Device(to), parcel, event);
            }
            None => self.lose(&parcel),
        }
    }

    fn send_roster(&mut self) {
        let live: Vec<WorkerId> = self.head.machine.live().map(|(id, ..)| id).collect();
        let member =
            |&worker: &WorkerId| Member { worker, peer: Vec::new(), addresses: Vec::new() };
        let members: Vec<Member> = live.iter().map(member).collect();
        for id in live {
            self.head_send(id, Parcel::Message(Message::Roster(members.clone())));
        }
    }

    fn stitch(&mut self, frame: FrameId, pieces: &Pieces) {
        let graph = &self.scenario.model.graph;
        let Some(maps) = self.head.frames.get_mut(&frame) else { return };
        for (map, piece) in pieces {
            let shape = graph.shape(*map);
            let element = graph.element(*map);
            let whole = Region::whole(shape);
            let zeroed = || Arc::new(Piece::zeroed_of(whole, shape.channels(), element));
            let target = maps.entry(*map).or_insert_with(zeroed);
            Arc::get_mut(target).expect("a map is not shared while it is gathered").paste(piece);
        }
    }

    pub(crate) fn reach_head(&mut self, from: usize, session: u32, parcel: Parcel) {
        if self.head.sessions[from] != Some(session) {
            return self.lose(&parcel);
        }
        self.landed(&parcel);
        let id = WorkerId(from as u32);
        match parcel {
            Parcel::Message(Message::Hello(hello)) => {
                self.head.joined[from] = Some(session);
                self.head_handle(Input::Joined(id, hello), None);
                for frame in std::mem::take(&mut self.head.waiting) {
                    self.submit(frame);
                }
            }
            Parcel::Message(message) => self.head_handle(Input::Message(id, message), None),
            Parcel::Bundle(bundle, pieces) => {
                let input = Input::Bundle(id, bundle.clone());
                self.head_handle(input, Some((id, bundle, pieces)));
            }
            Parcel::Blob(..) => {}
        }
    }

    pub(crate) fn head_lost(&mut self, device: usize, session: u32) {
        if self.head.sessions[device] == Some(session) {
            self.head.sessions[device] = None;
            self.head_handle(Input::Left(WorkerId(device as u32), "it went away".into()), None);
        }
    }

    /// Plans for the workers that are there now, and hands the frame in.
    pub(crate) fn submit(&mut self, frame: usize) {
        if self.head.machine.live().next().is_none() {
            return self.head.waiting.push(frame);
        }
        let plan = match self.head.planned.clone() {
            Some(plan) => plan,
            None => match self.plan() {
                Ok(plan) => plan,
                Err(violation) => {
                    self.violation.get_or_insert(violation);
                    return;
                }
            },
        };
        self.head.planned = Some(plan.clone());
        let id = FrameId(frame as u64);
        self.head.frames.insert(id, self.scenario.frames[frame].iter().cloned().collect());
        self.head_handle(Input::Submit(id, plan), None);
    }

    fn plan(&mut self) -> Result<Arc<ActivePlan>, Violation> {
        let live = self.head.machine.live();
        let profile = |(id, report, rate): (WorkerId, &protocol::WorkerReport, u64)| {
            (id, DeviceProfile::wired(report.name.clone(), rate))
        };
        let (slots, profiles): (Vec<WorkerId>, Vec<DeviceProfile>) = live.map(profile).unzip();
        let Scenario { model, strategy, options, .. } = &self.scenario;
        let planned = planner::plan(&model.graph, &profiles, *strategy, *options);
        let (plan, _) = planned.map_err(|e| Violation::Plan(e.to_string()))?;
        self.head.next_plan += 1;
        let id = PlanId(self.head.next_plan);
        let plan = ActivePlan::new(id, model.graph.clone(), self.head.model_hash, plan, slots);
        Ok(Arc::new(plan.map_err(|e| Violation::Plan(e.to_string()))?))
    }
}
