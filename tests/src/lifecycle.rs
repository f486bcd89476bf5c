//! Up and down: twice is once, half-way is not at all, and afterwards the
//! machine is as it was.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Site, reserved_ports, until};
use crate::survival::programs;

pub const TESTS: &[Test] = &[
    test("up_twice_is_once", up_twice_is_once).once(),
    test(
        "down_leaves_the_machine_as_it_was",
        down_leaves_the_machine_as_it_was,
    ),
    test("down_twice_is_once", down_twice_is_once).once(),
    test("a_node_works_without_systemd", a_node_works_without_systemd).once(),
    test(
        "the_ports_of_slices_join_those_that_the_kernel_does_not_pick_and_leave_again",
        the_ports_of_slices_join_those_that_the_kernel_does_not_pick_and_leave_again,
    ),
    test(
        "a_process_on_a_slices_port_keeps_the_node_down",
        a_process_on_a_slices_port_keeps_the_node_down,
    )
    .once(),
    test(
        "two_commands_at_once_wait_for_each_other",
        two_commands_at_once_wait_for_each_other,
    )
    .once(),
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

fn up_twice_is_once(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    // A counter that a second start must not clear.
    let denied = site.run_in("alpha", &["python3", "-m", "http.server", "8000"])?;
    ensure!(
        denied.stderr.contains("Address already in use"),
        "{}",
        denied.stderr
    );
    let (before, counters, running) = (site.standing()?, site.counters()?, programs()?);
    let server = site.start(
        "server",
        site.in_slice("alpha", &["python3", "-m", "http.server", "80"]),
    )?;
    until("the server listens", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":80 "))
    })?;
    let again = site.must(&["up"])?;
    ensure!(
        again.contains("up already with 2 slices"),
        "it says {again}"
    );
    ensure!(
        site.json(&["up"])?["did"] == "already",
        "as JSON it says something else"
    );
    ensure!(programs()? == running, "programs were replaced");
    ensure!(
        site.counters()?.get("alpha", "denials.port_reserved")? == 1,
        "the counters were cleared"
    );
    ensure!(
        site.counters()?.since(&counters).back().is_empty(),
        "counters went back"
    );
    server.kill()?;
    site.run_in("alpha", &["true"])?;
    let after = site.standing()?;
    ensure!(
        without_sockets(after.clone()) == without_sockets(before.clone()),
        "{before} became {after}"
    );
    Ok(())
}

/// Ports without the sockets on them.
fn without_sockets(mut standing: Value) -> Value {
    for port in standing["ports"].as_array_mut().into_iter().flatten() {
        for key in ["sockets", "since", "lingers_until"] {
            port[key] = Value::Null;
        }
    }
    standing
}

fn down_leaves_the_machine_as_it_was(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    site.must(&["up"])?;
    let changed = Inventory::take(node)?;
    ensure!(
        changed != before,
        "the inventory does not see a node that is up"
    );
    let _daemon = site.daemon()?;
    // All that a slice can have: processes that ignore signals, nested cgroups,
    // sockets in every state.
    let server = site.start(
        "server",
        site.in_slice("alpha", &["python3", "-m", "http.server", "80"]),
    )?;
    let stubborn = "trap '' TERM HUP INT; while :; do sleep 1; done";
    let _stubborn = site.start("stubborn", site.in_slice("beta", &["sh", "-c", stubborn]))?;
    let nest = "cd /sys/fs/cgroup/slice-node.service/slices/beta/payload && mkdir -p a/b && echo 0 >a/b/cgroup.procs && exec sleep 1000";
    let _nested = site.start("nested", site.in_slice("beta", &["sh", "-c", nest]))?;
    until("the server listens", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":80 "))
    })?;
    node.must("curl", &["-sS", "http://10.0.2.15/"])?;
    until("the nested cgroup has its process", || {
        let procs = "/sys/fs/cgroup/slice-node.service/slices/beta/payload/a/b/cgroup.procs";
        Ok(fs::read_to_string(procs).is_ok_and(|pids| !pids.is_empty()))
    })?;
    let said = site.must(&["down"])?;
    ensure!(said.contains("the node is down"), "it says {said}");
    drop(server);
    before.again(node)
}

fn down_twice_is_once(node: &mut Node) -> Result<()> {
    let site = Site::up(node, POLICY)?;
    ensure!(
        site.json(&["down"])?["was_up"] == true,
        "the first down found nothing"
    );
    ensure!(
        site.json(&["down"])?["was_up"] == false,
        "the second down found something"
    );
    let status = site.slice(&["status"])?;
    ensure!(
        status.status == 4,
        "status of a node that is down ended with {}",
        status.status
    );
    Ok(())
}

