//! What the document says of slices that slices make, and that the answers are what it says.

use hyper::Method;
use schemars::generate::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::super::control::documents::{Control, Done, Slice, Terms};
use super::super::fixture::{Got, Joined};
use super::super::problem;
use super::super::route::{By, Route};
use super::{schema, schema_of, served};

/// Statuses of changes beside those of every request, and why.
const PROBLEMS: &[(u16, &str)] = &[
    (404, "The asker made no slice of that name."),
    (408, "The body did not come within five seconds."),
    (409, "The name is somebody's, or the slice is not in force."),
    (412, "The condition does not hold."),
    (413, "The body has more than 32 KiB."),
    (
        422,
        "The slice cannot be so: `errors` has everything that is wrong, by key and by how much.",
    ),
];

pub fn is(route: &Route) -> bool {
    matches!(route.by, By::Control(_))
}

/// What is told where it was done.
pub fn answer(route: &Route, generator: &mut SchemaGenerator) -> schemars::Schema {
    match (&route.method, route.path) {
        (&Method::GET, "/v1/control") => generator.subschema_for::<Control>(),
        (&Method::GET, _) => generator.subschema_for::<Slice>(),
        _ => generator.subschema_for::<Done>(),
    }
}

/// Adds what such a request has beside others.
pub fn describe(operation: &mut Value, route: &Route, generator: &mut SchemaGenerator) {
    operation["tags"] = json!(["control"]);
    if route.path == "/v1/control" {
        return;
    }
    let problem = generator.subschema_for::<problem::Document>();
    let body = matches!(route.method, Method::PUT)
        || (route.method == Method::POST && route.path == "/v1/slices");
    let responses = operation["responses"].as_object_mut().unwrap();
    for (status, says) in PROBLEMS {
        let applies = match status {
            404 => route.path.contains("{name}"),
            412 => matches!(route.method, Method::PUT | Method::DELETE) || body,
            409 => route.method != Method::GET,
            _ => body,
        };
        if applies {
            let content = json!({"application/problem+json": {"schema": problem}});
            responses.insert(
                status.to_string(),
                json!({"description": says, "content": content}),
            );
        }
    }
    let tag = json!({"ETag": {"description": "The slice's generation, another after each change.", "schema": {"type": "string"}}});
    if route.method != Method::DELETE {
        responses["200"]["headers"] = tag;
    }
    if body {
        let mut created = responses["200"].clone();
        created["description"] = json!("It is new.");
        responses.insert("201".to_owned(), created);
        let terms = generator.subschema_for::<Terms>();
        operation["requestBody"] = json!({
            "description": "A slice's file as JSON; what it says is all that the slice is to have.",
            "required": true,
            "content": {"application/json": {"schema": terms}},
        });
    }
    if matches!(route.method, Method::PUT | Method::DELETE) {
        let header = |name: &str, says: &str| {
            json!({
                "name": name, "in": "header", "required": false,
                "description": says, "schema": {"type": "string"},
            })
        };
        let parameters = operation["parameters"].as_array_mut().unwrap();
        parameters.push(header(
            "If-Match",
            "Only a slice of this generation, or with * one that is there.",
        ));
        parameters.push(header("If-None-Match", "With *, only where there is none."));
    }
}

