//! One command in a slice that runs, by the node's owner and by ssh.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::context::{DIRECTORY, LIVED_IN, Peers, milliseconds};
use super::sample::{Goal, Sample, measure};
use super::wire::run;
use crate::image::DISTRIBUTION;
use crate::site::SLICES;

/// Interleaved repeats.
const REPEATS: usize = 7;

/// How long sshd may take until it listens.
const READY: Duration = Duration::from_secs(30);

/// Measures commands by the owner.
///
/// # Errors
/// The slice is not entered.
pub fn by_owner(bench: &str, peers: &Peers) -> Result<Vec<Measure>> {
    let procs = format!("{SLICES}/{LIVED_IN}/payload/cgroup.procs");
    let first = fs::read_to_string(&procs).with_context(|| format!("read {procs}"))?;
    let first = first.lines().next().context("the slice does not run")?;
    if peers.podman {
        run(&format!(
            "podman run --detach --name bench --network=host --rootfs {DISTRIBUTION}:O sleep infinity"
        ))?;
    }
    let [mut ours, mut podman, mut nsenter] = [(); 3].map(|()| Sample::default());
    for _ in 0..REPEATS {
        ours.add(milliseconds(|| {
            run(&format!("slice exec {LIVED_IN} -- true"))
        })?);
        nsenter.add(milliseconds(|| {
            run(&format!("nsenter --target {first} --all true"))
        })?);
        if peers.podman {
            podman.add(milliseconds(|| run("podman exec bench true"))?);
        }
    }
    if peers.podman {
        run("podman rm --force --time 0 bench")?;
    }
    let line = |peer, sample, goal| {
        measure(
            bench,
            "a command in a slice, by its owner".to_owned(),
            "ms",
            &ours,
            Some((peer, sample)),
            goal,
        )
    };
    Ok(vec![
        line("nsenter --all", &nsenter, Goal::RatioAtMost(1.0)),
        line("podman exec", &podman, Goal::RatioAtMost(0.2)),
    ])
}

/// Measures commands by ssh.
///
/// # Errors
/// Nobody can log in.
pub fn by_ssh(bench: &str) -> Result<Vec<Measure>> {
    let _server = Server::start()?;
    let login = |user: &str| format!("ssh -F {DIRECTORY}/client.conf {user}@127.0.0.1 true");
    // One session of root's stays, so that its others do not pay for the first
    // and last one's work (user@0.service).
    let mut stays = Command::new("ssh")
        .args(["-F", &format!("{DIRECTORY}/client.conf")])
        .args(["root@127.0.0.1", "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .context("start ssh")?;
    let [mut ours, mut plain] = [(); 2].map(|()| Sample::default());
    let mut measured = || -> Result<()> {
        run(&login("root"))?;
        run(&login(LIVED_IN))?;
        for _ in 0..REPEATS {
            ours.add(milliseconds(|| run(&login(LIVED_IN)))?);
            plain.add(milliseconds(|| run(&login("root")))?);
        }
        Ok(())
    };
    let result = measured();
    let _ = stays.kill();
    let _ = stays.wait();
    result?;
    Ok(vec![measure(
        bench,
        "a command in a slice, by ssh".to_owned(),
        "ms",
        &ours,
        Some(("ssh to the node", &plain)),
        Goal::RatioAtMost(1.2),
    )])
}

/// sshd, until this is dropped.
struct Server(Child);

impl Server {
    fn start() -> Result<Server> {
        let server = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-h", &format!("{DIRECTORY}/host")])
            .args(["-o", "PermitRootLogin=yes", "-o", "StrictModes=no"])
            .args(["-o", &format!("AuthorizedKeysFile={DIRECTORY}/user.pub")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start sshd")?;
        let server = Server(server);
        let start = Instant::now();
        while !run("ss -Hltn")?.contains(":22 ") {
            ensure!(start.elapsed() < READY, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Settings of the client that logs in.
///
/// # Errors
/// They cannot be written.
pub fn client(directory: &Path) -> Result<()> {
    let key = directory.join("user");
    let text = format!(
        "IdentityFile {}\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n",
        key.display()
    );
    Ok(fs::write(directory.join("client.conf"), text)?)
}
