//! What the process that parses and the daemon say to each other, over two
//! pairs of sockets: listeners one way, questions and answers the other.
//!
//! A frame is two lengths of four bytes, a head in JSON and a body. The daemon
//! trusts nothing of a question but its form: it may come from a process that a
//! slice has taken over, which could then ask in the name of any slice, and
//! nothing else.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::control::Order;
use crate::flows::Position;
use crate::report::event::Cursor;
use crate::report::ports::{PortKind, Protocol};
use crate::report::status::RowKind;

/// Whose listener a question came by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Viewer {
    /// The slice's name.
    pub name: String,
    /// Its id: another slice may have the name by now.
    pub id: u32,
}

impl Viewer {
    /// Who comes by the port of the status page on the node's localhost: no slice is
    /// called like that.
    #[must_use]
    pub fn node() -> Self {
        Self {
            name: crate::report::NODE.to_owned(),
            id: policy::SliceId::NODE.0,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The machine.
    Node,
    /// The rows of owners, page by page.
    Slices {
        /// Only owners of this kind.
        kind: Option<RowKind>,
        /// Which page.
        part: Part,
    },
    /// Whose each port is.
    Ports {
        /// Only this owner.
        slice: Option<String>,
        /// Only this protocol.
        protocol: Option<Protocol>,
        /// Only ports that are their owner's for this reason.
        kind: Option<PortKind>,
        /// Only where this port is.
        port: Option<u16>,
        /// Which page.
        part: Part,
    },
    /// The links, and who sends on them.
    Links {
        /// Only this link.
        link: Option<String>,
        /// Only this owner.
        slice: Option<String>,
        /// Which page.
        part: Part,
    },
    /// Denied calls and dropped packets, by owner and reason.
    Drops {
        /// Only this owner.
        slice: Option<String>,
        /// Only the reason of this number.
        reason: Option<u8>,
        /// Which page.
        part: Part,
    },
    /// What holds for slices.
    Policy {
        /// Only this one.
        slice: Option<String>,
        /// Which page.
        part: Part,
    },
    /// Who sent what to whom.
    Flows(Box<FlowsAsk>),
    /// What went out on the links in the last hour.
    LinksPast {
        /// In so many seconds of it.
        seconds: u32,
        /// Most rows of a link.
        most: u32,
    },
    /// The table of PlanetLab's monitors, at most so many seconds old.
    Slicestat(u32),
    /// What happened after a place.
    Events {
        /// The place; none for all that is kept.
        after: Option<Cursor>,
    },
    /// The rows.
    Rows(Form),
    /// Something to be done.
    Control(Order),
}

/// Which page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The place after which it begins.
    pub after: Option<Place>,
    /// Most rows.
    pub most: u16,
}

/// A place in a list: a name, and numbers where names do not tell rows apart. It says
/// where to go on, and gives no right. Written `NAME.NUMBER.NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The name.
    pub name: String,
    /// The numbers.
    pub numbers: [u32; 2],
}

/// Why a text is no [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPlace;

impl Place {
    /// One of these parts.
    #[must_use]
    pub fn new(name: &str, first: u32, second: u32) -> Self {
        Self {
            name: name.to_owned(),
            numbers: [first, second],
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.numbers;
        write!(f, "{}.{first}.{second}", self.name)
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let mut parts = text.rsplitn(3, '.');
        let second = parts.next().ok_or(BadPlace)?;
        let first = parts.next().ok_or(BadPlace)?;
        let name = parts.next().ok_or(BadPlace)?;
        let number = |digits: &str| digits.parse().map_err(|_| BadPlace);
        let place = Self::new(name, number(first)?, number(second)?);
        let is_name = !name.is_empty()
            && name.len() <= 31
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        // One way to write each.
        (is_name && place.to_string() == text)
            .then_some(place)
            .ok_or(BadPlace)
    }
}

/// Which flows are asked for: as [`crate::report::flows::Wanted`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsAsk {
    /// The peer is in the network of this address and length.
    pub peer: Option<(IpAddr, u8)>,
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
    /// The place after which the page begins.
    pub after: Option<Position>,
    /// Most rows.
    pub most: u16,
}