fn a_node_works_without_systemd(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    // This process and what it starts see no systemd from here on.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("none"),
        "/run/systemd",
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )?;
    site.must(&["up"])?;
    ensure!(
        Path::new("/sys/fs/cgroup/slice-node/slices/alpha/payload").is_dir(),
        "the cgroups are elsewhere"
    );
    ensure!(
        !Path::new("/sys/fs/cgroup/slice-node.service").exists(),
        "systemd was asked"
    );
    let own = site.run_in("alpha", &["cat", "/proc/self/cgroup"])?.stdout;
    ensure!(
        own.trim() == "0::/slice-node/slices/alpha/payload",
        "alpha runs in {own}"
    );
    let floor = fs::read_to_string("/sys/fs/cgroup/slice-node/slices/alpha/memory.min")?;
    ensure!(floor.trim() == "16777216", "alpha's floor is {floor}");
    let denied = site.run_in("beta", &["python3", "-m", "http.server", "80"])?;
    ensure!(
        denied.stderr.contains("Address already in use"),
        "{}",
        denied.stderr
    );
    ensure!(
        site.counters()?.get("beta", "denials.port_reserved")? == 1,
        "it was not counted"
    );
    let _daemon = site.daemon()?;
    site.write("slices/gamma.toml", "")?;
    site.must(&["reload"])?;
    ensure!(
        site.run_in("gamma", &["true"])?.status == 0,
        "gamma does not run"
    );
    site.must(&["down"])?;
    nix::mount::umount("/run/systemd")?;
    before.again(node)
}

fn the_ports_of_slices_join_those_that_the_kernel_does_not_pick_and_leave_again(
    node: &mut Node,
) -> Result<()> {
    const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let site = Site::new(node, POLICY)?;
    let original = reserved_ports()?;
    fs::write(SYSCTL, "8005-8020,45000\n")?;
    let result = (|| {
        site.must(&["up"])?;
        let merged = reserved_ports()?;
        ensure!(
            merged == "22,53,80,8000-8020,45000,61000-65499",
            "up made it {merged}"
        );
        site.write("slices/gamma.toml", "ports.tcp = [50000]\n")?;
        site.must(&["reload"])?;
        let grown = reserved_ports()?;
        ensure!(
            grown == "22,53,80,8000-8020,45000,50000,61000-65499",
            "reload made it {grown}"
        );
        // Another tool adds one and takes one of its own away.
        fs::write(SYSCTL, "22,53,80,8000-8020,50000,51000,61000-65499\n")?;
        site.must(&["down"])?;
        let left = reserved_ports()?;
        ensure!(left == "8005-8020,51000", "down made it {left}");
        Ok(())
    })();
    fs::write(SYSCTL, format!("{original}\n"))?;
    result
}

fn a_process_on_a_slices_port_keeps_the_node_down(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let mut server = Command::new("python3");
    server.args(["-m", "http.server", "8003"]);
    let server = site.start("server", server)?;
    until("the server listens", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":8003 "))
    })?;
    let before = Inventory::take(node)?;
    let output = site.slice(&["up"])?;
    ensure!(
        output.status == 3,
        "up ended with {}: {}",
        output.status,
        output.stderr
    );
    let said = format!(
        "TCP port 8003 is reserved for slice beta and held by python3 (pid {})",
        server.pid()
    );
    ensure!(output.stderr.contains(&said), "it says {}", output.stderr);
    before.again(node)?;
    server.kill()?;
    site.must(&["up"])?;
    Ok(())
}

fn two_commands_at_once_wait_for_each_other(node: &mut Node) -> Result<()> {
    let site = Site::new(node, POLICY)?;
    let before = Inventory::take(node)?;
    for _ in 0..2 {
        let both = ["up", "up", "down", "up"].map(|argument| {
            let mut command = Command::new("slice");
            command
                .arg(argument)
                .arg("--policy")
                .arg(site.policy())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn()
        });
        for child in both {
            let Ok(child) = child else {
                bail!("slice cannot be started")
            };
            let output = child.wait_with_output()?;
            ensure!(
                output.status.success(),
                "one of them ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // Whichever came last, the node is wholly up or wholly down.
        let status = site.slice(&["status"])?.status;
        match status {
            0 => ensure!(
                site.run_in("alpha", &["true"])?.status == 0,
                "alpha does not run"
            ),
            4 => before.again(node)?,
            _ => bail!("status ended with {status}"),
        }
    }
    site.must(&["down"])?;
    before.again(node)
}
