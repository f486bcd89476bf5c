//! `slice link --live`: the links again and again, who sends most first.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::DURING;
use crate::cli::LinkArgs;
use crate::cli::exit::Exit;
use crate::cli::live::Live;
use crate::cli::quantity;
use crate::cli::screen::Screen;
use crate::node::Node;
use crate::report::read::{self, LinkSample};
use crate::report::{Link, LinkRow};

/// What comes first of the owners of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Sends,
    Waits,
    Drops,
    Quota,
    Name,
}

/// The keys of the live view, as its last line tells them.
const KEYS: [(char, Order); 5] = [
    ('s', Order::Sends),
    ('w', Order::Waits),
    ('d', Order::Drops),
    ('l', Order::Quota),
    ('n', Order::Name),
];
const HELP: &str = "s sends  w waits  d drops  l quota left  n name  q quit";

pub(super) fn run(args: &LinkArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let mut before = LinkSample::take(&Node::open()?)?;
    let interval = Duration::from_secs(u64::from(args.interval));
    let live = if screen.json() { None } else { Live::open()? };
    let mut order = Order::Sends;
    let mut left = match (args.count, &live) {
        (Some(count), _) => Some(count),
        (None, Some(_)) => None,
        (None, None) => Some(1),
    };
    let mut shown: Vec<Link> = Vec::new();
    // The first one soon: who looks wants to see something.
    let mut next = Instant::now() + DURING.min(interval);
    while left != Some(0) {
        match &live {
            Some(live) => {
                let go_on = live.until(next, |key| {
                    order = key.and_then(by_key).unwrap_or(order);
                    sort(&mut shown, order);
                    page(&shown, screen, Some(HELP))
                })?;
                if !go_on {
                    break;
                }
            }
            None => thread::sleep(next.saturating_duration_since(Instant::now())),
        }
        next = Instant::now() + interval;
        let node = Node::open()?;
        let after = LinkSample::take(&node)?;
        shown = read::links_since(&node, &before)?;
        sort(&mut shown, order);
        before = after;
        match &live {
            Some(_) => {}
            None if screen.json() => screen.print_json(&shown)?,
            None => {
                let mut out = screen.out();
                out.write_all(page(&shown, screen, None)?.as_bytes())?;
                out.flush()?;
            }
        }
        left = left.map(|left| left - 1);
    }
    Ok(Exit::Ok.into())
}

fn by_key(key: char) -> Option<Order> {
    KEYS.iter()
        .find_map(|(name, order)| (*name == key).then_some(*order))
}

fn sort(links: &mut [Link], order: Order) {
    for link in links {
        // What goes to exempt networks is on the link, too.
        let sends = |row: &LinkRow| row.sends + row.exempt.as_ref().map_or(0, |of| of.sends);
        let waits = |row: &LinkRow| {
            let exempt = row.exempt.as_ref().map_or(0, |of| of.waits_us);
            row.waits_us.max(exempt)
        };
        let most = |row: &LinkRow| match order {
            Order::Sends => (sends(row), row.sent_bytes),
            Order::Waits => (waits(row), sends(row)),
            Order::Drops => (row.drops, row.dropped_packets),
            // Who has least left; who has no quota comes last.
            Order::Quota => row
                .quota
                .as_ref()
                .map_or((0, 0), |quota| (u64::MAX - quota.left, quota.used)),
            Order::Name => (0, 0),
        };
        link.rows
            .sort_by_cached_key(|row| (Reverse(most(row)), row.owner.label()));
    }
}

/// A page of text, with styles.
fn page(links: &[Link], screen: &Screen, help: Option<&str>) -> io::Result<String> {
    let mut text = Vec::new();
    writeln!(text, "{}", quantity::time(jiff::Timestamp::now()))?;
    if let Some(help) = help {
        writeln!(text, "{help}")?;
    }
    for link in links {
        writeln!(text)?;
        super::write_one(&mut text, link, screen.width())?;
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(screen.as_styled(text))
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
}
