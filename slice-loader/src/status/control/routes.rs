//! What can be asked for of slices that slices make: rows of the table of routes.

use hyper::Method;

use super::Order;
use super::front::{Call, conditions, no_browser, unconditional};
use crate::node::control::When;
use crate::node::control_log::Act;
use crate::status::problem::Problem;
use crate::status::route::{Asked, By, Route};

const fn row(
    method: Method,
    path: &'static str,
    says: &'static str,
    call: fn(&Asked<'_>) -> Result<Call, Problem>,
) -> Route {
    Route {
        method,
        path,
        says,
        parameters: &[],
        produces: &["application/json"],
        by: By::Control(call),
    }
}

/// They need the grant `control`.
pub static ROUTES: &[Route] = &[
    row(
        Method::GET,
        "/v1/control",
        "The slices that the asker made, and what it has left to lend.",
        |_| Ok(Call::Order(Order::List)),
    ),
    row(
        Method::GET,
        "/v1/control/{name}",
        "A slice that the asker made.",
        |asked| Ok(Call::Order(Order::Show(asked.name.to_owned()))),
    ),
    row(
        Method::POST,
        "/v1/slices",
        "Makes a slice, whose name the body says.",
        |asked| {
            unconditional(asked.headers)?;
            changed(
                asked,
                Call::Put(
                    None,
                    When {
                        there: Some(false),
                        generation: None,
                    },
                ),
            )
        },
    ),
    row(
        Method::PUT,
        "/v1/slices/{name}",
        "Makes a slice, or gives it these terms in place of those that it had.",
        |asked| {
            let when = conditions(asked.headers)?;
            changed(asked, Call::Put(Some(asked.name.to_owned()), when))
        },
    ),
    row(
        Method::DELETE,
        "/v1/slices/{name}",
        "Ends a slice, and removes all that it had.",
        |asked| {
            let (name, when) = (asked.name.to_owned(), conditions(asked.headers)?);
            changed(asked, Call::Order(Order::Destroy { name, when }))
        },
    ),
    row(
        Method::POST,
        "/v1/slices/{name}/start",
        "Starts a slice's context.",
        |asked| live(asked, Act::Start),
    ),
    row(
        Method::POST,
        "/v1/slices/{name}/stop",
        "Ends all that runs in a slice.",
        |asked| live(asked, Act::Stop),
    ),
    row(
        Method::POST,
        "/v1/slices/{name}/restart",
        "Both, one after the other.",
        |asked| live(asked, Act::Restart),
    ),
];

fn live(asked: &Asked<'_>, act: Act) -> Result<Call, Problem> {
    unconditional(asked.headers)?;
    let name = asked.name.to_owned();
    changed(asked, Call::Order(Order::Live { name, act }))
}

fn changed(asked: &Asked<'_>, call: Call) -> Result<Call, Problem> {
    no_browser(asked.headers)?;
    Ok(call)
}

#[cfg(test)]
mod tests {
    use hyper::Uri;
    use hyper::header::{self, HeaderMap, HeaderValue};

    use super::*;
    use crate::status::route;

    fn call(method: &Method, path: &str, headers: &HeaderMap) -> Result<Call, Problem> {
        // What no address is, hyper refuses before.
        let uri = Uri::try_from(path).map_err(|_| Problem::NoSuchDocument)?;
        let (route, asked) = route::read(method, &uri, headers)?;
        match route.by {
            By::Control(call) => call(&asked),
            _ => Err(Problem::NoSuchDocument),
        }
    }

    #[test]
    fn each_order_has_one_method_and_path_and_no_other_name_comes_to_the_daemon() {
        let name = || String::from("exp_a");
        let when = When::default();
        let new = When {
            there: Some(false),
            generation: None,
        };
        let live = |act| Order::Live { name: name(), act };
        let destroy = Order::Destroy { name: name(), when };
        for (method, path, said) in [
            (Method::GET, "/v1/control", Call::Order(Order::List)),
            (Method::HEAD, "/v1/control", Call::Order(Order::List)),
            (
                Method::GET,
                "/v1/control/exp_a",
                Call::Order(Order::Show(name())),
            ),
            (Method::POST, "/v1/slices", Call::Put(None, new)),
            (
                Method::PUT,
                "/v1/slices/exp_a",
                Call::Put(Some(name()), when),
            ),
            (Method::DELETE, "/v1/slices/exp_a", Call::Order(destroy)),
            (
                Method::POST,
                "/v1/slices/exp_a/start",
                Call::Order(live(Act::Start)),
            ),
            (
                Method::POST,
                "/v1/slices/exp_a/stop",
                Call::Order(live(Act::Stop)),
            ),
            (
                Method::POST,
                "/v1/slices/exp_a/restart",
                Call::Order(live(Act::Restart)),
            ),
        ] {
            let got = call(&method, path, &HeaderMap::new());
            assert_eq!(got, Ok(said), "{method} {path}");
        }
        for (method, path, status) in [
            (Method::PUT, "/v1/slices", 405),
            (Method::PATCH, "/v1/slices/exp_a", 405),
            (Method::GET, "/v1/slices/exp_a/stop", 405),
            (Method::DELETE, "/v1/control/exp_a", 405),
            (Method::POST, "/v1/reload", 404),
            (Method::POST, "/v1/slices/exp_a/kill", 404),
            (Method::POST, "/v1/slices/exp_a/b/stop", 404),
            (Method::POST, "/v1/slices//stop", 404),
            (Method::DELETE, "/v1/slices/exp_a/b/c", 404),
            (Method::DELETE, "/v1/slices/../../exp_a", 404),
            (Method::DELETE, "/v1/slices/exp_a/../ctl", 404),
        ] {
            let got = call(&method, path, &HeaderMap::new()).map_err(Problem::status);
            let got = got.expect_err(path);
            assert_eq!(got.as_u16(), status, "{method} {path}");
        }
        for path in [
            "/v1/slices/..",
            "/v1/slices/%2e%2e",
            "/v1/slices/exp_a%2f..%2fctl",
            "/v1/slices/Exp",
            "/v1/slices/",
            "/v1/slices/exp_a.json",
            "/v1/slices/exp_a%00",
        ] {
            for method in [Method::PUT, Method::DELETE] {
                let said = call(&method, path, &HeaderMap::new());
                assert!(said.is_err(), "{method} {path}: {said:?}");
            }
        }
    }

    #[test]
    fn a_page_of_a_browser_changes_nothing() {
        for (name, value) in [
            (header::ORIGIN, "http://example.org"),
            (header::ORIGIN, "null"),
            (
                header::HeaderName::from_static("sec-fetch-site"),
                "same-origin",
            ),
        ] {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            for route in ROUTES {
                let path = route.path.replace("{name}", "exp_a");
                let said = call(&route.method, &path, &headers);
                let reads = route.method == Method::GET;
                assert_eq!(said.is_ok(), reads, "{} {path}", route.method);
                assert!(reads || said == Err(Problem::Browser));
            }
        }
    }
}
