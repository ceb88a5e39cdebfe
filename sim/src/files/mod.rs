//! Devices, links, clusters and scenarios as files: TOML, units in the names of keys, strict.
//!
//! | file | idea |
//! |---|---|
//! | `device.rs` | what a device is |
//! | `link.rs` | how it is connected |
//! | `cluster.rs` | which devices there are |
//! | `scenario.rs` | what they compute, and what goes wrong |
//! | `find.rs` | by path, or by the name of one that comes with the program |
//!
//! Every file under `configs/` is loaded by a test.

mod cluster;
mod device;
mod find;
mod link;
mod scenario;

pub use cluster::ClusterFile;
pub use device::DeviceFile;
pub use find::{FileError, Kind, names};
pub use link::LinkFile;
pub use scenario::ScenarioFile;

use protocol::{Nanos, SECOND};

/// Seconds as nanoseconds.
fn nanos(seconds: f64) -> Nanos {
    (seconds.clamp(0.0, 1e9) * SECOND as f64) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_comes_with_the_program_is_sound() {
        for name in names(Kind::Device) {
            let device = DeviceFile::open(name).unwrap_or_else(|e| panic!("{e}"));
            assert!(device.model().measured_per_s() > 1_000_000_000, "{name}");
        }
        for name in names(Kind::Link) {
            LinkFile::open(name).unwrap_or_else(|e| panic!("{e}"));
        }
        for name in names(Kind::Cluster) {
            let cluster = ClusterFile::open(name).unwrap_or_else(|e| panic!("{e}"));
            assert!(!cluster.workers().unwrap().is_empty(), "{name}");
        }
        for name in names(Kind::Scenario) {
            let scenario = ScenarioFile::open(name).unwrap_or_else(|e| panic!("{e}"));
            scenario.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert!(names(Kind::Device).len() >= 11 && names(Kind::Link).len() >= 5);
    }

    #[test]
    fn every_file_under_configs_comes_with_the_program() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        for kind in Kind::ALL {
            let folder = std::fs::read_dir(root.join(kind.folder())).unwrap();
            let mut found: Vec<String> = folder
                .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into())
                .collect();
            found.sort();
            let mut known: Vec<&str> = names(kind);
            known.sort();
            assert_eq!(found, known);
        }
    }

    #[test]
    fn an_unknown_key_and_an_unknown_name_are_told_with_what_is_known() {
        let error = toml::from_str::<ScenarioFile>("model = \"x\"\nframmes = 3").unwrap_err();
        assert!(error.to_string().contains("frames"), "{error}");
        let error = DeviceFile::open("pi-9").unwrap_err();
        assert!(error.to_string().contains("pi-4b"), "{error}");
    }

    #[test]
    fn the_pi_4_takes_what_was_published_for_resnet_50() {
        use crate::physics::work_of;
        let model = model::open("zoo:resnet50", &Default::default()).unwrap().graph;
        let whole = tiling::StageGeometry::whole(&model, tiling::Numerics::Fast);
        let ms = |name: &str| {
            let device = DeviceFile::open(name).unwrap().model();
            device.tile_ns(&work_of(&model, &whole, 0)) / 1e6
        };
        // Published: 263 and 587 ms; the fits are good to 17 and 16 %.
        for (name, published) in [("pi-4b", 263.0), ("pi-3b-plus", 587.0)] {
            let got = ms(name);
            assert!((got / published - 1.0).abs() < 0.25, "{name}: {got} ms, {published} ms");
        }
    }
}
