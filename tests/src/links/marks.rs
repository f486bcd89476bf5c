//! Flows that can be told are told that too much waits.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{ATTEMPTS, FIRST, METER, OF_TCP, row};
use crate::beyond::{Beyond, PEER};
use crate::node::Node;
use crate::site::{Site, until};

const BULK: &str = include_str!("../link/bulk.py");
/// Sends so many datagrams whose headers say this of ECN: FLOOD ADDRESS PORT COUNT ECN
const FLOOD: &str = "\
import socket, sys
address, port, count, ecn = sys.argv[1], *map(int, sys.argv[2:])
six = ':' in address
own = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(*((41, 67) if six else (0, 1)), ecn)
for _ in range(count):
    try:
        own.sendto(b'x' * 200, (address, port))
    except OSError:
        pass
";
/// Counts what comes marked at the other machine.
const COUNT: &str = "\
table inet told {
    counter marked { }
    chain input {
        type filter hook input priority 0; policy accept;
        ip ecn ce counter name marked
        ip6 ecn ce counter name marked
    }
}
";
/// The cap of the slice, Mbit/s.
const CAP: f64 = 4.0;

/// ECN as the kernel has it (2: it answers who asks) when this is dropped.
struct Usual<'n>(&'n Node);

impl Drop for Usual<'_> {
    fn drop(&mut self) {
        let _ = self.0.run("sysctl", &["-qw", "net.ipv4.tcp_ecn=2"]);
    }
}

struct Wire<'s, 'n> {
    node: &'n Node,
    site: &'s Site<'n>,
    beyond: &'s Beyond<'n>,
}

/// What a slice sent by TCP.
#[derive(Debug)]
struct Sent {
    /// On the wire, Mbit/s.
    rate: f64,
    /// What its connections measured.
    measured: Value,
    /// What `slice link` counted meanwhile.
    marks: u64,
    dropped: u64,
    /// Packets that came marked.
    came: u64,
}

impl Wire<'_, '_> {
    /// Marks and drops, and what came marked.
    fn counted(&self) -> Result<[u64; 3]> {
        let row = row(self.site, "a")?;
        let number = |name: &str| row[name].as_u64().with_context(|| format!("{row}"));
        let list = ["nft", "-j", "list", "counter", "inet", "told", "marked"];
        let listed: Value = serde_json::from_str(&self.beyond.must(&list)?.stdout)?;
        let mut objects = listed["nftables"].as_array().into_iter().flatten();
        let came = objects.find_map(|object| object["counter"]["packets"].as_u64());
        Ok([
            number("marks")?,
            number("dropped_packets")?,
            came.context("nft knows no counter")?,
        ])
    }

    /// What so many connections of the slice carry.
    fn carries(&self, flows: usize, ecn: bool) -> Result<Sent> {
        let ecn = format!("net.ipv4.tcp_ecn={}", u8::from(ecn));
        self.node.must("sysctl", &["-qw", &ecn])?;
        let before = self.counted()?;
        let (port, flows) = (FIRST.to_string(), flows.to_string());
        let meter = ["python3", "-c", METER, &port, "1", "1.5", "3"];
        let mut meter = self.site.start("meter", self.beyond.command(&meter))?;
        until("the meter is ready", || {
            Ok(meter.output().contains("ready"))
        })?;
        let bulk = ["python3", "-c", BULK, PEER[0], &port, &flows];
        let bulk = self.site.start("bulk", self.site.in_slice("a", &bulk))?;
        until("the meter has measured", || Ok(meter.ended()?.is_some()))?;
        let last = |output: String| -> Result<Value> {
            let line = output.lines().last().context("it says nothing")?;
            serde_json::from_str(line).with_context(|| output.clone())
        };
        let rate = last(meter.output())?[0].as_f64().context("no rate")?;
        let measured = last(bulk.finish()?)?;
        let after = self.counted()?;
        let sent = Sent {
            rate: rate / OF_TCP,
            measured,
            marks: after[0] - before[0],
            dropped: after[1] - before[1],
            came: after[2] - before[2],
        };
        println!("{flows} connections, {ecn}: {sent:?}");
        Ok(sent)
    }
}

