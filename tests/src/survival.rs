//! What happens to the daemon and to the programs is nobody's gain: under load,
//! killed or replaced, no forbidden packet passes, no counter goes back and no
//! process ends.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use rustix::process::Signal;
use serde_json::Value;

use crate::node::Node;
use crate::runner::{Test, test};
use crate::siege::{Ground, Siege};
use crate::site::{Site, until};

pub const TESTS: &[Test] = &[
    test(
        "a_killed_daemon_changes_no_verdict_and_the_next_adopts_everything",
        a_killed_daemon_changes_no_verdict_and_the_next_adopts_everything,
    )
    .within(120),
    test(
        "everything_but_events_works_without_a_daemon",
        everything_but_events_works_without_a_daemon,
    )
    .once(),
    test("there_is_one_daemon", there_is_one_daemon).once(),
    test(
        "a_daemon_that_is_asked_to_end_leaves_the_rules",
        a_daemon_that_is_asked_to_end_leaves_the_rules,
    )
    .once(),
    test(
        "programs_are_replaced_under_load_and_nothing_gets_through",
        programs_are_replaced_under_load_and_nothing_gets_through,
    )
    .within(120),
    test(
        "an_upgrade_to_another_layout_is_refused",
        an_upgrade_to_another_layout_is_refused,
    )
    .once(),
    test(
        "a_policy_changes_under_load_and_nothing_gets_through",
        a_policy_changes_under_load_and_nothing_gets_through,
    )
    .within(120)
    .long(),
];

/// How long each part of a siege is watched.
const A_WHILE: Duration = Duration::from_secs(2);

/// Reasons that a hammer is given again and again.
const HAMMERED: &[&str] = &[
    "port_reserved",
    "port_privileged",
    "address_foreign",
    "source_foreign",
    "destination",
];

/// Checks that the programs go on counting each thing the hammers try.
pub fn still_counting(siege: &mut Siege<'_>) -> Result<()> {
    for reason in HAMMERED {
        let name = format!("denials.{reason}");
        let before = siege.counters().get("beta", &name)?;
        until(&format!("{reason} is counted"), || {
            siege.look()?;
            Ok(siege.counters().get("beta", &name)? > before)
        })?;
    }
    Ok(())
}

fn a_killed_daemon_changes_no_verdict_and_the_next_adopts_everything(
    node: &mut Node,
) -> Result<()> {
    let ground = Ground::new(node)?;
    let mut siege = ground.siege()?;
    let daemon = siege.site.daemon()?;
    until("events flow", || {
        Ok(events(&siege.site)?
            .iter()
            .any(|event| event["slice"]["name"] == "beta"))
    })?;
    siege.endure(A_WHILE)?;
    let standing = ports(&siege.site)?;

    daemon.kill()?;
    let status = siege.site.must(&["status"])?;
    ensure!(
        status.contains("daemon not running"),
        "status says {status}"
    );
    siege.endure(A_WHILE)?;
    still_counting(&mut siege)?;
    siege.all_alive()?;

    let _daemon = siege.site.daemon()?;
    ensure!(
        siege.site.must(&["status"])?.contains("daemon running"),
        "the second daemon is not seen"
    );
    ensure!(ports(&siege.site)? == standing, "the ports changed");
    until("events flow again", || {
        Ok(events(&siege.site)?
            .iter()
            .any(|event| event["slice"]["name"] == "beta"))
    })?;
    siege.endure(A_WHILE)?;
    still_counting(&mut siege)?;
    siege.lift().map(drop)
}

/// The events that the daemon keeps.
fn events(site: &Site<'_>) -> Result<Vec<Value>> {
    let lines = site.must(&["events", "-o", "json"])?;
    let items = lines
        .lines()
        .map(serde_json::from_str::<Value>)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(items
        .into_iter()
        .filter_map(|mut item| item.get_mut("event").map(Value::take))
        .collect())
}

/// The ports that servers hold.
fn ports(site: &Site<'_>) -> Result<Vec<Value>> {
    let mut ports = site.json(&["ports", "--slice", "alpha"])?["ports"].take();
    for port in ports.as_array_mut().into_iter().flatten() {
        // Accepted connections come and go on the port, and the time is
        // reckoned back from two clocks.
        port["sockets"] = Value::Null;
        port["since"] = port["since"].is_string().into();
    }
    Ok(ports.as_array().context("slice ports lists none")?.clone())
}

