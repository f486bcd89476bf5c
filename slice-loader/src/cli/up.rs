//! `slice up`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::node::{self, Up};

/// Brings the node up and says what was done.
///
/// # Errors
/// As [`node::up`].
pub fn run(policy: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let did = node::up(policy)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &did)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    match did {
        Up::Started { slices, warnings } => {
            for warning in warnings {
                writeln!(io::stderr().lock(), "warning: {warning}")?;
            }
            writeln!(out, "the node is up with {}", count(slices))?;
        }
        Up::Already { slices } => {
            writeln!(
                out,
                "the node was up already with {}; `slice reload` applies changes of the policy",
                count(slices)
            )?;
        }
        Up::Upgraded { from } => {
            writeln!(
                out,
                "the programs of the running node ({from}) were replaced by those of {}",
                env!("CARGO_PKG_VERSION")
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn count(slices: usize) -> String {
    match slices {
        1 => String::from("1 slice"),
        _ => format!("{slices} slices"),
    }
}
