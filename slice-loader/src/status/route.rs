//! From a request to a question: a table of what there is.

use hyper::header::{self, HeaderMap};
use hyper::{Method, Uri};
use jiff::Timestamp;

use super::control::front::Call;
use super::control::routes;
use super::negotiate;
use super::openmetrics;
use super::page;
use super::parameters::{self, Given, Parameter, is_name};
use super::problem::Problem;
use super::wire::{Ask, Exposition, FlowsAsk, Form, Part};
use crate::report::event::Cursor;
use crate::report::links_past::USUAL_ROWS;

/// Something that can be asked for.
#[derive(Debug)]
pub struct Route {
    /// How: `HEAD` goes where `GET` does.
    pub method: Method,
    /// Where; `{name}` is a name.
    pub path: &'static str,
    /// What it is, in a line.
    pub says: &'static str,
    /// What a request may say in its address.
    pub parameters: &'static [&'static Parameter],
    /// Types of the answer, the usual one first.
    pub produces: &'static [&'static str],
    /// Who answers.
    pub by: By,
}

/// Who answers.
#[derive(Debug)]
pub enum By {
    /// The daemon, asked this.
    Daemon(fn(&Asked<'_>) -> Result<Ask, Problem>),
    /// The process that parses: it is the same for everybody.
    Front(&'static [u8]),
    /// The same process, with the page.
    Page,
    /// The daemon, where the asker may have it done.
    Control(fn(&Asked<'_>) -> Result<Call, Problem>),
}

/// What a request says.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Parameters.
    pub given: Given,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// The name in the path; empty where there is none.
    pub name: &'a str,
}

/// The document that describes all this; it is written from this table by a test.
pub const OPENAPI: &[u8] = include_bytes!("../../../docs/openapi.json");

/// Most bytes of a path with its parameters.
const LONGEST: usize = 2048;

/// What is kept of links, in seconds.
const HOUR: u32 = 3600;
const JSON: &[&str] = &["application/json"];
const NONE: &[&Parameter] = &[];

use parameters::{
    AFTER, AFTER_EVENT, AFTER_FLOW, KIND, LIMIT, LINK, LOCAL_PORT, OWN_PORT, PEER, PEER_PORT,
    PORT_KIND, PORT_PROTOCOL, PROTOCOL, REASON, ROWS, SINCE, SLICE, UNTIL,
};

const fn get(
    path: &'static str,
    says: &'static str,
    parameters: &'static [&'static Parameter],
    produces: &'static [&'static str],
    ask: fn(&Asked<'_>) -> Result<Ask, Problem>,
) -> Route {
    Route {
        method: Method::GET,
        path,
        says,
        parameters,
        produces,
        by: By::Daemon(ask),
    }
}

/// All there is.
pub fn all() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(routes::ROUTES)
}

/// What is told to every slice.
static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: page::PATH,
        says: "The status for people, as a page for browsers.",
        parameters: NONE,
        produces: &[page::KIND],
        by: By::Page,
    },
    get("/v1/node", "The machine.", NONE, JSON, |_| Ok(Ask::Node)),
    get(
        "/v1/slices",
        "What owners use, send, receive and were denied.",
        &[&KIND, &LIMIT, &AFTER],
        JSON,
        |asked| {
            Ok(Ask::Slices {
                kind: asked.given.word(&KIND),
                part: asked.part(),
            })
        },
    ),
    get(
        "/v1/slices/{name}",
        "The same of one owner.",
        NONE,
        JSON,
        |asked| Ok(Ask::Rows(Form::One(asked.name.to_owned()))),
    ),
    get(
        "/v1/ports",
        "Whose each port of the shared addresses is.",
        &[
            &SLICE,
            &PORT_PROTOCOL,
            &PORT_KIND,
            &OWN_PORT,
            &LIMIT,
            &AFTER,
        ],
        JSON,
        |asked| {
            Ok(Ask::Ports {
                slice: asked.given.get(&SLICE),
                protocol: asked.given.word(&PORT_PROTOCOL),
                kind: asked.given.word(&PORT_KIND),
                port: asked.given.get(&OWN_PORT),
                part: asked.part(),
            })
        },
    ),
    get(
        "/v1/links",
        "The links that policy names, and who sends on them.",
        &[&LINK, &SLICE, &LIMIT, &AFTER],
        JSON,
        |asked| {
            Ok(Ask::Links {
                link: asked.given.get(&LINK),
                slice: asked.given.get(&SLICE),
                part: asked.part(),
            })
        },
    ),
    get(
        "/v1/links/history",
        "What went out on the links in the last hour, in steps.",
        &[&SINCE, &ROWS],
        JSON,
        |asked| {
            Ok(Ask::LinksPast {
                seconds: seconds_ago(asked.given.time(&SINCE)),
                most: asked.given.get(&ROWS).unwrap_or(USUAL_ROWS),
            })
        },
    ),
    get(
        "/v1/drops",
        "Denied calls and dropped packets by owner and reason.",
        &[&SLICE, &REASON, &LIMIT, &AFTER],
        JSON,
        |asked| {
            Ok(Ask::Drops {
                slice: asked.given.get(&SLICE),
                reason: asked.given.reason(),
                part: asked.part(),
            })
        },
    ),
    get(
        "/v1/flows",
        "Who sent what to whom: of oneself, and with the grant audit of all.",
        &[
            &PEER,
            &PEER_PORT,
            &LOCAL_PORT,
            &PROTOCOL,
            &SLICE,
            &SINCE,
            &UNTIL,
            &LIMIT,
            &AFTER_FLOW,
        ],
        JSON,
        |asked| Ok(Ask::Flows(Box::new(flows(&asked.given)))),
    ),
    get(
        "/v1/policy",
        "What holds for slices.",
        &[&SLICE, &LIMIT, &AFTER],
        JSON,
        |asked| {
            Ok(Ask::Policy {
                slice: asked.given.get(&SLICE),
                part: asked.part(),
            })
        },
    ),
    get(
        "/v1/events",
        "What happens, as it happens, as server-sent events.",
        &[&AFTER_EVENT],
        &["text/event-stream"],
        |asked| {
            Ok(Ask::Events {
                after: last_event(asked.headers).or_else(|| asked.given.get(&AFTER_EVENT)),
            })
        },
    ),
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        says: "This document.",
        parameters: NONE,
        produces: JSON,
        by: By::Front(OPENAPI),
    },
    get(
        "/metrics",
        "The rows as OpenMetrics, or in the text format before it.",
        NONE,
        &[
            openmetrics::content_type(Exposition::OpenMetrics),
            openmetrics::content_type(Exposition::Text),
        ],
        |asked| {
            let exposition = exposition(asked.headers);
            Ok(Ask::Rows(Form::Metrics(exposition)))
        },
    ),
    get(
        "/slicestat",
        "The table of PlanetLab's monitors.",
        NONE,
        &["text/plain; charset=utf-8"],
        |asked| Ok(Ask::Slicestat(max_age(asked.headers))),
    ),
];

