//! What slices have sent of their quotas: counted in the kernel, and kept in a file by
//! names of slices and links, so that neither `slice down`, nor a slice that is made
//! anew, nor a restart of the machine gives back what was sent.
//!
//! Periods are measured by the clock that goes on in suspend and that nobody sets.
//! Only across a restart of the machine the calendar says how long that took: a
//! calendar that is behind makes a period longer, never shorter.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use policy::SliceId;
use policy::abi::QuotaState;
use policy::compile::KnobsAt;
use policy::decide::quota::Period;
use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

use super::record::{Record, boot, read_json, write_json};
use crate::kernel::maps::Maps;
use crate::sys::clock::{boottime_ns, realtime_ns};

/// Where it is kept.
const PATH: &str = "/var/lib/slice/quotas.json";

/// Two ends of periods that are nearer than this are one: clocks are read one after
/// the other.
const SAME_NS: u64 = 1_000_000_000;

/// What a slice has sent on a link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    link: String,
    slice: String,
    /// Bytes in the period.
    used: u64,
    /// What was left of the period, nanoseconds.
    left_ns: u64,
    /// When this was so.
    when: Moment,
}

/// A moment by both clocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Moment {
    /// Which boot.
    boot: String,
    /// Since that, nanoseconds, suspend included.
    boot_ns: u64,
    /// Since 1970, nanoseconds.
    calendar_ns: u64,
}

impl Moment {
    fn now() -> anyhow::Result<Self> {
        Ok(Self {
            boot: boot()?,
            boot_ns: boottime_ns().context("read the clock")?,
            calendar_ns: realtime_ns().context("read the clock")?,
        })
    }

    fn since(&self, then: &Moment) -> u64 {
        if self.boot == then.boot {
            self.boot_ns.saturating_sub(then.boot_ns)
        } else {
            self.calendar_ns.saturating_sub(then.calendar_ns)
        }
    }
}

impl Entry {
    /// The period that it is now, by the clock of this boot.
    fn period(&self, now: &Moment, period_ns: u64) -> Period {
        let left = self.left_ns.min(period_ns);
        let gone = now.since(&self.when);
        let (used, left) = if gone < left {
            (self.used, left - gone)
        } else {
            let over = (gone - left).checked_rem(period_ns).unwrap_or(0);
            (0, period_ns - over)
        };
        Period {
            used,
            ends_ns: now.boot_ns.saturating_add(left),
        }
    }

    /// Whether nothing of it counts any more.
    fn is_over(&self, now: &Moment) -> bool {
        now.since(&self.when) >= self.left_ns
    }

    /// Whether writing the other in place of this would tell nothing new.
    fn says_the_same(&self, other: &Entry) -> bool {
        let end = |entry: &Entry| entry.left_ns.saturating_sub(other.when.since(&entry.when));
        self.used == other.used && end(self).abs_diff(end(other)) < SAME_NS
    }
}

/// Writes the file where there is something new; whether there was.
///
/// # Errors
/// A map cannot be read, or the file not be read or written.
pub fn save(maps: &Maps, record: &Record) -> anyhow::Result<bool> {
    if record.links.is_empty() {
        return Ok(false);
    }
    let now = Moment::now()?;
    let before: Vec<Entry> = read_json(Path::new(PATH))?.unwrap_or_default();
    let mut entries = before.clone();
    let mut new = false;
    let rows = maps.states.rows();
    let slices = record.slices.iter();
    let names: BTreeMap<u32, &String> = slices.map(|(name, slice)| (slice.id().0, name)).collect();
    let places: BTreeMap<(&str, &str), usize> = (0..)
        .zip(&before)
        .map(|(place, entry)| ((&*entry.link, &*entry.slice), place))
        .collect();
    for (index, state) in maps.quotas.all()? {
        // Of a period that is over nothing counts.
        if state.ends_ns <= now.boot_ns {
            continue;
        }
        let link = usize::try_from(KnobsAt::at(index, rows).link)?;
        let (Some(slice), Some(link)) = (names.get(&state.id.0), record.links.get(link)) else {
            continue;
        };
        let entry = Entry {
            link: link.clone(),
            slice: (*slice).clone(),
            used: state.used,
            left_ns: state.ends_ns.saturating_sub(now.boot_ns),
            when: now.clone(),
        };
        let place = places.get(&(&**link, &***slice));
        match place.and_then(|place| entries.get_mut(*place)) {
            Some(other) if other.says_the_same(&entry) => {}
            Some(other) => (*other, new) = (entry, true),
            None => {
                entries.push(entry);
                new = true;
            }
        }
    }
    entries.retain(|entry| !entry.is_over(&now));
    if new || entries.len() != before.len() {
        write_json(Path::new(PATH), &entries)?;
        return Ok(true);
    }
    Ok(false)
}

