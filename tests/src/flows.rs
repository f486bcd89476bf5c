//! Who sent what to whom: a row per flow, exact, whatever else goes on.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::Node;
use crate::puppet::Kind;
use crate::runner::{Test, test};
use crate::stage::{NODE, PEER, POLICY, Stage, Sysctl, at};

pub const TESTS: &[Test] = &[
    test(
        "who_sent_what_to_whom_is_told_to_the_packet_and_byte",
        exact,
    )
    .on_stage(),
    test("an_abuse_complaint_is_answered_by_one_command", complaint)
        .once()
        .on_stage(),
    test(
        "a_slice_that_floods_flows_pushes_no_row_of_another_out",
        flood,
    )
    .on_stage(),
    test(
        "a_daemon_that_is_killed_loses_no_flow_and_counts_none_twice",
        killed,
    )
    .once()
    .on_stage(),
];

/// Rows that a slice of the stage has in a generation.
const ROWS: u64 = 8192;

/// What `slice flows` answers.
fn flows(node: &Node, words: &[&str]) -> Result<Value> {
    let words = [&["flows", "-o", "json", "--limit", "1000000"], words].concat();
    let answer = node.must("slice", &words)?.stdout;
    serde_json::from_str(&answer).context("understand slice flows")
}

/// Packets and bytes, sent and received.
type Sums = [u64; 4];

fn volumes(value: &Value) -> Result<Sums> {
    let mut sums = [0; 4];
    let paths = [
        "/sent/packets",
        "/sent/bytes",
        "/received/packets",
        "/received/bytes",
    ];
    for (sum, path) in sums.iter_mut().zip(paths) {
        *sum = value
            .pointer(path)
            .and_then(Value::as_u64)
            .with_context(|| format!("no {path} in {value}"))?;
    }
    Ok(sums)
}

/// What an owner exchanged by all rows and beside them, with others and inside.
fn by_flows(answer: &Value, owner: &str) -> Result<[Sums; 2]> {
    let mut sums = [[0; 4]; 2];
    let mut add = |inside: usize, value: &Value| -> Result<()> {
        for (sum, one) in sums[inside].iter_mut().zip(volumes(value)?) {
            *sum += one;
        }
        Ok(())
    };
    let of_owner = |value: &&Value| value["slice"]["name"] == owner;
    for flow in answer["flows"]
        .as_array()
        .context("no flows")?
        .iter()
        .filter(of_owner)
    {
        add(usize::from(flow["inside"] == true), flow)?;
    }
    for other in answer["others"]
        .as_array()
        .context("no others")?
        .iter()
        .filter(of_owner)
    {
        add(0, &other["external"])?;
        add(1, &other["loopback"])?;
    }
    Ok(sums)
}

/// The same by the buckets of the owner.
fn by_buckets(node: &Node, owner: &str) -> Result<[Sums; 2]> {
    let status = node.must("slice", &["status", "-o", "json", owner])?.stdout;
    let status: Value = serde_json::from_str(&status)?;
    let row = &status["rows"][0];
    Ok([volumes(&row["external"])?, volumes(&row["loopback"])?])
}

/// Does something, and checks that rows and buckets moved alike meanwhile.
fn alike(node: &Node, owners: &[&str], act: impl FnOnce() -> Result<()>) -> Result<()> {
    let both = || -> Result<BTreeMap<String, [[Sums; 2]; 2]>> {
        let answer = flows(node, &[])?;
        let of = |owner: &&str| {
            let sums = [by_flows(&answer, owner)?, by_buckets(node, owner)?];
            Ok(((*owner).to_owned(), sums))
        };
        owners.iter().map(of).collect()
    };
    let before = both()?;
    act()?;
    let after = both()?;
    for (owner, now) in &after {
        let moved = |which: usize| {
            let mut sums = now[which];
            for (inside, sums) in sums.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum -= before[owner][which][inside][at];
                }
            }
            sums
        };
        ensure!(
            moved(0) == moved(1),
            "{owner}: rows moved by {:?}, buckets by {:?}",
            moved(0),
            moved(1)
        );
        ensure!(moved(1) != [[0; 4]; 2], "{owner}: nothing moved");
    }
    Ok(())
}

