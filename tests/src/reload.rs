//! A change of policy is applied as a whole or not at all.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};

pub const TESTS: &[Test] = &[
    test(
        "a_reload_applies_what_changed_and_nothing_else",
        a_reload_applies_what_changed_and_nothing_else,
    )
    .once(),
    test(
        "a_reload_that_fails_half_way_leaves_the_former_policy_in_force",
        a_reload_that_fails_half_way_leaves_the_former_policy_in_force,
    )
    .once(),
    test(
        "a_removed_slice_ends_and_its_ports_are_free",
        a_removed_slice_ends_and_its_ports_are_free,
    ),
    test(
        "a_slice_that_comes_again_is_another",
        a_slice_that_comes_again_is_another,
    )
    .once(),
    test(
        "what_cannot_change_while_the_node_is_up_is_refused",
        what_cannot_change_while_the_node_is_up_is_refused,
    )
    .once(),
];

const POLICY: &[(&str, &str)] = &[
    ("node.toml", "[node]\nmax_slices = 6\n"),
    ("slices/alpha.toml", "ports.tcp = [80]\n"),
    ("slices/beta.toml", "ports.tcp = [\"8000-8010\"]\n"),
];

/// Tries to bind a TCP port in a slice as servers do, so that connections of an
/// earlier test in TIME_WAIT are in nobody's way: the error, or nothing.
fn bind(site: &Site<'_>, slice: &str, port: u16) -> Result<String> {
    let program = format!(
        "import socket; s = socket.socket(); \
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', {port}))"
    );
    let output = site.run_in(slice, &["python3", "-c", &program])?;
    Ok(output.stderr.lines().last().unwrap_or_default().to_owned())
}

const IN_USE: &str = "OSError: [Errno 98] Address already in use";
const DENIED: &str = "PermissionError: [Errno 13] Permission denied";

fn a_reload_applies_what_changed_and_nothing_else(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let server = site.start(
        "server",
        site.in_slice("alpha", &["python3", "-m", "http.server", "80"]),
    )?;
    until("alpha serves", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":80 "))
    })?;
    ensure!(bind(&site, "beta", 80)? == IN_USE, "beta got port 80");
    ensure!(bind(&site, "beta", 443)? == DENIED, "beta got port 443");
    let before = site.counters()?;

    site.write("slices/beta.toml", "ports.tcp = [443]\nprocesses = 77\n")?;
    site.write("slices/gamma.toml", "ports.tcp = [8005]\n")?;
    let did = site.json(&["reload"])?;
    ensure!(
        did["added"] == json!(["gamma"]) && did["removed"] == json!([]),
        "it says {did}"
    );
    ensure!(did["changed"] == json!(["beta"]), "it says {did}");
    for (slice, port, error) in [
        ("beta", 443, ""),
        ("beta", 8005, IN_USE),
        ("gamma", 8005, ""),
        ("beta", 8001, ""),
        ("alpha", 443, IN_USE),
    ] {
        let got = bind(&site, slice, port)?;
        ensure!(
            got == error,
            "{slice} and port {port}: {got:?}, not {error:?}"
        );
    }
    let pids = fs::read_to_string("/sys/fs/cgroup/slice-node.service/slices/beta/pids.max")?;
    ensure!(pids.trim() == "77", "beta may have {pids} processes");
    node.must("curl", &["-sS", "--max-time", "20", "http://10.0.2.15/"])?;
    let moved = site.counters()?.since(&before);
    ensure!(
        moved.back().is_empty(),
        "counters went back: {:?}",
        moved.back()
    );

    let did = site.must(&["reload"])?;
    ensure!(did.trim() == "nothing changed", "the same again: {did}");
    server.kill()
}