/// How the rows are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// That of this name.
    One(String),
    /// As numbers for monitors.
    Metrics(Exposition),
}

/// A form in which monitors read numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4, which came before.
    Text,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Tells its answer from others.
    pub number: u64,
    /// Who asks.
    pub viewer: Viewer,
    /// What.
    pub ask: Ask,
}

/// The head of an answer; what was asked for is the frame's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's number.
    pub number: u64,
    /// What the body is, or why there is none.
    pub result: Result<Content, Refusal>,
}

/// The form of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A JSON document.
    Json {
        /// Where the next page begins, if there is one.
        next: Option<String>,
    },
    /// Numbers for monitors.
    Metrics(Exposition),
    /// Lines for people and old programs.
    Lines,
    /// Server-sent events.
    Events {
        /// The place after them.
        next: Option<Cursor>,
        /// Whether there are more.
        more: bool,
    },
    /// What came of an order: a JSON document, or a problem.
    Control {
        /// The status of HTTP.
        status: u16,
        /// The generation of the slice.
        generation: Option<u64>,
    },
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no slice of that name, or the asker may not know.
    NoSuchSlice,
    /// The asker is no slice of the node any more.
    Gone,
    /// Too many look at flows.
    Busy,
    /// What policy is in force is not known.
    NoPolicy,
    /// The node could not be read.
    Unreadable,
    /// The asker, or too many others, have something done already.
    Doing,
}

/// What is told of listeners; a listener comes along as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Take connections by this one.
    Listen {
        /// Tells it from others.
        key: u64,
        /// Whose it is.
        viewer: Viewer,
    },
    /// Let go of that one.
    Forget {
        /// Which.
        key: u64,
    },
}

/// Most bytes of a notice.
pub const NOTICE: usize = 256;

/// Most bytes of a head: all that a question has.
const HEAD: u32 = 1024;

/// Most bytes of an answer's body: 5,000 slices need a fifth of it.
pub const BODY: u32 = 64 << 20;

/// Reads a frame whose body has at most `most` bytes; none at the end.
///
/// # Errors
/// The other end wrote something else, or the kernel's.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most: u32,
) -> io::Result<Option<(T, Vec<u8>)>> {
    match head(from, most).await? {
        Some((head, length)) => Ok(Some((head, body(from, length).await?))),
        None => Ok(None),
    }
}

/// Reads a frame's head alone, and how long the body is that comes next: it has at
/// most `most` bytes. None at the end.
///
/// # Errors
/// As [`read`].
pub async fn head<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most: u32,
) -> io::Result<Option<(T, u32)>> {
    let head = match from.read_u32_le().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    let length = from.read_u32_le().await?;
    if head > HEAD || length > most {
        return Err(io::Error::other("a frame is too long"));
    }
    let head = body(from, head).await?;
    Ok(Some((serde_json::from_slice(&head)?, length)))
}

