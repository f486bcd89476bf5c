//! What root of a slice tries in vain to reach of the node and of others, from
//! inside the slice's context: programs below `hostile/`, each attempt of which
//! is named and must be refused.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, until};
use crate::stage::{Stage, Sysctl};

pub const TESTS: &[Test] = &[
    test(
        "processes_and_namespaces_of_others_are_out_of_reach",
        processes_and_namespaces_of_others_are_out_of_reach,
    )
    .on_stage(),
    test(
        "the_kernel_that_all_share_takes_no_orders_from_a_slice",
        the_kernel_takes_no_orders_from_a_slice,
    )
    .within(90)
    .on_stage(),
    test(
        "namespaces_of_its_own_give_a_slice_no_more_of_the_node",
        namespaces_of_its_own_give_a_slice_no_more_of_the_node,
    )
    .within(90)
    .on_stage(),
    test(
        "keys_asynchronous_io_and_counters_which_all_share_are_not_for_slices",
        keys_and_asynchronous_io_are_not_for_slices,
    )
    .on_stage(),
    test(
        "memory_and_queues_that_are_shared_by_name_are_shared_within_a_slice",
        memory_and_queues_are_shared_within_a_slice,
    )
    .on_stage(),
    test(
        "a_crash_in_a_slice_runs_no_handler_of_the_node",
        a_crash_in_a_slice_runs_no_handler_of_the_node,
    )
    .on_stage(),
    test(
        "a_slice_that_takes_the_place_of_its_first_process_keeps_nobody",
        a_slice_that_takes_the_place_of_its_first_process_keeps_nobody,
    )
    .on_stage(),
    test(
        "a_slice_that_divides_or_freezes_its_cgroup_is_stopped_and_started_all_the_same",
        a_slice_that_divides_or_freezes_its_cgroup_is_stopped_and_started,
    )
    .on_stage(),
    test(
        "a_slice_full_of_processes_or_out_of_memory_is_stopped_and_harms_no_other",
        a_slice_full_of_processes_or_out_of_memory_is_stopped,
    )
    .on_stage(),
];

const SLICE: &str = "delta";
const OTHER: &str = "epsilon";
/// May make namespaces.
const NESTED: &str = "zeta";

const ATTEMPTS: &str = include_str!("hostile/attempts.py");
const PROCESSES: &str = include_str!("hostile/processes.py");
const KERNEL: &str = include_str!("hostile/kernel.py");

const SHARED: &str = include_str!("hostile/shared.py");
const IPC: &str = include_str!("hostile/ipc.py");
const USURPER: &str = include_str!("hostile/usurper.py");

/// The stage, with both slices running.
fn open(node: &Node) -> Result<Site<'_>> {
    let site = Site::on_stage(node)?;
    site.must(&["start", SLICE, OTHER])?;
    Ok(site)
}

/// A program with what all begin with.
fn program(text: &str) -> String {
    format!("{ATTEMPTS}\n{text}")
}

/// Runs a hostile program as the slice's root; nothing that it attempts may
/// succeed. Its output is a file of the node's.
fn hostile(
    site: &Site<'_>,
    before: &[&str],
    slice: &str,
    text: &str,
    words: &[&str],
) -> Result<()> {
    let mut run = Command::new("slice");
    run.args(["exec", slice, "--"]).args(before);
    run.args(["python3", "-c", &self::program(text)])
        .args(words);
    let mut running = site.start("hostile", run)?;
    until("the hostile program ends", || {
        Ok(running.ended()?.is_some())
    })?;
    let status = running.ended()?.context("no status")?;
    ensure!(
        status.success(),
        "in {slice} ({status}): {}",
        running.output()
    );
    Ok(())
}

fn processes_and_namespaces_of_others_are_out_of_reach(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // Started by somebody who has a directory of the node open.
    node.must(
        "sh",
        &[
            "-c",
            &format!("exec 9</ 8</etc/shadow; slice restart {SLICE}"),
        ],
    )?;
    hostile(&site, &[], SLICE, PROCESSES, &[])
}

fn the_kernel_takes_no_orders_from_a_slice(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    hostile(&site, &[], SLICE, KERNEL, &[])?;
    // Where the node's owner lets ordinary users load programs into the kernel.
    if fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")?.trim() != "1" {
        let _open = Sysctl::set("kernel.unprivileged_bpf_disabled", "0")?;
        hostile(&site, &[], SLICE, KERNEL, &[])?;
    }
    Ok(())
}

