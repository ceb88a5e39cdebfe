//! Joining, staying and being sent away, with the real programs: a coordinator's folder, and a
//! folder for each device.

mod support;

use std::process::{Child, Command, Output, Stdio};
use support::Folder;

/// A coordinator's folder, and the address that it listens on.
struct Coordinator {
    folder: Folder,
    address: String,
}

impl Coordinator {
    fn new() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", free.local_addr().unwrap().port());
        Self { folder: Folder::new(), address }
    }

    /// The token that a command prints.
    fn invites(&self, command: &[&str]) -> String {
        let place = ["--listen", &self.address, "--json"];
        let report = self.folder.succeeds(&[command, &place].concat());
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            report["command"],
            format!("tilehive-worker join {}", report["token"].as_str().unwrap())
        );
        report["token"].as_str().unwrap().to_owned()
    }

    fn listens(&self) -> Listening {
        let place = ["--no-mdns", "--listen", &self.address, "--json"];
        let wait = ["devices", "--join-wait", "60s", "--expect", "1"];
        let mut command = self.folder.command(&[&wait[..], &place].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A device that asks has patience, but not for ever.
        let socket = self.address.replace("/ip4/", "").replace("/tcp/", ":");
        while std::net::TcpStream::connect(&socket).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Listening(Some(child))
    }

    /// What the file of invitations and members says.
    fn register(&self) -> serde_json::Value {
        let text = std::fs::read(self.folder.path("state/cluster.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// A coordinator that listens until one device is there, or until it is dropped.
struct Listening(Option<Child>);

impl Listening {
    /// The list of devices, once one is there.
    fn finds(mut self) -> serde_json::Value {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A device's folder.
struct Device(Folder);

impl Device {
    fn new() -> Self {
        Self(Folder::new())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(coordinator::worker_binary().unwrap());
        command.args(arguments).arg("--state").arg(self.0.path("state"));
        command.env_remove("TILEHIVE_TOKEN").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    fn joins(&self, token: &str) -> Output {
        self.command(&["join", "--no-mdns", token]).output().unwrap()
    }

    fn keeps_a_token(&self) -> bool {
        self.0.path("state/worker.token").exists()
    }

    fn works(&self) -> Working {
        let quiet =
            ["--no-mdns", "--threads", "1", "--name", "pi", "--listen", "/ip4/127.0.0.1/tcp/0"];
        let mut command = self.command(&quiet);
        Working(Some(command.stderr(Stdio::piped()).spawn().unwrap()))
    }
}

/// A worker that runs until it ends or is dropped.
struct Working(Option<Child>);

impl Working {
    fn ends(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn says(output: &Output, code: i32, words: &[&str]) {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{talk}");
    for word in words {
        assert!(talk.contains(word), "`{word}` is missing from:\n{talk}");
    }
}

fn names(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect()
}

#[test]
fn a_device_joins_once_and_works_until_it_is_removed() {
    let (home, device) = (Coordinator::new(), Device::new());
    says(&device.command(&[]).output().unwrap(), 2, &["no cluster", "hint:", "cluster token"]);
    let token = home.invites(&["cluster", "init", "--label", "kitchen"]);
    home.folder.refuses(&["cluster", "init"], 2, &["already", "cluster token"]);

    let listening = home.listens();
    says(&device.joins(&token), 0, &["member"]);
    assert!(device.keeps_a_token());
    let worker = device.works();
    assert_eq!(names(&listening.finds()["devices"]), ["pi"]);
    drop(worker);

    // The token is over, and the member stays.
    let tokens = home.folder.report(&["cluster", "tokens"]);
    assert_eq!((&tokens[0]["label"], &tokens[0]["used_by"][0]), (&"kitchen".into(), &"pi".into()));
    home.folder.succeeds(&["cluster", "revoke", tokens[0]["invitation"].as_str().unwrap()]);
    let listening = home.listens();
    let worker = device.works();
    let found = listening.finds();
    assert_eq!((names(&found["devices"]), names(&found["away"])), (vec!["pi"], vec![]));
    drop(worker);

    // Away, and then gone.
    let quick = ["devices", "--no-mdns", "--listen", &home.address, "--join-wait", "1ms"];
    let found = home.folder.report(&quick);
    assert_eq!((names(&found["devices"]), names(&found["away"])), (vec![], vec!["pi"]));
    assert!(home.folder.succeeds(&quick).contains("last seen"));
    home.folder.succeeds(&["devices", "remove", "pi"]);
    home.folder.refuses(&["devices", "remove", "pi"], 2, &["`pi`", "tilehive devices"]);
    let listening = home.listens();
    says(&device.works().ends(), 2, &["removed", "cluster token"]);
    says(&device.joins(&token), 2, &["removed"]);
    drop(listening);

    let again = home.invites(&["cluster", "token", "--expires", "never"]);
    let listening = home.listens();
    says(&device.joins(&again), 0, &["member"]);
    let worker = device.works();
    assert_eq!(names(&listening.finds()["devices"]), ["pi"]);
    drop(worker);
    says(&device.command(&["leave"]).output().unwrap(), 0, &["forgotten"]);
    says(&device.works().ends(), 2, &["no cluster"]);
}

#[test]
fn a_token_kept_before_the_coordinator_runs_lets_the_device_in_later() {
    let (home, device) = (Coordinator::new(), Device::new());
    let token = home.invites(&["token"]);
    says(&device.joins(&token), 0, &["kept", "does not answer", "refused"]);
    let worker = device.works();
    assert_eq!(names(&home.listens().finds()["devices"]), ["pi"]);
    drop(worker);
    assert_eq!(names(&home.register()["members"]), ["pi"]);
}

#[test]
fn tokens_that_are_over_say_why() {
    let home = Coordinator::new();
    let (late, ended) = (home.invites(&["token"]), home.invites(&["token"]));
    let tokens = home.folder.report(&["cluster", "tokens"]);
    home.folder.succeeds(&["cluster", "revoke", tokens[1]["invitation"].as_str().unwrap()]);
    home.folder.refuses(&["cluster", "revoke", "00000000"], 2, &["00000000", "cluster tokens"]);
    // A day goes by.
    let mut register = home.register();
    register["invitations"][0]["expires_unix_s"] = 1.into();
    let bytes = serde_json::to_vec(&register).unwrap();
    home.folder.write("state/cluster.json", &bytes);
    let _listening = home.listens();
    for (token, word) in [(late, "expired"), (ended, "revoked")] {
        let device = Device::new();
        says(&device.joins(&token), 2, &[word, "cluster token"]);
        assert!(!device.keeps_a_token());
        let tries = device.command(&["--no-mdns", "--threads", "1", "--join", &token]).output();
        says(&tries.unwrap(), 2, &[word, "hint:"]);
    }
}

#[test]
fn the_token_of_another_coordinator_is_not_kept() {
    let (home, other, device) = (Coordinator::new(), Coordinator::new(), Device::new());
    let address = home.address.clone();
    let theirs = other.folder.succeeds(&["token", "--listen", &address]);
    home.invites(&["token"]);
    let _listening = home.listens();
    says(&device.joins(theirs.trim()), 2, &["answers", &address, "coordinator that you mean"]);
    assert!(!device.keeps_a_token());
}

#[test]
fn two_clusters_know_nothing_of_each_other() {
    let (home, other, device) = (Coordinator::new(), Coordinator::new(), Device::new());
    let (first, second) = (home.invites(&["cluster", "init"]), other.invites(&["cluster", "init"]));
    {
        let _listening = home.listens();
        says(&device.joins(&first), 0, &["member"]);
    }
    {
        let _listening = other.listens();
        says(&device.joins(&second), 0, &["member", "another cluster before"]);
    }
    let members = |of: &Coordinator| of.register()["members"].as_array().unwrap().len();
    assert_eq!((members(&home), members(&other)), (1, 1));
    let id = |of: &Coordinator| of.folder.report(&["cluster", "tokens"])[0]["invitation"].clone();
    other.folder.refuses(
        &["cluster", "revoke", id(&home).as_str().unwrap()],
        2,
        &["no invitation"],
    );
}

#[test]
fn a_damaged_register_is_named_and_left_alone() {
    let home = Coordinator::new();
    home.invites(&["cluster", "init"]);
    let path = home.folder.write("state/cluster.json", b"{\"version\": 1,");
    let commands: [&[&str]; 4] =
        [&["cluster", "tokens"], &["cluster", "token"], &["devices"], &["devices", "remove", "pi"]];
    for command in commands {
        home.folder.refuses(command, 2, &["cluster.json", "put back a copy"]);
    }
    assert_eq!(std::fs::read(path).unwrap(), b"{\"version\": 1,");
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let (home, device) = (Coordinator::new(), Device::new());
    let misplaced = device.command(&["--threads", "2", "leave"]).output().unwrap();
    says(&misplaced, 2, &["--threads", "tilehive-worker run"]);
    says(
        &device.command(&["join", "tilehive1-abc"]).output().unwrap(),
        2,
        &["older release", "hint:"],
    );
    for wrong in [["--expires", "0s"], ["--expires", "soon"]] {
        home.folder.refuses(&[&["cluster", "token"], &wrong[..]].concat(), 2, &["--expires"]);
    }
}
