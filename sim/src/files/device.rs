//! What a device is. Each section says where its numbers are from.

use super::find::{self, FileError, Kind};
use super::nanos;
use crate::physics::{BackgroundLoad, DeviceModel, Power, Thermal};
use serde::Deserialize;
use std::collections::BTreeMap;
use tiling::{OperatorClass, Rates};

/// A file of `configs/devices`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    name: String,
    /// How the system of such a device names it, from the beginning of the name.
    #[serde(default)]
    boards: Vec<String>,
    threads: usize,
    speedup_by_threads: Vec<f64>,
    memory_mb: u64,
    tile_overhead_ms: f64,
    /// As others published it, or...
    compute: Option<Compute>,
    /// ...as our own worker measured it.
    rates: Option<RatesSection>,
    #[serde(default)]
    power: PowerSection,
    thermal: Option<ThermalSection>,
    load: Option<LoadSection>,
}

/// All threads at full clock; two flops a multiply-add. Rates of 3x3 layers have Winograd inside, those
/// of activations count what is written, and other classes are inside these.
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

/// Units of each operator class a second, in thousands of millions: what `tilehive calibrate` writes.
#[derive(Clone, Debug, Deserialize)]
struct RatesSection {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    #[serde(flatten)]
    giga_per_s: BTreeMap<String, f64>,
}

impl RatesSection {
    /// *Errors*: a class that does not exist, one that is missing, a rate that is not positive.
    fn rates(&self) -> Result<Rates, String> {
        let known = OperatorClass::ALL.map(OperatorClass::rate_key);
        if let Some(key) = self.giga_per_s.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("{key} is no rate; there are {}", known.join(", ")));
        }
        for key in known {
            let rate = self.giga_per_s.get(key).copied().unwrap_or(0.0);
            if rate.is_nan() || rate <= 0.0 {
                return Err(format!("{key} must be there and positive"));
            }
        }
        let rate = |class: OperatorClass| (self.giga_per_s[class.rate_key()] * 1e9).max(1.0);
        Ok(Rates::new(|class| rate(class) as u64))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
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

impl Compute {
    fn check(&self) -> Result<(), String> {
        let positive = [
            ("conv3x3_gflop_per_s", self.conv3x3_gflop_per_s),
            ("conv1x1_gflop_per_s", self.conv1x1_gflop_per_s),
            ("conv_gflop_per_s", self.conv_gflop_per_s),
            ("depthwise_gflop_per_s", self.depthwise_gflop_per_s),
            ("activation_gb_per_s", self.activation_gb_per_s),
            ("memory_gb_per_s", self.memory_gb_per_s),
        ];
        match positive.iter().find(|(_, value)| value.is_nan() || *value <= 0.0) {
            Some((key, _)) => Err(format!("{key} must be positive")),
            None => Ok(()),
        }
    }

    fn rates(&self) -> Rates {
        let multiply_adds = |gflop: f64| gflop * 0.5e9;
        // The rates count all multiply-adds, of which Winograd makes a part: a quarter on large maps,
        // half on the smallest, where blocks overhang and F(2x2, 3x3) is left. A third in between.
        let winograd = multiply_adds(self.conv3x3_gflop_per_s) / 3.0;
        let per_s = |class| {
            (match class {
                OperatorClass::Winograd => winograd,
                OperatorClass::Conv3x3 => {
                    multiply_adds(self.conv1x1_gflop_per_s.min(self.conv3x3_gflop_per_s))
                }
                OperatorClass::Conv1x1 => multiply_adds(self.conv1x1_gflop_per_s),
                OperatorClass::Conv | OperatorClass::Quantised => {
                    multiply_adds(self.conv_gflop_per_s)
                }
                OperatorClass::Depthwise => multiply_adds(self.depthwise_gflop_per_s),
                OperatorClass::Linear => self.memory_gb_per_s * 1e9 / 4.0,
                OperatorClass::Maps => self.activation_gb_per_s * 1e9,
                // Read and written, where the published rate counts what is written alone:
                // two bytes for each in a sum, five in a pool.
                OperatorClass::ElementWise => self.activation_gb_per_s * 3e9,
                OperatorClass::Transforms | OperatorClass::Weights | OperatorClass::Layers => {
                    return u64::MAX;
                }
            }) as u64
        };
        Rates::new(per_s)
    }
}

impl DeviceFile {
    /// Opens a device by name or path.
    ///
    /// *Errors*: no such file, an unknown key, a rate that is not positive.
    pub fn open(reference: &str) -> Result<Self, FileError> {
        find::open::<Self>(Kind::Device, reference)?.checked(reference)
    }

    /// The file, if what it says can be.
    pub(super) fn checked(self, reference: &str) -> Result<Self, FileError> {
        let file = self;
        let unsound =
            |what| Err(FileError::Value(format!("the device {reference} is not sound: {what}")));
        match (&file.compute, &file.rates) {
            (Some(compute), None) => compute.check().or_else(unsound)?,
            (None, Some(rates)) => rates.rates().map(drop).or_else(unsound)?,
            _ => unsound("one of [compute] and [rates] is needed".into())?,
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

    /// Whether a device whose system names it so is one of these.
    pub(super) fn is_board(&self, name: &str) -> Option<usize> {
        let known = self.boards.iter().filter(|board| name.starts_with(board.as_str()));
        known.map(|board| board.len()).max()
    }

    /// The device as it is simulated.
    pub fn model(&self) -> DeviceModel {
        let rates = match (&self.compute, &self.rates) {
            (Some(compute), _) => compute.rates(),
            (None, Some(rates)) => rates.rates().unwrap_or_default(),
            (None, None) => Rates::default(),
        };
        DeviceModel {
            name: self.name.clone(),
            rates,
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
