//! What slices are told of the node by /run/slice/status.sock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::beyond::Beyond;
use crate::image;
use crate::node::Node;
use crate::openmetrics;
use crate::raw::python;
use crate::runner::{Test, test, time_scale};
use crate::site::{Running, Site, until};
use crate::stage::Stage;

pub const TESTS: &[Test] = &[
    test(
        "a_slice_is_told_of_itself_alone_whatever_it_asks",
        a_slice_is_told_of_itself_alone,
    )
    .on_stage(),
    test(
        "a_management_slice_is_told_of_all_while_it_has_the_grant",
        a_management_slice_is_told_of_all,
    )
    .on_stage(),
    test(
        "a_slice_that_floods_its_status_socket_holds_up_no_other",
        a_slice_that_floods,
    )
    .once()
    .on_stage(),
    test(
        "a_slice_that_hands_over_what_is_closed_slowly_holds_up_no_other",
        a_slice_that_hands_over,
    )
    .once()
    .on_stage(),
    test(
        "the_status_hooks_come_again_when_the_daemon_or_who_parses_for_it_is_killed",
        the_daemon_or_who_parses_is_killed,
    )
    .on_stage(),
    prometheus::TEST,
    events::TEST,
    flows::TEST,
    page::TEST,
    control::TEST,
    control::killed::TEST,
    test(
        "a_slice_is_told_of_averages_as_it_may_see_and_as_old_as_it_likes",
        a_slice_is_told_of_averages,
    )
    .once()
    .on_stage(),
    test(
        "a_slice_is_told_of_its_part_of_links_and_with_the_grant_of_all",
        a_slice_is_told_of_its_part_of_links,
    )
    .once(),
];

mod control; // slices that one makes
mod events; // as they happen
mod flows; // who sent what to whom, and what holds
mod history; // of links
mod page; // the page of the node
mod prometheus; // a real one, in a slice

const CLIENT: &str = include_str!("status_hooks/client.py");
const LINGER: &str = include_str!("status_hooks/linger.py");
const FLOOD: &str = include_str!("status_hooks/flood.py");

/// Without the grant.
const SLICE: &str = "epsilon";
/// Has it while a test says so.
const MANAGER: &str = "delta";

/// The user that the process has which parses for the daemon.
pub const PARSER: &str = "4293939662";

/// What was answered: status, type, body.
struct Told {
    status: u64,
    kind: String,
    body: String,
}

impl Told {
    fn json(&self) -> Result<Value> {
        ensure!(self.status == 200, "{}: {}", self.status, self.body);
        ensure!(self.kind == "application/json", "it is {}", self.kind);
        Ok(serde_json::from_str(&self.body)?)
    }
}

fn open(node: &Node) -> Result<(Site<'_>, Running)> {
    let site = Site::on_stage(node)?;
    site.must(&["start", SLICE, MANAGER])?;
    let daemon = site.daemon()?;
    for slice in [SLICE, MANAGER] {
        served(&site, slice)?;
    }
    Ok((site, daemon))
}

fn served(site: &Site<'_>, slice: &str) -> Result<()> {
    let mut last = String::new();
    until(&format!("{slice} is answered"), || {
        let told = get(site, slice, "/v1/node")?;
        last = format!("{} {} {}", told.status, told.kind, told.body);
        Ok(told.status == 200)
    })
    .with_context(|| format!("the last answer: {last}"))
}

/// Sends each of these as a slice.
fn ask(site: &Site<'_>, slice: &str, requests: &[String]) -> Result<Vec<Told>> {
    let requests = serde_json::to_string(requests)?;
    let words = ["exec", slice, "--", "python3", "-c", CLIENT, &requests];
    let answers: Vec<(u64, String, String)> = serde_json::from_str(&site.must(&words)?)?;
    let told = |(status, kind, body)| Told { status, kind, body };
    Ok(answers.into_iter().map(told).collect())
}

fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: slice\r\nConnection: close\r\n{headers}\r\n")
}

fn get(site: &Site<'_>, slice: &str, path: &str) -> Result<Told> {
    let told = ask(site, slice, &[request(&format!("GET {path}"), "")])?;
    told.into_iter().next().context("no answer")
}

/// The names of all rows of the node.
fn names(site: &Site<'_>) -> Result<BTreeSet<String>> {
    names_of(&site.json(&["status"])?)
}

