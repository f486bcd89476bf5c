//! The rate of a link, divided among slices that send to another machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::beyond::{Beyond, PEER};
use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Running, Site, until};

use crowd::Crowd;

mod changes;
mod crowd;
mod exempt;
mod hundreds;
mod joins;
mod marks;
mod packets;
mod quota;
mod receive;
mod sparse;
mod wiretap;

pub const TESTS: &[Test] = &[
    test("a_link_is_divided_by_shares_floors_and_caps", divided).within(200),
    test("a_link_that_cannot_be_shaped_is_refused_by_name", refused).once(),
    test(
        "exempt_networks_go_above_the_cap_and_count_apart",
        exempt::goes_above_the_cap,
    ),
    test(
        "a_slice_sends_no_more_packets_in_a_second_than_it_may",
        packets::are_capped,
    )
    .long(),
    test(
        "a_slice_receives_no_more_by_a_link_than_it_may",
        receive::no_more_than_it_may,
    )
    .within(120),
    test(
        "tcp_and_datagrams_that_can_be_told_are_marked_before_anything_is_dropped",
        marks::come_before_drops,
    )
    .within(120)
    .long(),
    test(
        "a_flow_that_sends_little_is_quick_beside_those_that_send_much",
        sparse::stays_quick,
    ),
    test(
        "a_link_is_divided_among_two_hundred_slices",
        hundreds::of_two_hundred,
    )
    .within(120)
    .long(),
    test(
        "nobody_is_below_its_floor_while_others_join_and_leave",
        joins::keep_the_floor,
    )
    .within(150)
    .long(),
    test(
        "rates_hold_while_clocks_jump_and_policies_and_devices_change",
        changes::are_followed,
    )
    .within(120)
    .long(),
    test("a_queue_that_another_put_in_place_is_repaired", repaired),
    test(
        "a_quota_leaves_a_slice_its_floor_and_nothing_that_begins_anew_gives_it_back",
        quota::leaves_its_floor,
    )
    .within(200)
    .long(),
];

const METER: &str = include_str!("link/meter.py");
const SEND: &str = include_str!("link/send.py");
/// Payload of what is on the wire: TCP with time stamps over IPv4, and UDP.
const OF_TCP: f64 = 1448.0 / 1514.0;
const OF_UDP: f64 = 1400.0 / 1442.0;
/// The link's rate, Mbit/s, and how far a part may be from what it should be.
const RATE: f64 = 10.0;
const WITHIN: f64 = 0.08;
const ATTEMPTS: usize = 3;
const FIRST: usize = 9100;

