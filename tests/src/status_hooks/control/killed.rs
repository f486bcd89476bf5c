//! Who makes a change is killed at each of its steps: afterwards it is made, or it is not.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use policy::config::Terms;
use serde_json::{Value, json};

use super::{CONTROLLER, LOG, guaranteed, owner_in};
use crate::image;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{SLICES, Site};

pub const TEST: Test = test(
    "a_change_that_is_killed_at_any_step_is_made_or_not_and_the_log_says_which",
    a_change_that_is_killed_at_any_step,
)
.once()
.within(180);

/// Calls that end a step: a line is in the log, a file has its name, a control group is gone, a
/// context has its first process.
const STEPS: &str = "fdatasync,rename,rmdir,clone3";
/// In calls that are none: programs that are asked something.
const NO_STEP: &str = "CLONE_VFORK";

const NAME: &str = "exp_a";

/// What a slice has: MiB of memory, and a port.
type Part = (u64, u16);
const FIRST: Part = (48, 20003);
const SECOND: Part = (40, 20004);

/// What the process is told, and what the slice has when it is done.
struct Order {
    order: Value,
    terms: Value,
    wanted: Option<Part>,
}

/// At the so-manieth of these calls.
type Step = (String, usize);

fn put(part: Part) -> Result<Order> {
    let terms = Terms {
        image: "debian".into(),
        hostname: NAME.into(),
        autostart: true,
        memory_floor: part.0 << 20,
        tcp: vec![(part.1, part.1)],
        ..Terms::default()
    };
    let terms = serde_json::to_vec(&terms)?.into();
    Ok(Order {
        order: json!({"Put": named()}),
        terms,
        wanted: Some(part),
    })
}

fn destroy() -> Order {
    Order {
        order: json!({"Destroy": named()}),
        terms: json!([]),
        wanted: None,
    }
}

fn named() -> Value {
    json!({"name": NAME, "when": {"there": null, "generation": null}})
}

/// The process that makes changes, and what it is told in the name of the controller.
struct Changes<'n> {
    node: &'n Node,
    site: &'n Site<'n>,
    viewer: Value,
}

