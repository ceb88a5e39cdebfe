//! What is known of a device and its link, and who is how fast at what.

use crate::pairs::Pair;
use model::{LayerId, Model};
use serde::{Deserialize, Serialize};
use tiling::{Numerics, Pace, Rates, Shares, Slot, StageGeometry, Wire, Work, layer_work};

/// What a device of which nothing is known is taken to compute: a small board.
const SMALL_BOARD_PER_S: u64 = 5_000_000_000;

/// Links that carry more get values as they are. An estimate, not measured on a small board: encoding and
/// decoding read and write each value a few times, and save half of the bytes where they save any.
/// `kernels/benches/wire.rs` measures it for the machine that it runs on.
const ENCODED_BELOW_BYTES_PER_S: u64 = 200_000_000;

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// A name for people.
    pub name: String,
    /// What others call it in their [`DeviceProfile::pairs`].
    pub key: u64,
    /// The ways to other devices that are not what the links to the coordinator suggest
    /// ([`DeviceProfile::is_unusual`]). Each is told by both of its ends.
    pub pairs: Vec<Pair>,
    /// Its speed by operator class, with the threads that it uses; zeros where unknown.
    pub rates: Rates,
    /// What its link to the coordinator carries.
    pub link_bytes_per_s: u64,
    /// Round trip to the coordinator.
    pub round_trip_ns: u64,
    /// What one in ten round trips exceeds: where tiles wait for each other, the slowest counts.
    pub late_round_trip_ns: u64,
    /// The access point whose air it shares, by number; none for a cable.
    pub air: Option<u32>,
    /// Whether it is the coordinator's own machine, which no cable carries anything to.
    pub same_machine: bool,
    /// What it may hold of weights and maps at a time; none where nothing limits it.
    pub memory_bytes: Option<u64>,
    /// What it draws, where that is known.
    pub power: Option<Power>,
    /// What part of each map's bytes travels to it and from it.
    #[serde(skip)]
    pub shares: Shares,
}

/// What a device draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// With nothing to do.
    pub idle_w: f64,
    /// With all threads at work.
    pub active_w: f64,
}

impl DeviceProfile {
    /// A device of which only the speed is known, on a 100 Mbit/s wire.
    pub fn wired(name: impl Into<String>, rates: Rates) -> Self {
        Self {
            name: name.into(),
            key: 0,
            pairs: Vec::new(),
            rates,
            link_bytes_per_s: 11_800_000,
            round_trip_ns: 400_000,
            late_round_trip_ns: 400_000,
            air: None,
            same_machine: false,
            memory_bytes: None,
            power: None,
            shares: Shares::default(),
        }
    }

    /// A device of which only the speed is known, on the coordinator's own machine.
    pub fn same_machine(name: impl Into<String>, rates: Rates) -> Self {
        let (link_bytes_per_s, round_trip_ns) = (1_000_000_000, 200_000);
        Self {
            link_bytes_per_s,
            round_trip_ns,
            late_round_trip_ns: round_trip_ns,
            same_machine: true,
            ..Self::wired(name, rates)
        }
    }

    /// Whether what it gets and sends is encoded: where a wire lets that be decided by the link, if
    /// that is slower than encoding.
    pub fn encodes(&self, wire: Wire) -> bool {
        wire.encodes(!self.same_machine && self.link_bytes_per_s < ENCODED_BELOW_BYTES_PER_S)
    }

    /// The same where maps that are encoded take these shares of their bytes.
    pub fn sharing(self, wire: Wire, shares: &Shares) -> Self {
        let shares = if self.encodes(wire) { shares.clone() } else { Shares::default() };
        Self { shares, ..self }
    }

    /// What a unit of each class takes: as measured, or as on a small board.
    pub(crate) fn pace(&self) -> Pace {
        let known = self.rates.is_known();
        if known { self.rates.pace() } else { Rates::typical(SMALL_BOARD_PER_S).pace() }
    }

    /// How long some work takes, at most three days, so that sums over the layers of any model stay
    /// in range.
    pub(crate) fn takes_ns(&self, work: &Work) -> u64 {
        self.pace().ns(work).min((1u64 << 48) as f64) as u64
    }
}

/// Ratios within which a plan is kept: a new one for every small change would make all weights of
/// its stages travel, and what is measured is never quite the same.
const SPEED_DRIFT_MAX: f64 = 1.3;
const LINK_DRIFT_MAX: f64 = 2.0;
const ROUND_TRIP_DRIFT_MAX_NS: u64 = 2_000_000;

