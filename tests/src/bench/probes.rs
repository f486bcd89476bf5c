//! The same program that measures a network, in a slice and as root of the
//! node, which no slice owns: on one node that is up, by turns.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::policy;
use super::probe::{FAR_STATION, Kind, NEAR_STATION, NOBODY};
use super::sample::{Goal, Sample, measure};
use super::wire::{self, Wire};
use crate::image;
use crate::node::Node;

/// Interleaved repeats.
const REPEATS: usize = 7;
/// Milliseconds of one.
const TIME_MS: u64 = 700;

const SLICE: &str = "prober";
/// The port that the slice sends from, and the one of the node's root.
const PORTS: [u16; 2] = [9000, 9001];
/// Where the slice has the program.
const PROGRAM: &str = "/root/slice-tests";

struct Case {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
    goal: Goal,
}

const CASES: &[Case] = &[
    Case {
        name: "open and close a raw socket",
        unit: "ms",
        kind: Kind::Open,
        goal: Goal::RatioAtMost(10.0),
    },
    Case {
        name: "open and close a packet socket",
        unit: "ms",
        kind: Kind::OpenPacket,
        goal: Goal::RatioAtMost(10.0),
    },
    Case {
        name: "packets from a raw socket",
        unit: "1/s",
        kind: Kind::SendRaw,
        goal: Goal::RatioAtLeast(0.9),
    },
    Case {
        name: "frames from a packet socket",
        unit: "1/s",
        kind: Kind::SendFrames,
        goal: Goal::RatioAtLeast(0.9),
    },
    Case {
        name: "packets captured, none lost",
        unit: "1/s",
        kind: Kind::Capture,
        goal: Goal::RatioAtLeast(0.8),
    },
    Case {
        name: "round trip of an echo",
        unit: "us",
        kind: Kind::Echo,
        goal: Goal::RatioAtMost(1.05),
    },
];

/// Milliseconds that opening may take where the machine is emulated.
const OPEN_MS: f64 = 2.0;

/// Measures each case in the slice and outside by turns.
///
/// # Errors
/// The node does not come up, or something is refused.
pub fn measures(bench: &str) -> Result<Vec<Measure>> {
    let node = Node::new("bench")?;
    let slice = format!(
        "raw = \"safe\"\nports.udp = [{}]\n[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\n",
        PORTS[0]
    );
    policy::write("", &[(SLICE, &slice)])?;
    image::debian(&node)?;
    let _wire = Wire::new()?;
    let stations = [NEAR_STATION, FAR_STATION]
        .map(|octets| octets.map(|octet| format!("{octet:02x}")).join(":"));
    for command in [
        format!("ip link set bench0 address {}", stations[0]),
        format!("ip -n slice-bench link set bench1 address {}", stations[1]),
        format!("ip neigh add {NOBODY} lladdr {} dev bench0", stations[1]),
    ] {
        wire::run(&command)?;
    }
    let _far = FarEnd::new()?;
    wire::run(&format!("slice --policy {} up", policy::DIRECTORY))?;
    let samples = measured();
    wire::run("slice down")?;
    let samples = samples?;
    let mut lines = Vec::new();
    for (case, [ours, bare]) in CASES.iter().zip(&samples) {
        let peer = Some(("root of the node", bare));
        let name = case.name.to_owned();
        lines.push(measure(bench, name, case.unit, ours, peer, case.goal));
        if case.unit == "ms" {
            let name = format!("{}, one", case.name);
            lines.push(measure(
                bench,
                name,
                "ms",
                ours,
                None,
                Goal::AtMost(OPEN_MS),
            ));
        }
    }
    Ok(lines)
}

/// In the slice and outside, for each case.
fn measured() -> Result<Vec<[Sample; 2]>> {
    wire::run(&format!("slice start {SLICE}"))?;
    let program = std::env::current_exe()?;
    // The slice's root is the distribution of this machine, without its tests.
    let copied = Command::new("slice")
        .args(["exec", SLICE, "--", "sh", "-c"])
        .arg(format!("cat >{PROGRAM} && chmod +x {PROGRAM}"))
        .stdin(File::open(&program)?)
        .status()?;
    ensure!(
        copied.success(),
        "copy the program into the slice: {copied}"
    );
    let outside = program.display().to_string();
    let ways = [format!("slice exec {SLICE} -- {PROGRAM}"), outside];
    let mut samples = vec![<[Sample; 2]>::default(); CASES.len()];
    for repeat in 0..REPEATS {
        for (case, samples) in CASES.iter().zip(&mut samples) {
            // Which comes first changes, so that a drift favours neither.
            for at in [repeat % 2, 1 - repeat % 2] {
                let number = wire::run(&format!(
                    "{} probe {} --port {} --time {TIME_MS}",
                    ways[at],
                    case.kind.name(),
                    PORTS[at]
                ))
                .context(case.name)?;
                let number = number.trim().parse();
                samples[at].add(number.context("read the number")?);
            }
        }
    }
    Ok(samples)
}

/// Who sends datagrams at the far end. Gone when dropped.
struct FarEnd(Child);

impl FarEnd {
    fn new() -> Result<FarEnd> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", "slice-bench"])
            .arg(std::env::current_exe()?)
            .arg("probe")
            .stdout(Stdio::piped())
            .spawn()
            .context("start the far end")?;
        let output = child.stdout.take();
        let end = FarEnd(child);
        // It says so when it listens.
        output
            .context("hear from the far end")?
            .read_exact(&mut [0])
            .context("hear from the far end")?;
        Ok(end)
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
