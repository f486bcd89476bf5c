//! In the process that parses: from a request to an order, and its answer.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use policy::config::Objection;
use serde_json::Value;
use tokio::time::timeout;

use super::{BODY, Order, json};
use crate::node::control::When;
use crate::status::front::Asker;
use crate::status::parameters::is_name;
use crate::status::problem::{Document, Problem};
use crate::status::room::Room;
use crate::status::wire::{Ask, Content, Viewer};

/// How long a request's body may take.
const READ: Duration = Duration::from_secs(5);
/// How long the daemon may take; the life of the connection may be over before (`http`).
const ANSWER: Duration = Duration::from_secs(50);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Status.
    pub status: StatusCode,
    /// Generation of the slice.
    pub generation: Option<u64>,
    /// Document.
    pub body: Bytes,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing needs to be read.
    Order(Order),
    /// Terms of a slice; without a name they say it themselves.
    Put(Option<String>, When),
}

impl Call {
    /// Whether something is to be done.
    #[must_use]
    pub const fn changes(&self) -> bool {
        match self {
            Self::Order(order) => order.changes(),
            Self::Put(..) => true,
        }
    }
}

/// `If-Match: "GENERATION"`, `If-Match: *` and `If-None-Match: *`.
///
/// # Errors
/// Something else.
pub fn conditions(headers: &HeaderMap) -> Result<When, Problem> {
    const UNKNOWN: Problem = Problem::BadParameter(
        "If-Match takes one generation as it was told in ETag, or *; If-None-Match takes *; not both.",
    );
    let mut when = When::default();
    for (name, there) in [(header::IF_MATCH, true), (header::IF_NONE_MATCH, false)] {
        let mut values = headers.get_all(&name).iter();
        let Some(value) = values.next() else {
            continue;
        };
        let text = value.to_str().map_err(|_| UNKNOWN)?.trim();
        if values.next().is_some() || when.there.is_some() {
            return Err(UNKNOWN);
        }
        when.there = Some(there);
        if text != "*" {
            let generation = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'))
                .filter(|_| there)
                .and_then(|text| text.parse().ok());
            when.generation = Some(generation.ok_or(UNKNOWN)?);
        }
    }
    Ok(when)
}

/// That there is no condition, where none is kept.
///
/// # Errors
/// There is one.
pub fn unconditional(headers: &HeaderMap) -> Result<(), Problem> {
    if conditions(headers)? == When::default() {
        Ok(())
    } else {
        Err(Problem::BadParameter(
            "Conditions are kept with PUT and DELETE of a slice alone.",
        ))
    }
}

/// That no page of a browser asks: one from elsewhere, in the browser of who forwards a port to a
/// status socket, may send what it does not get to read. Browsers say so with each change.
///
/// # Errors
/// One does.
pub fn no_browser(headers: &HeaderMap) -> Result<(), Problem> {
    const SAYS: [HeaderName; 2] = [header::ORIGIN, HeaderName::from_static("sec-fetch-site")];
    if SAYS.iter().any(|name| headers.contains_key(name)) {
        Err(Problem::Browser)
    } else {
        Ok(())
    }
}

/// Does what is asked; the daemon has the say at every step.
///
/// # Errors
/// Nothing answers.
pub async fn respond(
    call: Call,
    body: Incoming,
    (viewer, room): (&Viewer, &Room),
    asker: &Asker,
) -> Result<Told, Problem> {
    let ask = |order, body| async move {
        let asked = asker.ask_with(viewer.clone(), Ask::Control(order), body, room.clone());
        match timeout(ANSWER, asked).await {
            Ok(Some(answer)) => match answer? {
                (Content::Control { status, generation }, body) => Ok(Told {
                    status: StatusCode::from_u16(status)
                        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                    generation,
                    body,
                }),
                _ => Err(Problem::Unreadable),
            },
            Ok(None) | Err(_) => Err(Problem::Unavailable),
        }
    };
    // Before anything of a body is read: of those who may, there are few.
    let may = ask(Order::May, Vec::new()).await?;
    if may.status != StatusCode::OK {
        return Ok(may);
    }
    let (name, when) = match call {
        Call::Order(order) => return ask(order, Vec::new()).await,
        Call::Put(name, when) => (name, when),
    };
    let limited = Limited::new(body, BODY as usize);
    let body = match timeout(READ, limited.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let detail = "The body is too large, or broke off: a slice takes at most 32 KiB.";
            return Ok(refused(&Document::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                detail,
            )));
        }
        Err(_) => {
            let detail = "The body did not come within five seconds.";
            return Ok(refused(&Document::new(StatusCode::REQUEST_TIMEOUT, detail)));
        }
    };
    match terms(name, &body) {
        Ok((name, terms)) => ask(Order::Put { name, when }, terms).await,
        Err(problem) => Ok(refused(&problem)),
    }
}

