//! What devices draw, from a worker's command line to the plan that is made of it.

mod support;

use support::devices::{Coordinator, Device, says};
use support::text;

/// Runs a small model over two devices of which these watts are told.
fn run(watts: [Option<&str>; 2], more: &[&str]) -> std::process::Output {
    let home = Coordinator::new();
    let devices = [(); 2].map(|()| Device::new());
    let join = |(device, watts): (&Device, Option<&str>)| {
        let token = home.invites(&["token"]);
        let told = watts.map(|watts| ["--watts", watts]);
        let told = told.iter().flatten().copied();
        device.works_with(&["--join", &token].into_iter().chain(told).collect::<Vec<_>>())
    };
    let working: Vec<_> = devices.iter().zip(watts).map(join).collect();
    let input = home.folder.picture("input.png", 64, 64);
    let place = ["--no-mdns", "--listen", &home.address, "--join-wait", "60s", "--expect", "2"];
    let run = ["run", "zoo:mobilenetv2@64x64", text(&input)];
    let output = home.folder.tilehive(&[&run[..], &place, more].concat());
    drop(working);
    output
}

fn report(output: &std::process::Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_thriftiest_device_is_chosen_and_joules_are_told() {
    let output = run([Some("2:4"), Some("2:40")], &["--objective", "energy", "--json"]);
    let energy = &report(&output)["energy"];
    let joules = energy["predicted_j_per_frame"].as_f64().unwrap();
    assert!(joules > 0.0, "{energy}");
    // One device draws a twentieth of the other for the same work.
    let [part] = &energy["devices"].as_array().unwrap()[..] else { panic!("{energy}") };
    assert_eq!(part["watts"]["active_w"], 4.0);
    assert_eq!(part["watts"]["source"], "as its worker was told");
    assert_eq!(part["predicted_j_per_frame"].as_f64(), Some(joules));
}

#[test]
fn of_whom_watts_are_missing_is_said() {
    // Workers of a machine with a board that is known have watts anyway.
    if worker::board::name(std::path::Path::new("/"))
        .is_some_and(|board| sim::files::board_power(&board).is_some())
    {
        return;
    }
    let output = run([Some("2:4"), None], &["--objective", "energy"]);
    says(&output, 2, &["how many watts", "--watts"]);
    let energy = &report(&run([None, None], &["--strategy", "modnn", "--json"]))["energy"];
    assert!(energy["predicted_j_per_frame"].is_null(), "{energy}");
    assert_eq!(energy["devices"].as_array().unwrap().len(), 2);
}

#[test]
fn a_deadline_that_none_meets_is_refused_before_anything_runs() {
    let late = ["--objective", "energy", "--deadline", "1us"];
    says(&run([Some("2:4"), Some("2:4")], &late), 2, &["the fastest takes", "--deadline"]);
}

#[test]
fn watts_that_cannot_be_are_refused() {
    let device = Device::new();
    for watts in ["5", "5:1", "a:b", "nan:4"] {
        let output = device.command(&["--watts", watts, "--join", "x"]).output().unwrap();
        says(&output, 2, &["IDLE:ACTIVE"]);
    }
}
