//! One connection of a slice: HTTP/1.1, bounded in all that it may take.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use super::control::front as control;
use super::front::Asker;
use super::host;
use super::negotiate;
use super::openmetrics;
use super::page;
use super::parameters;
use super::problem::Problem;
use super::quota::{self, Bucket};
use super::room::Room;
use super::route::{self, By};
use super::stream::{Events, Pieces};
use super::wire::{Ask, Content, Viewer};

/// What the connections of one slice share.
#[derive(Debug)]
pub struct Client {
    viewer: Viewer,
    questions: Mutex<Bucket>,
    room: Room,
    streams: Arc<Semaphore>,
    /// Flows are asked for once at a time.
    looking: Semaphore,
    changes: Mutex<Bucket>,
    /// Slices are changed one after the other.
    control: Semaphore,
}

impl Client {
    /// Of this slice.
    #[must_use]
    pub fn new(viewer: Viewer) -> Self {
        Self {
            viewer,
            questions: Mutex::new(Bucket::new(quota::ANSWERED)),
            room: Room::of_one(),
            streams: Arc::new(Semaphore::new(quota::STREAMS.0)),
            looking: Semaphore::new(1),
            changes: Mutex::new(Bucket::new(quota::CHANGED)),
            control: Semaphore::new(1),
        }
    }

    /// Does what is to be done, when it is the turn of this one.
    async fn control(
        &self,
        call: control::Call,
        body: Incoming,
        asker: &Asker,
    ) -> Result<Told, Problem> {
        if call.changes() {
            take(&self.changes)?;
        }
        // What is told waits for nothing that is done.
        let _turn = if call.changes() {
            let turn = self.control.acquire().await;
            Some(turn.map_err(|_| Problem::Unavailable)?)
        } else {
            None
        };
        let of = (&self.viewer, &self.room);
        control::respond(call, body, of, asker)
            .await
            .map(Told::Control)
    }
}

fn take(bucket: &Mutex<Bucket>) -> Result<(), Problem> {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket
        .take(Instant::now())
        .map_err(|wait| Problem::TooMany(wait.as_secs() + 1))
}

