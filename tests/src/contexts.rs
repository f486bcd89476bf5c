//! A slice with a context is a machine of its own: root, processes, names,
//! users; and a way in that lets nothing of the node in.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::image;
use crate::node::{Node, Output};
use crate::runner::{Test, test};
use crate::site::{SLICES, Site, until};
use crate::terminal::on_terminal;

pub const TESTS: &[Test] = &[
    test(
        "a_slice_is_a_machine_of_its_own",
        a_slice_is_a_machine_of_its_own,
    )
    .on_stage(),
    test(
        "root_of_a_slice_is_nobody_on_the_node",
        root_of_a_slice_is_nobody_on_the_node,
    )
    .on_stage(),
    test(
        "what_a_slice_changes_is_its_own_and_stays_until_it_is_destroyed",
        what_a_slice_changes_is_its_own,
    )
    .on_stage(),
    test(
        "a_slice_makes_no_namespaces_unless_policy_lets_it",
        a_slice_makes_no_namespaces_unless_policy_lets_it,
    )
    .on_stage(),
    test(
        "a_command_in_a_context_ends_as_it_does_anywhere",
        a_command_ends_as_it_does_anywhere,
    )
    .on_stage(),
    test(
        "no_terminal_or_directory_of_the_node_enters_a_slice",
        no_terminal_or_directory_of_the_node_enters_a_slice,
    )
    .on_stage(),
    test(
        "a_terminal_of_the_slices_own_behaves_like_one",
        a_terminal_of_the_slices_own_behaves_like_one,
    )
    .on_stage(),
    test(
        "a_slice_that_is_stopped_is_asked_first",
        a_slice_that_is_stopped_is_asked_first,
    )
    .on_stage(),
    test(
        "a_context_that_comes_or_goes_with_the_policy_starts_or_ends",
        a_context_that_comes_or_goes_with_the_policy_starts_or_ends,
    )
    .once(),
    test("a_frozen_slice_stands_still", a_frozen_slice_stands_still)
        .on_stage()
        .once(),
    test(
        "what_a_slice_puts_in_place_of_its_directories_is_not_followed",
        what_a_slice_puts_in_place_of_its_directories_is_not_followed,
    )
    .on_stage(),
    test(
        "a_killed_first_process_ends_its_slice_which_starts_again",
        a_killed_first_process_ends_its_slice,
    )
    .on_stage(),
    test(
        "what_a_context_writes_counts_against_its_disk",
        what_a_context_writes_counts_against_its_disk,
    )
    .on_stage(),
    test(
        "a_slice_has_no_more_terminals_and_watches_than_it_may",
        a_slice_has_no_more_terminals_and_watches_than_it_may,
    )
    .on_stage(),
    test(
        "programs_in_a_context_show_its_sockets_and_no_others",
        programs_in_a_context_show_its_sockets_and_no_others,
    )
    .on_stage(),
    test(
        "a_slices_script_runs_at_its_start",
        a_slices_script_runs_at_its_start,
    )
    .on_stage(),
];

/// The slices of the stage that have contexts; `delta` may make namespaces
/// only in a policy of the test's own.
const SLICE: &str = "delta";
const OTHER: &str = "epsilon";

/// The stage, with both slices running.
fn open(node: &Node) -> Result<Site<'_>> {
    let site = Site::on_stage(node)?;
    site.must(&["start", SLICE, OTHER])?;
    Ok(site)
}

/// Runs a line of shell in a slice's context.
fn sh(site: &Site<'_>, slice: &str, line: &str) -> Result<Output> {
    site.slice(&["exec", slice, "--", "sh", "-c", line])
}

/// The same, which must succeed; what it writes, trimmed.
fn says(site: &Site<'_>, slice: &str, line: &str) -> Result<String> {
    let output = sh(site, slice, line)?;
    ensure!(
        output.status == 0,
        "{line:?} in {slice} ended with {}: {}{}",
        output.status,
        output.stderr,
        output.stdout
    );
    Ok(output.stdout.trim().to_owned())
}

