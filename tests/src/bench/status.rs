//! What it costs to read the state of a node with a thousand slices, and what who reads it
//! costs those who send.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Measure;
use super::many::{Many, SLICES, far, packets};
use super::policy;
use super::sample::{Goal, Sample, measure, unmeasured};
use super::wire::run;

/// The name of the bench.
pub const NAME: &str = "status";

/// Repeats.
const REPEATS: usize = 7;
/// Where the daemon tells the node's owner of all slices.
const PORT: u16 = 9180;
/// After so long, nothing that was read before is told.
const STALE: Duration = Duration::from_millis(1100);
/// How long is sent while somebody reads, and while nobody does.
const SENDING: Duration = Duration::from_secs(3);
/// Flows of each slice.
const FLOWS: u16 = 100;
/// Ports that they go to.
const FIRST: u16 = 20_000;
/// The daemon takes what the kernel tallied every five seconds.
const TAKEN: Duration = Duration::from_secs(8);
const DEVICE: &str = "plain";
const GOAL_SCRAPE: f64 = 2.0;
/// MiB.
const GOAL_MEMORY: f64 = 64.0;
/// What is read of a cgroup.
const FILES: [&str; 7] = [
    "pids.current",
    "pids.max",
    "memory.current",
    "memory.max",
    "memory.swap.current",
    "cpu.stat",
    "cpu.max",
];
const PEER: &str = "reading the same files of cgroups";

/// Nothing: it needs a node.
///
/// # Errors
/// None.
pub fn native() -> Result<Vec<Measure>> {
    Ok(Vec::new())
}

/// A node that is up.
///
/// # Errors
/// None: what cannot be measured is said in a line.
pub fn in_vm() -> Result<Vec<Measure>> {
    Ok(measures().unwrap_or_else(|error| {
        let why = format!("{error:#}");
        vec![unmeasured(NAME, "the state of a node", "", why)]
    }))
}

fn measures() -> Result<Vec<Measure>> {
    let node = format!("[status]\npage = {PORT}\n");
    let many = Many::new(&[DEVICE], || Ok(()), &node)?;
    let daemon = Daemon::start()?;
    let mut lines = Vec::new();
    for path in ["/metrics", "/v1/slices?kind=slice"] {
        lines.extend(read(&many, &daemon, path)?);
    }
    lines.extend(sent_meanwhile(&many)?);
    lines.extend(flows(&many)?);
    lines.push(measure(
        NAME,
        format!("memory of the daemon and of who parses for it, {SLICES} slices"),
        "MiB",
        &Sample::of(daemon.memory()?),
        None,
        Goal::AtMost(GOAL_MEMORY),
    ));
    Ok(lines)
}

/// One reading of all slices against one of their cgroups' files.
fn read(many: &Many, daemon: &Daemon, path: &str) -> Result<Vec<Measure>> {
    let [mut ours, mut files, mut work] = [(); 3].map(|()| Sample::default());
    for _ in 0..REPEATS {
        sleep(STALE);
        let before = daemon.cpu_ms()?;
        let start = Instant::now();
        let body = get(path)?;
        ours.add(start.elapsed().as_secs_f64() * 1e3);
        work.add(daemon.cpu_ms()? - before);
        let last = format!("s{}", SLICES - 1);
        ensure!(body.contains(&last), "{last} is not in {path}");
        let start = Instant::now();
        let mut bytes = 0;
        for cgroup in &many.cgroups {
            for file in FILES {
                // A controller may not be there, for the daemon neither.
                bytes += fs::read_to_string(cgroup.join(file)).map_or(0, |text| text.len());
            }
        }
        ensure!(bytes > SLICES, "the cgroups say nothing");
        files.add(start.elapsed().as_secs_f64() * 1e3);
    }
    let line = |what: &str, ours, goal| {
        let what = format!("{path} of {SLICES} slices: {what}");
        measure(NAME, what, "ms", ours, Some((PEER, &files)), goal)
    };
    Ok(vec![
        line("time", &ours, Goal::RatioAtMost(GOAL_SCRAPE)),
        line("the daemon's CPU time", &work, Goal::None),
    ])
}