impl Asked<'_> {
    fn part(&self) -> Part {
        Part {
            after: self.given.get(&AFTER),
            most: self.given.limit(),
        }
    }
}

/// The route of a request, and what it says.
///
/// # Errors
/// The problem with it.
pub fn read<'a>(
    method: &Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<(&'static Route, Asked<'a>), Problem> {
    if uri
        .path_and_query()
        .is_some_and(|text| text.as_str().len() > LONGEST)
    {
        return Err(Problem::LongAddress);
    }
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut there = at(uri.path()).peekable();
    if there.peek().is_none() {
        return Err(Problem::NoSuchDocument);
    }
    let (route, name) = there
        .find(|(route, _)| route.method == *method)
        .ok_or(Problem::OtherMethod)?;
    if !name.is_empty() && !is_name(name) {
        return Err(Problem::NoSuchSlice);
    }
    let given = Given::read(uri, route.parameters)?;
    if !negotiate::is_acceptable(headers, route.produces) {
        return Err(Problem::NotAcceptable);
    }
    let asked = Asked {
        given,
        headers,
        name,
    };
    Ok((route, asked))
}

/// What can be done at a path: the header `Allow`.
#[must_use]
pub fn allowed(path: &str) -> String {
    let mut methods = Vec::new();
    for (route, _) in at(path) {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    methods.join(", ")
}

/// The routes of a path, with the name in it.
fn at(path: &str) -> impl Iterator<Item = (&'static Route, &str)> {
    all().filter_map(move |route| Some((route, name_in(route.path, path)?)))
}

/// The name in a path of this form, or nothing where the form has none; no form that
/// the path does not have.
fn name_in<'a>(form: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = form.split_once("{name}") else {
        return (form == path).then_some("");
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// How long ago a time is, as far as is kept; all of that where none is given.
fn seconds_ago(time: Option<Timestamp>) -> u32 {
    let Some(time) = time else {
        return HOUR;
    };
    let ago = Timestamp::now().duration_since(time).as_secs();
    u32::try_from(ago.clamp(0, HOUR.into())).unwrap_or(HOUR)
}

fn flows(given: &Given) -> FlowsAsk {
    FlowsAsk {
        peer: given.network().map(|net| (net.address(), net.length())),
        port: given.get(&PEER_PORT),
        local_port: given.get(&LOCAL_PORT),
        protocol: given.protocol(),
        slice: given.get(&SLICE),
        since: given.time(&SINCE),
        until: given.time(&UNTIL),
        after: given.get(&AFTER_FLOW),
        most: given.limit(),
    }
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
    let names = |kind| negotiate::is_named(headers, kind);
    if names("text/plain") && !names("application/openmetrics-text") {
        Exposition::Text
    } else {
        Exposition::OpenMetrics
    }
}

#[cfg(test)]
mod tests;