/// The one row that is so, and what it says was exchanged.
fn one(node: &Node, peer: SocketAddr, protocol: &str) -> Result<(String, Sums)> {
    let (address, port) = (peer.ip().to_string(), peer.port().to_string());
    let words = ["--peer", &address, "--port", &port, "--protocol", protocol];
    let answer = flows(node, &words)?;
    let rows = answer["flows"].as_array().context("no flows")?;
    ensure!(rows.len() == 1, "{peer} {protocol}: {answer}");
    let owner = rows[0]["slice"]["name"].as_str().context("no name")?;
    Ok((owner.to_owned(), volumes(&rows[0])?))
}

/// Bytes of the IP and UDP headers.
const fn udp_headers(address: IpAddr) -> u64 {
    if address.is_ipv4() { 28 } else { 48 }
}

fn exact(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta, root) = (stage.slice("alpha")?, stage.slice("beta")?, stage.node()?);
    let outside = stage.outside()?;
    let _range = Sysctl::set("net.ipv4.ping_group_range", "0 2147483647")?;
    alike(stage.machine(), &["alpha", "beta", "node"], || {
        for family in [0, 1] {
            let (peer, here) = (PEER[family], NODE[family]);
            let kind = Kind::udp_for(peer);
            let near = alpha.server(kind, 8070)?;
            let far = outside.server_at(kind, at(peer, 9070))?;
            for _ in 0..10 {
                near.send_to(100, at(peer, 9070))?;
                far.receive()?;
            }
            for _ in 0..5 {
                far.send_to(200, at(here, 8070))?;
                near.receive()?;
            }
            let machine = stage.machine();
            let text = peer.to_string();
            let ping = ["run", "alpha", "--", "ping", "-c", "2", "-i", "0.2", &text];
            machine.must("slice", &ping)?;
            let protocol = if peer.is_ipv4() { "icmp" } else { "icmpv6" };
            let pinged = flows(
                machine,
                &["--slice", "alpha", "--peer", &text, "--protocol", protocol],
            )?;
            let bytes = 56 + udp_headers(peer);
            for (kind, expected) in [
                ([8, 128][family], [2, 2 * bytes, 0, 0]),
                ([0, 129][family], [0, 0, 2, 2 * bytes]),
            ] {
                let mut rows = pinged["flows"].as_array().into_iter().flatten();
                let row = rows.find(|row| row["icmp_type"] == kind);
                let found = volumes(row.with_context(|| pinged.to_string())?)?;
                ensure!(found == expected, "{pinged}");
            }
            let headers = udp_headers(peer);
            let expected = [10, 10 * (100 + headers), 5, 5 * (200 + headers)];
            let found = one(stage.machine(), at(peer, 9070), "udp")?;
            ensure!(found == ("alpha".into(), expected), "{found:?}");

            let listener = outside.server(Kind::tcp_for(peer), 9071)?;
            for (puppet, times) in [(&beta, 20), (&root, 3)] {
                let client = puppet.connected(at(peer, 9071))?;
                let accepted = listener.accept()?;
                for _ in 0..times {
                    client.send(2000)?;
                    accepted.receive()?;
                }
                accepted.close();
                ensure!(client.receive()?.0 == 0, "closed");
            }
            // Two slices inside the node: each has its side.
            let near = beta.server(kind, 9072)?;
            near.send_to(50, at(here, 8070))?;
            let found = flows(
                stage.machine(),
                &["--local-port", "9072", "--slice", "beta"],
            )?;
            let row = &found["flows"][family];
            ensure!(row["inside"] == true, "{found}");
        }
        Ok(())
    })
}