fn names_of(document: &Value) -> Result<BTreeSet<String>> {
    let rows = document["rows"].as_array().context("no rows")?;
    let name = |row: &Value| Ok(row["name"].as_str().context("no name")?.to_owned());
    rows.iter().map(name).collect()
}

fn a_slice_is_told_of_itself_alone(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    // So that there is something to tell of others.
    site.run_in(
        "alpha",
        &[
            "python3",
            "-c",
            "import socket; socket.socket().bind(('', 2222))",
        ],
    )?;
    let long = format!("X-Long: {}\r\n", "x".repeat(9_000));
    let attempts = [
        ("GET /v1/slices", "", 200),
        ("GET /v1/node", "", 200),
        ("GET /v1/ports", "", 200),
        ("GET /slicestat", "", 200),
        ("GET /slicestat", "max-age: 600\r\n", 200),
        ("GET /v1/links", "", 200),
        ("GET /v1/links/history?slice=delta&limit=1000", "", 400),
        ("GET /v1/links/history?limit=x", "", 400),
        ("GET /v1/drops", "", 200),
        ("GET /metrics", "", 200),
        ("HEAD /v1/slices", "", 200),
        ("GET /v1/slices/epsilon", "", 200),
        ("GET /v1/slices/delta", "", 404),
        ("GET /v1/slices/no_such_slice", "", 404),
        ("GET /v1/slices/node", "", 404),
        ("GET /v1/slices/unattributed", "", 404),
        ("GET /v1/slices/epsilon/../delta", "", 404),
        ("GET /v1/slices/%64elta", "", 404),
        ("GET /v1/slices?slice=delta&grants=status", "", 400),
        ("GET /v1/ports?slice=delta", "", 200),
        ("GET http://delta/v1/slices", "", 200),
        (
            "GET /v1/slices",
            "Host: delta\r\nX-Slice: delta\r\nAuthorization: Bearer status\r\n",
            200,
        ),
        (
            "GET /v1/slices",
            "X-Slice: delta\r\nForwarded: for=delta\r\n",
            200,
        ),
        ("POST /v1/slices", "Content-Length: 2\r\n\r\n{}", 403),
        ("PUT /v1/slices/epsilon", "", 403),
        ("DELETE /v1/slices/delta", "", 403),
        ("POST /v1/slices/epsilon/stop", "", 403),
        ("GET /v1/control", "", 403),
        ("PUT /v1/slices", "", 405),
        ("POST /v1/reload", "", 404),
        ("POST /", "", 405),
        // Names that a browser elsewhere may have been told of this machine.
        ("GET /v1/slices", "Host: delta.example\r\n", 421),
        ("GET http://delta.example/v1/slices", "", 421),
        ("GET /v1/status", "", 404),
        ("GET /v1/slices", &long, 431),
        ("no request", "", 404),
        ("GET", "", 400),
    ];
    let requests = attempts.map(|(line, headers, _)| request(line, headers));
    // Fewer at once than a slice may ask.
    let mut told = Vec::new();
    for some in requests.chunks(20) {
        told.extend(ask(&site, SLICE, some)?);
        sleep(Duration::from_secs(1));
    }
    let mut others = names(&site)?;
    others.remove(SLICE);
    ensure!(
        others.contains(MANAGER) && others.contains("alpha"),
        "{others:?}"
    );
    for ((line, _, status), told) in attempts.iter().zip(&told) {
        ensure!(
            told.status == *status,
            "{line}: {} {}",
            told.status,
            told.body
        );
        // The machine's own name, which it shares with a row here.
        let body = told
            .body
            .replace("\"name\":\"node\",\"kernel\"", "")
            .replace("name=\"node\",kernel", "");
        for name in &others {
            ensure!(
                !body.contains(&format!("\"{name}\"")),
                "{line} told of {name}: {}",
                told.body
            );
        }
    }
    let answer = |line: &str| {
        let place = attempts.iter().position(|(other, ..)| *other == line);
        place.map(|place| &told[place]).context("not asked")
    };
    let stranger = answer("GET /v1/slices/delta")?;
    let nobody = answer("GET /v1/slices/no_such_slice")?;
    ensure!(
        stranger.body == nobody.body,
        "{} is not {}",
        stranger.body,
        nobody.body
    );
    ensure!(
        stranger.kind == "application/problem+json",
        "{}",
        stranger.kind
    );
    let rows = answer("GET /v1/slices")?.json()?;
    ensure!(
        names_of(&rows)? == BTreeSet::from([SLICE.to_owned()]),
        "{rows}"
    );
    let row = site.json(&["status", SLICE])?["rows"][0].take();
    ensure!(
        rows["rows"][0]["sockets"]["limit"] == row["sockets"]["limit"],
        "{rows}"
    );
    let about = answer("GET /v1/node")?;
    ensure!(about.json()?["slices"].is_null(), "{}", about.body);
    openmetrics::read(&answer("GET /metrics")?.body)?;

    // Any user of the slice; nobody can take the socket's place.
    const TRY: &str = r"
import os
for act in (lambda: os.unlink(PATH), lambda: os.rename(PATH, PATH + '2'), lambda: open('/run/slice/x', 'w')):
    try:
        act()
        print('done')
    except OSError as error:
        print(error.errno, end=' ')
print(get('/v1/slices')[0])
";
    let text = format!("{CLIENT}\n{TRY}");
    for user in ["root", "nobody"] {
        let words = ["exec", "--user", user, SLICE, "--", "python3", "-c", &text];
        let said = site.must(&words)?;
        ensure!(said.trim() == "30 30 30 200", "as {user}: {said}");
    }
    Ok(())
}

