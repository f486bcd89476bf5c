//! `slice link --live`: the links again and again, who sends most first.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::DURING;
use crate::cli::LinkArgs;
use crate::cli::exit::Exit;
use crate::cli::live::{self, View};
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
    let interval = Duration::from_secs(u64::from(args.interval));
    let mut links = Links {
        screen,
        order: Order::Sends,
        before: LinkSample::take(&Node::open()?)?,
        shown: Vec::new(),
    };
    // The first one soon: who looks wants to see something.
    let first = DURING.min(interval);
    live::follow(&mut links, screen.json(), args.count, first, interval)?;
    Ok(Exit::Ok.into())
}

struct Links<'s> {
    screen: &'s Screen,
    order: Order,
    before: LinkSample,
    shown: Vec<Link>,
}

impl View for Links<'_> {
    fn read(&mut self) -> anyhow::Result<()> {
        let node = Node::open()?;
        let after = LinkSample::take(&node)?;
        self.shown = read::links_since(&node, &self.before)?;
        sort(&mut self.shown, self.order);
        self.before = after;
        Ok(())
    }

    fn page(&mut self, key: Option<char>) -> io::Result<String> {
        let pressed = key.and_then(|key| live::by_key(&KEYS, key));
        self.order = pressed.unwrap_or(self.order);
        sort(&mut self.shown, self.order);
        page(&self.shown, self.screen, Some(HELP))
    }

    fn print(&self) -> anyhow::Result<()> {
        if self.screen.json() {
            return self.screen.print_json(&self.shown);
        }
        let mut out = self.screen.out();
        out.write_all(page(&self.shown, self.screen, None)?.as_bytes())?;
        Ok(out.flush()?)
    }
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
