//! What a slice may receive.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{ATTEMPTS, METER, SEND, row};
use crate::beyond::{Beyond, NODE};
use crate::node::Node;
use crate::site::{Running, Site, until};

/// The bound, Mbit/s as the IP layer has it, and ports of the bounded slice and of its
/// neighbour.
const MOST: f64 = 6.0;
const PORTS: [u16; 2] = [9100, 9200];
/// Looked at from then on, since the first byte, and how long; seconds.
const WINDOW: [&str; 2] = ["1", "2"];
/// Payload of what the IP layer has: TCP with time stamps over IPv4, UDP over IPv6.
const OF_TCP: f64 = 1448.0 / 1500.0;
const OF_UDP: f64 = 1400.0 / 1448.0;

/// Of the bound, what comes in a window in which what was saved comes, too.
const AT_MOST: f64 = (2.0 + 0.3) / 2.0;

const NODE_FILE: &str = "[links.wire1]\nrate = \"1 Gbit/s\"\n";
const BOUNDED: &str = "[link]\nreceive = \"6 Mbit/s\"\n";

/// Counts what reaches the node's IP layer for these ports.
const COUNT: &str = "\
table inet came {
    counter bounded { }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname \"wire1*\" udp dport 9100 counter name bounded
    }
}
";

struct Wire<'s, 'n> {
    node: &'n Node,
    site: &'s Site<'n>,
    beyond: &'s Beyond<'n>,
}

impl Wire<'_, '_> {
    fn meter(&self, slice: &str, port: u16) -> Result<Running> {
        let port = port.to_string();
        let [after, during] = WINDOW;
        let command = ["python3", "-c", METER, &port, "1", after, during];
        let meter = self
            .site
            .start(&format!("meter{port}"), self.site.in_slice(slice, &command))?;
        until("the meter is ready", || {
            Ok(meter.output().contains("ready"))
        })?;
        Ok(meter)
    }

    fn send(&self, kind: &str, address: &str, port: u16, flows: u32, rate: f64) -> Result<Running> {
        let (port, flows, rate) = (port.to_string(), flows.to_string(), rate.to_string());
        let command = ["python3", "-c", SEND, kind, address, &port, &flows, &rate];
        self.site
            .start(&format!("sender{port}"), self.beyond.command(&command))
    }

    /// Gives the bounded slice another policy.
    fn reload(&self, policy: &str) -> Result<()> {
        self.site.write("slices/a.toml", policy)?;
        self.site.must(&["reload"]).map(drop)
    }

    /// What `slice link` says of what the bounded slice receives.
    fn row(&self) -> Result<Value> {
        Ok(row(self.site, "a")?["receive"].take())
    }

    /// Packets of UDP that came for the bounded slice.
    fn came(&self) -> Result<u64> {
        let list = ["-j", "list", "counter", "inet", "came", "bounded"];
        let listed: Value = serde_json::from_str(&self.node.must("nft", &list)?.stdout)?;
        let objects = listed["nftables"].as_array().context("nft lists nothing")?;
        let packets = objects
            .iter()
            .find_map(|object| object["counter"]["packets"].as_u64());
        packets.context("nft knows no counter")
    }
}

/// Mbit/s of what a meter read in its window.
fn rate(meter: &mut Running, of: f64) -> Result<f64> {
    until("the meter has measured", || Ok(meter.ended()?.is_some()))?;
    let output = meter.output();
    let line = output.lines().last().context("the meter says nothing")?;
    let rates: Vec<f64> = serde_json::from_str(line).with_context(|| output.clone())?;
    Ok(rates.first().context("no rate")? / of)
}

pub fn no_more_than_it_may(node: &mut Node) -> Result<()> {
    let node: &Node = node;
    let beyond = Beyond::open(node)?;
    let rules = node.dir().join("came.nft");
    std::fs::write(&rules, COUNT)?;
    node.must("nft", &["-f", rules.to_str().context("a path in UTF-8")?])?;
    let site = Site::up(
        node,
        &[
            ("node.toml", NODE_FILE),
            ("slices/a.toml", BOUNDED),
            ("slices/b.toml", ""),
        ],
    )?;
    let wire = Wire {
        node,
        site: &site,
        beyond: &beyond,
    };
    connections(&wire)?;
    datagrams(&wire)?;
    let (received, policed) = counted(&wire, NODE[0])?;
    ensure!(received > 0 && policed > 0, "{}", wire.row()?);
    inside(&wire)?;
    lifted(&wire)?;
    site.must(&["down"])?;
    node.must("nft", &["delete", "table", "inet", "came"])?;
    drop(beyond);
    Ok(())
}

