//! Parameters of requests: one table says what each takes, so that a request is judged,
//! its error is told and the document that describes the API is written from it.
//!
//! A parameter that a document does not have is refused, since a filter that is spelled
//! wrongly and passed over would tell too much.

use hyper::Uri;
use jiff::Timestamp;
use policy::config::Prefix;
use policy::verdict::Reason;

use super::problem::Problem;
use super::wire::Place;
use crate::flows::Position;
use crate::report::event::Cursor;
use crate::report::flows::{point_in_time, protocol_number};

/// One parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What it does.
    pub says: &'static str,
    /// What is told of a value that is none.
    pub wrong: &'static str,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A whole number of this range.
    Number(u32, u32),
    /// The name of an owner.
    Name,
    /// The name of a device.
    Device,
    /// One of these words.
    Words(&'static [&'static str]),
    /// The slug of a reason.
    Reason,
    /// A protocol by name or number.
    Protocol,
    /// An address or a network.
    Network,
    /// A time, or how long ago.
    Time,
    /// Where a page of a list ended.
    Place,
    /// Where a page of flows ended.
    Position,
    /// The id of an event.
    Event,
}

/// Rows of a page, at most and where nothing is said.
pub const MOST: u16 = 1000;

/// How many rows.
pub static LIMIT: Parameter = Parameter {
    name: "limit",
    takes: Takes::Number(1, MOST as u32),
    says: "Most rows of a page; 1000 where nothing is said.",
    wrong: "limit is a whole number from 1 to 1000.",
};
/// How many rows of each link; they are no pages.
pub static ROWS: Parameter = Parameter {
    name: "limit",
    takes: Takes::Number(1, MOST as u32),
    says: "Most rows of a link, who sent most first; 100 where nothing is said.",
    wrong: "limit is a whole number from 1 to 1000.",
};
/// The page after one.
pub static AFTER: Parameter = Parameter {
    name: "after",
    takes: Takes::Place,
    says: "The page after one, as its `next` says.",
    wrong: "after is the next of a page of this list.",
};
/// The same among flows.
pub static AFTER_FLOW: Parameter = Parameter {
    name: "after",
    takes: Takes::Position,
    ..AFTER
};
/// The same among events.
pub static AFTER_EVENT: Parameter = Parameter {
    name: "after",
    takes: Takes::Event,
    says: "Events after this one; the header Last-Event-ID says the same, and goes before.",
    wrong: "after is the id of an event.",
};
/// Whose.
pub static SLICE: Parameter = Parameter {
    name: "slice",
    takes: Takes::Name,
    says: "Only this owner; one that you may not see has nothing, as one that is not there.",
    wrong: "slice is the name of a slice, node or unattributed.",
};
/// What kind of owner.
pub static KIND: Parameter = Parameter {
    name: "kind",
    takes: Takes::Words(&["node", "slice", "unattributed"]),
    says: "Only owners of this kind.",
    wrong: "kind is node, slice or unattributed.",
};
/// Why a port is its owner's.
pub static PORT_KIND: Parameter = Parameter {
    name: "kind",
    takes: Takes::Words(&["reserved", "claimed", "found"]),
    says: "Only ports that are their owner's for this reason.",
    wrong: "kind is reserved, claimed or found.",
};
/// A protocol that has ports.
pub static PORT_PROTOCOL: Parameter = Parameter {
    name: "protocol",
    takes: Takes::Words(&["tcp", "udp"]),
    says: "Only this protocol.",
    wrong: "protocol is tcp or udp.",
};
/// A port of the node.
pub static OWN_PORT: Parameter = Parameter {
    name: "port",
    takes: Takes::Number(0, 65_535),
    says: "Only rows that this port is in.",
    wrong: "port is a whole number from 0 to 65535.",
};
/// A device.
pub static LINK: Parameter = Parameter {
    name: "link",
    takes: Takes::Device,
    says: "Only this link.",
    wrong: "link is the name of a device.",
};
/// Why something was refused.
pub static REASON: Parameter = Parameter {
    name: "reason",
    takes: Takes::Reason,
    says: "Only this reason.",
    wrong: "reason is the slug of a reason.",
};
/// Whom a flow was with.
pub static PEER: Parameter = Parameter {
    name: "peer",
    takes: Takes::Network,
    says: "Only flows with a peer in this network: 192.0.2.1, 192.0.2.0/24, 2001:db8::/32.",
    wrong: "peer is an address or a network.",
};
/// The peer's port.
pub static PEER_PORT: Parameter = Parameter {
    name: "port",
    takes: Takes::Number(0, 65_535),
    says: "Only flows with this port of the peer.",
    wrong: "port is a whole number from 0 to 65535.",
};
/// The port on the node.
pub static LOCAL_PORT: Parameter = Parameter {
    name: "local_port",
    takes: Takes::Number(0, 65_535),
    says: "Only flows with this port on the node; the identifier of an ICMP echo.",
    wrong: "local_port is a whole number from 0 to 65535.",
};
/// The protocol of a flow.
pub static PROTOCOL: Parameter = Parameter {
    name: "protocol",
    takes: Takes::Protocol,
    says: "Only this protocol: tcp, udp, icmp, icmpv6 or a number.",
    wrong: "protocol is a name such as tcp, or a number from 0 to 255.",
};
/// From when.
pub static SINCE: Parameter = Parameter {
    name: "since",
    takes: Takes::Time,
    says: "Only what reaches into the time from here on: 2026-01-31T12:00:00Z, @1769860800, or how long ago: 2h.",
    wrong: "since is a time such as 2026-01-31T12:00:00Z or @1769860800, or how long ago: 2h.",
};
/// Until when.
pub static UNTIL: Parameter = Parameter {
    name: "until",
    takes: Takes::Time,
    says: "Only what reaches into the time up to here.",
    wrong: "until is a time such as 2026-01-31T12:00:00Z or @1769860800, or how long ago: 2h.",
};

