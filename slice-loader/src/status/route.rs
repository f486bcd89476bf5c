//! From a request to a question, and from a refusal to a problem (RFC 9457).

use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode, Uri};
use jiff::Timestamp;
use serde::Serialize;

use super::wire::{Ask, Exposition, Form, Refusal};
use crate::report::event::Cursor;
use crate::report::flows::point_in_time;

/// What is kept of links, in seconds.
const HOUR: u32 = 3600;
/// Rows of a link's past where nothing else is said, and at most: with the longest
/// numbers an answer is then below 16 MiB.
const ROWS: u32 = 100;
const MOST_ROWS: u32 = 1000;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No document is there.
    NoSuchDocument,
    /// No slice of that name is there for the asker.
    NoSuchSlice,
    /// Something else than reading was asked for.
    OnlyReading,
    /// A parameter is no time or no number.
    BadParameter,
    /// Too many questions: again after so many seconds.
    TooMany(u64),
    /// Too many connections.
    Connections,
    /// Too many streams of events.
    Streams,
    /// Too much is being told, and not read yet.
    NoRoom,
    /// The asker is no slice of the node any more.
    Gone,
    /// The node does not answer.
    Unavailable,
    /// The node could not be read.
    Unreadable,
}

/// A problem as it is written.
#[derive(Serialize)]
struct Document {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
}

/// What a request asks.
///
/// # Errors
/// The problem with it.
pub fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Ask, Problem> {
    let ask = match uri.path() {
        "/v1/node" => Ask::Node,
        "/v1/slices" => Ask::Rows(Form::All),
        "/v1/ports" => Ask::Ports,
        "/v1/links" => Ask::Links,
        "/v1/links/history" => links_past(uri.query().unwrap_or_default())?,
        "/slicestat" => Ask::Slicestat(max_age(headers)),
        "/v1/events" => Ask::Events {
            after: last_event(headers),
        },
        "/v1/drops" => Ask::Rows(Form::Drops),
        "/metrics" => Ask::Rows(Form::Metrics(exposition(headers))),
        path => {
            let name = path
                .strip_prefix("/v1/slices/")
                .ok_or(Problem::NoSuchDocument)?;
            Ask::Rows(Form::One(known(name).ok_or(Problem::NoSuchSlice)?))
        }
    };
    if matches!(*method, Method::GET | Method::HEAD) {
        Ok(ask)
    } else {
        Err(Problem::OnlyReading)
    }
}

/// `since` is a point in time or how long ago, `limit` how many rows a link has at most;
/// others are not looked at.
fn links_past(query: &str) -> Result<Ask, Problem> {
    let pairs = serde_urlencoded::from_str::<Vec<(String, String)>>(query);
    let (mut seconds, mut most) = (HOUR, ROWS);
    for (name, value) in pairs.map_err(|_| Problem::BadParameter)? {
        match name.as_str() {
            "since" => {
                let now = Timestamp::now();
                let since = point_in_time(&value, now).ok_or(Problem::BadParameter)?;
                let ago = now.duration_since(since).as_secs();
                seconds = u32::try_from(ago.clamp(0, HOUR.into())).unwrap_or(HOUR);
            }
            "limit" => {
                let limit: u32 = value.parse().map_err(|_| Problem::BadParameter)?;
                most = limit.min(MOST_ROWS);
            }
            _ => {}
        }
    }
    Ok(Ask::LinksPast { seconds, most })
}

/// How old an answer may be, in seconds: what the header `max-age` says, as
/// PlanetLab's monitors send it, or the directive of `cache-control`.
fn max_age(headers: &HeaderMap) -> u32 {
    let seconds = |text: &str| text.trim().parse().ok();
    let values = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
    };
    let directive = |text: &str| seconds(text.trim().strip_prefix("max-age=")?);
    let old = values("max-age").into_iter().find_map(seconds);
    let new = || {
        let texts = values(header::CACHE_CONTROL.as_str());
        texts
            .into_iter()
            .flat_map(|text| text.split(','))
            .find_map(directive)
    };
    old.or_else(new).unwrap_or(0)
}

/// The last event that a browser has seen, as it says when it comes again.
fn last_event(headers: &HeaderMap) -> Option<Cursor> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// OpenMetrics, but for who names the older text and not it.
fn exposition(headers: &HeaderMap) -> Exposition {
    let names = |kind: &str| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|accept| accept.to_str().ok())
            .any(|accept| accept.contains(kind))
    };
    if names("text/plain") && !names("application/openmetrics-text") {
        Exposition::Text
    } else {
        Exposition::OpenMetrics
    }
}

/// A name that a slice, the node or the unattributed may have: so no other
/// text comes to the daemon.
fn known(name: &str) -> Option<String> {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    (!name.is_empty() && name.len() <= 31 && name.bytes().all(letter)).then(|| name.to_owned())
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchSlice => Self::NoSuchSlice,
            Refusal::Gone => Self::Gone,
            Refusal::Unreadable => Self::Unreadable,
        }
    }
}

