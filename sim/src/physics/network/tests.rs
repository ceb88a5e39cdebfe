//! Transfers worked out by hand, and random ones checked against what max-min fairness says.

use super::*;

const MB: u64 = 1_000_000;

fn air(point: u32, bytes_per_s: u64) -> LinkSpec {
    LinkSpec { medium: Medium::Air(point), ..LinkSpec::wire(0, bytes_per_s, 0) }
}

/// When each of these transfers of 1 MB ends, all queued at zero.
fn ends(links: &[LinkSpec], transfers: &[(usize, usize)]) -> Vec<f64> {
    ends_over(Network::new(links), transfers)
}

fn ends_over(mut network: Network<usize>, transfers: &[(usize, usize)]) -> Vec<f64> {
    for (i, &pair) in transfers.iter().enumerate() {
        network.send(0, pair, Priority::Bundle, MB, i);
    }
    let mut ends = vec![0.0; transfers.len()];
    while let Some(at) = network.next_end() {
        for done in network.ended(at) {
            ends[done.payload] = at as f64 / 1e6;
        }
    }
    assert_eq!(network.pending(), 0);
    ends
}

fn near(got: &[f64], expected_ms: &[f64]) {
    let close = got.iter().zip(expected_ms).all(|(a, b)| (a - b).abs() < 0.01);
    assert!(close && got.len() == expected_ms.len(), "{got:?}, expected {expected_ms:?}");
}

#[test]
fn a_full_duplex_wire_carries_both_directions_at_once_and_a_bus_does_not() {
    let wire = LinkSpec::wire(0, 10 * MB, 0);
    let bus = LinkSpec { medium: Medium::HalfDuplexWire, ..wire };
    near(&ends(&[wire, wire], &[(0, 1), (1, 0)]), &[100.0, 100.0]);
    near(&ends(&[bus, wire], &[(0, 1), (1, 0)]), &[200.0, 200.0]);
}

#[test]
fn a_port_is_shared_evenly_and_what_one_cannot_use_the_others_get() {
    let fast = LinkSpec::wire(0, 10 * MB, 0);
    let slow = LinkSpec::wire(0, 2 * MB, 0);
    near(&ends(&[fast; 3], &[(0, 1), (0, 2)]), &[200.0, 200.0]);
    // The slow one takes 2 of 10 MB/s, the fast one the 8 that are left.
    near(&ends(&[fast, slow, fast], &[(0, 1), (0, 2)]), &[500.0, 125.0]);
}

#[test]
fn a_way_that_is_known_carries_what_it_does_and_leaves_the_rest_to_others() {
    let over = |links: &[LinkSpec], rate: u64, transfers: &[(usize, usize)]| {
        let mut network = Network::new(links);
        network.set_way((1, 0), rate);
        ends_over(network, transfers)
    };
    let wires = [LinkSpec::wire(0, 10 * MB, 0); 3];
    // A slow way takes 2 of the 10 MB/s, in either direction; the other transfer gets the 8.
    near(&over(&wires, 2 * MB, &[(0, 1), (0, 2)]), &[500.0, 125.0]);
    near(&over(&wires, 2 * MB, &[(1, 0)]), &[500.0]);
    // A fast one is not bound by what the links carry to others, and shares their ports by time.
    near(&over(&wires, 40 * MB, &[(0, 1)]), &[25.0]);
    near(&over(&wires, 40 * MB, &[(0, 2)]), &[100.0]);
    // Two stations with a way of their own do not use the air.
    let stations = [air(0, 10 * MB); 3];
    near(&over(&stations, 40 * MB, &[(0, 1), (0, 2)]), &[25.0, 200.0]);
    near(&over(&stations, MB, &[(0, 1)]), &[1000.0]);
}

#[test]
fn the_air_is_shared_by_all_stations_and_used_twice_between_two() {
    let (near_ap, wire) = (air(0, 10 * MB), LinkSpec::wire(0, 100 * MB, 0));
    near(&ends(&[wire, near_ap], &[(0, 1)]), &[100.0]);
    near(&ends(&[wire, near_ap, near_ap], &[(0, 1), (2, 0)]), &[200.0, 200.0]);
    near(&ends(&[near_ap, near_ap], &[(0, 1)]), &[200.0]);
    near(&ends(&[air(0, 10 * MB), air(1, 10 * MB)], &[(0, 1)]), &[100.0]);
}

