//! What a packet costs at a link, and what a division of its rate does, on any
//! machine: as in `packets`, on packets that nobody sent.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use policy::abi::UDP;

use super::Measure;
use super::bpf::{self, Kind, Packet};
use super::flood::now_ns;
use super::loaded::{Loaded, Size, by_turns};
use super::packets::stay_on_one_cpu;
use super::sample::{Goal, Sample, measure, unmeasured};
use super::written::device;

/// Interleaved repeats.
const REPEATS: usize = 7;
/// Runs within a repeat; the least disturbed one counts.
const RUNS: usize = 5;
/// Packets of one run: several divisions lie in it.
const PACKETS: u32 = 200_000;
/// Divisions of one repeat; the least disturbed one counts.
const DIVISIONS: usize = 50;
/// Bytes a second: more than a run sends.
const RATE: u64 = 10_000_000_000;
/// How long the slices have something to send.
const WAITING_NS: u64 = 3_000_000_000;
/// Nanoseconds of a packet.
const GOAL: f64 = 100.0;
const GOAL_FLAT: f64 = 1.15;
/// `TC_ACT_UNSPEC`.
const GOES_ON: u32 = u32::MAX;

const fn size(slices: u32) -> Size {
    Size {
        slices,
        ports: 1,
        own_refusals: false,
        flows: Some(0),
    }
}

const NODES: [Size; 3] = [size(10), size(100), size(1_000)];

/// All measures of the program at links.
///
/// # Errors
/// A packet does not take the path that is meant.
pub fn measures(bench: &str, object: &Path) -> Result<Vec<Measure>> {
    let Some(device) = device() else {
        let why = "this machine has no device but lo".to_owned();
        return Ok(vec![unmeasured(bench, "the program at links", "ns", why)]);
    };
    stay_on_one_cpu();
    let mut packets = <[Sample; NODES.len()]>::default();
    let mut divisions = packets.clone();
    let unable = by_turns(object, &NODES, REPEATS, |size, node| {
        let at = NODES.iter().position(|of| *of == size).unwrap_or(0);
        let packet = packet(node, device, size.slices)?;
        packets[at].add(packet);
        divisions[at].add((division(node, device, size.slices)? - packet).max(0.0) / 1000.0);
        Ok(())
    })?;
    if let Some(why) = unable {
        return Ok(vec![unmeasured(bench, "the program at links", "ns", why)]);
    }
    let [few, .., many] = &packets;
    let mut lines: Vec<Measure> = NODES
        .iter()
        .zip(&packets)
        .map(|(size, sample)| {
            let what = format!("a packet, {} slices wait", size.slices);
            measure(bench, what, "ns", sample, None, Goal::AtMost(GOAL))
        })
        .collect();
    lines.push(measure(
        bench,
        "a packet, 1000 slices wait against 10".to_owned(),
        "ns",
        many,
        Some(("10 wait", few)),
        Goal::RatioAtMost(GOAL_FLAT),
    ));
    lines.extend(NODES.iter().zip(&divisions).map(|(size, sample)| {
        let what = format!("a division among {} slices, once in 4 ms", size.slices);
        measure(bench, what, "us", sample, None, Goal::None)
    }));
    Ok(lines)
}

/// Nanoseconds of a packet in the program itself, with its part of divisions.
fn packet(node: &Loaded, device: u32, slices: u32) -> Result<f64> {
    let pair = node.plain("pace", Kind::Device)?;
    let packet = Packet::on(node.flow(UDP, false).frame(), device, 0);
    let [mut idle, mut ours] = [(); 2].map(|()| Sample::default());
    for _ in 0..RUNS {
        node.fill_link(device, RATE, now_ns() + WAITING_NS)?;
        idle.add(bpf::test_run(pair.idle.as_fd(), &packet, PACKETS)?.ns);
        let run = bpf::test_run(pair.ours.as_fd(), &packet, PACKETS)?;
        let (sent, divided) = node.of_link()?;
        ensure!(
            run.verdict == GOES_ON && sent == u64::from(PACKETS) && divided >= u64::from(slices),
            "it answered {}, sent {sent} packets, and divided among {divided}",
            run.verdict
        );
        ours.add(run.ns);
    }
    let least = |sample: &Sample| sample.spread().map(|(least, _)| least);
    let (ours, idle) = least(&ours).zip(least(&idle)).context("no runs")?;
    Ok(ours - idle)
}

/// Nanoseconds of a packet that crosses the epoch.
fn division(node: &Loaded, device: u32, slices: u32) -> Result<f64> {
    let pair = node.plain("pace", Kind::Device)?;
    let packet = Packet::on(node.flow(UDP, false).frame(), device, 0);
    node.fill_link(device, RATE, now_ns() + WAITING_NS)?;
    let mut sample = Sample::default();
    for _ in 0..DIVISIONS {
        node.let_divide()?;
        sample.add(bpf::test_run(pair.ours.as_fd(), &packet, 1)?.ns);
        let (_, divided) = node.of_link()?;
        ensure!(divided >= u64::from(slices), "divided among {divided}");
    }
    let (least, _) = sample.spread().context("no runs")?;
    Ok(least)
}
