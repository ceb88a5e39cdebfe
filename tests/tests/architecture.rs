//! The picture in `ARCHITECTURE.md`, held against the manifests: a crate depends only on what lies
//! below it, and what must stay free of I/O has no crate that does any.

use std::collections::BTreeMap;
use std::path::Path;

/// The floors, lowest first. A crate may depend on crates of lower floors only.
const FLOORS: [&[&str]; 6] = [
    &["model", "timeline", "vision"],
    &["tiling"],
    &["protocol", "planner", "kernels"],
    &["net"],
    &["worker", "sim"],
    &["coordinator"],
];

/// Dependencies below which nothing of the network, the clock or threads may come in.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("tiling", &["tokio", "libp2p", "rayon", "ndarray", "rand", "getrandom"]),
    (
        "protocol",
        &["tokio", "libp2p", "rayon", "ndarray", "rand", "getrandom", "kernels", "planner"],
    ),
    (
        "planner",
        &["tokio", "libp2p", "rayon", "ndarray", "rand", "getrandom", "kernels", "protocol"],
    ),
    ("kernels", &["tokio", "libp2p", "protocol", "planner"]),
    ("vision", &["tokio", "libp2p", "rayon", "rand", "getrandom", "model", "tempfile"]),
    ("sim", &["tokio", "libp2p", "net", "worker", "coordinator"]),
];

/// The names under `[dependencies]` of a crate; those only its tests use do not count.
fn dependencies(of: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = std::fs::read_to_string(root.join(of).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[").find(|s| s.starts_with("dependencies]")).unwrap();
    let names = section.lines().skip(1).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn arrows_go_down_only() {
    let floor: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(height, crates)| crates.iter().map(move |name| (*name, height)))
        .collect();
    for (name, height) in &floor {
        for dependency in dependencies(name) {
            if let Some(below) = floor.get(dependency.as_str()) {
                assert!(below < height, "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn thought_is_free_of_input_and_output() {
    for (name, forbidden) in FORBIDDEN {
        for dependency in dependencies(name) {
            assert!(!forbidden.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
    }
}
