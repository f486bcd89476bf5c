//! `slice run`, and the placeholder of the slices' cgroups.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::exit::{Exit, Failure, unknown_slice};
use crate::context::enter::{self, Ended};
use crate::context::holder;
use crate::node::Node;

/// What our own failure gives, as env(1) does: no program's status is it
/// often.
pub const OWN_FAILURE: u8 = 125;

/// Runs a command as a slice; its status becomes ours.
///
/// # Errors
/// The node is not up, or there is no such slice.
pub fn run(slice: &str, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let record = node
        .record()
        .slices
        .get(slice)
        .ok_or_else(|| unknown_slice(slice))?;
    if node.record().contexts.contains_key(slice) {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "run a command with the node's files in slice {slice}: it has files of its own"
            ),
        )
        .remedy(format!("slice exec {slice} -- COMMAND"))
        .into());
    }
    let (program, arguments) = command
        .split_first()
        .context("run a command: none is given")?;
    let ended = enter::run(slice, &node.cgroup(slice), record.uid, program, arguments)?;
    if let Ended::NotStarted(error) = &ended {
        let name = program.to_string_lossy();
        use std::io::Write;
        writeln!(std::io::stderr().lock(), "slice run: {name}: {error}")?;
    }
    Ok(ExitCode::from(ended.code()))
}

/// Holds the slices' cgroups under systemd: started by `slice up`.
///
/// # Errors
/// This is not that unit's process.
pub fn hold(leaf: &Path) -> anyhow::Result<ExitCode> {
    holder::hold(leaf)?;
    Ok(ExitCode::from(OWN_FAILURE))
}
