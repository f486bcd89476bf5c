//! A node that is changed while its slices send: calendar, policy, device.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::ATTEMPTS;
use super::crowd::Crowd;
use crate::beyond::Beyond;
use crate::node::Node;
use crate::site::Site;

/// Millions of bits a second of the link.
const RATE: f64 = 20.0;

fn node_file(rate: f64, exempt: &str) -> String {
    format!("[links.wire1]\nrate = \"{rate} Mbit/s\"\nexempt = [{exempt}]\n")
}

/// Sets the calendar ahead or back.
fn jump(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: now.tv_sec + seconds,
            tv_nsec: now.tv_nsec,
        },
    )?;
    Ok(())
}

/// What the owner does to the node while slices send.
struct Change<'a> {
    what: &'a str,
    does: Box<dyn Fn() -> Result<()> + 'a>,
    /// Seconds until all have noticed.
    settles: f64,
    /// Mbit/s that the two have then.
    then: [f64; 2],
}

impl<'a> Change<'a> {
    fn new(
        what: &'a str,
        settles: f64,
        then: [f64; 2],
        does: impl Fn() -> Result<()> + 'a,
    ) -> Self {
        let does = Box::new(does);
        Change {
            what,
            does,
            settles,
            then,
        }
    }
}

/// How long each change is looked at, seconds; and all of them.
const LOOK: f64 = 2.0;
const ALL: f64 = 50.0;

/// Two slices, each with streams and datagrams, all CPUs sending, by a device of four queues.
pub fn are_followed(node: &mut Node) -> Result<()> {
    const WITHIN: f64 = 0.08;
    let beyond = Beyond::with_queues(node, 4)?;
    let capped = |cap: u32| format!("[link]\ncap = \"{cap} Mbit/s\"\n");
    let site = Site::up(
        node,
        &[
            ("node.toml", &node_file(RATE, "")),
            ("slices/a.toml", &capped(4)),
            ("slices/b.toml", ""),
        ],
    )?;
    let reload = |name: &str, text: &str| -> Result<()> {
        site.write(name, text)?;
        site.must(&["reload"])?;
        Ok(())
    };
    let ip = |words: &str| node.must("ip", &words.split(' ').collect::<Vec<_>>());
    let changes = [
        Change::new("first", 1.0, [4.0, 16.0], || {
            reload("slices/a.toml", &capped(4))
        }),
        Change::new("an hour ahead", 0.0, [4.0, 16.0], || jump(3600)),
        Change::new("an hour behind", 0.0, [4.0, 16.0], || jump(-7200)),
        Change::new("on time again", 0.0, [4.0, 16.0], || jump(3600)),
        Change::new("another cap", 0.5, [8.0, 12.0], || {
            reload("slices/a.toml", &capped(8))
        }),
        // All that they send goes there.
        Change::new("exempt", 0.5, [10.0, 10.0], || {
            reload("node.toml", &node_file(RATE, "\"192.0.2.0/24\""))
        }),
        Change::new("not exempt again", 0.5, [8.0, 12.0], || {
            reload("node.toml", &node_file(RATE, ""))
        }),
        Change::new("half the link", 0.5, [5.0, 5.0], || {
            reload("node.toml", &node_file(RATE / 2.0, ""))
        }),
        Change::new("the whole link", 0.5, [8.0, 12.0], || {
            reload("node.toml", &node_file(RATE, ""))
        }),
        Change::new("the device was down", 3.0, [8.0, 12.0], || {
            ip("link set wire1 down")?;
            sleep(Duration::from_millis(300));
            ip("link set wire1 up")?;
            ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:01:02 dev wire1")?;
            Ok(())
        }),
    ];
    let crowd = Crowd {
        site: &site,
        beyond: &beyond,
        slices: ["a", "a", "b", "b", "b", "b"].map(str::to_owned).to_vec(),
        datagrams: Some(10.0),
        turns: None,
    };
    // Each is right at one attempt at least: a machine that stands still spoils some.
    let mut right = vec![false; changes.len()];
    let mut wrong = String::new();
    for _ in 0..ATTEMPTS {
        let mut looks = Vec::new();
        let seen = crowd.sends([0.0, ALL], |begun| {
            for change in &changes {
                (change.does)().context(change.what.to_owned())?;
                sleep(Duration::from_secs_f64(change.settles));
                let from = begun.elapsed().as_secs_f64();
                looks.push([from, from + LOOK]);
                sleep(Duration::from_secs_f64(LOOK));
            }
            Ok(())
        })?;
        wrong.clear();
        for ((change, look), right) in changes.iter().zip(looks).zip(&mut right) {
            ensure!(look[1] <= ALL, "{} took until {look:?}", change.what);
            let rates = seen.rates(look);
            let told = format!("{}: {rates:.3?} of {:?}; ", change.what, change.then);
            println!("{told}");
            let sum: f64 = rates.iter().sum();
            let ideal: f64 = change.then.iter().sum();
            let is_right = rates.iter().zip(change.then).all(|(rate, then)| {
                (rate / sum / (then / ideal) - 1.0).abs() <= WITHIN && *rate <= 1.04 * then
            });
            *right |= is_right && sum >= 0.7 * ideal;
            if !*right {
                wrong += &told;
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("{wrong}")
}
