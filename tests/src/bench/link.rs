//! How exactly the rate of a link is kept and divided, and what a flow that sends
//! little waits beside those that send much: ours against HTB.

use std::time::Duration;

use anyhow::{Context, Result};

use super::flood::{Arrived, Kind};
use super::sample::{Goal, Sample, measure, unmeasured};
use super::shaped::{MIXED, PARTS, RATES, Sender, Shaped, Shaper};
use super::{Measure, classes, mixed, paced, ports, redivided};

/// The name of the bench.
pub const NAME: &str = "link";

/// Interleaved repeats.
const REPEATS: usize = 3;
/// Per cent.
const GOAL_RATE: f64 = 1.0;
const GOAL_PART: f64 = 3.0;
/// Milliseconds.
const GOAL_MEDIAN: f64 = 1.0;
const GOAL_99: f64 = 5.0;
const PEER: &str = "HTB, fq_codel";

/// What is told of what arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// By how much all together differ from the rate.
    Rate,
    /// How much more than the rate there is of all together.
    Excess,
    /// The most by which a part of what is carried differs from what it should be.
    Part,
    /// What is half of the delays below.
    Median,
    /// What are 99 of 100 delays below.
    NinetyNinth,
}

struct Case {
    name: String,
    rate: u32,
    /// Bursts of 64 KiB are to be little of what goes on meanwhile.
    during: Duration,
    senders: Vec<Sender>,
    told: &'static [(Told, &'static str, &'static str, Goal)],
}

const OF_RATE: &[(Told, &str, &str, Goal)] = &[
    (Told::Rate, "off the rate", "%", Goal::AtMost(GOAL_RATE)),
    (Told::Excess, "above the rate", "%", Goal::None),
];
const OF_PARTS: &[(Told, &str, &str, Goal)] = &[(
    Told::Part,
    "off its part, at most",
    "%",
    Goal::AtMost(GOAL_PART),
)];
const OF_DELAYS: &[(Told, &str, &str, Goal)] = &[
    (
        Told::Median,
        "median delay",
        "ms",
        Goal::AtMost(GOAL_MEDIAN),
    ),
    (
        Told::NinetyNinth,
        "99 of 100 delays below",
        "ms",
        Goal::AtMost(GOAL_99),
    ),
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, name) in [(Kind::Tcp, "TCP"), (Kind::Udp, "UDP")] {
        for rate in RATES.into_iter().filter(|rate| *rate != MIXED) {
            cases.push(Case {
                name: format!("{rate} Mbit/s, {name} of one slice"),
                rate,
                during: Duration::from_secs(3),
                senders: vec![(0, kind, 1)],
                told: OF_RATE,
            });
        }
        for rate in [10, 100] {
            cases.push(Case {
                name: format!("{rate} Mbit/s, {name} of two slices, 3 to 1"),
                rate,
                during: Duration::from_secs(8),
                senders: vec![(0, kind, 1), (1, kind, 1)],
                told: OF_PARTS,
            });
        }
    }
    cases.push(Case {
        name: "10 Mbit/s, a packet every 10 ms beside 8 TCP flows of its slice".to_owned(),
        rate: 10,
        during: Duration::from_secs(8),
        senders: vec![(0, Kind::Tcp, 8), (0, Kind::Sparse, 1)],
        told: OF_DELAYS,
    });
    cases
}

/// On this machine: the program alone.
///
/// # Errors
/// It does not do what is meant.
pub fn native() -> Result<Vec<Measure>> {
    paced::measures(NAME, &ports::object()?)
}

/// In the VM: each case under each shaper by turns.
///
/// # Errors
/// None: what cannot be measured is said in a line.
pub fn in_vm() -> Result<Vec<Measure>> {
    let or_why = |what: &str, lines: Result<Vec<Measure>>| {
        lines.unwrap_or_else(|error| vec![unmeasured(NAME, what, "", format!("{error:#}"))])
    };
    let mut lines = Vec::new();
    match Shaped::new() {
        Err(error) => lines.extend(or_why("the rate of a link, divided", Err(error))),
        Ok(shaped) => {
            lines.extend(or_why("the rate of a link, divided", measures(&shaped)));
            let redivided = redivided::measures(NAME, &shaped, PEER);
            lines.extend(or_why("a slice joins and leaves", redivided));
            let mixed = mixed::measures(NAME, &shaped, PEER);
            lines.extend(or_why("policies by chance", mixed));
        }
    }
    let classes = classes::measures(NAME, PEER);
    lines.extend(or_why("a packet of many slices", classes));
    Ok(lines)
}

fn measures(shaped: &Shaped) -> Result<Vec<Measure>> {
    let mut lines = Vec::new();
    for case in cases() {
        let mut samples = vec![<[Sample; 2]>::default(); case.told.len()];
        for repeat in 0..REPEATS {
            for shaper in Shaper::by_turns(repeat) {
                let arrived = shaped
                    .carry(shaper, case.rate, &case.senders, case.during)
                    .with_context(|| format!("{} under {shaper:?}", case.name))?;
                for ((told, ..), samples) in case.told.iter().zip(&mut samples) {
                    let value = told.of(&arrived, case.rate)?;
                    samples[usize::from(shaper == Shaper::Htb)].add(value);
                }
            }
        }
        for ((_, what, unit, goal), [ours, htb]) in case.told.iter().zip(&samples) {
            let name = format!("{}: {what}", case.name);
            lines.push(measure(NAME, name, unit, ours, Some((PEER, htb)), *goal));
        }
    }
    Ok(lines)
}

impl Told {
    fn of(self, arrived: &Arrived, rate: u32) -> Result<f64> {
        let rates = arrived.rates();
        let sum: f64 = rates.iter().sum();
        let above = (sum / f64::from(rate) - 1.0) * 100.0;
        let delay = |hundredths| {
            let at = arrived.delays_us.len() * hundredths / 100;
            let delay = arrived.delays_us.get(at).context("no delay was measured")?;
            anyhow::Ok(delay / 1000.0)
        };
        Ok(match self {
            Told::Rate => above.abs(),
            Told::Excess => above,
            Told::Part => rates
                .iter()
                .zip(PARTS)
                .map(|(rate, part)| ((rate / sum) / part - 1.0).abs() * 100.0)
                .fold(0.0, f64::max),
            Told::Median => delay(50)?,
            Told::NinetyNinth => delay(99)?,
        })
    }
}
