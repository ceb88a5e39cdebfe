//! The search finds plans that are as good as those of every baseline, and the same ones each time.

use model::{LoadOptions, LoadedModel, open};
use planner::{Again, Cost, DeviceProfile, Objective, PlanOptions, Strategy, plan};
use tiling::{Handover, Rates, Split};

fn devices(speeds: &[u64], link_bytes_per_s: u64) -> Vec<DeviceProfile> {
    let device = |(i, &speed): (usize, &u64)| DeviceProfile {
        link_bytes_per_s,
        ..DeviceProfile::wired(format!("d{i}"), Rates::typical(speed * 1_000_000_000))
    };
    speeds.iter().enumerate().map(device).collect()
}

fn model(name: &str) -> LoadedModel {
    open(name, &LoadOptions::default()).unwrap()
}

fn cost(model: &LoadedModel, devices: &[DeviceProfile], strategy: Strategy) -> Cost {
    plan(&model.graph, devices, strategy, PlanOptions::default()).unwrap().1
}

const MODELS: [&str; 5] = [
    "zoo:vgg16@224x224",
    "zoo:tiny-yolov2@224x224",
    "zoo:resnet50@128x128",
    "zoo:mobilenetv2@160x160",
    "zoo:unet@128x128",
];

/// From slow wireless to gigabit Ethernet.
const LINKS: [u64; 3] = [2_500_000, 11_800_000, 117_000_000];

#[test]
fn never_worse_than_a_baseline() {
    for name in MODELS {
        let model = model(name);
        for speeds in [&[4, 4][..], &[6, 6, 6, 6], &[20, 10, 5], &[40, 3]] {
            for link in LINKS {
                let devices = devices(speeds, link);
                let auto = cost(&model, &devices, Strategy::Auto);
                let (auto, cost_bound) = (auto.makespan_ns, auto.bound_ns);
                for baseline in Strategy::ALL {
                    let other = cost(&model, &devices, baseline).makespan_ns;
                    assert!(other >= cost_bound, "{name}: {} beats the bound", baseline.name());
                    assert!(
                        auto <= other,
                        "{name} on {speeds:?} at {link} B/s: auto {auto}, {} {other}",
                        baseline.name()
                    );
                }
            }
        }
    }
}

#[test]
fn the_same_plan_each_time() {
    let model = model("zoo:resnet50@128x128");
    let devices = devices(&[8, 6, 4, 2], 11_800_000);
    let make = || plan(&model.graph, &devices, Strategy::Auto, PlanOptions::default()).unwrap().0;
    assert_eq!(make(), make());
}

#[test]
fn a_slow_link_leaves_the_work_to_one_device() {
    let model = model("zoo:mobilenetv2@160x160");
    let devices = devices(&[20, 20, 20, 20], 1_000_000);
    let (plan, _) = plan(&model.graph, &devices, Strategy::Auto, PlanOptions::default()).unwrap();
    assert_eq!(plan.stages.len(), 1);
    assert_eq!(plan.stages[0].split, Split::Whole);
}

#[test]
fn heavy_layers_are_shared_by_speed() {
    let model = model("zoo:unet@256x256");
    let devices = devices(&[8, 8, 4], 900_000_000);
    let auto = cost(&model, &devices, Strategy::Auto);
    // 20 G multiply-adds a second in all, of which the fastest device has 8.
    assert!(auto.makespan_ns * 3 < auto.one_device_ns * 2, "{auto:?}");
    let slow = &auto.devices[2];
    let fast = &auto.devices[0];
    assert!(slow.multiply_adds > 0 && slow.multiply_adds * 3 < fast.multiply_adds * 2);
}