fn a_management_slice_is_told_of_all(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    let stage = Stage::open(node)?;
    let own = BTreeSet::from([MANAGER.to_owned()]);
    let told_of = || names_of(&get(&site, MANAGER, "/v1/slices")?.json()?);
    let granted = |text: &str| format!("role = \"management\"\ngrants = [\"status\"]\n{text}");
    stage.with_policy(MANAGER, granted, || {
        // The context that runs is the same: a grant holds at once.
        let all = names(&site)?;
        until("it is told of all", || Ok(told_of()? == all))?;
        let paths = [
            "/v1/node",
            "/v1/ports",
            "/v1/drops",
            "/metrics",
            "/v1/slices/node",
            "/v1/slices/nobody",
        ];
        let requests = paths.map(|path| request(&format!("GET {path}"), ""));
        let told = ask(&site, MANAGER, &requests)?;
        let document = told[0].json()?;
        let rows = u64::try_from(all.len())?;
        ensure!(document["slices"]["usage"] == rows - 2, "{document}");
        ensure!(document["slices"]["limit"] == 32, "{document}");
        let ports = |document: &Value| {
            let ports = document["ports"].as_array().cloned().unwrap_or_default();
            let port = |port: &Value| format!("{} {}", port["owner"]["name"], port["low"]);
            ports.iter().map(port).collect::<BTreeSet<_>>()
        };
        let (there, expected) = (ports(&told[1].json()?), ports(&site.json(&["ports"])?));
        ensure!(there == expected, "{there:?}, not {expected:?}");
        ensure!(there.contains("\"alpha\" 80"), "{there:?}");

        let metrics = &told[3];
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ensure!(metrics.kind == kind, "{}", metrics.kind);
        let samples = openmetrics::read(&metrics.body)?;
        for name in &all {
            let series = format!("slice_sockets_opened_total{{slice=\"{name}\"}}");
            ensure!(samples.contains_key(&series), "no {series}");
        }
        // What is counted is what `slice status` counts.
        let limit = samples.get("slice_sockets_limit{slice=\"small\"}");
        ensure!(limit == Some(&4.0), "{limit:?}");
        ensure!(told[4].json()?["kind"] == "node", "{}", told[4].body);
        ensure!(told[5].status == 404, "{}", told[5].body);
        let curl = [
            "--unix-socket",
            "/run/slice/status.sock",
            "http://slice/v1/slices/alpha",
        ];
        let words = [&["exec", MANAGER, "--", "curl", "-sSf"], &curl[..]].concat();
        ensure!(site.must(&words)?.contains("\"alpha\""), "curl is not told");
        // Others are told no more for it.
        let theirs = names_of(&get(&site, SLICE, "/v1/slices")?.json()?)?;
        ensure!(theirs == BTreeSet::from([SLICE.to_owned()]), "{theirs:?}");
        Ok(())
    })?;
    until("it is told of itself alone", || Ok(told_of()? == own))
}

