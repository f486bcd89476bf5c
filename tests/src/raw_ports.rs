//! Ports on which slices speak TCP and UDP themselves because policy says so:
//! the kernel is quiet there without a claim.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::{GAMMA4, NODE, OUTSIDE, Stage};

pub const TESTS: &[Test] = &[test(
    "the_kernel_is_quiet_on_raw_ports_of_policy_for_as_long_as_policy_says",
    the_kernel_is_quiet_on_raw_ports_of_policy,
)
.within(60)
.on_stage()];

const SLICE: &str = "eta";
const WIRE: &str = include_str!("raw/wire.py");
const PORT: &str = include_str!("raw/port.py");

/// What one hears from outside who knocks at ports of these hosts.
const KNOCK: &str = include_str!("raw/knock.py");

/// What is heard at TCP and UDP port 8201, over the first host and then the
/// second.
fn knock(node: &Node, hosts: [String; 2]) -> Result<String> {
    let text = [WIRE, KNOCK].join("\n");
    let words = ["netns", "exec", OUTSIDE, "python3", "-c", &text, "8201"];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let said = node.must("ip", &[&words[..], &hosts].concat())?.stdout;
    Ok(said.trim().to_owned())
}

fn the_kernel_is_quiet_on_raw_ports_of_policy(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let stage = Stage::open(node)?;
    let shared = || NODE.map(|address| address.to_string());
    let quiet = "silence silence silence silence";
    let answers = "refused refused refused refused";
    // Before any program of the slice runs.
    let heard = knock(node, shared())?;
    ensure!(heard == quiet, "at first: {heard}");
    let shown = site.must(&["ports", "--slice", SLICE])?;
    let raw = shown.lines().filter(|line| line.contains("reserved, raw"));
    ensure!(raw.count() == 2, "shown: {shown}");
    speaks_without_a_claim(&site)?;

    let ordinary = |text: &str| text.replace("ports.raw_", "# ");
    stage.with_policy(SLICE, ordinary, || {
        let heard = knock(node, shared())?;
        ensure!(heard == answers, "taken away: {heard}");
        Ok(())
    })?;
    let heard = knock(node, shared())?;
    ensure!(heard == quiet, "given back: {heard}");

    // At an address of the slice's own, and no longer at those of others.
    let own = |text: &str| format!("address.ipv4 = \"{GAMMA4}\"\n{text}");
    let none = |_: &str| String::new();
    stage.with_policy("gamma4", none, || {
        stage.with_policy(SLICE, own, || {
            let heard = knock(node, [GAMMA4.to_string(), GAMMA4.to_string()])?;
            ensure!(heard == quiet, "at an address of its own: {heard}");
            Ok(())
        })
    })
}

/// A handshake with a server outside from the raw port, which nobody claimed.
fn speaks_without_a_claim(site: &Site<'_>) -> Result<()> {
    const SERVE: &str = r"
import socket
server = socket.create_server(('', 9802), family=socket.AF_INET6, dualstack_ipv6=True)
print('serving', flush=True)
for number in range(2):
    accepted, peer = server.accept()
    accepted.settimeout(20)
    print('heard', accepted.recv(100).decode(), peer[1], flush=True)
";
    const SPEAK: &str = r"
for family, here, there in ((2, HERE4, THERE4), (10, HERE6, THERE6)):
    print(speak(family, here, 8201, there, 9802, b'hello', claims=False))
";
    let mut serve = Command::new("ip");
    serve.args(["netns", "exec", OUTSIDE, "python3", "-c", SERVE]);
    let server = site.start("server", serve)?;
    until("the other end serves", || {
        Ok(server.output().contains("serving"))
    })?;
    site.must(&["start", SLICE])?;
    let text = [WIRE, PORT, SPEAK].join("\n");
    let said = site.must(&["exec", SLICE, "--", "python3", "-c", &text])?;
    ensure!(said.trim() == "True\nTrue", "spoke: {said}");
    until("the server hears", || {
        Ok(server.output().matches("heard hello 8201").count() == 2)
    })
    .with_context(|| format!("the server said: {}", server.output()))
}
