//! `tilehive doctor` and `tilehive-worker doctor` name the broken step, with the real programs.

mod support;

use serde_json::Value;
use std::process::Output;
use support::devices::{Coordinator, Device, says};
use support::text;

/// The checks of a report by what they looked at; a name may come more than once.
struct Checks(Value);

impl Checks {
    /// Of a program that ended with an exit code.
    fn of(output: &Output, code: i32) -> Self {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let checks = Self(serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!(checks.0["healthy"], code == 0);
        for check in checks.all() {
            let well = check["verdict"] == "ok";
            assert_eq!(check["cure"].is_null(), well, "each finding has its cure: {check}");
        }
        checks
    }

    fn all(&self) -> &[Value] {
        self.0["checks"].as_array().unwrap()
    }

    /// Whether a check ended so, and its finding and cure have these words.
    fn say(&self, name: &str, verdict: &str, words: &[&str]) {
        let found = self.all().iter().any(|check| {
            let said = format!("{} {}", check["finding"], check["cure"]);
            check["name"] == name
                && check["verdict"] == verdict
                && words.iter().all(|word| said.contains(word))
        });
        assert!(found, "{name} {verdict} {words:?} is missing from {:#}", self.0);
    }
}

fn of_device(device: &Device, more: &[&str], code: i32) -> Checks {
    let arguments = [&["doctor", "--json", "--no-mdns"], more].concat();
    Checks::of(&device.command(&arguments).output().unwrap(), code)
}

fn of_coordinator(home: &Coordinator, code: i32) -> Checks {
    Checks::of(&home.folder.tilehive(&["doctor", "--json", "--listen", &home.address]), code)
}

#[test]
fn where_all_is_well_nothing_fails() {
    let (home, device) = (Coordinator::new(), Device::new());
    of_coordinator(&home, 0).say("members", "warning", &["cluster token"]);
    let token = home.invites(&["cluster", "init"]);
    of_coordinator(&home, 0).say("port", "ok", &["free"]);
    let _listening = home.listens();
    says(&device.joins(&token), 0, &["member"]);
    let checks = of_device(&device, &[], 0);
    for (name, words) in [
        ("version", &["protocol"][..]),
        ("state folder", &["can be written"]),
        ("key", &["12D3Koo"]),
        ("clock", &["20"]),
        ("token", &["open for 23h"]),
        ("address", &[&home.address, "answers"]),
        ("coordinator", &["lets this device in"]),
    ] {
        checks.say(name, "ok", words);
    }
    assert!(checks.all().iter().any(|c| c["name"] == "network" || c["name"] == "multicast"));
    let checks = of_coordinator(&home, 0);
    checks.say("port", "ok", &["a run of this cluster"]);
    checks.say("members", "ok", &["1 members, 1 open"]);
}

#[test]
fn without_a_token_or_a_coordinator() {
    let (home, device) = (Coordinator::new(), Device::new());
    of_device(&device, &[], 1).say("token", "failed", &["none", "tilehive-worker join"]);
    let token = home.invites(&["token"]);
    says(&device.joins(&token), 0, &["kept"]);
    let checks = of_device(&device, &[], 1);
    checks.say("address", "failed", &[&home.address, "refused", "tilehive devices"]);
    checks.say("coordinator", "failed", &["does not answer"]);
}

#[test]
fn a_token_that_is_wrong_or_over() {
    let (home, other, device) = (Coordinator::new(), Coordinator::new(), Device::new());
    let token = home.invites(&["token"]);
    let address = home.address.clone();
    let foreign = other.folder.succeeds(&["token", "--listen", &address]);
    let mut register = home.register();
    register["invitations"][0]["expires_unix_s"] = 1.into();
    home.folder.write("state/cluster.json", &serde_json::to_vec(&register).unwrap());
    let _listening = home.listens();
    let checks = of_device(&device, &["--join", &token], 1);
    checks.say("coordinator", "failed", &["expired", "cluster token"]);
    let checks = of_device(&device, &["--join", foreign.trim()], 1);
    checks.say("coordinator", "failed", &["answers"]);
    // Another state folder, the same key: an invitation that nobody knows.
    home.folder.write(
        "state/cluster.json",
        b"{\"version\":1,\"next_number\":0,\"invitations\":[],\"members\":[]}",
    );
    let checks = of_device(&device, &["--join", &token], 1);
    checks.say("coordinator", "failed", &["no invitation"]);
}

#[test]
fn a_port_that_another_program_has() {
    let home = Coordinator::new();
    home.invites(&["token"]);
    let socket = home.address.replace("/ip4/", "").replace("/tcp/", ":");
    let _taken = std::net::TcpListener::bind(socket).unwrap();
    of_coordinator(&home, 1).say("port", "failed", &[&home.address, "--listen"]);
}

#[test]
fn a_folder_and_files_that_are_not_as_they_should_be() {
    let (home, device) = (Coordinator::new(), Device::new());
    home.invites(&["token"]);
    let file = home.folder.write("file", b"");
    let below = file.join("state");
    let arguments = ["doctor", "--json", "--listen", &home.address, "--state", text(&below)];
    let checks = Checks::of(&home.folder.tilehive(&arguments), 1);
    checks.say("state folder", "failed", &["file/state", "--state"]);
    let register = home.folder.write("state/cluster.json", b"{");
    of_coordinator(&home, 1).say("members", "failed", &["cluster.json", "put back a copy"]);
    #[cfg(unix)]
    {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&register, open).unwrap();
        of_coordinator(&home, 1).say("file modes", "warning", &["644", "chmod 600"]);
    }
    let as_text = device.command(&["doctor", "--no-mdns"]).output().unwrap();
    let said = String::from_utf8_lossy(&as_text.stdout);
    assert!(said.contains("FAILED   token") && said.contains("hint: print a token"), "{said}");
}