pub fn come_before_drops(node: &mut Node) -> Result<()> {
    let node: &Node = node;
    let beyond = Beyond::open(node)?;
    let rules = node.dir().join("told.nft");
    std::fs::write(&rules, COUNT)?;
    let rules = rules.to_str().context("a path in UTF-8")?;
    beyond.must(&["nft", "-f", rules])?;
    beyond.must(&["sysctl", "-qw", "net.ipv4.tcp_ecn=1"])?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/a.toml", "[link]\ncap = \"4 Mbit/s\"\n"),
        ],
    )?;
    let _usual = Usual(node);
    let wire = Wire {
        node,
        site: &site,
        beyond: &beyond,
    };
    connections(&wire)?;
    for (address, marked) in [(PEER[0], 2), (PEER[1], 1)] {
        datagrams(&wire, address, marked)?;
    }
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}

/// TCP that is told leaves the link full and waits less; of TCP that cannot be told
/// nothing is marked.
fn connections(wire: &Wire) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (untold, told) = (wire.carries(8, false)?, wire.carries(8, true)?);
        let alone = wire.carries(1, true)?;
        // The queue alone does not fill the way to a peer that is far.
        let delay = ["root", "netem", "delay", "40ms"];
        wire.beyond
            .must(&[&["tc", "qdisc", "add", "dev", "wire1"][..], &delay].concat())?;
        let far = wire.carries(2, true)?;
        wire.beyond
            .must(&["tc", "qdisc", "del", "dev", "wire1", "root"])?;
        ensure!(
            untold.marks == 0 && untold.came == 0 && untold.measured["ecn"] == false,
            "{untold:?}"
        );
        ensure!(
            // Answers that no socket sends (resets) are dropped, too.
            told.marks > 0 && told.came > 0 && told.dropped < 10,
            "{told:?}"
        );
        let rates = [told.rate, alone.rate, far.rate];
        ensure!(rates.iter().all(|rate| *rate <= 1.03 * CAP), "{rates:?}");
        let waits = |sent: &Sent| sent.measured["rtt_ms"].as_f64().unwrap_or(0.0);
        if told.rate >= 0.97 * CAP
            && alone.rate >= 0.97 * CAP
            && far.rate >= 0.93 * CAP
            && waits(&told) < 0.8 * waits(&untold)
        {
            return Ok(());
        }
    }
    anyhow::bail!("never right")
}

/// Datagrams that can be told are marked before any is dropped, each that waits long and
/// no other.
fn datagrams(wire: &Wire, address: &str, ecn: u8) -> Result<()> {
    let port = (FIRST + 1).to_string();
    let flood = |count: u32, ecn: u8| -> Result<[u64; 3]> {
        let before = wire.counted()?;
        let (count, ecn) = (count.to_string(), ecn.to_string());
        let flood = ["python3", "-c", FLOOD, address, &port, &count, &ecn];
        let output = wire.site.run_in("a", &flood)?;
        ensure!(output.status == 0, "{}", output.stderr);
        let after = wire.counted()?;
        println!("{count} to {address}, ECN {ecn}: {before:?} {after:?}");
        Ok([0, 1, 2].map(|at| after[at] - before[at]))
    };
    let [marks, dropped, came] = flood(300, ecn)?;
    ensure!(
        marks > 0 && dropped > 0 && came == marks,
        "{marks} marks, {dropped} dropped, {came} came"
    );
    let [marks, dropped, came] = flood(300, 0)?;
    ensure!(
        marks == 0 && dropped > 0 && came == 0,
        "{marks} marks of what cannot be told, {came} came"
    );
    Ok(())
}
