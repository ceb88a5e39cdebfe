//! Real worker processes on loopback: kills, pauses, any start order, joins in mid-run. Every frame
//! ends with the bits of one device.

use coordinator::{Answer, BandJob, Cluster, ClusterConfig, HostedModel, Job, LocalWorkers, Reach};
use kernels::{Engine, PackedModel, Piece};
use model::{LoadOptions, MapId};
use net::{Identity, Multiaddr, NetConfig, Register, Role, Terms, Token};
use planner::{PlanOptions, Strategy};
use protocol::CoordinatorConfig;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tiling::{Grid, Handover, Numerics, Wire};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);

/// A model, an input, and the answer of one device.
struct Problem {
    model: Arc<HostedModel>,
    inputs: Vec<(MapId, Arc<Piece>)>,
    expected: Vec<(MapId, Piece)>,
}

impl Problem {
    fn new(reference: &str) -> Self {
        let loaded = model::open(reference, &LoadOptions::default()).unwrap();
        let input = loaded.graph.inputs[0];
        let shape = loaded.graph.shape(input).clone();
        let values = (0..shape.elements()).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
        let region = tiling::Region::whole(&shape);
        let piece = Piece::from_values(region, shape.channels(), values).unwrap();
        let inputs = vec![(input, Arc::new(piece))];
        let packed = PackedModel::new(loaded.graph.clone());
        packed.pack_all(&loaded, Numerics::Exact).unwrap();
        let expected =
            Engine::new(1).unwrap().run_whole(&packed, Numerics::Exact, &inputs).unwrap();
        Self { model: HostedModel::new(loaded).unwrap(), inputs, expected }
    }

    fn job(&self, grid: (usize, usize)) -> Job {
        let options = PlanOptions { grid: Some(grid), fused_layers: None, ..PlanOptions::EXACT };
        let (model, inputs) = (self.model.clone(), self.inputs.clone());
        Job { model, inputs, strategy: Strategy::DeepThings, options }
    }

    fn check(&self, answer: &Answer) {
        assert_eq!(answer.outputs.len(), self.expected.len());
        for ((map, ours), (other, theirs)) in answer.outputs.iter().zip(&self.expected) {
            assert_eq!(map, other);
            let bits = |p: &Piece| p.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert!(bits(ours) == bits(theirs), "map {map:?} differs from one device");
        }
    }
}

/// What of a coordinator outlives its process.
#[derive(Clone)]
struct Kept {
    identity: Identity,
    register: Register,
}

impl Kept {
    fn new() -> Self {
        Self { identity: Identity::ephemeral(), register: Register::in_memory() }
    }
}

async fn cluster(kept: Kept, listen: Multiaddr) -> Cluster {
    let Kept { identity, register } = kept;
    let (identity, listen) = (Box::new(identity), vec![listen]);
    let reach = Reach::Network { identity, register, listen, mdns: false };
    // Everything goes out at once, so that a worker always holds tasks that it can lose.
    let machine = CoordinatorConfig { window_tasks_max: 8, ..Default::default() };
    Cluster::start(ClusterConfig { reach, machine }).await.unwrap()
}

fn anywhere() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().unwrap()
}

async fn with_locals(count: usize, state: &Path) -> (Cluster, LocalWorkers) {
    let cluster = cluster(Kept::new(), anywhere()).await;
    let token = cluster.invite(&Terms::default()).unwrap();
    let locals = LocalWorkers::start(count, 1, &token, state, Default::default()).unwrap();
    assert_eq!(cluster.wait_for(count, PATIENCE).await.unwrap().len(), count);
    (cluster, locals)
}

/// Waits until a number of tiles is gathered.
async fn tiles(cluster: &Cluster, count: u64) {
    while cluster.progress().tiles().0 < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_its_tiles_and_nothing_else() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@128x128");
    let (cluster, locals) = with_locals(3, state.path()).await;
    // Held still from before the frame on, so that it has its share and ends none of it, however
    // fast this machine is; then killed while the others compute.
    let victim = locals.process_ids()[0];
    signal(victim, "-STOP");
    let (answer, ()) = tokio::join!(cluster.submit(problem.job((4, 4))), async {
        tiles(&cluster, 1).await;
        signal(victim, "-KILL");
    });
    problem.check(&answer.unwrap());
    let (reports, reassigned) = cluster.reports().await.unwrap();
    assert_eq!(reports.values().filter(|r| !r.alive).count(), 1);
    assert!(reassigned > 0, "the dead worker held tasks");
}

