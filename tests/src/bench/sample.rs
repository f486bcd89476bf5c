//! Repeats of a measurement, and what is said of them.

use super::Measure;

/// The values of the repeats of one thing.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// One value, which is all of them.
    pub fn of(value: f64) -> Sample {
        Sample(vec![value])
    }

    /// Adds a repeat.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle value, or the mean of the two middle ones.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some((upper + sorted.get(sorted.len() / 2 - 1)?) / 2.0)
    }

    /// Least and greatest.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let least = self.0.iter().copied().min_by(f64::total_cmp)?;
        let greatest = self.0.iter().copied().max_by(f64::total_cmp)?;
        Some((least, greatest))
    }
}

/// What is to be reached.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// Our value is at most this.
    AtMost(f64),
    /// Our value is at least this.
    AtLeast(f64),
    /// Ours divided by the peer's is at most this.
    RatioAtMost(f64),
    /// Ours divided by the peer's is less than this.
    RatioBelow(f64),
    /// Ours divided by the peer's is at least this.
    RatioAtLeast(f64),
    /// It is told and nothing is to be reached.
    None,
}

/// The peer's name and repeats.
pub type Peer<'a> = (&'a str, &'a Sample);

/// The line of a measure.
pub fn measure(
    bench: &str,
    what: String,
    unit: &str,
    ours: &Sample,
    peer: Option<Peer<'_>>,
    goal: Goal,
) -> Measure {
    let mine = ours.median();
    let theirs = peer.and_then(|(_, sample)| sample.median());
    let ratio = mine.zip(theirs).map(|(mine, theirs)| mine / theirs);
    let (words, met) = match goal {
        Goal::AtMost(most) => (
            Some(format!("at most {most}")),
            mine.map(|value| value <= most),
        ),
        Goal::AtLeast(least) => (
            Some(format!("at least {least}")),
            mine.map(|value| value >= least),
        ),
        Goal::RatioAtMost(most) => (
            Some(format!("ratio at most {most}")),
            ratio.map(|ratio| ratio <= most),
        ),
        Goal::RatioAtLeast(least) => (
            Some(format!("ratio at least {least}")),
            ratio.map(|ratio| ratio >= least),
        ),
        Goal::RatioBelow(most) => (
            Some(format!("ratio below {most}")),
            ratio.map(|ratio| ratio < most),
        ),
        Goal::None => (None, None),
    };
    Measure {
        bench: bench.to_owned(),
        measure: what,
        unit: unit.to_owned(),
        ours: mine,
        peer: theirs,
        peer_name: peer.map(|(name, _)| name.to_owned()),
        ratio,
        why: met.is_none().then(|| match goal {
            Goal::None => "no goal".to_owned(),
            _ => "nothing was measured".to_owned(),
        }),
        goal: words,
        met,
        kernel: kernel(),
        spread: ours.spread(),
        peer_spread: peer.and_then(|(_, sample)| sample.spread()),
    }
}

/// The line of what cannot be measured here, and why.
pub fn unmeasured(bench: &str, what: &str, unit: &str, why: String) -> Measure {
    Measure {
        why: Some(why),
        ..measure(
            bench,
            what.to_owned(),
            unit,
            &Sample::default(),
            None,
            Goal::None,
        )
    }
}

/// Release of the running kernel.
fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
