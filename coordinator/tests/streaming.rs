//! Pictures under a memory limit: the bytes of a run without one, over real worker processes.

mod support;

use image::GenericImageView;
use support::{Folder, text};

const SUPERRES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/superres-x2.onnx");

#[test]
fn a_limit_does_not_change_a_byte() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 701, 467);
    let whole = folder.path("whole.png");
    let run = ["run", SUPERRES, text(&photo)];
    folder.succeeds(&[run.as_slice(), &["-o", text(&whole), "--numerics", "exact"]].concat());
    let expected = std::fs::read(&whole).unwrap();
    assert_eq!(image::open(&whole).unwrap().dimensions(), (1402, 934));
    for (name, workers) in [("two.png", ["--workers", "2"].as_slice()), ("none.png", &[])] {
        let out = folder.path(name);
        let more = ["-o", text(&out), "--max-memory", "80M"];
        let report = folder.report(&[run.as_slice(), &more, workers].concat());
        assert!(report["bands"].as_u64().unwrap() > 1, "{report}");
        assert!(report["tiles"].as_u64().unwrap() > report["bands"].as_u64().unwrap(), "{report}");
        assert!(std::fs::read(&out).unwrap() == expected, "{name}");
        let limit = report["max_memory"].as_u64().unwrap();
        assert_eq!(limit, 80 << 20);
        let peaks = &report["peak_resident_bytes"];
        let held = peaks["workers"].as_array().unwrap().iter().chain([&peaks["coordinator"]]);
        for bytes in held.filter_map(|bytes| bytes.as_u64()) {
            assert!(bytes <= limit, "{name}: {report}");
        }
    }
}

#[test]
fn classes_of_pixels_stream_too() {
    let folder = Folder::new();
    let model = folder.path("unet.onnx");
    folder.succeeds(&["model", "export", "zoo:unet@256x320", "-o", text(&model)]);
    let photo = folder.picture("p.ppm", 320, 256);
    let (whole, streamed) = (folder.path("whole.png"), folder.path("streamed.png"));
    let run = ["run", text(&model), text(&photo), "-o"];
    let exact = [text(&whole), "--numerics", "exact"];
    folder.succeeds(&[run.as_slice(), &exact].concat());
    let limit = [text(&streamed), "--max-memory", "250M", "--workers", "2"];
    folder.succeeds(&[run.as_slice(), &limit].concat());
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&streamed).unwrap());
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let folder = Folder::new();
    let photo = folder.picture("p.png", 300, 200);
    let out = folder.path("out.png");
    let run = |model: &str, more: &[&str], words: &[&str]| {
        let fixed = ["run", model, text(&photo), "-o", text(&out), "--max-memory"];
        folder.refuses(&[fixed.as_slice(), more].concat(), 2, words);
    };
    run(SUPERRES, &["4M"], &["smallest tiles", "--max-memory"]);
    run(SUPERRES, &["much"], &["256M"]);
    run(SUPERRES, &["256M", "--task", "raw"], &["cannot be streamed"]);
    run(SUPERRES, &["256M", "--check"], &["--check"]);
    run("zoo:squeezenet@64x64", &["256M"], &["300", "not scaled"]);
    let jpeg = folder.picture("p.jpg", 4000, 3000);
    let arguments = ["run", SUPERRES, text(&jpeg), "-o", text(&out), "--max-memory", "60M"];
    folder.refuses(&arguments, 2, &["read at once", "PNG"]);
}
