//! What owners sent on links in the last hour, in steps of [`super::history::EVERY`]:
//! what `slice link --history` and `/v1/links/history` tell.
//!
//! It is kept in the daemon's memory and begins anew with the daemon: a step that nobody
//! watched is missing, and none is guessed. Who sent nothing in the hour takes no room.
//! The sum of each link is kept beside its owners, so that what is told of some of them
//! and of all others together is always all.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use policy::SliceId;

/// Steps that are kept: an hour.
pub const STEPS: usize = 360;
/// Owners on links of whom steps are kept, each in 4,320 bytes: 44 MB at most. Of those
/// who come when all places are taken only the link's sum tells.
pub const MOST: usize = 10_240;

/// What an owner sent on a link in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Number of the link.
    pub link: u32,
    /// Whose.
    pub id: SliceId,
    /// Bytes.
    pub sent: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// A step of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it ended.
    pub time: Timestamp,
    /// How long it was, nanoseconds.
    pub over_ns: u64,
}

/// The steps there are.
#[derive(Debug, Default)]
pub struct Hour {
    steps: VecDeque<Step>,
    /// Number of the step that comes next; the oldest ones were before `steps`.
    next: u64,
    owners: BTreeMap<(u32, SliceId), Series>,
    sums: BTreeMap<u32, Series>,
}

/// What was sent in each step, by the step's number modulo [`STEPS`].
#[derive(Debug)]
pub struct Series {
    sent: Box<[u64]>,
    dropped: Box<[u32]>,
    /// The last step that is in it; nothing was sent after it.
    last: u64,
}

impl Series {
    fn new(number: u64) -> Self {
        Self {
            sent: vec![0; STEPS].into(),
            dropped: vec![0; STEPS].into(),
            last: number,
        }
    }

    fn add(&mut self, number: u64, moved: &Moved) {
        // What lies between was idle, and what was there is older than an hour.
        let idle = (number - self.last).min(STEPS as u64);
        for back in 0..idle {
            let place = place(number - back);
            self.sent[place] = 0;
            self.dropped[place] = 0;
        }
        self.last = number;
        let dropped = u32::try_from(moved.dropped).unwrap_or(u32::MAX);
        let place = place(number);
        self.sent[place] = self.sent[place].saturating_add(moved.sent);
        self.dropped[place] = self.dropped[place].saturating_add(dropped);
    }

    /// Bytes sent and packets dropped in a step that is kept.
    fn at(&self, number: u64) -> (u64, u64) {
        if number > self.last {
            return (0, 0);
        }
        let place = place(number);
        (self.sent[place], self.dropped[place].into())
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % STEPS as u64).unwrap_or(0)
}

/// Some of the steps, up to the last.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    hour: &'a Hour,
    first: u64,
}

impl Hour {
    /// Takes a step in; who sent nothing need not be in `moved`.
    pub fn add(&mut self, step: Step, moved: &[Moved]) {
        let number = self.next;
        self.next += 1;
        if self.steps.len() >= STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
        self.owners
            .retain(|_, series| number - series.last < STEPS as u64);
        for moved in moved {
            if moved.sent == 0 && moved.dropped == 0 {
                continue;
            }
            let sum = self.sums.entry(moved.link);
            sum.or_insert_with(|| Series::new(number))
                .add(number, moved);
            let key = (moved.link, moved.id);
            if let Some(series) = self.owners.get_mut(&key) {
                series.add(number, moved);
            } else if self.owners.len() < MOST {
                let mut series = Series::new(number);
                series.add(number, moved);
                self.owners.insert(key, series);
            }
        }
    }

    /// The steps that ended after a time.
    #[must_use]
    pub fn since(&self, time: Timestamp) -> Past<'_> {
        let kept = self.steps.len();
        let newer = self.steps.iter().rev();
        let newer = newer.take_while(|step| step.time > time).count();
        Past {
            hour: self,
            first: self.next - newer.min(kept) as u64,
        }
    }
}

impl<'a> Past<'a> {
    fn numbers(self) -> std::ops::Range<u64> {
        self.first..self.hour.next
    }

