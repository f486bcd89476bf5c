use hyper::header::HeaderValue;

use super::*;
use crate::status::wire::Place;

fn asked(method: Method, path: &str) -> Result<Ask, Problem> {
    // What no address is, hyper refuses before.
    let uri = Uri::try_from(path).map_err(|_| Problem::NoSuchDocument)?;
    let headers = HeaderMap::new();
    let (route, asked) = read(&method, &uri, &headers)?;
    match route.by {
        By::Daemon(ask) => ask(&asked),
        By::Front(_) | By::Page | By::Control(_) => panic!("{path}"),
    }
}

fn past(seconds: u32, most: u32) -> Ask {
    Ask::LinksPast { seconds, most }
}

fn part(after: Option<Place>, most: u16) -> Part {
    Part { after, most }
}

#[test]
fn each_document_has_one_path() {
    let all = || part(None, 1000);
    for (path, ask) in [
        ("/v1/node", Ask::Node),
        (
            "/v1/slices?kind=slice&limit=3&after=alpha.0.0",
            Ask::Slices {
                kind: Some(crate::report::RowKind::Slice),
                part: part(Some(Place::new("alpha", 0, 0)), 3),
            },
        ),
        ("/v1/slices/alpha", Ask::Rows(Form::One("alpha".into()))),
        (
            "/v1/ports?slice=alpha&protocol=udp&kind=claimed&port=80",
            Ask::Ports {
                slice: Some("alpha".into()),
                protocol: Some(crate::report::ports::Protocol::Udp),
                kind: Some(crate::report::PortKind::Claimed),
                port: Some(80),
                part: all(),
            },
        ),
        (
            "/v1/links?link=eth0.5",
            Ask::Links {
                link: Some("eth0.5".into()),
                slice: None,
                part: all(),
            },
        ),
        ("/v1/links/history", past(3600, 100)),
        ("/v1/links/history?since=10m&limit=7", past(600, 7)),
        ("/v1/links/history?since=3d&limit=1000", past(3600, 1000)),
        ("/slicestat", Ask::Slicestat(0)),
        ("/v1/events", Ask::Events { after: None }),
        (
            "/v1/events?after=5.7",
            Ask::Events {
                after: "5.7".parse().ok(),
            },
        ),
        (
            "/v1/drops?reason=port_reserved",
            Ask::Drops {
                slice: None,
                reason: Some(policy::verdict::Reason::PortReserved as u8),
                part: all(),
            },
        ),
        (
            "/v1/policy",
            Ask::Policy {
                slice: None,
                part: all(),
            },
        ),
        (
            "/v1/flows?peer=192.0.2.0/24&port=53&local_port=7&protocol=udp&since=@7&limit=9",
            Ask::Flows(Box::new(FlowsAsk {
                peer: Some(([192, 0, 2, 0].into(), 24)),
                port: Some(53),
                local_port: Some(7),
                protocol: Some(17),
                since: jiff::Timestamp::from_second(7).ok(),
                most: 9,
                ..FlowsAsk::default()
            })),
        ),
        (
            "/metrics",
            Ask::Rows(Form::Metrics(Exposition::OpenMetrics)),
        ),
    ] {
        assert_eq!(asked(Method::GET, path), Ok(ask.clone()));
        assert_eq!(asked(Method::HEAD, path), Ok(ask));
        assert_eq!(asked(Method::PATCH, path), Err(Problem::OtherMethod));
        let bare = path.split('?').next().unwrap();
        let more = match bare {
            "/v1/slices" => ", POST",
            "/v1/slices/alpha" => ", PUT, DELETE",
            _ => "",
        };
        assert_eq!(allowed(bare), format!("GET, HEAD{more}"));
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
        "/v1",
        "/v2/node",
        "/v1/node/",
        "//v1/node",
        "/v1/./node",
        "/v1/reload",
        "/v1/slices;",
        "/v1/slices/",
        "/v1/slices/../node",
        "/v1/slices/a/b",
        "*",
    ] {
        assert_eq!(
            asked(Method::GET, path),
            Err(Problem::NoSuchDocument),
            "{path}"
        );
    }
    for name in [
        "..",
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
    let long = format!("/v1/slices/{}", "a".repeat(LONGEST));
    assert_eq!(asked(Method::GET, &long), Err(Problem::LongAddress));
}

#[test]
fn no_two_routes_are_one() {
    for (place, route) in all().enumerate() {
        for other in all().skip(place + 1) {
            let same = (&route.method, route.path) == (&other.method, other.path);
            assert!(!same, "{}", route.path);
        }
    }
}