/// What travels in fewer bytes gives the bits of one device all the same.
#[tokio::test(flavor = "multi_thread")]
async fn encoded_pieces_give_the_same_bits_in_fewer_bytes() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@128x128");
    let (cluster, _locals) = with_locals(3, state.path()).await;
    let mut moved = Vec::new();
    for wire in [Wire::Raw, Wire::Lossless] {
        let mut job = problem.job((2, 2));
        // The same stages for both: what the planner chooses depends on how busy this machine is.
        job.options = PlanOptions { wire, fused_layers: Some(4), ..job.options };
        problem.check(&cluster.submit(job).await.unwrap());
        let (reports, _) = cluster.reports().await.unwrap();
        moved.push(reports.values().map(|r| (r.bytes_in, r.bytes_out)).fold((0, 0), sum));
    }
    let sent = |i: usize| [moved[i].0, moved[i].1];
    let [first_in, first_out] = sent(0);
    let [both_in, both_out] = sent(1);
    // The input is a byte a value, and what the first stage makes is zeros in good part.
    assert!((both_in - first_in) * 10 < first_in * 8, "{moved:?}");
    assert!(both_out - first_out <= first_out, "{moved:?}");
}

fn sum(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}

/// With half floats on the wire the answer depends on the stages alone: one worker, four, and three of
/// which one is killed give the same bits.
#[tokio::test(flavor = "multi_thread")]
async fn half_floats_give_one_answer_whoever_computes() {
    let problem = Problem::new("zoo:unet@128x128");
    let job = || {
        let job = problem.job((4, 4));
        let options = PlanOptions { wire: Wire::F16, fused_layers: Some(4), ..job.options };
        Job { options, ..job }
    };
    let mut answers = Vec::new();
    for count in [1, 4] {
        let state = tempfile::tempdir().unwrap();
        let (cluster, _locals) = with_locals(count, state.path()).await;
        answers.push(cluster.submit(job()).await.unwrap().outputs);
    }
    let state = tempfile::tempdir().unwrap();
    let (cluster, locals) = with_locals(3, state.path()).await;
    let victim = locals.process_ids()[0];
    signal(victim, "-STOP");
    let (answer, ()) = tokio::join!(cluster.submit(job()), async {
        tiles(&cluster, 1).await;
        signal(victim, "-KILL");
    });
    answers.push(answer.unwrap().outputs);
    let (_, reassigned) = cluster.reports().await.unwrap();
    assert!(reassigned > 0, "the dead worker held tasks");
    let bytes =
        |i: usize| answers[i].iter().map(|(_, p)| p.as_bytes().to_vec()).collect::<Vec<_>>();
    assert!(bytes(0) == bytes(1) && bytes(0) == bytes(2), "who computed it changed the answer");
    let (ours, exact) = (&answers[0][0].1, &problem.expected[0].1);
    let pairs = || ours.values().iter().zip(exact.values());
    let apart = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = pairs().map(|(_, b)| b.abs()).fold(0.0, f32::max);
    assert!(apart > 0.0 && apart < largest / 100.0, "{apart} of {largest}");
}

/// Maps stay on the workers; one of them is killed with what it kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_kept_is_made_again() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@128x128");
    let (cluster, locals) = with_locals(3, state.path()).await;
    let job = || {
        let (model, inputs) = (problem.model.clone(), problem.inputs.clone());
        let options = PlanOptions { handover: Some(Handover::Exchange), ..PlanOptions::EXACT };
        Job { model, inputs, strategy: Strategy::Modnn, options }
    };
    // The workers find each other in the first moments.
    while cluster.counters().await.unwrap().exchanged_bytes == 0 {
        problem.check(&cluster.submit(job()).await.unwrap());
    }
    let before = cluster.progress().tiles().0;
    let (answer, ()) = tokio::join!(cluster.submit(job()), async {
        tiles(&cluster, before + 12).await;
        signal(locals.process_ids()[0], "-KILL");
    });
    problem.check(&answer.unwrap());
    let counters = cluster.counters().await.unwrap();
    assert!(counters.recomputed > 0, "{counters:?}");
}

