//! How long it takes until a link is divided anew when a slice begins to send, and when it
//! ends.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Measure;
use super::flood::{Arrived, BIN, Kind, rate};
use super::sample::{Goal, Sample, measure};
use super::shaped::{PARTS, Shaped, Shaper, Window};

/// Millions of bits a second of the link.
const RATE: u32 = 50;
/// Interleaved repeats.
const REPEATS: usize = 5;
/// How long a rate is looked at: [`BIN`]s.
const LOOK: usize = 8;
/// How far from its part a slice may be, of the link.
const OFF: f64 = 0.05;
/// The first is alone for so long, then both send.
const ALONE: Duration = Duration::from_millis(2500);
const TOGETHER: Duration = Duration::from_millis(2000);
/// A link that is never divided anew.
const NEVER_MS: f64 = 2000.0;
const WINDOW: Window = Window {
    after: Duration::from_millis(1000),
    during: Duration::from_millis(5500),
};
/// Milliseconds.
const GOAL_UDP: f64 = 40.0;
const GOAL_TCP: f64 = 100.0;

/// Measures both under each shaper.
///
/// # Errors
/// Something does not run.
pub fn measures(bench: &str, shaped: &Shaped, peer: &str) -> Result<Vec<Measure>> {
    let mut lines = Vec::new();
    for (kind, name, goal) in [(Kind::Udp, "UDP", GOAL_UDP), (Kind::Tcp, "TCP", GOAL_TCP)] {
        let [mut joins, mut leaves] = [(); 2].map(|()| <[Sample; 2]>::default());
        for repeat in 0..REPEATS {
            for shaper in Shaper::by_turns(repeat) {
                let arrived = come_and_go(shaped, shaper, kind)?;
                let (join, leave) = times(&arrived)?;
                let of = usize::from(shaper == Shaper::Htb);
                joins[of].add(join);
                leaves[of].add(leave);
            }
        }
        for (what, [ours, htb]) in [("joins", &joins), ("leaves", &leaves)] {
            let what = format!("{RATE} Mbit/s, {name}: a slice {what}, until all have their parts");
            let peer = Some((peer, htb));
            lines.push(measure(bench, what, "ms", ours, peer, Goal::AtMost(goal)));
        }
    }
    Ok(lines)
}

fn come_and_go(shaped: &Shaped, shaper: Shaper, kind: Kind) -> Result<Arrived> {
    let senders = [(0, kind, 1), (1, kind, 1)];
    let mut meter = shaped.meter(WINDOW)?;
    let stays = shaped.send(shaper, RATE, senders[0])?;
    thread::sleep(ALONE);
    let goes = shaped.send(shaper, RATE, senders[1])?;
    thread::sleep(TOGETHER);
    goes.finish()?;
    let arrived = shaped.arrived(&mut meter, &senders);
    stays.finish()?;
    thread::sleep(Duration::from_millis(300));
    arrived
}

/// Milliseconds from the first of the second slice's bytes until both have their parts, and
/// from its last until the first has all; [`NEVER_MS`] where that does not come.
fn times(arrived: &Arrived) -> Result<(f64, f64)> {
    let link = f64::from(RATE);
    let [stays, goes] = [&arrived.bins[0], &arrived.bins[1]];
    let sent = |bytes: &f64| *bytes > 0.0;
    let joined = goes.iter().position(sent).context("it never came")?;
    let left = goes.iter().rposition(sent).context("it never came")? + 1;
    let near = |bins: &[f64], part: f64| (rate(bins) / link - part).abs() <= OFF;
    let until = |from: usize, parts: [f64; 2]| {
        let near_both = |(stays, goes)| near(stays, parts[0]) && near(goes, parts[1]);
        let mut windows = stays.windows(LOOK).zip(goes.windows(LOOK)).skip(from);
        windows
            .position(near_both)
            .map(|bins| BIN.as_secs_f64() * 1e3 * bins as f64)
    };
    let join = until(joined, PARTS).unwrap_or(NEVER_MS);
    let leave = until(left, [1.0, 0.0]).unwrap_or(NEVER_MS);
    Ok((join, leave))
}

#[cfg(test)]
mod tests {
    use super::{Arrived, NEVER_MS, times};

    #[test]
    fn the_times_are_those_of_the_change() {
        // 31,250 bytes in 5 ms are 50 Mbit/s.
        let all = 31_250.0;
        let bins_of = |parts: [(usize, f64, f64); 5]| {
            let of = |part: fn(&(usize, f64, f64)) -> f64| -> Vec<f64> {
                let stretch = |stretch| vec![all * part(stretch); stretch.0];
                parts.iter().flat_map(stretch).collect()
            };
            vec![of(|part| part.1), of(|part| part.2)]
        };
        // Three bins late when it joins, four when it leaves.
        let bins = bins_of([
            (20, 1.0, 0.0),
            (3, 1.0, 0.001),
            (37, 0.75, 0.25),
            (4, 0.75, 0.0),
            (36, 1.0, 0.0),
        ]);
        let arrived = Arrived {
            bins,
            delays_us: Vec::new(),
        };
        let (join, leave) = times(&arrived).unwrap();
        // As soon as no more than a twentieth is wrong in the time that is looked at.
        assert!((5.0..=15.0).contains(&join), "{join}");
        assert!((5.0..=20.0).contains(&leave), "{leave}");
        let never = Arrived {
            bins: vec![vec![all; 100], vec![1.0; 100]],
            delays_us: Vec::new(),
        };
        assert_eq!(times(&never).unwrap().0, NEVER_MS);
    }
}
