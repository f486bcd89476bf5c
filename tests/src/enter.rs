//! `slice run`: a command becomes a process of the slice, with the slice's
//! limits and without the caller's rights, and cannot get out again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{SLICES, Site, until};

pub const TESTS: &[Test] = &[
    test(
        "a_commands_exit_status_is_that_of_slice_run",
        a_commands_exit_status_is_that_of_slice_run,
    )
    .on_stage(),
    test("signals_reach_the_command", signals_reach_the_command).on_stage(),
    test(
        "a_command_has_the_slices_user_and_no_rights",
        a_command_has_the_slices_user_and_no_rights,
    )
    .on_stage(),
    test(
        "a_command_inherits_nothing_but_its_three_streams",
        a_command_inherits_nothing_but_its_three_streams,
    )
    .on_stage(),
    test(
        "a_slice_has_no_more_processes_than_its_policy_says",
        a_slice_has_no_more_processes_than_its_policy_says,
    )
    .on_stage(),
    test(
        "a_slice_has_no_more_memory_than_its_policy_says",
        a_slice_has_no_more_memory_than_its_policy_says,
    )
    .on_stage(),
    test(
        "a_slice_has_no_more_cpu_time_than_its_policy_says",
        a_slice_has_no_more_cpu_time_than_its_policy_says,
    )
    .on_stage(),
    test(
        "a_slice_cannot_leave_its_cgroup_or_raise_its_limits",
        a_slice_cannot_leave_its_cgroup_or_raise_its_limits,
    )
    .on_stage(),
    test(
        "a_slice_may_divide_its_own_cgroup",
        a_slice_may_divide_its_own_cgroup,
    )
    .on_stage(),
];

fn a_commands_exit_status_is_that_of_slice_run(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let script = node.dir().join("not-a-program");
    fs::write(&script, "")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644))?;
    let script = script.to_str().context("a path in UTF-8")?;
    for (command, status) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program"], 127),
        (&[script], 126),
        (&["/etc"], 126),
    ] {
        let ended = site.run_in("beta", command)?;
        ensure!(
            ended.status == status,
            "{command:?} ended with {}, not {status}: {}",
            ended.status,
            ended.stderr
        );
    }
    // What goes wrong before the command runs has a status of its own.
    let unknown = site.run_in("nobody_of_that_name", &["true"])?;
    ensure!(
        unknown.status == 125,
        "an unknown slice ended with {}: {}",
        unknown.status,
        unknown.stderr
    );
    Ok(())
}

fn signals_reach_the_command(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let script = "trap 'echo got TERM; exit 7' TERM; trap 'echo got HUP' HUP; echo ready; while :; do sleep 0.1; done";
    let mut command = site.start("trap", site.in_slice("beta", &["sh", "-c", script]))?;
    until("the command is ready", || {
        Ok(command.output().contains("ready"))
    })?;
    command.signal(Signal::HUP)?;
    until("it hears SIGHUP", || {
        Ok(command.output().contains("got HUP"))
    })?;
    command.signal(Signal::TERM)?;
    until("it ends", || Ok(command.ended()?.is_some()))?;
    ensure!(
        command.output().contains("got TERM"),
        "it wrote {}",
        command.output()
    );
    let status = command.ended()?.and_then(|status| status.code());
    ensure!(status == Some(7), "slice run ended with {status:?}");
    Ok(())
}

fn a_command_has_the_slices_user_and_no_rights(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let status = site.run_in("tight", &["cat", "/proc/self/status"])?.stdout;
    let first: u32 = site.run_in("tight", &["id", "-u"])?.stdout.trim().parse()?;
    ensure!(first >= 1_879_048_192, "the slice's user is {first}");
    for (field, value) in [
        ("Uid", format!("{first}\t{first}\t{first}\t{first}")),
        ("Gid", format!("{first}\t{first}\t{first}\t{first}")),
        ("Groups", String::new()),
        ("CapInh", "0000000000000000".to_owned()),
        ("CapPrm", "0000000000000000".to_owned()),
        ("CapEff", "0000000000000000".to_owned()),
        ("CapBnd", "0000000000000000".to_owned()),
        ("CapAmb", "0000000000000000".to_owned()),
        ("NoNewPrivs", "1".to_owned()),
        ("SigBlk", "0000000000000000".to_owned()),
    ] {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{field}:")));
        let line = line.with_context(|| format!("no line {field} in {status}"))?;
        ensure!(line.trim() == value, "{field} is {line:?}, not {value:?}");
    }
    // Other slices have other users.
    let other: u32 = site.run_in("beta", &["id", "-u"])?.stdout.trim().parse()?;
    ensure!(
        other.abs_diff(first) >= 65_536,
        "the users are {first} and {other}"
    );
    // A set-user-id program gives nothing back.
    let sudo = site.run_in("tight", &["su", "-c", "id -u"])?;
    ensure!(
        sudo.status != 0 && !sudo.stdout.contains('0'),
        "su ended with {}: {}",
        sudo.status,
        sudo.stdout
    );
    let environment = site.run_in("tight", &["env"])?.stdout;
    for line in environment.lines() {
        let name = line.split('=').next().unwrap_or_default();
        let known = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "TERM",
            "COLORTERM",
            "LANG",
            "TZ",
        ];
        ensure!(
            known.contains(&name),
            "the caller's {line} is in the environment"
        );
    }
    Ok(())
}