/// Reads a body of this length.
///
/// # Errors
/// The kernel's, and where the other end ends before.
pub async fn body(from: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Passes over a body of this length.
///
/// # Errors
/// As [`body`].
pub async fn skip(from: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<()> {
    let passed = tokio::io::copy(&mut from.take(length.into()), &mut tokio::io::sink()).await?;
    if passed == u64::from(length) {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Writes a frame.
///
/// # Errors
/// It is too long, or the kernel's.
pub async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    head: &impl Serialize,
    body: &[u8],
) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let length = |bytes: &[u8], most: u32| {
        u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= most)
            .ok_or_else(|| io::Error::other("a frame would be too long"))
    };
    let (heads, bodies) = (length(&head, HEAD)?, length(body, BODY)?);
    let mut start = Vec::with_capacity(head.len() + 8);
    start.extend(heads.to_le_bytes());
    start.extend(bodies.to_le_bytes());
    start.extend(head);
    to.write_all(&start).await?;
    to.write_all(body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Question {
        Question {
            number: 7,
            viewer: Viewer {
                name: "alpha".into(),
                id: 258,
            },
            ask: Ask::Rows(Form::One(name.into())),
        }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_one_after_the_other_until_the_end() {
        let mut pipe = Vec::new();
        for (name, body) in [("beta", &b"body"[..]), ("gamma", b"")] {
            write(&mut pipe, &question(name), body).await.unwrap();
        }
        let mut from = &pipe[..];
        for (name, body) in [("beta", &b"body"[..]), ("gamma", b"")] {
            let frame = read::<Question>(&mut from, 4).await.unwrap();
            assert_eq!(frame, Some((question(name), body.to_vec())));
        }
        assert_eq!(read::<Question>(&mut from, 4).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_comes_after_a_body_that_was_passed_over_is_read() {
        let mut pipe = Vec::new();
        write(&mut pipe, &question("beta"), &[7; 100_000])
            .await
            .unwrap();
        write(&mut pipe, &question("gamma"), b"body").await.unwrap();
        let mut from = &pipe[..];
        let (first, length) = head::<Question>(&mut from, BODY).await.unwrap().unwrap();
        assert_eq!((first, length), (question("beta"), 100_000));
        skip(&mut from, length).await.unwrap();
        let second = read::<Question>(&mut from, 4).await.unwrap();
        assert_eq!(second, Some((question("gamma"), b"body".to_vec())));
        assert!(skip(&mut from, 1).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_question_is_refused_before_memory_is_taken_for_it() {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        // Lengths beyond all measure.
        frames.push([0xff; 8].to_vec());
        frames.push([2, 0, 0, 0, 1, 0, 0, 0, b'{', b'}', 0].to_vec());
        // The end in the middle.
        frames.push([9, 0, 0, 0, 0, 0, 0, 0, b'{'].to_vec());
        // Another form.
        for head in [
            r#"{}"#,
            r#"{"number":1,"viewer":{"name":"a","id":1},"ask":"Everything"}"#,
            r#"{"number":1,"viewer":{"name":"a","id":1},"ask":"Node","grants":["status"]}"#,
            r#"{"number":1,"viewer":{"name":"a","id":-1},"ask":"Node"}"#,
        ] {
            let length = u32::try_from(head.len()).unwrap().to_le_bytes();
            frames.push([&length[..], &[0; 4], head.as_bytes()].concat());
        }
        for frame in frames {
            let read = read::<Question>(&mut &frame[..], 0).await;
            assert!(read.is_err(), "{frame:?}: {read:?}");
        }
    }

    #[test]
    fn a_place_is_written_in_one_way() {
        for name in ["alpha", "eth0.5", "x", "a.b.c"] {
            let place = Place::new(name, 80, 4_000_000_000);
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        let long = format!("{}.1.2", "x".repeat(32));
        for bad in [
            "", "alpha", "alpha.1", ".1.2", "a.1.", "a.+1.2", "a.01.2", "a b.1.2", &long,
        ] {
            assert_eq!(bad.parse::<Place>(), Err(BadPlace), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_longest_question_fits() {
        let long = "x".repeat(31);
        let row = format!("{}{}", "f".repeat(40), "0".repeat(64));
        let flows = FlowsAsk {
            peer: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
                .parse()
                .ok()
                .map(|peer| (peer, 128)),
            port: Some(65_535),
            local_port: Some(65_535),
            protocol: Some(255),
            slice: Some(long.clone()),
            since: Some(Timestamp::MAX),
            until: Some(Timestamp::MIN),
            after: row.parse().ok(),
            most: 1000,
        };
        assert!(flows.after.is_some());
        let question = Question {
            number: u64::MAX,
            viewer: Viewer {
                name: long,
                id: u32::MAX,
            },
            ask: Ask::Flows(Box::new(flows)),
        };
        let mut pipe = Vec::new();
        write(&mut pipe, &question, b"").await.unwrap();
        let read = read::<Question>(&mut &pipe[..], 0).await.unwrap();
        assert_eq!(read, Some((question, Vec::new())));
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_is_no_question() {
        let long = "x".repeat(2000);
        let mut pipe = Vec::new();
        assert!(write(&mut pipe, &question(&long), b"").await.is_err());
        assert!(pipe.is_empty());
    }
}
