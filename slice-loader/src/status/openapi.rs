//! The document that describes the API, written from the table of routes, the table of
//! parameters and the types of the answers. It is made by a test alone: what is served
//! is what was written, `docs/openapi.json`.

use hyper::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::answers::Attributes;
use super::documents::{Drops, Flows, Links, Policy, Ports, Slices};
use super::parameters::{LIMIT, Parameter, Takes};
use super::problem;
use super::route::{self, By, OPENAPI, Route};
use crate::report::event::Item;
use crate::report::{LinksPast, Row};

mod attempts; // what a slice may try
mod control; // slices that make slices
mod fuzz; // requests of every kind
mod schema; // whether a value fits

/// Statuses of every answer that is none, and why. What no request of HTTP is gets 400
/// or 431 without a document.
const PROBLEMS: &[(u16, &str)] = &[
    (400, "A parameter is wrong, unknown or there twice."),
    (
        403,
        "The slice is not on this node any more, or has no grant for this.",
    ),
    (406, "The document has none of the forms that are accepted."),
    (414, "The path with its parameters is too long."),
    (421, "Another machine is named."),
    (429, "The slice asks more often than it may."),
    (500, "The node could not be read."),
    (503, "There is no room, or the node does not answer."),
];

/// What a document is; none where it is no JSON.
fn answer(route: &Route, generator: &mut SchemaGenerator) -> Option<schemars::Schema> {
    if control::is(route) {
        return Some(control::answer(route, generator));
    }
    Some(match route.path {
        "/v1/node" => generator.subschema_for::<Attributes>(),
        "/v1/slices" => generator.subschema_for::<Slices>(),
        "/v1/slices/{name}" => generator.subschema_for::<Row>(),
        "/v1/ports" => generator.subschema_for::<Ports>(),
        "/v1/links" => generator.subschema_for::<Links>(),
        "/v1/links/history" => generator.subschema_for::<LinksPast>(),
        "/v1/drops" => generator.subschema_for::<Drops>(),
        "/v1/flows" => generator.subschema_for::<Flows>(),
        "/v1/policy" => generator.subschema_for::<Policy>(),
        // A line of data.
        "/v1/events" => generator.subschema_for::<Item>(),
        "/v1/openapi.json" => json!({"type": "object"}).try_into().unwrap(),
        "/" | "/metrics" | "/slicestat" => return None,
        other => panic!("{other} has no type here"),
    })
}

/// What a parameter takes, and examples.
fn takes(parameter: &Parameter) -> Value {
    let text = |pattern: &str, examples: &[&str]| json!({"type": "string", "pattern": pattern, "examples": examples});
    match parameter.takes {
        Takes::Number(low, high) => {
            let mut schema = json!({"type": "integer", "minimum": low, "maximum": high});
            if *parameter == LIMIT {
                schema["default"] = high.into();
            }
            schema
        }
        Takes::Name => text("^[a-z0-9_]{1,31}$", &["alpha", "node"]),
        Takes::Device => text("^[!-.0-9;-~]{1,15}$", &["eth0"]),
        Takes::Words(words) => json!({"type": "string", "enum": words}),
        Takes::Reason => {
            let reasons = policy::verdict::Reason::ALL.iter();
            json!({"type": "string", "enum": reasons.map(|reason| reason.slug()).collect::<Vec<_>>()})
        }
        Takes::Protocol => json!({"type": "string", "examples": ["tcp", "udp", "icmp", "58"]}),
        Takes::Network => {
            json!({"type": "string", "examples": ["192.0.2.1", "192.0.2.0/24", "2001:db8::/32"]})
        }
        Takes::Time => {
            json!({"type": "string", "examples": ["2026-01-31T12:00:00Z", "@1769860800", "2h"]})
        }
        Takes::Place => text(r"^[!-~]{1,31}\.[0-9]{1,10}\.[0-9]{1,10}$", &["alpha.0.0"]),
        Takes::Position => text(
            "^([0-9a-f]{24}|[0-9a-f]{104})$",
            &["000000000007a12000000000"],
        ),
        Takes::Event => text(r"^[0-9]+\.[0-9]+$", &["1795797600000000.0"]),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    if route.path.contains("{name}") {
        all.push(json!({
            "name": "name", "in": "path", "required": true,
            "description": "The name of a slice, node or unattributed.",
            "schema": {"type": "string", "pattern": "^[a-z0-9_]{1,31}$", "examples": ["alpha"]},
        }));
    }
    all.extend(route.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "required": false,
            "description": parameter.says, "schema": takes(parameter),
        })
    }));
    let header = |name: &str, says: &str, schema: Value| {
        json!({
            "name": name, "in": "header", "required": false,
            "description": says, "schema": schema,
        })
    };
    match route.path {
        "/v1/events" => all.push(header(
            "Last-Event-ID",
            "The last event that was seen.",
            json!({"type": "string"}),
        )),
        "/slicestat" => all.push(header(
            "max-age",
            "How old the table may be, in seconds.",
            json!({"type": "integer", "minimum": 0}),
        )),
        _ => {}
    }
    if has_tag(route) {
        all.push(header(
            "If-None-Match",
            "The tag of what is there already.",
            json!({"type": "string"}),
        ));
    }
    all
}

