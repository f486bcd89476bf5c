//! `slice down`.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::{daemon, node};

/// Ends the node and says whether there was one.
///
/// # Errors
/// As [`node::down`] and [`daemon::clear_away`].
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let was_up = node::down()?;
    daemon::clear_away()?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::json!({ "was_up": was_up }))?;
    } else if was_up {
        writeln!(out, "the node is down")?;
    } else {
        writeln!(out, "the node was down already")?;
    }
    Ok(ExitCode::SUCCESS)
}
