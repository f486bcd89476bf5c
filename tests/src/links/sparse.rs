//! A flow that sends little beside those of its slice that send much.

use anyhow::{Context, Result, ensure};

use super::{ATTEMPTS, FIRST, OF_TCP};
use crate::bench::flood::Arrived;
use crate::beyond::{Beyond, PEER};
use crate::node::Node;
use crate::site::{Site, until};

/// The slice's cap, Mbit/s.
const CAP: f64 = 5.0;
/// Microseconds that half of the flow's datagrams take at most.
const MEDIAN_US: f64 = 5_000.0;

/// A datagram every 10 ms beside eight connections.
pub fn stays_quick(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let capped = format!("[link]\ncap = \"{CAP} Mbit/s\"\n");
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/a.toml", &capped),
        ],
    )?;
    let program = std::env::current_exe()?;
    let program = program.to_str().context("a path in UTF-8")?;
    let [bulk, little] = [0, 1].map(|number| format!("{}:{}", PEER[0], FIRST + number));
    let first = FIRST.to_string();
    let mut told = String::new();
    for _ in 0..ATTEMPTS {
        let meter = [
            program, "flood", "meter", &first, "2", "--after", "1500", "--during", "4000",
        ];
        let mut meter = site.start("meter", beyond.command(&meter))?;
        until("the meter is ready", || {
            Ok(meter.output().contains("ready"))
        })?;
        let send = |name, words: &[&str]| {
            let command = [&[program, "flood", "send"], words].concat();
            site.start(name, site.in_slice("a", &command))
        };
        let bulk = send("bulk", &["tcp", &bulk, "--flows", "8"])?;
        let little = send("little", &["sparse", &little])?;
        until("the meter has measured", || Ok(meter.ended()?.is_some()))?;
        for sender in [bulk, little] {
            println!("{}", sender.finish()?);
        }
        let output = meter.output();
        let line = output.lines().last().context("the meter says nothing")?;
        let arrived: Arrived = serde_json::from_str(line).with_context(|| output.clone())?;
        let (rate, delays) = (arrived.rates()[0] / OF_TCP, &arrived.delays_us);
        ensure!(rate <= 1.04 * CAP, "{rate:.2} Mbit/s");
        let median = delays.get(delays.len() / 2).copied().unwrap_or(f64::MAX);
        told = format!(
            "{median:.0e} us, {} datagrams, {rate:.2} Mbit/s beside",
            delays.len()
        );
        println!("{told}");
        if median < MEDIAN_US && delays.len() >= 200 && rate >= 0.7 * CAP {
            return Ok(());
        }
    }
    anyhow::bail!("{told}")
}