/// Tells the programs what was sent by those that have a quota and whose row does not
/// know it, and takes the rows of others away.
///
/// # Errors
/// A map cannot be read or written, or the file not be read.
pub fn restore(maps: &Maps, record: &Record) -> anyhow::Result<()> {
    if record.links.is_empty() {
        return Ok(());
    }
    let now = Moment::now()?;
    let entries: Vec<Entry> = read_json(Path::new(PATH))?.unwrap_or_default();
    let rows = maps.states.rows();
    let knobs = maps.knobs.all()?;
    for ((index, knobs), (_, state)) in knobs.into_iter().zip(maps.quotas.all()?) {
        let has = knobs.share != 0 && knobs.quota != 0;
        if !has && state != QuotaState::new_zeroed() {
            maps.quotas.set(&index, &QuotaState::new_zeroed())?;
        }
        if !has || state.id == knobs.id {
            continue;
        }
        let link = usize::try_from(KnobsAt::at(index, rows).link)?;
        let link = record.links.get(link);
        let period = entries
            .iter()
            .find(|entry| {
                let slice = record.slices.get(&entry.slice);
                slice.is_some_and(|slice| slice.id() == knobs.id) && Some(&entry.link) == link
            })
            .map_or_else(Period::default, |entry| entry.period(&now, knobs.period_ns))
            .at(now.boot_ns, knobs.period_ns);
        let state = QuotaState {
            used: period.used,
            ends_ns: period.ends_ns,
            id: SliceId(knobs.id.0),
            ..QuotaState::new_zeroed()
        };
        maps.quotas.set(&index, &state)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const DAY: u64 = 24 * HOUR;

    fn moment(boot: &str, boot_ns: u64, calendar_ns: u64) -> Moment {
        Moment {
            boot: boot.to_owned(),
            boot_ns,
            calendar_ns,
        }
    }

    fn entry(used: u64, left_ns: u64, when: Moment) -> Entry {
        Entry {
            link: "eth0".to_owned(),
            slice: "alpha".to_owned(),
            used,
            left_ns,
            when,
        }
    }

    fn period(used: u64, ends_ns: u64) -> Period {
        Period { used, ends_ns }
    }

    #[test]
    fn a_period_goes_on_across_a_restart_by_the_calendar() {
        let saved = entry(7, 10 * DAY, moment("a", 50 * DAY, 1000 * DAY));
        let after = |calendar| moment("b", HOUR, calendar);
        let at = |calendar| saved.period(&after(calendar), 30 * DAY);
        assert_eq!(at(1003 * DAY), period(7, 7 * DAY + HOUR));
        // The next one, and the one after it.
        assert_eq!(at(1012 * DAY), period(0, 28 * DAY + HOUR));
        assert_eq!(at(1043 * DAY), period(0, 27 * DAY + HOUR));
        // A calendar that is behind gives nothing back.
        assert_eq!(at(900 * DAY), period(7, 10 * DAY + HOUR));
        assert_eq!(at(0), period(7, 10 * DAY + HOUR));
    }

    #[test]
    fn within_one_boot_the_calendar_does_not_matter() {
        let saved = entry(7, 10 * DAY, moment("a", 50 * DAY, 1000 * DAY));
        for calendar in [0, 1001 * DAY, 5000 * DAY] {
            let now = moment("a", 51 * DAY, calendar);
            assert_eq!(saved.period(&now, 30 * DAY), period(7, 60 * DAY));
            assert!(!saved.is_over(&now));
        }
        assert!(saved.is_over(&moment("a", 60 * DAY, 0)));
    }

    #[test]
    fn a_file_is_not_written_anew_for_time_that_goes_by() {
        let saved = entry(7, 10 * DAY, moment("a", 50 * DAY, 1000 * DAY));
        let later = |used, left| entry(used, left, moment("a", 51 * DAY, 1001 * DAY));
        assert!(saved.says_the_same(&later(7, 9 * DAY)));
        assert!(!saved.says_the_same(&later(8, 9 * DAY)));
        assert!(!saved.says_the_same(&later(7, 29 * DAY)));
    }
}