fn a_slice_is_a_machine_of_its_own(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    for (line, expected) in [
        ("id -u; id -g; id -G", "0\n0\n0"),
        ("hostname", SLICE),
        ("cat /proc/1/comm", "slice"),
        ("cat /proc/self/cgroup", "0::/"),
        ("readlink -f /proc/1/root", "/"),
        ("stat -c %t:%T /dev/null /dev/tty", "1:3\n5:0"),
        ("stat -f -c %T /", "overlayfs"),
        ("sed -n s/localhost//p /etc/hosts | grep -c 127.0.0.1", "1"),
        ("getent hosts $(hostname) | tr -s ' '", "127.0.1.1 delta"),
    ] {
        let said = says(&site, SLICE, line)?;
        ensure!(said == expected, "{line:?} says {said:?}, not {expected:?}");
    }
    // It sees its own processes and no others.
    let count: usize = says(&site, SLICE, "ls /proc | grep -c '^[0-9]'")?.parse()?;
    ensure!(count < 8, "the slice sees {count} processes");
    let mine = site.start("sleep", {
        let mut run = std::process::Command::new("slice");
        run.args(["exec", OTHER, "--", "sleep", "1234"]);
        run
    })?;
    until("the other slice sleeps", || {
        Ok(site.must(&["ps", OTHER])?.contains("sleep 1234"))
    })?;
    let seen = says(&site, SLICE, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
    ensure!(!seen.contains("1234"), "the slice sees {seen}");
    // The other way round the node sees both, each with its slice.
    let rows = site.json(&["ps"])?;
    let rows = rows["processes"].as_array().context("ps has no rows")?;
    ensure!(
        rows.iter()
            .any(|row| row["slice"] == OTHER && row["uid"] == 0 && row["command"] == "sleep 1234"),
        "the node sees {rows:?}"
    );
    mine.kill()
}

fn root_of_a_slice_is_nobody_on_the_node(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let status = says(&site, SLICE, "cat /proc/self/status")?;
    let field = |name: &str| -> Result<String> {
        let line = status.lines().find(|line| line.starts_with(name));
        Ok(line.context(name.to_owned())?[name.len()..]
            .trim()
            .to_owned())
    };
    let bounding = u64::from_str_radix(&field("CapBnd:")?, 16)?;
    // By their numbers in linux/capability.h.
    for (number, name) in [
        (12, "net_admin"),
        (13, "net_raw"),
        (16, "sys_module"),
        (17, "sys_rawio"),
        (21, "sys_admin"),
        (22, "sys_boot"),
        (24, "sys_resource"),
        (25, "sys_time"),
        (27, "mknod"),
        (34, "syslog"),
        (38, "perfmon"),
        (39, "bpf"),
        (40, "checkpoint_restore"),
    ] {
        ensure!(bounding >> number & 1 == 0, "the slice has cap_{name}");
    }
    for (number, name) in [(0, "chown"), (6, "setgid"), (7, "setuid")] {
        ensure!(bounding >> number & 1 == 1, "the slice has no cap_{name}");
    }
    ensure!(field("CapInh:")? == "0000000000000000", "inheritable");
    ensure!(field("CapAmb:")? == "0000000000000000", "ambient");
    // What it is from outside.
    let pids = fs::read_to_string(format!("{SLICES}/{SLICE}/payload/cgroup.procs"))?;
    let pid = pids.lines().next().context("no process")?;
    let outside = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uid = outside
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .context("no Uid")?;
    let uids: Vec<u32> = uid
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(
        uids.iter().all(|uid| *uid >= 1_879_048_192),
        "its first process is {uids:?}"
    );
    // What would reach the node is refused.
    for line in [
        "mknod /root/disk b 254 0",
        "mount -t tmpfs none /mnt",
        "umount /proc",
        "mount -o remount,rw /sys",
        "hostname other",
        "echo 1 > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 9 > /proc/sys/user/max_user_namespaces",
        "cat /proc/kcore | head -c1 | grep .",
        "dmesg",
        "ip link set lo down",
        "ip addr add 10.9.9.9/32 dev lo",
        "nft add table inet x",
        "echo > /proc/1/exe",
        "chown 70000 /root",
        "date -s 2000-01-01",
        "renice -n -20 1",
        "echo -1000 > /proc/self/oom_score_adj",
    ] {
        let output = sh(&site, SLICE, line)?;
        ensure!(
            output.status != 0,
            "{line:?} succeeded: {}{}",
            output.stdout,
            output.stderr
        );
    }
    // And what a root may do with its own machine works.
    for line in [
        "useradd -m alice && su alice -c 'test $(id -u) -ge 1000'",
        "touch /usr/x && chown alice /usr/x && rm /usr/x",
        "mkdir /opt/a && mv /opt/a /opt/b && rmdir /opt/b",
        "cp /bin/true /usr/local/bin/t && chmod 4755 /usr/local/bin/t && rm /usr/local/bin/t",
    ] {
        says(&site, SLICE, line)?;
    }
    site.must(&["destroy", "--yes", SLICE])?;
    Ok(())
}

fn what_a_slice_changes_is_its_own(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    says(
        &site,
        SLICE,
        "rm /usr/bin/pstree.x11 2>/dev/null; rm /etc/debian_version; echo mine > /srv/file; mv /usr/games /usr/plays",
    )?;
    let untouched = "test -e /etc/debian_version && test ! -e /srv/file && test -d /usr/games";
    says(&site, OTHER, untouched)?;
    ensure!(
        fs::exists("/etc/debian_version")? && !fs::exists("/srv/file")?,
        "the node's files changed"
    );
    let changed = "test ! -e /etc/debian_version && cat /srv/file && test -d /usr/plays";
    site.must(&["restart", SLICE])?;
    ensure!(
        says(&site, SLICE, changed)? == "mine",
        "its file is another"
    );
    let refused = site.slice(&["destroy", SLICE])?;
    ensure!(
        refused.status == 2 && refused.stderr.contains("--yes"),
        "destroy without --yes: {} {}",
        refused.status,
        refused.stderr
    );
    site.must(&["destroy", "--yes", SLICE])?;
    ensure!(
        !fs::exists("/var/lib/slice/slices/delta")?,
        "its files are still there"
    );
    site.must(&["start", SLICE])?;
    says(&site, SLICE, untouched)?;
    Ok(())
}

/// Programs that make one kind of namespace each.
const UNSHARES: [&str; 7] = [
    "unshare --user true",
    "unshare --mount true",
    "unshare --net true",
    "unshare --pid --fork true",
    "unshare --uts true",
    "unshare --ipc true",
    "unshare --cgroup true",
];

fn a_slice_makes_no_namespaces_unless_policy_lets_it(node: &mut Node) -> Result<()> {
    {
        let site = open(node)?;
        for line in UNSHARES {
            let output = sh(&site, SLICE, line)?;
            ensure!(output.status != 0, "{line:?} succeeded: {}", output.stderr);
        }
        // Not by way of a user namespace either, whose root may.
        let output = sh(&site, SLICE, "unshare --user --map-root-user --net true")?;
        ensure!(output.status != 0, "through a user namespace");
    }
    let site = open(node)?;
    site.must(&["start", "zeta"])?;
    let nested = says(
        &site,
        "zeta",
        "unshare --user --map-root-user --net --mount sh -c 'ip -o link | wc -l'",
    )?;
    ensure!(nested == "1", "its own network has {nested} devices");
    Ok(())
}

fn a_command_ends_as_it_does_anywhere(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    for (command, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program"], 127),
        (&["/etc"], 126),
    ] {
        let ended = site.slice(&[&["exec", SLICE, "--"], command].concat())?;
        ensure!(
            ended.status == status,
            "{command:?} ended with {}, not {status}: {}",
            ended.status,
            ended.stderr
        );
    }
    for (words, status) in [
        (&["exec", "nobody_of_that_name", "--", "true"][..], 125),
        (&["exec", "--user", "bob", SLICE, "--", "true"], 125),
        (&["exec", "alpha", "--", "true"], 125),
        (&["run", SLICE, "--", "true"], 125),
    ] {
        let ended = site.slice(words)?;
        ensure!(
            ended.status == status && !ended.stderr.is_empty(),
            "{words:?} ended with {}: {}",
            ended.status,
            ended.stderr
        );
    }
    let apart = sh(&site, SLICE, "echo out; echo err >&2")?;
    ensure!(
        (apart.stdout.trim(), apart.stderr.trim()) == ("out", "err"),
        "streams: {:?} {:?}",
        apart.stdout,
        apart.stderr
    );
    // What it leaves behind keeps the terminal from nobody, though it writes to it.
    let left = format!(
        "slice exec {SLICE} -- sh -c 'echo first; for i in $(seq 20); do echo x; sleep 1; done & exit 3'"
    );
    let shown = node.run("timeout", &["15", "script", "-qec", &left, "/dev/null"])?;
    ensure!(shown.status == 3, "{}: {}", shown.status, shown.stdout);
    ensure!(shown.stdout.contains("first"), "it shows {}", shown.stdout);

    let script = "trap 'echo got TERM; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut run = std::process::Command::new("slice");
    run.args(["exec", SLICE, "--", "sh", "-c", script]);
    let mut command = site.start("trap", run)?;
    until("the command is ready", || {
        Ok(command.output().contains("ready"))
    })?;
    command.signal(Signal::TERM)?;
    until("it ends", || Ok(command.ended()?.is_some()))?;
    ensure!(
        command.output().contains("got TERM"),
        "{}",
        command.output()
    );
    // Whoever called is gone: the command is told.
    let script = "trap 'echo bye > /run/bye; exit' HUP; echo ready; while :; do sleep 0.1; done";
    let mut run = std::process::Command::new("slice");
    run.args(["exec", SLICE, "--", "sh", "-c", script]);
    let command = site.start("hup", run)?;
    until("the command is ready", || {
        Ok(command.output().contains("ready"))
    })?;
    command.kill()?;
    until("the command hears that its caller is gone", || {
        Ok(says(&site, SLICE, "cat /run/bye 2>/dev/null; true")? == "bye")
    })
}

fn no_terminal_or_directory_of_the_node_enters_a_slice(node: &mut Node) -> Result<()> {
    let _site = open(node)?;
    // Without a terminal of its own, the command has pipes.
    let line = "for n in 0 1 2; do test -t $n && echo tty $n; readlink /proc/self/fd/$n; done";
    let output = on_terminal(
        node,
        &["slice", "exec", SLICE, "--", "sh", "-c", line],
        "",
        "",
    )?;
    ensure!(
        !output.stdout.contains("tty") && output.stdout.matches("pipe:").count() == 3,
        "the command has {}",
        output.stdout
    );
    // With one, it is the slice's.
    let line = "tty; ls -l /proc/self/fd/0";
    let words = ["slice", "exec", "-t", SLICE, "--", "sh", "-c", line];
    let output = on_terminal(node, &words, "", "")?;
    ensure!(
        output.stdout.contains("/dev/pts/"),
        "no terminal: {}{}",
        output.stdout,
        output.stderr
    );
    // A directory as standard input is a way to the node's files.
    let through = format!(
        "slice exec {SLICE} -- sh -c 'ls /proc/self/fd/0/ 2>&1; cat /proc/self/fd/0/etc/machine-id 2>&1' < /"
    );
    let output = node.run("sh", &["-c", &through])?;
    ensure!(
        !output.stdout.contains("etc")
            || output.stdout.contains("No such file")
            || output.stdout.contains("Not a directory"),
        "it listed {}",
        output.stdout
    );
    ensure!(
        !output.stdout.contains("5c1ce0000000000000000000000000a1"),
        "it read the node's file: {}",
        output.stdout
    );
    // A file that the caller redirected is the command's.
    let file = node.dir().join("out");
    let through = format!("echo in | slice exec {SLICE} -- cat > {}", file.display());
    node.must("sh", &["-c", &through])?;
    ensure!(
        fs::read_to_string(&file)? == "in\n",
        "the file has something else"
    );
    Ok(())
}

fn a_terminal_of_the_slices_own_behaves_like_one(node: &mut Node) -> Result<()> {
    let _site = open(node)?;
    // What is typed arrives, also ahead of the command; the status comes back.
    let words = [
        "slice",
        "exec",
        "-t",
        SLICE,
        "--",
        "sh",
        "-c",
        "echo ready; read line; echo \"<$line>\"; exit 9",
    ];
    let output = on_terminal(node, &words, "ready", "hello\n")?;
    ensure!(
        output.stdout.contains("<hello>") && output.status == 9,
        "{} {}",
        output.status,
        output.stdout
    );
    // Control-C interrupts what runs on it.
    let words = [
        "slice",
        "exec",
        "-t",
        SLICE,
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 60",
    ];
    let start = Instant::now();
    let output = on_terminal(node, &words, "ready", "\x03")?;
    ensure!(
        output.status == 128 + 2 && start.elapsed() < Duration::from_secs(50),
        "control-C: {} {}",
        output.status,
        output.stdout
    );
    // A shell as at a login, with job control.
    let output = on_terminal(
        node,
        &["slice", "enter", SLICE],
        "# ",
        "echo $0 $HOME; sleep 5 & jobs; exit 5\n",
    )?;
    ensure!(
        output.stdout.contains("-bash /root")
            && output.stdout.contains("Running")
            && output.status == 5,
        "a login: {} {}",
        output.status,
        output.stdout
    );
    Ok(())
}

fn a_slice_that_is_stopped_is_asked_first(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let polite =
        "trap 'echo asked > /srv/asked; exit' TERM; touch /run/ready; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM HUP; touch /run/deaf; while :; do sleep 0.1; done";
    for line in [polite, deaf] {
        says(
            &site,
            SLICE,
            &format!(
                "setsid sh -c \"{}\" > /dev/null 2>&1 &",
                line.replace('"', "\\\"")
            ),
        )?;
    }
    until("both run", || {
        Ok(sh(&site, SLICE, "test -e /run/ready && test -e /run/deaf")?.status == 0)
    })?;
    let start = Instant::now();
    ensure!(site.must(&["stop", SLICE])?.contains("stopped"), "stop");
    // The stage gives two seconds.
    ensure!(
        start.elapsed() > Duration::from_secs(2),
        "the deaf one was not waited for"
    );
    ensure!(
        site.must(&["stop", SLICE])?.contains("nothing to do"),
        "again"
    );
    let gone = fs::read_to_string(format!("{SLICES}/{SLICE}/cgroup.events"))?;
    ensure!(gone.contains("populated 0"), "something runs");
    site.must(&["start", SLICE])?;
    ensure!(
        says(&site, SLICE, "cat /srv/asked")? == "asked",
        "nobody asked"
    );
    site.must(&["destroy", "--yes", SLICE])?;
    Ok(())
}

fn a_frozen_slice_stands_still(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let count = "setsid sh -c 'while :; do echo . >> /run/n; sleep 0.05; done' > /dev/null 2>&1 &";
    says(&site, SLICE, count)?;
    until("it counts", || {
        Ok(sh(&site, SLICE, "test -s /run/n")?.status == 0)
    })?;
    site.must(&["freeze", SLICE])?;
    let used = || -> Result<String> {
        let stat = fs::read_to_string(format!("{SLICES}/{SLICE}/cpu.stat"))?;
        Ok(stat.lines().next().unwrap_or_default().to_owned())
    };
    until("it stands still", || {
        let before = used()?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(used()? == before)
    })?;
    let context = || -> Result<serde_json::Value> {
        Ok(site.json(&["status", SLICE])?["rows"][0]["context"].take())
    };
    ensure!(context()? == "frozen", "status says {}", context()?);
    site.must(&["thaw", SLICE])?;
    ensure!(context()? == "running", "status says {}", context()?);
    says(
        &site,
        SLICE,
        "a=$(wc -l < /run/n); sleep 1; test $(wc -l < /run/n) -gt $a",
    )?;
    // One that is frozen can be stopped, and one that is stopped is not frozen:
    // it would be born standing still.
    site.must(&["freeze", SLICE])?;
    site.must(&["stop", SLICE])?;
    ensure!(context()? == "stopped", "status says {}", context()?);
    site.must(&["freeze", SLICE])?;
    site.must(&["start", SLICE])?;
    says(&site, SLICE, "true")?;
    // Nor does one stand still whose first process was killed while it did.
    site.must(&["freeze", SLICE])?;
    fs::write(format!("{SLICES}/{SLICE}/cgroup.kill"), "1")?;
    until("it is gone", || {
        Ok(fs::read_to_string(format!("{SLICES}/{SLICE}/cgroup.events"))?.contains("populated 0"))
    })?;
    site.must(&["start", SLICE])?;
    says(&site, SLICE, "true")?;
    Ok(())
}

fn a_context_that_comes_or_goes_with_the_policy_starts_or_ends(node: &mut Node) -> Result<()> {
    const NAME: &str = "alpha";
    const POLICY: &str = "[context]\nimage = \"debian\"\nstop_after = \"1 s\"\n";
    image::debian(node)?;
    let files = [
        ("node.toml", "[node]\nmax_slices = 4\n"),
        ("slices/alpha.toml", ""),
    ];
    let site = Site::up(node, &files)?;
    let becomes = |policy: &str| -> Result<()> {
        site.write("slices/alpha.toml", policy)?;
        site.must(&["reload"]).map(drop)
    };
    becomes(POLICY)?;
    says(&site, NAME, "echo kept > /root/file")?;
    becomes("")?;
    ensure!(
        fs::read_to_string(format!("{SLICES}/{NAME}/cgroup.events"))?.contains("populated 0"),
        "something of it still runs"
    );
    ensure!(
        site.run_in(NAME, &["true"])?.status == 0,
        "it is no slice without a context"
    );
    becomes(POLICY)?;
    says(&site, NAME, "grep -q kept /root/file")?;
    // What it has on disk can go when it has no context.
    becomes("")?;
    site.must(&["destroy", "--yes", NAME])?;
    ensure!(
        !fs::exists(format!("/var/lib/slice/slices/{NAME}"))?,
        "its files are there"
    );
    Ok(())
}

fn what_a_slice_puts_in_place_of_its_directories_is_not_followed(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // Mount points in use cannot be replaced from inside, so the layer is
    // prepared as a slice could leave it with help from its image.
    let upper = "/var/lib/slice/slices/delta/upper";
    for name in ["dev", "proc", "run"] {
        site.must(&["stop", SLICE])?;
        let path = format!("{upper}/{name}");
        let _ = fs::remove_dir_all(&path);
        std::os::unix::fs::symlink("/etc", &path)?;
        let output = site.slice(&["start", SLICE])?;
        ensure!(
            output.status == 1 && output.stderr.contains(&format!("directory /{name}")),
            "/{name} a link: {} {}",
            output.status,
            output.stderr
        );
        ensure!(!fs::exists("/etc/null")?, "devices in the node's /etc");
        fs::remove_file(&path)?;
        fs::write(&path, "a file")?;
        let output = site.slice(&["start", SLICE])?;
        ensure!(output.status == 1, "/{name} a file: {}", output.stderr);
        fs::remove_file(&path)?;
    }
    site.must(&["destroy", "--yes", SLICE])?;
    site.must(&["start", SLICE])?;
    says(&site, SLICE, "test -c /dev/null")?;
    Ok(())
}

fn a_killed_first_process_ends_its_slice(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    says(&site, SLICE, "setsid sleep 1000 > /dev/null 2>&1 &")?;
    // Its own root cannot.
    says(&site, SLICE, "kill -9 1; sleep 0.2; test -d /proc/1")?;
    let pids = fs::read_to_string(format!("{SLICES}/{SLICE}/payload/cgroup.procs"))?;
    let first = pids.lines().next().context("no process")?.to_owned();
    node.must("kill", &["-9", &first])?;
    until("everything of the slice has ended", || {
        let events = fs::read_to_string(format!("{SLICES}/{SLICE}/cgroup.events"))?;
        Ok(events.contains("populated 0"))
    })?;
    let output = sh(&site, SLICE, "true")?;
    ensure!(
        output.status == 125 && output.stderr.contains("does not run"),
        "exec: {} {}",
        output.status,
        output.stderr
    );
    site.must(&["start", SLICE])?;
    says(&site, SLICE, "true")?;
    Ok(())
}

fn a_slices_script_runs_at_its_start(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let script = "#!/bin/sh\necho started with $1\nsleep 1000\n";
    says(
        &site,
        SLICE,
        &format!(
            "printf '{}' > /etc/rc.local; chmod 755 /etc/rc.local",
            script.replace('\n', "\\n")
        ),
    )?;
    site.must(&["restart", SLICE])?;
    until("it has run", || {
        let said = says(&site, SLICE, "cat /run/rc.local.log 2>/dev/null; true")?;
        Ok(said == "started with start")
    })?;
    site.must(&["destroy", "--yes", SLICE])?;
    Ok(())
}

fn what_a_context_writes_counts_against_its_disk(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    // The stage gives 24 MiB and 600 inodes.
    let full = sh(
        &site,
        OTHER,
        "dd if=/dev/zero of=/srv/big bs=1M count=40 2>&1",
    )?;
    ensure!(
        full.status != 0 && full.stdout.contains("Disk quota exceeded"),
        "40 MiB: {} {}",
        full.status,
        full.stdout
    );
    let row = site.json(&["status", OTHER])?["rows"][0].take();
    let used = row["disk"]["usage"].as_u64().context("no usage")?;
    ensure!((20 << 20..=24 << 20).contains(&used), "status says {row}");
    says(&site, OTHER, "rm /srv/big")?;
    let many = sh(
        &site,
        OTHER,
        "cd /srv; for n in $(seq 1000); do : > f$n; done",
    )?;
    ensure!(
        many.status != 0 && many.stderr.contains("Disk quota exceeded"),
        "1000 files: {} {}",
        many.status,
        many.stderr
    );
    site.must(&["destroy", "--yes", OTHER])?;
    site.must(&["start", OTHER])?;
    says(&site, OTHER, "test ! -e /srv/f1 && echo x > /srv/f1")?;
    Ok(())
}

fn a_slice_has_no_more_terminals_and_watches_than_it_may(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let open_all = "import os, ctypes\n\
        c = ctypes.CDLL(None)\n\
        keep = []\n\
        def most(make):\n\
        \x20   made = []\n\
        \x20   while len(made) < 5000:\n\
        \x20       try: made.append(make())\n\
        \x20       except OSError: break\n\
        \x20       if made[-1] < 0: made.pop(); break\n\
        \x20   n = len(made)\n\
        \x20   for fd in made: os.close(fd)\n\
        \x20   keep.append(made)\n\
        \x20   return n\n\
        import resource\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\n\
        print(most(lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)), most(lambda: c.inotify_init()))\n";
    let hold = open_all.replace("    for fd in made: os.close(fd)\n", "");
    let holder = site.start("holder", {
        let mut run = std::process::Command::new("slice");
        run.args(["exec", SLICE, "--", "python3", "-uc"]);
        run.arg(format!("{hold}import time; time.sleep(1000)\n"));
        run
    })?;
    until("it has opened all it can", || {
        Ok(holder.output().contains('\n'))
    })?;
    let said = holder.output();
    let counts: Vec<u32> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| said.clone())?;
    let [terminals, watches] = counts.as_slice() else {
        anyhow::bail!("it says {said}");
    };
    ensure!(
        *terminals == 256 && (100..=1024).contains(watches),
        "it made {said}"
    );
    // Others have theirs still, and so has the node.
    let other = site.slice(&["exec", OTHER, "--", "python3", "-c", open_all])?;
    ensure!(
        other.stdout.trim() == said.trim(),
        "the other slice made {}{}",
        other.stdout,
        other.stderr
    );
    let node_has = node.must("python3", &["-c", open_all])?.stdout;
    let instances = node_has.split_whitespace().nth(1).context("no count")?;
    ensure!(instances.parse::<u32>()? > 50, "the node made {node_has}");
    holder.kill()?;
    // Nor can it have its core dumped by the node's handler.
    let limit = says(&site, SLICE, "cat /proc/self/limits | grep core")?;
    ensure!(limit.split_whitespace().nth(4) == Some("1"), "{limit}");
    Ok(())
}

