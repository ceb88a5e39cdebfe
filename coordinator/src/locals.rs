//! Worker processes on this machine: real ones, that join over the loopback network.

use crate::failure::Failure;
use anyhow::{Context, anyhow};
use net::Token;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};
use worker::logging::{LogArguments, LogFormat};

/// Running worker processes; they end when this is dropped, and also when this process dies.
pub struct LocalWorkers {
    children: Vec<Child>,
}

impl LocalWorkers {
    /// Starts `count` workers with `threads` compute threads each.
    ///
    /// *Errors*: the worker program cannot be found, built or started.
    pub fn start(
        count: usize,
        threads: usize,
        token: &Token,
        state: &Path,
        log: LogArguments,
    ) -> Result<Self, Failure> {
        let binary = worker_binary()?;
        let start = |index: usize| {
            let mut command = Command::new(&binary);
            command
                .args(["--child", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"])
                .args(["--name", &format!("local-{index}"), "--threads", &threads.to_string()])
                .args((0..log.verbose).map(|_| "-v"))
                .args((log.log_format == LogFormat::Json).then_some("--log-format=json"))
                .arg("--state")
                .arg(state)
                // Not on the command line, where every user of the machine could read it.
                .env("TILEHIVE_TOKEN", token.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            // A terminal's Ctrl-C is for the coordinator, which then ends its workers in order.
            #[cfg(unix)]
            command.process_group(0);
            command.spawn().with_context(|| format!("cannot start {}", binary.display()))
        };
        let children = (0..count).map(start).collect::<Result<_, _>>()?;
        Ok(Self { children })
    }

    /// The process ids, in the order started.
    pub fn process_ids(&self) -> Vec<u32> {
        self.children.iter().filter_map(|c| c.id()).collect()
    }

    /// Ends the workers and waits for them.
    pub async fn stop(mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
            let patience = std::time::Duration::from_secs(2);
            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
    }
}

/// The worker program: what `TILEHIVE_WORKER` names, else the one beside this program, else, where
/// that is missing or older, one built from the source tree that this program came from.
///
/// *Errors*: none can be had.
pub fn worker_binary() -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os("TILEHIVE_WORKER") {
        return Ok(named.into());
    }
    let name = format!("tilehive-worker{}", std::env::consts::EXE_SUFFIX);
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = own.parent().context("this program is in no folder")?;
    // A test program is one folder further down, and newer than the programs that it tests.
    let tests = folder.ends_with("deps");
    let folder = if tests { folder.parent().unwrap_or(folder) } else { folder };
    let binary = folder.join(&name);
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let fresh = || tests || age(&binary) >= age(&own) || source_tree(folder).is_none();
    if binary.is_file() && fresh() {
        return Ok(binary);
    }
    let hint = "build it with `cargo build --release --bins`, or install it beside `tilehive`";
    let missing = || Failure::run(anyhow!("{} is missing", binary.display())).hint(hint);
    let Some((manifest, release)) = source_tree(folder) else { return Err(missing()) };
    match binary.is_file() {
        true => eprintln!("bringing {name} up to date ..."),
        false => eprintln!("building {name} ..."),
    }
    let mut build = std::process::Command::new("cargo");
    // Of the whole workspace, as `cargo run` builds this program: with another choice of packages
    // the dependencies get other features, and all of them are built again.
    build.args(["build", "--quiet", "--bin", "tilehive-worker", "--manifest-path"]).arg(manifest);
    if release {
        build.arg("--release");
    }
    let built = build.stdout(Stdio::null()).status();
    if built.is_ok_and(|status| status.success()) && binary.is_file() {
        // A build that finds nothing to do leaves the old date, and would be asked for every time.
        let now = std::time::SystemTime::now();
        let _ = std::fs::File::open(&binary).and_then(|file| file.set_modified(now));
        return Ok(binary);
    }
    Err(missing())
}

/// The manifest of the source tree whose target folder this is, and whether it is a release build.
fn source_tree(folder: &Path) -> Option<(PathBuf, bool)> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join("Cargo.toml");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| manifest.with_file_name("target"));
    let inside = folder.parent()? == target && manifest.is_file();
    inside.then(|| (manifest, folder.ends_with("release")))
}
