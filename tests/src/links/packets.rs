//! As many packets in a second as a slice may send.

use anyhow::{Context, Result, ensure};

use super::{WITHIN, Wire, row};
use crate::beyond::{Beyond, PEER};
use crate::node::Node;
use crate::site::Site;

/// In a second, and octets of a full one of UDP and of TCP on the wire.
const MOST: f64 = 200.0;
const OCTETS: [f64; 2] = [1442.0, 1514.0];

/// Sends datagrams of 120 packets each: MANY ADDRESS
const MANY: &str = "\
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.setsockopt(socket.IPPROTO_UDP, 103, 100)
for _ in range(4):
    try:
        own.sendto(b'x' * 12000, (sys.argv[1], 9))
    except OSError:
        pass
";

/// Sends now and then a datagram, more than go ahead of what waits: FEW ADDRESS
const FEW: &str = "\
import socket, sys, time
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(6):
    own.sendto(b'x' * 1400, (sys.argv[1], 9))
    time.sleep(0.02)
";

/// Who may send more waits no longer for what it sent when it might not.
fn lifted(site: &Site) -> Result<()> {
    site.write("slices/u.toml", "[link]\npackets = 100\n")?;
    site.must(&["reload"])?;
    // They take 1.2 s each: of the third, nothing is stamped.
    let output = site.run_in("u", &["python3", "-c", MANY, PEER[0]])?;
    ensure!(output.status == 0, "{}", output.stderr);
    let counted = || -> Result<[u64; 2]> {
        let row = row(site, "u")?;
        let number = |name: &str| row[name].as_u64().with_context(|| format!("{row}"));
        Ok([number("waits_us")?, number("dropped_packets")?])
    };
    let [waits, _] = counted()?;
    ensure!(waits > 0 && waits < 2_400_000, "{waits} us wait of 2.4 s");
    site.write("slices/u.toml", "")?;
    site.must(&["reload"])?;
    let [_, before] = counted()?;
    let output = site.run_in("u", &["python3", "-c", FEW, PEER[0]])?;
    ensure!(output.status == 0, "{}", output.stderr);
    let [_, after] = counted()?;
    ensure!(after == before, "{} dropped", after - before);
    Ok(())
}

pub fn are_capped(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let capped = format!("[link]\nshare = 5\npackets = {MOST}\n");
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/u.toml", &capped),
            ("slices/t.toml", &capped),
            ("slices/o.toml", ""),
        ],
    )?;
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    lifted(&site)?;
    site.write("slices/u.toml", &capped)?;
    site.must(&["reload"])?;
    let [udp, tcp] = OCTETS.map(|octets| MOST * octets * 8.0 / 1e6);
    // At twice the packets that it may, and no more: a machine that is emulated has
    // better to do.
    // What they may not send is the other's, although its share is less.
    // That one asks for all of it, which a CPU that stands still leaves in part: the
    // bounds hold whatever is carried beside them.
    let rest = 10.0 - udp - tcp;
    wire.show(
        "packets",
        &[
            ("u", "udp", 1, 4.0),
            ("t", "tcp", 1, 0.0),
            ("o", "tcp", 1, 0.0),
        ],
        |rates, _| {
            let kept =
                |rate: f64, bound: f64| rate <= 1.04 * bound && rate >= (1.0 - WITHIN) * bound;
            kept(rates[0], udp) && kept(rates[1], tcp) && rates[2] >= 0.7 * rest
        },
    )?;
    let row = row(&site, "u")?;
    ensure!(
        row["packets_cap"] == 200 && row["dropped_packets"].as_u64() > Some(0),
        "{row}"
    );
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}
