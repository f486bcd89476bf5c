//! `slice link`: the links, and who may send and does send how much on each; from
//! the pinned maps, so that it works with the daemon dead; only the last hour is the
//! daemon's to tell.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;

use super::LinkArgs;
use super::exit::Exit;
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use crate::node::Node;
use crate::report::{self, Link};

mod live; // again and again
pub mod past; // the last hour

/// How long is looked at what goes out.
const DURING: Duration = Duration::from_millis(500);

pub(super) fn run(args: &LinkArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    if args.live {
        return live::run(args, screen);
    }
    if args.history {
        return past::run(args, screen);
    }
    let node = Node::open()?;
    let links = report::read::links(&node, DURING)?;
    if screen.json() {
        screen.print_json(&links)?;
        return Ok(Exit::Ok.into());
    }
    if links.is_empty() && !screen.quiet() {
        writeln!(
            screen.err(),
            "the node has no links: see [links] in node.toml"
        )?;
    }
    let mut out = screen.out();
    for link in &links {
        write_one(&mut out, link, screen.width())?;
    }
    out.flush()?;
    Ok(Exit::Ok.into())
}

fn write_one(out: &mut impl Write, link: &Link, width: Option<usize>) -> io::Result<()> {
    let gone = if link.there { "" } else { ", not there" };
    writeln!(
        out,
        "{}: {}{gone}",
        link.name,
        quantity::bit_rate(link.rate)
    )?;
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::right("SENDS", 0),
        Column::right("MAY SEND", 0),
        Column::right("FLOOR", 2),
        Column::right("SHARE", 1),
        Column::right("CAP", 2),
        Column::right("PACKETS/S", 3),
        Column::right("WAITS", 3),
        Column::right("SENT", 3),
        Column::right("DROPPED", 4),
        Column::right("DROPS/S", 4),
        Column::right("MARKS", 4),
    ]);
    for row in &link.rows {
        let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), quantity::bit_rate);
        table.row([
            Cell::new(row.owner.label(), Style::new().bold()),
            quantity::bit_rate(row.sends).into(),
            rate(row.may_send).into(),
            quantity::bit_rate(row.floor).into(),
            row.share.to_string().into(),
            rate(row.cap).into(),
            row.packets_cap
                .map_or_else(|| "-".to_owned(), quantity::count)
                .into(),
            quantity::cpu_time(row.waits_us).into(),
            quantity::bytes(row.sent_bytes).into(),
            quantity::count(row.dropped_packets).into(),
            quantity::count(row.drops).into(),
            quantity::count(row.marks).into(),
        ]);
    }
    table.write(out, width)?;
    write_quotas(out, link, width)?;
    write_exempt(out, link, width)?;
    write_receive(out, link, width)
}

fn write_receive(out: &mut impl Write, link: &Link, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::right("RECEIVES", 0),
        Column::right("CAP", 1),
        Column::right("RECEIVED", 2),
        Column::right("DROPPED", 1),
        Column::right("DROPS/S", 3),
    ]);
    let rows = link
        .rows
        .iter()
        .filter_map(|row| Some((row, row.receive.as_ref()?)));
    for (row, receive) in rows.clone() {
        table.row([
            Cell::new(row.owner.label(), Style::new().bold()),
            quantity::bit_rate(receive.receives).into(),
            quantity::bit_rate(receive.cap).into(),
            quantity::bytes(receive.received_bytes).into(),
            quantity::count(receive.policed_packets).into(),
            quantity::count(receive.drops).into(),
        ]);
    }
    if rows.count() == 0 {
        return Ok(());
    }
    table.write(out, width)
}

fn write_exempt(out: &mut impl Write, link: &Link, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::right("EXEMPT SENDS", 0),
        Column::right("MAY SEND", 0),
        Column::right("CAP", 2),
        Column::right("WAITS", 3),
        Column::right("SENT", 1),
        Column::right("DROPPED", 4),
    ]);
    let rows = link
        .rows
        .iter()
        .filter_map(|row| Some((row, row.exempt.as_ref()?)));
    for (row, exempt) in rows.clone() {
        let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), quantity::bit_rate);
        table.row([
            Cell::new(row.owner.label(), Style::new().bold()),
            quantity::bit_rate(exempt.sends).into(),
            rate(exempt.may_send).into(),
            rate(exempt.cap).into(),
            quantity::cpu_time(exempt.waits_us).into(),
            quantity::bytes(exempt.sent_bytes).into(),
            quantity::count(exempt.dropped_packets).into(),
        ]);
    }
    if rows.count() == 0 {
        return Ok(());
    }
    table.write(out, width)
}

fn write_quotas(out: &mut impl Write, link: &Link, width: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::right("QUOTA", 0),
        Column::right("USED", 1),
        Column::right("LEFT", 0),
        Column::right("LEAVES", 2),
        Column::right("UNTIL", 1),
    ]);
    let quotas = link
        .rows
        .iter()
        .filter_map(|row| Some((row, row.quota.as_ref()?)));
    for (row, quota) in quotas.clone() {
        let cap = quota.cap.map_or_else(|| "-".to_owned(), quantity::bit_rate);
        table.row([
            Cell::new(row.owner.label(), Style::new().bold()),
            quantity::bytes(quota.limit).into(),
            quantity::bytes(quota.used).into(),
            quantity::bytes(quota.left).into(),
            cap.into(),
            quantity::time(quota.ends).into(),
        ]);
    }
    if quotas.count() == 0 {
        return Ok(());
    }
    table.write(out, width)
}
