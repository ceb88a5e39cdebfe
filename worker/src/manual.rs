//! The manual pages and the completions of a program, made from its command line: packages bring them.

use anyhow::{Context, Result};
use clap::Command;
pub use clap_complete::Shell;
use std::io::Write;
use std::path::Path;

/// Writes completions for a shell on stdout.
///
/// *Errors*: nobody reads them.
pub fn completions(mut command: Command, shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    std::io::stdout().write_all(&script).context("cannot print the completions")
}

/// Writes a manual page for a program and for each of its commands into a folder.
///
/// *Errors*: a folder that cannot be written.
pub fn pages(command: Command, folder: &Path) -> Result<()> {
    let failed = || format!("cannot write manual pages in {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    clap_mangen::generate_to(command, folder).with_context(failed)
}
