//! What the two packet programs cost, on any machine: they run on packets
//! that nobody sent (`BPF_PROG_TEST_RUN`), unattached, beside a program that
//! does nothing; the difference is the program's own.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use policy::abi::{TCP, UDP};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Measure;
use super::bpf;
use super::loaded::{Direction, Hold, Loaded, Pair};
use super::sample::{Goal, Sample, measure, unmeasured};
use super::socket::Past;

/// Interleaved repeats of every measure.
const REPEATS: usize = 9;
/// Packets of one repeat.
const PACKETS: u32 = 100_000;
/// Goal for one packet in one direction, nanoseconds.
const GOAL_NS: f64 = 150.0;
/// Goal for 10,000 slices against one.
const GOAL_FLAT: f64 = 1.15;

/// Slices and ports of the nodes that are measured.
const NODES: &[(u32, u16)] = &[(1, 1_000), (100, 1_000), (10_000, 1_000), (100, 1), (100, 60_000)];

struct Case {
    name: &'static str,
    direction: Direction,
    protocol: u8,
    ipv6: bool,
    hold: Hold,
    past: Past,
}

const fn case(
    name: &'static str,
    direction: Direction,
    protocol: u8,
    ipv6: bool,
    hold: Hold,
    past: Past,
) -> Case {
    Case { name, direction, protocol, ipv6, hold, past }
}

use Direction::{In, Out};
use Hold::{Bound, Picked};
use Past::{OtherFlow, SameFlow};

/// The last of a flow's packets, and the first, which is all that a UDP server
/// with many clients ever sends.
const CASES: &[Case] = &[
    case("packet out, TCP over IPv4", Out, TCP, false, Bound, SameFlow),
    case("packet out, TCP over IPv6", Out, TCP, true, Bound, SameFlow),
    case("packet out, UDP over IPv4", Out, UDP, false, Bound, SameFlow),
    case("packet out, first of a UDP flow, IPv4", Out, UDP, false, Bound, OtherFlow),
    case("packet out, first of a UDP flow, IPv6", Out, UDP, true, Bound, OtherFlow),
    case("packet in, TCP over IPv4", In, TCP, false, Bound, SameFlow),
    case("packet in, TCP over IPv6", In, TCP, true, Bound, SameFlow),
    case("packet in, TCP of a client, IPv4", In, TCP, false, Picked, SameFlow),
    case("packet in, UDP over IPv4", In, UDP, false, Bound, SameFlow),
];

struct Point<'a> {
    case: &'a Case,
    node: &'a Loaded,
    frame: Vec<u8>,
    pair: Pair,
    net: Sample,
}

/// All measures of the packet programs in `object`.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    stay_on_one_cpu();
    let nodes: Vec<Loaded> = match NODES
        .iter()
        .map(|&(slices, ports)| Loaded::new(object, slices, ports))
        .collect()
    {
        Ok(nodes) => nodes,
        Err(error) => {
            let why = format!("the programs cannot be loaded on this machine: {error:#}");
            return Ok(vec![unmeasured(bench, "packet programs", "ns", why)]);
        }
    };
    let mut points = Vec::new();
    for case in CASES {
        for node in &nodes {
            let out = node.flow(case.protocol, case.ipv6);
            let flow = match case.direction {
                Out => out,
                In => out.reversed(),
            };
            let pair = node
                .pair(case.direction, &flow, case.hold, case.past)
                .with_context(|| format!("prepare {}", case.name))?;
            let frame = flow.frame();
            points.push(Point { case, node, frame, pair, net: Sample::default() });
        }
    }
    for _ in 0..REPEATS {
        for point in &mut points {
            let idle = bpf::test_run(point.pair.idle.as_fd(), &point.frame, PACKETS)?;
            let ours = bpf::test_run(point.pair.ours.as_fd(), &point.frame, PACKETS)?;
            point.net.add(ours.ns - idle.ns);
        }
    }
    let mut lines: Vec<Measure> = points
        .iter()
        .map(|point| {
            let Loaded { slices, ports, .. } = point.node;
            let what = format!("{}; {}, {}", point.case.name, count(*slices, "slice"), count(u32::from(*ports), "port"));
            measure(bench, what, "ns", &point.net, None, Goal::AtMost(GOAL_NS))
        })
        .collect();
    lines.extend(flat(bench, &points));
    Ok(lines)
}

/// 10,000 slices against one, for each case.
fn flat(bench: &str, points: &[Point<'_>]) -> Vec<Measure> {
    let with = |case: &Case, slices| {
        points.iter().find(|point| {
            point.case.name == case.name && point.node.slices == slices && point.node.ports == 1_000
        })
    };
    CASES
        .iter()
        .filter_map(|case| {
            let (many, one) = (with(case, 10_000)?, with(case, 1)?);
            Some(measure(
                bench,
                format!("{}; 10000 slices", case.name),
                "ns",
                &many.net,
                Some(("1 slice", &one.net)),
                Goal::RatioAtMost(GOAL_FLAT),
            ))
        })
        .collect()
}

fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Keeps the process where it is: caches stay warm, and both of a pair run on
/// the same processor. Where this is refused the numbers are only noisier.
fn stay_on_one_cpu() {
    let mut here = CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    let _ = sched_setaffinity(None, &here);
}
