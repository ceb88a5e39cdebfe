//! The picture in `ARCHITECTURE.md`, held against the manifests: a crate depends only on what lies
//! below it, and what must stay free of I/O has no crate that does any.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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

/// The files of a crate's sources, with their paths in the repository.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

#[test]
fn unsafe_code_is_where_the_security_page_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let told: BTreeSet<String> = page
        .split('`')
        .filter(|word| word.ends_with(".rs") && word.contains("/src/"))
        .map(str::to_owned)
        .collect();
    let crates = FLOORS.iter().flat_map(|names| names.iter());
    let is_unsafe = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"];
        code.into_iter().any(|line| words.iter().any(|word| line.contains(word)))
    };
    let found: BTreeSet<String> = crates
        .flat_map(|name| sources(&root.join(name).join("src")))
        .filter(is_unsafe)
        .map(|path| path.strip_prefix(root).unwrap().display().to_string())
        .collect();
    assert_eq!(found, told, "docs/security.md has to say why each of these is sound");
}