fn namespaces_of_its_own_give_a_slice_no_more_of_the_node(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    site.must(&["start", NESTED])?;
    let inside = ["unshare", "--user", "--map-root-user", "--mount", "--"];
    hostile(&site, &inside, NESTED, KERNEL, &["nested"])
}

fn keys_and_asynchronous_io_are_not_for_slices(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // Where the node's owner lets everybody count, and read the kernel's log.
    let _log = Sysctl::set("kernel.dmesg_restrict", "0")?;
    let _open = Sysctl::set("kernel.perf_event_paranoid", "2")?;
    hostile(&site, &[], SLICE, SHARED, &[])?;
    // And in a slice with the node's files.
    let output = site.run_in("alpha", &["python3", "-c", &program(SHARED)])?;
    ensure!(
        output.status == 0,
        "in alpha: {}{}",
        output.stdout,
        output.stderr
    );
    // What reads all keys shows none of the node's.
    let keys = site.must(&["exec", SLICE, "--", "cat", "/proc/keys"])?;
    ensure!(keys.trim().is_empty(), "it sees the keys {keys}");
    Ok(())
}

fn memory_and_queues_are_shared_within_a_slice(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let make = |name: &str, before: &[&str]| -> Result<_> {
        let text = program(IPC);
        let words = [before, &["python3", "-c", &text, "make"]].concat();
        let mut run = Command::new(words[0]);
        run.args(&words[1..]);
        let made = site.start(name, run)?;
        until("shared memory and queues are there", || {
            Ok(made.output().contains("ready"))
        })
        .with_context(|| made.output())?;
        Ok(made)
    };
    let of_node = make("node", &["env"])?;
    let of_other = make("other", &["slice", "exec", OTHER, "--"])?;
    hostile(&site, &[], SLICE, IPC, &["seek"])?;
    of_other.finish()?;
    of_node.finish()?;
    Ok(())
}

fn a_crash_in_a_slice_runs_no_handler_of_the_node(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let marks = node.dir().join("d");
    fs::create_dir(&marks)?;
    let marks = marks.to_str().context("a path in UTF-8")?;
    std::os::unix::fs::symlink(marks, "/run/slice-core")?;
    let _handler = Sysctl::set("kernel.core_pattern", "|/usr/bin/touch /run/slice-core/%P")?;
    let crash = "ulimit -c unlimited; python3 -c 'import os; os.abort()'; echo $?; rm -f core";
    let judge = || -> Result<usize> {
        let inside = site.slice(&["exec", SLICE, "--", "sh", "-c", crash])?;
        ensure!(
            inside.stdout.contains("134"),
            "it did not crash: {}",
            inside.stdout
        );
        // The handler of a crash on the node runs, and those before it have.
        node.run("sh", &["-c", crash])?;
        until("the node's handler has run", || {
            Ok(fs::read_dir(marks)?.count() > 0)
        })?;
        Ok(fs::read_dir(marks)?.count())
    };
    let counted = judge();
    fs::remove_file("/run/slice-core")?;
    ensure!(counted? == 1, "the node's handler ran for the slice");
    Ok(())
}

fn a_slice_that_takes_the_place_of_its_first_process_keeps_nobody(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let mut run = Command::new("slice");
    run.args(["exec", SLICE, "--", "python3", "-uc", &program(USURPER)]);
    let input = node.dir().join("visitors");
    fs::write(&input, "crowd\ngarbage\nterminal\n")?;
    run.stdin(fs::File::open(&input)?);
    let usurper = site.start_with_input("usurper", run)?;
    until("it has taken the place", || {
        Ok(usurper.output().contains("ready"))
    })
    .with_context(|| usurper.output())?;
    // What it holds of their streams ends with it, not with them.
    let visit = |name: &str, words: &[&str]| -> Result<(Option<i32>, String)> {
        let mut run = Command::new("slice");
        run.args(words);
        let mut visitor = site.start(name, run)?;
        until("the visitor is let go", || Ok(visitor.ended()?.is_some()))?;
        let status = visitor.ended()?.context("no status")?;
        Ok((status.code(), visitor.output()))
    };
    let crowd = visit("crowd", &["exec", SLICE, "--", "true"])?;
    // More descriptors than one are no answer.
    ensure!(crowd.0 == Some(125), "many descriptors: {crowd:?}");
    until("it has tried what it can", || {
        Ok(usurper.output().contains("all refused"))
    })
    .with_context(|| usurper.output())?;
    let garbage = visit("garbage", &["exec", SLICE, "--", "true"])?;
    ensure!(
        garbage.0 == Some(125) && garbage.1.contains(SLICE),
        "garbage: {garbage:?}"
    );
    let terminal = visit("terminal", &["exec", "-t", SLICE, "--", "true"])?;
    ensure!(terminal.0 == Some(125), "a directory: {terminal:?}");
    // Nobody else waits for it, and it is stopped as any other.
    site.must(&["status"])?;
    site.must(&["exec", OTHER, "--", "true"])?;
    stops(&site, SLICE)?;
    site.must(&["start", SLICE])?;
    site.must(&["exec", SLICE, "--", "true"])?;
    Ok(())
}