/// TCP slows down by itself, and who is not bounded receives what is sent to it.
fn connections(wire: &Wire) -> Result<()> {
    for _ in 0..2 * ATTEMPTS {
        let meters = [("a", PORTS[0]), ("b", PORTS[1])];
        let [a, b] = meters.map(|(slice, port)| wire.meter(slice, port));
        let (mut a, mut b) = (a?, b?);
        let senders = [
            wire.send("tcp", NODE[0], PORTS[0], 2, 0.0)?,
            wire.send("tcp", NODE[1], PORTS[1], 1, 12.0)?,
        ];
        let (a, b) = (rate(&mut a, OF_TCP)?, rate(&mut b, 1.0)?);
        if a < 0.85 * MOST {
            let sockets = wire.beyond.must(&["ss", "-tinoH", "dport", "=", ":9100"])?;
            println!("the senders: {}; {}", sockets.stdout.trim(), wire.row()?);
        }
        for sender in senders {
            sender.finish()?;
        }
        println!("TCP: {a:.3} of {MOST}, beside it {b:.3} of 12");
        // What the kernel remembers of a peer whose packets were lost is no part of this.
        wire.beyond.must(&["ip", "tcp_metrics", "flush", "all"])?;
        ensure!(a <= 1.01 * AT_MOST * MOST, "{a} Mbit/s of {MOST}");
        if a >= 0.85 * MOST && b >= 0.93 * 12.0 {
            return Ok(());
        }
    }
    anyhow::bail!("TCP: never right; {}", wire.row()?)
}

/// Of datagrams what is too much is dropped; a reload changes what is, while they come.
fn datagrams(wire: &Wire) -> Result<()> {
    let sender = wire.send("udp", NODE[1], PORTS[0], 1, 2.0 * MOST)?;
    wire.reload("[links.wire1]\nreceive = \"3 Mbit/s\"\n")?;
    ensure!(wire.row()?["cap"] == 3_000_000, "{}", wire.row()?);
    let half = MOST / 2.0;
    for _ in 0..ATTEMPTS {
        let rate = rate(&mut wire.meter("a", PORTS[0])?, OF_UDP)?;
        println!("UDP: {rate:.3} of {half}");
        ensure!(rate <= 1.03 * half, "{rate} Mbit/s of {half}");
        if rate >= 0.95 * half {
            sender.finish()?;
            return wire.reload(BOUNDED);
        }
    }
    anyhow::bail!("UDP: never right; {}", wire.row()?)
}