impl Changes<'_> {
    /// Has it do something, under a tracer or not; what it answers, none where it was killed.
    fn run(&self, tracer: &[&str], task: &Value) -> Result<Option<String>> {
        // As long as a change took, the next waits.
        let _ = fs::remove_file("/run/slice/control.turn");
        let told = self.node.dir().join("task");
        fs::write(&told, serde_json::to_vec(task)?)?;
        let words = [tracer, &["slice", "control-do"]].concat();
        let ended = Command::new(words[0])
            .args(&words[1..])
            .stdin(File::open(told)?)
            .stderr(Stdio::piped())
            .output()?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if ended.status.signal().is_some() {
            return Ok(None);
        }
        ensure!(ended.status.success(), "{task}: {}: {said}", ended.status);
        Ok(Some(String::from_utf8(ended.stdout)?))
    }

    fn order(&self, tracer: &[&str], order: &Order) -> Result<Option<Value>> {
        let Order { order, terms, .. } = order;
        let task = json!({"Order": {"viewer": self.viewer, "order": order, "body": terms}});
        let Some(told) = self.run(tracer, &task)? else {
            return Ok(None);
        };
        let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let status = told["status"].as_u64().unwrap_or(0);
        ensure!((200..300).contains(&status), "{task}: {told}");
        let body = told["body"].as_str().unwrap_or_default();
        Ok(Some(serde_json::from_str(body)?))
    }

    /// The steps of a change, by making it.
    fn steps(&self, order: &Order) -> Result<VecDeque<Step>> {
        let path = self.node.dir().join("calls");
        let path = path.to_str().context("a path in UTF-8")?;
        let trace = format!("trace={STEPS}");
        let tracer = ["strace", "-qq", "-o", path, "-e", &trace];
        self.order(&tracer, order)?.context("it was killed")?;
        ensure!(self.there()? == order.wanted, "it is not made");
        let calls = fs::read_to_string(path)?;
        let mut counts = BTreeMap::new();
        let named = calls.lines().filter_map(|line| {
            let (name, of) = line.split_once('(')?;
            let count = counts.entry(name.to_owned()).or_insert(0);
            *count += 1;
            Some((of, (name.to_owned(), *count)))
        });
        // Before the first line of the log nothing is touched.
        let named = named.skip_while(|(_, (name, _))| name != "fdatasync");
        Ok(named
            .filter(|(of, _)| !of.contains(NO_STEP))
            .map(|(_, step)| step)
            .collect())
    }

    /// Has it make a change.
    fn made(&self, order: &Order) -> Result<Option<Part>> {
        self.order(&[], order)?.context("it was killed")?;
        Ok(order.wanted)
    }

    /// Has it make a change, kills it at a step, and has done what the daemon has when it starts;
    /// what there is then.
    fn killed(&self, order: &Order, step: &Step, before: Option<Part>) -> Result<Option<Part>> {
        let _ = fs::remove_file(LOG);
        let (call, count) = step;
        let inject = format!("inject={call}:signal=KILL:when={count}");
        let trace = format!("trace={call}");
        let tracer = [
            "strace",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        let killed = self.order(&tracer, order)?.is_none();
        ensure!(killed, "it ended before {call} {count}");
        let settled = || {
            self.run(&[], &json!("Settle"))?.context("it was killed")?;
            let now = self.there()?;
            ensure!(now == before || now == order.wanted, "it is neither");
            self.is_written_down(now == order.wanted)?;
            self.adds_up(now)?;
            Ok(now)
        };
        settled().with_context(|| format!("{} killed at {call} {count}", order.order))
    }

    /// What the slice has: all of it, or nothing of it is there.
    fn there(&self) -> Result<Option<Part>> {
        let file = fs::read("/var/lib/slice/managed/exp_a.json").ok();
        let rows = self.site.json(&["status"])?["rows"].take();
        let rows = rows.as_array().context("no rows")?;
        let row = rows.iter().find(|row| row["name"] == NAME);
        let ports = self.site.json(&["ports", "--protocol", "tcp"])?;
        let owner = |port| owner_in(&ports, port);
        let owners = [owner(FIRST.1)?, owner(SECOND.1)?];
        let Some((file, row)) = file.zip(row) else {
            ensure!(row.is_none(), "there is a row, and no file");
            ensure!(owners == ["ctl", "ctl"], "{owners:?}");
            for left in [
                format!("{SLICES}/{NAME}"),
                format!("/var/lib/slice/managed/{NAME}.json"),
                format!("/var/lib/slice/slices/{NAME}"),
                format!("/run/slice/shown/{NAME}"),
            ] {
                ensure!(!Path::new(&left).exists(), "{left} is left");
            }
            return Ok(None);
        };
        let file: Value = serde_json::from_slice(&file)?;
        let floor = file["terms"]["memory_floor"].as_u64().unwrap_or(0) >> 20;
        let parts = [FIRST, SECOND];
        let part = parts.into_iter().find(|part| part.0 == floor);
        let part = part.with_context(|| file.to_string())?;
        ensure!(file["leaving"] == false, "{file}");
        ensure!(row["controller"] == "ctl", "{row}");
        ensure!(row["context"] == "running", "{row}");
        ensure!(guaranteed(NAME)? == (part.0 << 20).to_string());
        let both = if part == FIRST {
            [NAME, "ctl"]
        } else {
            ["ctl", NAME]
        };
        ensure!(owners == both, "{owners:?}");
        Ok(Some(part))
    }

    /// What begins in the log ends there.
    fn is_written_down(&self, made: bool) -> Result<()> {
        let log = fs::read_to_string(LOG).unwrap_or_default();
        let lines = log.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        let stages: Vec<_> = lines.iter().map(|line| line["stage"].as_str()).collect();
        match stages[..] {
            [] => ensure!(!made, "it was made and not written down"),
            [Some("begin"), Some("done")] => ensure!(made, "{log}"),
            [Some("begin"), Some("failed")] => {
                ensure!(!made, "{log}");
                ensure!(lines[1]["why"] == "it was interrupted", "{log}");
            }
            _ => anyhow::bail!("{log}"),
        }
        Ok(())
    }

    /// What the controller has left to lend is all but what the slice has.
    fn adds_up(&self, there: Option<Part>) -> Result<()> {
        let order = Order {
            order: json!("List"),
            terms: json!([]),
            wanted: None,
        };
        let told = self.order(&[], &order)?.context("it was killed")?;
        let lends = told["lends"].as_array().context("nothing is lent")?;
        let left = |key: &str| {
            let of = lends.iter().find(|of| of["key"] == key);
            of.and_then(|of| of["left"].as_str()).unwrap_or_default()
        };
        let (slices, memory) = match there {
            None => ("2", "64 MiB"),
            Some((48, _)) => ("1", "16 MiB"),
            Some(_) => ("1", "24 MiB"),
        };
        ensure!(left("slices") == slices, "{told}");
        ensure!(left("memory.floor") == memory, "{told}");
        let whole = left("ports.tcp") == "20000-20009";
        ensure!(whole == there.is_none(), "{told}");
        Ok(())
    }
}

fn a_change_that_is_killed_at_any_step(node: &mut Node) -> Result<()> {
    image::debian(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[node]\nmax_slices = 8\n"),
            ("slices/ctl.toml", CONTROLLER),
        ],
    )?;
    let told = is_made_or_not(node, &site);
    // Also of a test that failed nothing is left to the next.
    for slice in [NAME, "ctl"] {
        site.slice(&["destroy", "--yes", slice])?;
    }
    let _ = fs::remove_dir_all("/var/lib/slice/managed");
    let _ = fs::remove_file(LOG);
    told
}

fn is_made_or_not(node: &Node, site: &Site<'_>) -> Result<()> {
    let id = site.json(&["status", "ctl"])?["rows"][0]["id"].take();
    let changes = Changes {
        node,
        site,
        viewer: json!({"name": "ctl", "id": id}),
    };
    let mut creating = changes.steps(&put(FIRST)?)?;
    let changing = changes.steps(&put(SECOND)?)?;
    let mut destroying = changes.steps(&destroy())?;
    // What was made is destroyed next, and what was destroyed is made.
    let mut there = None;
    loop {
        let (order, steps) = match there {
            None => (put(FIRST)?, &mut creating),
            Some(_) => (destroy(), &mut destroying),
        };
        there = match steps.pop_front() {
            Some(step) => changes.killed(&order, &step, there)?,
            None if creating.is_empty() && destroying.is_empty() => break,
            None => changes.made(&order)?,
        };
    }
    if there.is_none() {
        there = changes.made(&put(FIRST)?)?;
    }
    for step in changing {
        let other = if there == Some(FIRST) { SECOND } else { FIRST };
        there = changes.killed(&put(other)?, &step, there)?;
    }
    Ok(())
}
