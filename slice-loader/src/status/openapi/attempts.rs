//! What a slice without a grant may try to be told of others: a table, each row an
//! attempt, and the same with a name, an address or a place that nobody has. It is told
//! of itself alone, and cannot tell the two apart.

use super::super::answers::tests::HOUR;
use super::super::fixture::{Got, Joined};

/// What is told of others alone: names, and numbers that each has of its own.
const STRANGERS: &[&str] = &[
    "beta",
    "watch",
    "\"node\"",
    "\"unattributed\"",
    "hidden",
    ":7003",
    ":7000",
    ":7004",
    ":9003",
    ":9000",
    ":9004",
    "\"bytes\":6003",
    "\"bytes\":6000",
    "\"bytes\":6004",
    "\"bytes\":5003",
    "\"bytes\":5000",
    "\"bytes\":5004",
    "\"usage\":3",
    "192.0.2.3",
    "192.0.2.4",
    "192.0.2.0",
    "sockets\":103",
];

/// Requests, with `{}` where a stranger's name stands, and the statuses of the answers.
/// `~` ends a line.
const BY_NAME: &[(&str, &str, &[u16])] = &[
    (
        "another's row",
        "GET /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "by HEAD, for its length",
        "HEAD /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "from one's own row up",
        "GET /v1/slices/alpha/../{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "the same, encoded",
        "GET /v1/slices/alpha/%2e%2e/{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "with a slash encoded",
        "GET /v1/slices%2F{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "with slashes doubled",
        "GET /v1//slices//{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "behind one's own name",
        "GET /v1/slices/alpha,{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "behind a zero",
        "GET /v1/slices/alpha%00{} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "as a parameter of the path",
        "GET /v1/slices/alpha;name={} HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "as a fragment",
        "GET /v1/slices/alpha#{} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "with a slash behind it",
        "GET /v1/slices/{}/ HTTP/1.1~Host: slice~~",
        &[404],
    ),
    (
        "in an address of another machine",
        "GET http://{}/v1/slices HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "as the user of an address",
        "GET http://{}@slice/v1/slices HTTP/1.1~Host: slice~~",
        &[200],
    ),
    ("as Host", "GET /v1/slices HTTP/1.1~Host: {}~~", &[200]),
    (
        "in headers of proxies",
        "GET /v1/slices HTTP/1.1~Host: slice~X-Slice: {}~Forwarded: for={}~X-Forwarded-Host: {}~X-Original-URL: /v1/slices/{}~X-HTTP-Method-Override: PUT~~",
        &[200],
    ),
    (
        "as a password",
        "GET /v1/slices HTTP/1.1~Host: slice~Authorization: Basic {}~Cookie: slice={}~~",
        &[200],
    ),
    ("by the older HTTP", "GET /v1/slices/{} HTTP/1.0~~", &[404]),
    ("without a version", "GET /v1/slices/{}~~", &[400]),
    (
        "a filter of ports",
        "GET /v1/ports?slice={} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a filter of links",
        "GET /v1/links?slice={} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a filter of drops",
        "GET /v1/drops?slice={} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a filter of flows",
        "GET /v1/flows?slice={} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a filter of policy",
        "GET /v1/policy?slice={} HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "two filters",
        "GET /v1/flows?slice=alpha&slice={} HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "two filters, one encoded",
        "GET /v1/flows?slice=alpha&%73lice={} HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "a list as a filter",
        "GET /v1/flows?slice=alpha%2C{} HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "a grant as a parameter",
        "GET /v1/slices?name={}&grants=status HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "a page after its row",
        "GET /v1/slices?after={}.0.0 HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a page of drops after its row",
        "GET /v1/drops?after={}.0.0 HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "a page of policy after its row",
        "GET /v1/policy?after={}.0.0&limit=1 HTTP/1.1~Host: slice~~",
        &[200],
    ),
    (
        "two requests at once",
        "GET /v1/node HTTP/1.1~Host: slice~~GET /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[200, 404],
    ),
    (
        "a request in the body of another",
        "GET /v1/node HTTP/1.1~Host: slice~Content-Length: 46~~GET /v1/slices/{} HTTP/1.1~Host: slice~X: 012345678",
        &[200],
    ),
    (
        "two lengths",
        "GET /v1/node HTTP/1.1~Host: slice~Content-Length: 0~Content-Length: 40~~GET /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "a length and chunks",
        "POST /v1/node HTTP/1.1~Host: slice~Content-Length: 4~Transfer-Encoding: chunked~~0~~GET /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[405],
    ),
    (
        "chunks that are none",
        "POST /v1/node HTTP/1.1~Host: slice~Transfer-Encoding: xchunked~~0~~GET /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[400],
    ),
    (
        "a header that goes on",
        "GET /v1/slices HTTP/1.1~Host: slice~ X-Slice: {}~~",
        &[400],
    ),
    (
        "a space before a colon",
        "GET /v1/slices HTTP/1.1~Host : {}~~",
        &[400],
    ),
    (
        "another protocol",
        "GET /v1/slices/{} HTTP/1.1~Host: slice~Connection: Upgrade, HTTP2-Settings~Upgrade: h2c~HTTP2-Settings: AAMAAABkAAQAAP__~~",
        &[404],
    ),
    ("a tunnel", "CONNECT {}:80 HTTP/1.1~Host: slice~~", &[404]),
    (
        "the server's own methods",
        "OPTIONS * HTTP/1.1~Host: {}~~",
        &[404],
    ),
    (
        "its own words back",
        "TRACE /v1/slices HTTP/1.1~Host: {}~~",
        &[405],
    ),
    (
        "a change",
        "PUT /v1/policy?slice={} HTTP/1.1~Host: slice~~",
        &[405],
    ),
    (
        "what slices make",
        "DELETE /v1/node?slice={} HTTP/1.1~Host: slice~~",
        &[405],
    ),
    (
        "another's terms",
        "PUT /v1/slices/{} HTTP/1.1~Host: slice~Content-Length: 4~~{}",
        &[403],
    ),
    (
        "its end",
        "DELETE /v1/slices/{} HTTP/1.1~Host: slice~~",
        &[403],
    ),
    (
        "its processes' end",
        "POST /v1/slices/{}/stop HTTP/1.1~Host: slice~~",
        &[403],
    ),
    (
        "the slices that it made",
        "GET /v1/control/{} HTTP/1.1~Host: slice~~",
        &[403],
    ),
    (
        "one like it, under its name",
        "POST /v1/slices HTTP/1.1~Host: slice~Content-Length: 15~~{\"name\":\"{}\"}",
        &[403],
    ),
    (
        "the table made for another",
        "GET /slicestat?{} HTTP/1.1~Host: slice~max-age: 600~~",
        &[400],
    ),
];

