//! The Debian package as a node owner meets it: installed by dpkg, its policy
//! edited, its units enabled, upgraded under load, removed, purged; and after
//! it the machine as it was before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::debian::{NAME, Owner, PACKAGE, POLICY, later};
use crate::inventory::Inventory;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::servers::listens;
use crate::siege::Ground;
use crate::site::{SLICES, Site, until};
use crate::ssh::Ssh;
use crate::status_hooks;
use crate::survival::{programs, still_counting};

pub const TESTS: &[Test] = &[
    test("the_units_are_sound", the_units_are_sound).per_root(),
    test(
        "a_restart_of_the_unit_ends_nothing_and_a_stop_ends_the_slices",
        a_restart_of_the_unit_ends_nothing_and_a_stop_ends_the_slices,
    )
    .once()
    .within(90),
    test(
        "an_upgrade_that_cannot_take_over_changes_nothing",
        an_upgrade_that_cannot_take_over_changes_nothing,
    )
    .once()
    .within(120),
    test(
        "a_package_lives_upgrades_under_load_and_leaves_nothing_while_ssh_goes_on",
        a_package_lives_upgrades_under_load_and_leaves_nothing_while_ssh_goes_on,
    )
    .per_root()
    .within(240),
];

/// How exposed systemd may find the daemon, in tenths: from 0 (not at all) to
/// 100.
const EXPOSURE_MAX: &str = "35";