/// What has changed since a plan for some work was made, where that is worth a new plan, in words.
pub fn drifted(
    all_before: &[DeviceProfile],
    all_now: &[DeviceProfile],
    work: &Work,
) -> Option<String> {
    let apart = |a: u64, b: u64, most: f64| {
        let (low, high) = (a.min(b).max(1), a.max(b).max(1));
        high as f64 > low as f64 * most
    };
    all_before.iter().zip(all_now).find_map(|(before, now)| {
        let name = &now.name;
        let (old, new) = (before.takes_ns(work), now.takes_ns(work));
        if apart(old, new, SPEED_DRIFT_MAX) {
            let ms = |ns| ns as f64 / 1e6;
            return Some(format!("{name} takes {:.1} ms in place of {:.1}", ms(new), ms(old)));
        }
        let (old, new) = (before.link_bytes_per_s, now.link_bytes_per_s);
        if apart(old, new, LINK_DRIFT_MAX) {
            return Some(format!("the link of {name} carries {new} B/s in place of {old}"));
        }
        if before.shares.differ(&now.shares) {
            return Some(format!("maps take other bytes than were expected on the way to {name}"));
        }
        let (old, new) = (before.round_trip_ns, now.round_trip_ns);
        let far = |old: u64, new: u64| {
            old.abs_diff(new) > ROUND_TRIP_DRIFT_MAX_NS && apart(old, new, LINK_DRIFT_MAX)
        };
        if far(old, new) {
            return Some(format!("a round trip to {name} takes {new} ns in place of {old}"));
        }
        // A way that is the usual one now, or was before, is compared with that.
        let knows = |pair: &Pair, in_list: &[DeviceProfile]| {
            in_list.iter().find(|device| device.key == pair.with).cloned()
        };
        now.pairs.iter().chain(&before.pairs).find_map(|pair| {
            let (was, is) = (knows(pair, all_before)?, knows(pair, all_now)?);
            let way = |of: &DeviceProfile, other: &DeviceProfile| {
                of.pair_with(other).copied().unwrap_or_else(|| of.usual_pair(other))
            };
            let (old, new) = (way(before, &was), way(now, &is));
            let is_other = apart(old.bytes_per_s, new.bytes_per_s, LINK_DRIFT_MAX)
                || far(old.round_trip_ns, new.round_trip_ns);
            let (old, new, other) = (old.bytes_per_s, new.bytes_per_s, &is.name);
            is_other.then(|| {
                format!("the way between {name} and {other} carries {new} B/s in place of {old}")
            })
        })
    })
}

/// The work of a model, uncut: what devices are compared by.
pub fn model_work(model: &Model, numerics: Numerics) -> Work {
    StageGeometry::whole(model, numerics).tile_work(model, 0)
}

