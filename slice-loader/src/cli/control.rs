//! `slice control`: what slices changed of slices that they made; from the log, with the daemon dead
//! and the node down.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::exit::Exit;
use super::screen::Screen;
use super::table::{Column, Table, printable};
use crate::daemon;
use crate::node::control_log;
use crate::status::control::process;

/// Makes a change for the daemon.
pub(super) fn have_done(screen: &Screen) -> anyhow::Result<ExitCode> {
    daemon::start_log(screen);
    process::run()?;
    Ok(Exit::Ok.into())
}

/// As it stands in the log.
fn word(of: impl Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Writes the last lines of the log.
///
/// # Errors
/// It cannot be read.
pub(super) fn run(limit: usize, screen: &Screen) -> anyhow::Result<ExitCode> {
    let entries = control_log::last(limit)?;
    if screen.json() {
        screen.print_json(&entries)?;
        return Ok(Exit::Ok.into());
    }
    let mut table = Table::new([
        Column::left("TIME", 0),
        Column::left("BY", 0),
        Column::left("ACT", 0),
        Column::left("SLICE", 0),
        Column::left("STAGE", 0),
        Column::left("WHY", 1),
    ]);
    for entry in entries {
        let why = entry.why.unwrap_or_default();
        table.row([
            entry.time.to_string().into(),
            entry.controller.0.into(),
            word(entry.act).into(),
            entry.slice.into(),
            word(entry.stage).into(),
            printable(&why).into(),
        ]);
    }
    let mut out = screen.out();
    table.write(&mut out, screen.width())?;
    out.flush()?;
    Ok(Exit::Ok.into())
}
