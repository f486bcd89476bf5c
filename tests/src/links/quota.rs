//! What a slice may send in a period.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Wire, row};
use crate::beyond::{Beyond, PEER};
use crate::node::Node;
use crate::site::{Site, until};

const FILE: &str = "/var/lib/slice/quotas.json";
const QUOTA: u64 = 1_000_000;
const POLICY: &str = "[link]\nquota = \"1 MB\"\nquota_period = \"10 min\"\n";

/// What `slice link` says of a slice's quota.
fn quota_of(site: &Site, slice: &str) -> Result<Value> {
    Ok(row(site, slice)?["quota"].take())
}

fn used(site: &Site, slice: &str) -> Result<u64> {
    let quota = quota_of(site, slice)?;
    quota["used"].as_u64().with_context(|| format!("{quota}"))
}

/// Forgets, at the end, what slices of other tests have sent.
pub struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        let _ = fs::remove_file(FILE);
    }
}

pub fn leaves_its_floor(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/q.toml", POLICY),
            (
                "slices/f.toml",
                &format!("{POLICY}floor = \"1 Mbit/s\"\ncap = \"5 Mbit/s\"\n"),
            ),
        ],
    )?;
    let _forget = Forget;
    let wire = Wire {
        site: &site,
        beyond: &beyond,
    };
    // Two seconds after the first byte both have long sent nine tenths: at 5 Mbit/s
    // that takes one and a half.
    let senders = [("f", "tcp", 1, 0.0), ("q", "udp", 1, 0.0)];
    let rates = wire.carries(&senders)?;
    println!("quotas leave {rates:.3?}");
    ensure!(
        (0.9..=1.04).contains(&rates[0]) && rates[1] < 0.05,
        "quotas leave {rates:.3?}: {}",
        site.must(&["link"])?
    );
    let before = quota_of(&site, "q")?;
    let sent = used(&site, "q")?;
    // It went on to send a thousand times as fast as it may.
    ensure!((QUOTA * 9 / 10..QUOTA).contains(&sent), "{before}");
    ensure!(before["limit"] == QUOTA, "{before}");
    ensure!(before["left"] == QUOTA - sent, "{before}");
    let cap = before["cap"].as_u64().context("no cap")?;
    ensure!((800..=1600).contains(&cap), "{before}");

    let is_kept = |what: &str| -> Result<()> {
        let quota = quota_of(&site, "q")?;
        let now = quota["used"].as_u64().context("no quota")?;
        ensure!(
            (sent..QUOTA).contains(&now),
            "after {what}: {quota} of {before}"
        );
        Ok(())
    };
    site.remove("slices/q.toml")?;
    site.must(&["reload"])?;
    site.write("slices/q.toml", POLICY)?;
    site.must(&["reload"])?;
    is_kept("it was made anew")?;
    site.write("slices/q.toml", "")?;
    site.must(&["reload"])?;
    ensure!(quota_of(&site, "q")?.is_null(), "a quota that is gone");
    site.write("slices/q.toml", POLICY)?;
    site.must(&["reload"])?;
    is_kept("it had none for a while")?;
    // The daemon writes down what a power cut would take away.
    fs::remove_file(FILE)?;
    let daemon = site.daemon()?;
    until("it is written down", || {
        Ok(fs::read_to_string(FILE).is_ok_and(|text| text.contains("\"q\"")))
    })?;
    daemon.kill()?;
    is_kept("the daemon was killed")?;
    // A calendar that is set is no matter within one boot.
    let now = calendar()?;
    node.must("date", &["-s", &format!("@{}", now + 40 * 86_400)])?;
    let again = site
        .must(&["down"])
        .and_then(|_| site.must(&["up"]))
        .and_then(|_| is_kept("down, up and another date"));
    node.must("date", &["-s", &format!("@{}", calendar()? - 40 * 86_400)])?;
    again?;

    // As if the machine had been off for nearly the rest of the period.
    site.must(&["down"])?;
    let mut entries: Value = serde_json::from_str(&fs::read_to_string(FILE)?)?;
    for entry in entries.as_array_mut().context("no list")? {
        entry["left_ns"] = 20_000_000_000_u64.into();
        entry["when"]["boot"] = "another".into();
        entry["when"]["calendar_ns"] = (calendar()? * 1_000_000_000).into();
    }
    fs::write(FILE, entries.to_string())?;
    site.must(&["up"])?;
    is_kept("the machine came up again")?;
    until("the next period begins", || Ok(used(&site, "q")? == 0))?;
    // That the program knows it: it would go on from where the old one ended.
    let send = "import socket\n\
                own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                for _ in range(4): own.sendto(bytes(1400), (__import__('sys').argv[1], 9199))\n";
    site.run_in("q", &["python3", "-c", send, PEER[0]])?;
    let quota = quota_of(&site, "q")?;
    let now = used(&site, "q")?;
    ensure!(
        now > 1400 && now < 10_000 && quota["cap"].is_null(),
        "{quota}"
    );
    site.must(&["down"])?;
    drop(beyond);
    Ok(())
}

/// Seconds since 1970.
fn calendar() -> Result<u64> {
    Ok(std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs())
}
