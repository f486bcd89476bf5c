//! A node with a policy of the test's own, for tests of the node's life: the
//! policy's directory, `slice` called on it, and its end.
//!
//! Tests of verdicts share the stage instead (`stage.rs`), which comes up once.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::counters::Counters;
use crate::node::{Node, Output};
use crate::runner::time_scale;
use crate::stage;

/// The cgroups of slices, under systemd.
pub const SLICES: &str = "/sys/fs/cgroup/slice-node.service/slices";

/// A policy, and the node that may be up with it.
pub struct Site<'n> {
    node: &'n Node,
    policy: PathBuf,
    /// It stays up for others.
    shared: bool,
}

impl<'n> Site<'n> {
    /// Writes the policy: names below its directory (`node.toml`,
    /// `slices/alpha.toml`) and texts. The node is down.
    ///
    /// # Errors
    /// Something that an earlier test left cannot be taken down.
    pub fn new(node: &'n Node, files: &[(&str, &str)]) -> Result<Site<'n>> {
        node.must("slice", &["down"])?;
        let policy = node.dir().join("policy");
        fs::create_dir_all(policy.join("slices"))?;
        let site = Site {
            node,
            policy,
            shared: false,
        };
        for (name, text) in files {
            site.write(name, text)?;
        }
        Ok(site)
    }

    /// The same, and `slice up`.
    ///
    /// # Errors
    /// The node does not come up.
    pub fn up(node: &'n Node, files: &[(&str, &str)]) -> Result<Site<'n>> {
        let site = Site::new(node, files)?;
        site.must(&["up"])?;
        Ok(site)
    }

    /// The node of the package that is installed, with the policy in its usual
    /// place; it outlives this.
    pub fn installed(node: &'n Node) -> Site<'n> {
        Site {
            node,
            policy: "/etc/slice".into(),
            shared: true,
        }
    }

    /// The node of the stage, for tests that say `.on_stage()`: they leave its
    /// policy as it is.
    ///
    /// # Errors
    /// The stage cannot be set.
    pub fn on_stage(node: &'n Node) -> Result<Site<'n>> {
        stage::Stage::open(node)?;
        Ok(Site {
            node,
            policy: stage::POLICY.into(),
            shared: true,
        })
    }

    /// Writes one file of the policy.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.policy.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Removes one file of the policy.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.policy.join(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The policy's directory.
    pub fn policy(&self) -> &Path {
        &self.policy
    }

    /// Runs `slice` with these arguments and this policy.
    ///
    /// # Errors
    /// It cannot be started; a status other than 0 is no error.
    pub fn slice(&self, arguments: &[&str]) -> Result<Output> {
        let policy = self.policy.to_str().context("a path in UTF-8")?;
        self.node
            .run("slice", &[&["--policy", policy], arguments].concat())
    }

    /// Runs `slice`, which must succeed; its standard output.
    ///
    /// # Errors
    /// It fails; the error has its words.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        let output = self.slice(arguments)?;
        ensure!(
            output.status == 0,
            "slice {} ended with {}: {}{}",
            arguments.join(" "),
            output.status,
            output.stderr.trim(),
            output.stdout.trim()
        );
        Ok(output.stdout)
    }

    /// Runs `slice ... -o json`.
    ///
    /// # Errors
    /// It fails, or writes anything but one JSON value.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.must(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("slice {} -o json wrote {text}", arguments.join(" ")))
    }

    /// Every counter of every owner.
    ///
    /// # Errors
    /// `slice status` fails.
    pub fn counters(&self) -> Result<Counters> {
        Counters::parse(&self.must(&["status", "-o", "json"])?)
    }

    /// All that `slice` says of the node and that stands still while nobody
    /// does anything: rows with their limits, and ports with their owners.
    ///
    /// # Errors
    /// `slice` fails.
    pub fn standing(&self) -> Result<Value> {
        let mut rows = self.json(&["status"])?["rows"].take();
        for row in rows.as_array_mut().context("slice status has no rows")? {
            let limits = ["sockets", "claims", "processes", "memory"]
                .map(|name| (name, row[name]["limit"].clone()));
            let cap = row["cpu"]["cap_millicores"].clone();
            let row = row.as_object_mut().context("a row is no object")?;
            row.retain(|key, _| {
                ["id", "name", "state", "addresses", "claim"].contains(&key.as_str())
            });
            for (name, limit) in limits {
                row.insert(name.to_owned(), limit);
            }
            row.insert("cap".to_owned(), cap);
        }
        let mut ports = self.json(&["ports"])?["ports"].take();
        for port in ports.as_array_mut().into_iter().flatten() {
            // Reckoned back from two clocks: it varies by microseconds.
            let held = !port["since"].is_null();
            port["since"] = held.into();
        }
        Ok(serde_json::json!({ "rows": rows, "ports": ports, "sysctl": reserved_ports()? }))
    }

    /// A command that runs in a slice.
    pub fn in_slice(&self, slice: &str, command: &[&str]) -> Command {
        let mut run = Command::new("slice");
        run.args(["run", slice, "--"])
            .args(command)
            .current_dir(self.node.dir());
        run
    }

    /// Runs a command in a slice to its end.
    ///
    /// # Errors
    /// It cannot be started; a status other than 0 is no error.
    pub fn run_in(&self, slice: &str, command: &[&str]) -> Result<Output> {
        self.node
            .run("slice", &[&["run", slice, "--"], command].concat())
    }

    /// Starts something that runs until it is dropped; what it writes goes to
    /// a file of this name in the test's directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, mut command: Command) -> Result<Running> {
        command.stdin(Stdio::piped());
        self.start_with_input(name, command)
    }

    /// The same, with the standard input that the command has already.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with_input(&self, name: &str, mut command: Command) -> Result<Running> {
        let path = self.node.dir().join(name);
        let log = File::create(&path)?;
        let child = command
            .current_dir(self.node.dir())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Running { child, log: path })
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer.
    pub fn daemon(&self) -> Result<Running> {
        let mut command = Command::new("slice");
        command.args(["daemon", "--policy"]).arg(&self.policy);
        let mut daemon = self.start("daemon.log", command)?;
        until("the daemon answers", || {
            if let Some(status) = daemon.ended()? {
                bail!("the daemon ended with {status}: {}", daemon.output());
            }
            Ok(self.slice(&["events"])?.status == 0)
        })?;
        Ok(daemon)
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if !self.shared {
            // A test that failed has said why; the next begins with `down` too.
            let _ = self.node.run("slice", &["down"]);
            return;
        }
        // What `slice run` started outlives it.
        for slice in fs::read_dir(SLICES).into_iter().flatten().flatten() {
            let _ = fs::write(slice.path().join("cgroup.kill"), "1");
        }
    }
}

