//! The API: HTTP/1.1 and JSON on a unix socket that only root may open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status[?slice=NAME]` | [`crate::report::Status`] |
//! | `GET /v1/ports[?slice=NAME][&protocol=tcp]` | [`crate::report::Ports`] |
//! | `GET /v1/links/history[?since=TIME][&limit=COUNT]` | [`crate::report::LinksPast`] |
//! | `GET /v1/events[?follow=true][&after=CURSOR][&slice=NAME][&reason=SLUG]` | a line of JSON per [`Item`]; server-sent events where the request accepts `text/event-stream` |
//! | `GET /v1/trace?slice=NAME` | a line of JSON per [`Item`], as long as it is read |
//! | `POST /v1/reload` | what was changed |
//!
//! An error is `{"error": ...}` in the form of `-o json`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State as From};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::task::spawn_blocking;
use tokio::time::{self, Duration};

use super::hub::{Hub, Reader};
use super::trace::Traces;
use crate::cli::exit::{self, Exit};
use crate::node::{self, Node};
use crate::report::event::{Cursor, Item};
use crate::report::links_past::{USUAL_ROWS, Wanted};
use crate::report::ports::Protocol;
use crate::report::read;
use crate::status::history::History;
use crate::status::source;

/// What the handlers know.
#[derive(Clone)]
pub(super) struct State {
    pub(super) hub: Hub,
    pub(super) policy: PathBuf,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) traces: Traces,
}

/// Parameters of `/v1/status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StatusQuery {
    /// Only this owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
}

/// Parameters of `/v1/ports`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortsQuery {
    /// Only this owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// Only this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// Parameters of `/v1/links/history`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinksPastQuery {
    /// Only steps that ended after this; the hour where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Most rows of a link; 100 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Parameters of `/v1/events`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Whether to go on after the events that are kept.
    #[serde(default)]
    pub follow: bool,
    /// Only events after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Cursor>,
    /// Only events of this owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// Only events of the reason with this slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Parameters of `/v1/trace`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// Whom to trace.
    pub slice: String,
}

/// A stream that nobody reads any more is noticed by writing to it.
const BEAT: Duration = Duration::from_secs(15);

/// Items looked at for one piece of a stream.
const PIECE: usize = 256;

/// Serves until the listener fails.
pub(super) async fn serve(listener: UnixListener, state: State) -> anyhow::Result<()> {
    Ok(axum::serve(listener, router(state)).await?)
}

/// The API without a listener.
pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/ports", get(ports))
        .route("/v1/links/history", get(links_past))
        .route("/v1/events", get(events))
        .route("/v1/trace", get(trace))
        .route("/v1/reload", post(reload))
        .with_state(state)
}

async fn status(Query(query): Query<StatusQuery>) -> Response {
    answer(move || {
        let status = read::status(&Node::open()?)?;
        match query.slice {
            Some(name) => status
                .only(&name)
                .ok_or_else(|| exit::unknown_slice(&name).into()),
            None => Ok(status),
        }
    })
    .await
}

async fn ports(Query(query): Query<PortsQuery>) -> Response {
    answer(move || {
        let node = Node::open()?;
        if let Some(name) = &query.slice
            && node.id(name).is_none()
        {
            return Err(exit::unknown_slice(name).into());
        }
        Ok(read::ports(&node)?.only(query.slice.as_deref(), query.protocol))
    })
    .await
}

async fn links_past(From(state): From<State>, Query(query): Query<LinksPastQuery>) -> Response {
    answer(move || {
        let wanted = Wanted {
            owner: None,
            since: query.since.unwrap_or(Timestamp::MIN),
            most: query.limit.unwrap_or(USUAL_ROWS as usize),
        };
        let node = Node::open()?;
        read::links_past(&node, &source::lock(&state.history), &wanted)
    })
    .await
}

async fn reload(From(state): From<State>) -> Response {
    answer(move || node::reload(&state.policy)).await
}

