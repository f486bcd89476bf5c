//! `slice trace`: every verdict about one owner, for as long as somebody reads.

use std::fs::{self, File};
use std::path::PathBuf;

use super::*;

/// A `slice trace` of a slice that is told of five events in a second.
struct Trace {
    child: Child,
    path: PathBuf,
}

impl Trace {
    fn start(stage: &Stage<'_>) -> Result<Trace> {
        let path = stage.machine().dir().join("trace");
        let child = Command::new("slice")
            .args(["trace", "loud", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(File::create(&path)?)
            .spawn()
            .context("start slice trace")?;
        Ok(Trace { child, path })
    }

    fn items(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// Moment, reason and port of each event.
    fn told(&self) -> Result<Vec<(String, String, u64)>> {
        let word = |event: &Value, name: &str| event[name].as_str().unwrap_or("?").to_owned();
        let items = self.items()?;
        let events = items.iter().filter_map(|item| item.get("event"));
        Ok(events
            .map(|event| {
                let port = |end: &str| event[end]["port"].as_u64();
                let port = port("local").or_else(|| port("peer")).unwrap_or(0);
                (word(event, "moment"), word(event, "reason"), port)
            })
            .collect())
    }

    fn end(&mut self, signal: Option<Signal>) -> Result<Option<i32>> {
        if let Some(signal) = signal {
            strike(&self.child, signal)?;
        }
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes more calls in one second than are told of, and then one that is denied.
const FLOOD: &str = "
import socket, time
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    time.sleep(1 - time.monotonic() % 1)
    begun = int(time.monotonic())
    for _ in range(1300):
        peer.connect(('198.51.100.2', 9))
    try:
        socket.socket().bind(('', 2222))
    except OSError:
        pass
    if int(time.monotonic()) == begun:
        break
";

fn strike(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done()? {
        ensure!(Instant::now() < until, "{what}: not within 20 s");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub(super) fn traced(node: &mut Node) -> Result<()> {
    let stage = Stage::open(node)?;
    let daemon = Daemon::start(&stage)?;
    let (loud, beta) = (stage.slice("loud")?, stage.slice("beta")?);
    let (socket, other) = (loud.socket(Kind::Tcp4)?, beta.socket(Kind::Tcp4)?);
    let denied = |count: usize| -> Result<i64> {
        let change = stage.change_by(|| {
            for _ in 0..count {
                refused(socket.bind(Kind::Tcp4.any(80)), EADDRINUSE)?;
            }
            Ok(())
        })?;
        Ok(change.by("loud", "events_suppressed"))
    };
    let begun = |trace: &Trace| {
        wait("the trace has begun", || {
            denied(1)?;
            Ok(!trace.told()?.is_empty())
        })
    };

    let mut trace = Trace::start(&stage)?;
    begun(&trace)?;
    let before = trace.told()?.len();
    let left_out = denied(60)?;
    ensure!(left_out == 0, "{left_out} of 60 were left out");
    refused(other.bind(Kind::Tcp4.any(80)), EADDRINUSE)?;
    let _server = loud.server(Kind::Tcp4, 9092)?;
    let client = loud.socket(Kind::Tcp4)?;
    client.connect(at(NODE[0], 9092))?;
    wait("all is told", || {
        let told = trace.told()?;
        let has = |moment: &str, reason: &str, port| {
            let event = (moment.to_owned(), reason.to_owned(), port);
            told.iter().filter(|told| **told == event).count()
        };
        let all = ["bind", "listen", "connect"];
        Ok(has("bind", "port_reserved", 80) >= before + 60
            && all.iter().all(|moment| has(moment, "allowed", 9092) == 1))
    })
    .with_context(|| format!("{:?}", trace.told()))?;
    for item in trace.items()? {
        let event = &item["event"];
        ensure!(event["slice"]["name"] == "loud", "{item}");
        let sentence = event["sentence"].as_str().unwrap_or_default();
        ensure!(sentence.ends_with('.'), "{item}");
    }
    // A flood of what is let through leaves denials their room.
    stage.machine().must(
        "slice",
        &[
            "run", "--policy", POLICY, "loud", "--", "python3", "-c", FLOOD,
        ],
    )?;
    let after = ("bind".to_owned(), "port_node".to_owned(), 2222);
    wait("the denial after a flood is told", || {
        Ok(trace.told()?.contains(&after))
    })
    .with_context(|| {
        let mut items = trace.items().unwrap_or_default();
        let all = items.len();
        format!(
            "the last of {all}: {:?}",
            items.split_off(all.saturating_sub(2))
        )
    })?;
    // What is let through is told to nobody else.
    ensure!(
        events(&stage)?
            .iter()
            .all(|event| event["reason"] != "allowed"),
        "it is kept"
    );
    let code = trace.end(Some(Signal::INT))?;
    ensure!(code == Some(0), "it ended with {code:?}");
    wait("the bound holds again", || Ok(denied(20)? > 0))?;

    // Nobody takes it back: it runs out.
    let mut trace = Trace::start(&stage)?;
    begun(&trace)?;
    strike(&daemon.0, Signal::KILL)?;
    let code = trace.end(None)?;
    ensure!(code == Some(7), "it ended with {code:?}");
    wait("the bound holds again", || Ok(denied(20)? > 0))?;
    drop(daemon);
    let ended = Command::new("slice").args(["trace", "loud"]).status()?;
    ensure!(ended.code() == Some(7), "without a daemon: {ended}");
    Ok(())
}
