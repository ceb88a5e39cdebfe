//! The program as a person uses it: what it prints, what it writes, how it refuses.

use std::path::PathBuf;
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tilehive-sim")).args(arguments).output().unwrap()
}

/// Runs, expects success, and returns what was printed.
fn prints(arguments: &[&str]) -> String {
    let output = sim(arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{talk}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&prints(arguments)).unwrap()
}

fn refuses(arguments: &[&str], words: &[&str]) {
    let output = sim(arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{talk}");
    for word in words {
        assert!(talk.contains(word), "`{word}` is missing from:\n{talk}");
    }
    assert!(!talk.contains("panicked"), "{talk}");
}

const SMALL: [&str; 8] =
    ["--model", "zoo:squeezenet@96x96", "--frames", "2", "--grid", "3x3", "--fused-layers", "3"];

fn with(first: &[&'static str], rest: &[&'static str]) -> Vec<&'static str> {
    [first, &SMALL, rest].concat()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn a_run_reports_and_two_runs_are_the_same() {
    let run = || json(&with(&["run", "bad-day"], &["--json"]));
    let report = run();
    assert_eq!((report["frames"].as_u64(), report["seed"].as_u64()), (Some(2), Some(1)));
    assert!(
        report["gap"].as_f64().unwrap() >= 0.0 && report["redundancy"].as_f64().unwrap() >= 1.0
    );
    assert_eq!(report["devices"].as_array().unwrap().len(), 7);
    assert_eq!(report["event_hash"], run()["event_hash"]);
    let text = prints(&with(&["run", "bad-day"], &[]));
    assert!(
        ["makespan", "lower bound", "energy", "peak"].iter().all(|w| text.contains(w)),
        "{text}"
    );
}

#[test]
fn a_page_needs_nothing_else_and_a_timeline_differs_from_itself_by_nothing() {
    let folder = Folder::new("drawn");
    let (page, trace) = (folder.path("run.html"), folder.path("run.json"));
    let mut arguments: Vec<&str> = with(&["run", "one-slows-down"], &[]);
    arguments.extend(["--page", &page, "--trace", &trace]);
    prints(&arguments);
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["src=\"", "href=\"", "@import", "url(", "fetch("] {
        assert!(!html.contains(outside), "the page has {outside}");
    }
    assert!(html.contains("joined") && html.contains("pi-4b-fan-3"));
    let same = json(&["diff", &trace, &trace, "--json"]);
    assert_eq!((same["makespan_error"].as_f64(), same["only_a"].as_u64()), (Some(0.0), Some(0)));
    assert!(!same["pairs"].as_array().unwrap().is_empty());
}

#[test]
fn strategies_and_sizes_are_compared() {
    let reports = json(&with(&["compare", "vgg16-wifi"], &["--json"]));
    let strategies: Vec<_> = reports.as_array().unwrap().iter().map(|r| &r["strategy"]).collect();
    let default = ["auto", "local", "deepthings", "modnn", "aofl", "coedge", "pico"];
    assert_eq!(strategies, default);
    let points = json(&with(
        &["sweep", "vgg16-wifi"],
        &["--over", "bandwidth", "--values", "0.1,10", "--json"],
    ));
    let makespan = |i: usize| points[i]["report"]["makespan_ms"].as_f64().unwrap();
    assert!(makespan(0) > makespan(1), "a hundred times the bandwidth helps");
}

#[test]
fn a_soak_is_reproducible() {
    let soak = || json(&["soak", "--seeds", "20", "--first-seed", "7", "--twice", "--json"]);
    let (a, b) = (soak(), soak());
    assert_eq!((a["seeds"].as_u64(), &a["steps"]), (Some(20), &b["steps"]));
    assert!(a["failures"].as_array().unwrap().is_empty());
}

#[test]
fn mistakes_are_named_with_a_way_out() {
    refuses(&["run", "no-such-scenario"], &["error:", "yolov2-four-pi4", "hint:", "list"]);
    refuses(&["run", "./none.toml"], &["cannot read ./none.toml"]);
    refuses(&["run", "bad-day", "--model", "zoo:nothing"], &["hint:", "zoo:vgg16"]);
    refuses(&["run", "bad-day", "--grid", "4by4"], &["4x4"]);
    refuses(&["compare", "bad-day", "--strategies", "magic"], &["deepthings"]);
    refuses(&["diff", "a.json", "b.json"], &["cannot read a.json", "--trace"]);
    let folder = Folder::new("mistakes");
    let path = folder.path("s.toml");
    std::fs::write(&path, "model = \"zoo:unet\"\ncluster = \"phones\"\nframmes = 2\n").unwrap();
    refuses(&["run", &path], &["frammes", "frames"]);
    let fault = "[[fault]]\nat_s = 1\nkind = \"crash\"\ndevice = 9\n";
    std::fs::write(&path, format!("model = \"zoo:unet\"\ncluster = \"phones\"\n{fault}")).unwrap();
    refuses(&["run", &path], &["device 9", "4 workers"]);
}
