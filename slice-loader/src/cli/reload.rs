//! `slice reload`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::node;

/// Applies the policy as it is written now and says what changed.
///
/// # Errors
/// As [`node::reload`].
pub fn run(policy: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let reloaded = node::reload(policy)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &reloaded)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    for warning in &reloaded.warnings {
        writeln!(io::stderr().lock(), "warning: {warning}")?;
    }
    let mut silent = true;
    for (word, names) in [
        ("added", &reloaded.added),
        ("removed", &reloaded.removed),
        ("changed", &reloaded.changed),
    ] {
        if !names.is_empty() {
            writeln!(out, "{word}: {}", names.join(" "))?;
            silent = false;
        }
    }
    if reloaded.node {
        writeln!(out, "changed: what holds for the whole node")?;
        silent = false;
    }
    if silent {
        writeln!(out, "nothing changed")?;
    }
    Ok(ExitCode::SUCCESS)
}