fn a_reload_that_fails_half_way_leaves_the_former_policy_in_force(node: &mut Node) -> Result<()> {
    const LIMIT: &str = "/sys/fs/cgroup/slice-node.service/slices/cgroup.max.descendants";
    let site = Site::up(node, POLICY)?;
    let before = site.standing()?;
    // The kernel makes the cgroups of one new slice, and no others.
    let slices = 2 * 2;
    fs::write(LIMIT, (slices + 3).to_string())?;
    site.write("slices/alpha.toml", "ports.tcp = [81]\nprocesses = 33\n")?;
    for name in ["gamma", "delta"] {
        site.write(&format!("slices/{name}.toml"), "")?;
    }
    site.write("slices/epsilon.toml", "ports.tcp = [50123]\n")?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 1,
        "it ended with {}: {}",
        output.status,
        output.stderr
    );
    for words in ["the former policy is in force", "make cgroup"] {
        ensure!(
            output.stderr.contains(words),
            "it does not say {words:?}: {}",
            output.stderr
        );
    }
    ensure!(
        site.standing()? == before,
        "{before} became {}",
        site.standing()?
    );
    for name in ["gamma", "delta", "epsilon"] {
        let cgroup = format!("/sys/fs/cgroup/slice-node.service/slices/{name}");
        ensure!(!fs::exists(&cgroup)?, "{cgroup} is there");
        ensure!(site.run_in(name, &["true"])?.status == 125, "{name} runs");
    }
    for (port, error) in [(80, ""), (81, DENIED)] {
        let got = bind(&site, "alpha", port)?;
        ensure!(
            got == error,
            "alpha and port {port}: {got:?}, not {error:?}"
        );
    }
    // Once the obstacle is gone it goes through.
    fs::write(LIMIT, "max")?;
    site.must(&["reload"])?;
    ensure!(bind(&site, "alpha", 81)?.is_empty(), "alpha has no port 81");
    ensure!(
        site.run_in("epsilon", &["true"])?.status == 0,
        "epsilon does not run"
    );
    Ok(())
}

fn a_removed_slice_ends_and_its_ports_are_free(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let mut server = site.start(
        "server",
        site.in_slice("beta", &["python3", "-m", "http.server", "8000"]),
    )?;
    until("beta serves", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":8000 "))
    })?;
    ensure!(
        bind(&site, "alpha", 8000)? == IN_USE,
        "alpha got beta's port"
    );
    let mut kept = site.start("kept", site.in_slice("alpha", &["sleep", "1000"]))?;
    site.remove("slices/beta.toml")?;
    ensure!(
        site.must(&["reload"])?.contains("removed: beta"),
        "it says something else"
    );
    until("beta's server ends", || Ok(server.ended()?.is_some()))?;
    ensure!(
        bind(&site, "alpha", 8000)?.is_empty(),
        "the port is not free"
    );
    ensure!(kept.ended()?.is_none(), "alpha's process ended");
    ensure!(
        !fs::exists("/sys/fs/cgroup/slice-node.service/slices/beta")?,
        "beta's cgroup is there"
    );
    let status = site.slice(&["status", "beta"])?;
    ensure!(
        status.status == 2,
        "status of beta ended with {}",
        status.status
    );
    Ok(())
}

fn a_slice_that_comes_again_is_another(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    ensure!(bind(&site, "beta", 80)? == IN_USE, "beta got port 80");
    let id = |site: &Site<'_>| -> Result<u64> {
        Ok(site.json(&["status", "beta"])?["rows"][0]["id"]
            .as_u64()
            .unwrap_or_default())
    };
    let first = id(&site)?;
    site.remove("slices/beta.toml")?;
    site.must(&["reload"])?;
    site.write("slices/beta.toml", "")?;
    site.must(&["reload"])?;
    let second = id(&site)?;
    ensure!(first != second, "both have the id {first}");
    ensure!(
        site.counters()?.get("beta", "denials.port_reserved")? == 0,
        "it has the counters of its forerunner"
    );
    site.must(&["down"])?;
    site.must(&["up"])?;
    ensure!(
        site.run_in("beta", &["true"])?.status == 0,
        "beta does not run"
    );
    Ok(())
}

fn what_cannot_change_while_the_node_is_up_is_refused(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    let before = site.standing()?;
    for (text, words) in [
        (
            "[node]\nmax_slices = 7\n",
            "change max_slices in node.toml: it cannot change while the node is up",
        ),
        (
            "[node]\nmax_slices = 6\nuid_base = 1900000000\n",
            "change uid_base or uids_per_slice in node.toml",
        ),
    ] {
        site.write("node.toml", text)?;
        let output = site.slice(&["reload"])?;
        ensure!(
            output.status == 3,
            "it ended with {}: {}",
            output.status,
            output.stderr
        );
        ensure!(output.stderr.contains(words), "it says {}", output.stderr);
        ensure!(
            output.stderr.contains("slice down, slice up"),
            "it does not say what to do: {}",
            output.stderr
        );
        ensure!(site.standing()? == before, "something changed");
    }
    Ok(())
}