/// Asks for the table with these headers; its lines by name.
fn table(site: &Site<'_>, slice: &str, headers: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let told = ask(site, slice, &[request("GET /slicestat", headers)])?;
    let told = told.first().context("no answer")?;
    ensure!(told.status == 200, "{}: {}", told.status, told.body);
    ensure!(told.kind == "text/plain; charset=utf-8", "{}", told.kind);
    let line = |line: &str| {
        let fields: Vec<_> = line.split(',').map(str::to_owned).collect();
        ensure!(fields.len() == 15, "{line}");
        Ok((fields[0].clone(), fields))
    };
    told.body.lines().map(line).collect()
}

/// Owners on the one link.
fn on_link(link: &Value) -> Result<BTreeSet<String>> {
    ensure!(link["name"] == "wire1", "{link}");
    let rows = link["rows"].as_array().context("no rows")?;
    let name = |row: &Value| Ok(row["owner"]["name"].as_str().context("no name")?.to_owned());
    rows.iter().map(name).collect()
}

fn a_slice_is_told_of_averages(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    let stage = Stage::open(node)?;
    let granted = |text: &str| format!("role = \"management\"\ngrants = [\"status\"]\n{text}");
    stage.with_policy(MANAGER, granted, || {
        until("it is told of all", || {
            Ok(table(&site, MANAGER, "")?.len() > 1)
        })?;
        sleep(Duration::from_millis(1100));
        let first = table(&site, MANAGER, "")?;
        let slices: BTreeSet<_> = first.keys().cloned().collect();
        let mut expected = names(&site)?;
        expected.retain(|name| name != "node" && name != "unattributed");
        ensure!(slices == expected, "{slices:?}, not {expected:?}");
        const SEND: &str = "import socket\n\
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                for _ in range(100): sock.sendto(bytes(1400), ('198.51.100.2', 7))";
        python(&site, SLICE, SEND)?;
        sleep(Duration::from_millis(1100));
        // An old answer for who accepts it.
        let old = table(&site, MANAGER, "max-age: 600\r\n")?;
        ensure!(old == first, "{old:?}, not {first:?}");
        let new = table(&site, MANAGER, "")?;
        let sent =
            |table: &BTreeMap<String, Vec<String>>| -> Result<u64> { Ok(table[SLICE][7].parse()?) };
        let own = table(&site, SLICE, "max-age: 600\r\n")?;
        ensure!(sent(&new)? > sent(&first)?, "{new:?} {first:?}");
        ensure!(own.len() == 1 && sent(&own)? > sent(&first)?, "{own:?}");
        let row = &new[SLICE];
        let about = get(&site, MANAGER, "/v1/node")?.json()?;
        ensure!(about["addresses"][0] == *row[13], "{row:?} {about}");
        ensure!(
            row[4].parse::<u64>()? > 0 && row[6].parse::<u64>()? > 0,
            "{row:?}"
        );
        // Its own address, where it has one.
        ensure!(new["gamma"][13] == "198.51.100.10", "{:?}", new["gamma"]);
        Ok(())
    })
}

fn a_slice_is_told_of_its_part_of_links(node: &mut Node) -> Result<()> {
    let beyond = Beyond::open(node)?;
    image::debian(node)?;
    let context = "[context]\nimage = \"debian\"\nstop_after = \"0 s\"\n";
    let manager = format!("role = \"management\"\ngrants = [\"status\"]\n{context}");
    let site = Site::up(
        node,
        &[
            ("node.toml", "[links.wire1]\nrate = \"10 Mbit/s\"\n"),
            ("slices/delta.toml", &manager),
            ("slices/epsilon.toml", context),
        ],
    )?;
    site.must(&["start", SLICE, MANAGER])?;
    let daemon = site.daemon()?;
    for slice in [SLICE, MANAGER] {
        served(&site, slice)?;
    }
    let link = |slice| {
        let told = get(&site, slice, "/v1/links")?.json()?;
        on_link(&told["links"][0])
    };
    let all = on_link(&site.json(&["link"])?[0])?;
    ensure!(all.contains("node") && all.contains(SLICE), "{all:?}");
    let (theirs, own) = (link(MANAGER)?, link(SLICE)?);
    ensure!(theirs == all, "{theirs:?}, not {all:?}");
    ensure!(own == BTreeSet::from([SLICE.to_owned()]), "{own:?}");
    history::is_told(&site, &beyond)?;
    // What its slices wrote is not for those of later tests.
    site.must(&["destroy", "--yes", SLICE, MANAGER])?;
    drop((daemon, site, beyond));
    Ok(())
}