/// All that comes in pages.
const LISTS: [&str; 6] = [
    "/v1/slices",
    "/v1/ports",
    "/v1/drops",
    "/v1/links",
    "/v1/policy",
    "/v1/flows",
];

fn octets(text: &str, name: &str) -> Vec<u8> {
    text.replace('~', "\r\n").replace("{}", name).into_bytes()
}

fn statuses(all: &[Got]) -> Vec<u16> {
    all.iter().map(|got| got.status).collect()
}

/// What is told, without what was said to the node, and without times, of which tags are
/// made too; a length is that without them.
fn told(all: &[Got], name: &str) -> String {
    let told = all.iter().map(|got| {
        let text = got.text();
        let mut parts = text.split("\"time\":\"");
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.filter_map(|part| Some(part.split_once('"')?.1));
        let body = first + &rest.collect::<String>();
        let times = text.len() - body.len();
        let headers = got.headers.iter();
        let headers = headers.filter(|(header, _)| header != "date" && header != "etag");
        let headers: Vec<_> = headers
            .map(|(header, value)| match header.as_str() {
                "content-length" if times > 0 => {
                    let length: usize = value.parse().unwrap();
                    format!("{header}: {}", length - times)
                }
                _ => format!("{header}: {value}"),
            })
            .collect();
        format!("{} {} {body}", got.status, headers.join(", "))
    });
    told.collect::<Vec<_>>().join("\n").replace(name, "")
}

fn has_strangers(all: &[Got]) -> Option<&'static str> {
    // `next` and `Link` are what was asked, or of one's own rows.
    let text: String = all.iter().map(Got::text).collect();
    STRANGERS
        .iter()
        .copied()
        .find(|stranger| text.contains(stranger))
}