    /// The steps.
    pub fn steps(self) -> impl Iterator<Item = Step> + 'a {
        let length = usize::try_from(self.hour.next - self.first).unwrap_or(0);
        let skipped = self.hour.steps.len().saturating_sub(length);
        self.hour.steps.iter().skip(skipped).copied()
    }

    /// Those of whom there is something in these steps, on a link.
    pub fn owners(self, link: u32) -> impl Iterator<Item = (SliceId, &'a Series)> {
        let range = (link, SliceId(0))..=(link, SliceId(u32::MAX));
        let owners = self.hour.owners.range(range);
        owners
            .filter(move |(_, series)| series.last >= self.first)
            .map(|((_, id), series)| (*id, series))
    }

    /// All owners of a link together.
    #[must_use]
    pub fn sum(self, link: u32) -> Option<&'a Series> {
        self.hour.sums.get(&link)
    }

    /// Bytes sent and packets dropped in each of the steps.
    #[must_use]
    pub fn of(self, series: &Series) -> Vec<(u64, u64)> {
        self.numbers().map(|number| series.at(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
    }

    fn step(number: u64) -> Step {
        Step {
            time: at(number * 10),
            over_ns: 10_000_000_000,
        }
    }

    fn moved(id: u32, sent: u64) -> Moved {
        Moved {
            link: 0,
            id: SliceId(id),
            sent,
            dropped: sent / 100,
        }
    }

    fn sent(hour: &Hour, id: u32, since: Timestamp) -> Vec<u64> {
        let past = hour.since(since);
        let mut owners = past.owners(0);
        let found = owners.find(|(owner, _)| owner.0 == id);
        let steps = found.map(|(_, series)| past.of(series)).unwrap_or_default();
        steps.into_iter().map(|(sent, _)| sent).collect()
    }

    #[test]
    fn each_step_has_what_was_sent_in_it_and_idle_ones_have_nothing() {
        let mut hour = Hour::default();
        for (number, bytes) in [(1, 100), (2, 0), (3, 0), (4, 700), (5, 0)] {
            hour.add(step(number), &[moved(7, bytes), moved(8, 1)]);
        }
        assert_eq!(sent(&hour, 7, at(0)), [100, 0, 0, 700, 0]);
        assert_eq!(sent(&hour, 7, at(30)), [700, 0]);
        assert_eq!(hour.since(at(30)).steps().count(), 2);
        // Of who did nothing in the time there is nothing to tell.
        assert_eq!(sent(&hour, 7, at(40)), [0_u64; 0]);
        let past = hour.since(at(0));
        let sum = past.of(past.sum(0).unwrap());
        assert_eq!(sum, [(101, 1), (1, 0), (1, 0), (701, 7), (1, 0)]);
    }

    #[test]
    fn what_is_older_than_an_hour_is_gone_and_takes_no_room() {
        let mut hour = Hour::default();
        for number in 0..1000 {
            let bytes = if number < 500 { number + 1 } else { 0 };
            hour.add(step(number), &[moved(7, bytes), moved(8, 5)]);
        }
        assert_eq!(sent(&hour, 8, at(0)), [5; STEPS]);
        assert_eq!(sent(&hour, 7, at(0)), [0_u64; 0]);
        assert_eq!((hour.owners.len(), hour.steps.len()), (1, STEPS));
        // Once more, as if nothing had been.
        hour.add(step(1000), &[moved(7, 9)]);
        let again = sent(&hour, 7, at(0));
        assert_eq!((again.iter().sum::<u64>(), again[STEPS - 1]), (9, 9));
    }

    #[test]
    fn a_pause_as_long_as_the_ring_leaves_nothing_of_what_was_there() {
        for pause in [1, STEPS as u64 - 1, STEPS as u64, 3 * STEPS as u64] {
            let mut hour = Hour::default();
            // The sum stays whatever happens.
            hour.add(step(0), &[moved(7, 4)]);
            for number in 1..pause {
                hour.add(step(number), &[]);
            }
            hour.add(step(pause), &[moved(7, 3)]);
            let past = hour.since(Timestamp::MIN);
            let sum = past.of(past.sum(0).unwrap());
            let all: u64 = sum.iter().map(|(sent, _)| sent).sum();
            let expected = if pause < STEPS as u64 { 7 } else { 3 };
            assert_eq!(all, expected, "after {pause}");
        }
    }

    #[test]
    fn no_more_owners_are_kept_than_there_is_room_for_and_the_sum_is_right() {
        let mut hour = Hour::default();
        let most = u32::try_from(MOST).unwrap();
        let all: Vec<Moved> = (0..most + 100).map(|id| moved(id, 10)).collect();
        hour.add(step(1), &all);
        assert_eq!(hour.owners.len(), MOST);
        let past = hour.since(at(0));
        assert_eq!(
            past.of(past.sum(0).unwrap())[0].0,
            u64::from(most + 100) * 10
        );
    }

    #[test]
    fn a_series_is_as_large_as_the_bound_says() {
        assert_eq!(STEPS * (size_of::<u64>() + size_of::<u32>()), 4320);
        let hour = STEPS as u64 * super::super::history::EVERY.as_secs();
        assert_eq!(hour, 3600);
    }
}
