//! Requests of every kind, made from the document itself: no answer is one that the
//! document does not have, and none is an error of the node's.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::super::fixture::Joined;
use super::{control, schema, served};

/// Values that are none, of whatever a parameter takes.
const NONSENSE: &[&str] = &[
    "",
    "%",
    "%00",
    "%ff",
    "%F0%9F%8C%8D",
    "..",
    "../..",
    "-1",
    "+1",
    "0x10",
    "1e3",
    "1.5",
    "00",
    "18446744073709551616",
    "%D9%A3",
    "null",
    "true",
    "[]",
    "*",
    "a+b",
    "a%20b",
    "'--",
    "%0d%0aX:%20y",
    "P9999999999999999Y",
    "9999999999h",
    "-9999999999d",
    "@-9223372036854775808",
    "@253402300799",
    "9999-12-31T23:59:59Z",
    "-009999-01-01T00:00:00Z",
    "::/0",
    "::ffff:1.2.3.4",
    "0.0.0.0/0",
    "1.2.3.4/33",
    "ffffffffffffffffffffffff",
];

const METHODS: &[&str] = &[
    "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
    "get", "BREW",
];

const HEADERS: &[&str] = &[
    "Accept: */*",
    "Accept: text/html",
    "Accept: application/json;q=0",
    "Accept: text/plain;version=0.0.4",
    "Accept: ,;q=,/;=",
    "Accept-Encoding: gzip, br",
    "If-None-Match: *",
    "If-None-Match: \"x\", W/\"y\"",
    "If-None-Match: \"",
    "Range: bytes=0-3",
    "Expect: 100-continue",
    "max-age: 99999999999999999999",
    "Cache-Control: max-age=7, no-store",
    "Last-Event-ID: 5.2",
    "Last-Event-ID: 5.99999999999999999999",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Type: application/json",
    "Transfer-Encoding: chunked",
    "X: \u{e9}\u{7}",
    "If-Match: *",
    "If-Match: \"1\"",
    "Origin: http://x.example",
];

/// Values of a parameter: those of its schema, those just beside them, and nonsense.
fn values(schema: &Value) -> Vec<String> {
    let mut values: Vec<String> = NONSENSE.iter().map(|text| (*text).to_owned()).collect();
    for word in ["enum", "examples"] {
        let listed = schema[word].as_array().into_iter().flatten();
        for text in listed.filter_map(Value::as_str) {
            // Twice, so that there are as many good ones.
            values.extend([text.to_owned(), text.to_owned(), text.to_uppercase()]);
            values.push(text.bytes().map(|byte| format!("%{byte:02x}")).collect());
        }
    }
    for (word, beyond) in [("minimum", -1), ("maximum", 1)] {
        if let Some(bound) = schema[word].as_i64() {
            values.extend([bound.to_string(), (bound + beyond).to_string()]);
        }
    }
    values
}

