//! What goes to networks that do not count.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::quota::Forget;
use super::{ATTEMPTS, Wire};
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
    let counted = row(&site)?;
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
    site.write("node.toml", &node_file(""))?;
    site.write("slices/a.toml", "")?;
    site.must(&["reload"])?;
    ensure!(row(&site)?["exempt"].is_null(), "{}", row(&site)?);
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}
