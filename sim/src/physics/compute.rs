//! How long a tile takes on a device.
//!
//! A rate for each operator class and a rate for the bytes of activations, added up, fits the
//! published times of 22 networks on 11 boards within 6 to 27 %; one rate for all operators misses
//! by 34 to 75 %. *Source*: fits over the tables of `ncnn/benchmark/README.md` (Tencent, 2025).
//! The rates of 3x3 layers have Winograd inside. Fully connected layers read each weight once for
//! one multiply-add, so that they take the time of their bytes.

use super::{BackgroundLoad, Power, Thermal};
use model::{LayerId, Model, Op};
use protocol::{Nanos, SECOND};
use tiling::{StageGeometry, receptive_field};

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// What it is called, for people.
    pub name: String,
    /// Multiply-adds a second of 3x3 convolutions of stride 1, all threads, full clock.
    pub conv3x3_per_s: f64,
    /// Of 1x1 convolutions.
    pub conv1x1_per_s: f64,
    /// Of other convolutions.
    pub conv_per_s: f64,
    /// Of depthwise convolutions.
    pub depthwise_per_s: f64,
    /// Bytes of activations read and written a second.
    pub activation_bytes_per_s: f64,
    /// Bytes of weights of fully connected layers a second.
    pub memory_bytes_per_s: f64,
    /// How much faster than one thread each number of threads is; the last is all of them.
    pub speedup_by_threads: Vec<f64>,
    /// Threads that compute.
    pub threads: usize,
    /// What a tile takes on top.
    pub overhead_ns: Nanos,
    /// What feature maps and packed weights may take; zero when nobody counts.
    pub memory_bytes: u64,
    /// How it gets warm, if it does.
    pub thermal: Option<Thermal>,
    /// Who else uses it, if somebody does.
    pub load: Option<BackgroundLoad>,
    /// What it draws.
    pub power: Power,
}

impl DeviceModel {
    /// A device with one rate for everything, which never gets warm: for tests, where times are to
    /// be worked out by hand.
    pub fn plain(multiply_adds_per_s: u64) -> Self {
        let rate = multiply_adds_per_s as f64;
        Self {
            name: "plain".into(),
            conv3x3_per_s: rate,
            conv1x1_per_s: rate,
            conv_per_s: rate,
            depthwise_per_s: rate,
            activation_bytes_per_s: f64::INFINITY,
            memory_bytes_per_s: rate * 4.0,
            speedup_by_threads: vec![1.0],
            threads: 1,
            overhead_ns: 50_000,
            memory_bytes: 0,
            thermal: None,
            load: None,
            power: Power::default(),
        }
    }

    /// The part of its speed that it has with the threads it uses.
    fn thread_share(&self) -> f64 {
        let all = self.speedup_by_threads.last().copied().unwrap_or(1.0);
        let used = self.threads.clamp(1, self.speedup_by_threads.len().max(1)) - 1;
        self.speedup_by_threads.get(used).copied().unwrap_or(all) / all
    }

    /// Time that a tile takes at full clock, undisturbed.
    pub fn cost(&self, work: &TileWork) -> TileCost {
        let share = self.thread_share();
        let seconds = work.conv3x3 as f64 / self.conv3x3_per_s
            + work.conv1x1 as f64 / self.conv1x1_per_s
            + work.conv as f64 / self.conv_per_s
            + work.depthwise as f64 / self.depthwise_per_s;
        let bytes = work.activation_bytes as f64 / self.activation_bytes_per_s
            + work.weight_bytes as f64 / self.memory_bytes_per_s;
        TileCost {
            clock_ns: seconds / share * SECOND as f64,
            memory_ns: bytes * SECOND as f64 + self.overhead_ns as f64,
        }
    }

    /// Time that a tile takes at full clock, undisturbed.
    pub fn tile_ns(&self, work: &TileWork) -> f64 {
        let cost = self.cost(work);
        cost.clock_ns + cost.memory_ns
    }

    /// One rate for all operators: what the device measures of itself on 3x3 layers.
    pub fn measured_per_s(&self) -> u64 {
        (self.conv3x3_per_s * self.thread_share()) as u64
    }

