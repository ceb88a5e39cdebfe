//! Bad input, each with a clear error and its exit code; and the main job from the command line.

mod support;

use std::process::Command;
use support::{Folder, text};

#[test]
fn a_truncated_model_is_refused() {
    let folder = Folder::new();
    let (model, photo) = (folder.path("m.onnx"), folder.picture("p.png", 32, 32));
    let export = folder.tilehive(&["model", "export", "zoo:unet@32x32", "-o", text(&model)]);
    assert!(export.status.success(), "{export:?}");
    let whole = std::fs::read(&model).unwrap();
    let cut = folder.write("cut.onnx", &whole[..whole.len() / 2]);
    folder.refuses(&["run", text(&cut), text(&photo)], 2, &["cut.onnx"]);
    let nothing = folder.write("nothing.onnx", b"");
    folder.refuses(&["run", text(&nothing), text(&photo)], 2, &["nothing.onnx"]);
    folder.refuses(&["run", "missing.onnx", text(&photo)], 2, &["missing.onnx"]);
    folder.refuses(&["run", "zoo:nonsense", text(&photo)], 2, &["nonsense", "hint:"]);
}

#[test]
fn a_wrong_input_shape_is_refused_with_a_way_out() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 40, 30);
    let words = ["[1, 3, 64, 64]", "30 x 40", "--fit"];
    folder.refuses(&["run", "zoo:unet@64x64", text(&photo), "--fit", "none"], 2, &words);
    for (numerics, verdict) in [("exact", "bit-identical to one device: yes"), ("fast", "e-")] {
        let ended = folder.tilehive(&[
            "run",
            "zoo:unet@64x64",
            text(&photo),
            "--fit",
            "stretch",
            "--check",
            "--numerics",
            numerics,
        ]);
        assert!(ended.status.success(), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains(verdict), "{said}");
    }
}

#[test]
fn unreadable_inputs_and_outputs_are_refused() {
    let folder = Folder::new();
    let noise = folder.write("noise.png", b"this is no picture");
    folder.refuses(&["run", "zoo:unet@64x64", text(&noise)], 2, &["noise.png", "hint:"]);
    folder.refuses(&["run", "zoo:unet@64x64", "gone.png"], 2, &["gone.png"]);
    let lie = folder.write("lie.npy", b"\x93NUMPY\x01\x00\xff\xff");
    folder.refuses(&["run", "zoo:unet@64x64", text(&lie)], 2, &["lie.npy"]);
    let photo = folder.picture("p.png", 64, 64);
    let odd = folder.path("out.odd");
    let arguments = ["run", "zoo:unet@64x64", text(&photo), "-o", text(&odd)];
    folder.refuses(&arguments, 2, &[".odd", "hint:"]);
    let empty = folder.path("empty");
    std::fs::create_dir(&empty).unwrap();
    folder.refuses(&["run", "zoo:unet@64x64", text(&empty)], 2, &["no picture"]);
}

#[test]
fn a_grid_that_does_not_fit_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 64, 64);
    let arguments = ["run", "zoo:unet@64x64", text(&photo), "--grid", "65x1"];
    folder.refuses(&arguments, 2, &["65 x 1", "64 rows"]);
    folder.refuses(&["run", "zoo:unet@64x64", text(&photo), "--grid", "3by3"], 2, &["ROWSxCOLS"]);
    folder.refuses(&["plan", "zoo:vgg16", "--fuse", "99"], 2, &["99", "whole input"]);
}

#[test]
fn a_plan_for_a_cluster_that_is_not_there() {
    let folder = Folder::new();
    let plan = ["plan", "zoo:tiny-yolov2@224x224", "--on"];
    let with = |cluster: &str, more: &[&str]| {
        let mut arguments = plan.map(str::to_owned).to_vec();
        arguments.push(cluster.to_owned());
        arguments.extend(more.iter().map(|&m| m.to_owned()));
        arguments
    };
    let ends = |arguments: &[String], code: i32, words: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        folder.refuses(&arguments, code, words);
    };
    ends(&with("nowhere", &[]), 2, &["nowhere", "tilehive-sim list"]);
    ends(&with("four-pi4-ethernet", &["--speeds", "6G"]), 2, &["--speeds"]);
    let strange = folder.path("strange.toml");
    let device = "[[worker]]\ndevice = \"pi-99\"\nlink = \"ethernet-1g\"\n";
    let head = "name = \"strange\"\n\n[coordinator]\nlink = \"ethernet-1g\"\n\n";
    std::fs::write(&strange, format!("{head}{device}")).unwrap();
    ends(&with(text(&strange), &[]), 2, &["pi-99"]);
}

#[test]
fn flags_that_contradict_each_other() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 64, 64);
    let run = ["run", "zoo:unet@64x64", text(&photo)];
    let checks = ["--handover", "exchange", "--spot-checks", "10"];
    folder.refuses(&[&run[..], &checks].concat(), 2, &["--spot-checks", "leave one"]);
    let plan = ["plan", "zoo:unet@64x64", "--speeds", "6G,6G"];
    let refuses = |more: &[&str], words: &[&str]| {
        folder.refuses(&[&plan[..], more].concat(), 2, words);
    };
    refuses(&["--objective", "throughput", "--strategy", "coedge"], &["--strategy coedge"]);
    refuses(&["--deadline", "2s"], &["--deadline", "energy"]);
    refuses(&["--strategy", "modnn", "--grid", "2x2"], &["--grid", "modnn"]);
    // Nobody says what such devices draw.
    refuses(&["--objective", "energy"], &["watts", "[power]"]);
    // One device: nothing to hand over to, and the hint is not about grids.
    let alone = ["plan", "zoo:unet@64x64", "--speeds", "6G", "--strategy", "offload"];
    folder.refuses(&alone, 2, &["second device", "tilehive cluster token"]);
}

