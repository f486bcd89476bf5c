//! What a packet costs its sender where many slices send on a link: one program has a
//! socket of each slice and sends on one after the other, through a device without a
//! shaper, a link, and HTB.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::htb::{self, By, Class};
use super::many::{Many, SLICES, packets};
use super::sample::{Goal, Sample, measure};
use super::traffic::{fastest, repeat, stay_on_one_cpu};

/// How many slices send.
const COUNTS: [usize; 3] = [10, 100, SLICES];
/// Interleaved repeats.
const REPEATS: usize = 7;
/// Of one.
const TIME: Duration = Duration::from_millis(300);
/// Bits a second of the link: nobody waits.
const RATE: f64 = 1e10;
/// Discard.
const PORT: u16 = 9;
/// Much against little.
const GOAL_FLAT: f64 = 1.15;

/// The one without a shaper, the link, and HTB's for each of [`COUNTS`].
const DEVICES: [&str; 5] = ["plain", "paced", "htb0", "htb1", "htb2"];

/// Measures them by turns.
///
/// # Errors
/// The node does not come up, or a packet is refused.
pub fn measures(bench: &str, peer: &str) -> Result<Vec<Measure>> {
    let link = format!("[links.{}]\nrate = \"{} Gbit/s\"\n", DEVICES[1], RATE / 1e9);
    let many = Many::new(&DEVICES, trees, &link)?;
    stay_on_one_cpu();
    let mut ours = <[Sample; COUNTS.len()]>::default();
    let mut htb = ours.clone();
    for _ in 0..REPEATS {
        for (at, count) in COUNTS.into_iter().enumerate() {
            let [plain, link, tree] = [0, 1, 2 + at].map(|device| send(&many, device, count));
            let plain = plain?;
            ours[at].add(link? - plain);
            htb[at].add(tree? - plain);
        }
    }
    let mut lines: Vec<Measure> = COUNTS
        .into_iter()
        .zip(ours.iter().zip(&htb))
        .map(|(count, (ours, htb))| {
            let what = format!("a packet of {count} slices by turns, beyond one without a shaper");
            let goal = match count {
                10 => Goal::None,
                _ => Goal::RatioBelow(1.0),
            };
            measure(bench, what, "ns", ours, Some((peer, htb)), goal)
        })
        .collect();
    let [few, .., most] = &ours;
    lines.push(measure(
        bench,
        format!("a packet of {SLICES} slices by turns against {}", COUNTS[0]),
        "ns",
        most,
        Some(("10 slices", few)),
        Goal::RatioAtMost(GOAL_FLAT),
    ));
    Ok(lines)
}

fn trees() -> Result<()> {
    for (device, count) in DEVICES[2..].iter().zip(COUNTS) {
        let class = Class {
            rate: RATE / count as f64,
            ceiling: RATE,
            share: 1,
        };
        htb::tree(device, RATE, &vec![class; count], By::Priority)?;
    }
    Ok(())
}

/// Nanoseconds of a packet that the first so many slices send through a device.
fn send(many: &Many, device: usize, count: usize) -> Result<f64> {
    let before = packets(DEVICES[device])?;
    let (mut next, mut calls) = (0, 0);
    let sample = repeat(TIME, || {
        many.send(next, device, PORT)?;
        next = (next + 1) % count;
        calls += 1;
        Ok(())
    })
    .with_context(|| format!("send through {}", DEVICES[device]))?;
    let sent = packets(DEVICES[device])? - before;
    // A few may wait still.
    ensure!(
        sent + 64 >= calls,
        "{sent} of {calls} packets left by {}",
        DEVICES[device]
    );
    fastest(&sample)
}