async fn events(
    From(state): From<State>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    let form = Form::of(&headers);
    // A browser that lost its connection says so itself where to go on.
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let reader = state.hub.read(last.or(query.after));
    let follow = query.follow;
    let lines = stream::unfold((reader, query), move |(mut reader, query)| async move {
        let line = next(&mut reader, &query, form, follow).await?;
        Some((Ok::<_, Infallible>(line), (reader, query)))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(form.content_type()),
    );
    response
}

async fn trace(From(state): From<State>, Query(query): Query<TraceQuery>) -> Response {
    let begun = spawn_blocking(move || state.traces.begin(&state.hub, &query.slice)).await;
    let trace = match begun {
        Ok(Ok(trace)) => trace,
        Ok(Err(error)) => return refusal(&error),
        Err(panic) => return refusal(&anyhow::Error::new(panic).context("answer the request")),
    };
    let lines = stream::unfold(trace, |mut trace| async move {
        let items = trace.next().await?;
        let mut piece = String::new();
        for item in &items {
            Form::Lines.write(&mut piece, item);
        }
        if items.is_empty() {
            return Some((Ok(Bytes::from_static(Form::Lines.beat())), trace));
        }
        Some((Ok::<_, Infallible>(piece.into()), trace))
    });
    let kind = HeaderValue::from_static(Form::Lines.content_type());
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}

/// The next piece of the stream: the items that the reader asked for as far as
/// they are there, or a beat.
async fn next(reader: &mut Reader, query: &EventsQuery, form: Form, follow: bool) -> Option<Bytes> {
    let mut piece = String::new();
    while piece.is_empty() {
        let first = if follow {
            match time::timeout(BEAT, reader.next()).await {
                Ok(item) => item?,
                Err(_) => return Some(Bytes::from_static(form.beat())),
            }
        } else {
            reader.kept()?
        };
        let more = std::iter::from_fn(|| {
            if follow {
                reader.ready()
            } else {
                reader.kept()
            }
        });
        for item in std::iter::once(first).chain(more).take(PIECE) {
            if query.wants(&item) {
                form.write(&mut piece, &item);
            }
        }
    }
    Some(piece.into())
}

impl EventsQuery {
    fn wants(&self, item: &Item) -> bool {
        let Item::Event(event) = item else {
            return true;
        };
        self.slice
            .as_ref()
            .is_none_or(|name| event.slice.name.as_ref() == Some(name))
            && self
                .reason
                .as_ref()
                .is_none_or(|reason| event.reason == *reason)
    }
}

/// How the stream of events is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// One JSON document per line.
    Lines,
    /// Server-sent events, as browsers read them.
    ServerSent,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let accepted = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let browser = accepted
            .into_iter()
            .any(|value| value.contains("text/event-stream"));
        if browser {
            Self::ServerSent
        } else {
            Self::Lines
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::ServerSent => "text/event-stream",
        }
    }

    fn write(self, piece: &mut String, item: &Item) {
        // Plain structs of strings and numbers: this cannot fail.
        let json = serde_json::to_string(item).unwrap_or_default();
        let (head, tail) = match (self, item) {
            (Self::Lines, _) => (String::new(), "\n"),
            (Self::ServerSent, Item::Event(event)) => {
                (format!("id: {}\ndata: ", event.cursor), "\n\n")
            }
            (Self::ServerSent, Item::Happened(_) | Item::LeftOut(_) | Item::Lost(_)) => {
                (String::from("data: "), "\n\n")
            }
        };
        piece.extend([head.as_str(), json.as_str(), tail]);
    }

    /// Nothing, written: an empty line, a comment.
    const fn beat(self) -> &'static [u8] {
        match self {
            Self::Lines => b"\n",
            Self::ServerSent => b":\n\n",
        }
    }
}

/// Runs what may block, and gives its answer or its error.
async fn answer<T, F>(work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(error)) => refusal(&error),
        Err(panic) => refusal(&anyhow::Error::new(panic).context("answer the request")),
    }
}

fn refusal(error: &anyhow::Error) -> Response {
    let told = exit::told(error, true);
    let code = match told.exit() {
        Exit::Usage => StatusCode::NOT_FOUND,
        Exit::Policy => StatusCode::UNPROCESSABLE_ENTITY,
        Exit::Busy => StatusCode::CONFLICT,
        Exit::NotUp => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, Json(serde_json::json!({ "error": told }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Clock, Names};
    use http_body_util::BodyExt;
    use policy::verdict::Reason;
    use zerocopy::FromZeros;

    fn hub() -> Hub {
        let hub = Hub::of_run(9, 10);
        let clock = Clock {
            monotonic_ns: 0,
            realtime_ns: 0,
        };
        let names = Names::new([(policy::SliceId(2), "alpha")]);
        for (id, reason) in [
            (0, Reason::PortNode),
            (2, Reason::PortClaimed),
            (2, Reason::Destination),
        ] {
            let mut event = policy::abi::Event::new_zeroed();
            event.id = policy::SliceId(id);
            event.reason = reason as u8;
            hub.push(&event, &clock, &names);
        }
        hub
    }

    async fn ask(query: EventsQuery, head: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in head {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let state = State {
            hub: hub(),
            policy: PathBuf::new(),
            history: Arc::default(),
            traces: Traces::default(),
        };
        let response = events(From(state), Query(query), headers).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn reasons(lines: &str) -> Vec<String> {
        lines
            .lines()
            .map(|line| match serde_json::from_str(line).unwrap() {
                Item::Event(event) => event.reason,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test]
    async fn kept_events_come_as_lines_and_then_the_answer_ends() {
        let all = ask(EventsQuery::default(), &[]).await;
        assert_eq!(reasons(&all), ["port_node", "port_claimed", "destination"]);
    }

    #[tokio::test]
    async fn a_reader_gets_the_slice_and_the_reason_it_asked_for() {
        let slice = EventsQuery {
            slice: Some("alpha".into()),
            ..EventsQuery::default()
        };
        assert_eq!(
            reasons(&ask(slice.clone(), &[]).await),
            ["port_claimed", "destination"]
        );
        let both = EventsQuery {
            reason: Some("destination".into()),
            ..slice
        };
        assert_eq!(reasons(&ask(both, &[]).await), ["destination"]);
    }

    #[tokio::test]
    async fn a_browser_gets_server_sent_events_and_goes_on_after_the_last_it_saw() {
        let head = [("accept", "text/event-stream"), ("last-event-id", "9.1")];
        let text = ask(EventsQuery::default(), &head).await;
        assert!(text.starts_with("id: 9.2\ndata: {\"event\":{"), "{text}");
        assert!(text.ends_with("}}\n\n"), "{text}");
        assert_eq!(text.matches("data:").count(), 1);
    }
}
