//! The search beside all plans there are, where there are few: small networks on two or three devices.

use model::builder::Builder;
use model::{Activation, Model, Op, PoolKind, Shape, Window};
use planner::{Cost, DeviceProfile, PlanOptions, Strategy, plan};
use tiling::{Grid, Handover, Numerics, OperatorClass, Plan, Rates, Slot, Split, Stage};

const INSTANCES: u64 = 200;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Two or three layers: convolutions, perhaps a pool among them, perhaps a mean over all at the end.
fn network(random: &mut Random) -> Model {
    let mut build = Builder::new("small", "small");
    let side = random.pick(&[16, 28, 56]);
    let mut channels = random.pick(&[3, 16, 64]);
    let mut at = build.input("x", Shape::Spatial { channels, rows: side, cols: side }).unwrap();
    let layers = 2 + random.below(2);
    for i in 0..layers {
        let name = format!("layer{i}");
        let last = i + 1 == layers;
        let op = match random.below(5) {
            0 if i > 0 && !last => {
                Op::Pool { window: Window::square(2, 2, 0), kind: PoolKind::Max }
            }
            1 if last => {
                let positions = build.shape(at).rows() * build.shape(at).cols();
                Op::GlobalAveragePool { positions }
            }
            _ => {
                let outputs = random.pick(&[16, 32, 128]);
                let kernel = random.pick(&[1, 3, 5]);
                let values = vec![0.01; outputs * channels * kernel * kernel];
                let weights = build.weight(values, &[outputs, channels, kernel, kernel]).unwrap();
                channels = outputs;
                let window = Window::square(kernel, 1, kernel / 2);
                Op::Conv { window, groups: 1, weights, bias: None, activation: Activation::None }
            }
        };
        at = build.layer(&name, op, &[at]).unwrap();
    }
    build.output(at);
    Model::clone(&build.finish().unwrap().graph)
}

fn cluster(random: &mut Random) -> Vec<DeviceProfile> {
    let link_bytes_per_s = random.pick(&[2_500_000, 11_800_000, 117_000_000, 1_000_000_000]);
    let round_trip_ns = random.pick(&[100_000, 1_000_000]);
    let count = 2 + random.below(2);
    let device = |i: u64, speed: u64| DeviceProfile {
        link_bytes_per_s,
        round_trip_ns,
        late_round_trip_ns: round_trip_ns,
        ..DeviceProfile::wired(format!("d{i}"), Rates::typical(speed * 1_000_000_000))
    };
    (0..count).map(|i| device(i, random.pick(&[2, 4, 8, 20]))).collect()
}

/// All splits of a stage: whole on each device; strips of rows, with shares by speed or equal ones,
/// over each set of devices. Maps and kernels are square, so that strips of columns are the same.
fn stages(devices: &[DeviceProfile]) -> Vec<(Split, Vec<Slot>)> {
    let count = devices.len() as u32;
    let mut all: Vec<_> = (0..count).map(|d| (Split::Whole, vec![Slot(d)])).collect();
    let speed = |d: u32| devices[d as usize].rates.per_s(OperatorClass::Conv) / 1_000_000;
    for set in 1u32..1 << count {
        let used: Vec<u32> = (0..count).filter(|d| set >> d & 1 == 1).collect();
        if used.len() < 2 {
            continue;
        }
        let slots: Vec<Slot> = used.iter().map(|&d| Slot(d)).collect();
        let by_speed: Vec<u32> = used.iter().map(|&d| speed(d).max(1) as u32).collect();
        let mut shares = vec![by_speed, vec![1; used.len()]];
        shares.dedup_by_key(|shares| shares.iter().map(|s| s / shares[0]).collect::<Vec<_>>());
        for shares in shares {
            let rows = Split::Spatial(Grid { row_shares: shares, col_shares: vec![1] });
            all.push((rows, slots.clone()));
        }
    }
    all
}

/// The least makespan of all plans.
fn exhaustive(model: &Model, devices: &[DeviceProfile]) -> u64 {
    let layers = model.layers.len() as u32;
    let mut open: Vec<Vec<Stage>> = vec![Vec::new()];
    let splits = stages(devices);
    let mut best = u64::MAX;
    while let Some(so_far) = open.pop() {
        let first = so_far.last().map_or(0, |stage| stage.end_layer);
        if first == layers {
            let strategy = "exhaustive";
            let plan = Plan::new(strategy, Numerics::Exact, so_far);
            // Cuts that do not fit are no plans.
            let cost = Cost::estimate(model, devices, &plan);
            best = best.min(cost.map_or(u64::MAX, |cost| cost.makespan_ns));
            continue;
        }
        for end_layer in first + 1..=layers {
            for (split, placement) in &splits {
                for handover in [Handover::Gather, Handover::Exchange] {
                    if end_layer == layers && handover == Handover::Exchange {
                        continue;
                    }
                    let (split, placement) = (split.clone(), placement.clone());
                    let mut next = so_far.clone();
                    next.push(Stage { first_layer: first, end_layer, split, placement, handover });
                    open.push(next);
                }
            }
        }
    }
    best
}

#[test]
fn near_the_best_of_all_plans() {
    let mut random = Random(7);
    let mut gaps: Vec<f64> = Vec::new();
    for _ in 0..INSTANCES {
        let (model, devices) = (network(&mut random), cluster(&mut random));
        let least = exhaustive(&model, &devices);
        let (_, cost) = plan(&model, &devices, Strategy::Auto, PlanOptions::EXACT).unwrap();
        gaps.push(cost.makespan_ns as f64 / least as f64 - 1.0);
    }
    gaps.sort_by(f64::total_cmp);
    let at = |part: f64| gaps[((gaps.len() - 1) as f64 * part) as usize];
    println!("gap: median {:.4}, 95 % {:.4}, most {:.4}", at(0.5), at(0.95), at(1.0));
    assert!(at(0.5) <= 0.03, "median gap {:.3}", at(0.5));
    assert!(at(0.95) <= 0.10, "95th percentile {:.3}", at(0.95));
}
