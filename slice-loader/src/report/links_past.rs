//! What owners sent on the links in the last hour, step by step.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Names, Owner};
use crate::status::hour::{Past, Step};

/// The answer of `slice link --history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinksPast {
    /// When it was read.
    pub time: Timestamp,
    /// The steps, the oldest first. There are none of the time before the daemon
    /// started, and fewer than asked for where it has not run for so long.
    pub steps: Vec<StepEnd>,
    /// The links.
    pub links: Vec<LinkPast>,
}

/// When a step ended, and how long it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StepEnd {
    /// When.
    pub time: Timestamp,
    /// Milliseconds.
    pub over_ms: u64,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkPast {
    /// The device's name.
    pub name: String,
    /// Its rate now, bit/s.
    pub rate: u64,
    /// Those who sent most first; who sent nothing is absent.
    pub rows: Vec<RowPast>,
    /// All who are in no row, together; absent where those are none, or not for the
    /// reader to know.
    pub others: Option<Moves>,
}

/// An owner on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RowPast {
    /// Whose. A slice that was made anew is another.
    pub owner: Owner,
    /// What it sent.
    #[serde(flatten)]
    pub moves: Moves,
}

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Moves {
    /// In each step, bit/s.
    pub sends: Vec<u64>,
    /// Packets dropped in each step.
    pub drops: Vec<u64>,
    /// Bytes in all steps.
    pub sent_bytes: u64,
    /// Packets dropped in all steps.
    pub dropped_packets: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Only this owner; all where it is none.
    pub owner: Option<u32>,
    /// Steps that ended after this.
    pub since: Timestamp,
    /// Most rows of a link; of many links and steps fewer fit.
    pub most: usize,
}

/// Rows of a link where nothing else is said.
pub const USUAL_ROWS: u32 = 100;

/// How long the rows of an answer may be together, bytes.
const ROOM: usize = 16 << 20;
/// How long a number of one is, with its comma.
const NUMBER: usize = 13;

impl LinksPast {
    /// The steps of `past` on these links (name, rate in bytes a second).
    #[must_use]
    pub fn new(
        past: Past<'_>,
        time: Timestamp,
        links: &[(String, u64)],
        names: &Names,
        wanted: &Wanted,
    ) -> Self {
        let steps: Vec<Step> = past.steps().collect();
        let numbers = 2 * steps.len() * links.len();
        let fit = (ROOM / (numbers * NUMBER).max(1)).max(1);
        let link = |(number, (name, rate)): (u32, &(String, u64))| {
            let seen = past.owners(number);
            let seen = seen.filter(|(id, _)| wanted.owner.is_none_or(|owner| owner == id.0));
            // Who sent most, before anything is made for each: there may be ten thousand.
            let mut most: Vec<_> = seen
                .map(|(id, series)| {
                    let bytes: u64 = past.of(series).iter().map(|(bytes, _)| bytes).sum();
                    (std::cmp::Reverse(bytes), id.0, id, series)
                })
                .collect();
            most.sort_unstable_by_key(|(bytes, number, ..)| (*bytes, *number));
            most.truncate(wanted.most.min(fit));
            let sum = past.sum(number).filter(|_| wanted.owner.is_none());
            // What is left of it by those who have rows.
            let mut rest = sum.map(|sum| past.of(sum));
            let mut rows = Vec::new();
            for (.., id, series) in most {
                let moved = past.of(series);
                for (rest, part) in rest.iter_mut().flatten().zip(&moved) {
                    rest.0 = rest.0.saturating_sub(part.0);
                    rest.1 = rest.1.saturating_sub(part.1);
                }
                rows.push(RowPast {
                    owner: names.owner(id),
                    moves: Moves::new(&moved, &steps),
                });
            }
            let others = rest.map(|rest| Moves::new(&rest, &steps));
            LinkPast {
                name: name.clone(),
                rate: rate.saturating_mul(8),
                rows,
                others: others.filter(|others| *others != Moves::none(steps.len())),
            }
        };
        Self {
            time,
            links: (0..).zip(links).map(link).collect(),
            steps: steps.iter().map(StepEnd::of).collect(),
        }
    }
}

