//! Ways between devices, as a planner knows them and as they are simulated.

use crate::physics::{LinkSpec, RoundTrip};
use crate::scenario::{PairSpec, WorkerSpec};
use planner::{DeviceProfile, Pair};

/// Workers whose pairs are told one by one.
const HIDDEN_MAX: usize = 32;

/// Tells the profiles of simulated workers of the ways between them: `index` of a profile is its
/// worker's. Each gets that as its key.
pub fn tell(pairs: &[PairSpec], profiles: &mut [DeviceProfile], index: impl Fn(usize) -> usize) {
    for (place, profile) in profiles.iter_mut().enumerate() {
        profile.key = index(place) as u64;
    }
    for pair in pairs {
        let (a, b) = pair.workers;
        let place = |worker: usize| profiles.iter().position(|p| p.key == worker as u64);
        let (Some(at_a), Some(at_b)) = (place(a), place(b)) else { continue };
        let (bytes_per_s, round_trip_ns) = (pair.bytes_per_s, pair.round_trip.p50_ns);
        let way = |with: usize| Pair { with: with as u64, bytes_per_s, round_trip_ns };
        if profiles[at_a].is_unusual(&profiles[at_b], way(b)) {
            profiles[at_a].pairs.push(way(b));
            profiles[at_b].pairs.push(way(a));
        }
    }
}

/// The ways between workers that a slower link of the coordinator hides from it: what their own links
/// carry. Beyond some workers there would be too many to tell.
pub fn hidden_by(head: &LinkSpec, workers: &[WorkerSpec], known: &[PairSpec]) -> Vec<PairSpec> {
    if workers.len() > HIDDEN_MAX {
        return Vec::new();
    }
    let rate = |link: &LinkSpec| link.send_bytes_per_s.min(link.receive_bytes_per_s).max(1);
    let ends = (0..workers.len()).flat_map(|a| (a + 1..workers.len()).map(move |b| (a, b)));
    let spec = |(a, b): (usize, usize)| {
        let (first, second) = (&workers[a].link, &workers[b].link);
        let bytes_per_s = rate(first).min(rate(second));
        let is_wired = first.medium.air().is_none() && second.medium.air().is_none();
        let hidden = bytes_per_s > rate(head) || head.medium.air().is_some() && is_wired;
        let is_known = known.iter().any(|pair| [(a, b), (b, a)].contains(&pair.workers));
        let (a_ns, b_ns) = (first.round_trip.p50_ns, second.round_trip.p50_ns);
        let round_trip = RoundTrip::even(a_ns + b_ns, a_ns + b_ns);
        (hidden && !is_known).then_some(PairSpec { workers: (a, b), bytes_per_s, round_trip })
    };
    ends.filter_map(spec).collect()
}

