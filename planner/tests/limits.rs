//! Plans under limits: what fits the memory of each device, and the least energy within a deadline.

use model::{LoadOptions, LoadedModel, open};
use planner::{
    Cost, DeviceProfile, Objective, PlanOptions, PlannerError, Power, Strategy, check_memory, plan,
};
use tiling::{Numerics, Plan, Rates};

const MEGABYTE: u64 = 1_000_000;

fn model(name: &str) -> LoadedModel {
    open(name, &LoadOptions::default()).unwrap()
}

/// Of a speed, with so much memory, drawing so much at work.
fn device(name: &str, giga_per_s: u64, memory_mb: Option<u64>, active_w: f64) -> DeviceProfile {
    DeviceProfile {
        memory_bytes: memory_mb.map(|mb| mb * MEGABYTE),
        power: Some(Power { idle_w: 2.0, active_w }),
        link_bytes_per_s: 117_000_000,
        ..DeviceProfile::wired(name, Rates::typical(giga_per_s * 1_000_000_000))
    }
}

fn made(
    model: &LoadedModel,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<(Plan, Cost), PlannerError> {
    plan(&model.graph, devices, Strategy::Auto, options)
}

#[test]
fn a_plan_fits_the_memory_of_every_device() {
    for (name, limits) in [
        ("zoo:tiny-yolov2@416x416", &[80, 60, 40][..]),
        ("zoo:unet@256x256", &[70, 70]),
        ("zoo:vgg16@224x224", &[450, 100, 90, 80]),
        // Nobody holds the first fully connected layer, of 411 MB.
        ("zoo:vgg16@224x224", &[230, 210, 200, 190]),
    ] {
        let model = model(name);
        let devices: Vec<DeviceProfile> =
            limits.iter().map(|&mb| device("d", 8, Some(mb), 5.0)).collect();
        let (plan, cost) = made(&model, &devices, PlanOptions::default()).unwrap();
        assert!(cost.devices.iter().any(|load| load.tiles > 0));
        for (load, limit) in cost.devices.iter().zip(limits) {
            let takes = load.memory_bytes();
            assert!(takes <= limit * MEGABYTE, "{name}: {takes} of {limit} MB: {:?}", plan.stages);
        }
    }
}

/// Transformed weights would fit only where the work is spread badly.
#[test]
fn where_memory_is_scarce_weights_are_not_transformed() {
    let model = model("zoo:unet@256x256");
    let takes = |memory_mb, numerics| {
        let devices = [0; 4].map(|_| device("d", 8, Some(memory_mb), 5.0));
        let (plan, cost) =
            made(&model, &devices, PlanOptions { numerics, ..PlanOptions::default() }).unwrap();
        (plan.numerics, cost.makespan_ns)
    };
    let (exact, fast) = (takes(64, Numerics::Exact), takes(64, Numerics::Fast));
    assert_eq!((fast.0, fast.1 <= exact.1), (Numerics::Exact, true));
    let (exact, fast) = (takes(2000, Numerics::Exact), takes(2000, Numerics::Fast));
    assert_eq!((fast.0, fast.1 < exact.1), (Numerics::Fast, true));
}

/// The fastest device cannot hold the model, so that the work goes elsewhere.
#[test]
fn a_device_that_is_too_small_is_passed_over() {
    let model = model("zoo:mobilenetv2@160x160");
    let devices = [device("fast", 40, Some(1), 5.0), device("roomy", 4, Some(500), 5.0)];
    let local = plan(&model.graph, &devices, Strategy::Local, PlanOptions::default()).unwrap().0;
    assert_eq!(local.stages[0].placement[0].0, 1);
    let (_, cost) = made(&model, &devices, PlanOptions::default()).unwrap();
    assert!(cost.devices[0].memory_bytes() <= MEGABYTE, "{:?}", cost.devices);
}

#[test]
fn what_fits_nowhere_is_named() {
    let model = model("zoo:vgg16@224x224");
    let devices = [device("small", 8, Some(3), 5.0), device("larger", 8, Some(8), 5.0)];
    match made(&model, &devices, PlanOptions::default()) {
        // A slice of 128 x 25088 values of four bytes, on whichever device.
        Err(PlannerError::NoRoom { layer, device, needed, given }) => {
            assert_eq!((layer.as_str(), device.as_str(), given), ("fc6", "larger", 8 * MEGABYTE));
            assert!((12 * MEGABYTE..14 * MEGABYTE).contains(&needed), "{needed}");
        }
        other => panic!("{other:?}"),
    }
    // Every layer fits by itself, all of them do not.
    let devices = [device("only", 8, Some(420), 5.0)];
    let error = made(&model, &devices, PlanOptions::default()).unwrap_err();
    assert!(matches!(error, PlannerError::NoRoomForAll { .. }), "{error}");
    let local = plan(&model.graph, &devices, Strategy::Local, PlanOptions::default()).unwrap().0;
    let error = check_memory(&model.graph, &devices, &local).unwrap_err();
    assert!(matches!(error, PlannerError::DoesNotFit { .. }), "{error}");
}

fn within(deadline_ms: Option<u64>) -> PlanOptions {
    let deadline_ns = deadline_ms.map(|ms| ms * 1_000_000);
    PlanOptions { objective: Objective::Energy, deadline_ns, ..PlanOptions::default() }
}

/// A tighter deadline costs more energy, until there is no plan at all.
#[test]
fn energy_within_a_deadline() {
    let model = model("zoo:resnet50@224x224");
    // The first takes 1 J for its work, the second 3 J at four times the speed.
    let devices = [
        device("thrifty", 5, None, 3.0),
        device("thrifty", 5, None, 3.0),
        device("hungry", 20, None, 14.0),
    ];
    let free = made(&model, &devices, within(None)).unwrap();
    assert_eq!(planner::devices_used(&free.0), 1);
    assert_eq!(free.1.devices[2].tiles, 0, "the hungry device is left out");
    let fastest = made(&model, &devices, PlanOptions::default()).unwrap().1;
    let (slowest, fastest) = (free.1.makespan_ns / 1_000_000, fastest.makespan_ns / 1_000_000);
    let mut least = 0.0;
    for part in [10, 7, 4, 1] {
        let deadline = fastest + (slowest - fastest) * part / 10 + 1;
        let (_, cost) = made(&model, &devices, within(Some(deadline))).unwrap();
        assert!(cost.makespan_ns <= deadline * 1_000_000, "{deadline} ms");
        let energy = cost.energy_j.unwrap();
        assert!(energy >= least, "{deadline} ms: {energy} J after {least} J");
        least = energy;
    }
    assert!(least > free.1.energy_j.unwrap() * 1.2);
    let error = made(&model, &devices, within(Some(fastest / 4))).unwrap_err();
    assert!(matches!(error, PlannerError::Deadline { .. }), "{error}");
}

#[test]
fn energy_wants_to_know_the_watts() {
    let model = model("zoo:mobilenetv2@160x160");
    let unknown = DeviceProfile { power: None, ..device("unknown", 5, None, 1.0) };
    let devices = [device("known", 5, None, 3.0), unknown];
    let error = made(&model, &devices, within(None)).unwrap_err();
    assert_eq!(error, PlannerError::NoPower { device: "unknown".into() });
}

/// What one frame costs where each goes to whoever is free.
#[test]
fn replicated_frames_load_every_device() {
    let model = model("zoo:resnet50@224x224");
    let devices = [device("a", 5, None, 3.0), device("b", 10, None, 3.0)];
    let of = |strategy| plan(&model.graph, &devices, strategy, PlanOptions::default()).unwrap().1;
    let (all, one) = (of(Strategy::Replicate), of(Strategy::Local));
    for load in &all.devices {
        assert_eq!((load.tiles, load.multiply_adds), (1, all.model_multiply_adds));
        assert!(load.tile_bytes > 0 && load.weight_bytes > 0 && load.bytes_in > 0);
    }
    let slower = all.devices[0].busy_ns as f64 / all.devices[1].busy_ns as f64;
    assert!((1.99..2.01).contains(&slower), "{slower}");
    assert_eq!(all.devices[1].busy_ns, one.devices[1].busy_ns);
    // Three frames in the time that the faster one takes for two.
    let frames = one.period_ns as f64 / all.period_ns as f64;
    assert!((1.49..1.51).contains(&frames), "{frames}");
}
