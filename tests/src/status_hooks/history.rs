//! What went out on links in the last hour, as the daemon keeps it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MANAGER, SLICE, get};
use crate::beyond::{Beyond, PEER};
use crate::openmetrics;
use crate::site::{Site, until};

/// Datagrams of 1,000 bytes that are sent, and what each is on the wire.
const COUNT: u64 = 50;
const ON_WIRE: u64 = 1042;

/// The row of an owner in a document, if it has one.
fn row(document: &Value, owner: &str) -> Option<Value> {
    let rows = document["links"][0]["rows"].as_array()?;
    rows.iter()
        .find(|row| row["owner"]["name"] == owner)
        .cloned()
}

/// A slice sends, and it, the monitor and the node's owner are told the same of it.
pub fn is_told(site: &Site<'_>, _wire: &Beyond<'_>) -> Result<()> {
    // What is sent before the daemon has looked for the first time is in no step.
    let told = || site.json(&["link", "--history"]);
    until("there is a step", || {
        let steps = told()?["steps"].as_array().map_or(0, Vec::len);
        Ok(steps > 0)
    })?;
    let send = format!(
        "import socket, time\ns = socket.socket(type=socket.SOCK_DGRAM)\n\
         for _ in range({COUNT}):\n    s.sendto(bytes(1000), ('{}', 9))\n    time.sleep(0.002)\n",
        PEER[0]
    );
    site.must(&["exec", SLICE, "--", "python3", "-c", &send])?;
    let mut document = Value::Null;
    until("what it sent is in a step", || {
        document = told()?;
        Ok(row(&document, SLICE).is_some_and(|row| row["sent_bytes"] == COUNT * ON_WIRE))
    })
    .with_context(|| document.to_string())?;
    let its = row(&document, SLICE).context("no row")?;
    let number = |list: &Value| -> Vec<u64> {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_u64).collect()
    };
    let sends = number(&its["sends"]);
    let steps = document["steps"].as_array().cloned().unwrap_or_default();
    let bytes = sends.iter().zip(&steps);
    let bytes: u64 = bytes
        .map(|(rate, step)| rate * step["over_ms"].as_u64().unwrap_or(0) / 8000)
        .sum();
    let all = COUNT * ON_WIRE;
    ensure!(bytes.abs_diff(all) * 100 < all, "{bytes} are not {all}");

    let path = "/v1/links/history";
    let (own, theirs) = (
        get(site, SLICE, path)?.json()?,
        get(site, MANAGER, path)?.json()?,
    );
    for document in [&own, &theirs] {
        let row = row(document, SLICE).context("no row")?;
        ensure!(row["sent_bytes"] == all, "{document}");
    }
    let rows = own["links"][0]["rows"].as_array().map_or(0, Vec::len);
    ensure!(rows == 1 && own["links"][0]["others"].is_null(), "{own}");

    let lint = "curl -sSf -H 'Accept: text/plain' --unix-socket /run/slice/status.sock \
                http://slice/metrics > /tmp/metrics && promtool check metrics < /tmp/metrics 2>&1";
    let found = site.must(&["exec", MANAGER, "--", "sh", "-c", lint])?;
    ensure!(found.trim().is_empty(), "promtool finds: {found}");
    let metrics = openmetrics::read(&get(site, MANAGER, "/metrics")?.body)?;
    let series = format!("slice_link_sent_bytes_total{{slice=\"{SLICE}\",link=\"wire1\"}}");
    ensure!(metrics.get(&series) == Some(&(all as f64)), "{metrics:?}");
    let rate = metrics.get("slice_link_rate_bytes_per_second{link=\"wire1\"}");
    ensure!(rate == Some(&1_250_000.0), "{rate:?}");

    let table = site.must(&["link", "--history", "--since", "10m", "--limit", "1"])?;
    ensure!(table.contains("MEAN") && table.contains("wire1"), "{table}");
    let live = site.must(&["link", "--live", "--interval", "1"])?;
    ensure!(live.contains(SLICE) && live.contains("DROPS/S"), "{live}");
    Ok(())
}