impl Problem {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoSuchDocument | Self::NoSuchSlice => StatusCode::NOT_FOUND,
            Self::OnlyReading => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadParameter => StatusCode::BAD_REQUEST,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Gone => StatusCode::FORBIDDEN,
            Self::Connections | Self::Streams | Self::NoRoom | Self::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which it may be asked again.
    #[must_use]
    pub const fn again_after(self) -> Option<u64> {
        match self {
            Self::TooMany(seconds) => Some(seconds),
            Self::Connections | Self::Streams | Self::NoRoom | Self::Unavailable => Some(1),
            _ => None,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::NoSuchDocument => {
                "There are /v1/node, /v1/slices, /v1/slices/NAME, /v1/ports, /v1/links, /v1/links/history, /v1/events, /v1/drops, /metrics and /slicestat."
            }
            Self::NoSuchSlice => "There is no slice of that name, or you may not see it.",
            Self::OnlyReading => "The status can be read, with GET or HEAD.",
            Self::BadParameter => {
                "since is a time (2026-01-31T12:00:00Z) or how long ago (10m), limit a number."
            }
            Self::TooMany(_) => "The slice asks more often than it may.",
            Self::Connections => "The slice has more connections than it may.",
            Self::Streams => "Too many streams of events are open.",
            Self::NoRoom => "Answers that were given before are not read yet.",
            Self::Gone => "The slice is not on this node any more.",
            Self::Unavailable => "The node does not answer.",
            Self::Unreadable => "The node could not be read.",
        }
    }

    /// The document that tells it, `application/problem+json`.
    #[must_use]
    pub fn document(self) -> Vec<u8> {
        let status = self.status();
        let document = Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
        };
        // Strings and a number: this cannot fail.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn asked(method: Method, path: &str) -> Result<Ask, Problem> {
        // What no address is, hyper refuses before.
        let uri = Uri::try_from(path).map_err(|_| Problem::NoSuchDocument)?;
        read(&method, &uri, &HeaderMap::new())
    }

    #[test]
    fn each_document_has_one_path() {
        for (path, ask) in [
            ("/v1/node", Ask::Node),
            ("/v1/slices", Ask::Rows(Form::All)),
            ("/v1/slices/alpha", Ask::Rows(Form::One("alpha".into()))),
            ("/v1/ports", Ask::Ports),
            ("/v1/links", Ask::Links),
            ("/v1/links/history", past(3600, 100)),
            ("/v1/links/history?since=10m&limit=7&x=y", past(600, 7)),
            ("/v1/links/history?since=3d&limit=5000", past(3600, 1000)),
            ("/slicestat", Ask::Slicestat(0)),
            ("/v1/events", Ask::Events { after: None }),
            ("/v1/drops", Ask::Rows(Form::Drops)),
            (
                "/metrics",
                Ask::Rows(Form::Metrics(Exposition::OpenMetrics)),
            ),
        ] {
            assert_eq!(asked(Method::GET, path), Ok(ask.clone()));
            assert_eq!(asked(Method::HEAD, path), Ok(ask));
            assert_eq!(asked(Method::POST, path), Err(Problem::OnlyReading));
        }
    }

    fn past(seconds: u32, most: u32) -> Ask {
        Ask::LinksPast { seconds, most }
    }

    #[test]
    fn a_parameter_that_is_none_is_refused() {
        for query in ["since=", "since=yesterday", "limit=-1", "limit=many"] {
            let path = format!("/v1/links/history?{query}");
            assert_eq!(
                asked(Method::GET, &path),
                Err(Problem::BadParameter),
                "{query}"
            );
        }
    }

    #[test]
    fn an_age_is_said_by_either_header_and_nonsense_is_none() {
        for (name, value, age) in [
            ("max-age", "30", 30),
            ("max-age", "-1", 0),
            ("max-age", "99999999999", 0),
            ("cache-control", "no-transform, max-age=7", 7),
            ("cache-control", "max-age=x", 0),
            ("pragma", "max-age=7", 0),
        ] {
            let header = (name.parse().unwrap(), HeaderValue::from_static(value));
            let headers = HeaderMap::from_iter([header]);
            assert_eq!(max_age(&headers), age, "{name}: {value}");
        }
    }

    #[test]
    fn the_older_text_is_for_those_who_name_it_and_not_openmetrics() {
        for (accept, form) in [
            ("*/*", Exposition::OpenMetrics),
            ("text/plain", Exposition::Text),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Exposition::Text),
            // Prometheus's own.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
                Exposition::OpenMetrics,
            ),
            ("\u{e9}", Exposition::OpenMetrics),
        ] {
            let value = HeaderValue::from_bytes(accept.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(header::ACCEPT, value)]);
            assert_eq!(exposition(&headers), form, "{accept}");
        }
    }

    #[test]
    fn no_other_path_is_one_and_no_other_name_comes_to_the_daemon() {
        for path in [
            "",
            "/",
            "/v1",
            "/v2/node",
            "/v1/node/",
            "//v1/node",
            "/v1/./node",
            "/v1/reload",
            "/v1/slices;",
            "*",
        ] {
            assert_eq!(
                asked(Method::GET, path),
                Err(Problem::NoSuchDocument),
                "{path}"
            );
        }
        for name in [
            "",
            "../node",
            "a/b",
            "Alpha",
            "alpha%00",
            "alpha%",
            "a;b",
            "abcdefghijklmnopqrstuvwxyz012345",
        ] {
            let path = format!("/v1/slices/{name}");
            assert_eq!(
                asked(Method::GET, &path),
                Err(Problem::NoSuchSlice),
                "{name}"
            );
        }
    }

    #[test]
    fn a_problem_tells_its_status_and_when_to_come_again() {
        let text = String::from_utf8(Problem::TooMany(3).document()).unwrap();
        assert_eq!(
            text,
            r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The slice asks more often than it may."}"#
        );
        assert_eq!(Problem::TooMany(3).again_after(), Some(3));
        assert_eq!(Problem::NoSuchSlice.again_after(), None);
    }
}
