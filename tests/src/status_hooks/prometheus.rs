//! The distribution's Prometheus, unprivileged, in a management slice: its linter
//! and its scraper read what the node says, and the dashboard asks it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{MANAGER, names, open};
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::until;
use crate::stage::Stage;

pub const TEST: Test = test(
    "prometheus_in_a_slice_scrapes_the_node_and_its_linter_finds_no_fault",
    prometheus_in_a_slice,
)
.on_stage()
.once();

/// The pages whose words are tried.
const MANUAL: &str = include_str!("../../../docs/status.md");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/slice.json");
const ASK: &str = include_str!("prometheus.py");

/// Samples: labels and value.
type Samples = Vec<(BTreeMap<String, String>, String)>;

/// The manual's configuration, hastened.
fn configuration() -> Result<String> {
    let (_, text) = MANUAL
        .split_once("# prometheus.yml\n")
        .context("no prometheus.yml in the manual")?;
    let (text, _) = text.split_once("```").context("no end")?;
    ensure!(text.contains("scrape_interval: 15s"), "{text}");
    Ok(text.replace("15s", "1s"))
}

/// The manual's command for what stands between Prometheus and the socket.
fn between() -> Result<Vec<&'static str>> {
    let line = MANUAL
        .lines()
        .find_map(|line| line.strip_prefix("monitor$ socat "))
        .context("no socat in the manual")?;
    Ok(line.trim_end_matches('&').split_whitespace().collect())
}

/// What the dashboard asks; the stage has no links.
fn queries() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let queries = targets
        .map(|target| target["expr"].as_str().context("no query"))
        .collect::<Result<Vec<_>>>()?;
    let queries = queries
        .iter()
        .filter(|query| !query.contains("slice_link_"));
    Ok(queries
        .map(|query| {
            query
                .replace("$__rate_interval", "1m")
                .replace("$slice", ".*")
        })
        .collect())
}

fn prometheus_in_a_slice(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    // So that there is a denial.
    let denied = "import socket; socket.socket().bind(('', 2222))";
    site.run_in("alpha", &["python3", "-c", denied])?;
    let stage = Stage::open(node)?;
    let granted = |text: &str| format!("role = \"management\"\ngrants = [\"status\"]\n{text}");
    let nobody = ["exec", "--user", "nobody", MANAGER, "--"];
    let started = |name: &str, words: &[&str]| {
        let mut command = Command::new("slice");
        command.args(nobody).args(words);
        site.start(name, command)
    };
    stage.with_policy(MANAGER, granted, || {
        let lint = "curl -sSf -H 'Accept: text/plain' --unix-socket /run/slice/status.sock \
                    http://slice/metrics | promtool check metrics 2>&1";
        let linted = || site.must(&[&nobody[..], &["sh", "-c", lint]].concat());
        let found = linted()?;
        ensure!(found.trim().is_empty(), "promtool finds: {found}");

        let socat = started("socat", &[&["socat"], &between()?[..]].concat())?;
        let write = format!("cat > /tmp/prometheus.yml <<'.'\n{}.\n", configuration()?);
        site.must(&[&nobody[..], &["sh", "-c", &write]].concat())?;
        let check = ["promtool", "check", "config", "/tmp/prometheus.yml"];
        site.must(&[&nobody[..], &check].concat())?;
        let prometheus = started(
            "prometheus",
            &[
                "prometheus",
                "--config.file=/tmp/prometheus.yml",
                "--storage.tsdb.path=/tmp/prometheus",
                "--web.listen-address=127.0.0.1:9090",
            ],
        )?;
        let mut asked = vec![
            "count(slice_info)".to_owned(),
            "slice_sockets_limit{slice=\"small\"}".to_owned(),
        ];
        asked.extend(queries()?);
        let asked_text = serde_json::to_string(&asked)?;
        let words = ["python3", "-c", ASK, &asked_text];
        let told = site
            .must(&[&nobody[..], &words].concat())
            .with_context(|| format!("{} {}", socat.output(), prometheus.output()))?;
        let told: Vec<Samples> = serde_json::from_str(&told)?;
        let value = |of: usize| told[of].first().map(|(_, value)| value.as_str());
        let rows = names(&site)?.len().to_string();
        ensure!(value(0) == Some(&rows), "{:?} are not {rows}", told[0]);
        ensure!(value(1) == Some("4"), "{:?}", told[1]);
        for (query, samples) in asked.iter().zip(&told) {
            println!("{:4} {query}", samples.len());
            ensure!(!samples.is_empty(), "nothing for {query}");
            let number = |value: &str| value.parse().is_ok_and(f64::is_finite);
            let (_, value) = &samples[0];
            ensure!(number(value), "{query} is {value}");
        }
        Ok(())
    })?;
    node.must("slice", &["stop", MANAGER])?;
    until("it is gone", || {
        Ok(node.run("slice", &["exec", MANAGER, "--", "true"])?.status != 0)
    })
}
