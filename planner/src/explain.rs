//! Why this plan and no other: the plans that lost, and what would have to change for the verdict to
//! turn.

use crate::profile::model_work;
use crate::search::{Search, Space, World};
use crate::{
    Cost, DeviceProfile, Objective, Pair, PlanOptions, Strategy, devices_used, local, plan,
};
use model::Model;
use serde::Serialize;
use tiling::{Handover, Plan, Rates, Stage};

/// A strategy that was not chosen.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerUp {
    /// Its name.
    pub strategy: &'static str,
    /// What it would cost; none where it has no plan.
    pub cost: Option<RunnerUpCost>,
    /// Why it lost, in words.
    pub why: String,
}

/// What a plan that lost would cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RunnerUpCost {
    /// First scatter to last gather of one frame.
    pub makespan_ns: u64,
    /// From frame to frame in a stream.
    pub period_ns: u64,
    /// What a frame makes the devices draw beyond idle.
    pub energy_j: Option<f64>,
    /// Devices that it uses.
    pub devices: usize,
    /// Bytes that it moves for a frame.
    pub moved_bytes: u64,
}

/// All strategies but one, the best under the objective first, each with what kept it from winning
/// against the plan that was chosen.
pub fn runner_ups(
    model: &Model,
    devices: &[DeviceProfile],
    chosen: (Strategy, &Plan, &Cost),
    options: PlanOptions,
) -> Vec<RunnerUp> {
    let (strategy, winner, best) = chosen;
    let free = PlanOptions { grid: None, fused_layers: None, handover: None, ..options };
    let others = Strategy::ALL.into_iter().filter(|&other| other != strategy);
    let of = |other: Strategy| {
        let lost = |why: String, cost| RunnerUp { strategy: other.name(), cost, why };
        match plan(model, devices, other, free) {
            Err(error) => lost(error.to_string(), None),
            Ok((plan, cost)) => {
                let why = match plan.stages == winner.stages {
                    true => "the same plan".into(),
                    false => why(devices.len(), (&plan, &cost), best, options),
                };
                lost(why, Some(RunnerUpCost::of(devices.len(), &plan, &cost)))
            }
        }
    };
    let mut all: Vec<RunnerUp> = others.map(of).collect();
    let rank = |other: &RunnerUp| {
        other.cost.map_or(f64::INFINITY, |cost| match options.objective {
            Objective::Latency => cost.makespan_ns as f64,
            Objective::Throughput => cost.period_ns as f64,
            Objective::Energy => cost.energy_j.unwrap_or(f64::MAX),
        })
    };
    all.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    all
}

impl RunnerUpCost {
    fn of(devices: usize, plan: &Plan, cost: &Cost) -> Self {
        Self {
            makespan_ns: cost.makespan_ns,
            period_ns: cost.period_ns,
            energy_j: cost.energy_j,
            devices: devices_used(plan).min(devices),
            moved_bytes: cost.moved_bytes(),
        }
    }
}

/// What takes most of the time by which a plan is slower.
fn why(devices: usize, (plan, cost): (&Plan, &Cost), best: &Cost, options: PlanOptions) -> String {
    let percent = |a: f64, b: f64| (a / b.max(1e-9) - 1.0) * 100.0;
    match options.objective {
        Objective::Energy => {
            let (Some(ours), Some(its)) = (best.energy_j, cost.energy_j) else {
                return "its energy is not known".into();
            };
            if let Some(late) = options.deadline_ns.filter(|&most| cost.makespan_ns > most) {
                let late = (cost.makespan_ns - late) as f64 / 1e6;
                return format!("{late:.0} ms after the deadline");
            }
            return match its > ours {
                true => format!("{:.0} % more energy", percent(its, ours)),
                false => "no less energy".into(),
            };
        }
        Objective::Throughput if cost.period_ns > best.period_ns => {
            let slower = percent(cost.period_ns as f64, best.period_ns as f64);
            return format!("{slower:.0} % longer from frame to frame");
        }
        Objective::Throughput => return "no shorter from frame to frame".into(),
        Objective::Latency => {}
    }
    if cost.makespan_ns < best.makespan_ns {
        let faster = percent(best.makespan_ns as f64, cost.makespan_ns as f64);
        return match best.rehearsed_ns {
            Some(_) => format!("{faster:.0} % faster by this estimate, not when it is simulated"),
            None => format!("{faster:.0} % faster, and not what was asked for"),
        };
    }
    if cost.makespan_ns == best.makespan_ns {
        return "as fast".into();
    }
    let slower = percent(cost.makespan_ns as f64, best.makespan_ns as f64);
    let busiest = |cost: &Cost| cost.devices.iter().map(|load| load.busy_ns).max().unwrap_or(0);
    let computes = busiest(cost);
    let waits = cost.makespan_ns.saturating_sub(computes);
    let reason = if computes >= best.makespan_ns {
        match devices_used(plan).min(devices) {
            1 => "one device computes it all".into(),
            _ if cost.redundancy() > best.redundancy() + 0.1 => {
                format!("it computes {:.0} % twice", (cost.redundancy() - 1.0) * 100.0)
            }
            _ => "its slowest device computes too long".to_owned(),
        }
    } else {
        let moved = cost.moved_bytes() as f64 / 1e6;
        let part = waits as f64 / cost.makespan_ns as f64 * 100.0;
        format!("{part:.0} % of its time is waiting, {moved:.1} MB are to be moved")
    };
    format!("{slower:.0} % slower: {reason}")
}

