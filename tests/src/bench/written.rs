//! What the packet programs cost where slices have raw and packet sockets, on
//! any machine: as in `packets`, on packets that nobody sent.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use policy::SliceId;
use policy::abi::{TAG_OPEN, TAG_RAW, Tag, UDP};
use policy::decide::raw::ICMP;
use zerocopy::FromZeros;

use super::Measure;
use super::bpf::{self, Kind, Packet};
use super::frame::Flow;
use super::loaded::{Direction, Hold, Loaded, Pair, Size, by_turns};
use super::packets::{describe, stay_on_one_cpu};
use super::sample::{Goal, Sample, measure, unmeasured};
use super::socket::Past;

/// Interleaved repeats.
const REPEATS: usize = 7;
/// Runs within a repeat; the least disturbed one counts.
const RUNS: usize = 5;
/// Packets of one run.
const PACKETS: u32 = 20_000;
/// Goal for a node with much against one with little.
const GOAL_FLAT: f64 = 1.15;

/// What of a filter is shown: all, or nothing.
const SHOWN: u32 = u32::MAX;
const HIDDEN: u32 = 0;
/// `TC_ACT_UNSPEC`.
const GOES_ON: u32 = u32::MAX;

/// A port that is nobody's.
const NOBODYS: u16 = 1023;

const fn size(slices: u32, ports: u16, flows: u32) -> Size {
    Size {
        slices,
        ports,
        own_refusals: false,
        flows: Some(flows),
    }
}

/// The nodes that are measured.
const NODES: &[Size] = &[
    size(1, 1_000, 0),
    size(100, 1_000, 0),
    size(10_000, 1_000, 0),
    size(100, 1, 0),
    size(100, 60_000, 0),
    size(100, 1_000, 200_000),
];

/// Those of them that are to be alike: the little one, the one with much, and
/// of what that has much.
const ALIKE: &[(Size, Size, &str)] = &[
    (NODES[0], NODES[2], "10000 slices against 1"),
    (NODES[3], NODES[4], "60000 ports against 1"),
    (NODES[1], NODES[5], "200000 flows against 0"),
];

/// Which packet, and which program sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    RawOut { ipv6: bool },
    EchoOut,
    RawIn { ipv6: bool },
    EchoIn,
    NodeOut(Past),
    SliceOut,
    OtherFrame,
    Capture { own: bool },
}

const CASES: &[(Case, &str)] = &[
    (
        Case::RawOut { ipv6: false },
        "raw socket sends UDP over IPv4",
    ),
    (
        Case::RawOut { ipv6: true },
        "raw socket sends UDP over IPv6",
    ),
    (Case::EchoOut, "raw socket sends an echo request"),
    (
        Case::RawIn { ipv6: false },
        "raw socket is shown UDP over IPv4",
    ),
    (
        Case::RawIn { ipv6: true },
        "raw socket is shown UDP over IPv6",
    ),
    (Case::EchoIn, "raw socket is shown an echo reply"),
    (Case::Capture { own: true }, "packet socket is shown UDP"),
    (
        Case::Capture { own: false },
        "packet socket is not shown another's UDP",
    ),
    (
        Case::NodeOut(Past::SameFlow),
        "the node sends UDP, known flow",
    ),
    (
        Case::NodeOut(Past::OtherFlow),
        "the node sends UDP, first of a flow",
    ),
    (
        Case::SliceOut,
        "a slice's UDP socket sends, first of a flow",
    ),
    (
        Case::OtherFrame,
        "another socket's packet leaves the device",
    ),
];

/// What a case cost on one node, harness subtracted.
struct Cost {
    case: Case,
    name: &'static str,
    size: Size,
    net: Sample,
}

/// All measures of the packet programs in `object`.
///
/// # Errors
/// A packet does not take the path that is meant.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    let Some(device) = device() else {
        let why = "this machine has no device but lo".to_owned();
        return Ok(vec![unmeasured(bench, "packet programs", "ns", why)]);
    };
    stay_on_one_cpu();
    let mut costs: Vec<Cost> = NODES
        .iter()
        .flat_map(|&size| {
            CASES.iter().map(move |&(case, name)| Cost {
                case,
                name,
                size,
                net: Sample::default(),
            })
        })
        .collect();
    let unable = by_turns(object, NODES, REPEATS, |size, node| {
        for cost in costs.iter_mut().filter(|cost| cost.size == size) {
            let ns = cost.case.run(node, device);
            cost.net
                .add(ns.with_context(|| format!("measure: {}", cost.name))?);
        }
        Ok(())
    })?;
    if let Some(why) = unable {
        return Ok(vec![unmeasured(bench, "packet programs", "ns", why)]);
    }
    let mut lines: Vec<Measure> = costs
        .iter()
        .map(|cost| {
            let what = format!("{}; {}", cost.name, describe(cost.size));
            measure(bench, what, "ns", &cost.net, None, Goal::None)
        })
        .collect();
    lines.extend(flat(bench, &costs));
    Ok(lines)
}

