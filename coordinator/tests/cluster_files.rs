//! Cluster files as people write them, with their mistakes, and what `plan` makes of them.

mod support;

use support::{Folder, text};

const HEAD: &str = "name = \"mine\"\n\n[coordinator]\nlink = \"ethernet-1g\"\n\n";

fn worker(name: &str, device: &str, link: &str) -> String {
    format!("[[worker]]\nname = \"{name}\"\ndevice = \"{device}\"\nlink = \"{link}\"\n\n")
}

fn pair(a: &str, b: &str, rest: &str) -> String {
    format!("[[pair]]\nworkers = [\"{a}\", \"{b}\"]\n{rest}\n")
}

fn link(rates: &str) -> String {
    format!(
        "name = \"l\"\nsource = \"none\"\nmedium = \"wire\"\nmessage_us = 10\n{rates}\n\n[round_trip]\n\
         min_ms = 0.1\np50_ms = 0.2\np90_ms = 0.3\np99_ms = 0.4\nmax_ms = 0.5\n"
    )
}

#[test]
fn mistakes_are_named_with_what_would_be_right() {
    let folder = Folder::new();
    let refuses = |file: &str, words: &[&str]| {
        let path = folder.write("c.toml", file.as_bytes());
        folder.refuses(&["plan", "zoo:tiny-yolov2@224x224", "--on", text(&path)], 2, words);
    };
    let two =
        HEAD.to_owned() + &worker("a", "pi-4b", "ethernet-1g") + &worker("b", "pi-5", "wifi-6");
    refuses(&(HEAD.to_owned() + &worker("a", "pi-99", "ethernet-1g")), &["pi-99", "pi-4b"]);
    refuses(&(HEAD.to_owned() + &worker("a", "pi-4b", "string")), &["string", "ethernet-1g"]);
    refuses(
        &two.replace("[coordinator]\nlink = \"ethernet-1g\"", "[coordinator]\nlink = \"x\""),
        &["`x`"],
    );
    refuses(&two.replace("name = \"a\"", "nam = \"a\""), &["nam", "sound"]);
    refuses(HEAD, &["no [[worker]]"]);
    let sound = "mbit_per_s = 20\nround_trip_ms = 3\n";
    refuses(&(two.clone() + &pair("a", "c", sound)), &["no worker is called c", "a, b"]);
    refuses(&(two.clone() + &pair("a", "a", sound)), &["two different workers"]);
    for wrong in ["mbit_per_s = 0\nround_trip_ms = 3", "mbit_per_s = nan\nround_trip_ms = 3"] {
        refuses(&(two.clone() + &pair("a", "b", wrong)), &["mbit_per_s must be positive"]);
    }
    refuses(
        &(two.clone() + &pair("a", "b", "mbit_per_s = 20\nround_trip_ms = -1")),
        &["not negative"],
    );
    // Links that carry nothing.
    for rates in [
        "send_mbit_per_s = 0\nreceive_mbit_per_s = 9",
        "send_mbit_per_s = 9\nreceive_mbit_per_s = -1",
        "send_mbit_per_s = nan\nreceive_mbit_per_s = 9",
        "send_mbit_per_s = inf\nreceive_mbit_per_s = 9",
    ] {
        folder.write("l.toml", link(rates).as_bytes());
        refuses(
            &(HEAD.to_owned() + &worker("a", "pi-4b", "./l.toml")),
            &["rates must be positive"],
        );
    }
    let plan = ["plan", "zoo:tiny-yolov2@224x224", "--speeds", "6G,6G", "--link"];
    folder.refuses(&[&plan[..], &["0"]].concat(), 2, &["--link"]);
    folder.refuses(&[&plan[..], &["fast"]].concat(), 2, &["--link"]);
}

#[test]
fn a_slow_pair_changes_the_plan_and_a_slow_coordinator_does_too() {
    let folder = Folder::new();
    let three: String = ["a", "b", "c"].map(|name| worker(name, "pi-4b", "ethernet-1g")).concat();
    let plan = |file: &str| {
        let path = folder.write("c.toml", file.as_bytes());
        folder.report(&["plan", "zoo:unet@256x256", "--on", text(&path)])
    };
    let usual = plan(&(HEAD.to_owned() + &three));
    let slow = pair("a", "b", "mbit_per_s = 8\nround_trip_ms = 0.4\n");
    let told = plan(&(HEAD.to_owned() + &three + &slow));
    assert_ne!(usual["plan"]["stages"], told["plan"]["stages"]);
    let takes = |report: &serde_json::Value| report["cost"]["makespan_ns"].as_u64().unwrap();
    // The third lies between the two now, which costs next to nothing.
    assert!(takes(&told) < takes(&usual) * 11 / 10);
    let head = HEAD.replace("ethernet-1g", "ethernet-100m");
    let far = plan(&(head + &three));
    assert!(takes(&far) > takes(&usual));
    assert_eq!(far["devices"][0]["link_bytes_per_s"], 11_800_000);
}