fn refused(problem: &Document) -> Told {
    Told {
        status: StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST),
        generation: None,
        body: problem.written().into(),
    }
}

/// The slice's name, and its terms as the daemon takes them.
fn terms(name: Option<String>, body: &[u8]) -> Result<(String, Vec<u8>), Document> {
    let document: Value = serde_json::from_slice(body).map_err(|error| {
        Document::new(
            StatusCode::BAD_REQUEST,
            format!("The body is no JSON: {error}."),
        )
    })?;
    let said = document.get("name").and_then(Value::as_str);
    let said = said.filter(|name| is_name(name)).map(str::to_owned);
    let name = name.or(said).ok_or_else(|| {
        Document::of(vec![Objection::new(
            "name",
            "the slice needs a name of a-z, 0-9 and _",
        )])
    })?;
    let terms = json::read(&name, &document).map_err(Document::of)?;
    let bytes = serde_json::to_vec(&terms).unwrap_or_default();
    if bytes.len() > BODY as usize {
        let detail = "What is asked for is too much: a slice takes at most 32 KiB.";
        return Err(Document::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok((name, bytes))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn conditions_are_understood_or_refused_never_passed_over() {
        let when = |there, generation| {
            Ok(When {
                there: Some(there),
                generation,
            })
        };
        for (name, value, said) in [
            ("if-match", "\"17\"", when(true, Some(17))),
            ("if-match", "*", when(true, None)),
            ("if-none-match", "*", when(false, None)),
            ("accept", "*/*", Ok(When::default())),
        ] {
            assert_eq!(conditions(&with(name, value)), said, "{name}: {value}");
            assert_eq!(unconditional(&with(name, value)).is_ok(), name == "accept");
        }
        for (name, value) in [
            ("if-match", "17"),
            ("if-match", "W/\"17\""),
            ("if-match", "\"17\", \"18\""),
            ("if-match", "\"-1\""),
            ("if-match", ""),
            ("if-none-match", "\"17\""),
        ] {
            assert!(conditions(&with(name, value)).is_err(), "{name}: {value}");
        }
        let mut both = with("if-match", "*");
        both.append(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert!(conditions(&both).is_err());
        let mut twice = with("if-match", "\"1\"");
        twice.append(header::IF_MATCH, HeaderValue::from_static("\"2\""));
        assert!(conditions(&twice).is_err());
    }

    #[test]
    fn a_body_names_the_slice_where_the_path_does_not() {
        let body = br#"{"name": "exp_a", "context": {"image": "small"}}"#;
        assert_eq!(terms(None, body).unwrap().0, "exp_a");
        assert_eq!(terms(Some("exp_a".into()), body).unwrap().0, "exp_a");
        for (name, body) in [
            (None, &br#"{"context": {"image": "small"}}"#[..]),
            (None, br#"{"name": "../x", "context": {"image": "small"}}"#),
            (None, br#"{"name": 7, "context": {"image": "small"}}"#),
            (Some("exp_b".to_owned()), body),
            (None, b""),
            (None, b"{"),
            (None, b"\xff"),
        ] {
            assert!(terms(name, body).is_err(), "{body:?}");
        }
        // No depth that a stack has no room for.
        let deep = [&br#"{"name": "exp_a", "cpu": "#[..], &b"[".repeat(20_000)].concat();
        assert!(terms(None, &deep).is_err());
    }
}