    /// One rate that stands for its time on a model: what its tasks teach the coordinator.
    pub fn rate_on(&self, work: &TileWork) -> u64 {
        (work.multiply_adds() as f64 * SECOND as f64 / self.tile_ns(work).max(1.0)) as u64
    }
}

/// Time of a tile, by what slows it down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TileCost {
    /// What grows as the clock falls.
    pub clock_ns: f64,
    /// What does not.
    pub memory_ns: f64,
}

/// What a tile asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileWork {
    /// Multiply-adds of 3x3 convolutions of stride 1.
    pub conv3x3: u64,
    /// Of 1x1 convolutions.
    pub conv1x1: u64,
    /// Of other convolutions, and of products that are none.
    pub conv: u64,
    /// Of depthwise convolutions.
    pub depthwise: u64,
    /// Bytes of activations that its layers read and write.
    pub activation_bytes: u64,
    /// Bytes of weights of its fully connected layers.
    pub weight_bytes: u64,
}

impl TileWork {
    /// Multiply-adds of all classes; those of fully connected layers, one for each weight, among
    /// them.
    pub fn multiply_adds(&self) -> u64 {
        self.conv3x3 + self.conv1x1 + self.conv + self.depthwise + self.weight_bytes / 4
    }
}

/// What a tile of a stage asks of a device.
pub fn work_of(model: &Model, stage: &StageGeometry, tile: usize) -> TileWork {
    let mut work = TileWork::default();
    for (i, &region) in stage.tiles[tile].layers.iter().enumerate() {
        let id = LayerId(stage.first_layer.0 + i as u32);
        let layer = model.layer(id);
        if region.is_empty() {
            continue;
        }
        let positions = region.positions() as u64;
        let multiply_adds = model.multiply_adds_per_position(id) * positions;
        let shape = model.shape(layer.output);
        work.activation_bytes += positions * model.pixel_bytes(layer.output) as u64;
        for &input in &layer.inputs {
            let field = receptive_field(&layer.op, region, shape, model.shape(input));
            work.activation_bytes += (field.positions() * model.pixel_bytes(input)) as u64;
        }
        match &layer.op {
            Op::Conv { window, groups, .. } => {
                let (kernel, stride) = (window.kernel, window.stride);
                let channels = layer.inputs.first().map_or(1, |&m| model.shape(m).channels());
                if *groups > 1 && *groups == channels {
                    work.depthwise += multiply_adds;
                } else if (kernel.rows, kernel.cols) == (1, 1) {
                    work.conv1x1 += multiply_adds;
                } else if (kernel.rows, kernel.cols, stride.rows, stride.cols) == (3, 3, 1, 1) {
                    work.conv3x3 += multiply_adds;
                } else {
                    work.conv += multiply_adds;
                }
            }
            Op::Linear { weights, .. } => {
                work.weight_bytes += model.weight(*weights).bytes() as u64;
            }
            _ => work.conv += multiply_adds,
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::LoadOptions;
    use tiling::Numerics;

    fn whole(reference: &str) -> TileWork {
        let model = model::open(reference, &LoadOptions::default()).unwrap().graph;
        work_of(&model, &StageGeometry::whole(&model, Numerics::Fast), 0)
    }

    #[test]
    fn the_classes_of_a_network_add_up_to_its_multiply_adds() {
        let model = model::open("zoo:mobilenetv2", &LoadOptions::default()).unwrap().graph;
        let work = whole("zoo:mobilenetv2");
        assert_eq!(work.multiply_adds(), model.multiply_adds());
        assert!(work.conv1x1 > 5 * work.depthwise && work.depthwise > 0, "{work:?}");
    }

    #[test]
    fn fewer_threads_take_longer_in_the_clock_bound_part_alone() {
        let work = whole("zoo:squeezenet@64x64");
        let mut device = DeviceModel::plain(1_000_000_000);
        device.speedup_by_threads = vec![1.0, 1.6, 2.0];
        device.threads = 3;
        let all = device.cost(&work);
        device.threads = 1;
        let one = device.cost(&work);
        assert!((one.clock_ns / all.clock_ns - 2.0).abs() < 1e-9);
        assert_eq!(one.memory_ns, all.memory_ns);
    }
}
