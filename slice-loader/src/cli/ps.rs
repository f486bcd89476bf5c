//! `slice ps`: the processes of slices, as the node sees them.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anstyle::Style;
use anyhow::Context;
use procfs::process::Process;
use serde::Serialize;

use super::exit::{Exit, unknown_slice};
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use crate::node::Node;

/// One process.
#[derive(Serialize)]
struct Row {
    slice: String,
    pid: i32,
    /// The user id inside the slice; absent where it is none of the slice's.
    uid: Option<u32>,
    state: char,
    memory_bytes: u64,
    cpu_ms: u64,
    command: String,
}

pub(super) fn run(slice: Option<&str>, screen: &Screen) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    if let Some(name) = slice
        && !node.record().slices.contains_key(name)
    {
        return Err(unknown_slice(name).into());
    }
    let mut rows = Vec::new();
    for (name, record) in &node.record().slices {
        if slice.is_some_and(|slice| slice != name) {
            continue;
        }
        let mut pids = Vec::new();
        collect(&node.cgroup(name), &mut pids)?;
        pids.sort_unstable();
        let range = record.uid..record.uid.saturating_add(node.record().uids_per_slice);
        rows.extend(pids.into_iter().filter_map(|pid| row(name, pid, &range)));
    }
    if screen.json() {
        screen.print_json(&serde_json::json!({ "processes": rows }))?;
        return Ok(Exit::Ok.into());
    }
    let mut table = Table::new([
        Column::left("SLICE", 0),
        Column::right("PID", 1),
        Column::right("USER", 4),
        Column::left("STATE", 5),
        Column::right("MEMORY", 3),
        Column::right("CPU", 2),
        Column::left("COMMAND", 0),
    ]);
    for row in &rows {
        table.row([
            Cell::new(row.slice.as_str(), Style::new().bold()),
            row.pid.to_string().into(),
            row.uid
                .map_or_else(|| "-".to_owned(), |uid| uid.to_string())
                .into(),
            row.state.to_string().into(),
            quantity::bytes(row.memory_bytes).into(),
            format!("{}.{:02} s", row.cpu_ms / 1000, row.cpu_ms % 1000 / 10).into(),
            row.command.as_str().into(),
        ]);
    }
    let mut out = screen.out();
    table.write(&mut out, screen.width())?;
    out.flush()?;
    Ok(Exit::Ok.into())
}

/// The processes of a cgroup and of all below it.
fn collect(cgroup: &Path, pids: &mut Vec<i32>) -> anyhow::Result<()> {
    let procs = cgroup.join("cgroup.procs");
    let Ok(text) = std::fs::read_to_string(&procs) else {
        // It went while we looked, or its processes are another namespace's.
        return Ok(());
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    let entries =
        std::fs::read_dir(cgroup).with_context(|| format!("read cgroup {}", cgroup.display()))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// None for a process that ended meanwhile.
fn row(slice: &str, pid: i32, range: &std::ops::Range<u32>) -> Option<Row> {
    let process = Process::new(pid).ok()?;
    let (stat, uid) = (process.stat().ok()?, process.uid().ok()?);
    let ticks = procfs::ticks_per_second().max(1);
    let words = process.cmdline().unwrap_or_default();
    // A tenant chose these bytes: nothing in them moves a cursor.
    let shown = |text: &str| -> String {
        text.chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect()
    };
    Some(Row {
        slice: slice.to_owned(),
        pid,
        uid: range.contains(&uid).then(|| uid - range.start),
        state: stat.state,
        memory_bytes: stat.rss.saturating_mul(procfs::page_size()),
        cpu_ms: stat.utime.saturating_add(stat.stime).saturating_mul(1000) / ticks,
        command: if words.is_empty() {
            format!("[{}]", shown(&stat.comm))
        } else {
            shown(&words.join(" "))
        },
    })
}
