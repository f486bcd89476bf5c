//! `slice flows`: who sent what to whom; works with the daemon dead.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::Style;
use jiff::Timestamp;
use policy::config::Prefix;

use super::FlowsArgs;
use super::exit::{Exit, Failure};
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use crate::node::{Node, NotUp};
use crate::report::flows::{self, Flow, Flows, Wanted};
use crate::report::read;
use crate::report::status::Volume;

pub(super) fn run(args: &FlowsArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let wanted = wanted(args)?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    // What is kept can be asked with the node down.
    let node = match Node::open() {
        Ok(node) => Some(node),
        Err(error) if error.is::<NotUp>() => None,
        Err(error) => return Err(error),
    };
    let flows = read::flows(node.as_ref(), &wanted, most)?;
    if screen.json() {
        screen.print_json(&flows)?;
        return Ok(Exit::Ok.into());
    }
    if flows.flows.is_empty() && !screen.quiet() {
        writeln!(screen.err(), "no flow is known that is so")?;
    }
    let mut out = screen.out();
    write_all(&mut out, &flows, screen.width())?;
    out.flush()?;
    if flows.more > 0 && !screen.quiet() {
        writeln!(
            screen.err(),
            "{} older flows are not shown: see --limit",
            flows.more
        )?;
    }
    Ok(Exit::Ok.into())
}

fn wanted(args: &FlowsArgs) -> anyhow::Result<Wanted> {
    let now = Timestamp::now();
    let time = |text: &Option<String>| {
        let read = |text: &String| {
            flows::point_in_time(text, now).ok_or_else(|| {
                Failure::new(Exit::Usage, format!("understand the time {text}"))
                    .remedy("write 2026-01-31T12:00:00Z, @1769860800, or how long ago: 2h")
            })
        };
        text.as_ref().map(read).transpose()
    };
    Ok(Wanted {
        peer: args.peer.as_deref().map(prefix).transpose()?,
        port: args.port,
        local_port: args.local_port,
        protocol: args.protocol,
        slice: args.slice.clone(),
        since: time(&args.since)?,
        until: time(&args.until)?,
    })
}

fn prefix(text: &str) -> Result<Prefix, Failure> {
    Prefix::parse(text).map_err(|why| {
        Failure::new(Exit::Usage, format!("understand the address {text}: {why}"))
            .remedy("write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")
    })
}

/// The flows as a table, and what is in none of them.
///
/// # Errors
/// Those of the writer.
pub fn write_all(out: &mut impl Write, flows: &Flows, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::left("PROTOCOL", 1),
        Column::left("LOCAL", 0),
        Column::left("PEER", 0),
        Column::right("SENT", 2),
        Column::right("RECEIVED", 2),
        Column::left("FIRST", 3),
        Column::left("LAST", 0),
    ]);
    for flow in &flows.flows {
        table.row([
            Cell::new(flow.slice.label(), Style::new().bold()),
            protocol(flow).into(),
            flow.local.to_string().into(),
            flow.peer.to_string().into(),
            volume(flow.sent).into(),
            volume(flow.received).into(),
            quantity::time(flow.first).into(),
            quantity::time(flow.last).into(),
        ]);
    }
    if !table.is_empty() {
        table.write(out, width)?;
    }
    for other in &flows.others {
        writeln!(
            out,
            "{}: beside these rows sent {} and received {}, inside the node {} and {}",
            other.slice.label(),
            volume(other.external.sent),
            volume(other.external.received),
            volume(other.loopback.sent),
            volume(other.loopback.received),
        )?;
    }
    Ok(())
}

fn protocol(flow: &Flow) -> String {
    match flow.icmp_type {
        Some(kind) => format!("{} type {kind}", flow.protocol),
        None => flow.protocol.clone(),
    }
}

fn volume(volume: Volume) -> String {
    format!(
        "{} ({})",
        quantity::bytes(volume.bytes),
        quantity::count(volume.packets)
    )
}
