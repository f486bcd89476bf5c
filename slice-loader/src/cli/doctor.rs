//! `slice doctor`: what the kernel and the system have of what the node needs.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::exit::Exit;
use crate::kernel::probe::{FEATURES, Found};

#[derive(Serialize)]
struct Line {
    feature: &'static str,
    what: &'static str,
    needed_by: &'static str,
    remedy: &'static str,
    #[serde(flatten)]
    found: Found,
}

/// Probes and lists everything. The exit code tells whether anything is
/// missing.
///
/// # Errors
/// The output cannot be written.
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    crate::kernel::probe::quiet();
    let lines: Vec<Line> = FEATURES
        .iter()
        .map(|feature| Line {
            feature: feature.slug,
            what: feature.what,
            needed_by: feature.needed_by,
            remedy: feature.remedy,
            found: feature.probe(),
        })
        .collect();
    let missing = lines
        .iter()
        .filter(|line| line.found != Found::Present)
        .count();
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &lines)?;
        writeln!(out)?;
    } else {
        for line in &lines {
            match &line.found {
                Found::Present => writeln!(out, "ok       {}", line.what)?,
                Found::Missing(detail) => {
                    writeln!(out, "MISSING  {}: {detail}", line.what)?;
                    writeln!(out, "         needed by: {}", line.needed_by)?;
                    writeln!(out, "         remedy:    {}", line.remedy)?;
                }
            }
        }
        match missing {
            0 => writeln!(out, "everything that `slice up` needs is there")?,
            _ => writeln!(
                out,
                "{missing} of {} missing: `slice up` will refuse",
                lines.len()
            )?,
        }
    }
    Ok(if missing == 0 { Exit::Ok } else { Exit::Kernel }.into())
}