/// What would have to change for another verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Turning {
    /// Whether several devices are used now.
    pub shares: bool,
    /// The speed of the fastest link, in bytes a second, at which that turns; all links are scaled
    /// alike. None where none does.
    pub link_bytes_per_s: Option<u64>,
    /// How many times as fast the devices other than the fastest would have to be, where that turns it;
    /// below one they would have to be slower.
    pub others_times: Option<f64>,
}

/// The most that links or devices are scaled by.
const TIMES_MAX: f64 = 256.0;

/// Places of the model that are looked at: the question is asked for many links.
const PLACES_MAX: usize = 20;

/// The link speed and the device speed at which the answer, one device or several, would turn.
pub fn turning(
    model: &Model,
    devices: &[DeviceProfile],
    plan: &Plan,
    options: PlanOptions,
) -> Turning {
    let shares = devices_used(plan) > 1;
    let turning = Turning { shares, ..Turning::default() };
    if devices.len() < 2 || options.objective != Objective::Latency {
        return turning;
    }
    let factors = scales(shares);
    // One search sees many links at once...
    let at_link = turn(&factors, |factors| {
        let worlds = factors.iter().map(|&factor| with_links(devices, factor)).collect();
        let answers = sharing(model, devices, options, worlds);
        answers.iter().position(|&answer| answer != shares)
    });
    // ...and other devices are another one: no more of them than needed.
    let others_times = turn(&factors, |factors| {
        factors.iter().position(|&factor| {
            let devices = with_others(model, devices, options, factor);
            sharing(model, &devices, options, vec![devices.clone()])[0] != shares
        })
    });
    let fastest = devices.iter().map(|d| d.link_bytes_per_s).max().unwrap_or(0);
    let link_bytes_per_s = at_link.map(|factor| (fastest as f64 * factor) as u64);
    Turning { link_bytes_per_s, others_times, ..turning }
}

/// Factors by which links or devices are scaled: up where one device is the answer, else down.
fn scales(shares: bool) -> Vec<f64> {
    let powers = 0..=TIMES_MAX.log2() as i32;
    powers.map(|power| if shares { 0.5_f64.powi(power) } else { 2.0_f64.powi(power) }).collect()
}

/// The first factor at which the answer is another, to an eighth; `first` says which of some it is.
fn turn(factors: &[f64], mut first: impl FnMut(&[f64]) -> Option<usize>) -> Option<f64> {
    // As things are is known; the search here is coarser, and may see it otherwise.
    let at = first(&factors[1..])?;
    let (near, far) = (factors[at], factors[at + 1]);
    let between: Vec<f64> = (1..8).map(|i| near * (far / near).powf(f64::from(i) / 8.0)).collect();
    Some(first(&between).map_or(far, |at| between[at]))
}

fn with_links(devices: &[DeviceProfile], factor: f64) -> Vec<DeviceProfile> {
    let scale = |bytes_per_s: u64| ((bytes_per_s as f64 * factor) as u64).max(1);
    let scaled = |device: &DeviceProfile| DeviceProfile {
        link_bytes_per_s: scale(device.link_bytes_per_s),
        pairs: device
            .pairs
            .iter()
            .map(|pair| Pair { bytes_per_s: scale(pair.bytes_per_s), ..*pair })
            .collect(),
        ..device.clone()
    };
    devices.iter().map(scaled).collect()
}

/// The devices with all but the fastest scaled.
fn with_others(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    factor: f64,
) -> Vec<DeviceProfile> {
    let work = model_work(model, options.numerics);
    let fastest = (0..devices.len()).min_by_key(|&i| (devices[i].takes_ns(&work), i));
    let scaled = |rates: Rates| rates.scaled(|_| factor);
    let of = |(i, device): (usize, &DeviceProfile)| match Some(i) == fastest {
        true => device.clone(),
        false => DeviceProfile { rates: scaled(device.rates), ..device.clone() },
    };
    devices.iter().enumerate().map(of).collect()
}