fn is_stream(route: &Route) -> bool {
    route.produces == ["text/event-stream"]
}

/// Whether an answer has a tag by which it is asked for again.
fn has_tag(route: &Route) -> bool {
    !is_stream(route) && !matches!(route.by, By::Page | By::Control(_))
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let schema = answer(route, generator);
    let mut content = Map::new();
    for kind in route.produces {
        let media = match (&schema, is_stream(route)) {
            (Some(schema), false) => json!({"schema": schema}),
            _ => json!({"schema": {"type": "string"}}),
        };
        content.insert((*kind).to_owned(), media);
    }
    let mut responses = Map::new();
    let mut found = json!({"description": route.says, "content": content});
    if is_stream(route) {
        // The schema of each `data:`.
        found["x-data"] = json!(schema);
    }
    if has_tag(route) {
        let text = |says: &str| json!({"description": says, "schema": {"type": "string"}});
        found["headers"] = json!({"ETag": text("Tells this body from every other.")});
        if route.parameters.contains(&&LIMIT) {
            found["headers"]["Link"] = text("The next page, `rel=\"next\"`.");
        }
        responses.insert(
            "304".to_owned(),
            json!({"description": "Who asks has it already."}),
        );
    }
    responses.insert("200".to_owned(), found);
    let problem = generator.subschema_for::<problem::Document>();
    let mut refuse = |status: u16, says: &str| {
        let content = json!({"application/problem+json": {"schema": problem}});
        responses.insert(
            status.to_string(),
            json!({"description": says, "content": content}),
        );
    };
    for (status, says) in PROBLEMS {
        refuse(*status, says);
    }
    if route.path.contains("{name}") {
        refuse(
            404,
            "There is no slice of that name, or you may not see it.",
        );
    }
    let words = route.path.split(['/', '.', '{', '}']);
    let mut words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        words.push("page");
    }
    json!({
        "operationId": format!("{}_{}", route.method.as_str().to_lowercase(), words.join("_")),
        "summary": route.says,
        "parameters": parameters(route),
        "responses": responses,
    })
}

/// The document.
fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in route::all() {
        let method = route.method.as_str().to_lowercase();
        let there = paths.entry(route.path).or_insert_with(|| json!({}));
        let mut operation = operation(route, &mut generator);
        operation["tags"] = json!(["status"]);
        if control::is(route) {
            control::describe(&mut operation, route, &mut generator);
        }
        if route.method == Method::GET {
            let mut head = operation.clone();
            head["operationId"] = json!(format!(
                "head{}",
                operation["operationId"]
                    .as_str()
                    .unwrap()
                    .trim_start_matches("get")
            ));
            for (status, response) in head["responses"].as_object_mut().unwrap() {
                assert!(!status.is_empty());
                response.as_object_mut().unwrap().remove("content");
            }
            there["head"] = head;
        }
        there[method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Status hooks of a Slice node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a node tells its slices, on the unix socket /run/slice/status.sock of each. The socket is the identity. Fields are only added within /v1.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://slice", "description": "By --unix-socket /run/slice/status.sock; the host is any name without a domain, localhost or an address."}],
        "tags": [{"name": "status", "description": "What the node says."}, {"name": "control", "description": "Slices that slices make: for those with the grant `control`."}],
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

/// What is served.
fn served() -> Value {
    serde_json::from_slice(OPENAPI).unwrap()
}

/// The schema that a method and path, a status and a type have.
fn schema_of<'a>(
    document: &'a Value,
    (method, path): (&str, &str),
    status: u16,
    kind: &str,
) -> Option<&'a Value> {
    let response = &document["paths"][path][method]["responses"][status.to_string()];
    response["content"][kind].get("schema")
}

#[test]
fn the_document_is_what_the_router_and_the_types_say() {
    let written = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &written).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(
        golden == written,
        "docs/openapi.json is old: UPDATE_GOLDEN=1 cargo test -p slice-loader --lib openapi"
    );
}

#[test]
fn every_route_is_in_the_document_and_nothing_else_is() {
    let document = served();
    let mut there = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            there.push((path.clone(), method.to_uppercase()));
        }
    }
    let mut expected = Vec::new();
    for route in route::all() {
        expected.push((route.path.to_owned(), route.method.to_string()));
        if route.method == Method::GET {
            expected.push((route.path.to_owned(), "HEAD".to_owned()));
        }
    }
    there.sort();
    expected.sort();
    assert_eq!(there, expected);
}

