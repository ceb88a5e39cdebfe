//! A coordinator and devices as their owners have them: the real programs, and a folder for each.

use super::Folder;
use std::process::{Child, Command, Output, Stdio};

/// A coordinator's folder, and the address that it listens on.
pub(crate) struct Coordinator {
    pub(crate) folder: Folder,
    pub(crate) address: String,
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        let address = format!("/ip4/127.0.0.1/tcp/{}", free_socket().port());
        Self { folder: Folder::new(), address }
    }

    /// The token that a command prints.
    pub(crate) fn invites(&self, command: &[&str]) -> String {
        let place = ["--listen", &self.address, "--json"];
        let report = self.folder.succeeds(&[command, &place].concat());
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            report["command"],
            format!("tilehive-worker join {}", report["token"].as_str().unwrap())
        );
        report["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn listens(&self) -> Listening {
        let place = ["--no-mdns", "--listen", &self.address, "--json"];
        let wait = ["devices", "--join-wait", "60s", "--expect", "1"];
        let mut command = self.folder.command(&[&wait[..], &place].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A device that asks has patience, but not for ever. Nothing but the port itself tells that it
        // is open, so it is tried until then, or until the program has ended.
        let socket = self.address.replace("/ip4/", "").replace("/tcp/", ":");
        while std::net::TcpStream::connect(&socket).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "it listens");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Listening(Some(child))
    }

    /// What the file of invitations and members says.
    pub(crate) fn register(&self) -> serde_json::Value {
        let text = std::fs::read(self.folder.path("state/cluster.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// A socket of this machine that nobody has.
pub(crate) fn free_socket() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A coordinator that listens until one device is there, or until it is dropped.
pub(crate) struct Listening(Option<Child>);

impl Listening {
    /// The list of devices, once one is there.
    pub(crate) fn finds(mut self) -> serde_json::Value {
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
pub(crate) struct Device(Folder);

impl Device {
    pub(crate) fn new() -> Self {
        Self(Folder::new())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(coordinator::worker_binary().unwrap());
        command.args(arguments).arg("--state").arg(self.0.path("state"));
        command.env_remove("TILEHIVE_TOKEN").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    pub(crate) fn joins(&self, token: &str) -> Output {
        self.command(&["join", "--no-mdns", token]).output().unwrap()
    }

    pub(crate) fn keeps_a_token(&self) -> bool {
        self.0.path("state/worker.token").exists()
    }

    pub(crate) fn works(&self) -> Working {
        self.works_with(&[])
    }

    pub(crate) fn works_with(&self, more: &[&str]) -> Working {
        let quiet =
            ["--no-mdns", "--threads", "1", "--name", "pi", "--listen", "/ip4/127.0.0.1/tcp/0"];
        let mut command = self.command(&[&quiet, more].concat());
        Working(Some(command.stderr(Stdio::piped()).spawn().unwrap()))
    }
}

/// A worker that runs until it ends or is dropped.
pub(crate) struct Working(Option<Child>);

impl Working {
    /// Ends it in order, and tells what it said.
    #[cfg(unix)]
    pub(crate) fn stopped(self) -> Output {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.ends()
    }

    pub(crate) fn ends(mut self) -> Output {
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

pub(crate) fn says(output: &Output, code: i32, words: &[&str]) {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{talk}");
    for word in words {
        assert!(talk.contains(word), "`{word}` is missing from:\n{talk}");
    }
}