/// Bands are frames: what a lost worker held is computed elsewhere, and the rows of all bands
/// together are the answer of one device.
#[tokio::test(flavor = "multi_thread")]
async fn bands_of_a_picture_survive_a_killed_worker() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@128x128");
    let (cluster, locals) = with_locals(3, state.path()).await;
    let victim = locals.process_ids()[0];
    signal(victim, "-STOP");
    let bands = (0..4).map(|row| {
        let (model, inputs) = (problem.model.clone(), problem.inputs.clone());
        let (grid, numerics) = (Grid::even(4, 4), Numerics::Exact);
        cluster.submit_band(BandJob { model, inputs, grid, row, numerics })
    });
    let (answers, ()) = tokio::join!(futures_of(bands), async {
        tiles(&cluster, 1).await;
        signal(victim, "-KILL");
    });
    let [(_, expected)] = problem.expected.as_slice() else { panic!("one output") };
    let mut stitched = Piece::zeroed(expected.region, expected.channels);
    let mut rows = 0;
    for answer in answers {
        let outputs = answer.unwrap().outputs;
        let [(_, band)] = outputs.as_slice() else { panic!("one output") };
        rows += band.region.rows.len();
        stitched.paste(band);
    }
    assert_eq!(rows, 128, "each row once");
    assert!(stitched.as_bytes() == expected.as_bytes());
    let (reports, reassigned) = cluster.reports().await.unwrap();
    assert_eq!(reports.values().filter(|r| !r.alive).count(), 1);
    assert!(reassigned > 0, "the dead worker held tasks");
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_lack_rows_of_a_band_are_refused() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@64x64");
    let (cluster, _locals) = with_locals(1, state.path()).await;
    let band = |inputs, row| BandJob {
        model: problem.model.clone(),
        inputs,
        grid: Grid::even(4, 1),
        row,
        numerics: Numerics::Exact,
    };
    let (map, whole) = problem.inputs[0].clone();
    let top = tiling::Region::new(tiling::Span::new(0, 16), whole.region.cols);
    let inputs = vec![(map, Arc::new(whole.crop(top)))];
    let refused = cluster.submit_band(band(inputs, 3)).await.unwrap_err().to_string();
    assert!(refused.contains("lacks"), "{refused}");
    let refused = cluster.submit_band(band(problem.inputs.clone(), 4)).await.unwrap_err();
    assert!(refused.to_string().contains("band 4 of 4"), "{refused}");
    assert!(cluster.submit_band(band(problem.inputs.clone(), 3)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_is_given_up_and_may_come_back() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:unet@128x128");
    let (cluster, locals) = with_locals(2, state.path()).await;
    let paused = locals.process_ids()[0];
    let (answer, ()) = tokio::join!(cluster.submit(problem.job((4, 4))), async {
        tiles(&cluster, 1).await;
        signal(paused, "-STOP");
    });
    problem.check(&answer.unwrap());
    signal(paused, "-CONT");
    assert_eq!(cluster.wait_for(2, PATIENCE).await.unwrap().len(), 2, "it joins again by itself");
    problem.check(&cluster.submit(problem.job((3, 3))).await.unwrap());
}

fn worker_process(token: &Token, state: &Path, name: &str) -> Child {
    Command::new(coordinator::worker_binary().unwrap())
        .args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1", "--name", name])
        .arg("--state")
        .arg(state.join(name))
        .env("TILEHIVE_TOKEN", token.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A coordinator, the address it will listen on, and a token of it, before it runs.
async fn reserved() -> (Kept, Multiaddr, Token) {
    let kept = Kept::new();
    let role = Role::Coordinator(kept.register.clone());
    let mut config = NetConfig::new(kept.identity.clone(), role, vec![anywhere()]);
    config.mdns = false;
    let net = net::start(config).await.unwrap();
    let invitation = kept.register.invite(&Terms::default()).unwrap();
    let token = Token::new(net.local, net.listening.clone(), &invitation);
    let address = net.listening[0].clone();
    let mut events = net.events;
    net.commands.send(net::Command::Shutdown).unwrap();
    while events.recv().await.is_some() {}
    (kept, address, token)
}

/// A cluster whose worker was there first.
struct Early {
    state: tempfile::TempDir,
    problem: Problem,
    token: Token,
    _first: Child,
    cluster: Cluster,
}

impl Early {
    async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let problem = Problem::new("zoo:unet@96x96");
        let (kept, address, token) = reserved().await;
        let _first = worker_process(&token, state.path(), "early");
        let cluster = cluster(kept, address).await;
        assert_eq!(cluster.wait_for(1, PATIENCE).await.unwrap().len(), 1);
        Self { state, problem, token, _first, cluster }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_may_start_first_and_one_may_join_in_mid_run() {
    let Early { state, problem, token, _first, cluster } = Early::start().await;
    problem.check(&cluster.submit(problem.job((3, 3))).await.unwrap());
    let _second = worker_process(&token, state.path(), "late");
    // Frames follow each other until the late one has taken part.
    let took_part = async {
        loop {
            problem.check(&cluster.submit(problem.job((3, 3))).await.unwrap());
            let (reports, _) = cluster.reports().await.unwrap();
            if reports.values().any(|r| r.name == "late" && r.tasks > 0) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, took_part).await.expect("the late worker takes part");
}

/// Frames go on with the plan they have while a newcomer still packs its weights, however long that is.
#[tokio::test(flavor = "multi_thread")]
async fn no_frame_waits_for_the_weights_of_the_next_plan() {
    let Early { state, problem, token, _first, cluster } = Early::start().await;
    let first = cluster.submit(problem.job((3, 3))).await.unwrap();
    let second = worker_process(&token, state.path(), "late");
    assert_eq!(cluster.wait_for(2, PATIENCE).await.unwrap().len(), 2);
    // Held still, it packs nothing.
    let late = second.id().unwrap();
    signal(late, "-STOP");
    for _ in 0..2 {
        let answer = cluster.submit(problem.job((3, 3))).await.unwrap();
        problem.check(&answer);
        assert_eq!(answer.plan.id, first.plan.id);
    }
    signal(late, "-CONT");
    let changed = async {
        loop {
            let answer = cluster.submit(problem.job((3, 3))).await.unwrap();
            problem.check(&answer);
            if answer.plan.slots.len() == 2 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("frames get the plan for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_its_coordinator_and_ends_on_sigterm() {
    let state = tempfile::tempdir().unwrap();
    let (kept, address, token) = reserved().await;
    let mut worker = worker_process(&token, state.path(), "patient");
    for _ in 0..2 {
        let cluster = cluster(kept.clone(), address.clone()).await;
        assert_eq!(cluster.wait_for(1, PATIENCE).await.unwrap().len(), 1);
        cluster.stop().await;
    }
    signal(worker.id().unwrap(), "-TERM");
    let status = tokio::time::timeout(PATIENCE, worker.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_frames_are_in_flight_and_each_is_exact() {
    let state = tempfile::tempdir().unwrap();
    let problem = Problem::new("zoo:squeezenet@96x96");
    let (cluster, _locals) = with_locals(2, state.path()).await;
    let frames = (0..8).map(|_| cluster.submit(problem.job((2, 2))));
    for answer in futures_of(frames).await {
        problem.check(&answer.unwrap());
    }
}

async fn futures_of<T>(frames: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = frames.map(Box::pin).collect();
    let mut done = Vec::new();
    // Polled together: all are submitted before the first is answered.
    std::future::poll_fn(|cx| {
        pending.retain_mut(|frame| match frame.as_mut().poll(cx) {
            std::task::Poll::Ready(answer) => {
                done.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
