//! What slices with contexts cost: their lives, the ways in, their memory and
//! disk, and work inside.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::sample::unmeasured;
use super::wire::run;
use super::{Measure, idle, lives, visits, work};
use crate::node::Node;
use crate::{image, sshd};

/// The name of the bench.
pub const NAME: &str = "context";

/// Everything of this bench.
pub const DIRECTORY: &str = "/run/slice-bench";
/// A slice that is made and removed.
pub const LIVING: &str = "living";
/// A slice that is visited.
pub const LIVED_IN: &str = "livedin";
/// Slices that do nothing.
const IDLE: usize = 40;

/// Their names.
pub fn idle() -> impl Iterator<Item = String> {
    (0..IDLE).map(|number| format!("idle{number}"))
}

/// Which of the programs to compare with are there.
pub struct Peers {
    pub podman: bool,
    pub nspawn: bool,
}

/// Nothing: contexts need a machine of their own.
pub fn native() -> Result<Vec<Measure>> {
    Ok(Vec::new())
}

/// A node that is up, and everything on it.
pub fn in_vm() -> Result<Vec<Measure>> {
    let there = |program: &str| run(&format!("{program} --version")).is_ok();
    let peers = Peers {
        podman: there("podman"),
        nspawn: there("systemd-nspawn"),
    };
    let node = Node::new("bench")?;
    prepare(&node)?;
    run(&format!("slice --policy {DIRECTORY}/policy up"))?;
    run(&format!("slice start {LIVED_IN}"))?;
    let or_why = |what: &str, lines: Result<Vec<Measure>>| {
        lines.unwrap_or_else(|error| vec![unmeasured(NAME, what, "", format!("{error:#}"))])
    };
    let mut lines = or_why("create, start, stop, remove", lives::measures(NAME, &peers));
    lines.extend(or_why(
        "a command by the owner",
        visits::by_owner(NAME, &peers),
    ));
    lines.extend(or_why("a command by ssh", visits::by_ssh(NAME)));
    lines.extend(or_why("idle slices", idle::measures(NAME)));
    lines.extend(or_why("work", work::measures(NAME, &node)));
    run("slice down")?;
    Ok(lines)
}

fn prepare(node: &Node) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    let slices = directory.join("policy/slices");
    fs::create_dir_all(&slices)?;
    sshd::prepare()?;
    sshd::key(&directory.join("host"))?;
    let key = sshd::key(&directory.join("user"))?;
    visits::client(directory)?;
    fs::write(
        directory.join("policy/node.toml"),
        "[node]\nmax_slices = 64\n",
    )?;
    let context = "[context]\nimage = \"debian\"\nautostart = false\nstop_after = \"0 s\"\n";
    for name in idle().chain([LIVING.to_owned()]) {
        fs::write(slices.join(format!("{name}.toml")), context)?;
    }
    let login = format!("{context}[login]\nkeys = [\"{key}\"]\n");
    fs::write(slices.join(format!("{LIVED_IN}.toml")), login)?;
    image::debian(node)
}

/// How long something takes.
pub fn milliseconds<T>(act: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    act()?;
    let time = start.elapsed().as_secs_f64() * 1000.0;
    ensure!(time > 0.0, "the clock stands still");
    Ok(time)
}
