//! What is known of the ways between devices changes plans.

use model::{LoadOptions, open};
use planner::{Cost, DeviceProfile, Pair, PlanOptions, Strategy, plan};
use tiling::{Handover, Plan, Rates, Slot};

fn devices(speeds: &[u64], link_bytes_per_s: u64) -> Vec<DeviceProfile> {
    let device = |(i, &speed): (usize, &u64)| DeviceProfile {
        link_bytes_per_s,
        key: 100 + i as u64,
        ..DeviceProfile::wired(format!("d{i}"), Rates::typical(speed * 1_000_000_000))
    };
    speeds.iter().enumerate().map(device).collect()
}

fn with_pair(devices: &[DeviceProfile], (a, b): (usize, usize), rate: u64) -> Vec<DeviceProfile> {
    let mut devices = devices.to_vec();
    let pair = |with| Pair { with, bytes_per_s: rate, round_trip_ns: 400_000 };
    let keys = (devices[a].key, devices[b].key);
    devices[a].pairs.push(pair(keys.1));
    devices[b].pairs.push(pair(keys.0));
    devices
}

/// Whether two devices hold neighbouring strips of a stage whose maps, or those before it, stay where
/// they are.
fn are_neighbours(plan: &Plan, a: u32, b: u32) -> bool {
    let (a, b) = (Slot(a), Slot(b));
    let exchanging = |i: usize| {
        plan.stages[i].handover == Handover::Exchange
            || i > 0 && plan.stages[i - 1].handover == Handover::Exchange
    };
    let mut stages = (0..plan.stages.len()).filter(|&i| exchanging(i));
    stages.any(|i| plan.stages[i].placement.windows(2).any(|w| w == [a, b] || w == [b, a]))
}

fn auto(devices: &[DeviceProfile]) -> (Plan, Cost) {
    let model = open("zoo:unet@256x256", &LoadOptions::default()).unwrap();
    plan(&model.graph, devices, Strategy::Auto, PlanOptions::default()).unwrap()
}

#[test]
fn a_slow_pair_are_no_neighbours() {
    let usual = devices(&[8, 8, 8], 117_000_000);
    let (before, usual_cost) = auto(&usual);
    assert!(before.stages.iter().any(|stage| stage.handover == Handover::Exchange), "{before:?}");
    assert!(are_neighbours(&before, 0, 1), "{before:?}");
    let slow = with_pair(&usual, (0, 1), 1_000_000);
    let (after, cost) = auto(&slow);
    assert!(!are_neighbours(&after, 0, 1), "{after:?}");
    // What was best before is not with that pair, and what is best now costs little more.
    let model = open("zoo:unet@256x256", &LoadOptions::default()).unwrap().graph;
    let blind = Cost::estimate(&model, &slow, &before).unwrap();
    assert!(
        blind.makespan_ns > cost.makespan_ns * 5 / 4,
        "{} {}",
        blind.makespan_ns,
        cost.makespan_ns
    );
    assert!(cost.makespan_ns < usual_cost.makespan_ns * 6 / 5);
    assert_eq!(auto(&slow).0, after);
}

#[test]
fn of_two_devices_with_a_slow_way_between_them_maps_are_gathered_or_one_is_left_out() {
    let usual = devices(&[8, 8], 117_000_000);
    assert!(are_neighbours(&auto(&usual).0, 0, 1));
    let (plan, _) = auto(&with_pair(&usual, (0, 1), 300_000));
    assert!(!are_neighbours(&plan, 0, 1), "{plan:?}");
}

#[test]
fn a_fast_pair_exchanges_what_slow_links_would_not() {
    let usual = devices(&[8, 8], 2_500_000);
    let (_, before) = auto(&usual);
    let (plan, after) = auto(&with_pair(&usual, (0, 1), 117_000_000));
    assert!(after.makespan_ns < before.makespan_ns, "{} {}", after.makespan_ns, before.makespan_ns);
    assert!(after.makespan_ns >= after.bound_ns);
    assert!(are_neighbours(&plan, 0, 1), "{plan:?}");
}
