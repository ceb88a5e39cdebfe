//! What devices measure of themselves, as a person sees it.

mod support;

use sim::files::ClusterFile;
use std::path::Path;
use support::{Folder, text};
use tiling::OperatorClass;

/// The files that a worker keeps its measurements in.
fn kept(folder: &Folder) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder.path("state/profiles")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let json = files.filter(|path| path.extension().is_some_and(|e| e == "json"));
    json.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn devices_tells_rates_links_and_health() {
    let folder = Folder::new();
    let list = folder.report(&["devices", "--workers", "2"]);
    let devices = list["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    for device in devices {
        for class in OperatorClass::ALL {
            assert!(device["rates"][class.name()].as_u64().unwrap() > 0, "{device}");
        }
        assert!(device["link_bytes_per_s"].as_u64().unwrap() > 0, "{device}");
        assert!(device["round_trip_ns"].as_u64().unwrap() > 0, "{device}");
        // They found each other, and one of them measured the way between them.
        let pairs = device["pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), 1, "{device}");
        assert!(pairs[0]["bytes_per_s"].as_u64().unwrap() > 0, "{device}");
        assert!(pairs[0]["round_trip_ns"].as_u64().unwrap() > 0, "{device}");
        assert_ne!(pairs[0]["with"], device["name"]);
        assert_eq!(device["speed"].as_f64(), Some(1.0));
        assert_eq!(device["speedups_per_mille"], serde_json::json!([1000]));
        #[cfg(target_os = "linux")]
        assert!(device["free_bytes"].as_u64().unwrap() > 0, "{device}");
    }
    assert_eq!(devices[0]["pairs"][0]["bytes_per_s"], devices[1]["pairs"][0]["bytes_per_s"]);
    // Both have one thread: one of them measured, the other read what it wrote.
    assert_eq!(devices[0]["rates"], devices[1]["rates"]);
    let first = kept(&folder);
    assert_eq!(first.len(), 1);
    let table = folder.succeeds(&["devices", "--workers", "1"]);
    for word in ["local-0", "winograd", "round trip", "free memory"] {
        assert!(table.contains(word), "`{word}` is missing from:\n{table}");
    }
    assert_eq!(kept(&folder), first, "the second time nothing is measured");
}

#[test]
fn a_damaged_profile_is_measured_again_and_says_so() {
    let folder = Folder::new();
    folder.succeeds(&["devices", "--workers", "1"]);
    let (path, sound) = kept(&folder).remove(0);
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let output = folder.tilehive(&["devices", "--workers", "1"]);
    assert!(output.status.success());
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("damaged"), "{talk}");
    assert_ne!(std::fs::read(&path).unwrap(), &sound[..sound.len() / 2]);
}

#[test]
fn calibrate_writes_a_cluster_that_the_simulator_reads() {
    let folder = Folder::new();
    let output = folder.path("here");
    let check = |arguments: &[&str], count: usize| {
        let printed = folder.succeeds(arguments);
        let path = Path::new(printed.trim());
        assert_eq!(path, output.join("cluster.toml"));
        let workers = ClusterFile::open(text(path)).unwrap().workers().unwrap();
        assert_eq!(workers.len(), count);
        for worker in &workers {
            assert!(worker.device.measured().is_known());
            assert!(worker.link.send_bytes_per_s > 1);
        }
        workers
    };
    // This machine alone, with a thread count of its own, and then two workers.
    let alone = check(&["calibrate", "--threads", "2", "-o", text(&output)], 1);
    assert_eq!((alone[0].device.threads, alone[0].device.speedup_by_threads.len()), (2, 2));
    let two = check(&["calibrate", "--workers", "2", "-o", text(&output)], 2);
    assert_eq!(two[0].device.rates, two[1].device.rates);
    assert_ne!(two[0].name, two[1].name);
}

#[test]
fn a_worker_measures_anew_when_asked_and_needs_no_cluster_for_it() {
    let folder = Folder::new();
    let run = |extra: &[&str]| {
        let mut command = std::process::Command::new(coordinator::worker_binary().unwrap());
        command.args(["--threads", "1"]).args(extra).env("TILEHIVE_STATE", folder.path("state"));
        command.env_remove("TILEHIVE_TOKEN").output().unwrap()
    };
    let first = run(&["--calibrate"]);
    assert!(first.status.success(), "{first:?}");
    let rates: Vec<u64> = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(rates.len(), OperatorClass::ALL.len());
    let before = kept(&folder);
    assert!(run(&["--calibrate"]).status.success());
    assert_ne!(kept(&folder), before);
    // Without either there is nothing to do.
    assert_eq!(run(&[]).status.code(), Some(2));
}
