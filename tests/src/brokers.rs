//! The brokers of raw sockets die, stand still and go hungry: that is the
//! business of their own slice alone.

use std::fs;
use std::io::{PipeWriter, Write};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::raw::{ECHO, OTHER, SLICE, WIRE, open, program, python};
use crate::runner::{Test, test};
use crate::site::{Running, SLICES, Site, until};
use crate::stage::Stage;

pub const TESTS: &[Test] = &[
    test(
        "a_broker_that_is_killed_is_missed_by_its_own_slice_alone",
        a_broker_that_is_killed,
    )
    .on_stage(),
    test(
        "a_broker_that_stands_still_holds_up_its_own_slice_alone",
        a_broker_that_stands_still,
    )
    .on_stage(),
    test(
        "a_slice_that_runs_out_of_memory_keeps_its_broker",
        a_slice_that_runs_out_of_memory,
    )
    .on_stage(),
    test(
        "raw_sockets_go_on_and_new_ones_open_when_the_daemon_is_killed",
        the_daemon_is_killed,
    )
    .on_stage(),
];

const KEEP: &str = include_str!("raw/keep.py");

/// A program in a slice that keeps a raw and a packet socket.
struct Keeper {
    running: Running,
    input: PipeWriter,
    asked: usize,
}

impl Keeper {
    fn new(site: &Site<'_>, slice: &str) -> Result<Keeper> {
        let mut command = Command::new("slice");
        command.args(["exec", slice, "--", "python3", "-c"]);
        command.arg(program(&[WIRE, ECHO, KEEP]));
        let (read, input) = std::io::pipe()?;
        command.stdin(read);
        let running = site.start_with_input(slice, command)?;
        until("it has its sockets", || {
            Ok(running.output().contains("open"))
        })?;
        Ok(Keeper {
            running,
            input,
            asked: 0,
        })
    }

    /// Whether its raw socket hears an echo, its packet socket is shown one, and
    /// the error number of opening another: `True True 0`.
    fn ask(&mut self) -> Result<String> {
        self.asked += 1;
        let lines = self.asked + 1;
        writeln!(self.input)?;
        until("it has tried", || {
            Ok(self.running.output().matches('\n').count() >= lines)
        })?;
        let said = self.running.output();
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }

    fn must(&mut self, expected: &str, when: &str) -> Result<()> {
        let said = self.ask()?;
        ensure!(said == expected, "{when}: {said}, not {expected}");
        Ok(())
    }
}

/// The process id of a slice's broker.
///
/// # Errors
/// It has none.
pub fn broker(slice: &str) -> Result<String> {
    let path = format!("{SLICES}/{slice}/broker/cgroup.procs");
    let all = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mut lines = all.lines();
    let pid = lines.next().context("the slice has no broker")?;
    ensure!(lines.next().is_none(), "more than one broker: {all}");
    Ok(pid.to_owned())
}

/// The slice opens a raw socket anew, and hears an echo on it.
fn pings(site: &Site<'_>) -> Result<()> {
    let ping = ["ping", "-c", "1", "-W", "5", "198.51.100.2"];
    site.must(&[&["exec", SLICE, "--"][..], &ping].concat())?;
    Ok(())
}

fn a_broker_that_is_killed(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let (mut mine, mut others) = (Keeper::new(&site, SLICE)?, Keeper::new(&site, OTHER)?);
    mine.must("True True 0", "at first")?;
    node.must("kill", &["-9", &broker(SLICE)?])?;
    // ENOSYS: what is open goes on, and that is all.
    mine.must("True True 38", "without its broker")?;
    others.must("True True 0", "the other slice")?;
    let said = site.slice(&["exec", SLICE, "--", "ping", "-c", "1", "198.51.100.2"])?;
    ensure!(said.status != 0, "ping went: {}", said.stdout);
    site.must(&["restart", SLICE])?;
    pings(&site)?;
    others.must("True True 0", "the other slice, afterwards")
}

fn a_broker_that_stands_still(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let (mut mine, mut others) = (Keeper::new(&site, SLICE)?, Keeper::new(&site, OTHER)?);
    let pid = broker(SLICE)?;
    node.must("kill", &["-STOP", &pid])?;
    // The call waits; a signal with a handler ends it.
    mine.must("True True late", "while its broker stands still")?;
    others.must("True True 0", "the other slice")?;
    node.must("kill", &["-CONT", &pid])?;
    mine.must("True True 0", "when it goes on")?;
    // One that stands still does not keep the slice from ending.
    node.must("kill", &["-STOP", &pid])?;
    site.must(&["restart", SLICE])?;
    ensure!(broker(SLICE)? != pid, "the broker is the one from before");
    pings(&site)?;
    others.must("True True 0", "the other slice, afterwards")
}

fn a_slice_that_runs_out_of_memory(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let stage = Stage::open(node)?;
    let capped = |text: &str| format!("memory.cap = \"64 MiB\"\n{text}");
    stage.with_policy(SLICE, capped, || {
        let mut mine = Keeper::new(&site, SLICE)?;
        let pid = broker(SLICE)?;
        let take = "held = []\nwhile True: held.append(b'x' * (1 << 20))";
        let hog = site.slice(&["exec", SLICE, "--", "python3", "-c", take])?;
        ensure!(hog.status == 128 + 9, "the hog ended with {}", hog.status);
        ensure!(broker(SLICE)? == pid, "the broker is another");
        // The kernel may have taken the keeper for the hog.
        if mine.running.ended()?.is_none() {
            mine.must("True True 0", "after the hog was killed")?;
        }
        // With nearly all of it in use a socket is made or refused, in time.
        let full = "held = bytearray(30 << 20)\nimport socket\nprint(len([socket.socket(2, 3, 1) for _ in range(20)]))";
        let said = python(&site, SLICE, full)?;
        ensure!(said.trim() == "20", "with little memory: {said}");
        Ok(())
    })
}

fn the_daemon_is_killed(node: &mut Node) -> Result<()> {
    let site = open(node)?;
    let daemon = site.daemon()?;
    site.must(&["restart", SLICE])?;
    let mut mine = Keeper::new(&site, SLICE)?;
    mine.must("True True 0", "with the daemon")?;
    daemon.kill()?;
    mine.must("True True 0", "without it")?;
    pings(&site)?;
    let daemon = site.daemon()?;
    mine.must("True True 0", "with another one")?;
    daemon.kill()
}