#[tokio::test]
async fn a_slice_without_a_grant_is_told_of_itself_alone_whatever_it_tries() {
    let node = Joined::new();
    for (what, text, expected) in BY_NAME {
        // As long as the other, so that lengths tell nothing by themselves.
        let mut answers = Vec::new();
        for name in ["beta", "zeta"] {
            let all = node.send("alpha", &octets(text, name)).await;
            assert_eq!(statuses(&all), *expected, "{what}: {text} {all:?}");
            assert_eq!(has_strangers(&all), None, "{what}: {all:?}");
            answers.push(told(&all, name));
        }
        assert_eq!(
            answers[0], answers[1],
            "{what} tells whether a slice exists"
        );
    }
}

/// Requests for everything that there is, of which none is another's.
#[tokio::test]
async fn no_filter_and_no_place_of_another_leads_to_its_rows() {
    let node = Joined::new();
    // Places that were told to who sees all, and made up ones.
    let mut places = vec![
        "eth0.0.3".to_owned(),
        "tcp.8000.2".to_owned(),
        "tcp.0.0".to_owned(),
    ];
    for path in LISTS {
        for limit in 1..5 {
            let got = node.get("watch", &format!("{path}?limit={limit}")).await;
            let next = got.json()["next"].as_str().map(str::to_owned);
            places.extend(next);
        }
    }
    places.extend((0..4).map(|owner| format!("{HOUR:016x}{owner:08x}")));
    places.extend((0..4).map(|owner| format!("{HOUR:016x}{owner:08x}{}", "0".repeat(80))));
    for path in LISTS {
        for place in &places {
            let got = node.get("alpha", &format!("{path}?after={place}")).await;
            assert!([200, 400].contains(&got.status), "{path} {place}: {got:?}");
            assert_eq!(has_strangers(&[got]), None, "{path} {place}");
        }
    }
    // Another's peer and ports, and one's own, so that the filters are known to work.
    for (query, found) in [
        ("peer=192.0.2.3", 0),
        ("peer=192.0.2.0/24", 3),
        ("peer=192.0.2.2&port=53", 1),
        ("peer=192.0.2.3&port=53", 0),
        ("peer=::/0", 0),
        ("peer=0.0.0.0/0&local_port=8000&protocol=udp", 3),
        ("protocol=tcp", 0),
        ("since=@0&until=@9999999999", 3),
        ("since=@9999999999", 0),
        ("slice=alpha", 3),
        ("slice=beta", 0),
    ] {
        let got = node.get("alpha", &format!("/v1/flows?{query}")).await;
        let flows = got.json()["flows"].as_array().map(Vec::len);
        assert_eq!(flows, Some(found), "{query}: {}", got.text());
        assert_eq!(has_strangers(&[got]), None, "{query}");
    }
    let all = node.get("watch", "/v1/flows?peer=192.0.2.3").await.json();
    assert_eq!(all["flows"].as_array().map(Vec::len), Some(3), "{all}");
}

#[tokio::test]
async fn a_tag_of_another_is_no_way_to_learn_what_it_is_told() {
    let node = Joined::new();
    for path in [
        "/v1/slices",
        "/v1/policy",
        "/v1/flows",
        "/v1/drops",
        "/v1/ports",
        "/slicestat",
    ] {
        let theirs = node.get("watch", path).await;
        let tag = theirs.header("etag").unwrap();
        let condition = format!("If-None-Match: {tag}\r\nIf-Match: {tag}\r\nmax-age: 600\r\n");
        let own = node.ask("alpha", &format!("GET {path}"), &condition).await;
        assert_eq!(own.status, 200, "{path}");
        assert_ne!(own.header("etag"), Some(tag));
        assert_eq!(has_strangers(&[own]), None, "{path}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_any_event_and_tells_of_no_other() {
    let node = Joined::new();
    for id in [
        "5.0",
        "5.3",
        "5.18446744073709551615",
        "4.1",
        "18446744073709551615.0",
        "x",
        "",
    ] {
        let headers = format!("Last-Event-ID: {id}\r\n");
        let got = node.ask("alpha", "GET /v1/events", &headers).await;
        assert_eq!(got.status, 200, "{id}");
        assert_eq!(has_strangers(&[got]), None, "{id}");
    }
    let all = node.get("watch", "/v1/events").await.text();
    assert!(all.contains("beta"), "{all}");
}

#[tokio::test]
async fn who_is_no_slice_any_more_is_told_nothing() {
    let node = Joined::new();
    for path in [
        "/v1/node",
        "/v1/slices",
        "/v1/flows",
        "/v1/policy",
        "/v1/events",
        "/metrics",
    ] {
        let got = node.get("gone", path).await;
        assert_eq!(got.status, 403, "{path}: {got:?}");
    }
}
