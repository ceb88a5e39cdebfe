//! Tiles on a simulated device: what each takes of its processor, and what comes of it.

use super::Given;
use crate::cluster::Cluster;
use crate::job::{Job, Outcome};
use crate::scenario::Sabotage;
use kernels::Pieces;
use kernels::wire::round_outputs;
use model::MapId;
use protocol::worker::Input;
use protocol::{Nanos, PieceHeader, PlanId, TaskId};
use std::sync::Arc;

impl Cluster {
    /// Computes a tile whose inputs are there.
    pub(super) fn execute(&mut self, i: usize, task: TaskId, attempt: u32, plan: PlanId) {
        let device = &self.devices[i];
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        let held = device.inputs.get(&(task, attempt));
        let pasted = held.map_or(0, |held| held.source_bytes);
        let (Some(survey), Some(held), Some(known)) =
            (device.machine.survey(plan), held, self.plans.get(&plan))
        else {
            let reason = "its plan is gone".into();
            return self.device_handle(i, Input::Broke { task, reason });
        };
        let cost = device.spec.device.cost(&known.work_of(task.stage, task.tile));
        let running_bytes = survey.running_bytes(&self.scenario.model.graph, stage, tile) + pasted;
        let mut outputs = Ok(Pieces::new());
        if self.has_values() {
            let model = device.machine.model(plan).and_then(|hash| device.models.get(&hash));
            let Some(model) = model else {
                let reason = "its model was closed".into();
                return self.device_handle(i, Input::Broke { task, reason });
            };
            let mut inputs = held.pieces.clone();
            inputs.extend(device.kept_values(task.frame));
            let run = self.engine.run_tile(model, &survey.stages[stage], tile, &inputs);
            let wire = device.machine.wire(plan).unwrap_or_default();
            outputs = run
                .map(|mut maps| {
                    round_outputs(model.graph(), wire, &mut maps);
                    maps
                })
                .map(|maps| maps.into_iter().map(|(map, p)| (map, Arc::new(p))).collect())
                .map_err(|error| error.to_string());
        }
        let outcome = match outputs {
            Ok(outputs) => Outcome::Executed { task, attempt, outputs },
            Err(reason) => Outcome::Broke { task, reason },
        };
        let device = &mut self.devices[i];
        device.running_bytes = running_bytes;
        device.ran = Some(plan);
        device.note_peak();
        let fast = if self.scenario.sabotage == Sabotage::TooFast { 0.1 } else { 1.0 };
        self.compute(i, Job::new((cost.clock_ns * fast, cost.memory_ns * fast), outcome));
    }

    /// Gives the machine what came of a job.
    pub(crate) fn job_done(&mut self, i: usize, outcome: Outcome, busy_ns: Nanos) {
        match outcome {
            Outcome::Prepared(plan, set) => self.device_handle(i, Input::Prepared(plan, set)),
            Outcome::Missing(hashes) => self.device_handle(i, Input::Missing(hashes)),
            Outcome::Executed { task, outputs, .. } => {
                self.devices[i].running_bytes = 0;
                let headers = self.made_by(i, task);
                self.devices[i].given = Given { headers, pieces: outputs };
                self.device_handle(i, Input::Executed { task, busy_ns });
                self.devices[i].given = Given::default();
            }
            Outcome::Broke { task, reason } => {
                self.devices[i].running_bytes = 0;
                self.device_handle(i, Input::Broke { task, reason });
            }
        }
    }

    /// The pieces that a task makes.
    fn made_by(&self, i: usize, task: TaskId) -> Vec<PieceHeader> {
        let graph = &self.scenario.model.graph;
        let device = &self.devices[i];
        let geometry = device.ran.and_then(|plan| device.machine.geometry(plan));
        let tile = geometry.and_then(|g| g.get(task.stage as usize)?.tiles.get(task.tile as usize));
        let outputs = tile.map_or(&[][..], |tile| tile.outputs.as_slice());
        let header = |&(map, region): &(MapId, tiling::Region)| {
            let (channels, element) = (graph.shape(map).channels() as u32, graph.element(map));
            PieceHeader { map, region, channels, element }
        };
        outputs.iter().map(header).collect()
    }
}