fn complaint(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    alpha.socket(Kind::Udp4)?.send_to(10, at(PEER[0], 9073))?;
    beta.socket(Kind::Udp4)?.send_to(10, at(PEER[0], 9074))?;
    let ask = |words: &[&str]| -> Result<String> {
        let words = [&["flows", "-q"], words].concat();
        Ok(stage.machine().must("slice", &words)?.stdout)
    };
    let peer = PEER[0].to_string();
    let said = ask(&["--peer", &peer, "--port", "9073", "--since", "10 min"])?;
    let rows: Vec<_> = said.lines().filter(|line| line.contains(":9073")).collect();
    ensure!(rows.len() == 1 && rows[0].starts_with("alpha"), "{said}");
    ensure!(!said.contains(":9074"), "{said}");
    for other in [
        ["--port", "9073", "--until", "10 min"],
        ["--port", "9073", "--protocol", "tcp"],
        ["--port", "9073", "--slice", "beta"],
        ["--port", "9073", "--peer", "192.0.2.0/24"],
    ] {
        let said = ask(&other)?;
        ensure!(!said.contains(":9073"), "{other:?}: {said}");
    }
    Ok(())
}

fn flood(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let machine = stage.machine();
    let others = |answer: &Value, owner: &str| -> u64 {
        let others = answer["others"].as_array().into_iter().flatten();
        others
            .filter(|other| other["slice"]["name"] == owner)
            .filter_map(|other| other["external"]["sent"]["packets"].as_u64())
            .sum()
    };
    let before = others(&flows(machine, &[])?, "alpha");
    let quiet = alpha.socket(Kind::Udp4)?;
    quiet.send_to(10, at(PEER[0], 9075))?;
    alike(machine, &["alpha", "beta"], || {
        let many = 20_000;
        beta.socket(Kind::Udp4)?.spray(at(PEER[0], 20_000), many)?;
        let answer = flows(
            machine,
            &["--slice", "beta", "--peer", &PEER[0].to_string()],
        )?;
        let rows = answer["flows"].as_array().map_or(0, Vec::len) as u64;
        let beside = others(&answer, "beta");
        ensure!(
            beside > 0 && rows + beside >= u64::from(many),
            "{rows} rows, {beside} beside"
        );
        ensure!(rows >= ROWS / 2, "{rows} rows");
        // A neighbour's are there, and new ones have room.
        quiet.send_to(10, at(PEER[0], 9075))?;
        alpha.socket(Kind::Udp4)?.send_to(10, at(PEER[0], 9076))?;
        let found = one(machine, at(PEER[0], 9075), "udp")?;
        ensure!(found == ("alpha".into(), [2, 76, 0, 0]), "{found:?}");
        let found = one(machine, at(PEER[0], 9076), "udp")?;
        ensure!(found == ("alpha".into(), [1, 38, 0, 0]), "{found:?}");
        let after = others(&flows(machine, &[])?, "alpha");
        ensure!(after == before, "alpha had no room");
        Ok(())
    })
}

/// The daemon, on the stage.
fn daemon() -> Result<Child> {
    let mut command = Command::new("slice");
    command.args(["daemon", "--policy", POLICY]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the daemon")
}

fn killed(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let (alpha, beta) = (stage.slice("alpha")?, stage.slice("beta")?);
    let machine = stage.machine();
    let socket = alpha.socket(Kind::Udp4)?;
    let sprayer = beta.socket(Kind::Udp4)?;
    alike(machine, &["alpha", "beta"], || {
        for round in 0..3 {
            let mut daemon = daemon()?;
            for _ in 0..5 {
                socket.send_to(10, at(PEER[0], 9077))?;
                // More in all than a generation has room for.
                sprayer.spray(at(PEER[0], 20_000), 2_000)?;
                std::thread::sleep(Duration::from_millis(300 + 170 * round));
            }
            // SIGKILL, at whatever it was.
            daemon.kill()?;
            daemon.wait()?;
            socket.send_to(10, at(PEER[0], 9077))?;
        }
        let found = one(machine, at(PEER[0], 9077), "udp")?;
        ensure!(found == ("alpha".into(), [18, 18 * 38, 0, 0]), "{found:?}");
        Ok(())
    })?;
    // What is kept is root's alone, and told with nothing but the database, too.
    let kept = Path::new("/var/lib/slice/flows");
    let mode = fs::metadata(kept)?.permissions().mode();
    ensure!(mode & 0o77 == 0, "{mode:o}");
    let size = fs::metadata(kept.join("flows.db"))?.len();
    ensure!(size > 0, "nothing was kept");
    Ok(())
}
