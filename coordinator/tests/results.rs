//! Pictures in, answers for people out: from the command line, with real runs.

mod support;

use image::GenericImageView;
use ndarray::{Array4, ArrayD};
use ndarray_npy::{read_npy, write_npy};
use serde_json::Value;
use support::{Folder, text};

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The convention by hand: an array of what `--normalize imagenet --channels bgr` should make of a
/// picture gives the very answer of the picture.
#[test]
fn a_picture_goes_in_by_its_convention() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 64, 64);
    let picture = image::open(&photo).unwrap().to_rgb8();
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let by_hand = Array4::from_shape_fn((1, 3, 64, 64), |(_, channel, row, col)| {
        let colour = 2 - channel;
        let byte = picture.get_pixel(col as u32, row as u32).0[colour];
        (f32::from(byte) / 255.0 - mean[colour]) / std[colour]
    });
    let array = folder.path("p.npy");
    write_npy(&array, &by_hand).unwrap();
    let (from_picture, from_array) = (folder.path("a.npy"), folder.path("b.npy"));
    let convention = ["--normalize", "imagenet", "--channels", "bgr", "--fit", "none"];
    let run = ["run", "zoo:unet@64x64", text(&photo), "-o", text(&from_picture)];
    folder.succeeds(&[run.as_slice(), &convention].concat());
    folder.succeeds(&["run", "zoo:unet@64x64", text(&array), "-o", text(&from_array)]);
    let (a, b): (ArrayD<f32>, ArrayD<f32>) =
        (read_npy(from_picture).unwrap(), read_npy(from_array).unwrap());
    assert_eq!(a.shape(), [1, 1, 64, 64]);
    assert!(a == b);
}

#[test]
fn the_most_likely_classes_have_names() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 90, 70);
    let names: Vec<String> = (0..1000).map(|i| format!("thing-{i}")).collect();
    let labels = folder.write("labels.txt", names.join("\n").as_bytes());
    let run = ["run", "zoo:squeezenet@64x64", text(&photo), "--labels", text(&labels)];
    let report = folder.report(&run);
    let result = &report["answers"][0]["result"];
    let top = result["top"].as_array().unwrap();
    assert_eq!(top.len(), 5);
    assert_eq!(result["softmax_applied"], true, "the zoo's squeezenet ends in a pool");
    let probabilities: Vec<f64> = top.iter().map(|c| c["probability"].as_f64().unwrap()).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b));
    assert_eq!(top[0]["label"], format!("thing-{}", top[0]["class"]));
    assert_eq!(report["usage"]["task"]["value"], "classify");
    assert_eq!(report["usage"]["fit"]["value"], "crop");
    // For people, the first name stands on the first line.
    let said = folder.succeeds(&[run.as_slice(), &["--top", "2"]].concat());
    assert!(said.lines().next().unwrap().contains(top[0]["label"].as_str().unwrap()), "{said}");
}

#[test]
fn boxes_are_in_the_pixels_of_the_picture_and_drawn_on_it() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 200, 100);
    let (drawn, listed) = (folder.path("boxes.png"), folder.path("boxes.json"));
    let run = ["run", "zoo:tiny-yolov2@64x64", text(&photo), "--confidence", "0.01"];
    folder.succeeds(&[run.as_slice(), &["-o", text(&drawn), "--out", text(&listed)]].concat());
    let result = &json(&listed)["result"];
    assert_eq!((&result["rows"], &result["cols"]), (&100.into(), &200.into()));
    let boxes = result["boxes"].as_array().unwrap();
    assert!(!boxes.is_empty());
    for found in boxes {
        let corner = |i: usize| found["box"][i].as_f64().unwrap();
        assert!(0.0 <= corner(0) && corner(0) <= corner(2) && corner(2) <= 200.0, "{found}");
        assert!(0.0 <= corner(1) && corner(1) <= corner(3) && corner(3) <= 100.0, "{found}");
    }
    // The whole width of the letterboxed picture is reached, which the bars of 64 x 64 are not.
    let right = boxes.iter().map(|b| b["box"][2].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(right > 100.0, "{right}");
    let (before, after) = (image::open(&photo).unwrap(), image::open(&drawn).unwrap());
    assert_eq!(before.dimensions(), after.dimensions());
    assert_ne!(before.to_rgb8().into_raw(), after.to_rgb8().into_raw());
}

#[test]
fn classes_of_pixels_are_a_picture_of_the_picture_s_size() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 100, 80);
    let mask = folder.path("mask.png");
    let run = ["run", "zoo:unet@64x64", text(&photo), "-o", text(&mask)];
    let report = folder.report(&run);
    let classes = report["answers"][0]["result"]["classes"].as_array().unwrap();
    let pixels: u64 = classes.iter().map(|c| c["pixels"].as_u64().unwrap()).sum();
    assert_eq!(pixels, 100 * 80);
    let mask = image::open(&mask).unwrap().to_rgb8();
    assert_eq!(mask.dimensions(), (100, 80));
    let black = mask.pixels().filter(|p| p.0 == [0; 3]).count() as u64;
    let background =
        classes.iter().find(|c| c["class"] == 0).map_or(0, |c| c["pixels"].as_u64().unwrap());
    assert_eq!(black, background);
}