/// A request with a body.
async fn send(node: &Joined, slice: &str, line: &str, headers: &str, body: &str) -> Got {
    let text = format!(
        "{line} HTTP/1.1\r\nHost: slice\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut all = node.send(slice, text.as_bytes()).await;
    assert_eq!(all.len(), 1, "{line}: {all:?}");
    all.remove(0)
}

/// Whether an answer is one of those of the document.
fn fits(document: &Value, line: &str, got: &Got) {
    let (method, path) = line.split_once(' ').unwrap();
    let form = path.replace("exp_a", "{name}").replace("exp_b", "{name}");
    let kind = got.header("content-type").unwrap();
    let schema = schema_of(document, (&method.to_lowercase(), &form), got.status, kind);
    let schema = schema.unwrap_or_else(|| panic!("{line}: {} {kind} is not described", got.status));
    schema::check(document, schema, &got.json()).unwrap_or_else(|why| panic!("{line}: {why}"));
}

/// A slice that there is room for.
pub const A: &str = r#"{"context": {"image": "debian"}, "memory": {"floor": "48 MiB"}, "ports": {"tcp": [20003, "20005-20006"]}}"#;

const LITTLE: &str = r#"{"context": {"image": "debian"}}"#;

#[tokio::test]
async fn a_slice_is_made_changed_started_and_destroyed_as_the_document_says() {
    let document = served();
    let node = Joined::new();
    let named = A.replacen('{', r#"{"name": "exp_a", "#, 1);
    let same = r#"If-Match: "1""#.to_owned() + "\r\n";
    for (line, headers, body, status) in [
        ("GET /v1/control", "", "", 200),
        ("GET /v1/control/exp_a", "", "", 404),
        ("DELETE /v1/slices/exp_a", "", "", 404),
        ("PUT /v1/slices/exp_a", "If-Match: *\r\n", A, 412),
        (
            "PUT /v1/slices/exp_a",
            "Origin: http://x.example\r\n",
            A,
            403,
        ),
        ("PUT /v1/slices/exp_a", "", "{", 400),
        ("PUT /v1/slices/exp_a", "", "{}", 422),
        ("PUT /v1/slices/exp_a", "If-None-Match: *\r\n", A, 201),
        ("PUT /v1/slices/exp_a", "", A, 200),
        ("POST /v1/slices", "", &named, 412),
        ("GET /v1/control/exp_a", "", "", 200),
        ("POST /v1/slices/exp_a/stop", "", "", 200),
        ("POST /v1/slices/exp_a/restart", "", "", 200),
        ("POST /v1/slices/exp_a/start", "", "", 200),
        ("POST /v1/slices/exp_a/start", &same, "", 400),
        ("PUT /v1/slices/exp_b", "", A, 422),
        ("PUT /v1/slices/exp_a", &same, LITTLE, 200),
        ("DELETE /v1/slices/exp_a", &same, "", 412),
        ("GET /v1/control", "", "", 200),
        ("DELETE /v1/slices/exp_a", "", "", 200),
        ("DELETE /v1/slices/exp_a", "", "", 404),
    ] {
        let refused = send(&node, "alpha", line, headers, body).await;
        assert!([400, 403].contains(&refused.status), "{line}: {refused:?}");
        let got = send(&node, "watch", line, headers, body).await;
        assert_eq!(got.status, status, "{line} {body}: {}", got.text());
        fits(&document, line, &got);
    }
}

#[tokio::test]
async fn too_much_is_refused_by_key_resource_and_amount_and_what_was_told_can_be_asked_for() {
    let node = Joined::new();
    let made = send(&node, "watch", "PUT /v1/slices/exp_a", "", A).await;
    assert_eq!(made.header("etag"), Some("\"1\""));
    let more = A.replace("48 MiB", "20 MiB");
    let wrong = send(&node, "watch", "PUT /v1/slices/exp_b", "", &more).await;
    let errors = wrong.json()["errors"].clone();
    assert_eq!(
        errors,
        json!([
            {"field": "memory.floor", "message": "20 MiB of memory is 4 MiB too much: [control] of watch has 64 MiB, of which 16 MiB are left"},
            {"field": "ports.tcp", "message": "TCP port 20003,20005-20006 is not watch's to lend, or lent already"},
        ])
    );
    let listed = node.get("watch", "/v1/control").await.json();
    let lends = listed["lends"].as_array().unwrap();
    let memory = json!({"key": "memory.floor", "limit": "64 MiB", "left": "16 MiB"});
    assert!(lends.contains(&memory), "{listed}");
    let told = node.get("watch", "/v1/control/exp_a").await.json();
    let again = told["terms"].to_string();
    let same = send(&node, "watch", "PUT /v1/slices/exp_a", "", &again).await;
    assert_eq!(same.json()["changed"], false, "{}", same.text());
    let large = format!("{}{}", A, " ".repeat(32 << 10));
    let refused = send(&node, "watch", "PUT /v1/slices/exp_a", "", &large).await;
    assert_eq!(refused.status, 413);
}

/// Bodies of requests of every kind.
pub fn bodies() -> Vec<String> {
    let named = A.replacen('{', r#"{"name": "exp_b", "#, 1);
    let mut all = [
        "",
        A,
        LITTLE,
        LITTLE,
        &named,
        "{",
        "[]",
        "null",
        "{}",
        "\u{e9}",
        "7",
        r#"{"name": "../x"}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    for more in [
        r#""grants": ["control"]"#,
        r#""link": {"floor": "1 Tbit/s", "exempt_cap": "1 bit/s"}"#,
        r#""cpu": {"floor": -1}"#,
        r#""login": {"keys": ["x"]}"#,
        r#""description": "\u0000""#,
        r#""processes": 18446744073709551616"#,
    ] {
        all.push(format!(r#"{{"context": {{"image": "debian"}}, {more}}}"#));
    }
    all.push("[".repeat(30_000));
    all
}

/// For each method of the document alone.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let each = |(form, methods): (&String, &Value)| {
        let methods: &Map<String, Value> = methods.as_object().unwrap();
        let form = form.clone();
        let one = move |(method, of): (&String, &Value)| (form.clone(), method.clone(), of.clone());
        methods.iter().map(one).collect::<Vec<_>>()
    };
    paths.iter().flat_map(each).collect()
}