/// A path of the document, filled in, or one that is nearly one.
fn path(form: &str, operation: &Value) -> BoxedStrategy<String> {
    let parameters = operation["parameters"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let named = |place: &str| {
        let parameters = parameters
            .iter()
            .filter(|parameter| parameter["in"] == place);
        parameters.cloned().collect::<Vec<_>>()
    };
    // As many good ones as others.
    let mut name = ["alpha", "beta", "exp_a", "exp_b"]
        .repeat(NONSENSE.len() / 4)
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    for parameter in named("path") {
        name.extend(values(&parameter["schema"]));
    }
    let mut pairs: Vec<String> = ["x=1", "=", "&&", "limit", "slice[]=alpha"]
        .map(str::to_owned)
        .to_vec();
    for parameter in named("query") {
        let name = parameter["name"].as_str().unwrap_or_default();
        let values = values(&parameter["schema"]);
        pairs.extend(values.iter().map(|value| format!("{name}={value}")));
    }
    let form = form.to_owned();
    let beside = select(vec!["", "", "", "", "", "/", "//", ";x", "%2f", "#x", "%"]);
    let most = if named("query").is_empty() { 2 } else { 4 };
    (
        select(name),
        proptest::collection::vec(select(pairs), 0..most),
        beside,
    )
        .prop_map(move |(name, pairs, beside)| {
            let path = form.replace("{name}", &name);
            let query = pairs.join("&");
            let query = if query.is_empty() {
                query
            } else {
                format!("?{query}")
            };
            format!("{path}{beside}{query}")
        })
        .boxed()
}

fn requests(document: &Value) -> impl Strategy<Value = (String, String)> + use<> {
    let paths: Vec<_> = control::operations(document)
        .into_iter()
        .map(|(form, own, operation)| {
            // Its own method as often as all others.
            let method = proptest::option::of(select(METHODS));
            (path(&form, &operation), method).prop_map(move |(path, method)| {
                let method = method.map_or_else(|| own.to_uppercase(), str::to_owned);
                (form.clone(), path, method)
            })
        })
        .collect();
    let path = proptest::strategy::Union::new(paths);
    let body = proptest::option::of(select(control::bodies()));
    let version = select(vec![
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "",
    ]);
    let headers = proptest::collection::vec(select(HEADERS), 0..4);
    let absolute = proptest::bool::weighted(0.1);
    (path, body, version, headers, absolute).prop_map(
        |((form, path, method), body, version, headers, absolute)| {
            let host = if absolute { "http://beta" } else { "" };
            let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            let length = body.as_ref().map_or_else(String::new, |body| {
                format!("Content-Length: {}\r\n", body.len())
            });
            let body = body.unwrap_or_default();
            let text = format!(
                "{method} {host}{path} {version}\r\nHost: slice\r\nConnection: close\r\n{headers}{length}\r\n{body}"
            );
            (form, text)
        },
    )
}

/// Statuses of requests that are none of the document's: no such path, no such method,
/// and what is no HTTP.
const BESIDE: &[u16] = &[400, 404, 405];

fn judge(
    document: &Value,
    form: &str,
    text: &str,
    got: &super::super::fixture::Got,
) -> Result<(), String> {
    let method = text.split(' ').next().unwrap_or_default().to_lowercase();
    let own = &document["paths"][form][&method];
    // One that hyper does not take for its own is refused as the others are.
    let operation = if own.is_null() {
        let methods = document["paths"][form].as_object();
        methods
            .and_then(|methods| methods.values().next())
            .unwrap_or(own)
    } else {
        own
    };
    let responses = &operation["responses"];
    if got.status >= 500 {
        return Err("it is an error of the node's".to_owned());
    }
    let listed = responses.get(got.status.to_string());
    if listed.is_none() && !BESIDE.contains(&got.status) {
        return Err("the document does not have this status".to_owned());
    }
    if text.starts_with("HEAD") || got.status == 304 {
        return got.body.is_empty().then_some(()).ok_or("a body".to_owned());
    }
    let Some(kind) = got.header("content-type") else {
        // What hyper refuses before it comes here.
        let refused = got.status == 400 && got.body.is_empty();
        return refused.then_some(()).ok_or("no type".to_owned());
    };
    if got.status >= 400 {
        if kind != "application/problem+json" {
            return Err(format!("it is {kind}"));
        }
        let problem = &document["components"]["schemas"]["Problem"];
        let body = got.json();
        schema::check(document, problem, &body)?;
        let same = body["status"] == got.status;
        return same.then_some(()).ok_or("another status".to_owned());
    }
    let schema = &responses[got.status.to_string()]["content"][kind]["schema"];
    match kind {
        "application/json" => schema::check(document, schema, &got.json()),
        _ => schema.is_object().then_some(()).ok_or(format!("no {kind}")),
    }
}

#[test]
fn every_answer_to_any_request_is_one_of_the_document() {
    let document = served();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let node = runtime.block_on(async { Joined::new() });
    let cases = std::env::var("CASES").map_or(1500, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::<u16, u32>::new());
    let ask = |form: &str, text: &str| {
        for slice in ["alpha", "watch"] {
            let all = runtime.block_on(node.send(slice, text.as_bytes()));
            for got in &all {
                *seen.borrow_mut().entry(got.status).or_default() += 1;
                if got.status == 100 {
                    continue;
                }
                judge(&document, form, text, got).map_err(|why| format!("{why}: {got:?}"))?;
            }
        }
        Ok::<(), String>(())
    };
    // Some that chance may leave out.
    for (form, line, body) in [
        ("/v1/node", "GET /v1/node", ""),
        ("/v1/slices/{name}", "PUT /v1/slices/exp_z", control::A),
        ("/v1/slices/{name}", "PUT /v1/slices/exp_z", "{}"),
    ] {
        let length = body.len();
        let text = format!(
            "{line} HTTP/1.1\r\nHost: slice\r\nConnection: close\r\nIf-None-Match: *\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        ask(form, &text).unwrap();
        ask(form, &text).unwrap();
    }
    let result = runner.run(&requests(&document), |(form, text)| {
        ask(&form, &text).map_err(TestCaseError::fail)
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    // Else it tried little.
    let seen = seen.into_inner();
    for status in [200, 201, 304, 400, 403, 404, 405, 406, 412, 422] {
        assert!(seen.contains_key(&status), "{seen:?}");
    }
}