impl Takes {
    /// Whether this is a value.
    fn takes(self, text: &str) -> bool {
        match self {
            Self::Number(low, high) => {
                number(text).is_some_and(|number| (low..=high).contains(&number))
            }
            Self::Name => is_name(text),
            Self::Device => is_device(text),
            Self::Words(words) => words.contains(&text),
            Self::Reason => Reason::ALL.iter().any(|reason| reason.slug() == text),
            Self::Protocol => protocol_number(text).is_some(),
            Self::Network => Prefix::parse(text).is_ok(),
            Self::Time => point_in_time(text, Timestamp::now()).is_some(),
            Self::Place => text.parse::<Place>().is_ok(),
            Self::Position => text.parse::<Position>().is_ok(),
            Self::Event => text.parse::<Cursor>().is_ok(),
        }
    }
}

/// A name that a slice, the node or the unattributed may have: so no other text comes
/// to the daemon.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    !text.is_empty() && text.len() <= 31 && text.bytes().all(letter)
}

/// The kernel's rules for names of devices.
fn is_device(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
    !text.is_empty() && text.len() <= 15 && text.bytes().all(letter)
}

/// Digits alone: one way to write a number.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && text.len() <= 10).then(|| text.parse().ok())?
}

/// The parameters of a request, each a value of its kind.
#[derive(Debug, Default)]
pub struct Given(Vec<(&'static Parameter, String)>);

impl Given {
    /// Those of a request for a document that has these.
    ///
    /// # Errors
    /// One is not known, is there twice, or has no value of its kind.
    pub fn read(uri: &Uri, known: &[&'static Parameter]) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_str(query).map_err(|_| Problem::UnknownParameter)?;
        let mut given = Self::default();
        for (name, value) in pairs {
            let known = known.iter().find(|parameter| parameter.name == name);
            let parameter = *known.ok_or(Problem::UnknownParameter)?;
            if given.text(parameter).is_some() {
                return Err(Problem::ParameterTwice);
            }
            if !parameter.takes.takes(&value) {
                return Err(Problem::BadParameter(parameter.wrong));
            }
            given.0.push((parameter, value));
        }
        Ok(given)
    }

    fn text(&self, parameter: &Parameter) -> Option<&str> {
        let mut pairs = self.0.iter();
        let pair = pairs.find(|(known, _)| known.name == parameter.name);
        pair.map(|(_, value)| value.as_str())
    }

    /// The value, if it is given.
    #[must_use]
    pub fn get<T: std::str::FromStr>(&self, parameter: &Parameter) -> Option<T> {
        self.text(parameter)?.parse().ok()
    }

    /// The same of one that is a word of a document.
    #[must_use]
    pub fn word<T: serde::de::DeserializeOwned>(&self, parameter: &Parameter) -> Option<T> {
        serde_json::from_value(self.text(parameter)?.into()).ok()
    }

    /// The same of a time.
    #[must_use]
    pub fn time(&self, parameter: &Parameter) -> Option<Timestamp> {
        point_in_time(self.text(parameter)?, Timestamp::now())
    }

    /// The same of a protocol.
    #[must_use]
    pub fn protocol(&self) -> Option<u8> {
        protocol_number(self.text(&PROTOCOL)?)
    }

    /// The same of a reason: its number.
    #[must_use]
    pub fn reason(&self) -> Option<u8> {
        let text = self.text(&REASON)?;
        let mut reasons = Reason::ALL.iter();
        reasons
            .find(|reason| reason.slug() == text)
            .map(|reason| *reason as u8)
    }

    /// The same of a network.
    #[must_use]
    pub fn network(&self) -> Option<Prefix> {
        Prefix::parse(self.text(&PEER)?).ok()
    }

    /// Most rows.
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.get(&LIMIT).unwrap_or(MOST)
    }
}

/// The same request for the next page.
#[must_use]
pub fn next_page(uri: &Uri, after: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    let mut pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).ok()?;
    pairs.retain(|(name, _)| name != AFTER.name);
    pairs.push((AFTER.name.to_owned(), after.to_owned()));
    let query = serde_urlencoded::to_string(pairs).ok()?;
    Some(format!("{}?{query}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&Parameter; 5] = [&LIMIT, &SLICE, &PEER, &SINCE, &PROTOCOL];

    fn read(query: &str) -> Result<Given, Problem> {
        let uri = Uri::try_from(format!("/v1/flows?{query}")).unwrap();
        Given::read(&uri, &KNOWN)
    }

    #[test]
    fn values_are_read_as_they_are_meant() {
        let given =
            read("limit=7&slice=alpha&peer=192.0.2.0%2F24&since=%401769860800&protocol=udp");
        let given = given.unwrap();
        assert_eq!(given.limit(), 7);
        assert_eq!(given.get::<String>(&SLICE).unwrap(), "alpha");
        assert_eq!(given.network().unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(given.time(&SINCE).unwrap().as_second(), 1_769_860_800);
        assert_eq!(given.protocol(), Some(17));
        let none = read("").unwrap();
        assert_eq!((none.limit(), none.network()), (MOST, None));
    }

    #[test]
    fn what_is_unknown_there_twice_or_no_value_is_refused() {
        for query in ["grants=status", "Limit=1", "=", "&x", "port=1"] {
            assert_eq!(
                read(query).unwrap_err(),
                Problem::UnknownParameter,
                "{query}"
            );
        }
        for query in [
            "limit=1&limit=2",
            "slice=alpha&slice=beta",
            "slice=a&%73lice=b",
        ] {
            assert_eq!(read(query).unwrap_err(), Problem::ParameterTwice, "{query}");
        }
        for (query, wrong) in [
            ("limit=0", &LIMIT),
            ("limit=1001", &LIMIT),
            ("limit=-1", &LIMIT),
            ("limit=+1", &LIMIT),
            ("limit=4294967297", &LIMIT),
            ("limit=1e2", &LIMIT),
            ("limit=", &LIMIT),
            ("slice=", &SLICE),
            ("slice=Alpha", &SLICE),
            ("slice=alpha%00", &SLICE),
            ("slice=../alpha", &SLICE),
            ("slice=%ff", &SLICE),
            ("slice=abcdefghijklmnopqrstuvwxyz012345", &SLICE),
            ("peer=192.0.2.1%2F24", &PEER),
            ("peer=example.org", &PEER),
            ("since=yesterday", &SINCE),
            ("protocol=256", &PROTOCOL),
        ] {
            let expected = Problem::BadParameter(wrong.wrong);
            assert_eq!(read(query).unwrap_err(), expected, "{query}");
        }
    }

    #[test]
    fn the_next_page_is_the_same_request_with_another_place() {
        let uri = Uri::from_static("/v1/flows?peer=192.0.2.0%2F24&after=00&limit=3");
        assert_eq!(
            next_page(&uri, "eth0.2.0").unwrap(),
            "/v1/flows?peer=192.0.2.0%2F24&limit=3&after=eth0.2.0"
        );
        let bare = Uri::from_static("/v1/slices");
        assert_eq!(next_page(&bare, "a.0.0").unwrap(), "/v1/slices?after=a.0.0");
    }
}
