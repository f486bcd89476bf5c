//! What slices used and carried before: counters as they were every few seconds of
//! the last quarter of an hour, from which averages are made, and what went out on
//! links in the last hour.

use std::collections::VecDeque;
use std::time::Duration;

use super::hour::{Hour, Step};
use crate::report::read::LinkSample;

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(10);
/// The times over which averages are told, in seconds.
const OVER: [u64; 3] = [60, 300, 900];
/// Samples that are kept: all that are younger than the longest of these times, and
/// one that is not.
const KEPT: usize = 91;
/// What goes out on a link is told over at least so long, in nanoseconds.
const LINKS_OVER: u64 = 500_000_000;
const SECOND: u64 = 1_000_000_000;

/// Counters of a slice, which only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes to other machines.
    pub sent: u64,
    /// Bytes from other machines.
    pub received: u64,
    /// Processor time, microseconds.
    pub cpu_us: u64,
}

/// The counters of all slices at a moment of the monotonic clock, by id.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The moment, in nanoseconds.
    pub at_ns: u64,
    /// By id, ascending.
    pub of: Vec<(u32, Counters)>,
}

/// What grew in a second, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Average {
    /// Bits to other machines.
    pub sent: u64,
    /// Bits from other machines.
    pub received: u64,
    /// Processor time, in thousandths of a core.
    pub millicores: u64,
}

/// The samples there are.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    links: VecDeque<LinkSample>,
    hour: Hour,
}

impl History {
    /// Takes a sample in.
    pub fn push(&mut self, sample: Sample, links: Option<LinkSample>) {
        while self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let Some(links) = links else {
            return;
        };
        match self.links.back().and_then(|before| links.since(before)) {
            Some((over_ns, moved)) => {
                let time = links.time();
                self.hour.add(Step { time, over_ns }, &moved);
            }
            // The first, or of another start of the node.
            None => self.hour = Hour::default(),
        }
        while self.links.len() > 1 {
            self.links.pop_front();
        }
        self.links.push_back(links);
    }

    /// What went out on links in the last hour.
    #[must_use]
    pub const fn hour(&self) -> &Hour {
        &self.hour
    }

    /// The averages of a slice over 1, 5 and 15 minutes that end now; over as long as
    /// there are samples, where that is less. Before it was there it carried nothing.
    #[must_use]
    pub fn averages(&self, id: u32, now_ns: u64, now: Counters) -> [Average; 3] {
        OVER.map(|seconds| {
            let since = now_ns.saturating_sub(seconds * SECOND);
            let young = self.samples.partition_point(|sample| sample.at_ns <= since);
            match self.samples.get(young.saturating_sub(1)) {
                Some(sample) => Average::between(sample, id, now_ns, now),
                None => Average::default(),
            }
        })
    }

    /// The links as they were a while ago.
    #[must_use]
    pub fn links(&self, now_ns: u64) -> Option<LinkSample> {
        let before = |links: &&LinkSample| links.at_ns() + LINKS_OVER <= now_ns;
        self.links.iter().rev().find(before).cloned()
    }
}

impl Average {
    fn between(then: &Sample, id: u32, now_ns: u64, now: Counters) -> Self {
        let before = match then.of.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(place) => then.of[place].1,
            Err(_) => Counters::default(),
        };
        let elapsed_ns = u128::from(now_ns.saturating_sub(then.at_ns).max(1));
        let per_second = |now: u64, before: u64, times: u128| {
            let moved = u128::from(now.saturating_sub(before)) * times;
            u64::try_from(moved * u128::from(SECOND) / elapsed_ns).unwrap_or(u64::MAX)
        };
        Self {
            sent: per_second(now.sent, before.sent, 8),
            received: per_second(now.received, before.received, 8),
            millicores: per_second(now.cpu_us, before.cpu_us, 1) / 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(sent: u64) -> Counters {
        Counters {
            sent,
            received: 2 * sent,
            cpu_us: 0,
        }
    }

    /// One that was sampled every 10 s for so long, and sends 1,000 bytes a second
    /// in the last 150 s of it.
    fn history(seconds: u64) -> (History, u64, Counters) {
        let mut history = History::default();
        let at = |second: u64| sent(1000 * second.saturating_sub(seconds.saturating_sub(150)));
        for second in (0..=seconds).step_by(10) {
            let of = vec![(2, Counters::default()), (7, at(second))];
            let at_ns = second * SECOND;
            history.push(Sample { at_ns, of }, None);
        }
        (history, seconds * SECOND, at(seconds))
    }

    #[test]
    fn averages_are_over_one_five_and_fifteen_minutes() {
        let (history, now_ns, now) = history(3000);
        let averages = history.averages(7, now_ns, now);
        assert_eq!(averages.map(|average| average.sent), [8000, 4000, 1333]);
        assert_eq!(
            averages.map(|average| average.received),
            [16000, 8000, 2666]
        );
        // What happened since the last sample counts at once.
        let later = history.averages(7, now_ns + 5 * SECOND, sent(now.sent + 50_000));
        assert!(later[0].sent > 9000, "{later:?}");
        let idle = history.averages(2, now_ns, Counters::default());
        assert_eq!(idle, [Average::default(); 3]);
    }

    #[test]
    fn with_a_short_past_they_are_over_what_there_is() {
        let (history, now_ns, now) = history(150);
        let averages = history.averages(7, now_ns, now);
        assert_eq!(averages.map(|average| average.sent), [8000; 3]);
        let none = History::default().averages(7, now_ns, now);
        assert_eq!(none, [Average::default(); 3]);
    }

    #[test]
    fn who_was_not_there_carried_nothing_before_and_no_counter_runs_backwards() {
        let (history, now_ns, _) = history(3000);
        let averages = history.averages(8, now_ns, sent(900_000));
        assert_eq!(
            averages.map(|average| average.sent),
            [120_000, 24_000, 8_000]
        );
        let backwards = history.averages(7, now_ns, sent(0));
        assert_eq!(backwards, [Average::default(); 3]);
    }

    #[test]
    fn no_more_is_kept_than_averages_need() {
        let (history, now_ns, _) = history(30_000);
        assert_eq!(history.samples.len(), KEPT);
        assert!(history.samples[0].at_ns <= now_ns - 900 * SECOND);
    }
}
