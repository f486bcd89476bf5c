//! What the two packet programs cost, on any machine: they run on packets
//! that nobody sent (`BPF_PROG_TEST_RUN`), unattached, beside a program that
//! does nothing; the difference is the program's own.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use policy::abi::{TCP, UDP};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Measure;
use super::bpf::{self, Packet};
use super::loaded::{Direction, Hold, Loaded, Size, by_turns};
use super::sample::{Goal, Sample, measure, unmeasured};
use super::socket::Past;

/// Interleaved repeats of every measure.
const REPEATS: usize = 7;
/// Runs within a repeat; the middle one counts.
const RUNS: usize = 3;
/// Packets of one run.
const PACKETS: u32 = 50_000;
/// Goal for one packet in one direction, nanoseconds.
const GOAL_NS: f64 = 150.0;
/// Goal for 10,000 slices against one.
const GOAL_FLAT: f64 = 1.15;

const fn size(slices: u32, ports: u16) -> Size {
    Size {
        slices,
        ports,
        own_refusals: false,
        flows: None,
    }
}

/// The nodes that are measured.
const NODES: &[Size] = &[
    size(1, 1_000),
    size(100, 1_000),
    size(10_000, 1_000),
    size(100, 1),
    size(100, 60_000),
    Size {
        own_refusals: true,
        ..size(10_000, 1_000)
    },
];
/// The two of them that are to be alike.
const ONE: Size = NODES[0];
const MANY: Size = NODES[2];

const OTHER_SLICE: Past = OtherSlice(10_000);

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
    Case {
        name,
        direction,
        protocol,
        ipv6,
        hold,
        past,
    }
}

use Direction::{In, Out};
use Hold::{Bound, Picked};
use Past::{OtherFlow, OtherSlice, SameFlow};

/// Packets of a flow after its first; the first, which is all that a UDP server
/// with many clients ever sends; and each packet another slice's.
const CASES: &[Case] = &[
    case(
        "packet out, each another slice's",
        Out,
        TCP,
        false,
        Bound,
        OTHER_SLICE,
    ),
    case(
        "packet in, each another slice's",
        In,
        TCP,
        false,
        Bound,
        OTHER_SLICE,
    ),
    case(
        "packet out, TCP over IPv4",
        Out,
        TCP,
        false,
        Bound,
        SameFlow,
    ),
    case("packet out, TCP over IPv6", Out, TCP, true, Bound, SameFlow),
    case(
        "packet out, UDP over IPv4",
        Out,
        UDP,
        false,
        Bound,
        SameFlow,
    ),
    case(
        "packet out, first of a UDP flow, IPv4",
        Out,
        UDP,
        false,
        Bound,
        OtherFlow,
    ),
    case(
        "packet out, first of a UDP flow, IPv6",
        Out,
        UDP,
        true,
        Bound,
        OtherFlow,
    ),
    case("packet in, TCP over IPv4", In, TCP, false, Bound, SameFlow),
    case("packet in, TCP over IPv6", In, TCP, true, Bound, SameFlow),
    case(
        "packet in, TCP of a client, IPv4",
        In,
        TCP,
        false,
        Picked,
        SameFlow,
    ),
    case("packet in, UDP over IPv4", In, UDP, false, Bound, SameFlow),
];

/// What a case cost on one node, harness subtracted.
struct Cost {
    case: &'static Case,
    size: Size,
    net: Sample,
}

/// All measures of the packet programs in `object`.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    stay_on_one_cpu();
    let mut costs: Vec<Cost> = CASES
        .iter()
        .flat_map(|case| NODES.iter().map(move |&size| (case, size)))
        .filter(|(case, size)| case.means_something_on(*size))
        .map(|(case, size)| Cost {
            case,
            size,
            net: Sample::default(),
        })
        .collect();
    let unable = by_turns(object, NODES, REPEATS, |size, node| {
        for cost in costs.iter_mut().filter(|cost| cost.size == size) {
            let ns = cost.case.run(node);
            cost.net
                .add(ns.with_context(|| format!("measure {}", cost.case.name))?);
        }
        Ok(())
    })?;
    if let Some(why) = unable {
        return Ok(vec![unmeasured(bench, "packet programs", "ns", why)]);
    }
    let mut lines: Vec<Measure> = costs
        .iter()
        .map(|cost| {
            let what = format!("{}; {}", cost.case.name, describe(cost.size));
            measure(bench, what, "ns", &cost.net, None, Goal::AtMost(GOAL_NS))
        })
        .collect();
    lines.extend(flat(bench, &costs));
    Ok(lines)
}

impl Case {
    fn means_something_on(&self, size: Size) -> bool {
        match self.past {
            SameFlow => !size.own_refusals,
            // Refusals are looked at for the first packet of a flow alone.
            OtherFlow => true,
            OtherSlice(_) => size == MANY,
        }
    }

    /// Nanoseconds of a packet in the program itself.
    fn run(&self, node: &Loaded) -> Result<f64> {
        let out = node.flow(self.protocol, self.ipv6);
        let flow = match self.direction {
            Out => out,
            In => out.reversed(),
        };
        let pair = node.pair(self.direction, &flow, self.hold, self.past)?;
        let packet = Packet::new(flow.frame());
        let mut net = Sample::default();
        for _ in 0..RUNS {
            let idle = bpf::test_run(pair.idle.as_fd(), &packet, PACKETS)?;
            let ours = bpf::test_run(pair.ours.as_fd(), &packet, PACKETS)?;
            net.add(ours.ns - idle.ns);
        }
        net.median().context("there were no runs")
    }
}

/// Many slices against one, for each case.
fn flat(bench: &str, costs: &[Cost]) -> Vec<Measure> {
    let of = |case: &Case, size| {
        costs
            .iter()
            .find(|cost| cost.case.name == case.name && cost.size == size)
    };
    let ratio = |case: &'static Case| {
        let (many, one) = (of(case, MANY)?, of(case, ONE)?);
        let what = format!("{}; {} against 1", case.name, count(MANY.slices, "slice"));
        let peer = Some(("1 slice", &one.net));
        Some(measure(
            bench,
            what,
            "ns",
            &many.net,
            peer,
            Goal::RatioAtMost(GOAL_FLAT),
        ))
    };
    CASES.iter().filter_map(ratio).collect()
}

pub fn describe(size: Size) -> String {
    format!(
        "{}, {}{}{}",
        count(size.slices, "slice"),
        count(u32::from(size.ports), "port"),
        if size.own_refusals {
            ", refusals of each slice"
        } else {
            ""
        },
        match size.flows {
            None | Some(0) => String::new(),
            Some(flows) => format!(", {}", count(flows, "flow")),
        }
    )
}

fn count(number: u32, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Keeps the process where it is: caches stay warm, and both of a pair run on
/// the same processor. Where this is refused the numbers are only noisier.
pub fn stay_on_one_cpu() {
    let mut here = CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    let _ = sched_setaffinity(None, &here);
}