fn a_slice_that_floods(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    let mut command = Command::new("slice");
    let text = format!("{CLIENT}\n{FLOOD}");
    command.args(["exec", SLICE, "--", "python3", "-c", &text]);
    let flood = site.start("flood", command)?;
    for code in ["429", "503"] {
        until(&format!("it is told {code}"), || {
            Ok(flood.output().contains(code))
        })
        .with_context(|| flood.output())?;
    }
    // One program, so that the time is not that of starting it.
    const EACH: &str = r"
import time
longest = 0
for _ in range(8):
    start = time.monotonic()
    assert get('/v1/slices')[0] == 200
    longest = max(longest, time.monotonic() - start)
    time.sleep(0.2)
print(longest)
";
    let text = format!("{CLIENT}\n{EACH}");
    let longest: f64 = python(&site, MANAGER, &text)?.trim().parse()?;
    let most = Duration::from_secs(2 * time_scale());
    ensure!(longest < most.as_secs_f64(), "an answer took {longest} s");
    // The node's owner is not held up either.
    let start = Instant::now();
    site.must(&["events"])?;
    ensure!(start.elapsed() < most, "events took {:?}", start.elapsed());
    // Over, it is answered again.
    drop(flood);
    node.must("slice", &["stop", SLICE])?;
    node.must("slice", &["start", SLICE])?;
    served(&site, SLICE)
}

fn a_slice_that_hands_over(node: &mut Node) -> Result<()> {
    let (site, _daemon) = open(node)?;
    let mut command = Command::new("slice");
    let text = format!("{CLIENT}\n{LINGER}");
    command.args(["exec", SLICE, "--", "python3", "-c", &text]);
    let holder = site.start("holder", command)?;
    until("it has closed them", || {
        Ok(holder.output().contains("closed"))
    })
    .with_context(|| holder.output())?;
    served(&site, MANAGER)?;
    served(&site, SLICE)?;
    holder.finish().map(drop)
}

/// The process that parses for a daemon.
fn parser(daemon: &Running) -> Result<i32> {
    let pid = daemon.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let child = children.split_whitespace().next().context("no child")?;
    Ok(child.parse()?)
}

fn the_daemon_or_who_parses_is_killed(node: &mut Node) -> Result<()> {
    let (site, daemon) = open(node)?;
    let first = parser(&daemon)?;
    // It could not do much to the node.
    let status = fs::read_to_string(format!("/proc/{first}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        ensure!(
            field(name).as_deref() == Some("0000000000000000"),
            "{status}"
        );
    }
    ensure!(field("NoNewPrivs:").as_deref() == Some("1"), "{status}");
    ensure!(field("Seccomp:").as_deref() == Some("2"), "{status}");
    ensure!(field("Groups:").as_deref() == Some(""), "{status}");
    let user = field("Uid:").context("no user")?;
    ensure!(user == [PARSER; 4].join(" "), "{user}");

    let kill = |pid| {
        Ok::<_, anyhow::Error>(kill_process(
            Pid::from_raw(pid).context("a pid")?,
            Signal::KILL,
        )?)
    };
    kill(first)?;
    until("another parses", || {
        Ok(parser(&daemon).is_ok_and(|pid| pid != first))
    })?;
    for slice in [SLICE, MANAGER] {
        served(&site, slice)?;
    }

    let second = parser(&daemon)?;
    daemon.kill()?;
    until("who parsed has ended", || {
        Ok(!fs::exists(format!("/proc/{second}/cmdline"))?)
    })?;
    let told = get(&site, SLICE, "/v1/node")?;
    ensure!(
        told.kind == "ConnectionRefusedError",
        "{} {}",
        told.status,
        told.kind
    );
    let daemon = site.daemon()?;
    for slice in [SLICE, MANAGER] {
        served(&site, slice)?;
    }
    // One that starts while the daemon runs, and one that ends.
    site.must(&["stop", SLICE])?;
    ensure!(
        !fs::exists(format!("/run/slice/shown/{SLICE}"))?,
        "its socket is left"
    );
    site.must(&["start", SLICE])?;
    served(&site, SLICE)?;
    drop(daemon);
    Ok(())
}
