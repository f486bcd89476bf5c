//! What owners may send on the links, and do.

use jiff::Timestamp;
use policy::SliceId;
use policy::decide::pace::{RATE_MAX, packets_leave_ns};
use policy::decide::quota::Period;
use serde::{Deserialize, Serialize};

use super::{Names, Owner};
use crate::node::OnLink;

/// A device with a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Link"))]
pub struct Link<Rows = Vec<LinkRow>> {
    /// The device's name.
    pub name: String,
    /// Its rate, bit/s.
    pub rate: u64,
    /// Whether the device is there.
    pub there: bool,
    /// The owners, the node first.
    pub rows: Rows,
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
    /// Most packets in a second; absent where they are not bounded.
    pub packets_cap: Option<u64>,
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
    /// Packets marked (ECN) since much waited before them (counter).
    #[serde(default)]
    pub marks: u64,
    /// What it may send in a period, where that is bounded.
    pub quota: Option<Quota>,
    /// What it sends to exempt networks, where the link has some; not in the others.
    pub exempt: Option<Exempt>,
    /// What it receives by the link, where that is bounded.
    #[serde(default)]
    pub receive: Option<Receive>,
}

/// What an owner may receive by a link, and does. Counted since it is bounded, from the
/// IP header on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Receive {
    /// Most, bit/s.
    pub cap: u64,
    /// What reached its sockets in the time that was looked at, bit/s.
    pub receives: u64,
    /// Packets that were dropped in that time, a second.
    pub drops: u64,
    /// Bytes that reached its sockets (counter).
    pub received_bytes: u64,
    /// Packets, segments apiece (counter).
    pub received_packets: u64,
    /// Bytes dropped since they were too many (counter).
    pub policed_bytes: u64,
    /// Packets dropped (counter).
    pub policed_packets: u64,
}

/// What an owner sends to the networks that are exempt on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exempt {
    /// As in [`LinkRow`].
    pub cap: Option<u64>,
    /// As in [`LinkRow`].
    pub sends: u64,
    /// As in [`LinkRow`].
    pub may_send: Option<u64>,
    /// As in [`LinkRow`].
    pub waits_us: u64,
    /// As in [`LinkRow`].
    pub sent_bytes: u64,
    /// As in [`LinkRow`].
    pub sent_packets: u64,
    /// As in [`LinkRow`].
    pub dropped_bytes: u64,
    /// As in [`LinkRow`].
    pub dropped_packets: u64,
    /// As in [`LinkRow`].
    #[serde(default)]
    pub marks: u64,
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
    /// The row of what was read, and of what goes to exempt networks.
    #[must_use]
    pub fn new(names: &Names, reading: &LinkReading, exempt: Option<&LinkReading>) -> Self {
        let (knobs, after) = (&reading.after.knobs, &reading.after.bucket);
        Self {
            owner: names.owner(SliceId(knobs.id.0)),
            floor: knobs.floor * 8,
            share: knobs.share,
            cap: reading.cap(),
            packets_cap: (knobs.packets != 0).then_some(knobs.packets),
            sends: reading.sends(),
            drops: reading.drops(),
            may_send: reading.may_send(),
            waits_us: reading.waits_us(),
            sent_bytes: after.bytes,
            sent_packets: after.packets,
            dropped_bytes: after.dropped_bytes,
            dropped_packets: after.dropped_packets,
            marks: after.marks,
            quota: (knobs.quota != 0).then(|| Quota::new(reading)),
            exempt: exempt.map(Exempt::new),
            receive: (knobs.receive != 0).then(|| Receive::new(reading)),
        }
    }
}

impl Exempt {
    fn new(reading: &LinkReading) -> Self {
        let after = &reading.after.bucket;
        Self {
            cap: reading.cap(),
            sends: reading.sends(),
            may_send: reading.may_send(),
            waits_us: reading.waits_us(),
            sent_bytes: after.bytes,
            sent_packets: after.packets,
            dropped_bytes: after.dropped_bytes,
            dropped_packets: after.dropped_packets,
            marks: after.marks,
        }
    }
}

impl Receive {
    fn new(reading: &LinkReading) -> Self {
        let (before, after) = (&reading.before.arrivals, &reading.after.arrivals);
        Self {
            cap: reading.after.knobs.receive * 8,
            receives: reading.per_second(after.bytes, before.bytes, 8),
            drops: reading.per_second(after.policed_packets, before.policed_packets, 1),
            received_bytes: after.bytes,
            received_packets: after.packets,
            policed_bytes: after.policed_bytes,
            policed_packets: after.policed_packets,
        }
    }
}

impl LinkReading {
    fn cap(&self) -> Option<u64> {
        let cap = self.after.knobs.cap;
        (cap < RATE_MAX).then_some(cap * 8)
    }

    fn sends(&self) -> u64 {
        let (before, after) = (&self.before.bucket, &self.after.bucket);
        self.per_second(after.bytes, before.bytes, 8)
    }

    fn drops(&self) -> u64 {
        let (before, after) = (&self.before.bucket, &self.after.bucket);
        self.per_second(after.dropped_packets, before.dropped_packets, 1)
    }

    fn per_second(&self, now: u64, before: u64, times: u128) -> u64 {
        let moved = u128::from(now.saturating_sub(before)) * times * 1_000_000_000;
        u64::try_from(moved / u128::from(self.elapsed_ns.max(1))).unwrap_or(u64::MAX)
    }

    fn may_send(&self) -> Option<u64> {
        let bucket = &self.after.bucket;
        (bucket.state != 0).then_some(bucket.rate * 8)
    }

    fn waits_us(&self) -> u64 {
        let (bucket, knobs) = (&self.after.bucket, &self.after.knobs);
        let by_packets = packets_leave_ns(knobs.packets, bucket.packets_next_ns);
        let leaves_ns = bucket.next_ns.max(by_packets);
        leaves_ns.saturating_sub(self.now_ns) / 1000
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
