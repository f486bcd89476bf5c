//! What the daemon writes to its log.
//!
//! Nothing that a tenant can bring about is logged one by one: denials are
//! summed up once a minute, the worst few slices by name.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::{self, MissedTickBehavior};
use tracing_subscriber::EnvFilter;

use super::hub::{Hub, Tally};
use crate::cli::screen::{Color, Screen};

const EVERY: Duration = Duration::from_secs(60);

/// Lines per summary.
const WORST: usize = 5;

/// Logs to the standard error: with times and colours for a terminal, without
/// times where the journal adds its own.
pub fn start(screen: &Screen) {
    let level = match screen.verbosity {
        ..0 => "warn",
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("SLICE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = match screen.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stderr().is_terminal() && !plain,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(color);
    // A second start, in one process, changes nothing.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().try_init()
    } else {
        log.try_init()
    };
}

/// Sums up denials once a minute, where there were any.
pub(super) async fn summaries(hub: &Hub) {
    let mut ticks = time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for line in summary(hub.take_tally()) {
            tracing::info!("{line}");
        }
    }
}

fn summary(tally: Tally) -> Vec<String> {
    let mut slices: Vec<(String, u64, String)> = Vec::new();
    for ((slice, reason), count) in tally {
        match slices.last_mut() {
            Some((last, sum, text)) if *last == slice => {
                *sum += count;
                text.push_str(&format!(", {reason} {count}"));
            }
            _ => slices.push((slice, count, format!("{reason} {count}"))),
        }
    }
    slices.sort_by_key(|(_, sum, _)| std::cmp::Reverse(*sum));
    let rest = slices
        .iter()
        .skip(WORST)
        .map(|(_, sum, _)| sum)
        .sum::<u64>();
    let others = slices.len().saturating_sub(WORST);
    let line = |(slice, sum, text): &(String, u64, String)| {
        format!("{sum} denials of {slice} in the last minute: {text}")
    };
    let mut lines: Vec<String> = slices.iter().take(WORST).map(line).collect();
    if others > 0 {
        lines.push(format!(
            "{rest} denials of {others} other slices in the last minute"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_a_few_lines_however_many_slices_were_denied() {
        let mut tally = Tally::new();
        for slice in 0..100_u64 {
            tally.insert((format!("s{slice:02}"), "port_node".into()), slice + 1);
        }
        tally.insert(("s99".into(), "family".into()), 1000);
        let lines = summary(tally);
        assert_eq!(lines.len(), WORST + 1);
        assert_eq!(
            lines[0],
            "1100 denials of s99 in the last minute: family 1000, port_node 100"
        );
        assert_eq!(
            lines[WORST],
            "4560 denials of 95 other slices in the last minute"
        );
        assert!(summary(Tally::new()).is_empty());
    }
}
