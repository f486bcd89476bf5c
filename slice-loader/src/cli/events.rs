//! `slice events`: denials as the daemon saw them.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context;

use super::exit::{Exit, Failure};
use super::screen::Screen;
use super::table::printable;
use super::{EventsArgs, client, quantity};
use crate::daemon::EventsQuery;
use crate::report::Event;
use crate::report::event::{ALLOWED, Cursor, Item};
use crate::report::happening::Happening;

pub(super) fn run(args: &EventsArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    runtime.block_on(show(args, screen))?;
    Ok(Exit::Ok.into())
}

async fn show(args: &EventsArgs, screen: &Screen) -> anyhow::Result<()> {
    let query = EventsQuery {
        follow: args.follow,
        after: args.after,
        slice: args.slice.clone(),
        reason: args.reason.clone(),
    };
    let mut lines = client::get("/v1/events", &query).await?;
    let mut out = BufWriter::new(screen.out());
    let mut last = args.after;
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            // A stream that is followed ends when the daemon does, however
            // that shows.
            Ok(None) | Err(_) if args.follow => return Err(ended(last).into()),
            Ok(None) => return Ok(out.flush()?),
            Err(error) => return Err(error),
        };
        let item: Item = serde_json::from_str(&line)
            .with_context(|| format!("understand the daemon's event: {}", printable(&line)))?;
        if let Item::Event(event) = &item {
            last = Some(event.cursor);
        }
        if screen.json() {
            writeln!(out, "{line}")?;
        } else {
            write_item(&mut out, &item, screen.verbose())?;
        }
        // Each event is shown when it happens, to a pipe too.
        if lines.waits() {
            out.flush()?;
        }
    }
}

fn ended(last: Option<Cursor>) -> Failure {
    let again = match last {
        Some(cursor) => format!("; go on with: slice events -f --after {cursor}"),
        None => String::new(),
    };
    Failure::new(Exit::NoDaemon, "follow the events: the daemon ended")
        .remedy(format!("start it again{again}"))
}

/// One event, one line; with `verbose` the reason's sentence below it.
///
/// # Errors
/// Those of the writer.
pub fn write_item(out: &mut impl Write, item: &Item, verbose: bool) -> io::Result<()> {
    match item {
        Item::Event(event) => write_event(out, event, verbose),
        Item::Happened(happening) => write_happening(out, happening),
        Item::LeftOut(count) => {
            let warn = AnsiColor::Yellow.on_default();
            writeln!(
                out,
                "{warn}{count} more were left out: too many in a second{warn:#}"
            )
        }
        Item::Lost(count) => {
            let warn = AnsiColor::Yellow.on_default();
            writeln!(
                out,
                "{warn}{count} events passed unseen: they came faster than they were read{warn:#}"
            )
        }
    }
}

fn write_happening(out: &mut impl Write, happening: &Happening) -> io::Result<()> {
    let (dim, bold) = (Style::new().dimmed(), Style::new().bold());
    let time = quantity::time_exact(happening.time);
    let slice = happening.slice.label();
    writeln!(
        out,
        "{dim}{time}{dim:#}  {bold}{slice:<12}{bold:#}  {}",
        happening.sentence
    )
}

fn write_event(out: &mut impl Write, event: &Event, verbose: bool) -> io::Result<()> {
    let color = if event.reason == ALLOWED {
        AnsiColor::Green
    } else {
        AnsiColor::Yellow
    };
    let (dim, bold, bad) = (
        Style::new().dimmed(),
        Style::new().bold(),
        color.on_default(),
    );
    let time = quantity::time_exact(event.time);
    let slice = event.slice.label();
    write!(out, "{dim}{time}{dim:#}  {bold}{slice:<12}{bold:#}")?;
    write!(
        out,
        "  {:<7}  {bad}{:<16}{bad:#}",
        event.moment, event.reason
    )?;
    writeln!(
        out,
        "  {}",
        [what(event), ends(event), who(event)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("  ")
    )?;
    if verbose {
        writeln!(out, "    {}", event.sentence)?;
    }
    Ok(())
}

/// The protocol, or where the kernel tells none, the family.
fn what(event: &Event) -> Option<String> {
    Some(if event.protocol == "0" {
        event.family.clone()
    } else {
        event.protocol.clone()
    })
}

fn ends(event: &Event) -> Option<String> {
    match (event.local, event.peer) {
        (Some(local), Some(peer)) => Some(format!("{local} -> {peer}")),
        (Some(local), None) => Some(local.to_string()),
        (None, Some(peer)) => Some(format!("-> {peer}")),
        (None, None) => None,
    }
}

fn who(event: &Event) -> Option<String> {
    let command = printable(&event.command);
    match event.pid {
        Some(pid) => Some(format!("{command}[{pid}]")),
        None => (!command.is_empty()).then_some(command),
    }
}
