//! Numbers for Prometheus and the forms of the log, of the real programs in a run.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use support::devices::{Coordinator, Device, free_socket, says};
use support::text;

/// The samples of a page, by name and labels; none where nobody serves one.
fn scrape(address: SocketAddr) -> Option<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, page) = answer.split_once("\r\n\r\n")?;
    if head.starts_with("HTTP/1.1 503") {
        return None; // It is stopping.
    }
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    let samples = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    Some(samples.collect())
}

#[test]
fn the_numbers_of_both_programs_move_with_a_run() {
    let (home, device) = (Coordinator::new(), Device::new());
    let token = home.invites(&["token"]);
    let (at_worker, at_home) = (free_socket(), free_socket());
    let worker = device.works_with(&["--join", &token, "--metrics", &at_worker.to_string()]);
    let before = loop {
        if let Some(samples) = scrape(at_worker) {
            break samples;
        }
    };
    let of_worker = |name: &str| format!("tilehive_worker_{name}");
    assert_eq!(before[&of_worker("tasks_total")], 0.0);
    assert_eq!(before[&of_worker("door_breaches_total")], 0.0);
    #[cfg(target_os = "linux")]
    assert!(before[&of_worker("memory_free_bytes")] > 0.0);

    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/superres-x2.onnx");
    let pictures: Vec<_> =
        (0..8).map(|i| home.folder.picture(&format!("{i}.png"), 64, 48)).collect();
    let at = at_home.to_string();
    let mut arguments = vec!["run", model];
    arguments.extend(pictures.iter().map(|path| text(path)));
    arguments.extend(["--join-wait", "60s", "--expect", "1", "--no-mdns", "--json"]);
    arguments.extend(["--listen", &home.address, "--metrics", &at, "--interval", "100ms"]);
    let mut command = home.folder.command(&arguments);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The page lives as long as the command: it is read until the run is over.
    let mut seen = BTreeMap::new();
    while run.try_wait().unwrap().is_none() {
        seen = scrape(at_home).filter(|s| !s.is_empty()).unwrap_or(seen);
    }
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let of_home = |name: &str| seen[&format!("tilehive_coordinator_{name}")];
    assert!((1.0..=8.0).contains(&of_home("frames_total")), "{seen:?}");
    assert!(of_home("frame_seconds_count") == of_home("frames_total"));
    assert!(of_home("sent_bytes_total") > 0.0 && of_home("received_bytes_total") > 0.0);
    assert!(of_home("tasks_total") >= of_home("frames_total"));
    assert_eq!(of_home("door_admitted_total"), 1.0);
    assert!(of_home("worker_tasks_total{worker=\"pi\",id=\"0\"}") > 0.0);

    let after = scrape(at_worker).unwrap();
    assert!(after[&of_worker("tasks_total")] >= 8.0, "{after:?}");
    assert_eq!(after[&of_worker("tasks_total")], after[&of_worker("task_seconds_count")]);
    assert_eq!(after[&of_worker("queue_tasks")], 0.0);
    assert!(after[&of_worker("sent_bytes_total")] > before[&of_worker("sent_bytes_total")]);
    drop(worker);
}

#[test]
fn an_address_that_is_taken_ends_the_worker_with_the_cure() {
    let (home, device) = (Coordinator::new(), Device::new());
    let token = home.invites(&["token"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let ended = device.works_with(&["--join", &token, "--metrics", &at]).ends();
    says(&ended, 1, &["metrics", &at, "give another address with --metrics"]);
}

#[cfg(unix)]
#[test]
fn the_log_can_be_json() {
    let (home, device) = (Coordinator::new(), Device::new());
    let token = home.invites(&["token"]);
    let at = free_socket();
    let arguments = ["--join", &token, "-v", "--log-format", "json", "--metrics", &at.to_string()];
    let worker = device.works_with(&arguments);
    while scrape(at).is_none() {}
    let output = worker.stopped();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let served = format!("metrics at http://{at}/metrics");
    assert!(lines.iter().any(|l| l["message"] == served.as_str()), "{said}");
    assert!(lines.iter().all(|l| l["timestamp"].is_string() && l["level"].is_string()), "{said}");
}