/// Stops a slice, which must not take longer than policy gives it and the
/// kernel takes to kill.
fn stops(site: &Site<'_>, slice: &str) -> Result<()> {
    let start = Instant::now();
    site.must(&["stop", slice])?;
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "to stop took {:?}",
        start.elapsed()
    );
    Ok(())
}

fn a_slice_that_divides_or_freezes_its_cgroup_is_stopped_and_started(
    node: &mut Node,
) -> Result<()> {
    let site = open(node)?;
    for line in [
        // Its first process stands still.
        "mkdir x && echo 1 > x/cgroup.procs && echo 1 > x/cgroup.freeze",
        // No process may be put where its first process is born.
        "mkdir y && for p in $(cat cgroup.procs); do echo $p > y/cgroup.procs; done; echo +pids > cgroup.subtree_control",
        // Nor here: its cgroup is one of threads.
        "mkdir t && echo threaded > t/cgroup.type",
        // No room for another.
        "for n in $(seq 100); do mkdir n$n; done; test -d n9",
    ] {
        let shell =
            format!("cd /sys/fs/cgroup && {{ {line}; }} > /dev/null 2>&1 && touch /run/done");
        // The command may stand still, or its end may be told by nobody.
        let mut run = Command::new("slice");
        run.args(["exec", SLICE, "--", "sh", "-c", &shell]);
        let run = site.start("divide", run)?;
        let first = site.json(&["ps"])?;
        drop(first);
        until("it has divided its cgroup", || {
            let payload = format!("{}/{SLICE}/payload", crate::site::SLICES);
            let below = fs::read_dir(payload)?
                .flatten()
                .filter(|entry| entry.path().is_dir());
            Ok(below.count() > 0)
        })?;
        std::thread::sleep(Duration::from_secs(1));
        drop(run);
        stops(&site, SLICE).with_context(|| format!("after {line:?}"))?;
        site.must(&["start", SLICE])
            .with_context(|| format!("after {line:?}"))?;
        let there = site.must(&["exec", SLICE, "--", "cat", "/proc/self/cgroup"])?;
        ensure!(there.trim() == "0::/", "after {line:?} it is in {there}");
    }
    Ok(())
}

fn a_slice_full_of_processes_or_out_of_memory_is_stopped(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let site = open(node)?;
    let limits = |before: &str| format!("processes = 40\nmemory.cap = \"64 MiB\"\n{before}");
    stage.with_policy(SLICE, limits, || {
        for (bomb, seen) in [
            ("b() { b | b & }; b; while :; do b; done", "processes"),
            // What it writes there is its memory, and gone with it.
            ("setsid sleep 999 & dd if=/dev/zero of=/dev/shm/x bs=1M; dd if=/dev/zero of=/run/x bs=1M", "memory"),
        ] {
            let mut run = Command::new("slice");
            run.args(["exec", SLICE, "--", "sh", "-c", bomb]);
            let bombing = site.start("bomb", run)?;
            let cgroup = format!("{}/{SLICE}", crate::site::SLICES);
            let event = |file: &str, name: &str| -> Result<u64> {
                let events = fs::read_to_string(format!("{cgroup}/{file}"))?;
                let line = events.lines().find_map(|line| line.strip_prefix(name));
                Ok(line.context("no such event")?.trim().parse()?)
            };
            until("it is at its limit", || match seen {
                "processes" => Ok(event("pids.events", "max")? > 0),
                _ => Ok(event("memory.events", "oom ")? > 0),
            })?;
            // Another slice and the node go on.
            site.must(&["exec", OTHER, "--", "sh", "-c", "true | true"])?;
            node.must("sh", &["-c", "true | true"])?;
            stops(&site, SLICE).with_context(|| seen.to_owned())?;
            drop(bombing);
            let gone = fs::read_to_string(format!("{cgroup}/cgroup.events"))?;
            ensure!(gone.contains("populated 0"), "{seen}: something runs");
            site.must(&["start", SLICE])?;
            site.must(&["exec", SLICE, "--", "sh", "-c", "true | true"])?;
        }
        Ok(())
    })
}