/// The ways that profiles know of, between workers in their order.
pub(crate) fn known(profiles: &[DeviceProfile]) -> Vec<PairSpec> {
    let of = |(i, profile): (usize, &DeviceProfile)| {
        let later = profiles.iter().enumerate().skip(i + 1);
        let ways = later.filter_map(|(j, other)| Some((j, *profile.pair_with(other)?)));
        let spec = |(j, pair): (usize, Pair)| PairSpec {
            workers: (i, j),
            bytes_per_s: pair.bytes_per_s.max(1),
            round_trip: RoundTrip::even(pair.round_trip_ns, pair.round_trip_ns),
        };
        ways.map(spec).collect::<Vec<_>>()
    };
    profiles.iter().enumerate().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physics::Medium;
    use crate::rehearsal::Wish;
    use crate::{Cluster, Scenario};
    use model::{LoadOptions, open};
    use planner::{PlanOptions, Strategy};
    use protocol::{SECOND, WorkerId};
    use tiling::Rates;

    fn pair(workers: (usize, usize), bytes_per_s: u64) -> PairSpec {
        let round_trip = RoundTrip::even(400_000, 400_000);
        PairSpec { workers, bytes_per_s, round_trip }
    }

    /// The real state machines, in virtual time, find out what the simulated network is like.
    #[test]
    fn simulated_workers_measure_the_ways_between_them() {
        let model = open("zoo:unet@64x64", &LoadOptions::default()).unwrap();
        let workers = vec![WorkerSpec::new(5_000_000_000); 3];
        let scenario = Scenario {
            pairs: vec![pair((0, 2), 1_000_000)],
            measures_pairs: true,
            frames_from_ns: 2 * SECOND,
            ..Scenario::sized(model, 1, workers)
        };
        let (outcome, pairs) = Cluster::new(scenario).run_asking(|machine| {
            (0..3).map(|id| machine.profile(WorkerId(id)).unwrap().pairs).collect::<Vec<_>>()
        });
        outcome.unwrap();
        let rate = |a: usize, b: u32| {
            pairs[a].iter().find(|pair| pair.peer == WorkerId(b)).unwrap().bytes_per_s
        };
        assert!((900_000..1_100_000).contains(&rate(0, 2)), "{pairs:?}");
        assert_eq!(rate(2, 0), rate(0, 2));
        // The usual link carries 12.5 MB/s, with words that are late by some.
        assert!((8_000_000..20_000_000).contains(&rate(0, 1)), "{pairs:?}");
    }

    /// A plan that heeds a slow way is rehearsed over it, and is faster there than one that does not.
    #[test]
    fn rehearsals_heed_a_slow_way() {
        let model = open("zoo:unet@256x256", &LoadOptions::default()).unwrap();
        let device = |i: usize| DeviceProfile {
            link_bytes_per_s: 117_000_000,
            key: i as u64,
            ..DeviceProfile::wired(format!("d{i}"), Rates::typical(8_000_000_000))
        };
        let blind: Vec<DeviceProfile> = (0..3).map(device).collect();
        let mut told = blind.clone();
        tell(&[pair((0, 1), 1_000_000)], &mut told, |place| place);
        let wish = |devices| Wish {
            graph: &model.graph,
            devices,
            strategy: Strategy::Auto,
            options: PlanOptions::default(),
            rehearsed: true,
        };
        let (plan, cost) = wish(&told[..]).plan().unwrap();
        let (other, hopes) = wish(&blind[..]).plan().unwrap();
        assert_ne!(plan, other);
        let really = wish(&told[..]).rehearse(&other).unwrap();
        let (ns, hoped) = (cost.rehearsed_ns.unwrap(), hopes.rehearsed_ns.unwrap());
        assert!(really > hoped && really > ns, "{really} {hoped} {ns}");
    }

    #[test]
    fn a_slow_link_of_the_coordinator_hides_fast_ways() {
        let worker = |bytes_per_s| WorkerSpec {
            link: LinkSpec::wire(100_000, bytes_per_s, 0),
            ..WorkerSpec::new(1_000_000)
        };
        let workers = [117_000_000, 117_000_000, 5_000_000].map(worker);
        let hidden = |head: LinkSpec, known: &[PairSpec]| {
            let pairs = hidden_by(&head, &workers, known);
            pairs.iter().map(|pair| (pair.workers, pair.bytes_per_s)).collect::<Vec<_>>()
        };
        let slow = LinkSpec::wire(0, 11_800_000, 0);
        assert_eq!(hidden(slow, &[]), [((0, 1), 117_000_000)]);
        assert_eq!(hidden(slow, &[pair((1, 0), 1)]), []);
        assert_eq!(hidden(LinkSpec::unlimited(), &[]), []);
        let air = LinkSpec { medium: Medium::Air(0), ..LinkSpec::wire(0, 200_000_000, 0) };
        assert_eq!(hidden(air, &[]).len(), 3);
    }

    #[test]
    fn profiles_learn_of_unusual_ways_and_tell_them_again() {
        let rates = Rates::typical(1_000_000_000);
        let mut profiles = vec![DeviceProfile::wired("d", rates); 3];
        let pairs = [pair((0, 1), 11_000_000), pair((2, 1), 1_000_000), pair((0, 7), 1)];
        tell(&pairs, &mut profiles, |place| place);
        let with = |i: usize| profiles[i].pairs.iter().map(|p| p.with).collect::<Vec<_>>();
        assert_eq!([0, 1, 2].map(with), [vec![], vec![2], vec![1]]);
        assert_eq!(known(&profiles), [pair((1, 2), 1_000_000)]);
    }
}