/// Sends so many datagrams to a port, from two processes: BURST ADDRESS PORT COUNT
const BURST: &str = "\
import os, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
child = os.fork()
own = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(count // 2):
    own.sendto(b'x' * 1000, (address, port))
if child:
    os.waitpid(child, 0)
";
/// A socket that is open until its input ends: HOLD PORT
const HOLD: &str = "\
import socket, sys
own = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
own.bind(('::', int(sys.argv[1])))
print('ready', flush=True)
sys.stdin.read()
";
const BURSTS: u64 = 1200;

impl Wire<'_, '_> {
    /// A socket of the bounded slice, to which nobody sends yet.
    fn hold(&self) -> Result<Running> {
        let port = PORTS[0].to_string();
        let command = self.site.in_slice("a", &["python3", "-c", HOLD, &port]);
        let holds = self.site.start("hold", command)?;
        until("the socket is there", || {
            Ok(holds.output().contains("ready"))
        })?;
        Ok(holds)
    }
}

/// Each datagram is counted once, by whichever CPU it comes, and what reaches the slice
/// is what its own counters say. Returns packets received and dropped.
fn counted(wire: &Wire, address: &str) -> Result<(u64, u64)> {
    let holds = wire.hold()?;
    let counters = wire.site.counters()?;
    let before = (wire.came()?, wire.row()?);
    let (port, count) = (PORTS[0].to_string(), BURSTS.to_string());
    let start = Instant::now();
    wire.beyond
        .must(&["python3", "-c", BURST, address, &port, &count])?;
    let (came, row) = (wire.came()? - before.0, wire.row()?);
    let took = start.elapsed();
    let change = wire.site.counters()?.since(&counters);
    holds.finish()?;
    let moved = |name: &str| -> Result<u64> {
        let of = |row: &Value| row[name].as_u64().with_context(|| format!("{row}"));
        Ok(of(&row)? - of(&before.1)?)
    };
    let (received, policed) = (moved("received_packets")?, moved("policed_packets")?);
    let bytes = moved("received_bytes")?;
    println!("{address}: {came} came, {received} received, {policed} dropped in {took:?}");
    let counted = |name: &str| u64::try_from(change.by("a", name)).unwrap_or(0);
    ensure!(
        came > BURSTS / 2
            && received + policed == came
            && counted("external.received.packets") == received
            && counted("external.received.bytes") == bytes,
        "{came} came, {received} and {policed} counted, {change}"
    );
    // What a burst may have, what comes in the time, and a packet of each CPU.
    let most = MOST * 1e6 / 8.0 * (took.as_secs_f64() + 0.3) + 4.0 * 1048.0;
    #[allow(clippy::cast_precision_loss, reason = "some megabytes")]
    let bytes = bytes as f64;
    ensure!(bytes <= most, "{bytes} bytes of {most} in {took:?}");
    Ok((received, policed))
}

/// What stays in the node does not come by the link.
fn inside(wire: &Wire) -> Result<()> {
    let holds = wire.hold()?;
    let before = (wire.row()?, wire.site.counters()?);
    let burst = ["python3", "-c", BURST, NODE[0], "9100", "600"];
    let output = wire.site.run_in("a", &burst)?;
    ensure!(output.status == 0, "{}", output.stderr);
    let (row, change) = (wire.row()?, wire.site.counters()?.since(&before.1));
    holds.finish()?;
    let count = |row: &Value| (row["received_bytes"].clone(), row["policed_bytes"].clone());
    ensure!(
        count(&row) == count(&before.0) && change.by("a", "loopback.received.packets") >= 300,
        "{row} after {}, {change}",
        before.0
    );
    Ok(())
}

/// A reload lifts the bound, and brings it again.
fn lifted(wire: &Wire) -> Result<()> {
    wire.reload("")?;
    ensure!(wire.row()?.is_null(), "{}", wire.row()?);
    let counters = wire.site.counters()?;
    let holds = wire.hold()?;
    let burst = ["python3", "-c", BURST, NODE[0], "9100", "1000"];
    wire.beyond.must(&burst)?;
    let change = wire.site.counters()?.since(&counters);
    ensure!(
        change.by("a", "external.received.packets") == 1000,
        "{change}"
    );
    holds.finish()?;
    wire.reload(BOUNDED)?;
    let (_, policed) = counted(wire, NODE[1])?;
    ensure!(policed > 0, "nothing is bounded again: {}", wire.row()?);
    above(wire)
}

/// What comes by a device above the link comes by the link.
fn above(wire: &Wire) -> Result<()> {
    for (line, beyond) in [
        ("link add link wire1 name wire1.7 type vlan id 7", false),
        ("link add link wire1 name wire1.7 type vlan id 7", true),
        ("addr add 198.51.100.1/24 dev wire1.7", false),
        ("link set wire1.7 up", false),
        ("addr add 198.51.100.2/24 dev wire1.7", true),
        ("link set wire1.7 up", true),
    ] {
        let line: Vec<_> = line.split(' ').collect();
        if beyond {
            wire.beyond.must(&[&["ip"][..], &line].concat())?;
        } else {
            wire.node.must("ip", &line)?;
        }
    }
    wire.site.must(&["reload"])?;
    let (received, policed) = counted(wire, "198.51.100.1")?;
    ensure!(received > 0 && policed > 0, "{}", wire.row()?);
    Ok(())
}