/// Serves a connection until it ends, or has lived long enough.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, client: Arc<Client>, asker: Asker) {
    let until = tokio::time::Instant::now() + quota::LIFE - quota::HEAD;
    let service = service_fn(move |request| {
        let (client, asker) = (client.clone(), asker.clone());
        async move { Ok::<_, Infallible>(respond(request, &client, &asker, until).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(quota::HEAD)
        // Programs that say "no more" before they read, as `socat` does.
        .half_close(true)
        .max_buf_size(quota::HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // How it ends is the slice's affair.
    let _ = timeout(quota::LIFE, connection).await;
}

/// Tells that there are too many, before anything is read.
pub async fn turn_away(mut stream: impl AsyncWrite + Unpin) {
    let problem = Problem::Connections;
    let body = problem.document();
    let mut text = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM}\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend(body);
    let _ = timeout(quota::HEAD, stream.write_all(&text)).await;
}

/// What is answered: whole, or piece by piece.
type Body = Either<Full<Bytes>, Pieces>;

const PROBLEM: &str = "application/problem+json";

/// `until`: as long as an answer may take that is yet to be sent.
async fn respond(
    request: Request<Incoming>,
    client: &Client,
    asker: &Asker,
    until: tokio::time::Instant,
) -> Response<Body> {
    let (request, body) = request.into_parts();
    match ask(&request, body, (client, asker), until).await {
        Ok(Told::Events(pieces)) => {
            response(StatusCode::OK, "text/event-stream", Either::Right(pieces))
        }
        Ok(Told::Page) => {
            let mut response = response(StatusCode::OK, page::KIND, whole(page::html()));
            response.headers_mut().extend(page::HEADERS);
            response
        }
        Ok(Told::Whole(content, body)) => told(&request, &content, body),
        Ok(Told::Control(what)) => done(what),
        Err(problem) => refused(&request, problem),
    }
}

/// What was done, or not; the tag is the slice's generation, on which the next change may depend.
fn done(told: control::Told) -> Response<Body> {
    let kind = if told.status.is_success() {
        "application/json"
    } else {
        PROBLEM
    };
    let mut response = response(told.status, kind, whole(told.body));
    let tag = told
        .generation
        .map(|generation| format!("\"{generation}\"").parse());
    if let Some(Ok(tag)) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A document, or word that who asks has it.
fn told(request: &Parts, content: &Content, body: Bytes) -> Response<Body> {
    let kind = match content {
        Content::Events { .. } => "text/event-stream",
        Content::Json { .. } | Content::Control { .. } => "application/json",
        Content::Lines => "text/plain; charset=utf-8",
        Content::Metrics(exposition) => openmetrics::content_type(*exposition),
    };
    let tag = negotiate::tag(&body);
    let mut response = if negotiate::has(&request.headers, &tag) {
        let mut response = response(StatusCode::NOT_MODIFIED, kind, whole(Bytes::new()));
        response.headers_mut().remove(header::CONTENT_TYPE);
        response
    } else {
        response(StatusCode::OK, kind, whole(body))
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    // Kept by who asks alone, and asked for again before it is used.
    let control = HeaderValue::from_static("private, no-cache");
    headers.insert(header::CACHE_CONTROL, control);
    if let Content::Metrics(_) = content {
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    if let Content::Json { next: Some(next) } = content
        && let Some(address) = parameters::next_page(&request.uri, next)
        && let Ok(link) = HeaderValue::from_str(&format!("<{address}>; rel=\"next\""))
    {
        headers.insert(header::LINK, link);
    }
    response
}

fn refused(request: &Parts, problem: Problem) -> Response<Body> {
    let mut response = response(problem.status(), PROBLEM, whole(problem.document().into()));
    let headers = response.headers_mut();
    if let Some(seconds) = problem.again_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
        // Who goes on regardless has to connect first, which has a pace.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if problem == Problem::OtherMethod
        && let Ok(allowed) = HeaderValue::from_str(&route::allowed(request.uri.path()))
    {
        headers.insert(header::ALLOW, allowed);
    }
    response
}

/// An answer to a request.
enum Told {
    Page,
    Whole(Content, Bytes),
    Events(Pieces),
    Control(control::Told),
}

async fn ask(
    request: &Parts,
    body: Incoming,
    (client, asker): (&Client, &Asker),
    until: tokio::time::Instant,
) -> Result<Told, Problem> {
    take(&client.questions)?;
    if !host::is_this(&request.uri, &request.headers) {
        return Err(Problem::OtherHost);
    }
    let (route, asked) = route::read(&request.method, &request.uri, &request.headers)?;
    let ask = match route.by {
        By::Daemon(ask) => ask(&asked)?,
        By::Front(body) => {
            let content = Content::Json { next: None };
            return Ok(Told::Whole(content, Bytes::from_static(body)));
        }
        By::Page => return Ok(Told::Page),
        By::Control(call) => {
            let done = client.control(call(&asked)?, body, asker);
            let done = timeout_at(until, done).await;
            return done.unwrap_or(Err(Problem::Unavailable));
        }
    };
    if let Ask::Events { after } = ask {
        let own = client.streams.clone().try_acquire_owned().ok();
        let (Some(own), Some(one)) = (own, asker.stream()) else {
            return Err(Problem::Streams);
        };
        let events = Events {
            asker: asker.clone(),
            viewer: client.viewer.clone(),
            room: client.room.clone(),
            after,
            places: [own, one],
        };
        let started = timeout(quota::ANSWER, events.start()).await;
        return started
            .unwrap_or(Err(Problem::Unavailable))
            .map(Told::Events);
    }
    // Until it is answered.
    let _place = match ask {
        Ask::Flows(_) => Some(client.looking.try_acquire().map_err(|_| Problem::Looking)?),
        _ => None,
    };
    let answer = asker.ask(client.viewer.clone(), ask, client.room.clone());
    match timeout(quota::ANSWER, answer).await {
        Ok(Some(answer)) => answer.map(|(content, body)| Told::Whole(content, body)),
        Ok(None) | Err(_) => Err(Problem::Unavailable),
    }
}

fn whole(body: Bytes) -> Body {
    Either::Left(Full::new(body))
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What a web page elsewhere has a browser load from here is nothing to it.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}
