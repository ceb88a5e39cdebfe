//! The ways between devices, where they are known and not what the devices' links to the coordinator
//! suggest.

use crate::DeviceProfile;
use serde::{Deserialize, Serialize};

/// A way between two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The [`DeviceProfile::key`] of the other one.
    pub with: u64,
    /// What the way carries.
    pub bytes_per_s: u64,
    /// Round trip between the two.
    pub round_trip_ns: u64,
}

/// What tells a way from the usual: the time of so many bytes...
const TELLING_BYTES: u64 = 64 << 10;

/// ...or of a word there and back, if it is longer or shorter by more than words are late by anyway, on
/// devices that do other things beside.
const TELLING_NS: u64 = 1_000_000;
const TELLING_ROUND_TRIP_NS: u64 = 2_000_000;

impl DeviceProfile {
    /// The way to another device as the two links to the coordinator suggest: what the slower of them
    /// carries, or half of that where both share the air of one access point.
    pub fn usual_pair(&self, other: &DeviceProfile) -> Pair {
        let slower = self.link_bytes_per_s.min(other.link_bytes_per_s).max(1);
        let both_on_air = self.air.is_some() && self.air == other.air;
        Pair {
            with: other.key,
            bytes_per_s: if both_on_air { (slower / 2).max(1) } else { slower },
            round_trip_ns: self.round_trip_ns / 2 + other.round_trip_ns / 2,
        }
    }

    /// Whether a measured way is another than the usual by so much that plans should know: by a quarter
    /// of what it carries, or by a round trip that is twice as long.
    pub fn is_unusual(&self, other: &DeviceProfile, measured: Pair) -> bool {
        // Between processes of one machine there is no way to speak of.
        if self.same_machine && other.same_machine {
            return false;
        }
        let usual = self.usual_pair(other);
        let takes = |pair: Pair| super::cost::nanos(TELLING_BYTES, pair.bytes_per_s.max(1));
        let apart = |a: u64, b: u64, parts: u64, least: u64| {
            let (low, high) = (a.min(b), a.max(b));
            high - low > least && high - low > low / parts
        };
        let is_far = measured.round_trip_ns > usual.round_trip_ns
            && apart(measured.round_trip_ns, usual.round_trip_ns, 1, TELLING_ROUND_TRIP_NS);
        apart(takes(measured), takes(usual), 4, TELLING_NS) || is_far
    }

    /// The way to another device, where it is not the usual one.
    pub fn pair_with(&self, other: &DeviceProfile) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.with == other.key)
    }
}

/// Devices in an order in which neighbours have good ways to each other: from the first on, each next
/// to the one that has the best way to it; of equals the first.
pub(crate) fn in_line(devices: &[DeviceProfile], used: &[usize]) -> Vec<usize> {
    let mut left = used.to_vec();
    if left.len() < 3 || left.iter().all(|&i| devices[i].pairs.is_empty()) {
        return left;
    }
    let rate = |a: usize, b: usize| {
        let (a, b) = (&devices[a], &devices[b]);
        a.pair_with(b).map_or(a.usual_pair(b).bytes_per_s, |pair| pair.bytes_per_s)
    };
    let worst = |i: usize, left: &[usize]| {
        left.iter().filter(|&&other| other != i).map(|&other| rate(i, other)).min()
    };
    // Who has the worst way to anybody stands at an end, where only one neighbour is needed.
    let first = (0..left.len()).min_by_key(|&i| (worst(left[i], &left), i)).unwrap_or(0);
    let mut line = vec![left.remove(first)];
    while let Some(&last) = line.last().filter(|_| !left.is_empty()) {
        let best = (0..left.len()).max_by_key(|&i| (rate(last, left[i]), std::cmp::Reverse(i)));
        line.push(left.remove(best.unwrap_or(0)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::Rates;

    fn devices(count: u64) -> Vec<DeviceProfile> {
        let rates = Rates::typical(1_000_000_000);
        let device = |key| DeviceProfile { key, ..DeviceProfile::wired("d", rates) };
        (0..count).map(device).collect()
    }

    fn slow(devices: &mut [DeviceProfile], a: usize, b: usize) {
        let pair = |with: usize| Pair {
            with: with as u64,
            bytes_per_s: 1_000_000,
            round_trip_ns: 400_000,
        };
        devices[a].pairs.push(pair(b));
        devices[b].pairs.push(pair(a));
    }

    #[test]
    fn only_what_plans_should_know_is_unusual() {
        let devices = devices(2);
        let usual = devices[0].usual_pair(&devices[1]);
        let unusual = |change: &dyn Fn(&mut Pair)| {
            let mut pair = usual;
            change(&mut pair);
            devices[0].is_unusual(&devices[1], pair)
        };
        assert!(!unusual(&|_| ()));
        assert!(!unusual(&|pair| pair.bytes_per_s = usual.bytes_per_s / 10 * 9));
        assert!(unusual(&|pair| pair.bytes_per_s = usual.bytes_per_s / 3 * 2));
        assert!(unusual(&|pair| pair.bytes_per_s = usual.bytes_per_s * 2));
        assert!(!unusual(&|pair| pair.round_trip_ns *= 3), "a millisecond is nothing");
        assert!(unusual(&|pair| pair.round_trip_ns = 30_000_000));
        // Two stations of one access point send everything twice.
        let air = |d: &DeviceProfile| DeviceProfile { air: Some(1), ..d.clone() };
        let halved = air(&devices[0]).usual_pair(&air(&devices[1])).bytes_per_s;
        assert_eq!(halved, usual.bytes_per_s / 2);
        // Of links this fast an echo cannot tell.
        let mut fast = devices;
        fast.iter_mut().for_each(|device| device.link_bytes_per_s = 1_000_000_000);
        let pair = Pair { bytes_per_s: 400_000_000, ..fast[0].usual_pair(&fast[1]) };
        assert!(!fast[0].is_unusual(&fast[1], pair));
        let pair = Pair { bytes_per_s: 40_000_000, ..pair };
        assert!(fast[0].is_unusual(&fast[1], pair));
        fast.iter_mut().for_each(|device| device.same_machine = true);
        assert!(!fast[0].is_unusual(&fast[1], pair));
    }

    #[test]
    fn neighbours_have_good_ways() {
        let mut devices = devices(4);
        let all = [0, 1, 2, 3];
        assert_eq!(in_line(&devices, &all), all);
        slow(&mut devices, 0, 1);
        let line = in_line(&devices, &all);
        let at = |device| line.iter().position(|&other| other == device).unwrap();
        assert!(at(0).abs_diff(at(1)) > 1, "{line:?}");
        assert_eq!(line.len(), 4);
    }
}
