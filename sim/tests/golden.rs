//! Simulated makespans as text: a scheduler that got slower is a failing test, not noise. `UPDATE=1`
//! refreshes the file; the commit that does says why.

use sim::Cluster;
use sim::files::ScenarioFile;
use std::fmt::Write as _;
use std::path::Path;

/// Scenarios that take a moment, with the changes that are made to them.
const SCENARIOS: [(&str, usize); 4] =
    [("yolov2-four-pi4", 2), ("vgg16-wifi", 1), ("bad-day", 8), ("one-slows-down", 1)];

fn line(name: &str, frames: usize) -> String {
    let mut file = ScenarioFile::open(name).unwrap();
    file.frames = frames;
    // The zoo's weights are made up anyway; a small input builds quickly and simulates the same way.
    file.model = file.model.split('@').next().unwrap().replace("vgg16", "tiny-yolov2") + "@224x224";
    (file.grid, file.fused_layers) = (Some((4, 4)), Some(4));
    let model = file.open_model().unwrap();
    let outcome = Cluster::new(file.scenario(model).unwrap()).run().unwrap();
    let mut text = format!("{name}, {frames} frames:");
    let _ = write!(
        text,
        " {:.3} ms, bound {:.3} ms, {} tasks, {} stolen, {} copies, {} reissued, {} B scattered, {} \
         steps",
        outcome.makespan_ns as f64 / 1e6,
        outcome.bound.frames_ns(outcome.frames.len()) as f64 / 1e6,
        outcome.counters.tasks,
        outcome.counters.stolen_tasks,
        outcome.counters.backups,
        outcome.reassigned,
        outcome.traffic.scatter_bytes,
        outcome.steps,
    );
    text
}

#[test]
fn simulated_makespans_are_what_they_were() {
    let got: String = SCENARIOS.iter().map(|&(name, frames)| line(name, frames) + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/makespans.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, expected, "UPDATE=1 refreshes {}", path.display());
}
