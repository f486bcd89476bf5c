//! Policies that nobody thought of: floors, shares and caps by chance, all slices sending as
//! much as goes. How far each is from what it should have, and how much of the link is used.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;

use super::Measure;
use super::flood::Kind;
use super::htb::Class;
use super::policy;
use super::sample::{Goal, Sample, measure};
use super::shaped::{MIXED, SLICES, Shaped, Shaper};
use super::wire::run;

/// How many.
const POLICIES: u64 = 20;
/// How long each is measured.
const DURING: Duration = Duration::from_secs(6);
/// Millions of bits a second.
const RATE: f64 = MIXED as f64;
/// The least that a slice has: of less, one packet of TCP's is more than what is looked for.
const LEAST: f64 = 2.0;
/// Per cent.
const GOAL_OFF: f64 = 3.0;
const GOAL_USED: f64 = 97.0;

/// What a slice may have, in millions of bits a second.
#[derive(Clone, Copy, Debug)]
struct Terms {
    floor: u32,
    share: u32,
    cap: Option<u32>,
}

/// Measures all of them under each shaper.
///
/// # Errors
/// The node does not take one of them, or something does not run.
pub fn measures(bench: &str, shaped: &Shaped, peer: &str) -> Result<Vec<Measure>> {
    let [mut off, mut used] = [(); 2].map(|()| <[Sample; 2]>::default());
    for number in 0..POLICIES {
        let terms = by_chance(number);
        let should = ideal(&terms);
        apply(&terms).with_context(|| format!("have the policy {terms:?}"))?;
        let senders: Vec<_> = (0..terms.len()).map(|at| (at, Kind::Tcp, 1)).collect();
        for shaper in Shaper::by_turns(usize::try_from(number)?) {
            let arrived = shaped.carry(shaper, MIXED, &senders, DURING)?;
            let rates = arrived.rates();
            let worst = rates
                .iter()
                .zip(&should)
                .map(|(rate, should)| (rate / should - 1.0).abs())
                .fold(0.0, f64::max);
            let of = usize::from(shaper == Shaper::Htb);
            off[of].add(worst * 100.0);
            let all = |rates: &[f64]| rates.iter().sum::<f64>();
            used[of].add(all(&rates) / all(&should) * 100.0);
        }
    }
    let line = |what: &str, [ours, htb]: &[Sample; 2], goal| {
        let what = format!("{POLICIES} policies by chance, {MIXED} Mbit/s, TCP: {what}");
        measure(bench, what, "%", ours, Some((peer, htb)), goal)
    };
    let ends = |sample: &Sample| sample.spread().unwrap_or((f64::NAN, f64::NAN));
    let most = off.each_ref().map(|sample| Sample::of(ends(sample).1));
    let least = used.each_ref().map(|sample| Sample::of(ends(sample).0));
    Ok(vec![
        line("the slice that is most off its rate", &off, Goal::None),
        line("the same, of all policies", &most, Goal::AtMost(GOAL_OFF)),
        line("used of what may be", &used, Goal::RatioAtLeast(1.0)),
        line(
            "the same, the least of all policies",
            &least,
            Goal::AtLeast(GOAL_USED),
        ),
    ])
}

/// One of the policies, the same in each run.
fn by_chance(number: u64) -> Vec<Terms> {
    let mut chance = Rng::with_seed(number);
    loop {
        let count = chance.usize(2..=SLICES.len());
        let terms: Vec<Terms> = (0..count)
            .map(|_| {
                let floor = if chance.u32(..3) == 0 {
                    chance.u32(1..=8)
                } else {
                    0
                };
                let cap = (chance.u32(..3) == 0).then(|| chance.u32(3..=20).max(floor));
                Terms {
                    floor,
                    share: chance.u32(1..=8),
                    cap,
                }
            })
            .collect();
        if ideal(&terms).iter().all(|rate| *rate >= LEAST) {
            return terms;
        }
    }
}

/// What each should have when all want all of it: its floor, and by its share of what the
/// floors leave, until its cap. The level is looked for by halves, which has nothing in
/// common with how the node does it.
fn ideal(terms: &[Terms]) -> Vec<f64> {
    let at = |level: f64| -> Vec<f64> {
        let of = |terms: &Terms| {
            let rate = f64::from(terms.floor) + f64::from(terms.share) * level;
            terms.cap.map_or(rate, |cap| rate.min(f64::from(cap)))
        };
        terms.iter().map(of).collect()
    };
    let (mut low, mut high) = (0.0, RATE);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() < RATE {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(low)
}

/// Gives both devices the policy.
fn apply(all: &[Terms]) -> Result<()> {
    let directory = Path::new(policy::DIRECTORY).join("slices");
    for (at, (name, text)) in SLICES.iter().enumerate() {
        let mut text = (*text).to_owned();
        if let Some(Terms { floor, share, cap }) = all.get(at) {
            let device = Shaper::Slice.device(MIXED);
            text += &format!("[links.{device}]\nfloor = \"{floor} Mbit/s\"\nshare = {share}\n");
            if let Some(cap) = cap {
                text += &format!("cap = \"{cap} Mbit/s\"\n");
            }
        }
        fs::write(directory.join(format!("{name}.toml")), text)?;
    }
    run(&format!("slice --policy {} reload", policy::DIRECTORY))?;
    let floors: u32 = all.iter().map(|terms| terms.floor).sum();
    let shares: u32 = all.iter().map(|terms| terms.share).sum();
    let classes: Vec<Class> = all
        .iter()
        .map(|terms| {
            let left = (RATE - f64::from(floors)) * f64::from(terms.share) / f64::from(shares);
            let ceiling = terms.cap.map_or(RATE, f64::from);
            Class {
                rate: (f64::from(terms.floor) + left).min(ceiling) * 1e6,
                ceiling: ceiling * 1e6,
                share: terms.share,
            }
        })
        .collect();
    Shaped::htb(MIXED, &classes)
}

#[cfg(test)]
mod tests {
    use super::{Terms, ideal};

    #[test]
    fn what_each_should_have_is_what_the_manual_says() {
        let of = |terms: &[(u32, u32, Option<u32>)]| {
            let terms: Vec<Terms> = terms
                .iter()
                .map(|&(floor, share, cap)| Terms { floor, share, cap })
                .collect();
            let rounded = |rate: f64| (rate * 1000.0).round() / 1000.0;
            ideal(&terms).into_iter().map(rounded).collect::<Vec<_>>()
        };
        assert_eq!(of(&[(0, 3, None), (0, 1, None)]), [30.0, 10.0]);
        assert_eq!(of(&[(8, 1, None), (0, 1, None)]), [24.0, 16.0]);
        assert_eq!(of(&[(0, 3, None), (0, 1, Some(4))]), [36.0, 4.0]);
        assert_eq!(of(&[(0, 3, Some(5)), (0, 1, Some(4))]), [5.0, 4.0]);
    }
}
