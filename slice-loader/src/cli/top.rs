//! `slice top`: what each owner uses now, again and again.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;
use clap::Args;

use super::exit::Exit;
use super::live::{self, View};
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use crate::node::Node;
use crate::report::Status;
use crate::report::rates::{Order, Rates};
use crate::report::read;

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Seconds between two readings.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
    /// End after so many; one where the output is no terminal.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u32>,
    /// What comes first.
    #[arg(short, long, value_enum, value_name = "ORDER", default_value_t)]
    sort: Order,
}

/// The keys of the live view, as its last line tells them.
const KEYS: [(char, Order); 5] = [
    ('c', Order::Cpu),
    ('m', Order::Memory),
    ('t', Order::Traffic),
    ('d', Order::Denials),
    ('n', Order::Name),
];
const HELP: &str = "c cpu  m memory  t traffic  d denials  n name  q quit";

pub(super) fn run(args: &TopArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let interval = Duration::from_secs(u64::from(args.interval));
    let mut top = Top {
        screen,
        order: args.sort,
        before: read()?,
        shown: None,
    };
    live::follow(&mut top, screen.json(), args.count, interval, interval)?;
    Ok(Exit::Ok.into())
}

struct Top<'s> {
    screen: &'s Screen,
    order: Order,
    before: Status,
    /// None before the second reading.
    shown: Option<Rates>,
}

impl View for Top<'_> {
    fn read(&mut self) -> anyhow::Result<()> {
        let after = read()?;
        let mut rates = Rates::between(&self.before, &after);
        rates.order(self.order);
        self.shown = Some(rates);
        self.before = after;
        Ok(())
    }

    fn page(&mut self, key: Option<char>) -> io::Result<String> {
        let pressed = key.and_then(|key| live::by_key(&KEYS, key));
        self.order = pressed.unwrap_or(self.order);
        let Some(rates) = &mut self.shown else {
            return Ok(String::from("reading ..."));
        };
        rates.order(self.order);
        page(rates, self.screen, true)
    }

    fn print(&self) -> anyhow::Result<()> {
        let Some(rates) = &self.shown else {
            return Ok(());
        };
        if self.screen.json() {
            return self.screen.print_json(rates);
        }
        let mut out = self.screen.out();
        out.write_all(page(rates, self.screen, false)?.as_bytes())?;
        Ok(out.flush()?)
    }
}

fn read() -> anyhow::Result<Status> {
    read::status(&Node::open()?)
}

/// A page of text, with styles.
fn page(rates: &Rates, screen: &Screen, live: bool) -> io::Result<String> {
    let mut text = Vec::new();
    let (time, over) = (quantity::time(rates.time), rates.over_ms);
    writeln!(text, "{time}, over {}.{} s", over / 1000, over % 1000 / 100)?;
    if live {
        writeln!(text, "{HELP}")?;
    }
    writeln!(text)?;
    let mut table = Table::new([
        Column::left("SLICE", 0),
        Column::right("CPU", 1),
        Column::right("MEMORY", 2),
        Column::right("PROCESSES", 4),
        Column::right("SOCKETS", 5),
        Column::right("SENT/S", 3),
        Column::right("RECEIVED/S", 3),
        Column::right("LOOPBACK/S", 7),
        Column::right("DENIED/S", 6),
    ]);
    for row in &rates.rows {
        let of_limit = |used: Option<crate::report::Used>, show| {
            used.map_or_else(String::new, |used| quantity::of_limit(used, show))
        };
        table.row([
            Cell::new(row.name.as_str(), Style::new().bold()),
            row.cpu_millicores.map_or_else(String::new, percent).into(),
            of_limit(row.memory, quantity::bytes).into(),
            of_limit(row.processes, quantity::count).into(),
            quantity::of_limit(row.sockets, quantity::count).into(),
            quantity::bytes(row.sent).into(),
            quantity::bytes(row.received).into(),
            quantity::bytes(row.loopback).into(),
            quantity::count(row.denials).into(),
        ]);
    }
    table.write(&mut text, screen.width())?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(screen.as_styled(text))
}

/// Thousandths of a core as hundredths: `12.5 %`.
fn percent(millicores: u64) -> String {
    format!("{}.{} %", millicores / 10, millicores % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_live_view_is_told() {
        for (key, _) in KEYS {
            assert!(HELP.contains(&format!("{key} ")), "{key}");
        }
    }

    #[test]
    fn a_core_and_a_half_is_150_percent() {
        assert_eq!(percent(1500), "150.0 %");
        assert_eq!(percent(4), "0.4 %");
    }
}