fn everything_but_events_works_without_a_daemon(node: &mut Node) -> Result<()> {
    let site = Site::up(node, crate::siege::POLICY)?;
    let daemon = site.daemon()?;
    daemon.kill()?;
    for arguments in [
        &["up"][..],
        &["status"],
        &["ports"],
        &["doctor"],
        &["check"],
        &["reload"],
    ] {
        site.must(arguments)?;
    }
    ensure!(
        site.run_in("alpha", &["true"])?.status == 0,
        "alpha does not run"
    );
    let events = site.slice(&["events"])?;
    ensure!(
        events.status == 7,
        "events ended with {}: {}",
        events.status,
        events.stderr
    );
    ensure!(
        events.stderr.contains("slice daemon"),
        "it does not say what to do: {}",
        events.stderr
    );
    site.must(&["down"])?;
    // The killed daemon's socket is no reason to stay.
    ensure!(!fs::exists("/run/slice")?, "/run/slice is still there");
    Ok(())
}

fn there_is_one_daemon(node: &mut Node) -> Result<()> {
    let site = Site::up(node, crate::siege::POLICY)?;
    let mut daemon = site.daemon()?;
    let second = site.slice(&["daemon"])?;
    ensure!(second.status != 0, "a second daemon ran");
    let pid = daemon.pid().to_string();
    ensure!(
        second.stderr.contains(&pid),
        "it does not say which one runs: {}",
        second.stderr
    );
    ensure!(daemon.ended()?.is_none(), "the first daemon ended");
    ensure!(
        site.slice(&["events"])?.status == 0,
        "the first daemon does not answer"
    );
    Ok(())
}

fn a_daemon_that_is_asked_to_end_leaves_the_rules(node: &mut Node) -> Result<()> {
    let site = Site::up(node, crate::siege::POLICY)?;
    let mut daemon = site.daemon()?;
    daemon.signal(Signal::TERM)?;
    until("the daemon ends", || Ok(daemon.ended()?.is_some()))?;
    let status = daemon.ended()?.context("it has ended")?;
    ensure!(
        status.success(),
        "it ended with {status}: {}",
        daemon.output()
    );
    let denied = site.run_in("beta", &["python3", "-m", "http.server", "80"])?;
    ensure!(
        denied.stderr.contains("Address already in use"),
        "{}",
        denied.stderr
    );
    Ok(())
}

/// The program that each pinned link runs, by the link's name.
pub fn programs() -> Result<BTreeMap<String, u32>> {
    let mut programs = BTreeMap::new();
    let links = fs::read_dir("/sys/fs/bpf/slice/links")?;
    for entry in links.chain(fs::read_dir("/sys/fs/bpf/slice/views")?) {
        let path = entry?.path();
        let link = PinnedLink::from_pin(&path)
            .map(FdLink::from)
            .and_then(|link| link.info())
            .with_context(|| format!("ask about link {}", path.display()))?;
        let path = path.to_str().context("a path in UTF-8")?;
        programs.insert(path.to_owned(), link.program_id());
    }
    ensure!(!programs.is_empty(), "no links are pinned");
    Ok(programs)
}

/// Makes the node believe that other programs are attached than those that
/// `slice` carries: the next `up` replaces them all.
fn pretend_other_programs() -> Result<()> {
    const RECORD: &str = "/run/slice/node.json";
    let mut record: Value = serde_json::from_str(&fs::read_to_string(RECORD)?)?;
    ensure!(
        record["object"].as_u64().is_some(),
        "the record has no object"
    );
    record["object"] = 1.into();
    Ok(fs::write(RECORD, record.to_string())?)
}

fn programs_are_replaced_under_load_and_nothing_gets_through(node: &mut Node) -> Result<()> {
    let ground = Ground::new(node)?;
    let mut siege = ground.siege()?;
    siege.endure(A_WHILE)?;
    let standing = ports(&siege.site)?;
    for _ in 0..3 {
        let before = programs()?;
        pretend_other_programs()?;
        let said = siege.site.must(&["up"])?;
        ensure!(said.contains("were replaced"), "it says {said}");
        let after = programs()?;
        ensure!(after.keys().eq(before.keys()), "other links: {after:?}");
        let kept = after
            .iter()
            .filter(|(name, id)| before.get(*name) == Some(id));
        ensure!(
            kept.count() == 0,
            "programs of {before:?} still run in {after:?}"
        );
        ensure!(ports(&siege.site)? == standing, "the ports changed");
        siege.endure(Duration::ZERO)?;
    }
    still_counting(&mut siege)?;
    ensure!(
        siege.site.must(&["up"])?.contains("up already"),
        "it is replaced again and again"
    );
    siege.lift().map(drop)
}

