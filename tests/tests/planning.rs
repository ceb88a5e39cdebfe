//! The coordinator while its planner thinks, over real workers.

use coordinator::{Answer, Cluster, HostedModel, Job};
use kernels::{Engine, PackedModel, Piece};
use planner::{PlanOptions, Strategy};
use protocol::CoordinatorConfig;
use sim::Random;
use std::sync::Arc;
use tests::loopback::Loopback;
use tests::{Maps, assert_equal};
use tiling::{Numerics, Region};

/// A model with branches: the planner has much to think about.
fn model() -> Arc<HostedModel> {
    HostedModel::new(model::open("zoo:googlenet@64x64", &Default::default()).unwrap()).unwrap()
}

fn input(model: &HostedModel) -> Maps {
    let (graph, mut random) = (&model.loaded.graph, Random::new(7));
    let shape = graph.shape(graph.inputs[0]);
    let values = (0..shape.elements()).map(|_| random.value()).collect();
    let piece = Piece::from_values(Region::whole(shape), shape.channels(), values).unwrap();
    vec![(graph.inputs[0], Arc::new(piece))]
}

fn alone(model: &HostedModel, input: &Maps) -> Maps {
    let packed = PackedModel::new(model.loaded.graph.clone());
    packed.pack_all(&model.loaded, Numerics::Exact).unwrap();
    let made = Engine::new(1).unwrap().run_whole(&packed, Numerics::Exact, input).unwrap();
    made.into_iter().map(|(map, piece)| (map, Arc::new(piece))).collect()
}

async fn frame(cluster: &Cluster, model: &Arc<HostedModel>, inputs: &Maps) -> Answer {
    let (strategy, options) = (Strategy::Auto, PlanOptions::EXACT);
    let job = Job { model: model.clone(), inputs: inputs.clone(), strategy, options };
    cluster.submit(job).await.unwrap()
}

async fn begins_to_plan(cluster: &Cluster) {
    while cluster.progress().planned_for() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_answers_while_its_planner_thinks() {
    let devices = Loopback::start(4, CoordinatorConfig::default()).await.unwrap();
    let (model, cluster) = (model(), &devices.cluster);
    let inputs = input(&model);
    let is_planning = || cluster.progress().planned_for() > 0;
    let asking = async {
        let mut answered = 0;
        while cluster.progress().tiles().0 == 0 {
            let were_planning = is_planning();
            assert_eq!(cluster.devices().await.unwrap().len(), 4);
            answered += u64::from(were_planning && is_planning());
            tokio::task::yield_now().await;
        }
        answered
    };
    let frames = async {
        tokio::join!(
            frame(cluster, &model, &inputs),
            frame(cluster, &model, &inputs),
            frame(cluster, &model, &inputs)
        )
    };
    let (answered, (first, second, third)) = tokio::join!(asking, frames);
    assert!(answered > 0, "nothing was answered before the plan was made");
    // It was thought about once, for all three.
    assert_eq!((first.plan.id, first.plan.id), (second.plan.id, third.plan.id));
    let expected = alone(&model, &inputs);
    for answer in [first, second, third] {
        assert_equal(&expected, &answer.outputs, "a frame that waited for its plan");
    }
    assert_eq!(cluster.progress().planned_for(), 0);
    devices.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_the_planner_thinks_is_not_planned_with() {
    let devices = Loopback::start(4, CoordinatorConfig::default()).await.unwrap();
    let (model, cluster) = (model(), &devices.cluster);
    let inputs = input(&model);
    let leaving = async {
        begins_to_plan(cluster).await;
        devices.stop_worker(3);
        while cluster.devices().await.unwrap().len() == 4 {
            tokio::task::yield_now().await;
        }
        // A planner that was faster than its leaving could not know.
        cluster.progress().planned_for() > 0
    };
    let (answer, in_time) = tokio::join!(frame(cluster, &model, &inputs), leaving);
    assert_equal(&alone(&model, &inputs), &answer.outputs, "a frame whose worker left");
    if in_time {
        assert_eq!(answer.predicted.devices.len(), 3);
    }
    devices.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_the_planner_thinks_holds_no_frame_up() {
    let devices = Loopback::start(4, CoordinatorConfig::default()).await.unwrap();
    let (model, cluster) = (model(), &devices.cluster);
    let inputs = input(&model);
    let coming = async {
        begins_to_plan(cluster).await;
        devices.join(5_000_000_000).await.unwrap();
        while cluster.devices().await.unwrap().len() == 4 {
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = tokio::join!(frame(cluster, &model, &inputs), coming);
    assert_equal(&alone(&model, &inputs), &answer.outputs, "a frame, and a worker that came");
    assert_eq!(answer.predicted.devices.len(), 4);
    devices.stop().await.unwrap();
}
