//! The status page on the node's own localhost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};

pub const TEST: Test = test(
    "the_page_on_the_nodes_localhost_is_out_of_the_slices_reach",
    the_page_on_the_nodes_localhost,
)
.once();

const PORT: u16 = 8090;

/// From a slice: every address by which the node's localhost might be reached, and the
/// port itself.
const ATTEMPTS: &str = r"
import socket
for family, address in [(2, '127.0.0.1'), (2, '127.0.0.2'), (2, '0.0.0.0'), (10, '::1'),
                        (10, '::ffff:127.0.0.1'), (10, '::')]:
    sock = socket.socket(family)
    sock.settimeout(5)
    print(address, sock.connect_ex((address, 8090)))
for address in ['0.0.0.0', '']:
    try:
        socket.socket().bind((address, 8090))
    except OSError as error:
        print('bind', error.errno)
";

/// What is answered to a process of the node; none where nobody listens.
fn get(path: &str, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn the_page_on_the_nodes_localhost(node: &mut Node) -> Result<()> {
    let site = Site::up(node, &[("node.toml", ""), ("slices/alpha.toml", "")])?;
    let daemon = site.daemon()?;
    ensure!(get("/", "localhost").is_none(), "it is there unasked");
    site.write("node.toml", "[status]\npage = 8090\n")?;
    site.must(&["reload"])?;
    until("the page is there", || Ok(get("/", "localhost").is_some()))?;
    for (path, host, start, word) in [
        ("/", "localhost:8090", "HTTP/1.1 200 ", "<!DOCTYPE html>"),
        ("/v1/slices", "127.0.0.1:8090", "HTTP/1.1 200 ", "\"alpha\""),
        (
            "/v1/node",
            "localhost",
            "HTTP/1.1 200 ",
            "\"slices\":{\"usage\":1",
        ),
        (
            "/v1/slices",
            "evil.example:8090",
            "HTTP/1.1 421 ",
            "Another machine",
        ),
    ] {
        let told = get(path, host).unwrap_or_default();
        ensure!(
            told.starts_with(start) && told.contains(word),
            "{path} of {host}: {told}"
        );
    }
    let tried = site.run_in("alpha", &["python3", "-c", ATTEMPTS])?;
    let lines: Vec<&str> = tried.stdout.lines().collect();
    ensure!(lines.len() == 8, "{lines:?} {}", tried.stderr);
    for line in &lines {
        // ECONNREFUSED, and EACCES for what the node keeps.
        ensure!(line.ends_with(" 111") || *line == "bind 13", "{lines:?}");
    }
    // Who has the page is no context that started or ended.
    site.write("node.toml", "")?;
    site.must(&["reload"])?;
    until("the page is gone", || Ok(get("/", "localhost").is_none()))?;
    let told = daemon.output();
    ensure!(!told.contains("WARN"), "{told}");
    drop(daemon);
    Ok(())
}
