//! What cutting late convolutions by their output channels would bring, by the planner's own cost: prints
//! JSON, one entry for each model and link, over four Raspberry Pi 4.
//!
//! Each device would compute a quarter of a layer's channels and read a quarter of its weights, and would
//! need all channels of the layer's input: three quarters of that map come from the others. Stages of
//! the plan that `auto` makes, and of one whose maps all stay on the workers, are replaced so, from any
//! of them to any later one, and the best replacement with a convolution counts. What is uncertain is
//! taken to be in favour of channels: maps pass between all devices at once and at the full rate of each
//! link, each layer that cannot be cut otherwise is cut as well, and in the second figure computing
//! and sending overlap perfectly.

use model::builder::Builder;
use model::{LayerId, LoadOptions, MapId, Model, Op, open};
use planner::{Cost, DeviceProfile, PlanOptions, Strategy, plan};
use serde_json::{Value, json};
use sim::files::DeviceFile;
use std::collections::BTreeMap;
use tiling::locality;
use tiling::{
    Handover, Locality, Numerics, OperatorClass, Rates, Shares, StageGeometry, Wire, Work,
};

const DEVICES: usize = 4;

/// Bytes a second that a Pi 4 reads from memory: the file of the device has weights inside of other
/// rates, where cutting them would save nothing.
const MEMORY_BYTES_PER_S: u64 = 5_000_000_000;

/// Bytes a second, and the time of a message there and back.
const LINKS: [(&str, u64, u64); 2] =
    [("100 Mbit/s", 11_800_000, 400_000), ("1 Gbit/s", 117_000_000, 250_000)];

type Failed = Box<dyn std::error::Error>;

/// The work of a quarter of a layer's output channels.
fn slice(model: &Model, layer: usize, whole: &Work) -> Result<Work, Failed> {
    let id = LayerId(layer as u32);
    let layer = model.layer(id);
    let Op::Conv { window, groups: 1, weights, activation, .. } = &layer.op else {
        // What works on each channel by itself goes on where its channels are.
        let part = |class| Work::of(class, whole[class] / DEVICES as u64);
        return Ok(OperatorClass::ALL.map(part).into_iter().sum());
    };
    let mut dims = model.weights[weights.0 as usize].dims.clone();
    dims[0] = dims[0].div_ceil(DEVICES);
    let mut build = Builder::new("slice", "slice");
    let input = build.input("x", model.shape(layer.inputs[0]).clone())?;
    let weights = build.weight(vec![0.0; dims.iter().product()], &dims)?;
    let (window, activation) = (*window, *activation);
    let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
    let made = build.layer("conv", op, &[input])?;
    build.output(made);
    let model = build.finish()?.graph;
    Ok(StageGeometry::whole(&model, Numerics::Fast).tile_work(&model, 0))
}

/// How a map lies on the devices, where all of it is not everywhere.
#[derive(Clone, Copy, PartialEq)]
enum Lies {
    Rows,
    Channels,
    Everywhere,
}

/// Time to compute the layers of some stages by channels, and time to send what they need and leave.
fn by_channels(
    model: &Model,
    device: &DeviceProfile,
    layers: std::ops::Range<usize>,
) -> Result<(f64, f64), Failed> {
    let whole = StageGeometry::whole(model, Numerics::Fast);
    let (mut computes, mut sends) = (0.0, 0.0);
    let mut lies: BTreeMap<MapId, Lies> = BTreeMap::new();
    let send = |map: MapId, sixteenths: u64| {
        let bytes = (model.shape(map).elements() * model.element(map).bytes()) as u64;
        let some = device.shares.of(map, bytes) * sixteenths / 16;
        some as f64 * 1e9 / device.link_bytes_per_s as f64 + device.late_round_trip_ns as f64
    };
    for layer in layers.clone() {
        let id = LayerId(layer as u32);
        let (region, algorithm) = (whole.tiles[0].layers[layer], whole.algorithms[layer]);
        let work = tiling::layer_work(model, id, algorithm, region);
        computes += device.rates.pace().ns(&slice(model, layer, &work)?);
        let op = &model.layer(id).op;
        let sees_all = is_dense(op) || matches!(op, Op::LinearRows { .. });
        let each_channel =
            !sees_all && locality(model, id) == Locality::Local || matches!(op, Op::Reduce { .. });
        for &map in &model.layer(id).inputs {
            let before = lies.get(&map).copied().unwrap_or(Lies::Rows);
            let (after, ns) = match (before, each_channel) {
                (Lies::Everywhere, _) => (Lies::Everywhere, 0.0),
                (Lies::Channels, true) => (Lies::Channels, 0.0),
                // A quarter of the rows of each quarter of the channels is there.
                (Lies::Rows, true) => (Lies::Channels, send(map, 3)),
                (_, false) => (Lies::Everywhere, send(map, 12)),
            };
            lies.insert(map, after);
            sends += ns;
        }
        lies.insert(model.layer(id).output, Lies::Channels);
    }
    // What comes after reads rows, and the coordinator all of an output.
    for (&map, _) in lies.iter().filter(|(_, lies)| **lies == Lies::Channels) {
        let later = model.layers[layers.end..].iter().any(|layer| layer.inputs.contains(&map));
        sends += if later { send(map, 3) } else { 0.0 };
        sends += if model.outputs.contains(&map) { send(map, 16) } else { 0.0 };
    }
    Ok((computes, sends))
}

