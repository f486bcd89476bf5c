//! `slice link --history`: what owners sent on the links in the last hour; asks the
//! daemon, which keeps it.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::Style;
use anyhow::Context;
use jiff::Timestamp;

use crate::cli::exit::{Exit, Failure};
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, Table};
use crate::cli::{LinkArgs, client, quantity};
use crate::daemon::LinksPastQuery;
use crate::report::LinksPast;
use crate::report::flows::point_in_time;
use crate::report::links_past::{LinkPast, Moves};

/// Columns of the picture of an owner's rate.
const PICTURE: usize = 30;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn run(args: &LinkArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let since = args.since.as_ref().map(|text| {
        point_in_time(text, now).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("understand the time {text}"))
                .remedy("write how long ago: 10m; or 2026-01-31T12:00:00Z, @1769860800")
        })
    });
    let query = LinksPastQuery {
        since: since.transpose()?,
        limit: args.limit,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    let past: LinksPast = runtime.block_on(client::document("/v1/links/history", &query))?;
    if screen.json() {
        screen.print_json(&past)?;
        return Ok(Exit::Ok.into());
    }
    if past.links.is_empty() && !screen.quiet() {
        writeln!(
            screen.err(),
            "the node has no links: see [links] in node.toml"
        )?;
    }
    let mut out = screen.out();
    write_all(&mut out, &past, screen.width())?;
    out.flush()?;
    Ok(Exit::Ok.into())
}

/// A table for each link.
///
/// # Errors
/// Those of the writer.
pub fn write_all(out: &mut impl Write, past: &LinksPast, width: Option<usize>) -> io::Result<()> {
    let Some(last) = past.steps.last() else {
        return writeln!(out, "nothing yet: the daemon has just started");
    };
    let over_ms: u64 = past.steps.iter().map(|step| step.over_ms).sum();
    for link in &past.links {
        writeln!(
            out,
            "{}: {}, {} until {}",
            link.name,
            quantity::bit_rate(link.rate),
            quantity::cpu_time(over_ms * 1000),
            quantity::time(last.time)
        )?;
        write_link(out, link, over_ms, width)?;
    }
    Ok(())
}

fn write_link(
    out: &mut impl Write,
    link: &LinkPast,
    over_ms: u64,
    width: Option<usize>,
) -> io::Result<()> {
    let mut table = Table::new([
        Column::left("OWNER", 0),
        Column::right("MEAN", 0),
        Column::right("PEAK", 1),
        Column::right("SENT", 2),
        Column::right("DROPPED", 3),
        Column::left("FROM OLD TO NEW", 4),
    ]);
    let rows = link.rows.iter().map(|row| (row.owner.label(), &row.moves));
    let others = link.others.iter().map(|moves| ("others".to_owned(), moves));
    let rows: Vec<_> = rows.chain(others).collect();
    let peak = |moves: &Moves| moves.sends.iter().copied().max().unwrap_or(0);
    let highest = rows.iter().map(|(_, moves)| peak(moves)).max();
    for (name, moves) in rows {
        let mean = u128::from(moves.sent_bytes) * 8000 / u128::from(over_ms.max(1));
        table.row([
            Cell::new(name, Style::new().bold()),
            quantity::bit_rate(u64::try_from(mean).unwrap_or(u64::MAX)).into(),
            quantity::bit_rate(peak(moves)).into(),
            quantity::bytes(moves.sent_bytes).into(),
            quantity::count(moves.dropped_packets).into(),
            picture(&moves.sends, highest.unwrap_or(0)).into(),
        ]);
    }
    if table.is_empty() {
        return writeln!(out, "nobody sent anything");
    }
    table.write(out, width)
}

/// The rates as bars, the highest of all owners of the link a whole one; each bar is
/// the highest of its steps, and a blank where nothing was sent.
fn picture(sends: &[u64], highest: u64) -> String {
    let bars = sends.len().min(PICTURE);
    (0..bars)
        .map(|bar| {
            let part = |bar: usize| bar * sends.len() / bars;
            let rate = sends[part(bar)..part(bar + 1)].iter().max();
            let rate = u128::from(rate.copied().unwrap_or(0));
            let level = rate * BARS.len() as u128;
            let level = level.div_ceil(u128::from(highest.max(1)));
            let level = usize::try_from(level).unwrap_or(BARS.len());
            level.checked_sub(1).map_or(' ', |level| BARS[level])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_bar_for_each_part_of_the_time() {
        assert_eq!(picture(&[0, 1, 50, 100], 100), " ▁▄█");
        assert_eq!(picture(&[], 100), "");
        assert_eq!(picture(&[0, 0], 0), "  ");
        let long: Vec<u64> = (0..360).collect();
        let picture = picture(&long, 359);
        assert_eq!(picture.chars().count(), PICTURE);
        assert!(picture.starts_with('▁') && picture.ends_with('█'));
    }
}
