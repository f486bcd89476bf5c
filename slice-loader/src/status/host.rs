//! Whether a request names this machine, as one does who knows where it goes.
//!
//! A web page elsewhere can have its own name point to 127.0.0.1 after it was loaded,
//! and its program, in the browser of whoever forwards a port to a status socket, then
//! asks here with that name ("DNS rebinding"). Such a name has a dot, and is no address.

use std::net::IpAddr;

use hyper::Uri;
use hyper::header::{self, HeaderMap};

/// Whether every host that the request names is an address, `localhost` or a name
/// without a domain, such as `slice`. One that names none comes from no browser.
#[must_use]
pub fn is_this(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::HOST).iter();
    named
        .map(|host| host.to_str().unwrap_or("."))
        .chain(uri.host())
        .all(is_local)
}

/// The same of one host, with or without a port.
fn is_local(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[') {
        return v6
            .split_once(']')
            .is_some_and(|(address, port)| is_address(address) && is_port(port));
    }
    let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
    is_port(port) && (is_address(name) || is_plain(name))
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name that no name server of another gives an address.
fn is_plain(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".localhost").unwrap_or(&name);
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn asked(uri: &str, hosts: &[&str]) -> bool {
        let header = |host: &&str| (header::HOST, HeaderValue::from_str(host).unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in hosts.iter().map(header) {
            headers.append(name, value);
        }
        is_this(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_request_that_names_another_machine_is_not_for_this_one() {
        for host in [
            "",
            "slice",
            "localhost",
            "LOCALHOST:8090",
            "node.localhost:8090",
            "127.0.0.1:9101",
            "192.0.2.1",
            "[::1]:8090",
            "[fd53:6c00::2:1]",
        ] {
            assert!(asked("/", &[host]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8090",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "localhost.evil.example",
            "localhost.",
            "evil.localhost.example",
            "[::1].evil.example",
            "[evil.example]",
            "::1",
            "localhost:8090@evil.example",
            "localhost evil.example",
        ] {
            assert!(!asked("/", &[host]), "{host}");
        }
        // Who speaks HTTP/1.0 need not name any.
        assert!(asked("/", &[]));
        assert!(asked("http://slice/v1/node", &["slice"]));
        assert!(!asked("http://evil.example/v1/node", &["slice"]));
        assert!(!asked("/", &["slice", "evil.example"]));
    }
}