#[test]
fn the_document_is_well_formed() {
    let document = served();
    let mut operations = Vec::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            operations.push(operation["operationId"].as_str().unwrap());
            let summary = operation["summary"].as_str().unwrap();
            assert!(summary.ends_with('.'), "{summary}");
            let mut names = Vec::new();
            for parameter in operation["parameters"].as_array().unwrap() {
                let name = (parameter["in"].as_str(), parameter["name"].as_str());
                assert!(!names.contains(&name), "{name:?} is there twice");
                names.push(name);
                let says = parameter["description"].as_str().unwrap();
                assert!(says.ends_with('.'), "{says}");
            }
            for response in operation["responses"].as_object().unwrap().values() {
                assert!(response["description"].is_string());
            }
        }
    }
    let count = operations.len();
    operations.sort_unstable();
    operations.dedup();
    assert_eq!(operations.len(), count);
    // Everything that is referred to is there, and everything there is described.
    let text = String::from_utf8(OPENAPI.to_vec()).unwrap();
    for reference in text.split("\"$ref\": \"").skip(1) {
        let pointer = reference
            .split('"')
            .next()
            .unwrap()
            .strip_prefix('#')
            .unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name}");
        for (field, of) in schema["properties"].as_object().into_iter().flatten() {
            let described = of["description"].is_string();
            assert!(described, "{name}.{field} has no description");
        }
    }
}

#[tokio::test]
async fn every_answer_fits_its_schema() {
    let document = served();
    let node = super::fixture::Joined::new();
    for slice in ["alpha", "watch"] {
        for route in route::all().filter(|route| !control::is(route)) {
            let path = route.path.replace("{name}", slice);
            let got = node.get(slice, &path).await;
            assert_eq!(got.status, 200, "{path}: {got:?}");
            let kind = got.header("content-type").unwrap();
            assert!(route.produces.contains(&kind), "{path}: {kind}");
            if kind == "application/json" {
                let schema = schema_of(&document, ("get", route.path), 200, kind).unwrap();
                schema::check(&document, schema, &got.json())
                    .unwrap_or_else(|why| panic!("{path}: {why}"));
            }
            if is_stream(route) {
                let schema = &document["paths"][route.path]["get"]["responses"]["200"]["x-data"];
                let text = got.text();
                let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                let mut count = 0;
                for line in data {
                    let value = serde_json::from_str(line).unwrap();
                    schema::check(&document, schema, &value).unwrap();
                    count += 1;
                }
                assert!(count > 0, "{text}");
            }
        }
    }
}

#[tokio::test]
async fn pages_lead_to_all_rows_and_each_is_told_once() {
    let node = super::fixture::Joined::new();
    for (path, rows) in [
        ("/v1/slices", "/rows"),
        ("/v1/ports", "/ports"),
        ("/v1/drops", "/drops"),
        ("/v1/links", "/links/0/rows"),
        ("/v1/flows", "/flows"),
        ("/v1/policy", "/slices"),
    ] {
        let told = |body: &Value| {
            let rows = body.pointer(rows).and_then(Value::as_array);
            rows.cloned().unwrap_or_default()
        };
        let whole = told(&node.get("watch", path).await.json());
        assert!(whole.len() >= 3, "{path}: {whole:?}");
        let (mut address, mut all, mut pages) = (format!("{path}?limit=1"), Vec::new(), 0);
        loop {
            let got = node.get("watch", &address).await;
            let body = got.json();
            assert!(told(&body).len() <= 1, "{body}");
            all.extend(told(&body));
            pages += 1;
            assert!(pages < 100, "{path}");
            let Some(next) = body["next"].as_str() else {
                assert_eq!(got.header("link"), None);
                break;
            };
            let link = got.header("link").unwrap();
            address = format!("{path}?limit=1&after={next}");
            assert_eq!(link, format!("<{address}>; rel=\"next\""));
        }
        assert_eq!(all, whole, "{path}");
    }
}

#[tokio::test]
async fn who_has_a_document_is_not_given_it_again() {
    let node = super::fixture::Joined::new();
    for path in [
        "/v1/policy",
        "/v1/slices",
        "/slicestat",
        "/v1/openapi.json",
        "/metrics",
    ] {
        let line = format!("GET {path}");
        let first = node.ask("alpha", &line, "").await;
        let tag = first.header("etag").unwrap().to_owned();
        let control = first.header("cache-control");
        assert_eq!(control, Some("private, no-cache"));
        let again = node
            .ask("alpha", &line, &format!("If-None-Match: {tag}\r\n"))
            .await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{again:?}");
        assert_eq!(again.header("etag"), Some(&*tag));
        let other = node.ask("alpha", &line, "If-None-Match: \"x\"\r\n").await;
        assert_eq!((other.status, &other.body), (200, &first.body));
        let head = node.ask("alpha", &format!("HEAD {path}"), "").await;
        let length = head.header("content-length").unwrap();
        assert_eq!(length, first.body.len().to_string());
        assert_eq!((head.status, head.header("etag")), (200, Some(&*tag)));
    }
}

/// For programs that test an API by its document: by a socket whose path `SOCKET` says.
#[tokio::test]
#[ignore = "serves until it is killed"]
async fn serve_the_fixture() {
    let path = std::env::var("SOCKET").unwrap();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let node = super::fixture::Joined::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(node.serve(stream, "watch"));
    }
}