/// The number of some device that is not lo: packets on that stay inside.
pub fn device() -> Option<u32> {
    let devices = fs::read_dir("/sys/class/net").ok()?;
    devices
        .filter_map(|device| fs::read_to_string(device.ok()?.path().join("ifindex")).ok())
        .filter_map(|number| number.trim().parse().ok())
        .find(|&number| number > 1)
}

impl Case {
    /// Nanoseconds of a packet in the program itself.
    fn run(self, node: &Loaded, device: u32) -> Result<f64> {
        let udp = |ipv6| node.flow(UDP, ipv6);
        // The type of the message stands where the port does.
        let echo = |kind| Flow {
            protocol: ICMP,
            source_port: kind,
            destination_port: 0,
            ..node.flow(UDP, false)
        };
        let mine = node.slice().index()..node.slice().index() + 1;
        let (pair, packet) = match self {
            Case::RawOut { .. } | Case::EchoOut | Case::RawIn { .. } | Case::EchoIn => {
                let (direction, flow) = match self {
                    Case::RawOut { ipv6 } => (Direction::Out, udp(ipv6)),
                    Case::EchoOut => (Direction::Out, echo(0x0800)),
                    Case::RawIn { ipv6 } => (Direction::In, udp(ipv6).reversed()),
                    _ => {
                        let out = echo(0);
                        let (source, destination) = (out.destination, out.source);
                        let reply = Flow {
                            source,
                            destination,
                            ..out
                        };
                        (Direction::In, reply)
                    }
                };
                let tag = Tag {
                    id: node.slice(),
                    flags: TAG_OPEN | TAG_RAW,
                    ..Tag::new_zeroed()
                };
                let pair = node.with_socket(direction, &tag, Past::SameFlow)?;
                let packet = Packet::on(flow.frame(), device, 0);
                node.passes(&pair, direction, &packet, mine)?;
                (pair, packet)
            }
            Case::NodeOut(past) => {
                let tag = Tag {
                    id: SliceId::NODE,
                    flags: TAG_OPEN,
                    ..Tag::new_zeroed()
                };
                let flow = Flow {
                    source_port: NOBODYS,
                    ..udp(false)
                };
                let pair = node.with_socket(Direction::Out, &tag, past)?;
                let packet = Packet::on(flow.frame(), device, 0);
                let row = SliceId::NODE.index();
                node.passes(&pair, Direction::Out, &packet, row..row + 1)?;
                (pair, packet)
            }
            Case::SliceOut => {
                let flow = udp(false);
                let pair = node.pair(Direction::Out, &flow, Hold::Bound, Past::OtherFlow)?;
                (pair, Packet::on(flow.frame(), device, 0))
            }
            Case::OtherFrame => {
                let packet = Packet::on(udp(false).frame(), device, 0);
                let pair = node.plain("frame", Kind::Device)?;
                answers(&pair, &packet, GOES_ON)?;
                (pair, packet)
            }
            Case::Capture { own } => {
                let mut flow = udp(false).reversed();
                if !own {
                    flow.destination_port = NOBODYS;
                }
                let packet = Packet::on(flow.frame(), device, node.slice().0);
                let pair = node.plain("capture", Kind::Filter)?;
                answers(&pair, &packet, if own { SHOWN } else { HIDDEN })?;
                (pair, packet)
            }
        };
        let [mut idle, mut ours] = [(); 2].map(|()| Sample::default());
        for _ in 0..RUNS {
            idle.add(bpf::test_run(pair.idle.as_fd(), &packet, PACKETS)?.ns);
            ours.add(bpf::test_run(pair.ours.as_fd(), &packet, PACKETS)?.ns);
        }
        let least = |sample: &Sample| sample.spread().map(|(least, _)| least);
        let (ours, idle) = least(&ours).zip(least(&idle)).context("no runs")?;
        Ok(ours - idle)
    }
}

/// Makes sure that a program takes the path that is meant.
fn answers(pair: &Pair, packet: &Packet, expected: u32) -> Result<()> {
    let verdict = bpf::test_run(pair.ours.as_fd(), packet, 1)?.verdict;
    ensure!(verdict == expected, "it answered {verdict}, not {expected}");
    Ok(())
}

/// Much against little, for each case: both undisturbed, as what else runs on
/// the machine comes and goes and makes neither faster.
fn flat(bench: &str, costs: &[Cost]) -> Vec<Measure> {
    let of = |case, size| {
        costs
            .iter()
            .find(|cost| cost.case == case && cost.size == size)
    };
    let ratio = |&(case, name): &(Case, &str), &(little, much, what): &(Size, Size, &str)| {
        let least = |size| {
            let (least, _) = of(case, size)?.net.spread()?;
            Some(Sample::of(least))
        };
        let (much, little) = (least(much)?, least(little)?);
        let peer = Some(("the little one", &little));
        let goal = Goal::RatioAtMost(GOAL_FLAT);
        Some(measure(
            bench,
            format!("{name}; {what}, the least"),
            "ns",
            &much,
            peer,
            goal,
        ))
    };
    CASES
        .iter()
        // A nanosecond or none: no ratio says anything of that.
        .filter(|(case, _)| *case != Case::OtherFrame)
        .flat_map(|case| ALIKE.iter().filter_map(move |alike| ratio(case, alike)))
        .collect()
}