/// What a packet costs while somebody reads all the time that he may, and while nobody does;
/// and whether all packets leave.
fn sent_meanwhile(many: &Many) -> Result<Vec<Measure>> {
    let [mut read, mut unread, mut lost] = [(); 3].map(|()| Sample::default());
    for repeat in 0..REPEATS {
        for reads in [repeat % 2 == 0, repeat % 2 != 0] {
            let before = packets(DEVICE)?;
            let done = AtomicBool::new(false);
            let readings = AtomicUsize::new(0);
            let (ns, calls) = thread::scope(|scope| {
                if reads {
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            if get("/metrics").is_ok() {
                                readings.fetch_add(1, Ordering::Relaxed);
                            }
                            sleep(Duration::from_millis(200));
                        }
                    });
                }
                let sent = send_for(many, SENDING);
                done.store(true, Ordering::Relaxed);
                sent
            })?;
            if reads {
                ensure!(readings.into_inner() > 0, "nobody read");
                read.add(ns);
            } else {
                unread.add(ns);
            }
            let left = packets(DEVICE)? - before;
            lost.add(calls.saturating_sub(left) as f64);
        }
    }
    Ok(vec![
        measure(
            NAME,
            format!("a packet of {SLICES} slices by turns while /metrics is read"),
            "ns",
            &read,
            Some(("while nobody reads", &unread)),
            Goal::None,
        ),
        measure(
            NAME,
            "packets that did not leave meanwhile".to_owned(),
            "",
            &lost,
            None,
            Goal::AtMost(0.0),
        ),
    ])
}

/// Nanoseconds of a packet, and how many there were.
fn send_for(many: &Many, time: Duration) -> Result<(f64, u64)> {
    let start = Instant::now();
    let (mut slice, mut calls) = (0, 0_u64);
    while start.elapsed() < time {
        for _ in 0..16 {
            many.send(slice, 0, FIRST)?;
            slice = (slice + 1) % SLICES;
            calls += 1;
        }
    }
    Ok((start.elapsed().as_secs_f64() * 1e9 / calls as f64, calls))
}

/// A hundred flows of each slice, and who had one of them.
fn flows(many: &Many) -> Result<Vec<Measure>> {
    for port in FIRST..FIRST + FLOWS {
        for slice in 0..SLICES {
            many.send(slice, 0, port)?;
        }
    }
    sleep(TAKEN);
    let all = SLICES * usize::from(FLOWS);
    let mut answer = Sample::default();
    for repeat in 0..u16::try_from(REPEATS)? {
        let port = FIRST + FLOWS - 1 - repeat;
        let start = Instant::now();
        let text = run(&format!(
            "slice flows --peer {} --port {port} --since 1h -o json",
            far(0)
        ))?;
        answer.add(start.elapsed().as_secs_f64() * 1e3);
        for slice in [0, SLICES - 1] {
            ensure!(
                text.contains(&format!("\"s{slice}\"")),
                "s{slice} has no row"
            );
        }
    }
    Ok(vec![measure(
        NAME,
        format!("who sent to an address and port, of {all} flows (1000 rows)"),
        "ms",
        &answer,
        None,
        Goal::None,
    )])
}

/// What is answered to the node's owner.
fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let first = text.lines().next().unwrap_or_default();
    ensure!(first.ends_with(" 200 OK"), "{path} is answered {first}");
    Ok(text)
}

/// The daemon. Ended when dropped.
struct Daemon(Child);

impl Daemon {
    fn start() -> Result<Daemon> {
        let daemon = Command::new("slice")
            .args(["daemon", "--policy", policy::DIRECTORY])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the daemon")?;
        let daemon = Daemon(daemon);
        let start = Instant::now();
        loop {
            match get("/v1/node") {
                Ok(_) => return Ok(daemon),
                Err(error) if start.elapsed() > Duration::from_secs(120) => {
                    return Err(error.context("hear from the daemon"));
                }
                Err(_) => sleep(Duration::from_millis(200)),
            }
        }
    }

    /// The daemon's and its children's.
    fn processes(&self) -> Result<Vec<u32>> {
        let daemon = self.0.id();
        let mut all = vec![daemon];
        for task in fs::read_dir(format!("/proc/{daemon}/task"))? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
        Ok(all)
    }

    /// MiB that are theirs; what they share counts once.
    fn memory(&self) -> Result<f64> {
        let mut kib = 0.0;
        for pid in self.processes()? {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let number = line.and_then(|line| line.split_whitespace().next());
            kib += number.context("a process without memory")?.parse::<f64>()?;
        }
        Ok(kib / 1024.0)
    }

    /// Milliseconds of CPU time, to the tick (10 ms).
    fn cpu_ms(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for pid in self.processes()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let (_, after) = stat.rsplit_once(") ").context("a process without a name")?;
            // utime and stime, the 14th and 15th field of proc_pid_stat(5).
            let fields = after.split_whitespace().skip(11).take(2);
            for field in fields {
                ticks += field.parse::<f64>()?;
            }
        }
        Ok(ticks * 10.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
