//! A worker of the last minor release beside today's, in one cluster. It is today's program that speaks
//! the last version of the protocol, or, where `TILEHIVE_OLD_WORKER` names one (`scripts/test-versions`),
//! the program of that release.

mod support;

use coordinator::{Answer, Cluster, ClusterConfig, HostedModel, Job, Reach};
use kernels::Piece;
use model::{LoadOptions, MapId};
use net::{Identity, Register, Terms, Token};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, LAST_VERSION, VERSION};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::Folder;
use tiling::{Handover, Numerics};

const PATIENCE: Duration = Duration::from_secs(60);

/// A worker that ends with this.
struct Running(Child);

impl Running {
    fn start(mut program: Command, name: &str, token: &Token, folder: &Folder) -> Self {
        let worker = program
            .args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1"])
            .args(["--name", name])
            .arg("--state")
            .arg(folder.path(name))
            .env("TILEHIVE_TOKEN", token.to_string())
            .stdin(Stdio::null());
        Self(worker.spawn().unwrap())
    }

    fn today(name: &str, token: &Token, folder: &Folder) -> Self {
        Self::start(Command::new(coordinator::worker_binary().unwrap()), name, token, folder)
    }

    fn old(name: &str, token: &Token, folder: &Folder) -> Self {
        let program = match std::env::var_os("TILEHIVE_OLD_WORKER") {
            Some(path) => Command::new(path),
            None => {
                let mut today = Command::new(coordinator::worker_binary().unwrap());
                today.args(["--protocol-version", &LAST_VERSION.to_string()]);
                today
            }
        };
        Self::start(program, name, token, folder)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn cluster() -> (Cluster, Token) {
    let (identity, register) = (Box::new(Identity::ephemeral()), Register::in_memory());
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let reach = Reach::Network { identity, register, listen, mdns: false };
    let machine = CoordinatorConfig::default();
    let cluster = Cluster::start(ClusterConfig { reach, machine }).await.unwrap();
    let token = cluster.invite(&Terms::default()).unwrap();
    (cluster, token)
}

/// Waits until so many workers are there and reach each other; returns what each speaks, by its name.
async fn settled(cluster: &Cluster, count: usize) -> Vec<(String, u32)> {
    assert_eq!(cluster.wait_for(count, PATIENCE).await.unwrap().len(), count);
    let devices = cluster.settle(PATIENCE).await.unwrap();
    let mut spoken: Vec<_> = devices.into_iter().map(|d| (d.name, d.protocol)).collect();
    spoken.sort();
    spoken
}

struct Problem {
    model: Arc<HostedModel>,
    inputs: Vec<(MapId, Arc<Piece>)>,
}

impl Problem {
    /// Its deepest maps have 14 rows: today's release takes `F(3x3, 3x3)` there, the last one does not.
    fn new() -> Self {
        let loaded = model::open("zoo:unet@224x224", &LoadOptions::default()).unwrap();
        let input = loaded.graph.inputs[0];
        let shape = loaded.graph.shape(input).clone();
        let values = (0..shape.elements()).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
        let piece = Piece::from_values(tiling::Region::whole(&shape), shape.channels(), values);
        let inputs = vec![(input, Arc::new(piece.unwrap()))];
        Self { model: HostedModel::new(loaded).unwrap(), inputs }
    }

    /// The same stages whoever is there, and maps stay on the workers.
    async fn answer(&self, cluster: &Cluster, numerics: Numerics) -> Answer {
        let options = PlanOptions {
            grid: Some((2, 2)),
            fused_layers: Some(3),
            handover: Some(Handover::Exchange),
            numerics,
            ..PlanOptions::EXACT
        };
        let (model, inputs) = (self.model.clone(), self.inputs.clone());
        let job = Job { model, inputs, strategy: Strategy::DeepThings, options };
        cluster.submit(job).await.unwrap()
    }
}

fn bytes(answer: &Answer) -> Vec<Vec<u8>> {
    answer.outputs.iter().map(|(_, piece)| piece.as_bytes().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_last_release_still_works() {
    let (folder, problem) = (Folder::new(), Problem::new());
    // What one worker of today answers, in the old way and in the new one.
    let (alone, token) = cluster().await;
    let _worker = Running::today("alone", &token, &folder);
    assert_eq!(settled(&alone, 1).await, [("alone".to_owned(), VERSION)]);
    let expected = |numerics| problem.answer(&alone, numerics);
    let (exact, old_way) = (expected(Numerics::Exact).await, expected(Numerics::Fast01).await);
    let new_way = expected(Numerics::Fast).await;
    assert!(bytes(&old_way) != bytes(&new_way), "the two releases compute something differently");

    let (mixed, token) = cluster().await;
    let _first = Running::today("first", &token, &folder);
    let _second = Running::today("second", &token, &folder);
    let there = settled(&mixed, 2).await;
    assert!(there.iter().all(|(_, version)| *version == VERSION));
    assert!(bytes(&problem.answer(&mixed, Numerics::Fast).await) == bytes(&new_way));

    let third = Running::old("third", &token, &folder);
    let there = settled(&mixed, 3).await;
    assert_eq!(there.last(), Some(&("third".to_owned(), LAST_VERSION)));
    // Frames go on with the plan that they have until the next one is prepared.
    let took_part = async {
        loop {
            let answer = problem.answer(&mixed, Numerics::Fast).await;
            let expected = match answer.plan.plan.numerics {
                Numerics::Fast => &new_way,
                _ => &old_way,
            };
            assert!(bytes(&answer) == bytes(expected), "who computes changes the answer");
            let (reports, _) = mixed.reports().await.unwrap();
            let works = |r: &protocol::WorkerReport| r.name == "third" && r.tasks > 0;
            if answer.plan.plan.numerics == Numerics::Fast01 && reports.values().any(works) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, took_part).await.expect("the old worker takes part");
    assert!(bytes(&problem.answer(&mixed, Numerics::Exact).await) == bytes(&exact));
    let (reports, _) = mixed.reports().await.unwrap();
    let sent = |name| reports.values().find(|r| r.name == name).map_or(0, |r| r.bytes_out);
    assert!(["first", "second", "third"].map(sent).iter().all(|&bytes| bytes > 0), "{reports:?}");
    assert_eq!(mixed.counters().await.unwrap().fallbacks, 0, "maps travel between the releases");

    // When it is gone, or upgraded, the others compute as today again.
    drop(third);
    let alone_again = async {
        while problem.answer(&mixed, Numerics::Fast).await.plan.plan.numerics != Numerics::Fast {}
    };
    tokio::time::timeout(PATIENCE, alone_again).await.expect("today's way again");
    assert!(bytes(&problem.answer(&mixed, Numerics::Fast).await) == bytes(&new_way));
}
