//! What owners may send on the links, and do.

use jiff::Timestamp;
use policy::SliceId;
use policy::decide::pace::RATE_MAX;
use policy::decide::quota::Period;
use serde::{Deserialize, Serialize};

use super::{Names, Owner};
use crate::node::OnLink;

/// A device with a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Link {
    /// The device's name.
    pub name: String,
    /// Its rate, bit/s.
    pub rate: u64,
    /// Whether the device is there.
    pub there: bool,
    /// The owners, the node first.
    pub rows: Vec<LinkRow>,
}

/// An owner on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkRow {
    /// Whose.
    pub owner: Owner,
    /// Guaranteed, bit/s.
    pub floor: u64,
    /// Weight by which what floors leave is split.
    pub share: u32,
    /// Most, bit/s; absent where only the link bounds it.
    pub cap: Option<u64>,
    /// What it sent in the time that was looked at, bit/s.
    pub sends: u64,
    /// Packets that were dropped in that time, a second.
    #[serde(default)]
    pub drops: u64,
    /// What it may send now, bit/s; absent where it sends nothing.
    pub may_send: Option<u64>,
    /// How long what it has sent last will wait, microseconds.
    pub waits_us: u64,
    /// Bytes, as they are on the wire (counter).
    pub sent_bytes: u64,
    /// Packets, segments apiece (counter).
    pub sent_packets: u64,
    /// Bytes dropped since too much waited (counter).
    pub dropped_bytes: u64,
    /// Packets dropped (counter).
    pub dropped_packets: u64,
    /// What it may send in a period, where that is bounded.
    pub quota: Option<Quota>,
}

/// What an owner may send in a period, and has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Quota {
    /// Bytes.
    pub limit: u64,
    /// Bytes sent.
    pub used: u64,
    /// Bytes left.
    pub left: u64,
    /// When the next period begins.
    pub ends: Timestamp,
    /// What it leaves to send, bit/s; absent while there is enough left.
    pub cap: Option<u64>,
}

/// An owner's row as it was read twice.
#[derive(Clone, Copy, Debug)]
pub struct LinkReading {
    /// What it had before.
    pub before: OnLink,
    /// What it has.
    pub after: OnLink,
    /// Between the two, nanoseconds.
    pub elapsed_ns: u64,
    /// The monotonic clock at the second, nanoseconds.
    pub now_ns: u64,
    /// The clock that goes on in suspend, nanoseconds.
    pub boot_ns: u64,
    /// The same on the calendar.
    pub time: Timestamp,
}

impl LinkRow {
    /// The row of what was read.
    #[must_use]
    pub fn new(names: &Names, reading: &LinkReading) -> Self {
        let (knobs, after) = (&reading.after.knobs, &reading.after.bucket);
        let before = &reading.before.bucket;
        let per_second = |now: u64, before: u64, times: u128| {
            let moved = u128::from(now.saturating_sub(before)) * times * 1_000_000_000;
            u64::try_from(moved / u128::from(reading.elapsed_ns.max(1))).unwrap_or(u64::MAX)
        };
        Self {
            owner: names.owner(SliceId(knobs.id.0)),
            floor: knobs.floor * 8,
            share: knobs.share,
            cap: (knobs.cap < RATE_MAX).then_some(knobs.cap * 8),
            sends: per_second(after.bytes, before.bytes, 8),
            drops: per_second(after.dropped_packets, before.dropped_packets, 1),
            may_send: (after.state != 0).then_some(after.rate * 8),
            waits_us: after.next_ns.saturating_sub(reading.now_ns) / 1000,
            sent_bytes: after.bytes,
            sent_packets: after.packets,
            dropped_bytes: after.dropped_bytes,
            dropped_packets: after.dropped_packets,
            quota: (knobs.quota != 0).then(|| Quota::new(reading)),
        }
    }
}

impl Quota {
    fn new(reading: &LinkReading) -> Self {
        let OnLink { knobs, quota, .. } = &reading.after;
        // Nobody may have sent since the period was over.
        let period = Period {
            used: quota.used,
            ends_ns: quota.ends_ns,
        }
        .at(reading.boot_ns, knobs.period_ns);
        let left = std::time::Duration::from_nanos(period.ends_ns.saturating_sub(reading.boot_ns));
        Self {
            limit: knobs.quota,
            used: period.used,
            left: period.left(knobs.quota),
            ends: reading.time.saturating_add(left).unwrap_or(Timestamp::MAX),
            cap: period
                .cap(knobs.quota, knobs.floor, reading.boot_ns)
                .map(|cap| cap.saturating_mul(8)),
        }
    }
}