/// What a frame takes on each device alone, its input there already.
pub fn alone_ns(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> Vec<u64> {
    let work = model_work(model, numerics);
    devices.iter().map(|device| device.takes_ns(&work)).collect()
}

/// What each layer takes on the device that is fastest at the whole model.
pub fn layers_ns(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> Vec<u64> {
    let works = layer_works(model, numerics);
    let Slot(fastest) = fastest(devices, &works.iter().copied().sum());
    let Some(device) = devices.get(fastest as usize) else { return Vec::new() };
    works.iter().map(|work| device.takes_ns(work)).collect()
}

/// How often each device could do some work in a thousand seconds, at least once: speeds to compare,
/// which depend on the work.
pub(crate) fn speeds(devices: &[DeviceProfile], work: &Work) -> Vec<u64> {
    let speed = |d: &DeviceProfile| (1e12 / d.pace().ns(work).max(1e-3)).max(1.0) as u64;
    devices.iter().map(speed).collect()
}

/// The device that a person sits at: the coordinator's own machine, or the first of the list.
pub(crate) fn here(devices: &[DeviceProfile]) -> usize {
    devices.iter().position(|d| d.same_machine).unwrap_or(0)
}

/// The device that does some work first; the first of equals.
pub(crate) fn fastest(devices: &[DeviceProfile], work: &Work) -> Slot {
    let speeds = speeds(devices, work).into_iter().enumerate();
    let best = speeds.max_by_key(|&(i, speed)| (speed, std::cmp::Reverse(i)));
    Slot(best.map_or(0, |(i, _)| i as u32))
}

/// The work of each layer, uncut.
pub(crate) fn layer_works(model: &Model, numerics: Numerics) -> Vec<Work> {
    let whole = StageGeometry::whole(model, numerics);
    let layers = whole.tiles[0].layers.iter().zip(&whole.algorithms).enumerate();
    layers.map(|(i, (&r, &a))| layer_work(model, LayerId(i as u32), a, r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PlanOptions, Strategy, plan};
    use tiling::OperatorClass;

    #[test]
    fn small_changes_are_no_reason_for_a_new_plan() {
        let work = Work::of(OperatorClass::Conv, 1_000_000_000);
        let device = DeviceProfile::wired("d", Rates::typical(1_000_000_000));
        let before = [device.clone()];
        let after = |change: &dyn Fn(&mut DeviceProfile)| {
            let mut now = before.clone();
            change(&mut now[0]);
            drifted(&before, &now, &work)
        };
        assert_eq!(after(&|_| ()), None);
        assert_eq!(after(&|d| d.rates = d.rates.scaled(|_| 1.2)), None);
        assert_eq!(after(&|d| d.link_bytes_per_s += d.link_bytes_per_s / 2), None);
        assert_eq!(after(&|d| d.round_trip_ns *= 3), None, "less than a millisecond more");
        assert!(after(&|d| d.rates = d.rates.scaled(|_| 0.7)).unwrap().contains("ms in place"));
        assert!(after(&|d| d.link_bytes_per_s /= 3).unwrap().contains("link of d"));
        assert!(after(&|d| d.round_trip_ns = 50_000_000).unwrap().contains("round trip"));
        // A way that turns out to be slow, and one that is well again.
        let two = |bytes_per_s: Option<u64>| {
            let other = DeviceProfile { key: 1, name: "e".into(), ..device.clone() };
            let mut two = [device.clone(), other];
            let pair =
                |with| bytes_per_s.map(|rate| Pair { with, bytes_per_s: rate, round_trip_ns: 0 });
            two[0].pairs.extend(pair(1));
            two[1].pairs.extend(pair(0));
            two
        };
        let [well, slow, slower] = [None, Some(1_000_000), Some(600_000)].map(two);
        let told = |before: &[_], now: &[_]| drifted(before, now, &work);
        assert!(told(&well, &slow).unwrap().contains("between d and e carries 1000000 B/s"));
        assert!(told(&slow, &well).unwrap().contains("in place of 1000000"));
        assert_eq!(told(&slow, &slower), None);
    }

    #[test]
    fn slow_links_get_encoded_pieces_and_what_these_take_counts() {
        let model = model::open("zoo:unet@32x32", &model::LoadOptions::default()).unwrap().graph;
        let wired = DeviceProfile::wired("d", Rates::typical(1_000_000_000));
        let here = DeviceProfile::same_machine("h", Rates::typical(1_000_000_000));
        assert_eq!([Wire::Auto, Wire::Raw].map(|wire| wired.encodes(wire)), [true, false]);
        assert_eq!([Wire::Auto, Wire::F16].map(|wire| here.encodes(wire)), [false, true]);
        let cost = |wire| {
            let shares = Shares::expected(&model, wire, Shares::of_pictures(&model));
            let devices = [wired.clone().sharing(wire, &shares)];
            let options = PlanOptions { wire, ..PlanOptions::EXACT };
            plan(&model, &devices, Strategy::Local, options).unwrap().1
        };
        let [raw, auto] = [Wire::Raw, Wire::Auto].map(cost);
        let input = model.inputs[0];
        let bytes = (model.shape(input).elements() * 4) as u64;
        assert_eq!(raw.stages[0].scatter_bytes, bytes);
        assert_eq!(auto.stages[0].scatter_bytes, (bytes * 255).div_ceil(1000));
        assert!(auto.makespan_ns < raw.makespan_ns);
        let expected = Shares::expected(&model, Wire::Auto, Shares::of_pictures(&model));
        let now = wired.clone().sharing(Wire::Auto, &expected);
        let why = drifted(std::slice::from_ref(&wired), &[now], &Work::default());
        assert!(why.unwrap().contains("other bytes"));
    }

    #[test]
    fn who_is_fastest_depends_on_the_work() {
        let at = |class| {
            let rates = Rates::typical(1_000_000_000);
            let rates = rates.scaled(|c| if c == class { 10.0 } else { 1.0 });
            DeviceProfile::wired("d", rates)
        };
        let devices = [at(OperatorClass::Conv), at(OperatorClass::Linear)];
        let works = [OperatorClass::Conv, OperatorClass::Linear].map(|c| Work::of(c, 1 << 20));
        assert_eq!(works.map(|work| fastest(&devices, &work)), [Slot(0), Slot(1)]);
        // Of nothing, all do as much.
        assert_eq!(fastest(&devices, &Work::default()), Slot(0));
    }
}