/// A program that is killed when this is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process; of something in a slice, that of `slice run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Closes its standard input and waits for its end; what it wrote.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        until("it ends at the end of its input", || {
            Ok(self.ended()?.is_some())
        })?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "it ended with {status}: {}",
            self.output()
        );
        Ok(self.output())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        Ok(kill_process(
            Pid::from_raw(pid).context("a process id")?,
            signal,
        )?)
    }

    /// Sends SIGKILL and waits.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(mut self) -> Result<()> {
        ensure!(self.ended()?.is_none(), "it had ended: {}", self.output());
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that the kernel does not pick itself.
///
/// # Errors
/// /proc is not mounted.
pub fn reserved_ports() -> Result<String> {
    setting("/proc/sys/net/ipv4/ip_local_reserved_ports")
}

/// A setting of the kernel, which answers the first read only: std begins with
/// one of 32 bytes.
///
/// # Errors
/// There is none of that name.
pub fn setting(path: &str) -> Result<String> {
    let mut bytes = vec![0; 1 << 18];
    let length = File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
}

/// Waits until something holds; emulated machines take their time.
///
/// # Errors
/// It does not within half a minute, or cannot be asked.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Duration::from_secs(30 * time_scale().min(3));
    let start = Instant::now();
    while !holds()? {
        ensure!(
            start.elapsed() < limit,
            "waited {} s in vain: {what}",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
