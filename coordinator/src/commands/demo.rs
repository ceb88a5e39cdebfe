//! `tilehive demo`: the main job on one machine, with real processes.

use crate::cli::{Context, DemoArguments};
use crate::failure::Failure;

pub(crate) async fn run(_context: &Context, _arguments: DemoArguments) -> Result<(), Failure> {
    Ok(())
}
