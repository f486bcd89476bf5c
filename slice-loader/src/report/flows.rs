//! `slice flows`: who sent what to whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use jiff::Timestamp;
use policy::abi::{Address, TalliedFlow, Tally, Traffic};
use policy::config::Prefix;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::event::{End, protocol};
use super::status::{Volume, Way};
use super::{Clock, Names, Owner};
use crate::kernel::tallies::Generation;

/// The answer to `slice flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// When it was asked.
    pub time: Timestamp,
    /// A row per flow, the one that was used last first.
    pub flows: Vec<Flow>,
    /// Rows that were asked for and are not here.
    pub more: u64,
    /// What owners exchanged beside the rows: for what, is not known.
    pub others: Vec<Other>,
}

/// What an owner exchanged with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flow {
    /// Whose.
    pub slice: Owner,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or the number.
    pub protocol: String,
    /// Type of ICMP; absent in others.
    pub icmp_type: Option<u8>,
    /// Whether it stayed inside the node.
    pub inside: bool,
    /// The end on the node; the port of an ICMP echo is its identifier.
    pub local: End,
    /// The other end.
    pub peer: End,
    /// What the owner sent.
    pub sent: Volume,
    /// What it received.
    pub received: Volume,
    /// When the first of these packets passed.
    pub first: Timestamp,
    /// When the last one did.
    pub last: Timestamp,
}

/// What an owner exchanged that is in no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Other {
    /// Whose.
    pub slice: Owner,
    /// In which hour; absent where hours are added up.
    pub hour: Option<Timestamp>,
    /// With others than this node.
    pub external: Way,
    /// Inside the node.
    pub loopback: Way,
}

/// Which flows are asked for; all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The peer's address is in this network.
    pub peer: Option<Prefix>,
    /// The peer's port.
    pub port: Option<u16>,
    /// The port on the node.
    pub local_port: Option<u16>,
    /// The protocol.
    pub protocol: Option<u8>,
    /// The owner's name.
    pub slice: Option<String>,
    /// Something of it at this time or later.
    pub since: Option<Timestamp>,
    /// Something of it at this time or earlier.
    pub until: Option<Timestamp>,
}

/// The times of a row, nanoseconds since 1970.
pub type Span = (i64, i64);

/// Nanoseconds of an hour.
pub const HOUR_NS: i64 = 3_600_000_000_000;

/// A time of the calendar as rows have it; one that is beyond is the first or the last.
#[must_use]
pub fn nanoseconds(time: Timestamp) -> i64 {
    let (first, last) = (i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(time.as_nanosecond().clamp(first, last)).unwrap_or(i64::MAX)
}

impl Wanted {
    /// Whether this is a row that was asked for.
    #[must_use]
    pub fn wants(&self, owner: &Owner, flow: &TalliedFlow, (first, last): Span) -> bool {
        self.wants_owner(owner)
            && self
                .peer
                .is_none_or(|peer| peer.contains(address(&flow.peer)))
            && self.port.is_none_or(|port| flow.peer_port == port)
            && self.local_port.is_none_or(|port| flow.local_port == port)
            && self.protocol.is_none_or(|number| flow.protocol == number)
            && self.since.is_none_or(|since| last >= nanoseconds(since))
            && self.until.is_none_or(|until| first <= nanoseconds(until))
    }

    /// Whether an owner's rows were asked for.
    #[must_use]
    pub fn wants_owner(&self, owner: &Owner) -> bool {
        self.slice
            .as_ref()
            .is_none_or(|name| owner.name.as_ref() == Some(name))
    }
}

/// Rows on their way into a report, those of one flow added up.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    flows: BTreeMap<(Vec<u8>, Option<String>), (Tally, Span)>,
    others: BTreeMap<(u32, Option<String>), Traffic>,
}

impl Gathered {
    /// Adds what the programs tallied.
    pub fn add_tallied(
        &mut self,
        wanted: &Wanted,
        clock: &Clock,
        names: &Names,
        tallied: &Generation,
    ) {
        for (flow, tally) in &tallied.flows {
            let owner = names.owner(flow.owner);
            let span = (
                clock.nanoseconds(tally.first_ns),
                clock.nanoseconds(tally.last_ns),
            );
            self.add(wanted, &owner, flow, tally, span);
        }
        for rest in &tallied.rests {
            self.add_rest(wanted, &names.owner(rest.owner), &rest.traffic);
        }
    }