fn is_dense(op: &Op) -> bool {
    matches!(op, Op::Conv { groups: 1, .. })
}

/// The stages' layers, and how long each takes.
fn stages(plan: &tiling::Plan, cost: &Cost) -> Vec<(std::ops::Range<usize>, f64)> {
    let layers = plan.stages.iter().map(|s| s.first_layer as usize..s.end_layer as usize);
    layers.zip(cost.stages.iter().map(|stage| stage.duration_ns as f64)).collect()
}

fn best(name: &str, (link, bytes_per_s, round_trip_ns): (&str, u64, u64)) -> Result<Value, Failed> {
    let model = open(name, &LoadOptions::default())?.graph;
    let file = DeviceFile::open("pi-4b")?.model().measured();
    let rates = Rates::new(|class| match class {
        OperatorClass::Weights => MEMORY_BYTES_PER_S,
        class => file.per_s(class),
    });
    let shares = Shares::expected(&model, Wire::Auto, Shares::of_pictures(&model));
    let device = DeviceProfile {
        link_bytes_per_s: bytes_per_s,
        round_trip_ns,
        late_round_trip_ns: round_trip_ns,
        ..DeviceProfile::wired("pi", rates)
    };
    let device = device.sharing(Wire::Auto, &shares);
    let devices = vec![device.clone(); DEVICES];
    let auto = |handover| {
        let options = PlanOptions { handover, ..PlanOptions::default() };
        plan(&model, &devices, Strategy::Auto, options)
    };
    let (first, cost) = auto(None)?;
    let (other, exchanging) = auto(Some(Handover::Exchange))?;
    let now = cost.makespan_ns as f64;
    let mut all = Vec::new();
    for stages in [stages(&first, &cost), stages(&other, &exchanging)] {
        let total: f64 = stages.iter().map(|(_, ns)| ns).sum();
        for from in 0..stages.len() {
            for to in from + 1..=stages.len() {
                let layers = stages[from].0.start..stages[to - 1].0.end;
                if !model.layers[layers.clone()].iter().any(|layer| is_dense(&layer.op)) {
                    continue;
                }
                let replaced: f64 = stages[from..to].iter().map(|(_, ns)| ns).sum();
                let (computes, sends) = by_channels(&model, &device, layers.clone())?;
                let rest = total - replaced;
                all.push((rest + computes + sends, rest + computes.max(sends), layers));
            }
        }
    }
    let least = |of: fn(&(f64, f64, std::ops::Range<usize>)) -> f64| {
        let best = all.iter().min_by(|a, b| of(a).total_cmp(&of(b)));
        best.map(|entry| (of(entry), entry.2.clone())).unwrap_or((now, 0..0))
    };
    let told = |(ns, layers): (f64, std::ops::Range<usize>)| {
        let layer = |i: usize| model.layers[i].name.clone();
        json!({
            "ms": ns / 1e6,
            "gain_percent": (now / ns - 1.0) * 100.0,
            "from": layer(layers.start), "to": layer(layers.end - 1),
        })
    };
    Ok(json!({
        "model": name, "link": link, "devices": DEVICES, "auto_ms": now / 1e6,
        "bound_ms": cost.bound_ns as f64 / 1e6,
        "channels": told(least(|entry| entry.0)),
        "channels_overlapped": told(least(|entry| entry.1)),
    }))
}

fn main() -> Result<(), Failed> {
    let models = ["zoo:resnet50@224x224", "zoo:vgg16@224x224"];
    let cases = models.iter().flat_map(|name| LINKS.iter().map(move |link| best(name, *link)));
    let cases: Vec<Value> = cases.collect::<Result<_, _>>()?;
    println!("{:#}", json!(cases));
    Ok(())
}
