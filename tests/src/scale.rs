//! Many slices, and as much of everything else as a node holds.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::image;
use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::Site;

pub const TESTS: &[Test] = &[
    test(
        "a_node_holds_as_many_slices_as_it_says_and_not_one_more",
        a_node_holds_as_many_slices_as_it_says_and_not_one_more,
    )
    .once(),
    test(
        "five_thousand_slices_live_on_one_node",
        five_thousand_slices_live_on_one_node,
    )
    .within(500)
    .long(),
    test(
        "a_thousand_slices_run_at_once",
        a_thousand_slices_run_at_once,
    )
    .within(600)
    .long(),
    test(
        "as_many_refused_prefixes_as_fit_and_not_one_more",
        as_many_refused_prefixes_as_fit_and_not_one_more,
    )
    .within(90)
    .long(),
];

fn a_node_holds_as_many_slices_as_it_says_and_not_one_more(node: &mut Node) -> Result<()> {
    let site = Site::new(node, &[("node.toml", "[node]\nmax_slices = 40\n")])?;
    for number in 0..40 {
        site.write(&format!("slices/s{number}.toml"), "")?;
    }
    site.must(&["up"])?;
    for name in ["s0", "s39"] {
        ensure!(
            site.run_in(name, &["true"])?.status == 0,
            "{name} does not run"
        );
    }
    let before = site.standing()?;
    site.write("slices/one_more.toml", "")?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 3,
        "one too many ended with {}: {}",
        output.status,
        output.stderr
    );
    ensure!(
        output.stderr.contains("41") && output.stderr.contains("40"),
        "it says {}",
        output.stderr
    );
    ensure!(site.standing()? == before, "something changed");
    // One goes, one comes, again and again: rows are used again, ids are not.
    site.remove("slices/s0.toml")?;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..5 {
        site.must(&["reload"])?;
        let id = site.json(&["status", "one_more"])?["rows"][0]["id"].as_u64();
        ensure!(ids.insert(id), "an id was given twice: {id:?}");
        site.remove("slices/one_more.toml")?;
        site.must(&["reload"])?;
        site.write("slices/one_more.toml", "")?;
    }
    Ok(())
}

/// Slices without contexts. Ten thousand take twice as long, up and down alike.
const MANY: u32 = 5_000;
/// Those that the maps have room for.
const ROOM: u32 = 10_000;

fn five_thousand_slices_live_on_one_node(node: &mut Node) -> Result<()> {
    let mut text = format!("[node]\nmax_slices = {ROOM}\nuids_per_slice = 1000\n");
    write!(text, "[node.give]\nprocesses = 100000\n")?;
    let site = Site::new(node, &[("node.toml", &text)])?;
    for number in 0..MANY {
        // Each has a port of its own.
        site.write(
            &format!("slices/s{number}.toml"),
            &format!("processes = 8\nports.tcp = [{}]\n", 20_000 + number),
        )?;
    }
    let before = Inventory::take(node)?;
    let mut times = Times::default();
    times.of("check", || site.must(&["check", "-q"]))?;
    times.of("up", || site.must(&["up"]))?;
    times.of("status", || {
        let rows = site.json(&["status"])?["rows"]
            .as_array()
            .map_or(0, Vec::len);
        ensure!(rows == MANY as usize + 2, "status has {rows} rows");
        Ok(())
    })?;
    times.of("ports", || {
        let ports = site.json(&["ports"])?["ports"].take();
        let reserved = ports
            .as_array()
            .into_iter()
            .flatten()
            .filter(|port| port["kind"] == "reserved")
            .count();
        ensure!(reserved == MANY as usize, "{reserved} ports are reserved");
        Ok(())
    })?;
    times.of("run in the last", || {
        let run = site.run_in(
            &format!("s{}", MANY - 1),
            &["python3", "-c", &bind(20_000 + MANY - 1)],
        )?;
        ensure!(run.status == 0, "its own port: {}", run.stderr);
        let run = site.run_in("s0", &["python3", "-c", &bind(20_000 + MANY - 1)])?;
        ensure!(
            run.stderr.contains("Address already in use"),
            "another's port: {}",
            run.stderr
        );
        Ok(())
    })?;
    times.of("reload of one", || {
        site.write("slices/s7.toml", "processes = 9\n")?;
        let did = site.json(&["reload"])?;
        ensure!(did["changed"] == serde_json::json!(["s7"]), "it says {did}");
        Ok(())
    })?;
    times.of("down", || site.must(&["down"]))?;
    println!("{MANY} slices: {}", times.0.join(", "));
    ensure!(!Path::new("/sys/fs/bpf/slice").exists(), "pins are left");
    before.again(node)?;
    fs::remove_dir_all(site.policy())?;
    Ok(())
}

/// Slices with contexts.
const RUNNING: usize = 1_000;