/// Metadata comes after the graph: more bytes at the end of an ONNX file are more fields.
fn add_metadata(model: &std::path::Path, entries: &[(&str, &str)]) {
    let field = |number: u8, payload: &[u8]| {
        let length = [payload.len() as u8 & 0x7f | 0x80, (payload.len() >> 7) as u8];
        [&[number << 3 | 2], length.as_slice(), payload].concat()
    };
    let mut bytes = std::fs::read(model).unwrap();
    for (key, value) in entries {
        let entry = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
        bytes.extend(field(14, &entry));
    }
    std::fs::write(model, bytes).unwrap();
}

#[test]
fn a_model_says_itself_how_it_is_used() {
    let folder = Folder::new();
    let (model, photo) = (folder.path("m.onnx"), folder.picture("p.png", 200, 100));
    folder.succeeds(&["model", "export", "zoo:tiny-yolov2@64x64", "-o", text(&model)]);
    let names: Vec<String> = (0..20).map(|i| format!("{i}: 'animal {i}'")).collect();
    let names = format!("{{{}}}", names.join(", "));
    let entries = [("author", "Ultralytics"), ("task", "detect"), ("names", names.as_str())];
    add_metadata(&model, &entries);
    let report = folder.report(&["run", text(&model), text(&photo), "--confidence", "0.01"]);
    let usage = &report["usage"];
    assert_eq!(
        (&usage["task"]["by"], &usage["fit"]["by"]),
        (&"metadata".into(), &"metadata".into())
    );
    assert_eq!(usage["normalize"]["by"], "Ultralytics");
    let first = &report["answers"][0]["result"]["boxes"][0];
    assert_eq!(first["label"], format!("animal {}", first["class"]));
    // A flag goes before the metadata.
    let given = ["--task", "raw", "--fit", "crop"];
    let report = folder.report(&[&["run", text(&model), text(&photo)], given.as_slice()].concat());
    assert_eq!(report["usage"]["task"]["by"], "given");
    let outputs = &report["answers"][0]["result"]["outputs"];
    assert_eq!(outputs[0]["dims"], serde_json::json!([1, 125, 2, 2]));
    let said = folder.succeeds(&["model", "inspect", text(&model)]);
    assert!(said.contains("author: Ultralytics"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 64, 64);
    let png = folder.path("out.png");
    let run = |model: &str, more: &[&str], words: &[&str]| {
        folder.refuses(&[&["run", model, text(&photo)], more].concat(), 2, words);
    };
    run("zoo:squeezenet@64x64", &["-o", text(&png)], &["classes are no picture", "hint:"]);
    run("zoo:unet@64x64", &["--task", "detect"], &["no known detector", "--head"]);
    run("zoo:unet@64x64", &["--normalize", "0-2"], &["0-2", "imagenet"]);
    run("zoo:unet@64x64", &["--labels", "gone.txt"], &["gone.txt", "hint:"]);
    run("zoo:unet@64x64", &["--fit", "squeeze"], &["squeeze", "letterbox"]);
    run("zoo:unet@64x64", &["--confidence", "7"], &["0 to 1"]);
    let empty = folder.write("empty.txt", b"");
    run("zoo:unet@64x64", &["--labels", text(&empty)], &["empty.txt", "one name a line"]);
    let folder_beside = [text(&png), "-o", "somewhere"];
    run("zoo:unet@64x64", &[&["-o"], folder_beside.as_slice()].concat(), &["beside", "hint:"]);
}

/// `tilehive ... | head`: the reader leaves before the report is written.
#[test]
fn a_reader_who_leaves_is_no_panic() {
    let folder = Folder::new();
    let mut child = folder
        .command(&["model", "inspect", "zoo:resnet50@64x64"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let talk = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !talk.contains("panicked"), "{talk}");
}

#[test]
fn inspect_tells_what_can_be_tiled_and_draws_it() {
    let folder = Folder::new();
    let svg = folder.path("graph.svg");
    let said = folder.succeeds(&["model", "inspect", "zoo:resnet50@64x64", "--svg", text(&svg)]);
    assert!(said.contains("averages over the whole map"), "{said}");
    let report = folder.report(&["model", "inspect", "zoo:resnet50@64x64"]);
    let layers = report["layers"].as_array().unwrap();
    let prefix = report["tiled_prefix"].as_u64().unwrap() as usize;
    assert!(prefix > 50 && layers[..prefix].iter().all(|l| l["tiled"] == true));
    assert_eq!(layers[prefix]["tiled"], false);
    let sum: u64 = layers.iter().map(|l| l["multiply_adds"].as_u64().unwrap()).sum();
    assert_eq!(report["multiply_adds"], sum);
    let svg = std::fs::read_to_string(svg).unwrap();
    assert_eq!(svg.matches("<g>").count(), layers.len());
}