/// What `slice link` says of a slice, on the first link.
fn row(site: &Site, slice: &str) -> Result<Value> {
    let links = site.json(&["link"])?;
    let rows = links[0]["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["owner"]["name"] == slice);
    Ok(row
        .with_context(|| format!("{slice} is not in {links}"))?
        .clone())
}

/// What is looked at: seconds after the first byte, and how long.
const AFTER: &str = "2";
const DURING: &str = "4";
/// The same where each has little: a packet is more of it.
const CROWDED: [f64; 2] = [2.0, 6.0];

struct Wire<'s, 'n> {
    site: &'s Site<'n>,
    beyond: &'s Beyond<'n>,
}

impl Wire<'_, '_> {
    /// What arrives while these send (slice, protocol, flows, Mbit/s or 0), in Mbit/s
    /// as the wire has it.
    fn carries(&self, senders: &[(&str, &str, usize, f64)]) -> Result<Vec<f64>> {
        let (first, count) = (FIRST.to_string(), senders.len().to_string());
        let meter = ["python3", "-c", METER, &first, &count, AFTER, DURING];
        let mut meter = self.site.start("meter", self.beyond.command(&meter))?;
        until("the meter is ready", || {
            Ok(meter.output().contains("ready"))
        })?;
        let running = senders
            .iter()
            .enumerate()
            .map(|(number, (slice, kind, flows, rate))| {
                let port = (FIRST + number).to_string();
                let (flows, rate) = (flows.to_string(), rate.to_string());
                let command = [
                    "python3",
                    "-c",
                    SEND,
                    kind,
                    PEER[number % 2],
                    &port,
                    &flows,
                    &rate,
                ];
                let command = match *slice {
                    "node" => {
                        let mut own = std::process::Command::new(command[0]);
                        own.args(&command[1..]);
                        own
                    }
                    slice => self.site.in_slice(slice, &command),
                };
                self.site.start(&format!("sender{number}"), command)
            })
            .collect::<Result<Vec<Running>>>()?;
        until("the meter has measured", || Ok(meter.ended()?.is_some()))?;
        // Else it would go on in its slice, at the next measurement.
        for sender in running {
            sender.finish()?;
        }
        let output = meter.output();
        let line = output.lines().last().context("the meter says nothing")?;
        let rates: Vec<f64> = serde_json::from_str(line).with_context(|| output.clone())?;
        let of = |kind: &str| if kind == "tcp" { OF_TCP } else { OF_UDP };
        let of = senders.iter().map(|(_, kind, ..)| of(kind));
        Ok(rates.iter().zip(of).map(|(rate, of)| rate / of).collect())
    }

    /// Each gets its part of what is carried.
    fn are(&self, what: &str, senders: &[(&str, &str, usize, f64)], ideal: &[f64]) -> Result<()> {
        let ideal_sum: f64 = ideal.iter().sum();
        self.show(what, senders, |rates, sum| {
            let parts = rates.iter().zip(ideal);
            parts
                .clone()
                .all(|(rate, ideal)| ((rate / sum) / (ideal / ideal_sum) - 1.0).abs() <= WITHIN)
        })
    }

    /// Each owner of these sockets gets its part of what is carried.
    fn share(&self, owners: &[&str], ideal: &[f64]) -> Result<()> {
        let crowd = Crowd {
            site: self.site,
            beyond: self.beyond,
            slices: owners.iter().map(|&owner| owner.to_owned()).collect(),
            datagrams: None,
            turns: None,
        };
        let ideal_sum: f64 = ideal.iter().sum();
        let mut told = String::new();
        for _ in 0..ATTEMPTS {
            let rates = crowd.sends(CROWDED, |_| Ok(()))?.rates([0.0, CROWDED[1]]);
            told = format!("{owners:?}: {rates:.3?}");
            println!("{told}");
            let sum: f64 = rates.iter().sum();
            ensure!(sum <= 1.03 * RATE, "{told}");
            let mut parts = rates.iter().zip(ideal);
            let near = |(rate, ideal)| f64::abs((rate / sum) / (ideal / ideal_sum) - 1.0) <= WITHIN;
            if sum >= 0.7 * RATE && parts.all(near) {
                return Ok(());
            }
        }
        anyhow::bail!("never right; {told}; {}", self.site.must(&["link"])?)
    }

    /// The last of the senders gets no more than this, and nearly that.
    fn is_bounded(
        &self,
        what: &str,
        senders: &[(&str, &str, usize, f64)],
        bound: f64,
    ) -> Result<()> {
        self.show(what, senders, |rates, _| {
            let last = rates[rates.len() - 1];
            last <= 1.04 * bound && last >= 0.8 * bound
        })
    }

    /// What is carried is never more than the link's rate; a little less where a CPU
    /// of this machine stands still for longer than is made up for. A connection that
    /// lost a packet at the wrong moment may want less than its part for a while, so
    /// that the division has some attempts.
    fn show(
        &self,
        what: &str,
        senders: &[(&str, &str, usize, f64)],
        is_right: impl Fn(&[f64], f64) -> bool,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let rates = self.carries(senders)?;
            println!("{what}: {rates:.3?}");
            let sum: f64 = rates.iter().sum();
            ensure!(sum <= 1.03 * RATE, "{what}: {rates:.3?} Mbit/s");
            if sum >= 0.7 * RATE && is_right(&rates, sum) {
                return Ok(());
            }
        }
        anyhow::bail!("{what}: never right; {}", self.site.must(&["link"])?)
    }
}

