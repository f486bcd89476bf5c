//! `slice status`: the node, each slice and the unattributed, from the pinned
//! maps; works with the daemon dead.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

use super::exit::{Exit, unknown_slice};
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use super::{StatusArgs, quantity};
use crate::context::running::Life;
use crate::node::Node;
use crate::report::status::{Row, RowState, Transfer, Way};
use crate::report::{self, Status, Used};

pub(super) fn run(args: &StatusArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    let mut status = report::read::status(&node)?;
    if let Some(name) = &args.slice {
        status = status.only(name).ok_or_else(|| unknown_slice(name))?;
    }
    if screen.json() {
        screen.print_json(&status)?;
        return Ok(Exit::Ok.into());
    }
    let mut out = screen.out();
    match (&args.slice, status.rows.as_slice()) {
        (Some(_), [row]) => write_row(&mut out, row)?,
        _ => write_all(&mut out, &status, screen.width(), screen.verbose())?,
    }
    out.flush()?;
    Ok(Exit::Ok.into())
}

/// All owners as a table; with `verbose` each reason that was given.
///
/// # Errors
/// Those of the writer.
pub fn write_all(
    out: &mut impl Write,
    status: &Status,
    width: Option<usize>,
    verbose: bool,
) -> io::Result<()> {
    write_node(out, status)?;
    let mut table = Table::new([
        Column::left("SLICE", 0),
        Column::left("STATE", 6),
        Column::right("SOCKETS", 2),
        Column::right("CLAIMS", 4),
        Column::right("PROCESSES", 5),
        Column::right("MEMORY", 3),
        Column::right("DISK", 6),
        Column::right("SENT", 1),
        Column::right("RECEIVED", 1),
        Column::right("LOOPBACK", 7),
        Column::right("DENIED", 0),
        Column::left("MOST DENIED", 8),
    ]);
    for row in &status.rows {
        let most = row
            .denials
            .reasons()
            .first()
            .map_or("", |(reason, _)| reason.slug());
        table.row([
            Cell::new(row.name.as_str(), Style::new().bold()),
            state(row),
            of_limit(row.sockets, quantity::count),
            of_limit(row.claims, quantity::count),
            row.processes
                .map_or_else(|| "".into(), |used| of_limit(used, quantity::count)),
            row.memory
                .map_or_else(|| "".into(), |used| of_limit(used, quantity::bytes)),
            row.disk
                .map_or_else(|| "".into(), |used| of_limit(used, quantity::bytes)),
            quantity::bytes(row.external.sent.bytes).into(),
            quantity::bytes(row.external.received.bytes).into(),
            quantity::bytes(row.loopback.sent.bytes).into(),
            denied(row.denials.total),
            most.into(),
        ]);
    }
    let total = &status.total;
    let dim = |text: String| Cell::new(text, Style::new().dimmed());
    table.row([
        dim("total".into()),
        "".into(),
        dim(quantity::count(total.sockets)),
        dim(quantity::count(total.claims)),
        "".into(),
        "".into(),
        "".into(),
        dim(quantity::bytes(total.external.sent.bytes)),
        dim(quantity::bytes(total.external.received.bytes)),
        dim(quantity::bytes(total.loopback.sent.bytes)),
        dim(quantity::count(total.denials)),
        "".into(),
    ]);
    table.write(out, width)?;
    if verbose {
        write_reasons(out, status, width)?;
    }
    Ok(())
}