fn an_upgrade_to_another_layout_is_refused(node: &mut Node) -> Result<()> {
    const SETTINGS: &str = "/sys/fs/bpf/slice/maps/SETTINGS";
    let site = Site::up(node, crate::siege::POLICY)?;
    let running = programs()?;
    let value = node.must(
        "bpftool",
        &[
            "-j", "map", "lookup", "pinned", SETTINGS, "key", "0", "0", "0", "0",
        ],
    )?;
    let value: Value = serde_json::from_str(&value.stdout)?;
    let mut bytes: Vec<String> = value["value"]
        .as_array()
        .context("no value")?
        .iter()
        .filter_map(|byte| byte.as_str().map(str::to_owned))
        .collect();
    ensure!(
        bytes.first().is_some_and(|version| version == "0x01"),
        "the layout's version is elsewhere: {bytes:?}"
    );
    "0x02".clone_into(&mut bytes[0]);
    let update = [
        "map", "update", "pinned", SETTINGS, "key", "0", "0", "0", "0", "value",
    ];
    let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
    node.must("bpftool", &[&update[..], &bytes].concat())?;
    for command in ["up", "reload", "status", "ports"] {
        let output = site.slice(&[command])?;
        ensure!(output.status == 1, "{command} ended with {}", output.status);
        ensure!(
            output.stderr.contains("layout"),
            "{command} says {}",
            output.stderr
        );
    }
    ensure!(programs()? == running, "programs were replaced");
    // What runs is still ruled, and there is a way out.
    site.must(&["down"])?;
    site.must(&["up"])?;
    Ok(())
}

/// Policies that a siege is moved between; what alpha, beta and the refused
/// port are stays, all else changes.
const CHANGES: &[&[(&str, Option<&str>)]] = &[
    &[
        (
            "slices/alpha.toml",
            Some("ports.tcp = [80, 5201, \"9000-9100\"]\nports.udp = [53]\n[cpu]\nshare = 3\n"),
        ),
        ("slices/gamma.toml", Some("ports.tcp = [\"7000-7400\"]\n")),
    ],
    &[
        (
            "slices/gamma.toml",
            Some("ports.tcp = [\"7100-7500\"]\nsockets = 100\n"),
        ),
        ("slices/delta.toml", Some("")),
        (
            "node.toml",
            Some(
                "[node]\nmax_slices = 16\n[[refuse]]\nto = [\"192.0.2.0/24\", \"2001:db8::/64\"]\nports = [7]\n[[refuse]]\nto = [\"198.51.100.0/24\"]\n",
            ),
        ),
    ],
    &[
        ("slices/gamma.toml", None),
        ("slices/delta.toml", None),
        (
            "slices/alpha.toml",
            Some("ports.tcp = [80, 5201]\nports.udp = [53]\n"),
        ),
        (
            "node.toml",
            Some(
                "[node]\nmax_slices = 16\n[[refuse]]\nto = [\"192.0.2.0/24\", \"2001:db8::/64\"]\nports = [7]\n",
            ),
        ),
    ],
];

fn a_policy_changes_under_load_and_nothing_gets_through(node: &mut Node) -> Result<()> {
    let ground = Ground::new(node)?;
    let mut siege = ground.siege()?;
    let first = siege.site.standing()?;
    for round in 0..2 {
        for change in CHANGES {
            for (name, text) in *change {
                match text {
                    Some(text) => siege.site.write(name, text)?,
                    None => siege.site.remove(name)?,
                }
            }
            siege
                .site
                .must(&["reload"])
                .with_context(|| format!("round {round}"))?;
            siege.look()?;
        }
        siege.endure(Duration::ZERO)?;
    }
    still_counting(&mut siege)?;
    // All slices but the two are gone, and with them all that was theirs.
    let rows = siege.site.json(&["status"])?["rows"].take();
    let names: Vec<&str> = rows
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["name"].as_str())
        .collect();
    ensure!(
        names == ["node", "alpha", "beta", "unattributed"],
        "there are {names:?}"
    );
    ensure!(
        siege.site.standing()?["sysctl"] == first["sysctl"],
        "the reserved ports are others"
    );
    siege.lift().map(drop)
}