/// In which of some worlds several devices are faster than one.
fn sharing(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    worlds: Vec<Vec<DeviceProfile>>,
) -> Vec<bool> {
    let numerics = options.numerics;
    let search = Search::with_places(model, devices, numerics, Space::All, PLACES_MAX);
    let handovers = match options.handover {
        Some(handover) => vec![Some(handover)],
        None => vec![None, Some(Handover::Gather)],
    };
    let takes = |devices: &[DeviceProfile], plan: &Plan| {
        Cost::estimate(model, devices, plan).map_or(u64::MAX, |cost| cost.makespan_ns)
    };
    let alone =
        |devices: &Vec<DeviceProfile>| takes(devices, &local::plan(model, devices, numerics));
    let alone: Vec<u64> = worlds.iter().map(alone).collect();
    let mut asked = Vec::new();
    for (devices, &limit_ns) in worlds.iter().zip(&alone) {
        for &handover in &handovers {
            asked.push(World { devices: devices.clone(), handover, limit_ns });
        }
    }
    let found = search.run(&asked);
    let each = worlds.iter().zip(found.chunks(handovers.len())).zip(alone);
    let shares = each.map(|((devices, found), alone_ns)| {
        let plan = |stages: &Vec<Stage>| Plan::new("", numerics, stages.clone());
        let mut plans = found.iter().flatten().map(plan);
        plans.any(|plan| devices_used(&plan) > 1 && takes(devices, &plan) < alone_ns)
    });
    shares.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, LoadedModel, open};

    fn devices(speeds: &[u64], link_bytes_per_s: u64) -> Vec<DeviceProfile> {
        let device = |&speed: &u64| DeviceProfile {
            link_bytes_per_s,
            ..DeviceProfile::wired("d", Rates::typical(speed * 1_000_000_000))
        };
        speeds.iter().map(device).collect()
    }

    fn turned(model: &LoadedModel, devices: &[DeviceProfile]) -> (usize, Turning) {
        let options = PlanOptions::default();
        let (plan, _) = plan(&model.graph, devices, Strategy::Auto, options).unwrap();
        (devices_used(&plan), turning(&model.graph, devices, &plan, options))
    }

    /// Beyond the link that is named the answer is the other one.
    #[test]
    fn the_verdict_turns_where_it_is_said_to() {
        let model = open("zoo:mobilenetv2@160x160", &LoadOptions::default()).unwrap();
        let slow = devices(&[20, 20, 20], 1_000_000);
        let (used, at) = turned(&model, &slow);
        assert_eq!((used, at.shares), (1, false));
        let link = at.link_bytes_per_s.unwrap();
        assert!(turned(&model, &devices(&[20, 20, 20], link * 2)).0 > 1, "{link}");

        let model = open("zoo:vgg16@224x224", &LoadOptions::default()).unwrap();
        let fast = devices(&[8, 8, 8], 117_000_000);
        let (used, at) = turned(&model, &fast);
        assert!(used > 1 && at.shares);
        let (link, times) = (at.link_bytes_per_s.unwrap(), at.others_times.unwrap());
        assert_eq!(turned(&model, &devices(&[8, 8, 8], link / 3)).0, 1, "{link}");
        let slower = (8e9 * times / 2.0) as u64;
        let mut slowed = devices(&[8, 8, 8], 117_000_000);
        slowed[1..].iter_mut().for_each(|device| device.rates = Rates::typical(slower));
        assert_eq!(turned(&model, &slowed).0, 1, "{times}");
    }

    #[test]
    fn plans_that_lost_are_told_with_a_reason() {
        let model = open("zoo:vgg16@224x224", &LoadOptions::default()).unwrap();
        let devices = devices(&[8, 8], 11_800_000);
        let options = PlanOptions::default();
        let (best, cost) = plan(&model.graph, &devices, Strategy::Auto, options).unwrap();
        let chosen = (Strategy::Auto, &best, &cost);
        let others = runner_ups(&model.graph, &devices, chosen, options);
        assert_eq!(others.len(), Strategy::ALL.len() - 1);
        let takes: Vec<u64> = others.iter().map(|o| o.cost.unwrap().makespan_ns).collect();
        assert!(takes.is_sorted() && takes[0] >= cost.makespan_ns);
        let modnn = others.iter().find(|other| other.strategy == "modnn").unwrap();
        assert!(modnn.why.contains("slower") && modnn.why.contains("MB"), "{}", modnn.why);
        // With one device some have no plan, and say why.
        let others = runner_ups(&model.graph, &devices[..1], chosen, options);
        let offload = others.iter().find(|other| other.strategy == "offload").unwrap();
        assert!(offload.cost.is_none() && offload.why.contains("second device"));
    }
}