/// One owner at length.
///
/// # Errors
/// Those of the writer.
pub fn write_row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let bold = Style::new().bold();
    let Cell { text: state, style } = state(row);
    writeln!(
        out,
        "{bold}{}{bold:#}  id {}, {style}{state}{style:#}",
        row.name, row.id
    )?;
    let used = |used: Used, show: fn(u64) -> String| match used.limit {
        Some(limit) => format!("{} of {}", show(used.usage), show(limit)),
        None => show(used.usage),
    };
    let mut line = |head: &str, text: String| writeln!(out, "  {head:<13}{text}");
    if !row.addresses.is_empty() {
        line("addresses", row.addresses.join(", "))?;
    }
    let opened = quantity::count(row.sockets_opened);
    line(
        "sockets",
        format!(
            "{} open, {opened} opened so far",
            used(row.sockets, quantity::count)
        ),
    )?;
    if let (Some(open), Some(in_second), Some(started)) = (
        row.connections,
        row.connections_per_second,
        row.connections_started,
    ) {
        line(
            "connections",
            format!(
                "{} open, {} in a second, {} started so far",
                used(open, quantity::count),
                used(in_second, quantity::count),
                quantity::count(started)
            ),
        )?;
    }
    let free = if row.claim {
        ""
    } else {
        " (may bind reserved ports only)"
    };
    line(
        "claims",
        format!("{}{free}", used(row.claims, quantity::count)),
    )?;
    line("flows", quantity::count(row.flows))?;
    if let Some(processes) = row.processes {
        line("processes", used(processes, quantity::count))?;
    }
    if let Some(memory) = row.memory {
        line("memory", used(memory, quantity::bytes))?;
    }
    if let Some(cpu) = row.cpu {
        let cap = cpu
            .cap_millicores
            .map(|cap| format!(", at most {}.{:03} cores", cap / 1000, cap % 1000));
        line(
            "cpu",
            format!(
                "{}{}",
                quantity::cpu_time(cpu.used_us),
                cap.unwrap_or_default()
            ),
        )?;
    }
    if let Some(disk) = row.disk {
        line("disk", used(disk, quantity::bytes))?;
    }
    if let Some(inodes) = row.inodes {
        line("inodes", used(inodes, quantity::count))?;
    }
    if let Some(io) = row.io {
        line("read", transfer(&io.read))?;
        line("written", transfer(&io.write))?;
    }
    for (place, way) in [("", &row.external), (" (lo)", &row.loopback)] {
        let Way { sent, received } = way;
        for (head, volume) in [("sent", sent), ("received", received)] {
            let packets = quantity::count(volume.packets);
            let text = format!(
                "{} in {packets} packets{place}",
                quantity::bytes(volume.bytes)
            );
            line(head, text)?;
        }
    }
    line("denied", quantity::count(row.denials.total))?;
    let reasons = row.denials.reasons();
    let digits = reasons
        .iter()
        .map(|(_, count)| quantity::count(*count).len())
        .max()
        .unwrap_or(0);
    for (reason, count) in reasons {
        let count = quantity::count(count);
        writeln!(
            out,
            "  {:13}{count:>digits$} {}: {}",
            "",
            reason.slug(),
            reason.sentence()
        )?;
    }
    if row.events_suppressed > 0 {
        let count = quantity::count(row.events_suppressed);
        writeln!(
            out,
            "  {:13}{count} events not sent: too many in a second",
            "events"
        )?;
    }
    Ok(())
}

/// `1.50 MiB in 12 operations, at most 1.00 MiB and 20 operations a second`.
fn transfer(transfer: &Transfer) -> String {
    let bytes = transfer.bytes_per_second_limit.map(quantity::bytes);
    let operations = transfer
        .operations_per_second_limit
        .map(|most| format!("{} operations", quantity::count(most)));
    let limits: Vec<String> = bytes.into_iter().chain(operations).collect();
    let at_most = match limits.is_empty() {
        true => String::new(),
        false => format!(", at most {} a second", limits.join(" and ")),
    };
    format!(
        "{} in {} operations{at_most}",
        quantity::bytes(transfer.bytes),
        quantity::count(transfer.operations)
    )
}

fn write_node(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let node = &status.node;
    let daemon = match node.daemon {
        Some(daemon) => format!("daemon running (process {})", daemon.pid),
        None => "daemon not running (the rules hold without it)".to_owned(),
    };
    let slices = quantity::of_limit(node.slices, quantity::count);
    let since = quantity::time(node.since);
    writeln!(
        out,
        "{}: kernel {}, {slices} slices, up since {since}, {daemon}",
        node.name, node.kernel
    )?;
    writeln!(out)
}

fn write_reasons(out: &mut impl Write, status: &Status, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("SLICE", 0),
        Column::right("DENIED", 0),
        Column::left("REASON", 0),
        Column::left("MEANING", 1),
    ]);
    for row in &status.rows {
        for (reason, count) in row.denials.reasons() {
            table.row([
                row.name.as_str().into(),
                quantity::count(count).into(),
                reason.slug().into(),
                reason.sentence().into(),
            ]);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    table.write(out, width)
}

fn state(row: &Row) -> Cell {
    let (word, colour) = match (row.state, row.context) {
        (RowState::Denied, _) => ("denied", AnsiColor::Red),
        (RowState::Live, None) => ("live", AnsiColor::Green),
        (RowState::Live, Some(Life::Running)) => ("running", AnsiColor::Green),
        (RowState::Live, Some(Life::Frozen)) => ("frozen", AnsiColor::Cyan),
        (RowState::Live, Some(Life::Stopped)) => ("stopped", AnsiColor::Yellow),
    };
    Cell::new(word, colour.on_default())
}

fn denied(count: u64) -> Cell {
    let style = if count > 0 {
        AnsiColor::Yellow.on_default()
    } else {
        Style::new()
    };
    Cell::new(quantity::count(count), style)
}

/// Yellow from nine tenths of the limit on.
fn of_limit(used: Used, show: fn(u64) -> String) -> Cell {
    let near = used
        .limit
        .is_some_and(|limit| used.usage >= limit - limit / 10);
    let style = if near {
        AnsiColor::Yellow.on_default()
    } else {
        Style::new()
    };
    Cell::new(quantity::of_limit(used, show), style)
}
