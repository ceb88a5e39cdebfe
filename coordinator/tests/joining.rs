//! Joining, staying and being sent away, with the real programs: a coordinator's folder, and a
//! folder for each device.

mod support;

use support::devices::{Coordinator, Device, says};

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
