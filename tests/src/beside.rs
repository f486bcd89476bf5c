//! Others at work in the same kernel: a firewall, and NAT chains and a bridge
//! as container engines make them. They keep working, and so do our rules.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::beyond::{Beyond, NODE, PEER};
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};

pub const TESTS: &[Test] = &[test(
    "a_firewall_and_containers_behind_nat_keep_working_beside_slices",
    a_firewall_and_containers_behind_nat_keep_working_beside_slices,
)
.within(90)];

const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 8\n"),
    ("slices/alpha.toml", "ports.tcp = [80, 8081]\n"),
    ("slices/beta.toml", ""),
];

/// A bridge with one container behind it.
const CONTAINER: &[&str] = &[
    "netns add box",
    "link add box0 type bridge",
    "addr add 172.17.0.1/16 dev box0",
    "link set box0 up",
    "link add box1 type veth peer name eth0 netns box",
    "link set box1 master box0",
    "link set box1 up",
    "-n box link set lo up",
    "-n box addr add 172.17.0.2/16 dev eth0",
    "-n box link set eth0 up",
    "-n box route add default via 172.17.0.1",
];

/// What a container engine writes to publish port 8088, and an administrator's
/// firewall.
const RULES: &str = "\
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
    chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != box0 masquerade; }
    chain DOCKER { iifname box0 return; tcp dport 8088 dnat to 172.17.0.2:80; }
}
table inet firewall {
    chain input { type filter hook input priority filter; tcp dport 8081 counter drop; }
    chain output { type filter hook output priority filter; tcp dport 8082 counter reject with tcp reset; }
}
";

fn a_firewall_and_containers_behind_nat_keep_working_beside_slices(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?;
    let result = with_neighbours(node, &beyond);
    let _ = node.run("nft", &["flush", "ruleset"]);
    let _ = node.run("ip", &["link", "del", "box0"]);
    let _ = node.run("ip", &["netns", "del", "box"]);
    fs::write("/proc/sys/net/ipv4/ip_forward", forwarding)?;
    result
}

fn with_neighbours(node: &Node, beyond: &Beyond<'_>) -> Result<()> {
    for line in CONTAINER {
        node.must("ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let rules = node.dir().join("rules.nft");
    fs::write(&rules, RULES)?;
    node.must("nft", &["-f", rules.to_str().context("a path in UTF-8")?])?;
    let ruleset = || -> Result<String> { Ok(node.must("nft", &["-s", "list", "ruleset"])?.stdout) };
    let before = ruleset()?;

    let site = Site::up(node, POLICY)?;
    let serve = |name: &'static str, words: &str| -> Result<String> {
        let page = node.dir().join(name);
        fs::create_dir_all(&page)?;
        fs::write(page.join("index.html"), words)?;
        Ok(page.to_str().context("a path in UTF-8")?.to_owned())
    };
    let (box_page, alpha_page, far_page) = (
        serve("box", "the container")?,
        serve("alpha", "alpha")?,
        serve("far", "far away")?,
    );
    let python = |port: &'static str, page: &str| {
        ["python3", "-m", "http.server", port, "-d", page].map(str::to_owned)
    };
    let words = |owned: &'static [&'static str], more: &[String]| -> Vec<String> {
        owned
            .iter()
            .map(|word| (*word).to_owned())
            .chain(more.iter().cloned())
            .collect()
    };
    let mut running = Vec::new();
    for (log, line) in [
        (
            "box.log",
            words(&["ip", "netns", "exec", "box"], &python("80", &box_page)),
        ),
        (
            "far.log",
            words(&["ip", "netns", "exec", "beyond"], &python("80", &far_page)),
        ),
        (
            "alpha.log",
            words(&["slice", "run", "alpha", "--"], &python("80", &alpha_page)),
        ),
        (
            "alpha2.log",
            words(
                &["slice", "run", "alpha", "--"],
                &python("8081", &alpha_page),
            ),
        ),
    ] {
        let mut command = std::process::Command::new(&line[0]);
        command.args(&line[1..]);
        running.push(site.start(log, command)?);
    }
    let in_box = |command: &[&str]| node.run("ip", &[&["netns", "exec", "box"], command].concat());
    until("all serve", || {
        let here = node.must("ss", &["-Hltn"])?.stdout;
        let there = in_box(&["ss", "-Hltn"])?.stdout + &beyond.run(&["ss", "-Hltn"])?.stdout;
        Ok(here.contains(":80 ") && here.contains(":8081 ") && there.matches(":80 ").count() == 2)
    })?;

    let before_traffic = site.counters()?;
    // The published port: from another machine, from the node, from a slice.
    let published = format!("http://{}:8088/", NODE[0]);
    ensure!(
        beyond.fetch(&published)? == "the container",
        "the published port from outside"
    );
    let curl = ["curl", "-sS", "--max-time", "10"];
    ensure!(
        node.must(curl[0], &[&curl[1..], &[&published]].concat())?
            .stdout
            == "the container",
        "from the node"
    );
    let from_beta = site.run_in("beta", &[&curl[..], &[&published]].concat())?;
    ensure!(
        from_beta.stdout == "the container",
        "from a slice: {}",
        from_beta.stderr
    );
    let direct = site.run_in("beta", &[&curl[..], &["http://172.17.0.2/"]].concat())?;
    ensure!(
        direct.stdout == "the container",
        "over the bridge: {}",
        direct.stderr
    );
    // The container out into the world, behind the node's address, and to a slice.
    let far = in_box(&[&curl[..], &[&format!("http://{}/", PEER[0])]].concat())?;
    ensure!(
        far.stdout == "far away",
        "out of the container: {}",
        far.stderr
    );
    let to_alpha = in_box(&[&curl[..], &[&format!("http://{}/", NODE[0])]].concat())?;
    ensure!(
        to_alpha.stdout == "alpha",
        "from the container to a slice: {}",
        to_alpha.stderr
    );
    let denials = site.counters()?.since(&before_traffic).denials();
    ensure!(denials.is_empty(), "denied: {denials}");

    // The firewall still has the last word on what we allow.
    ensure!(
        beyond.fetch(&format!("http://{}/", NODE[0]))? == "alpha",
        "alpha's open port"
    );
    let closed = beyond.run(&[
        "curl",
        "-sS",
        "--max-time",
        "2",
        &format!("http://{}:8081/", NODE[0]),
    ])?;
    ensure!(
        closed.status == 28,
        "the closed port ended with {}: {}",
        closed.status,
        closed.stderr
    );
    let reset = site.run_in(
        "beta",
        &[&curl[..], &[&format!("http://{}:8082/", PEER[0])]].concat(),
    )?;
    ensure!(
        reset.status == 7,
        "the refused port ended with {}",
        reset.status
    );
    // And we on what it allows.
    let stolen = site.run_in("beta", &["python3", "-m", "http.server", "80"])?;
    ensure!(
        stolen.stderr.contains("Address already in use"),
        "beta on port 80: {}",
        stolen.stderr
    );
    let forged = site.run_in("beta", &["python3", "-c", FORGE])?;
    ensure!(
        forged.stderr.contains("Operation not permitted"),
        "beta's forged packet: {}",
        forged.stderr
    );
    ensure!(beyond.forbidden()? == 0, "it arrived");

    ensure!(ruleset()? == before, "the ruleset changed");
    site.must(&["down"])?;
    ensure!(ruleset()? == before, "the ruleset changed with down");
    ensure!(
        beyond.fetch(&published)? == "the container",
        "the published port after down"
    );
    Ok(())
}

const FORGE: &str = "
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(('::1', 0)); s.connect(('2001:db8::2', 9)); s.send(b'x')
";