fn programs_in_a_context_show_its_sockets_and_no_others(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let listen = |slice: &str, port: u16| {
        let line = format!(
            "setsid python3 -c 'import socket,time; s=socket.socket(); s.bind((\"\",{port})); s.listen(); time.sleep(1000)' > /dev/null 2>&1 &"
        );
        says(&site, slice, &line)
    };
    listen(SLICE, 7101)?;
    listen(OTHER, 7102)?;
    until("both listen", || {
        let all = node.must("ss", &["-Hltn"])?.stdout;
        Ok(all.contains(":7101 ") && all.contains(":7102 "))
    })?;
    for line in [
        "ss -Hltn",
        "cat /proc/net/tcp | sed 's/:1BBD /:7101 /; s/:1BBE /:7102 /'",
    ] {
        let seen = says(&site, SLICE, line)?;
        ensure!(
            seen.contains(":7101 ") && !seen.contains(":7102 "),
            "{line:?} shows {seen}"
        );
    }
    // What lists everybody's is closed by every other way.
    for path in [
        "/proc/self/net/tcp",
        "/proc/1/net/unix",
        "/proc/thread-self/net/udp",
    ] {
        let output = sh(&site, SLICE, &format!("cat {path}"))?;
        ensure!(
            output.status != 0 && output.stderr.contains("Permission denied"),
            "{path}: {} {}",
            output.stdout,
            output.stderr
        );
    }
    let output = sh(
        &site,
        SLICE,
        "umount /proc/net; rm -rf /run/slice/net; cat /proc/net/tcp",
    )?;
    ensure!(
        output.stdout.contains("1BBD"),
        "it is not locked: {}",
        output.stderr
    );
    // And the rest of the network shows as on the node.
    for line in [
        "ip -o addr",
        "ip route",
        "cat /proc/net/dev",
        "cat /proc/net/route",
    ] {
        ensure!(
            !says(&site, SLICE, line)?.is_empty(),
            "{line} shows nothing"
        );
    }
    Ok(())
}
