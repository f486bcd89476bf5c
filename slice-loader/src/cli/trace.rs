//! `slice trace`: what is decided for one owner, with its reason, as it is decided.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Lines};
use super::events::write_item;
use super::exit::{Exit, Failure};
use super::screen::Screen;
use super::table::printable;
use crate::daemon::TraceQuery;
use crate::report::event::Item;

/// Until it is interrupted, which is its usual end.
pub(super) fn run(slice: &str, screen: &Screen) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?;
    runtime.block_on(async {
        let on = |kind| signal(kind).context("catch signals");
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut terminate = on(SignalKind::terminate())?;
        let query = TraceQuery {
            slice: slice.to_owned(),
        };
        let lines = client::get("/v1/trace", &query).await?;
        if !screen.quiet() && !screen.json() {
            writeln!(screen.err(), "tracing {}; ctrl-C ends it", printable(slice))?;
        }
        // The daemon notices that nobody reads any more, and traces no longer.
        tokio::select! {
            ended = show(lines, screen) => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })?;
    Ok(Exit::Ok.into())
}

async fn show(mut lines: Lines, screen: &Screen) -> anyhow::Result<()> {
    let mut out = BufWriter::new(screen.out());
    // However the daemon ends.
    while let Ok(Some(line)) = lines.next().await {
        if screen.json() {
            writeln!(out, "{line}")?;
        } else {
            let item: Item = serde_json::from_str(&line)
                .with_context(|| format!("understand the daemon's event: {}", printable(&line)))?;
            write_item(&mut out, &item, true)?;
        }
        if lines.waits() {
            out.flush()?;
        }
    }
    out.flush()?;
    Err(Failure::new(
        Exit::NoDaemon,
        "trace: the daemon ended, or the slice is gone",
    )
    .remedy("see which slices there are: slice status")
    .into())
}
