//! How a device is connected.

use super::find::{self, FileError, Kind};
use super::nanos;
use crate::physics::{LinkSpec, Medium, RoundTrip};
use serde::Deserialize;

/// A file of `configs/links`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFile {
    #[allow(dead_code, reason = "for readers of the file")]
    name: String,
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    medium: MediumName,
    send_mbit_per_s: f64,
    receive_mbit_per_s: f64,
    message_us: f64,
    #[serde(default)]
    airtime_fair: bool,
    round_trip: RoundTripSection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MediumName {
    Wire,
    HalfDuplexWire,
    Air,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoundTripSection {
    min_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl LinkFile {
    /// Opens a link by name or path.
    ///
    /// *Errors*: no such file, an unknown key, quantiles that fall.
    pub fn open(reference: &str) -> Result<Self, FileError> {
        find::open::<Self>(Kind::Link, reference)?.checked(reference)
    }

    /// The file, if what it says can be.
    pub(super) fn checked(self, reference: &str) -> Result<Self, FileError> {
        let file = self;
        let trip = &file.round_trip;
        let rises = [trip.min_ms, trip.p50_ms, trip.p90_ms, trip.p99_ms, trip.max_ms].is_sorted();
        let carries = |mbit: f64| mbit > 0.0 && mbit.is_finite();
        if !rises || !carries(file.send_mbit_per_s) || !carries(file.receive_mbit_per_s) {
            return Err(FileError::Value(format!(
                "the link {reference} is not sound: rates must be positive, and the quantiles of \
                 the round trip must rise from min to max"
            )));
        }
        Ok(file)
    }

    /// The link as it is simulated, through an access point where it goes through the air; `scale`
    /// multiplies its rates.
    pub fn spec(&self, access_point: u32, scale: f64) -> LinkSpec {
        let bytes_per_s = |mbit: f64| ((mbit * scale * 125_000.0) as u64).max(1);
        let trip = &self.round_trip;
        LinkSpec {
            medium: match self.medium {
                MediumName::Wire => Medium::Wire,
                MediumName::HalfDuplexWire => Medium::HalfDuplexWire,
                MediumName::Air => Medium::Air(access_point),
            },
            send_bytes_per_s: bytes_per_s(self.send_mbit_per_s),
            receive_bytes_per_s: bytes_per_s(self.receive_mbit_per_s),
            round_trip: RoundTrip {
                min_ns: nanos(trip.min_ms / 1e3),
                p50_ns: nanos(trip.p50_ms / 1e3),
                p90_ns: nanos(trip.p90_ms / 1e3),
                p99_ns: nanos(trip.p99_ms / 1e3),
                max_ns: nanos(trip.max_ms / 1e3),
            },
            message_ns: nanos(self.message_us / 1e6),
            airtime_fair: self.airtime_fair,
        }
    }
}
