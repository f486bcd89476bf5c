//! `slice ports`: whose each port is, from the pinned maps; works with the
//! daemon dead.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

use super::exit::{Exit, unknown_slice};
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use super::{PortsArgs, quantity};
use crate::node::Node;
use crate::report::{self, Port, PortKind, Ports};

pub(super) fn run(args: &PortsArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let node = Node::open()?;
    if let Some(name) = &args.slice
        && node.id(name).is_none()
    {
        return Err(unknown_slice(name).into());
    }
    let ports = report::read::ports(&node)?.only(args.slice.as_deref(), args.protocol);
    if screen.json() {
        screen.print_json(&ports)?;
        return Ok(Exit::Ok.into());
    }
    if ports.ports.is_empty() && !screen.quiet() {
        writeln!(screen.err(), "no port has an owner")?;
    }
    let mut out = screen.out();
    write_all(&mut out, &ports, screen.width())?;
    out.flush()?;
    Ok(Exit::Ok.into())
}

/// The ports as a table; nothing where there are none.
///
/// # Errors
/// Those of the writer.
pub fn write_all(out: &mut impl Write, ports: &Ports, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("PROTOCOL", 0),
        Column::left("PORT", 0),
        Column::left("OWNER", 0),
        Column::left("KIND", 1),
        Column::right("SOCKETS", 2),
        Column::left("SINCE", 3),
    ]);
    for port in &ports.ports {
        table.row([
            port.protocol.slug().into(),
            numbers(port).into(),
            Cell::new(port.owner.label(), Style::new().bold()),
            Cell::new(kind(port), kind_style(port.kind)),
            port.sockets.to_string().into(),
            since(port).into(),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    table.write(out, width)
}

fn numbers(port: &Port) -> String {
    if port.low == port.high {
        port.low.to_string()
    } else {
        format!("{}-{}", port.low, port.high)
    }
}

fn kind(port: &Port) -> String {
    let raw = if port.raw { ", raw" } else { "" };
    format!("{}{raw}", port.kind.slug())
}

fn since(port: &Port) -> String {
    match (port.since, port.lingers_until) {
        (Some(since), None) => quantity::time(since),
        (Some(since), Some(until)) => {
            format!(
                "{} (closed, kept until {})",
                quantity::time(since),
                quantity::time(until)
            )
        }
        (None, _) => String::new(),
    }
}

fn kind_style(kind: PortKind) -> Style {
    match kind {
        PortKind::Reserved => AnsiColor::Cyan.on_default(),
        PortKind::Claimed => AnsiColor::Green.on_default(),
        PortKind::Found => AnsiColor::Yellow.on_default(),
    }
}