#[test]
fn a_plan_that_fits_nowhere() {
    let folder = Folder::new();
    let plan = ["plan", "zoo:vgg16@224x224", "--speeds", "6G,6G", "--max-memory", "10M"];
    folder.refuses(&plan, 2, &["`fc6`", "device-0", "are missing", "--max-memory"]);
    let late = ["plan", "zoo:vgg16@224x224", "--on", "four-pi4-ethernet", "--objective", "energy"];
    folder.refuses(&[&late[..], &["--deadline", "1ms"]].concat(), 2, &["1.0 ms", "the fastest"]);
}

#[test]
fn a_port_in_use_is_named() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 64, 64);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let arguments =
        ["run", "zoo:unet@64x64", text(&photo), "--join-wait", "1s", "--listen", &address];
    folder.refuses(&arguments, 1, &[&address, "--listen"]);
}

#[test]
fn local_workers_answer_exactly_and_the_report_is_json() {
    let folder = Folder::new();
    let (photo, out) = (folder.picture("p.png", 64, 64), folder.path("out.npy"));
    let plans = [("deepthings", "f32"), ("modnn", "f32"), ("local", "f32"), ("modnn", "f16")];
    for (strategy, weights) in plans {
        let ended = folder.tilehive(&[
            "run",
            "zoo:unet@64x64",
            text(&photo),
            "-o",
            text(&out),
            "--workers",
            "2",
            "--check",
            "--json",
            "--numerics",
            "exact",
            "--spot-checks",
            "500",
            "--weights",
            weights,
            "--strategy",
            strategy,
        ]);
        assert!(ended.status.success(), "{strategy}: {ended:?}");
        let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(report["check"]["identical"], true);
        assert_eq!(report["workers"].as_array().unwrap().len(), 2);
        assert!(out.is_file());
    }
}

#[test]
fn a_run_writes_the_timeline_that_the_simulator_reads() {
    let folder = Folder::new();
    let picture = folder.picture("in.png", 96, 96);
    let trace = folder.path("trace.json");
    let output = folder.tilehive(&[
        "run",
        "zoo:unet@96x96",
        text(&picture),
        "--workers",
        "2",
        "--grid",
        "2x2",
        "--trace",
        text(&trace),
        "--json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let timeline = timeline::read(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    assert_eq!(timeline.devices.len(), 2);
    let computed: Vec<_> = timeline.of(timeline::Activity::Compute).collect();
    // Four tiles, and what cannot be cut, if anything.
    assert!(computed.len() >= 4 && computed.iter().all(|s| s.end_ns > s.start_ns), "{computed:?}");
    let itself = timeline::difference(&timeline, &timeline);
    assert_eq!((itself.only_a, itself.makespan_error, itself.same_device), (0, 0.0, 1.0));
    folder.refuses(
        &["run", "zoo:unet@96x96", text(&picture), "--trace", "/no/such/folder/trace.json"],
        2,
        &["cannot write"],
    );
}

#[test]
fn a_folder_is_a_stream_of_frames() {
    let folder = Folder::new();
    let pictures = folder.path("in");
    std::fs::create_dir(&pictures).unwrap();
    for i in 0..5 {
        folder.picture(&format!("in/{i}.png"), 64, 64);
    }
    let out = folder.path("out");
    let ended = folder.tilehive(&[
        "run",
        "zoo:unet@64x64",
        text(&pictures),
        "-o",
        text(&out),
        "--workers",
        "2",
    ]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 5);
}

#[test]
fn a_worker_with_a_damaged_token_says_what_to_do() {
    let worker = coordinator::worker_binary().unwrap();
    let output = Command::new(worker).args(["--join", "tilehive1-abc"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("error: the token") && talk.contains("tilehive cluster token"), "{talk}");
}

#[test]
fn a_worker_with_a_wrong_token_or_version_is_turned_away() {
    let folder = Folder::new();
    let other = Folder::new();
    // A coordinator that listens for a while, and the token of another cluster at its address.
    let reserve = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", reserve.local_addr().unwrap().port());
    drop(reserve);
    let token = |folder: &Folder| {
        let printed = folder.tilehive(&["token", "--listen", &address]);
        String::from_utf8(printed.stdout).unwrap().trim().to_owned()
    };
    let (right, wrong) = (token(&folder), token(&other));
    let mut listening = Command::new(env!("CARGO_BIN_EXE_tilehive"))
        .args(["devices", "--no-mdns", "--join-wait", "20s", "--expect", "1", "--listen", &address])
        .env("TILEHIVE_STATE", folder.path("state"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let worker = |token: &str, extra: &[&str]| {
        let mut command = Command::new(coordinator::worker_binary().unwrap());
        command.args(["--no-mdns", "--threads", "1", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        command.args(extra).env("TILEHIVE_TOKEN", token).env("TILEHIVE_STATE", folder.path("w"));
        command
    };
    let output = worker(&right, &["--protocol-version", "99"]).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{talk}");
    assert!(talk.contains("version 99") && talk.contains("release"), "{talk}");
    // The other coordinator's key cannot be shown by this one: the worker goes on trying, in vain.
    let mut lost = worker(&wrong, &[]).spawn().unwrap();
    let mut joined = worker(&right, &["--name", "friend"]).spawn().unwrap();
    let list = listening.wait_with_output_of();
    assert!(list.contains("friend"), "{list}");
    assert!(lost.try_wait().unwrap().is_none());
    for child in [&mut lost, &mut joined] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

trait WaitForOutput {
    fn wait_with_output_of(&mut self) -> String;
}

impl WaitForOutput for std::process::Child {
    fn wait_with_output_of(&mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.stdout.take().unwrap();
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        self.wait().unwrap();
        text
    }
}
