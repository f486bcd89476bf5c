//! `slice doctor`: what the kernel and the system have of what the node needs.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::exit::Exit;
use crate::kernel::probe::{FEATURES, FOR_SOME, Found};

#[derive(Serialize)]
struct Line {
    feature: &'static str,
    what: &'static str,
    needed_by: &'static str,
    remedy: &'static str,
    /// Whether `slice up` refuses every policy without it.
    required: bool,
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
    let features = FEATURES.iter().map(|feature| (feature, true));
    let for_some = FOR_SOME.iter().map(|feature| (feature, false));
    let lines: Vec<Line> = features
        .chain(for_some)
        .map(|(feature, required)| Line {
            feature: feature.slug,
            what: feature.what,
            needed_by: feature.needed_by,
            remedy: feature.remedy,
            required,
            found: feature.probe(),
        })
        .collect();
    let missing = lines
        .iter()
        .filter(|line| line.required && line.found != Found::Present)
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
                    let word = if line.required { "MISSING" } else { "absent " };
                    writeln!(out, "{word}  {}: {detail}", line.what)?;
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
                FEATURES.len()
            )?,
        }
    }
    Ok(if missing == 0 { Exit::Ok } else { Exit::Kernel }.into())
}
