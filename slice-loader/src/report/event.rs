//! `slice events`: one denial, and the notice that some were not seen.

use std::net::{IpAddr, Ipv6Addr};

use jiff::Timestamp;
use policy::abi::{self, LET_THROUGH, Moment, TCP, UDP};
use policy::verdict::Reason;
use serde::{Deserialize, Serialize};

use super::happening::Happening;
use super::{Clock, Names, Owner};

/// One line of the stream of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Item {
    /// A denial.
    Event(Box<Event>),
    /// Something else that happened.
    Happened(Box<Happening>),
    /// So many events of the owner that is traced were left out, since there were more
    /// than are told in a second.
    // In traces alone, which no slice is given.
    #[serde(rename = "left_out")]
    #[cfg_attr(test, schemars(skip))]
    LeftOut(u64),
    /// The reader was too slow, or asked for events that are kept no more: so
    /// many of all slices passed unseen.
    Lost(u64),
}

/// One denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Where the reader may go on: the parameter `after` of the API.
    #[cfg_attr(test, schemars(with = "String"))]
    pub cursor: Cursor,
    /// When.
    pub time: Timestamp,
    /// Whose call or packet.
    pub slice: Owner,
    /// The moment of the socket's or packet's life; `moment-N` for one that
    /// this version does not know.
    pub moment: String,
    /// Slug of the reason; `reason-N` for one that this version does not know. In a trace
    /// also `allowed`.
    pub reason: String,
    /// The reason as a sentence.
    pub sentence: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or the number.
    pub protocol: String,
    /// `inet`, `inet6` or the number.
    pub family: String,
    /// The end on the node; absent where there is none.
    pub local: Option<End>,
    /// The other end; absent where there is none.
    pub peer: Option<End>,
    /// The process that made the call; absent where there is none.
    pub pid: Option<u32>,
    /// Name of the task. Tenants choose it: show it escaped.
    pub command: String,
    /// Events of this slice suppressed by the programs so far.
    pub suppressed: u64,
}

/// Address and port of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    /// The address; absent where only the port is known.
    pub address: Option<IpAddr>,
    /// The port; absent where there is none.
    pub port: Option<u16>,
}

/// The place of an event in the stream: which run of the daemon, which event
/// of that run. Written `RUN.NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// When the daemon was started, microseconds since 1970.
    pub run: u64,
    /// Events before this one in that run.
    pub number: u64,
}

/// In the place of a reason: the call was let through.
pub const ALLOWED: &str = "allowed";

/// Why a text is no [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCursor;

impl Event {
    /// The event of a record of the ring.
    #[must_use]
    pub fn new(record: &abi::Event, cursor: Cursor, clock: &Clock, names: &Names) -> Self {
        let reason = Reason::from_number(record.reason);
        Self {
            cursor,
            time: clock.at(record.time_ns),
            slice: names.owner(record.id),
            moment: match Moment::from_number(record.moment) {
                Some(moment) => moment.slug().to_owned(),
                None => format!("moment-{}", record.moment),
            },
            reason: match reason {
                Some(reason) => reason.slug().to_owned(),
                None if record.reason == LET_THROUGH => ALLOWED.to_owned(),
                None => format!("reason-{}", record.reason),
            },
            sentence: match reason {
                Some(reason) => reason.sentence(),
                None if record.reason == LET_THROUGH => "The call was let through.",
                None => "A newer kernel part gave this reason.",
            }
            .to_owned(),
            protocol: protocol(record.protocol),
            family: family(record.family),
            local: End::new(record.local, record.local_port),
            peer: End::new(record.peer, record.peer_port),
            pid: (record.pid != 0).then_some(record.pid),
            command: command(&record.command),
            suppressed: record.suppressed,
        }
    }
}

impl End {
    fn new(address: abi::Address, port: u16) -> Option<Self> {
        let address = (address != abi::Address::default())
            .then(|| IpAddr::V6(Ipv6Addr::from(address)).to_canonical());
        let port = (port != 0).then_some(port);
        (address.is_some() || port.is_some()).then_some(Self { address, port })
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match (self.address, self.port) {
            (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
            (Some(address), Some(port)) => format!("{address}:{port}"),
            (Some(address), None) => address.to_string(),
            (None, Some(port)) => format!("*:{port}"),
            (None, None) => String::from("-"),
        };
        f.pad(&text)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.run, self.number)
    }
}