/// Maps that may stay on the workers make no plan slower, and most of them faster.
#[test]
fn exchange_pays() {
    let mut faster = 0;
    for name in MODELS {
        let model = model(name);
        let devices = devices(&[6, 6, 6, 6], 11_800_000);
        let made = |handover| {
            let options = PlanOptions { handover, ..PlanOptions::default() };
            plan(&model.graph, &devices, Strategy::Auto, options).unwrap().1.makespan_ns
        };
        let (free, gathering) = (made(None), made(Some(Handover::Gather)));
        assert!(free <= gathering, "{name}: {free} against {gathering}");
        faster += usize::from(free * 100 < gathering * 95);
    }
    assert!(faster >= 3, "{faster} of {}", MODELS.len());
}

/// A mean over a whole map in the middle of the trunk: its gate travels, the map does not.
#[test]
fn squeeze_and_excite_leaves_the_large_maps_where_they_are() {
    let model = model("zoo:efficientnet-b0@512x512");
    let devices = devices(&[6, 6, 6, 6], 117_000_000);
    let options = PlanOptions { handover: Some(Handover::Exchange), ..PlanOptions::default() };
    let (plan, cost) = plan(&model.graph, &devices, Strategy::Auto, options).unwrap();
    let gathered: u64 = cost.stages.iter().map(|s| s.gather_bytes).sum();
    let input: u64 = 512 * 512 * 3 * 4;
    assert!(plan.stages.len() > 8 && gathered < input / 2, "{gathered} bytes are gathered");
}

/// Frames that follow each other: no plan lets more of them through than the one that is chosen for
/// that.
#[test]
fn streams_of_frames() {
    let mut faster = 0;
    for name in MODELS {
        let model = model(name);
        for speeds in [&[6, 6, 6, 6][..], &[20, 10, 5]] {
            let devices = devices(speeds, 11_800_000);
            let made = |strategy| {
                let objective = Objective::Throughput;
                let options = PlanOptions { objective, ..PlanOptions::default() };
                plan(&model.graph, &devices, strategy, options).unwrap().1.period_ns
            };
            let auto = made(Strategy::Auto);
            for other in [Strategy::Local, Strategy::Pico, Strategy::Replicate] {
                let period = made(other);
                assert!(auto <= period, "{name} {speeds:?}: {auto}, {} {period}", other.name());
            }
            faster += usize::from(auto * 3 < made(Strategy::Local) * 2);
        }
    }
    // Where the input is large for its work, the coordinator's link is what counts.
    assert!(faster > MODELS.len(), "{faster} of {}", 2 * MODELS.len());
}

#[test]
fn a_second_device_is_wanted() {
    let model = model("zoo:mobilenetv2@160x160");
    let devices = devices(&[4], 11_800_000);
    for strategy in [Strategy::Offload, Strategy::Split] {
        let error = plan(&model.graph, &devices, strategy, PlanOptions::default()).unwrap_err();
        assert!(error.to_string().contains("second device"), "{error}");
    }
}

#[test]
fn a_plan_stays_until_another_is_well_worth_the_weights() {
    let model = model("zoo:vgg16@224x224").graph;
    let mut devices = devices(&[10, 10, 10, 10], 11_800_000);
    let options = PlanOptions::EXACT;
    let (known, _) = plan(&model, &devices, Strategy::Auto, options).unwrap();
    let again = |devices: &[DeviceProfile]| {
        let made = plan(&model, devices, Strategy::Auto, options).unwrap();
        let now = planner::cost_of(&model, devices, Strategy::Auto, options, &known).unwrap();
        planner::again(&model, devices, options, (&known, now), made)
    };
    devices[1].rates = Rates::typical(9_500_000_000);
    let Again::Stays(cost) = again(&devices) else { panic!("a little slower") };
    assert_eq!(cost, Cost::of(&model, &devices, &known).unwrap());
    devices[1].rates = Rates::typical(1_000_000_000);
    let Again::Changes(plan, cost) = again(&devices) else { panic!("ten times slower") };
    assert!(plan != known);
    assert!(cost.makespan_ns < Cost::of(&model, &devices, &known).unwrap().makespan_ns * 9 / 10);
}