/// Every file that a package could leave.
fn files(node: &Node) -> Result<BTreeSet<String>> {
    let places = ["/usr", "/etc", "/var", "/opt", "-xdev"];
    // The package database keeps logs and backups of itself, and what asks questions
    // for packages (here man-db's, which looks at new pages) a cache.
    let kept = ["/var/lib/dpkg/*", "/var/log/*", "/var/cache/debconf/*"];
    let not = kept.map(|path| ["!", "-path", path]).concat();
    let found = node.must("find", &[&places[..], &not].concat())?.stdout;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Files of slices that slices made.
const MANAGED: &str = "/var/lib/slice/managed";

/// Asks, in the name of a slice that has no grant, who makes slices for the daemon.
const ASK_FOR_SLICES: &str = r#"
import socket
sock = socket.socket(socket.AF_UNIX)
sock.connect('/run/slice-control.sock')
sock.sendall(b'{"Order":{"viewer":{"name":"alpha","id":1},"order":"List","body":[]}}')
sock.shutdown(socket.SHUT_WR)
print(sock.makefile().readline())
"#;

fn the_units_are_sound(node: &mut Node) -> Result<()> {
    let owner = Owner::of(node)?;
    owner.dpkg(&["--install", PACKAGE])?;
    let units = [
        "slice.service",
        "slice-daemon.service",
        "slice-control.socket",
        "slice-control@.service",
    ];
    let verified = node.run(
        "systemd-analyze",
        &[&["verify", "--man=no"], &units[..]].concat(),
    )?;
    let complaints: Vec<&str> = verified
        .stderr
        .lines()
        .filter(|line| line.contains("slice"))
        .collect();
    ensure!(
        verified.status == 0 && complaints.is_empty(),
        "systemd-analyze verify ended with {}: {complaints:?}",
        verified.status
    );
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let exposure = node.run(
        "systemd-analyze",
        &["security", "--no-pager", &threshold, units[1]],
    )?;
    println!("{}", exposure.stdout.lines().last().unwrap_or_default());
    ensure!(
        exposure.status == 0,
        "the daemon is more exposed than it was: {}",
        exposure.stdout
    );
    Ok(())
}

fn a_restart_of_the_unit_ends_nothing_and_a_stop_ends_the_slices(node: &mut Node) -> Result<()> {
    let owner = Owner::installed(node)?;
    let site = Site::installed(node);
    // Without the node there is nothing for the daemon to watch.
    owner.systemctl(&["start", "slice-daemon"])?;
    owner.is("slice-daemon.service", "inactive")?;
    owner.systemctl(&["start", "slice"])?;
    let daemon = owner.daemon()?;
    let mut tenant = site.start("tenant", site.in_slice("alpha", &["sleep", "10000"]))?;
    until("the tenant runs", || {
        Ok(!fs::read_to_string(format!("{SLICES}/alpha/payload/cgroup.procs"))?.is_empty())
    })?;
    let running = programs()?;

    // As where slices made slices: what may be left of that is done by who has no sandbox.
    fs::create_dir_all(MANAGED)?;
    owner.systemctl(&["restart", "slice"])?;
    ensure!(tenant.ended()?.is_none(), "the restart ended a process");
    ensure!(programs()? == running, "the restart replaced programs");
    ensure!(
        owner.daemon()? != daemon,
        "the daemon of before the restart runs"
    );

    // The sandbox lets the process that parses what slices ask give up the rest.
    let daemon = owner.daemon()?;
    until("somebody without rights parses for the daemon", || {
        let children = format!("/proc/{daemon}/task/{daemon}/children");
        let children = fs::read_to_string(children)?;
        let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Ok(children
            .split_whitespace()
            .map(status)
            .any(|status| status.contains(status_hooks::PARSER) && status.contains("Seccomp:\t2")))
    })
    .with_context(|| owner.journal())?;

    // What the sandbox does not let the daemon do is done by who has none, and it reaches that.
    until("the daemon handed something over", || {
        Ok(owner.property("slice-control.socket", "NAccepted")? != "0")
    })
    .with_context(|| owner.journal())?;
    fs::remove_dir(MANAGED)?;
    let told = node.must("python3", &["-c", ASK_FOR_SLICES])?.stdout;
    ensure!(
        told.contains("\"status\":403"),
        "{told}: {}",
        owner.journal()
    );

    // What the owner changed comes with a reload, by either unit.
    for (unit, name) in [("slice", "gamma"), ("slice-daemon", "delta")] {
        site.write(
            &format!("slices/{name}.toml"),
            "ports.tcp = [\"7000-7010\"]\n[memory]\nfloor = \"16 MiB\"\n[disk]\ncap = \"16 MiB\"\n",
        )?;
        owner.systemctl(&["reload", unit])?;
        until("the new slice is there", || {
            Ok(site.run_in(name, &["true"])?.status == 0)
        })
        .with_context(|| owner.journal())?;
        // Ranges that change hands, and the sandbox lets the kernel know.
        site.remove(&format!("slices/{name}.toml"))?;
        owner.systemctl(&["reload", unit])?;
        until("the slice is gone", || {
            Ok(!Path::new(SLICES).join(name).exists())
        })
        .with_context(|| owner.journal())?;
    }
    // A change that is refused is seen, and what runs goes on.
    site.write("slices/gamma.toml", "wrong = 1\n")?;
    let refused = node.run("systemctl", &["reload", "slice"])?;
    ensure!(refused.status != 0, "a malformed policy was taken");
    site.remove("slices/gamma.toml")?;
    owner.is("slice.service", "active")?;
    ensure!(tenant.ended()?.is_none(), "a reload ended a process");

    // The daemon notices a new address from inside its sandbox.
    node.must("ip", &["addr", "add", "10.0.2.77/24", "dev", "eth0"])?;
    let bind = "import socket; socket.socket().bind(('10.0.2.77', 0))";
    until("the new address is usable", || {
        Ok(site.run_in("beta", &["python3", "-c", bind])?.status == 0)
    })
    .with_context(|| owner.journal())?;
    node.must("ip", &["addr", "del", "10.0.2.77/24", "dev", "eth0"])?;
    let journal = owner.journal();
    ensure!(
        !journal.contains("could not") && !journal.contains("not permitted"),
        "the daemon lacks something in its sandbox: {journal}"
    );

    owner.systemctl(&["stop", "slice"])?;
    until("the tenant ends", || Ok(tenant.ended()?.is_some()))?;
    for unit in [
        "slice.service",
        "slice-daemon.service",
        "slice-control.socket",
    ] {
        owner.is(unit, "inactive")?;
    }
    ensure!(!fs::exists("/sys/fs/bpf/slice")?, "rules are left");
    ensure!(!fs::exists("/run/slice")?, "/run/slice is left");
    Ok(())
}

fn an_upgrade_that_cannot_take_over_changes_nothing(node: &mut Node) -> Result<()> {
    let owner = Owner::installed(node)?;
    let site = Site::installed(node);
    let other_layout = later(node, "layout", |root| {
        let preinst = root.join("DEBIAN/preinst");
        let text = fs::read_to_string(&preinst)?;
        let changed = text.replace("\nabi=1\n", "\nabi=2\n");
        ensure!(changed != text, "the preinst has no layout: {text}");
        Ok(fs::write(&preinst, changed)?)
    })?;
    let other_layout = other_layout.to_str().context("a path in UTF-8")?;
    let newer = later(node, "newer", |_| Ok(()))?;
    let newer = newer.to_str().context("a path in UTF-8")?;
    owner.systemctl(&["start", "slice"])?;
    let daemon = owner.daemon()?;
    let mut tenant = site.start("tenant", site.in_slice("alpha", &["sleep", "10000"]))?;
    until("the tenant runs", || {
        Ok(!fs::read_to_string(format!("{SLICES}/alpha/payload/cgroup.procs"))?.is_empty())
    })?;
    let (running, state) = (programs()?, owner.state()?);
    ensure!(state.ends_with(" installed"), "it is {state}");

    let refused = owner.try_dpkg(&["--install", other_layout])?;
    ensure!(refused.status != 0, "another layout was installed");
    ensure!(
        refused.stderr.contains("layout 2") && refused.stderr.contains("slice down"),
        "it says {}",
        refused.stderr
    );
    ensure!(owner.state()? == state, "it is {}", owner.state()?);
    ensure!(programs()? == running, "programs were replaced");
    ensure!(owner.daemon()? == daemon, "the daemon is another");
    site.must(&["status"])?;

    // In the middle of an edit: the package comes, the programs wait.
    site.write("slices/beta.toml", "wrong = 1\n")?;
    let said = owner.dpkg(&["--install", newer])?;
    ensure!(
        said.contains("under the programs of the former version") && said.contains("beta.toml"),
        "it says {said}"
    );
    ensure!(
        owner.state()?.contains("+later installed"),
        "{}",
        owner.state()?
    );
    ensure!(programs()? == running, "programs were replaced");
    site.write("slices/beta.toml", "")?;
    let said = site.must(&["up"])?;
    ensure!(said.contains("were replaced"), "it says {said}");

    // Nor is it removed from under a tenant.
    for way in ["--remove", "--purge"] {
        let refused = owner.try_dpkg(&[way, NAME])?;
        ensure!(refused.status != 0, "dpkg {way} went through");
        ensure!(
            refused.stderr.contains("something runs in slices: alpha")
                && refused.stderr.contains("slice down"),
            "it says {}",
            refused.stderr
        );
        ensure!(owner.state()?.ends_with(" installed"), "{}", owner.state()?);
    }
    ensure!(tenant.ended()?.is_none(), "a process ended");
    owner.is("slice-daemon.service", "active")?;
    site.must(&["down"])?;
    owner.dpkg(&["--purge", NAME])?;
    ensure!(!fs::exists("/etc/slice")?, "/etc/slice is left");
    Ok(())
}

/// How long each part of the siege is watched.
const A_WHILE: Duration = Duration::from_secs(2);

fn a_package_lives_upgrades_under_load_and_leaves_nothing_while_ssh_goes_on(
    node: &mut Node,
) -> Result<()> {
    let owner = Owner::of(node)?;
    let newer = later(node, "newer", |_| Ok(()))?;
    let newer = newer.to_str().context("a path in UTF-8")?;
    let ground = Ground::new(node)?;
    let ssh = Ssh::new(node)?;
    let site = Site::installed(node);
    let server = site.start("sshd.log", ssh.server()?)?;
    listens(node, 22)?;
    let words = |command: &str| ssh.login(command);
    // A session that is older than the package and outlives it.
    let session = words("echo the beginning; cat; echo the end")?;
    let session: Vec<&str> = session.iter().map(String::as_str).collect();
    let session = site.start("session.log", ground.beyond().command(&session))?;
    until("the session is there", || {
        Ok(session.output().contains("the beginning"))
    })?;
    // And a new one at every stage.
    let ssh_works = |stage: &str| -> Result<()> {
        let login = words("echo here")?;
        let login: Vec<&str> = login.iter().map(String::as_str).collect();
        let output = ground.beyond().run(&login)?;
        ensure!(
            output.stdout == "here\n",
            "{stage}: ssh ended with {}: {}",
            output.status,
            server.output()
        );
        Ok(())
    };
    let (before, files_before) = (Inventory::take(node)?, files(node)?);

    let said = owner.dpkg(&["--install", PACKAGE])?;
    ensure!(said.contains("nothing was started"), "it says {said}");
    ensure!(
        node.run("systemctl", &["is-enabled", "slice"])?
            .stdout
            .trim()
            == "disabled",
        "the unit was enabled"
    );
    owner.is("slice.service", "inactive")?;
    ensure!(!fs::exists("/sys/fs/bpf/slice")?, "the node is up");
    let verified = owner.dpkg(&["--verify", NAME])?;
    ensure!(
        verified.is_empty(),
        "files are not what they should be: {verified}"
    );
    for made in [
        "/usr/share/man/man1/slice.1.gz",
        "/usr/share/bash-completion/completions/slice",
        "/usr/share/doc/slice-node/examples/demo/node.toml",
        "/usr/share/doc/slice-node/manual/install.md",
    ] {
        ensure!(fs::exists(made)?, "there is no {made}");
    }
    // The policy that comes with it is one.
    node.must("slice", &["check"])?;
    ssh_works("installed")?;

    owner.write_policy()?;
    owner.systemctl(&["enable", "--now", "slice"])?;
    let daemon = owner.daemon()?;
    ssh_works("up")?;

    let mut siege = ground.siege_of(Site::installed(node))?;
    siege.endure(A_WHILE)?;
    let running = programs()?;
    let said = owner.dpkg(&["--install", newer])?;
    ensure!(said.contains("were replaced by those"), "it says {said}");
    let after = programs()?;
    ensure!(
        after.keys().eq(running.keys()) && after.iter().all(|(name, id)| running[name] != *id),
        "programs of {running:?} still run in {after:?}"
    );
    siege.endure(A_WHILE)?;
    siege.all_alive()?;
    still_counting(&mut siege)?;
    ensure!(
        owner.state()?.contains("+later installed"),
        "{}",
        owner.state()?
    );
    ensure!(
        fs::read_to_string("/etc/slice/node.toml")? == POLICY[0].1,
        "the owner's policy was overwritten"
    );
    let later_daemon = owner.daemon()?;
    ensure!(later_daemon != daemon, "the former daemon runs");
    ssh_works("upgraded")?;

    node.must("kill", &["-KILL", &later_daemon])?;
    until("systemd restarts the daemon", || {
        let now = owner.property("slice-daemon.service", "MainPID")?;
        Ok(now != "0" && now != later_daemon)
    })?;
    owner.daemon()?;
    siege.endure(Duration::ZERO)?;
    still_counting(&mut siege)?;
    siege.lift()?;

    // What a boot does: the unit's wish is what starts it.
    owner.systemctl(&["stop", "slice"])?;
    ensure!(!fs::exists("/sys/fs/bpf/slice")?, "the node is up");
    ssh_works("stopped")?;
    owner.systemctl(&["start", "multi-user.target"])?;
    until("the node comes up as at boot", || {
        Ok(node.run("slice", &["status"])?.status == 0)
    })?;
    owner.daemon()?;
    ssh_works("booted")?;

    // Nothing runs in a slice: it may go, and what the owner wrote stays.
    let said = owner.dpkg(&["--remove", NAME])?;
    ensure!(said.contains("taking the node down"), "it says {said}");
    ensure!(
        owner.state()?.ends_with(" config-files"),
        "{}",
        owner.state()?
    );
    for gone in ["/usr/bin/slice", "/sys/fs/bpf/slice", "/run/slice"] {
        ensure!(!fs::exists(gone)?, "{gone} is there");
    }
    ensure!(
        fs::exists("/etc/slice/slices/alpha.toml")?,
        "the policy is gone"
    );
    ssh_works("removed")?;
    owner.dpkg(&["--install", newer])?;
    ensure!(!fs::exists("/sys/fs/bpf/slice")?, "the node is up");
    owner.dpkg(&["--purge", NAME])?;
    ssh_works("purged")?;
    ensure!(owner.state()?.is_empty(), "it is {}", owner.state()?);

    before.again(node)?;
    let files_after = files(node)?;
    let left: Vec<&String> = files_after.symmetric_difference(&files_before).collect();
    ensure!(left.is_empty(), "other files than before: {left:?}");
    let output = session.finish().with_context(|| server.output())?;
    ensure!(output.contains("the end"), "the old session says {output}");
    Ok(())
}