    /// Adds a row, if it was asked for.
    pub fn add(
        &mut self,
        wanted: &Wanted,
        owner: &Owner,
        flow: &TalliedFlow,
        tally: &Tally,
        span: Span,
    ) {
        if !wanted.wants(owner, flow, span) {
            return;
        }
        let key = (flow.as_bytes().to_vec(), owner.name.clone());
        let (sum, times) = self
            .flows
            .entry(key)
            .or_insert_with(|| (Tally::new_zeroed(), span));
        sum.sent_packets += tally.sent_packets;
        sum.sent_bytes += tally.sent_bytes;
        sum.received_packets += tally.received_packets;
        sum.received_bytes += tally.received_bytes;
        *times = (times.0.min(span.0), times.1.max(span.1));
    }

    /// Adds what is in no row.
    pub fn add_rest(&mut self, wanted: &Wanted, owner: &Owner, traffic: &Traffic) {
        if !wanted.wants_owner(owner) {
            return;
        }
        let sum = self
            .others
            .entry((owner.id, owner.name.clone()))
            .or_insert_with(Traffic::new_zeroed);
        *sum = crate::node::sum(*sum, *traffic);
    }

    /// The report, with `most` rows at most.
    #[must_use]
    pub fn report(self, time: Timestamp, most: usize) -> Flows {
        let mut flows: Vec<Flow> = self
            .flows
            .into_iter()
            .filter_map(|((bytes, name), (tally, span))| {
                let flow = TalliedFlow::read_from_bytes(&bytes).ok()?;
                Some(Flow::new(name, &flow, &tally, span))
            })
            .collect();
        // What is equally old stays in the order of the keys.
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.last));
        let more = flows.len().saturating_sub(most);
        flows.truncate(most);
        let others = self.others.into_iter();
        Flows {
            time,
            flows,
            more: u64::try_from(more).unwrap_or(u64::MAX),
            others: others
                .map(|((id, name), traffic)| Other::new(Owner { id, name }, None, &traffic))
                .collect(),
        }
    }
}

/// What rows have, as a time of the calendar.
#[must_use]
pub fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Flow {
    /// The row of what was tallied of an owner of this name.
    #[must_use]
    pub fn new(
        name: Option<String>,
        flow: &TalliedFlow,
        tally: &Tally,
        (first, last): Span,
    ) -> Self {
        let icmp = matches!(
            flow.protocol,
            policy::decide::raw::ICMP | policy::decide::raw::ICMPV6
        );
        Self {
            slice: Owner {
                id: flow.owner.0,
                name,
            },
            protocol: protocol(flow.protocol),
            icmp_type: icmp.then_some(flow.kind),
            inside: flow.inside != 0,
            local: end(flow.local, flow.local_port),
            peer: end(flow.peer, flow.peer_port),
            sent: volume(tally.sent_packets, tally.sent_bytes),
            received: volume(tally.received_packets, tally.received_bytes),
            first: time(first),
            last: time(last),
        }
    }
}

impl Other {
    /// What an owner exchanged beside its rows, in an hour or in all.
    #[must_use]
    pub fn new(slice: Owner, hour: Option<Timestamp>, traffic: &Traffic) -> Self {
        let [external, loopback] = Way::both(traffic);
        Self {
            slice,
            hour,
            external,
            loopback,
        }
    }
}

fn volume(packets: u64, bytes: u64) -> Volume {
    Volume { packets, bytes }
}

fn address(bytes: &Address) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical()
}

fn end(bytes: Address, port: u16) -> End {
    End {
        address: Some(address(&bytes)),
        port: (port != 0).then_some(port),
    }
}

/// The number of a protocol by its name or number.
#[must_use]
pub fn protocol_number(text: &str) -> Option<u8> {
    (0..=u8::MAX).find(|number| protocol(*number) == text || number.to_string() == text)
}