fn divided(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let before = Inventory::take(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/c.toml", "[link]\nshare = 3\n"),
            ("slices/d.toml", "[link]\ncap = \"1 Mbit/s\"\n"),
            ("slices/e.toml", "[link]\nfloor = \"2 Mbit/s\"\n"),
        ],
    )?;
    for slice in ["a", "b", "f", "g", "h", "i", "j", "k", "l", "m"] {
        site.write(&format!("slices/{slice}.toml"), "")?;
    }
    site.must(&["reload"])?;
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    let each = |names: &[&'static str], kind: &'static str| -> Vec<_> {
        names.iter().map(|name| (*name, kind, 1, 0.0)).collect()
    };
    wire.are("alone", &each(&["a"], "tcp"), &[10.0])?;
    wire.share(
        &["node", "a", "b", "f", "g", "h"],
        &[5.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    )?;
    wire.share(&["a", "b", "f", "g", "h"], &[2.0; 5])?;
    wire.are("floor", &each(&["e", "a"], "tcp"), &[6.0, 4.0])?;
    wire.are("shares", &each(&["c", "a"], "tcp"), &[3.0, 1.0])?;
    // Against connections, which always have something to send: who sends datagrams
    // has nothing when it does not run for 10 ms.
    wire.are(
        "asked otherwise",
        &[("c", "tcp", 1, 0.0), ("a", "sly", 2, 0.0)],
        &[3.0, 1.0],
    )?;
    let one_each = ["b", "f", "g", "h", "i", "j", "k", "l", "m"];
    wire.share(&[&["a"; 8][..], &one_each].concat(), &[1.0; 10])?;
    wire.is_bounded("cap", &each(&["c", "d"], "tcp"), 1.0)?;
    // Who asks for less than its part leaves the rest to others.
    wire.is_bounded(
        "modest",
        &[("b", "tcp", 1, 0.0), ("a", "udp", 1, 1.0)],
        1.03,
    )?;
    // What stands in the policy is what is in force.
    site.write("slices/d.toml", "[link]\ncap = \"2 Mbit/s\"\n")?;
    site.must(&["reload"])?;
    wire.is_bounded(
        "another cap",
        &[("c", "tcp", 1, 0.0), ("d", "udp", 1, 0.0)],
        2.0,
    )?;
    let shown = site.json(&["link"])?;
    ensure!(shown[0]["rate"] == 10_000_000, "slice link says {shown}");
    site.must(&["down"])?;
    let queue = node.must("tc", &["qdisc", "show", "dev", "wire1"])?.stdout;
    ensure!(queue.contains("noqueue"), "{queue} is left");
    let device = node.must("ip", &["-d", "link", "show", "wire1"])?.stdout;
    ensure!(device.contains("gso_max_size 65536"), "{device} is left");
    before.again(node)?;
    drop(beyond);
    Ok(())
}

fn refused(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let site = Site::new(
        node,
        &[("node.toml", "[links.wire9]\nrate = \"10 Mbit/s\"\n")],
    )?;
    let output = site.slice(&["up"])?;
    ensure!(
        output.status == 3 && output.stderr.contains("wire9"),
        "{} {}",
        output.status,
        output.stderr
    );
    site.write("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n")?;
    node.must("tc", &["qdisc", "add", "dev", "wire1", "root", "pfifo"])?;
    let output = site.slice(&["up"])?;
    ensure!(
        output.status == 3 && output.stderr.contains("pfifo"),
        "{} {}",
        output.status,
        output.stderr
    );
    drop(beyond);
    Ok(())
}

fn repaired(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/a.toml", "[link]\nfloor = \"2 Mbit/s\"\n"),
        ],
    )?;
    let checked = site.json(&["check"])?["admission"]["links"].take();
    let expected = serde_json::json!({"wire1": {"given": 10_000_000, "promised": 2_000_000}});
    ensure!(checked == expected, "check says {checked}");
    let _daemon = site.daemon()?;
    let has_fq = || -> Result<bool> {
        let queue = node.run("tc", &["qdisc", "show", "dev", "wire1", "root"])?;
        Ok(queue.stdout.contains("qdisc fq "))
    };
    ensure!(has_fq()?, "there is no fq");
    node.must("tc", &["qdisc", "del", "dev", "wire1", "root"])?;
    until("it is back", has_fq)?;
    // A device that goes and comes again is another one of the same name.
    drop(beyond);
    let beyond = Beyond::open(node)?;
    until("the new device has it", has_fq)?;
    std::thread::sleep(Duration::from_millis(200));
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    wire.are("alone", &[("a", "tcp", 1, 0.0)], &[10.0])?;
    // What is in place is left alone: the daemon would hear of its own changes.
    let heard = node.run("timeout", &["3", "tc", "monitor"])?.stdout;
    ensure!(heard.trim().is_empty(), "the daemon changes: {heard}");
    Ok(())
}
