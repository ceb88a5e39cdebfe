//! The program as a person runs it, in a folder of its own.
// Each test program uses a part of this.
#![allow(dead_code)]

pub(crate) mod devices;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for each test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn picture(&self, name: &str, width: u32, height: u32) -> PathBuf {
        let path = self.path(name);
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8])
        });
        picture.save(&path).unwrap();
        path
    }

    pub(crate) fn tilehive(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilehive"));
        // A key would make `run` wait for devices; this folder has none.
        command.args(arguments).env("TILEHIVE_STATE", self.path("state")).env_remove("RUST_LOG");
        command.env("TILEHIVE_WORKER", coordinator::worker_binary().unwrap());
        command
    }

    /// Runs, expects an exit code and words on stderr, and never a panic.
    pub(crate) fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.tilehive(arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{talk}");
        for word in words {
            assert!(talk.contains(word), "`{word}` is missing from:\n{talk}");
        }
        assert!(talk.contains("error:") && !talk.contains("panicked"), "{talk}");
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Folder {
    /// Runs, expects success, and gives back what was said on stdout.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.tilehive(arguments);
        assert!(output.status.success(), "{arguments:?}\n{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Folder::succeeds`] with `--json`, parsed.
    pub(crate) fn report(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.succeeds(&arguments)).unwrap()
    }
}