fn a_command_inherits_nothing_but_its_three_streams(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    // Descriptors 3 and 9 are open in the shell that calls slice.
    let line = "exec 3</etc/shadow 9<>/dev/kmsg; exec slice run tight -- ls /proc/self/fd";
    let listed = node.must("sh", &["-c", line])?.stdout;
    let listed: Vec<&str> = listed.split_whitespace().collect();
    // 3 is the directory that ls itself reads.
    ensure!(listed == ["0", "1", "2", "3"], "open are {listed:?}");
    let line = "exec 3</etc/shadow; exec slice run tight -- sh -c 'cat <&3'";
    let read = node.run("sh", &["-c", line])?;
    ensure!(
        read.status != 0 && read.stdout.is_empty(),
        "it read {}",
        read.stdout
    );
    let terminal = site.run_in("tight", &["sh", "-c", "exec 2>/dev/null; : </dev/tty"])?;
    ensure!(terminal.status != 0, "it has the caller's terminal");
    let session = site
        .run_in("tight", &["sh", "-c", "ps -o sid= -p $$; echo $$"])?
        .stdout;
    let numbers: Vec<&str> = session.split_whitespace().collect();
    ensure!(
        numbers.len() == 2 && numbers[0] == numbers[1],
        "it is in another's session: {numbers:?}"
    );
    Ok(())
}

fn a_slice_has_no_more_processes_than_its_policy_says(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    // A shell gives up at the first fork that fails.
    let line = "for i in $(seq 30); do sleep 20 & done; sleep 20";
    let mut shells = Vec::new();
    for log in ["many1", "many2"] {
        shells.push(site.start(log, site.in_slice("tight", &["sh", "-c", line]))?);
    }
    let read = |file: &str| fs::read_to_string(format!("{SLICES}/tight/{file}"));
    until("the slice is full", || {
        Ok(!read("pids.events")?.contains("max 0"))
    })?;
    // The kernel counts one that it refuses for a moment, too.
    until("it has as many as it may", || {
        let processes = site.json(&["status", "tight"])?["rows"][0]["processes"].take();
        ensure!(processes["limit"] == 12, "status says {processes}");
        let peak = processes["usage"].as_u64().context("no usage")?;
        Ok((10..=12).contains(&peak))
    })?;
    // Its neighbour and the node are not in the way.
    ensure!(
        site.run_in("beta", &["true"])?.status == 0,
        "beta cannot run anything"
    );
    Ok(())
}

fn a_slice_has_no_more_memory_than_its_policy_says(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let take = |mib: u32| format!("b = bytearray({mib} << 20); print(len(b) >> 20)");
    let little = site.run_in("tight", &["python3", "-c", &take(20)])?;
    ensure!(
        little.status == 0 && little.stdout.trim() == "20",
        "20 MiB: {} {}",
        little.status,
        little.stderr
    );
    let much = site.run_in("tight", &["python3", "-c", &take(100)])?;
    ensure!(much.status == 128 + 9, "100 MiB ended with {}", much.status);
    let other = site.run_in("beta", &["python3", "-c", &take(100)])?;
    ensure!(
        other.status == 0,
        "beta's 100 MiB ended with {}: {}",
        other.status,
        other.stderr
    );
    let events = fs::read_to_string(format!("{SLICES}/tight/memory.events"))?;
    ensure!(
        !events.contains("oom_kill 0"),
        "the kernel counted nothing: {events}"
    );
    Ok(())
}

