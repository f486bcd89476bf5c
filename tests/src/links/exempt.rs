//! What goes to networks that do not count.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Wire;
use super::quota::Forget;
use crate::beyond::Beyond;
use crate::node::Node;
use crate::site::Site;

fn node_file(exempt: &str) -> String {
    format!("[links.wire1]\nrate = \"10 Mbit/s\"\nexempt = [{exempt}]\n")
}

/// What `slice link` says of the slice `a`.
fn row(site: &Site) -> Result<Value> {
    let links = site.json(&["link"])?;
    let rows = links[0]["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|row| row["owner"]["name"] == "a");
    Ok(row.with_context(|| format!("a is not in {links}"))?.clone())
}

pub fn goes_above_the_cap(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", &node_file("\"2001:db8::/64\"")),
            (
                "slices/a.toml",
                "[link]\ncap = \"1 Mbit/s\"\nquota = \"1 MB\"\nexempt_cap = \"4 Mbit/s\"\n",
            ),
        ],
    )?;
    let _forget = Forget;
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    // One to the IPv4 address of the other machine, one to its IPv6 address.
    let senders = [("a", "tcp", 1, 0.0), ("a", "udp", 1, 0.0)];
    let rates = wire.carries(&senders)?;
    println!("IPv6 is exempt: {rates:.3?}");
    ensure!(
        rates[0] <= 1.04 && (0.8 * 4.0..=1.04 * 4.0).contains(&rates[1]),
        "IPv6 is exempt: {rates:.3?} Mbit/s, {}",
        site.must(&["link"])?
    );
    let counted = row(&site)?;
    let number = |value: &Value| value.as_u64().with_context(|| format!("{counted}"));
    let (capped, exempt) = (&counted["sent_bytes"], &counted["exempt"]);
    ensure!(
        exempt["cap"] == 4_000_000
            && number(&exempt["sent_bytes"])? > 2 * number(capped)?
            && number(&counted["quota"]["used"])? == number(capped)?
            && number(&exempt["dropped_packets"])? > 0,
        "{counted}"
    );
    // Other networks, while it is up. By now little is left of the quota.
    site.write("node.toml", &node_file("\"192.0.2.0/30\", \"10.0.0.0/8\""))?;
    site.must(&["reload"])?;
    let rates = wire.carries(&senders)?;
    println!("IPv4 is exempt: {rates:.3?}");
    ensure!(
        (0.8 * 4.0..=1.04 * 4.0).contains(&rates[0]) && rates[1] <= 1.04,
        "IPv4 is exempt: {rates:.3?} Mbit/s, {}",
        site.must(&["link"])?
    );
    site.write("node.toml", &node_file(""))?;
    site.write("slices/a.toml", "")?;
    site.must(&["reload"])?;
    ensure!(row(&site)?["exempt"].is_null(), "{}", row(&site)?);
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}