fn a_thousand_slices_run_at_once(node: &mut Node) -> Result<()> {
    let files = [("node.toml", &*format!("[node]\nmax_slices = {RUNNING}\n"))];
    let site = Site::new(node, &files)?;
    for number in 0..RUNNING {
        site.write(
            &format!("slices/s{number}.toml"),
            "processes = 16\n[context]\nimage = \"debian\"\nstop_after = \"0 s\"\n",
        )?;
    }
    image::debian(node)?;
    let before = Inventory::take(node)?;
    let free = available()?;
    let mut times = Times::default();
    let up = times.of("up", || site.must(&["up"]))?;
    ensure!(!up.contains("not started"), "slice up says {up}");
    let used = free.saturating_sub(available()?) / RUNNING as u64;
    times.of("status", || {
        let rows = site.json(&["status"])?["rows"].take();
        let running = rows
            .as_array()
            .into_iter()
            .flatten()
            .filter(|row| row["processes"]["usage"].as_u64() == Some(1))
            .count();
        ensure!(running == RUNNING, "{running} run: {rows}");
        Ok(())
    })?;
    times.of("enter 20", || {
        for number in (0..RUNNING).step_by(RUNNING / 20) {
            let name = format!("s{number}");
            let said = site.must(&["exec", &name, "--", "hostname"])?;
            ensure!(said == format!("{name}\n"), "in {name}: {said:?}");
        }
        Ok(())
    })?;
    times.of("stop", || site.must(&["stop", "--all", "-q"]))?;
    times.of("start one", || site.must(&["start", "s7", "-q"]))?;
    times.of("destroy", || {
        site.must(&["destroy", "--all", "--yes", "-q"])
    })?;
    times.of("down", || site.must(&["down"]))?;
    println!(
        "{RUNNING} running slices, {used} KiB each: {}",
        times.0.join(", ")
    );
    before.again(node)?;
    Ok(())
}

/// How long steps took, for the log.
#[derive(Default)]
struct Times(Vec<String>);

impl Times {
    fn of<T>(&mut self, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = act()?;
        self.0
            .push(format!("{what} {:.1} s", start.elapsed().as_secs_f32()));
        Ok(done)
    }
}

/// Memory that programs could have, KiB.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .context("no MemAvailable")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

fn bind(port: u32) -> String {
    format!("import socket; s = socket.socket(); s.bind(('', {port}))")
}

const REFUSED: &str = "PermissionError: [Errno 13] Permission denied";

/// Half the entries of the kernel's table of refused prefixes.
const HALF: u32 = 32_768;

fn as_many_refused_prefixes_as_fit_and_not_one_more(node: &mut Node) -> Result<()> {
    let site = Site::up(
        node,
        &[
            ("node.toml", "[node]\nmax_slices = 6\n"),
            ("slices/alpha.toml", ""),
        ],
    )?;
    // Two files: one has at most a MiB. Of each two addresses one, so that
    // none lies in another.
    let refuse = |network: u32, count: u32| {
        let mut text = "[[refuse]]\nto = [".to_owned();
        for number in 0..count {
            let _ = writeln!(
                text,
                "\"{}\",",
                Ipv4Addr::from((network << 24) + 2 * number)
            );
        }
        text + "]\n"
    };
    let before = site.standing()?;
    site.write(
        "node.toml",
        &("[node]\nmax_slices = 6\n".to_owned() + &refuse(100, HALF)),
    )?;
    site.write("slices/alpha.toml", &refuse(101, HALF + 1))?;
    let output = site.slice(&["reload"])?;
    ensure!(
        output.status == 3,
        "one too many ended with {}: {}",
        output.status,
        output.stderr
    );
    let words = "make 65537 entries, 1 more than the node holds";
    ensure!(output.stderr.contains(words), "it says {}", output.stderr);
    ensure!(site.standing()? == before, "something changed");
    site.write("slices/alpha.toml", &refuse(101, HALF))?;
    site.must(&["reload"])?;
    let connect = |address: &str| -> Result<String> {
        let program = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('{address}', 9))"
        );
        let output = site.run_in("alpha", &["python3", "-c", &program])?;
        Ok(output.stderr.lines().last().unwrap_or_default().to_owned())
    };
    for (address, error) in [
        ("100.0.0.0", REFUSED),
        ("100.0.255.254", REFUSED),
        ("101.0.255.254", REFUSED),
        ("100.0.0.1", ""),
        ("101.1.0.0", ""),
    ] {
        let got = connect(address)?;
        ensure!(got == error, "{address}: {got:?}, not {error:?}");
    }
    site.write("node.toml", "[node]\nmax_slices = 6\n")?;
    site.must(&["reload"])?;
    ensure!(
        connect("100.0.0.0")?.is_empty(),
        "it is still refused by the node"
    );
    ensure!(
        connect("101.0.0.0")? == REFUSED,
        "it is no longer refused by the slice"
    );
    Ok(())
}
