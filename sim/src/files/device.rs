//! What a device is. Each section says where its numbers are from.

use super::find::{self, FileError, Kind};
use super::nanos;
use crate::physics::{BackgroundLoad, DeviceModel, Power, Thermal};
use serde::Deserialize;

/// A file of `configs/devices`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    name: String,
    threads: usize,
    speedup_by_threads: Vec<f64>,
    memory_mb: u64,
    tile_overhead_ms: f64,
    compute: Compute,
    power: PowerSection,
    thermal: Option<ThermalSection>,
    load: Option<LoadSection>,
}

/// All threads at full clock; two flops a multiply-add.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compute {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    conv3x3_gflop_per_s: f64,
    conv1x1_gflop_per_s: f64,
    conv_gflop_per_s: f64,
    depthwise_gflop_per_s: f64,
    activation_gb_per_s: f64,
    memory_gb_per_s: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerSection {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    idle_w: f64,
    active_w: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThermalSection {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    ambient_c: f64,
    die_c_per_w: f64,
    die_s: f64,
    board_c_per_w: f64,
    board_s: f64,
    throttle_c: f64,
    throttle_full_c: f64,
    floor_share: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadSection {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    share: f64,
    on_s: f64,
    off_s: f64,
}

impl DeviceFile {
    /// Opens a device by name or path.
    ///
    /// *Errors*: no such file, an unknown key, a rate that is not positive.
    pub fn open(reference: &str) -> Result<Self, FileError> {
        let file: Self = find::open(Kind::Device, reference)?;
        let compute = &file.compute;
        let positive = [
            ("conv3x3_gflop_per_s", compute.conv3x3_gflop_per_s),
            ("conv1x1_gflop_per_s", compute.conv1x1_gflop_per_s),
            ("conv_gflop_per_s", compute.conv_gflop_per_s),
            ("depthwise_gflop_per_s", compute.depthwise_gflop_per_s),
            ("activation_gb_per_s", compute.activation_gb_per_s),
            ("memory_gb_per_s", compute.memory_gb_per_s),
        ];
        for (key, value) in positive {
            if value.is_nan() || value <= 0.0 {
                let what = format!("the device {reference} is not sound: {key} must be positive");
                return Err(FileError::Value(what));
            }
        }
        if file.threads == 0 || file.threads > file.speedup_by_threads.len() {
            return Err(FileError::Value(format!(
                "the device {reference} is not sound: {} threads, but speedup_by_threads has {} \
                 entries, one is needed for each",
                file.threads,
                file.speedup_by_threads.len()
            )));
        }
        Ok(file)
    }

    /// The device as it is simulated.
    pub fn model(&self) -> DeviceModel {
        let multiply_adds = |gflop: f64| gflop * 0.5e9;
        let compute = &self.compute;
        DeviceModel {
            name: self.name.clone(),
            conv3x3_per_s: multiply_adds(compute.conv3x3_gflop_per_s),
            conv1x1_per_s: multiply_adds(compute.conv1x1_gflop_per_s),
            conv_per_s: multiply_adds(compute.conv_gflop_per_s),
            depthwise_per_s: multiply_adds(compute.depthwise_gflop_per_s),
            activation_bytes_per_s: compute.activation_gb_per_s * 1e9,
            memory_bytes_per_s: compute.memory_gb_per_s * 1e9,
            speedup_by_threads: self.speedup_by_threads.clone(),
            threads: self.threads,
            overhead_ns: nanos(self.tile_overhead_ms / 1e3),
            memory_bytes: self.memory_mb * 1_000_000,
            thermal: self.thermal.as_ref().map(ThermalSection::model),
            load: self.load.as_ref().map(|load| BackgroundLoad {
                share: load.share.clamp(0.0, 0.95),
                on_ns: nanos(load.on_s),
                off_ns: nanos(load.off_s),
            }),
            power: Power { idle_w: self.power.idle_w, active_w: self.power.active_w },
        }
    }
}

impl ThermalSection {
    fn model(&self) -> Thermal {
        Thermal {
            ambient_c: self.ambient_c,
            die_c_per_w: self.die_c_per_w,
            die_s: self.die_s.max(0.1),
            board_c_per_w: self.board_c_per_w,
            board_s: self.board_s.max(0.1),
            throttle_c: self.throttle_c,
            throttle_full_c: self.throttle_full_c,
            floor_share: self.floor_share.clamp(0.05, 1.0),
        }
    }
}
