//! What goes to networks that do not count.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::quota::Forget;
use super::{ATTEMPTS, Wire, row};
use crate::beyond::{Beyond, PEER};
use crate::image;
use crate::node::Node;
use crate::site::Site;

/// Sends echo requests by a raw socket: ECHOES ADDRESS
const ECHOES: &str = "\
import socket, struct, sys, time
own = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
for number in range(20):
    own.sendto(struct.pack('!BBHHH', 8, 0, 0, 4321, number) + b'x' * 1000, (sys.argv[1], 0))
    time.sleep(0.01)
";

fn node_file(exempt: &str) -> String {
    format!("[links.wire1]\nrate = \"10 Mbit/s\"\nexempt = [{exempt}]\n")
}

/// What a program writes itself may have one address in its header and reach another.
fn are_not_of_raw_sockets(site: &Site) -> Result<()> {
    site.must(&["exec", "r", "--", "python3", "-c", ECHOES, PEER[0]])?;
    let counted = row(site, "r")?;
    let sent = counted["sent_bytes"].as_u64();
    ensure!(
        sent >= Some(20 * 1042) && counted["exempt"]["sent_bytes"] == 0,
        "{counted}"
    );
    site.must(&["stop", "r"])?;
    Ok(())
}

pub fn goes_above_the_cap(node: &mut Node) -> Result<()> {
    image::debian(node)?;
    let beyond = Beyond::open(node)?;
    let site = Site::up(
        node,
        &[
            (
                "slices/r.toml",
                "raw = \"safe\"\n[context]\nimage = \"debian\"\nstop_after = \"0 s\"\n",
            ),
            ("node.toml", &node_file("\"2001:db8::/64\"")),
            (
                "slices/a.toml",
                "[link]\ncap = \"1 Mbit/s\"\nquota = \"1 MB\"\nexempt_cap = \"4 Mbit/s\"\n",
            ),
        ],
    )?;
    let _forget = Forget;
    site.must(&["start", "r"])?;
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    // One to the IPv4 address of the other machine, one to its IPv6 address.
    let senders = [("a", "tcp", 1, 0.0), ("a", "tcp", 1, 0.0)];
    let carries = |what: &str, exempt: usize| -> Result<()> {
        for _ in 0..ATTEMPTS {
            let rates = wire.carries(&senders)?;
            println!("{what}: {rates:.3?}");
            let (apart, capped) = (rates[exempt], rates[1 - exempt]);
            ensure!(apart <= 1.04 * 4.0 && capped <= 1.04, "{what}: {rates:.3?}");
            if apart >= 0.8 * 4.0 {
                return Ok(());
            }
        }
        anyhow::bail!("{what}: never right; {}", site.must(&["link"])?)
    };
    carries("IPv6 is exempt", 1)?;
    let counted = row(&site, "a")?;
    let number = |value: &Value| value.as_u64().with_context(|| format!("{counted}"));
    let (capped, exempt) = (&counted["sent_bytes"], &counted["exempt"]);
    ensure!(
        exempt["cap"] == 4_000_000
            && number(&exempt["sent_bytes"])? > 2 * number(capped)?
            && number(&counted["quota"]["used"])? == number(capped)?,
        "{counted}"
    );
    // Other networks, while it is up. By now little is left of the quota.
    site.write("node.toml", &node_file("\"192.0.2.0/30\", \"10.0.0.0/8\""))?;
    site.must(&["reload"])?;
    carries("IPv4 is exempt", 0)?;
    are_not_of_raw_sockets(&site)?;
    site.write("node.toml", &node_file(""))?;
    site.write("slices/a.toml", "")?;
    site.must(&["reload"])?;
    ensure!(row(&site, "a")?["exempt"].is_null(), "{}", row(&site, "a")?);
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}
