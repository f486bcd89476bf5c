//! A capture in a slice under load, beside another slice's equal load.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::raw::{OTHER, SLICE, open, python, tcpdump};
use crate::runner::{Test, test};
use crate::site::until;
use crate::stage::OUTSIDE;

pub const TESTS: &[Test] = &[
    test(
        "a_capture_misses_nothing_of_its_slice_under_load_and_shows_nothing_of_anothers",
        |node| a_capture_under_load(node, 100),
    )
    .within(120)
    .on_stage(),
    test(
        "a_capture_sees_4000_of_4000_answers_of_its_slice_and_none_of_anothers_4000",
        |node| a_capture_under_load(node, 1000),
    )
    .within(240)
    .long()
    .on_stage(),
];

/// Threads of each slice.
const THREADS: usize = 4;
/// Where the pages of the two slices are.
const PORTS: [u16; 2] = [9701, 9702];

/// Serves pages at both ports.
const SERVE: &str = r"
import socket, sys, threading
page = b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 1000
def serve(server):
    while True:
        sock, peer = server.accept()
        sock.recv(1000)
        sock.sendall(page)
        sock.close()
for port in map(int, sys.argv[1:]):
    server = socket.create_server(('', port), backlog=128)
    for _ in range(4):
        threading.Thread(target=serve, args=[server], daemon=True).start()
print('serving', flush=True)
sys.stdin.read()
";

/// Fetches pages from a port, a number of them in each of so many threads.
const FETCH: &str = r"
import socket, sys, threading
port, threads, number = map(int, sys.argv[1:])
whole = []
def fetch():
    for _ in range(number):
        sock = socket.create_connection(('198.51.100.2', port))
        sock.sendall(b'GET / HTTP/1.0\r\n\r\n')
        length = 0
        while octets := sock.recv(4096):
            length += len(octets)
        sock.close()
        whole.append(length == 1019)
threads = [threading.Thread(target=fetch) for _ in range(threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(whole))
";

fn a_capture_under_load(node: &mut Node, number: usize) -> Result<()> {
    let site = open(node)?;
    let mut serve = Command::new("ip");
    serve.args(["netns", "exec", OUTSIDE, "python3", "-c", SERVE]);
    serve.args(PORTS.map(|port| port.to_string()));
    let server = site.start("server", serve)?;
    until("the other end serves", || {
        Ok(server.output().contains("serving"))
    })?;
    const FILE: &str = "/tmp/captured";
    // As people capture: into a file, SYN and ACK of whatever is shown.
    let syn_ack = "tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)";
    let capture = tcpdump(
        &site,
        &[
            "-i", "any", "-s", "128", "-B", "4096", "-U", "-Z", "root", "-w", FILE, syn_ack,
        ],
    )?;
    let fetch = |slice: &str, port: u16| -> Result<_> {
        let mut command = Command::new("slice");
        command.args(["exec", slice, "--", "python3", "-c", FETCH]);
        command.args([port.to_string(), THREADS.to_string(), number.to_string()]);
        site.start(&format!("fetch-{slice}"), command)
    };
    let (mine, others) = (fetch(SLICE, PORTS[0])?, fetch(OTHER, PORTS[1])?);
    let all = number * THREADS;
    for (who, mut fetching) in [(SLICE, mine), (OTHER, others)] {
        while fetching.ended()?.is_none() {
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = fetching.output();
        ensure!(said.trim() == all.to_string(), "{who} fetched: {said}");
    }
    let seen = |port: u16| -> Result<usize> {
        let line = format!("tcpdump -n -r {FILE} src port {port} 2>/dev/null | wc -l");
        let said = site.must(&["exec", SLICE, "--", "sh", "-c", &line])?;
        said.trim().parse().context("a number of lines")
    };
    // The kernel hands over a block of the ring when it is full, or a second
    // later.
    std::thread::sleep(Duration::from_secs(3));
    capture.signal(rustix::process::Signal::INT)?;
    until("tcpdump has told", || {
        Ok(capture.output().contains("dropped by kernel"))
    })?;
    let told = capture.output();
    ensure!(
        told.contains("\n0 packets dropped by kernel"),
        "tcpdump lost some: {told}"
    );
    for (port, expected) in PORTS.into_iter().zip([all, 0]) {
        let seen = seen(port)?;
        ensure!(
            seen == expected,
            "{seen} of {expected} from port {port}: {told}"
        );
    }
    python(&site, SLICE, &format!("import os\nos.remove('{FILE}')"))?;
    server.finish()?;
    Ok(())
}