impl std::str::FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (run, number) = text.split_once('.').ok_or(BadCursor)?;
        let part = |digits: &str| digits.parse().map_err(|_| BadCursor);
        Ok(Self {
            run: part(run)?,
            number: part(number)?,
        })
    }
}

impl std::fmt::Display for BadCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a cursor is the field `cursor` of an event, RUN.NUMBER")
    }
}

impl std::error::Error for BadCursor {}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What people call an IP protocol.
pub(super) fn protocol(number: u8) -> String {
    const NAMES: [(u8, &str); 6] = [
        (1, "icmp"),
        (TCP, "tcp"),
        (UDP, "udp"),
        (58, "icmpv6"),
        (132, "sctp"),
        (136, "udplite"),
    ];
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

/// The name of an address family, as `AF_*` has it.
fn family(number: u8) -> String {
    const NAMES: [(i32, &str); 6] = [
        (libc::AF_UNIX, "unix"),
        (libc::AF_INET, "inet"),
        (libc::AF_INET6, "inet6"),
        (libc::AF_NETLINK, "netlink"),
        (libc::AF_PACKET, "packet"),
        (libc::AF_VSOCK, "vsock"),
    ];
    match NAMES.iter().find(|(known, _)| *known == i32::from(number)) {
        Some((_, name)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

fn command(bytes: &[u8; 16]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn record() -> abi::Event {
        let mut record = abi::Event::new_zeroed();
        record.reason = Reason::PortReserved as u8;
        record.moment = Moment::Bind as u8;
        record.protocol = TCP;
        record.local_port = 80;
        record.command[..5].copy_from_slice(b"nginx");
        record
    }

    fn event(record: &abi::Event) -> Event {
        let clock = Clock {
            monotonic_ns: 0,
            realtime_ns: 0,
        };
        Event::new(
            record,
            Cursor { run: 7, number: 9 },
            &clock,
            &Names::new([]),
        )
    }

    #[test]
    fn ends_are_told_as_far_as_they_are_known() {
        let mut record = record();
        assert_eq!(event(&record).local.unwrap().to_string(), "*:80");
        assert_eq!(event(&record).peer, None);
        record.local = abi::mapped([192, 0, 2, 1]);
        assert_eq!(event(&record).local.unwrap().to_string(), "192.0.2.1:80");
        record.peer = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(event(&record).peer.unwrap().to_string(), "2001:db8::1");
        record.peer_port = 443;
        assert_eq!(
            event(&record).peer.unwrap().to_string(),
            "[2001:db8::1]:443"
        );
    }

    #[test]
    fn numbers_of_a_newer_kernel_part_are_shown_and_not_guessed() {
        let mut record = record();
        record.reason = 250;
        record.moment = 99;
        record.protocol = 200;
        let event = event(&record);
        assert_eq!(
            (event.reason.as_str(), event.moment.as_str()),
            ("reason-250", "moment-99")
        );
        assert_eq!(event.protocol, "200");
    }

    #[test]
    fn a_call_that_was_let_through_is_no_denial() {
        let mut record = record();
        (record.reason, record.moment) = (LET_THROUGH, Moment::Listen as u8);
        let event = event(&record);
        assert_eq!(
            (event.reason.as_str(), event.moment.as_str()),
            (ALLOWED, "listen")
        );
    }

    #[test]
    fn a_full_length_command_has_no_terminator() {
        let mut record = record();
        record.command = *b"0123456789abcdef";
        assert_eq!(event(&record).command, "0123456789abcdef");
    }

    #[test]
    fn an_event_survives_json() {
        let item = Item::Event(Box::new(event(&record())));
        let text = serde_json::to_string(&item).unwrap();
        assert!(text.contains(r#""cursor":"7.9""#), "{text}");
        assert_eq!(serde_json::from_str::<Item>(&text).unwrap(), item);
        assert_eq!(
            serde_json::to_string(&Item::Lost(3)).unwrap(),
            r#"{"lost":3}"#
        );
    }

    #[test]
    fn a_cursor_is_two_numbers() {
        for bad in ["", "1", "1.", ".1", "a.b", "1.2.3", "-1.2"] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad}");
        }
    }
}