/// A point in time as a node owner types it: a time of the calendar with its zone
/// (RFC 3339), seconds since 1970 after an `@`, or how long ago (`2h`, `90 min`).
#[must_use]
pub fn point_in_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::from_second(seconds.parse().ok()?).ok();
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let ago: jiff::Span = text.parse().ok()?;
    let ago = ago
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .ok()?;
    now.checked_sub(ago).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::SliceId;
    use policy::abi::{TCP, UDP, mapped};

    const HOUR: i64 = 3_600_000_000_000;

    fn flow(row: u32, peer: [u8; 4], peer_port: u16) -> TalliedFlow {
        TalliedFlow {
            owner: SliceId(row),
            protocol: UDP,
            local_port: 8000,
            peer_port,
            local: mapped([198, 51, 100, 1]),
            peer: mapped(peer),
            ..TalliedFlow::new_zeroed()
        }
    }

    fn tally(packets: u64) -> Tally {
        Tally {
            sent_packets: packets,
            sent_bytes: packets * 100,
            ..Tally::new_zeroed()
        }
    }

    fn owner(name: &str) -> Owner {
        Owner {
            id: 2,
            name: Some(name.to_owned()),
        }
    }

    fn found(wanted: &Wanted) -> Vec<u16> {
        let mut gathered = Gathered::default();
        for (name, peer, port, hour) in [
            ("alpha", [192, 0, 2, 9], 53, 1),
            ("alpha", [192, 0, 3, 9], 54, 2),
            ("beta", [192, 0, 2, 9], 55, 3),
        ] {
            let span = (hour * HOUR, hour * HOUR + HOUR / 2);
            gathered.add(wanted, &owner(name), &flow(2, peer, port), &tally(1), span);
        }
        let report = gathered.report(Timestamp::UNIX_EPOCH, 10);
        let ports = report.flows.iter().map(|flow| flow.peer.port.unwrap());
        ports.collect()
    }

    #[test]
    fn flows_are_found_by_address_port_time_protocol_and_owner() {
        let at = |nanoseconds: i64| Timestamp::from_nanosecond(nanoseconds.into()).ok();
        let all = Wanted::default();
        assert_eq!(found(&all), [55, 54, 53]);
        let peer = Prefix::parse("192.0.2.0/24").ok();
        assert_eq!(
            found(&Wanted {
                peer,
                ..all.clone()
            }),
            [55, 53]
        );
        assert_eq!(
            found(&Wanted {
                port: Some(54),
                ..all.clone()
            }),
            [54]
        );
        assert_eq!(
            found(&Wanted {
                local_port: Some(54),
                ..all.clone()
            }),
            Vec::<u16>::new()
        );
        assert_eq!(
            found(&Wanted {
                protocol: Some(TCP),
                ..all.clone()
            }),
            Vec::<u16>::new()
        );
        let slice = Some("beta".into());
        assert_eq!(
            found(&Wanted {
                slice,
                ..all.clone()
            }),
            [55]
        );
        // What reaches into the time is of it.
        let since = at(2 * HOUR + HOUR / 2);
        assert_eq!(
            found(&Wanted {
                since,
                ..all.clone()
            }),
            [55, 54]
        );
        let until = at(2 * HOUR);
        assert_eq!(
            found(&Wanted {
                until,
                ..all.clone()
            }),
            [54, 53]
        );
        assert_eq!(
            found(&Wanted {
                since,
                until,
                ..all
            }),
            [54]
        );
    }

    #[test]
    fn rows_of_one_flow_add_up_and_what_is_not_shown_is_counted() {
        let mut gathered = Gathered::default();
        let wanted = Wanted::default();
        for time in [5, 3, 4] {
            let row = flow(2, [192, 0, 2, 1], 53);
            gathered.add(&wanted, &owner("alpha"), &row, &tally(2), (time, time + 10));
        }
        let later = flow(2, [192, 0, 2, 2], 53);
        gathered.add(&wanted, &owner("alpha"), &later, &tally(1), (90, 91));
        let mut rest = Traffic::new_zeroed();
        rest.sent_bytes = 7;
        gathered.add_rest(&wanted, &owner("alpha"), &rest);
        gathered.add_rest(&wanted, &owner("alpha"), &rest);
        let all = gathered.clone().report(Timestamp::UNIX_EPOCH, 10);
        assert_eq!(all.flows[1].sent, volume(6, 600));
        assert_eq!(all.flows[1].first.as_nanosecond(), 3);
        assert_eq!(all.flows[1].last.as_nanosecond(), 15);
        assert_eq!(all.others[0].external.sent.bytes, 14);
        let one = gathered.report(Timestamp::UNIX_EPOCH, 1);
        assert_eq!((one.flows.len(), one.more), (1, 1));
        assert_eq!(one.flows[0].last.as_nanosecond(), 91);
    }

    #[test]
    fn a_time_is_one_of_the_calendar_or_one_ago() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let second = |text| point_in_time(text, now).map(Timestamp::as_second);
        assert_eq!(second("2h"), Some(1_700_000_000 - 7200));
        assert_eq!(second("90 min"), Some(1_700_000_000 - 5400));
        assert_eq!(second("7d"), Some(1_700_000_000 - 7 * 86_400));
        assert_eq!(second("@1699999999"), Some(1_699_999_999));
        assert_eq!(second("2023-11-14T22:13:19Z"), Some(1_699_999_999));
        assert_eq!(second("2023-11-14T23:13:19+01:00"), Some(1_699_999_999));
        for bad in ["", "yesterday", "12", "2023-11-14"] {
            assert_eq!(second(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_protocol_has_a_name_or_a_number() {
        assert_eq!(protocol_number("icmpv6"), Some(58));
        assert_eq!(protocol_number("6"), Some(TCP));
        assert_eq!(protocol_number("ftp"), None);
    }
}