impl StepEnd {
    fn of(step: &Step) -> Self {
        Self {
            time: step.time,
            over_ms: step.over_ns / 1_000_000,
        }
    }
}

impl Moves {
    fn none(steps: usize) -> Self {
        Self {
            sends: vec![0; steps],
            drops: vec![0; steps],
            ..Self::default()
        }
    }

    fn new(moved: &[(u64, u64)], steps: &[Step]) -> Self {
        let rate = |(sent, step): (u64, &Step)| {
            let bits = u128::from(sent) * 8_000_000_000;
            u64::try_from(bits / u128::from(step.over_ns.max(1))).unwrap_or(u64::MAX)
        };
        let sent = moved.iter().map(|(sent, _)| *sent);
        let dropped = moved.iter().map(|(_, dropped)| *dropped);
        Self {
            sends: sent.clone().zip(steps).map(rate).collect(),
            drops: dropped.clone().collect(),
            sent_bytes: sent.fold(0, u64::saturating_add),
            dropped_packets: dropped.fold(0, u64::saturating_add),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::hour::{Hour, Moved};
    use policy::SliceId;

    /// Steps of 10 s and one of 20, in which three send.
    fn hour() -> Hour {
        let mut hour = Hour::default();
        for (second, over, bytes) in [(10, 10, 1000), (30, 20, 1000), (40, 10, 0)] {
            let step = Step {
                time: Timestamp::from_second(second).unwrap(),
                over_ns: over * 1_000_000_000,
            };
            let moved = [(2, 1), (3, 2), (4, 3)].map(|(id, times)| Moved {
                link: 0,
                id: SliceId(id),
                sent: bytes * times,
                dropped: times,
            });
            hour.add(step, &moved);
        }
        hour
    }

    fn told(owner: Option<u32>, since: i64, most: usize) -> LinkPast {
        let hour = hour();
        let wanted = Wanted {
            owner,
            since: Timestamp::from_second(since).unwrap(),
            most,
        };
        let names = Names::new([(SliceId(3), "beta")]);
        let links = [("eth0".to_owned(), 1000)];
        let past = hour.since(wanted.since);
        let mut past = LinksPast::new(past, Timestamp::UNIX_EPOCH, &links, &names, &wanted);
        assert_eq!(past.steps.len(), past.links[0].rows[0].moves.sends.len());
        past.links.remove(0)
    }

    #[test]
    fn a_step_is_told_as_a_rate_over_as_long_as_it_was() {
        let link = told(Some(3), 0, 10);
        assert_eq!((link.rate, link.rows.len()), (8000, 1));
        let row = &link.rows[0];
        assert_eq!(row.owner.label(), "beta");
        assert_eq!(row.moves.sends, [1600, 800, 0]);
        assert_eq!(row.moves.drops, [2, 2, 2]);
        assert_eq!((row.moves.sent_bytes, row.moves.dropped_packets), (4000, 6));
        // Who sees one owner is told nothing of the sum.
        assert_eq!(link.others, None);
        assert_eq!(told(Some(3), 20, 10).rows[0].moves.sends, [800, 0]);
    }

    #[test]
    fn who_sent_most_comes_first_and_all_others_are_in_one() {
        let link = told(None, 0, 1);
        assert_eq!(link.rows[0].owner.label(), "gone#4");
        let others = link.others.unwrap();
        assert_eq!(others.sends, [2400, 1200, 0]);
        assert_eq!((others.sent_bytes, others.dropped_packets), (6000, 9));
        let link = told(None, 0, 3);
        assert_eq!((link.rows.len(), link.others), (3, None));
    }
}
