//! `up` and `down` that are killed or fail half-way: the next command finds
//! what there is, and nothing stays half done.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::Site;
use crate::survival::programs;

pub const TESTS: &[Test] = &[
    test(
        "an_up_that_is_killed_at_any_moment_can_be_taken_down",
        an_up_that_is_killed_at_any_moment_can_be_taken_down,
    )
    .within(180)
    .long(),
    test(
        "an_up_that_was_killed_half_way_is_completed_by_the_next",
        an_up_that_was_killed_half_way_is_completed_by_the_next,
    )
    .long(),
    test(
        "an_up_that_cannot_attach_its_last_programs_puts_everything_back",
        an_up_that_cannot_attach_its_last_programs_puts_everything_back,
    )
    .once(),
    test(
        "an_up_that_cannot_write_its_record_at_the_end_puts_everything_back",
        an_up_that_cannot_write_its_record_at_the_end_puts_everything_back,
    )
    .once(),
    test(
        "a_down_that_was_killed_is_completed_by_the_next",
        a_down_that_was_killed_is_completed_by_the_next,
    )
    .long(),
];

const POLICY: &[(&str, &str)] = &[
    (
        "node.toml",
        "[node]\nmax_slices = 16\n[node.reserved]\ntcp = [22]\n",
    ),
    (
        "slices/alpha.toml",
        "ports.tcp = [80]\n[memory]\nfloor = \"16 MiB\"\n",
    ),
    (
        "slices/beta.toml",
        "ports.tcp = [\"8000-8010\"]\nports.udp = [53]\n",
    ),
];

/// A command is killed after each of so many parts of its time.
const PARTS: u32 = 8;

/// Starts `slice` and kills it after so long; whether it had ended before.
fn killed_after(site: &Site<'_>, argument: &str, time: Duration) -> Result<bool> {
    let mut child = Command::new("slice")
        .arg(argument)
        .arg("--policy")
        .arg(site.policy())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(time);
    let ended = child.try_wait()?.is_some();
    child.kill()?;
    child.wait()?;
    Ok(ended)
}

/// How long a command takes here, to be killed at parts of it.
fn duration_of(site: &Site<'_>, argument: &str) -> Result<Duration> {
    let start = std::time::Instant::now();
    site.must(&[argument])?;
    Ok(start.elapsed())
}

fn an_up_that_is_killed_at_any_moment_can_be_taken_down(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    let whole = duration_of(&site, "up")?;
    site.must(&["down"])?;
    let mut interrupted = 0;
    for part in 1..PARTS {
        if !killed_after(&site, "up", whole * part / PARTS)? {
            interrupted += 1;
        }
        site.must(&["down"])?;
        before
            .again(node)
            .with_context(|| format!("killed after {part} of {PARTS} parts"))?;
    }
    ensure!(
        interrupted >= PARTS / 2,
        "only {interrupted} were killed half-way"
    );
    Ok(())
}

fn an_up_that_was_killed_half_way_is_completed_by_the_next(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    let whole = duration_of(&site, "up")?;
    let standing = site.standing()?;
    for part in [3, 6] {
        site.must(&["down"])?;
        killed_after(&site, "up", whole * part / PARTS)?;
        site.must(&["up"])?;
        ensure!(
            same_but_ids(&site.standing()?, &standing),
            "after a kill at {part} of {PARTS} the node is another"
        );
        ensure!(
            site.run_in("alpha", &["true"])?.status == 0,
            "alpha does not run"
        );
    }
    site.must(&["down"])?;
    before.again(node)
}

/// Whether two nodes are the same; ids of slices are never used twice.
fn same_but_ids(one: &Value, two: &Value) -> bool {
    let plain = |standing: &Value| {
        let mut standing = standing.clone();
        for row in standing["rows"].as_array_mut().into_iter().flatten() {
            row["id"] = Value::Null;
        }
        for port in standing["ports"].as_array_mut().into_iter().flatten() {
            port["owner"]["id"] = Value::Null;
        }
        standing
    };
    plain(one) == plain(two)
}

fn an_up_that_cannot_attach_its_last_programs_puts_everything_back(node: &mut Node) -> Result<()> {
    const TAKEN: &str = "/sys/fs/bpf/taken";
    let site = Site::up(node, POLICY)?;
    // Another tool that wants the hook for itself alone: the kernel lets
    // nobody beside it. Our own program plays its part.
    let _ = fs::remove_file(TAKEN);
    let ingress = *programs()?
        .get("/sys/fs/bpf/slice/links/ingress")
        .context("no link ingress")?;
    node.must(
        "bpftool",
        &["prog", "pin", "id", &ingress.to_string(), TAKEN],
    )?;
    site.must(&["down"])?;
    let hook = ["/sys/fs/cgroup", "cgroup_inet_ingress", "pinned", TAKEN];
    node.must("bpftool", &[&["cgroup", "attach"], &hook[..]].concat())?;
    let result = (|| {
        let before = Inventory::take(node)?;
        let output = site.slice(&["up"])?;
        ensure!(
            output.status == 1,
            "up ended with {}: {}",
            output.status,
            output.stderr
        );
        ensure!(
            output
                .stderr
                .contains("attach program ingress to the Root cgroup"),
            "it says {}",
            output.stderr
        );
        before.again(node)
    })();
    node.must("bpftool", &[&["cgroup", "detach"], &hook[..]].concat())?;
    fs::remove_file(TAKEN)?;
    result?;
    site.must(&["up"])?;
    Ok(())
}

fn an_up_that_cannot_write_its_record_at_the_end_puts_everything_back(
    node: &mut Node,
) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    // A page has room for the owner's texts, two for the record's first version, too;
    // then come the policy in force and the record's second version.
    for (size, file) in [("4k", "node.json"), ("8k", "policy.json")] {
        fs::create_dir_all("/run/slice")?;
        mount(
            Some("tmpfs"),
            "/run/slice",
            Some("tmpfs"),
            MsFlags::empty(),
            Some(format!("size={size}").as_str()),
        )?;
        let result = (|| {
            let before = Inventory::take(node)?;
            let output = site.slice(&["up"])?;
            ensure!(
                output.status == 1,
                "up ended with {}: {}",
                output.status,
                output.stderr
            );
            for words in [
                &format!("write /run/slice/{file}"),
                "No space left on device",
            ] {
                ensure!(
                    output.stderr.contains(words),
                    "it does not say {words:?}: {}",
                    output.stderr
                );
            }
            site.must(&["down"])?;
            before.again(node)
        })();
        nix::mount::umount("/run/slice")?;
        result.with_context(|| format!("with {size} of room"))?;
    }
    site.must(&["up"])?;
    Ok(())
}

fn a_down_that_was_killed_is_completed_by_the_next(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    site.must(&["up"])?;
    let whole = duration_of(&site, "down")?;
    for part in [1, 3, 5] {
        site.must(&["up"])?;
        killed_after(&site, "down", whole * part / 6)?;
        site.must(&["down"])?;
        before
            .again(node)
            .with_context(|| format!("killed after {part} of 6 parts"))?;
    }
    Ok(())
}