#[test]
fn a_slow_station_drags_all_down_unless_airtime_is_fair() {
    let wire = LinkSpec::wire(0, 100 * MB, 0);
    let stations = [wire, air(0, 10 * MB), air(0, MB)];
    // Equal rates: x/10 + x/1 = 1, so 0.909 MB/s each.
    near(&ends(&stations, &[(0, 1), (0, 2)]), &[1100.0, 1100.0]);
    let fair = stations.map(|s| LinkSpec { airtime_fair: true, ..s });
    // Equal time: 5 and 0.5 MB/s; after 0.2 s the slow one is alone.
    near(&ends(&fair, &[(0, 1), (0, 2)]), &[200.0, 1100.0]);
}

#[test]
fn a_bundle_passes_a_blob_that_has_begun() {
    let wire = LinkSpec::wire(0, 10 * MB, 0);
    let mut network = Network::new(&[wire; 2]);
    network.send(0, (0, 1), Priority::Blob, MB, "blob");
    network.send(50 * MB, (0, 1), Priority::Bundle, MB, "bundle");
    let mut order = Vec::new();
    while let Some(at) = network.next_end() {
        order.extend(network.ended(at).into_iter().map(|t| (t.payload, (at + 500) / MB)));
    }
    assert_eq!(order, [("bundle", 150), ("blob", 200)]);
}

#[test]
fn what_is_blocked_waits_and_what_is_dropped_comes_back() {
    let wire = LinkSpec::wire(0, 10 * MB, 0);
    let mut network = Network::new(&[wire; 3]);
    network.send(0, (0, 1), Priority::Bundle, MB, 1);
    network.send(0, (0, 2), Priority::Bundle, MB, 2);
    network.block(0, 1, true);
    let at = network.next_end().unwrap();
    assert_eq!(((at + 500) / MB, network.ended(at)[0].payload), (100, 2));
    assert_eq!(network.next_end(), None);
    assert_eq!(network.drop_where(at, |_, to| to == 1), [1]);
    assert_eq!(network.next_end(), None);
}

#[test]
fn nothing_is_over_its_capacity_and_nobody_could_have_more() {
    // Any draw of links and transfers: the shares on each resource add up to one at most, and
    // each flow crosses a full resource on which nobody has more than it.
    let mut random = crate::random::Random::new(11);
    for _ in 0..200 {
        let link = |random: &mut crate::random::Random| {
            let rate = (1 + random.below(20)) * MB;
            match random.below(3) {
                0 => LinkSpec::wire(0, rate, 0),
                1 => LinkSpec { medium: Medium::HalfDuplexWire, ..LinkSpec::wire(0, rate, 0) },
                _ => air(random.below(2) as u32, rate),
            }
        };
        let links: Vec<LinkSpec> = (0..6).map(|_| link(&mut random)).collect();
        let mut network = Network::new(&links);
        for i in 0..10 {
            let (from, to) = (random.below(6) as usize, random.below(6) as usize);
            if from != to {
                network.send(0, (from, to), Priority::Bundle, MB, i);
            }
        }
        // With each transfer that ends the others get more.
        while let Some(at) = network.next_end() {
            check_shares(&network);
            network.ended(at);
        }
        assert_eq!(network.pending(), 0);
    }
}

fn check_shares(network: &Network<u64>) {
    let flows = network.flows.list();
    let used = |resource: usize| -> f64 {
        let uses = flows.iter().flat_map(|f| f.uses.map(|u| (u, f.rate)));
        uses.filter(|((r, _), _)| *r == resource).map(|((_, cost), rate)| cost * rate).sum()
    };
    for flow in &flows {
        let bottleneck = flow.uses.iter().any(|&(resource, cost)| {
            let crosses = |f: &&&Flow| f.uses.iter().any(|&(r, cost)| r == resource && cost > 0.0);
            let most = flows.iter().filter(crosses).map(|f| f.rate).fold(0.0, f64::max);
            cost > 0.0 && used(resource) > 0.999 && flow.rate > most * 0.999
        });
        assert!(bottleneck, "{flow:?}");
        assert!(flow.uses.iter().all(|&(resource, _)| used(resource) < 1.001));
    }
}
