//! As many packets in a second as a slice may send.

use anyhow::{Result, ensure};

use super::Wire;
use crate::beyond::Beyond;
use crate::node::Node;
use crate::site::Site;

/// In a second, and octets of a full one of UDP and of TCP on the wire.
const MOST: f64 = 200.0;
const OCTETS: [f64; 2] = [1442.0, 1514.0];

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
    let [udp, tcp] = OCTETS.map(|octets| MOST * octets * 8.0 / 1e6);
    // At twice the packets that it may, and no more: a machine that is emulated has
    // better to do.
    // What they may not send is the other's, although its share is less.
    wire.are(
        "packets",
        &[
            ("u", "udp", 1, 4.0),
            ("t", "tcp", 1, 0.0),
            ("o", "tcp", 1, 0.0),
        ],
        &[udp, tcp, 10.0 - udp - tcp],
    )?;
    let rows = site.json(&["link"])?[0]["rows"].take();
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let row = rows.iter().find(|row| row["owner"]["name"] == "u");
    ensure!(
        row.is_some_and(
            |row| row["packets_cap"] == 200 && row["dropped_packets"].as_u64() > Some(0)
        ),
        "{rows:?}"
    );
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}