fn a_slice_has_no_more_cpu_time_than_its_policy_says(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    // Two busy loops on two CPUs want 2 cores and get 0.5.
    let line = "while :; do :; done & while :; do :; done";
    let _busy = site.start("busy", site.in_slice("tight", &["sh", "-c", line]))?;
    let used = || -> Result<u64> {
        site.json(&["status", "tight"])?["rows"][0]["cpu"]["used_us"]
            .as_u64()
            .context("no CPU time in status")
    };
    let path = format!("{SLICES}/tight/cpu.max");
    let cap = fs::read_to_string(&path)?;
    ensure!(cap.trim() == "50000 100000", "{path} is {cap}");
    until("it is busy", || Ok(used()? > 50_000))?;
    let (start, before) = (Instant::now(), used()?);
    std::thread::sleep(Duration::from_secs(3));
    let (used, time) = (used()? - before, start.elapsed());
    let cores = used as f64 / time.as_micros() as f64;
    ensure!(cores < 0.57, "it used {cores:.2} cores");
    ensure!(
        cores > 0.2,
        "it used {cores:.2} cores only: something else held it"
    );
    Ok(())
}

fn a_slice_cannot_leave_its_cgroup_or_raise_its_limits(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    for line in [
        "echo $$ >/sys/fs/cgroup/cgroup.procs",
        "echo $$ >SLICES/beta/payload/cgroup.procs",
        "echo $$ >SLICES/tight/cgroup.procs",
        "echo $$ >SLICES/tight/login/cgroup.procs",
        "echo max >SLICES/tight/pids.max",
        "echo max >SLICES/tight/memory.max",
        "echo max >SLICES/tight/cpu.max",
        "echo 10000 >SLICES/tight/cpu.weight",
        "echo 1 >SLICES/tight/payload/cgroup.kill",
        "echo max >SLICES/tight/payload/memory.max",
        "echo 1 >SLICES/beta/cgroup.kill",
        "mkdir SLICES/mine",
        "mkdir SLICES/tight/mine",
        "rmdir SLICES/tight/broker",
        "ls /sys/fs/bpf/slice",
        "echo 80 >/proc/sys/net/ipv4/ip_local_reserved_ports",
        "echo -1000 >/proc/self/oom_score_adj",
        "cat /run/slice/lock",
        "slice down",
        "slice run beta -- true",
        "kill -0 1",
    ] {
        let line = line.replace("SLICES", SLICES);
        let done = site.run_in("tight", &["sh", "-c", &line])?;
        ensure!(done.status != 0, "tight could: {line}");
    }
    let own = site.run_in("tight", &["cat", "/proc/self/cgroup"])?.stdout;
    ensure!(
        own.trim() == "0::/slice-node.service/slices/tight/payload",
        "tight runs in {own}"
    );
    ensure!(site.run_in("beta", &["true"])?.status == 0, "beta is gone");
    Ok(())
}

fn a_slice_may_divide_its_own_cgroup(node: &mut Node) -> Result<()> {
    let site = Site::on_stage(node)?;
    let line = format!(
        "cd {SLICES}/tight/payload && mkdir -p part/inner && echo $$ >part/inner/cgroup.procs \
         && cat /proc/self/cgroup && exec socat TCP-LISTEN:8999,fork -"
    );
    let server = site.start("nested", site.in_slice("tight", &["sh", "-c", &line]))?;
    until("the nested server listens", || {
        Ok(node.must("ss", &["-Hltn"])?.stdout.contains(":8999 "))
    })?;
    ensure!(
        server.output().contains("tight/payload/part/inner"),
        "it runs in {}",
        server.output()
    );
    // However deep, the port is tight's.
    let ports = site.json(&["ports", "--slice", "tight"])?["ports"].take();
    ensure!(
        ports[0]["low"] == 8999 && ports[0]["kind"] == "claimed",
        "tight's ports are {ports}"
    );
    let many = "cd SLICES/tight/payload && for i in $(seq 100); do mkdir n$i || exit 3; done"
        .replace("SLICES", SLICES);
    let many = site.run_in("tight", &["sh", "-c", &many])?;
    ensure!(many.status == 3, "it made a hundred cgroups");
    let tight = format!("{SLICES}/tight");
    fs::write(format!("{tight}/cgroup.kill"), "1")?;
    until("the server is gone", || {
        Ok(fs::read_to_string(format!("{tight}/cgroup.events"))?.contains("populated 0"))
    })?;
    let payload = format!("{tight}/payload");
    node.must(
        "find",
        &[
            &payload,
            "-mindepth",
            "1",
            "-depth",
            "-type",
            "d",
            "-delete",
        ],
    )?;
    Ok(())
}
